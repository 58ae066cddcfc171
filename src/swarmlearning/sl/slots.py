"""The newest of a series of small values, in a file that is overwritten in place: one fdatasync a value.

Two places take turns, so that a write that a power cut tears leaves the value before it. Replacing a whole file takes
two fsyncs, each of which waits for the file system's own journal.

Does not: know what the values mean (`journal`).
"""

import contextlib
import os
import struct
from pathlib import Path
from typing import Final

from swarmlearning.encoding import sha256

SLOT_BYTES: Final = 4096
"""Of one place: a page, so that no write of one touches the other."""

_HEAD: Final = struct.Struct(">32sQI")
"""SHA-256 of all that follows, number of the value, its length."""

MAX_VALUE_BYTES: Final = SLOT_BYTES - _HEAD.size


class Slots:
    """One such file; used by one thread at a time.

    Attributes:
        number: of the newest value; 0 while there is none.
        value: the newest one.
    """

    def __init__(self, path: Path, *, sync: bool) -> None:
        """Read what `path` holds; it is created by the first `write`.

        Args:
            path: of the file.
            sync: whether to fsync.
        """
        self.number = 0
        self.value = b""
        self._path = path
        self._sync = sync
        with contextlib.suppress(OSError), path.open("rb") as file:
            for _ in range(2):
                self._consider(file.read(SLOT_BYTES))

    def _consider(self, slot: bytes) -> None:
        if len(slot) != SLOT_BYTES:
            return
        digest, number, length = _HEAD.unpack_from(slot)
        whole = slot[len(digest) : _HEAD.size + length]
        if length <= MAX_VALUE_BYTES and number > self.number and sha256(whole) == digest:
            self.number, self.value = number, slot[_HEAD.size : _HEAD.size + length]

    def write(self, value: bytes) -> None:
        """Put the next value in the older one's place; when this returns it survives a power cut.

        Raises:
            OSError: the disk failed, or `value` has more than `MAX_VALUE_BYTES`; the newest value is what it was.
        """
        if len(value) > MAX_VALUE_BYTES:
            raise OSError(f"{len(value)} bytes, at most {MAX_VALUE_BYTES} fit")
        number = self.number + 1
        rest = struct.pack(">QI", number, len(value)) + value
        slot = (sha256(rest) + rest).ljust(SLOT_BYTES, b"\0")
        descriptor = self._open()
        try:
            if os.pwrite(descriptor, slot, number % 2 * SLOT_BYTES) != SLOT_BYTES:
                raise OSError("the disk is full")
            if self._sync:
                getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has no fdatasync
        finally:
            os.close(descriptor)
        self.number, self.value = number, value

    def _open(self) -> int:
        """Open the file; a new one is allocated, written and synced once, so that later writes move no metadata."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size != 2 * SLOT_BYTES:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, bytes(2 * SLOT_BYTES), 0)
                if self._sync:
                    os.fsync(descriptor)
                    _sync_folder(self._path.parent)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def remove(self) -> None:
        """Forget all values, and the file."""
        self.number, self.value = 0, b""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
