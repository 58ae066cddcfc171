"""Names of volumes, and of files in a volume: relative, plain, not too long, never out of it.

Spec: docs/spec/swop-content.md, SW-67.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from swarmlearning.errors import TaskFailed
from swarmlearning.reports.status import make_printable
from swarmlearning.tasks.bodies import MakeContent

MAX_NAME: Final = 255
"""Bytes of a name; file systems have no longer ones."""

MAX_PATH: Final = 1024
"""Bytes of a path in a volume."""

MAX_DEPTH: Final = 32
"""Directories within each other."""

_MAX_SHOWN: Final = 100


def show_name(name: str) -> str:
    """A name for people: printable, and not too long."""
    text = make_printable(name)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def volume_names(body: MakeContent, outcome: str, peers: Iterable[int]) -> tuple[str, ...]:
    """The volumes that get the content: one, or one for each of the agent's peers, by their `idx`."""
    if body.content_type == "BUILDCONTENT":
        return (outcome,)
    return tuple(f"{outcome}-{idx}" for idx in peers)


def check_path(path: str, what: str) -> tuple[str, ...]:
    """The parts of a path in a volume, its `.` left out; empty: the volume itself.

    Args:
        path: with `/` between names; one at its end means nothing.
        what: what people call it.

    Raises:
        TaskFailed: it is absolute, has a `..`, or names that files should not have.
    """
    shown = show_name(path)
    if path.startswith("/"):
        raise TaskFailed(f"{what} {shown}: expected a path in the volume, got an absolute one")
    parts = tuple(part for part in path.removesuffix("/").split("/") if part != ".")
    if parts == ("",):
        return ()
    if ".." in parts:
        raise TaskFailed(f"{what} {shown}: expected a path in the volume, got one with ..")
    if "" in parts or not path.isprintable() or "\\" in path:
        raise TaskFailed(f"{what} {shown}: expected names of printable characters, with / between them")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise TaskFailed(f"{what} {shown}: expected a name in UTF-8") from error
    if max(sizes, default=0) > MAX_NAME or sum(sizes) + len(parts) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise TaskFailed(
            f"{what} {shown}: expected names of at most {MAX_NAME} bytes, {MAX_PATH} in all, {MAX_DEPTH} deep"
        )
    return parts


def make_parents(root: Path, parts: tuple[str, ...], what: str) -> Path:
    """Make the directory `parts` below `root`, following no links.

    Raises:
        TaskFailed: something else than a directory is in the way.
    """
    path = root
    for part in parts:
        path /= part
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o755)
        if path.is_symlink() or not path.is_dir():
            raise TaskFailed(f"{what} {show_name('/'.join(parts))}: {show_name(part)} is a file, no directory")
    return path


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A new file, that gets the name `path` when all went well, and is gone otherwise; yields what writes to it.

    Raises:
        TaskFailed: it cannot be written, or `path` is a directory.
    """
    temporary = path.with_name(f".{secrets.token_hex(12)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

    def explain(error: OSError) -> TaskFailed:
        return TaskFailed(f"{show_name(path.name)}: cannot be written ({error.strerror}); check the disk")

    def write(data: bytes) -> None:
        try:
            file.write(data)
        except OSError as error:
            raise explain(error) from error

    try:
        try:
            file = os.fdopen(os.open(temporary, flags, 0o644), "wb")
        except OSError as error:
            raise explain(error) from error
        try:
            yield write
        finally:
            try:
                file.close()
            except OSError as error:
                raise explain(error) from error
        try:
            temporary.replace(path)
        except OSError as error:
            raise explain(error) from error
    finally:
        temporary.unlink(missing_ok=True)
