"""Which files of a build context a recipe copies, and copying them: regular files alone, never out of the context.

Spec: docs/spec/swop-content.md, SW-64.
"""

import fnmatch
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.managers.recipe_words import shorten
from swarmlearning.swop.managers.recipes import Copy

MAX_FILES: Final = 100_000
"""Most files that one step copies."""

_BLOCK: Final = 1 << 20


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is copied."""

    source: str
    """Where it is on this host."""
    name: str
    """Below the target, if that is a directory."""
    sha256: str
    executable: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a COPY step copies."""

    files: tuple[Found, ...]
    directories: tuple[str, ...] = ()
    """Below the target; made also where they are empty."""
    only: bool = True
    """Whether it is one file, which may get the target's name."""


def plan_copy(step: Copy, context: Path | None, most: int) -> Plan:
    """What a COPY step copies.

    Args:
        step: the step.
        context: the directory of the build context; None: there is none.
        most: bytes.

    Raises:
        TaskFailed: there is no such file, it leads out of the context, is no regular file, or they are too many.
    """
    if context is None:
        raise _failed(step, "the task names no BuildContext; expected a volume that has the files")
    root = context.resolve()
    files: list[Found] = []
    directories: list[str] = []
    size = 0
    matches = [match for source in step.sources for match in _match(step, root, source)]
    for match in matches:
        for path, name in _walk(step, root, match):
            if path.is_dir():
                directories.append(name)
                continue
            found, read = _look(step, path, name, most - size)
            size += read
            files.append(found)
            if len(files) > MAX_FILES:
                raise _failed(step, f"more than {MAX_FILES} files")
    only = len(matches) == 1 and matches[0].is_file()
    return Plan(files=tuple(files), directories=tuple(directories), only=only)


def _failed(step: Copy, reason: str) -> TaskFailed:
    return TaskFailed(f"step {step.number} ({step.text}): {reason}")


def _match(step: Copy, root: Path, source: str) -> list[Path]:
    """The files and directories that a source names."""
    found = [root]
    for part in source.split("/"):
        if part == ".":
            continue
        following = []
        for directory in found:
            if os.path.lexists(directory / part):
                following.append(directory / part)
            elif directory.is_dir():
                following += sorted(each for each in directory.iterdir() if fnmatch.fnmatchcase(each.name, part))
        found = [_within(step, root, path) for path in following]
    if not found:
        raise _failed(step, f"the build context has no {shorten(source)}")
    return found


def _within(step: Copy, root: Path, path: Path) -> Path:
    """Where a path leads, which must be in the context."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _failed(step, f"{shorten(str(path.relative_to(root)))} is a link that leads nowhere") from error
    if not real.is_relative_to(root):
        raise _failed(step, f"{shorten(str(path.relative_to(root)))} is a link out of the build context")
    return real


def _walk(step: Copy, root: Path, top: Path) -> Iterator[tuple[Path, str]]:
    """A file, or all that is in a directory; with the names that they get."""
    if not top.is_dir():
        yield top, top.name
        return
    for directory, names, files in os.walk(top):
        for name in sorted([*names, *files]):
            path = Path(directory) / name
            relative = str(path.relative_to(top))
            if path.is_symlink():
                path = _within(step, root, path)
                if path.is_dir():
                    raise _failed(step, f"{shorten(relative)} is a link to a directory; expected files")
            yield path, relative


def _look(step: Copy, path: Path, name: str, most: int) -> tuple[Found, int]:
    """A file's hash, and its size."""
    try:
        # A pipe would be waited for if it were opened otherwise.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(step, f"{shorten(name)} cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _failed(step, f"{shorten(name)} is no file")
        hasher, size = hashlib.sha256(), 0
        while block := file.read(_BLOCK):
            hasher.update(block)
            size += len(block)
            if size > most:
                raise _failed(step, "the files are larger than this host's policy allows (limits, content)")
    executable = bool(status.st_mode & stat.S_IXUSR)
    return Found(source=str(path), name=name, sha256=hasher.hexdigest(), executable=executable), size


def copy_planned(step: Copy, plan: Plan, files: Path) -> None:
    """Copy what was planned to the image's files, and verify that it is what was planned.

    Raises:
        TaskFailed: a file has changed meanwhile, or the target cannot be written.
    """
    target = place(files, step.target)
    single = plan.only and not step.into and not target.is_dir()
    try:
        if not single:
            target.mkdir(parents=True, exist_ok=True)
        for name in plan.directories:
            (target / name).mkdir(parents=True, exist_ok=True)
        for found in plan.files:
            path = target if single else target / found.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy(step, found, path)
    except OSError as error:
        raise _failed(step, f"{shorten(str(error.filename))} cannot be written ({error.strerror})") from error


def place(files: Path, path: str) -> Path:
    """Where a path in the image is on this host."""
    return files / path.lstrip("/")


def _copy(step: Copy, found: Found, path: Path) -> None:
    hasher = hashlib.sha256()
    path.unlink(missing_ok=True)
    with Path(found.source).open("rb") as source, path.open("xb") as copy:
        while block := source.read(_BLOCK):
            hasher.update(block)
            copy.write(block)
    if hasher.hexdigest() != found.sha256:
        raise _failed(step, f"{shorten(found.name)} has changed during the build; build again")
    path.chmod(0o700 if found.executable else 0o600)


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it, also where programs took our rights to it away; links are not followed.

    However deep it is: programs make directories that are deeper than functions can call themselves, and than a path
    can be long. So each directory is moved up before its turn comes.

    Raises:
        OSError: something cannot be removed.
    """
    if path.is_symlink() or not path.is_dir():
        return
    mark = f".removed-{secrets.token_hex(8)}-"
    moved = 0
    waiting = [path]
    while waiting:
        directory = waiting.pop()
        directory.chmod(0o700)
        with os.scandir(directory) as found:
            entries = list(found)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()
                continue
            # To be moved, a directory has to be writable itself.
            Path(entry.path).chmod(0o700)
            moved += 1
            waiting.append(Path(entry.path).rename(path / f"{mark}{moved}"))
        if directory != path:
            directory.rmdir()
    path.rmdir()
