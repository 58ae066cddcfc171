"""What the shim leaves on disk: a log of bounded size, and the status. Survives a full disk.

Nothing but the standard library, for `process_shim`. Spec: docs/spec/swop-process.md.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from swarmlearning.swop.managers.process_kernel import read_boot_id, read_start

RETRY_S: Final = 600.0
"""How long the exit status is tried to be written, should the disk not take it."""

STATUS_BYTES: Final = 4096
"""Room that is taken on the disk beforehand, so that a full one does not cost us the exit status."""

_NOTE_BYTES: Final = 96


class Log:
    """A file of at most `most` bytes: when it is full, its beginning and its end are kept. Never raises after opening.

    A full disk must not stop the program, which would block on its full pipe; what could not be written is counted.
    """

    def __init__(self, path: str, most: int) -> None:
        """Open it, go on after what is there."""
        self._most = max(most, 8 * _NOTE_BYTES)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._size = os.fstat(self._file).st_size
        self._left_out = 0
        self._unsaid = 0
        self.lost = 0
        """Bytes that the disk did not take."""
        self.chunk = min(65536, self._most // 4)
        """Most bytes to be written at once."""

    def write(self, data: bytes) -> None:
        """Append at most `chunk` bytes."""
        if self._unsaid and not self._put(f"\n[{self._unsaid} bytes were lost: the disk did not take them]\n".encode()):
            self._unsaid = 0
        left = self._put(data) if not self._unsaid else len(data)
        self.lost += left
        self._unsaid += left

    def _put(self, data: bytes) -> int:
        """Write; how many bytes are left, because the disk does not take them."""
        try:
            if self._size + len(data) > self._most:
                self._shorten()
            while data:
                written = os.pwrite(self._file, data, self._size)
                self._size += written
                data = data[written:]
        except OSError:
            return len(data)
        return 0

    def _shorten(self) -> None:
        """Keep a quarter from the beginning and a quarter from the end; in place, for the disk may be full."""
        quarter = self._most // 4
        begin, old = self._size - quarter, quarter + _NOTE_BYTES
        if begin <= old:
            return
        self._left_out += begin - old if self._left_out else begin - quarter
        note = f"\n[... {self._left_out} bytes left out: the log may have {self._most} ...]"
        os.pwrite(self._file, note.encode().ljust(_NOTE_BYTES - 1) + b"\n", quarter)
        end = old
        while begin < self._size:
            part = os.pread(self._file, 1 << 20, begin)
            end += os.pwrite(self._file, part, end)
            begin += len(part)
        os.ftruncate(self._file, end)
        self._size = end


class Status:
    """The file that says what became of the program. Whole at any moment."""

    def __init__(self, path: str, token: str) -> None:
        """Take the room for the last word."""
        self._path = path
        self._known: dict[str, Any] = {
            "token": token,
            "boot": read_boot_id(),
            "shim": {"pid": os.getpid(), "start": read_start(os.getpid())},
            "program": None,
            "ended": False,
            "exit_status": None,
            "detail": "",
            "log_lost": 0,
        }
        _write_durably(path + ".end", b" " * STATUS_BYTES)

    def write(self, **changes: Any) -> None:  # noqa: ANN401  # JSON
        """Say something new."""
        self._known |= changes
        _write_durably(self._path + ".part", json.dumps(self._known).encode())
        Path(self._path + ".part").replace(self._path)

    def end(self, stopped: Callable[[], bool], **changes: Any) -> None:  # noqa: ANN401  # JSON
        """Say how it ended; where the disk does not take it, again until it does, `RETRY_S` or until `stopped`."""
        self._known |= changes | {"ended": True}
        data = json.dumps(self._known).encode().ljust(STATUS_BYTES)
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                _write_durably(self._path + ".end", data)
                Path(self._path + ".end").replace(self._path)
                return
            except FileNotFoundError:
                return  # the pair was removed: nobody is left to read it
            except OSError:
                if stopped() or time.monotonic() > deadline:
                    return
                time.sleep(1)


def _write_durably(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.pwrite(file, data, 0)
        os.ftruncate(file, len(data))
        os.fsync(file)
    finally:
        os.close(file)
