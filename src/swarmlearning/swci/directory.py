"""A session's directory: file commands and task files stay below one root. Spec: docs/spec/swci.md, CI-11.

Paths are resolved with all their links before they are judged. `/platform/swarm/usr`, where the product we re-create
has the user's files, means the directory in which the session began: scripts that name it run unchanged.
"""

import contextlib
import stat
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError, NotFound
from swarmlearning.reports.status import make_printable

PRODUCT_ROOT: Final = "/platform/swarm/usr"

MAX_FILE_BYTES: Final = 4 << 20
"""Largest file that is read."""

MAX_LISTED: Final = 10_000
"""Most names that are listed of a directory."""


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A file, or whatever else a directory holds."""

    name: str
    is_directory: bool
    size: int
    """Bytes."""
    modified_ms: int
    """Milliseconds since the epoch."""


class Directory:
    """Where a session is.

    Attributes:
        root: nothing outside it is read or written.
        here: the current directory, absolute.
        began: where it was at first.
    """

    def __init__(self, root: Path, here: Path | None = None) -> None:
        """Begin in `here`, or at the root.

        Raises:
            ConfigurationError: one of them is no directory, or `here` lies outside the root.
        """
        self.root = root.expanduser().resolve()
        if not self.root.is_dir():
            raise ConfigurationError(f"{root} is no directory; make it, or name another one")
        self.here = self.began = self.root
        if here is not None:
            self.enter(str(here.expanduser().absolute()))
            self.began = self.here

    def resolve(self, name: str) -> Path:
        """The absolute path of a name, from the current directory on.

        Raises:
            ConfigurationError: it lies outside the root, or is no path.
        """
        if "\0" in name:
            raise ConfigurationError("a path with a NUL character")
        try:
            resolved = self._locate(name).resolve()
            if not resolved.is_relative_to(self.root):
                raise ConfigurationError(f"{name[:200]} lies outside {self.root}; files stay below it")
            resolved.exists()
        except (OSError, RuntimeError) as error:  # a name that is too long, a user whom nobody knows
            raise ConfigurationError(f"{name[:200]}: no usable path") from error
        return resolved

    def _locate(self, name: str) -> Path:
        posix = PurePosixPath(name)
        if posix.is_relative_to(PRODUCT_ROOT) and not self._has_product_root:
            return self.began / posix.relative_to(PRODUCT_ROOT)
        return self.here / Path(name).expanduser()

    @property
    def _has_product_root(self) -> bool:
        """Whether the product's path is one of our own files: in a container that mounts them there."""
        if self.root.is_relative_to(PRODUCT_ROOT):
            return True
        return Path(PRODUCT_ROOT).is_relative_to(self.root) and Path(PRODUCT_ROOT).is_dir()

    def enter(self, name: str) -> None:
        """Go to another directory.

        Raises:
            ConfigurationError: it lies outside the root, or is no path.
            NotFound: there is no such directory.
        """
        path = self.resolve(name)
        if not path.is_dir():
            raise NotFound(f"{name[:200]} is no directory below {self.here}")
        self.here = path

    def files(self) -> list[FileInfo]:
        """What is in the current directory, by name.

        Raises:
            ConfigurationError: it cannot be read.
        """
        found: list[FileInfo] = []
        try:
            for path in sorted(self.here.iterdir())[:MAX_LISTED]:
                with contextlib.suppress(FileNotFoundError):  # gone since
                    # Of a link itself: what it leads to may lie outside the root.
                    seen = path.lstat()
                    found.append(
                        FileInfo(
                            name=make_printable(path.name),  # a file may be called anything
                            is_directory=stat.S_ISDIR(seen.st_mode),
                            size=seen.st_size,
                            modified_ms=seen.st_mtime_ns // 1_000_000,
                        )
                    )
        except OSError as error:
            raise ConfigurationError(f"{self.here} cannot be read: {error.strerror}") from error
        return found

    def read(self, name: str) -> bytes:
        """A file's contents.

        Raises:
            ConfigurationError: it cannot be read, is larger than `MAX_FILE_BYTES`, or lies outside the root.
            NotFound: there is no such file.
        """
        path = self.resolve(name)
        try:
            if not path.is_file():
                raise NotFound(f"{name[:200]} is no file below {self.here}")
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(f"{name[:200]} cannot be read: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise ConfigurationError(f"{name[:200]} has more than {MAX_FILE_BYTES} bytes, the most that is read")
        return data
