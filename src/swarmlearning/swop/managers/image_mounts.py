"""Where a program sees the files that its image's recipe copied: as few mounts as there can be, beside all others.

Spec: docs/spec/swop-content.md, SW-64.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.swop.managers.process_mounts import Mounted, is_within

SHARED: Final = ("/home", "/mnt", "/media", "/opt", "/root", "/srv", "/tmp", "/usr", "/var")  # noqa: S108
"""Directories that have something else in them too: of these only what the image has is mounted."""


def plan_mounts(files: Path, inner: Sequence[str] = ()) -> tuple[Mounted, ...]:
    """How the files of an image are mounted, read-only.

    Args:
        files: the image's files, as they are to be seen from `/` on.
        inner: normal absolute paths at which something else is mounted. It hides what the image has there; a directory
            of the image that one is in is not mounted itself, but what is in it.

    Returns:
        Mounts that do not lie within each other; directories without files are left out.
    """
    return tuple(_plan(files.resolve(), "", (*SHARED, *inner), inner))


def _plan(directory: Path, target: str, opened: Sequence[str], inner: Sequence[str]) -> Iterator[Mounted]:
    for entry in sorted(directory.iterdir()):
        place = f"{target}/{entry.name}"
        if any(is_within(place, path) for path in inner):
            continue
        if entry.is_dir() and any(is_within(path, place) for path in opened):
            yield from _plan(entry, place, opened, inner)
        elif entry.is_file() or _has_files(entry):
            yield Mounted(source=str(entry), target=place, writable=False)


def _has_files(directory: Path) -> bool:
    return any(path.is_file() for path in directory.rglob("*"))
