"""What a task's program sees of the host's directories, and where; refused where that cannot work. Starts nothing.

Spec: docs/spec/swop-process.md, SW-46.
"""

import os
import posixpath
from pathlib import Path
from typing import Final, Literal

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.process_volumes import find_volume, make_volume
from swarmlearning.swop.matching import is_within

VOLUMES: Final = "volumes"
"""Directory of the agent's data in which each volume is one."""

OWN: Final = ("/tmp", "/home/swarm")  # noqa: S108  # the program's own one
"""Directories that every program has for itself, in which something may be mounted."""


HOST_TREES: Final = (
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/run",
    "/var/run",
    "/var/lib/docker",
    "/var/lib/containers",
)
"""Directories of a host of which no program gets anything: accounts, the kernel, devices, engines and their sockets."""


class Mounted(msgspec.Struct, frozen=True, kw_only=True):
    """A directory or file of the host, and where a program sees it."""

    source: str
    """Without symbolic links."""
    target: str
    """Absolute and normal."""
    writable: bool


def check_target(what: str, target: str) -> str:
    """A place in a program's view, without `..` and doubled slashes.

    Raises:
        ConfigurationError: it is not an absolute path.
    """
    if not target.startswith("/") or "\0" in target:
        raise ConfigurationError(f"{what} {target!r}: expected an absolute path, such as /platform/data")
    normal = posixpath.normpath(target)
    return "/" + normal.lstrip("/")


def find_mounts(pair: Pair, volumes: Path) -> tuple[Mounted, ...]:
    """What task and profile mount: the task's shared content, writable, and the profile's private data, read-only.

    Raises:
        ConfigurationError: a source is not there, a target is not absolute or named twice, or the task reads private
            data that the profile does not have.
    """
    mounts = []
    for number, content in enumerate(pair.body.shared_content):
        what = f"SharedContent Src {content.source!r}"
        found = _mount(what, content.kind, content.source, content.target, volumes, writable=True)
        if content.kind == "BIND":
            check_place(pair, number, found.source, what)
        mounts.append(found)
    if pair.body.private_content is not None:
        data = pair.node.private_data
        if data is None:
            raise ConfigurationError(
                f"the task reads private data (PrivateContent {pair.body.private_content!r}), but node "
                f"{pair.node.idx} of the profile has none: set its privatedata"
            )
        what = f"privatedata {data.source!r} of node {pair.node.idx}"
        mounts.append(_mount(what, data.kind, data.source, pair.body.private_content, volumes, writable=False))
    seen: set[str] = set()
    for mounted in mounts:
        if mounted.target in seen:
            raise ConfigurationError(f"two things are to be mounted at {mounted.target}: expected one")
        seen.add(mounted.target)
    return tuple(mounts)


def _mount(
    what: str, kind: Literal["BIND", "VOLUME"], source: str, target: str, volumes: Path, *, writable: bool
) -> Mounted:
    place = check_target("the target", target)
    if kind == "VOLUME" and writable:
        make_volume(volumes, source)
    real = find_source(what, kind, source, volumes)
    return Mounted(source=str(real), target=place, writable=writable)


def find_source(what: str, kind: Literal["BIND", "VOLUME"], source: str, volumes: Path) -> Path:
    """The directory or file of the host that a BIND or VOLUME means, its symbolic links followed once and for all.

    Raises:
        ConfigurationError: there is none.
    """
    if kind == "VOLUME":
        return find_volume(volumes, source).resolve()
    try:
        return Path(source).absolute().resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"{what}: it is not on this host, or this user may not read it") from error


def check_place(pair: Pair, number: int, found: str, what: str) -> None:
    """Refuse shared content that leads elsewhere than when it was decided: what a link says, others may change.

    Raises:
        ConfigurationError: it does.
    """
    if pair.places is not None and found != pair.places[number]:
        raise ConfigurationError(
            f"{what}: it leads to {found} now, and led to {pair.places[number]} when it was decided whether the task "
            "may run: assign the task again"
        )


def check_views(mounts: tuple[Mounted, ...], working_dir: str, protected: tuple[str, ...]) -> None:
    """Refuse what would hide, in a sandbox, what a program needs to run and to meet its SL, or has no place there.

    Raises:
        ConfigurationError: a target or the working directory is, holds, or lies within a protected directory, or
            lies in a mount that does not have it and must not be written.
    """
    for mount in mounts:
        if mount.target in OWN:
            raise ConfigurationError(f"the target {mount.target}: every program has one of its own; name one below it")
        for place in (*protected, "/"):
            if is_within(place, mount.target) or (place != "/" and is_within(mount.target, place)):
                raise ConfigurationError(
                    f"the target {mount.target} would hide or lie within {place}, which belongs to the system or to "
                    "the program's own surroundings: choose another, such as /platform/data"
                )
        _check_inside(mounts, mount.target, "the target")
    for place in protected:
        if is_within(working_dir, place) or (is_within(place, working_dir) and working_dir != "/"):
            raise ConfigurationError(
                f"WorkingDir {working_dir} would hide or lie within {place}, which belongs to the system or to the "
                "program's own surroundings: choose another, such as /platform"
            )
    _check_inside(mounts, working_dir, "WorkingDir")


def check_sources(
    mounts: tuple[Mounted, ...], data: Path, secrets: tuple[Path, ...], programs: tuple[str, ...]
) -> None:
    """Refuse to show the agent's own files, other than its volumes, and keys; and to let write what the host runs.

    Args:
        mounts: what is to be shown.
        data: the agent's.
        secrets: files of keys.
        programs: directories of interpreters and of the system's programs.

    Raises:
        ConfigurationError: a source is, holds, or lies within one of these.
    """
    own = str(data.resolve())
    for mount in mounts:
        if is_within(own, mount.source) or (
            is_within(mount.source, own) and not mount.source.startswith(f"{own}/{VOLUMES}/")
        ):
            raise ConfigurationError(f"{mount.source} holds or is part of the agent's own data {own}: mount another")
        for secret in secrets:
            if is_within(str(secret.resolve()), mount.source):
                raise ConfigurationError(
                    f"{mount.source} holds {secret}, which proves who a node is: keep it outside of what is mounted"
                )
        if not mount.writable:
            continue
        for path in map(os.path.realpath, (*HOST_TREES, *programs)):
            if is_within(mount.source, path) or is_within(path, mount.source):
                raise ConfigurationError(
                    f"SharedContent {mount.source} is refused: programs may write to it, and {path} is the host's own; "
                    "name another directory"
                )


def _check_inside(mounts: tuple[Mounted, ...], path: str, what: str) -> None:
    """Refuse a place within a mount that does not have it: it would be made on the host, or cannot be made."""
    holders = [mount for mount in mounts if mount.target != path and is_within(path, mount.target)]
    for holder in holders:
        inside = Path(holder.source, posixpath.relpath(path, holder.target))
        if not inside.exists() and not any(m.target != path and is_within(m.target, path) for m in holders):
            raise ConfigurationError(f"{what} {path} lies in the mount {holder.target}, but {inside} is not there")
