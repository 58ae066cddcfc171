"""Lines of logs as they are written, printable; also where a file is replaced or cut meanwhile."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from swarmlearning.local.process import MAX_LINE_BYTES, clean_line
from swarmlearning.reports.status import make_printable

POLL_S: Final = 0.2
"""How often a log is looked at, seconds."""

_BLOCK: Final = 1 << 16


def tail_lines(path: Path, most: int | None) -> tuple[list[str], int]:
    """The last `most` lines of a log (None: all), and the position after them; none where there is no log."""
    try:
        file = path.open("rb")
    except OSError:
        return [], 0
    with file:
        lines: list[bytes] = []
        while piece := file.readline(MAX_LINE_BYTES):
            lines.append(piece)
            if most is not None and len(lines) > 2 * most + 1000:
                del lines[: len(lines) - most]
        position = file.tell()
    return [show_line(line) for line in (lines if most is None else lines[max(0, len(lines) - most) :])], position


def show_line(line: bytes) -> str:
    """A line that a terminal shows as it is."""
    return make_printable(clean_line(line.rstrip(b"\n")))


class Follower:
    """One log that grows."""

    def __init__(self, path: Path, position: int) -> None:
        """Begin after what was read."""
        self._path = path
        self._position = position
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> list[str]:
        """Whole lines that have come since; a line that is not whole yet waits for its end."""
        lines: list[str] = []
        while True:
            if not self._open():
                return lines
            assert self._file is not None
            data = self._file.read(_BLOCK)
            if not data:
                return lines
            self._position += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines += map(show_line, whole)
            if len(self._rest) > MAX_LINE_BYTES:
                lines.append(show_line(self._rest))
                self._rest = b""

    def _open(self) -> bool:
        """Have the file open that is there now, at the right place."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  # beside fstat
        except OSError:
            found = None
        if self._file is not None:
            mine = os.fstat(self._file.fileno())
            replaced = found is not None and (found.st_ino, found.st_dev) != (mine.st_ino, mine.st_dev)
            if mine.st_size > self._position or not (replaced or mine.st_size < self._position):
                return True
            # What the old one held has been read: go on with the new one, or with what is left of it.
            self._file.close()
            self._file, self._position = None, 0
        if found is None:
            return False
        self._file = self._path.open("rb")
        if found.st_size < self._position:
            self._position = 0
        self._file.seek(self._position)
        return True

    def close(self) -> list[str]:
        """End; what is left of a line without an end."""
        if self._file is not None:
            self._file.close()
        rest, self._rest = self._rest, b""
        return [show_line(rest)] if rest else []


def follow(
    logs: list[tuple[Path, int]], is_over: Callable[[int], bool], sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[int, str]]:
    """Lines of several logs as they come, with the number of their log, until all are over.

    Args:
        logs: paths, and the positions to begin at.
        is_over: whether nothing more comes to a log, by its number.
        sleep: between looks.
    """
    followers = {number: Follower(path, position) for number, (path, position) in enumerate(logs)}
    while followers:
        # Asked before reading: what was written before it was over is read all the same.
        over = {number for number in followers if is_over(number)}
        for number, follower in list(followers.items()):
            for line in follower.read():
                yield number, line
            if number in over:
                for line in follower.close():
                    yield number, line
                del followers[number]
        if followers:
            sleep(POLL_S)
