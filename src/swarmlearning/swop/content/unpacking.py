"""What is in an archive comes into a directory: regular files and directories alone, under limits.

Whoever reads a format hands over one entry after the other; nothing is seen in the directory before all are there.
Spec: docs/spec/swop-content.md, SW-69.
"""

import os
import posixpath
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.names import check_path, make_parents, show_name

Tell = Callable[[str], None]
Read = Callable[[int], bytes]
"""Gives at most so many bytes; empty at the end."""

BLOCK: Final = 1 << 18

MAX_ENTRIES: Final = 200_000
"""Most files and directories of an archive."""

MAX_RATIO: Final = 200
"""How many times larger than the archive its content may be, once it is larger than `RATIO_FROM`."""

RATIO_FROM: Final = 64 << 20

_MAX_LINKS: Final = 40
"""Links to links to links."""

_TOLD_BYTES: Final = 256 << 20


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How large an archive's content may be."""

    bytes: int
    entries: int = MAX_ENTRIES


class Unpacking:
    """One archive that is unpacked."""

    def __init__(self, root: Path, into: tuple[str, ...], bounds: Bounds, packed: int, tell: Tell) -> None:
        """Unpack into the directory `into` below `root`, which is there; the archive has `packed` bytes."""
        self._root = root
        self._into = into
        self._bounds = bounds
        self._packed = packed
        self._tell = tell
        self._stage = root / f".{secrets.token_hex(12)}.unpacked"
        self._seen: dict[tuple[str, ...], bool] = {}  # whether it is a directory
        self._links: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._entries = 0
        self._told = 0
        self.size = 0
        """Bytes of its content so far."""
        self.cancelled = threading.Event()
        """Set: it ends at the next block."""

    def begin(self) -> None:
        """Make the directory beside, in which everything is gathered."""
        self._stage.mkdir(mode=0o700)

    def directory(self, name: str) -> None:
        """A directory is in the archive."""
        known = len(self._seen)
        parts = self._enter(name, directory=True)
        if len(self._seen) > known:
            make_parents(self._stage, parts, "archive:")

    def file(self, name: str, read: Read, size: int, *, executable: bool) -> None:
        """A file of `size` bytes is in the archive.

        Raises:
            TaskFailed: its name leads out or is there twice, it ends early, or all is too large.
        """
        parts = self._enter(name, directory=False)
        if size < 0 or size > self._bounds.bytes - self.size:
            raise self._too_large()
        path = make_parents(self._stage, parts[:-1], "archive:") / parts[-1]
        left = size
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o755 if executable else 0o644)
        with os.fdopen(descriptor, "wb") as file:
            while left:
                block = read(min(left, BLOCK))
                if not block:
                    raise TaskFailed(f"archive: {show_name(name)} ends {left} bytes early; the archive is damaged")
                left -= len(block)
                self.count(len(block))
                file.write(block)

    def link(self, name: str, target: str, *, hard: bool) -> None:
        """A link to a file in the archive: in the volume it is that file once more.

        Raises:
            TaskFailed: it leads out of the archive.
        """
        parts = self._enter(name, directory=False)
        if target.startswith("/"):
            raise TaskFailed(f"archive: {show_name(name)} is a link out of it, to {show_name(target)}")
        # Where a hard link leads is said from the archive's top, where a symbolic one does from its own directory.
        joined = target if hard else posixpath.join(*parts[:-1], target)
        path = posixpath.normpath(joined)
        if path == ".." or path.startswith("../"):
            raise TaskFailed(f"archive: {show_name(name)} is a link out of it, to {show_name(target)}")
        self._links[parts] = check_path(path, "archive: a link to")

    def count(self, size: int) -> None:
        """So many more bytes came out of the archive.

        Raises:
            TaskFailed: they are too many, or we are to end.
        """
        self.size += size
        if self.cancelled.is_set():
            raise TaskFailed("archive: unpacking was stopped")
        if self.size > self._bounds.bytes:
            raise self._too_large()
        self.check_ratio(self.size)
        if self.size - self._told >= _TOLD_BYTES:
            self._told = self.size
            self._tell(f"unpacked {self.size} bytes, {self._entries} entries")

    def check_ratio(self, size: int) -> None:
        """Refuse what grows out of all proportion.

        Raises:
            TaskFailed: `size` bytes are too many of an archive of this size.
        """
        if size > RATIO_FROM and size > self._packed * MAX_RATIO:
            raise TaskFailed(f"archive: its content is more than {MAX_RATIO} times as large as itself; it is a bomb")

    def finish(self) -> int:
        """Everything was handed over: let it appear in the directory; how many entries there were.

        Raises:
            TaskFailed: a link leads to nothing, or a file and a directory have the same name.
        """
        for parts in self._links:
            self._make_link(parts)
        target = make_parents(self._root, self._into, "archive: into")
        _merge(self._stage, target)
        return self._entries

    def remove(self) -> None:
        """Remove what is beside; nothing if all went well."""
        shutil.rmtree(self._stage, ignore_errors=True)

    def _enter(self, name: str, *, directory: bool) -> tuple[str, ...]:
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise TaskFailed(f"archive: more than {self._bounds.entries} files and directories")
        if self.cancelled.is_set():
            raise TaskFailed("archive: unpacking was stopped")
        parts = check_path(name, "archive:")
        if not parts and not directory:
            raise TaskFailed("archive: a file without a name")
        known = self._seen.get(parts)
        if known is not None and not (known and directory):
            # A second file of a name is written through what the first one was, or hides it from whoever looks.
            raise TaskFailed(f"archive: {show_name(name)} is in it twice")
        self._seen[parts] = directory
        return parts

    def _make_link(self, parts: tuple[str, ...]) -> None:
        name = show_name("/".join(parts))
        target = self._links[parts]
        for _ in range(_MAX_LINKS):
            if target not in self._links:
                break
            target = self._links[target]
        if self._seen.get(target) is not False or target in self._links:
            raise TaskFailed(f"archive: {name} is a link to {show_name('/'.join(target))}, no file of the archive")
        source = self._stage.joinpath(*target)
        # It takes no room here, but may where the volume is copied.
        self.count(source.stat().st_size)
        path = make_parents(self._stage, parts[:-1], "archive:") / parts[-1]
        path.hardlink_to(source)

    def _too_large(self) -> TaskFailed:
        return TaskFailed(f"archive: more than {self._bounds.bytes} bytes, which this host's policy allows")


def _merge(source: Path, target: Path) -> None:
    """Move what is in one directory into another; files of the same names are replaced."""
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        path = target / entry.name
        inner = entry.is_dir(follow_symlinks=False)
        if path.is_symlink() or (path.exists() and path.is_dir() != inner):
            raise TaskFailed(f"archive: {show_name(entry.name)} is a file here and a directory there")
        if inner and path.is_dir():
            _merge(Path(entry.path), path)
        else:
            Path(entry.path).rename(path)
