"""Volumes of an agent: channels, what SLs keep, content for tasks. Spec: docs/spec/swop-containers.md, SW-73 and SW-76.

What is in a volume is put there and taken out as tar archives, through a container that is never started: that works
wherever the engine is, and needs no program in any image.
"""

import contextlib
import io
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import docker.errors

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers import docker_names as names
from swarmlearning.swop.managers.docker_engine import Engine
from swarmlearning.swop.managers.docker_mounts import Json, volume_mount
from swarmlearning.types import NodeId

COPY_S: Final = 1800.0
"""How long content may take into or out of a volume, seconds."""

_INSIDE: Final = "/content"
_MEMORY: Final = 8 << 20


async def ensure_volume(engine: Engine, name: str, labels: dict[str, str]) -> None:
    """Have a volume of this name and these labels; one that is not ours is refused.

    Raises:
        ConfigurationError: there is one without these labels.
    """

    def work() -> None:
        try:
            found = engine.api.inspect_volume(name)
        except docker.errors.NotFound:
            found = engine.api.create_volume(name, labels=labels)
        if not names.has_labels(found, labels):
            raise ConfigurationError(f"the volume {name} is not this agent's: expected none of that name; remove it")

    await engine.call(f"make the volume {name}", work, asked=True)


async def remove_volume(engine: Engine, name: str, labels: dict[str, str]) -> None:
    """Remove a volume, if it is there and has these labels."""

    def work() -> None:
        with contextlib.suppress(docker.errors.NotFound):
            if names.has_labels(engine.api.inspect_volume(name), labels):
                engine.api.remove_volume(name)

    await engine.call(f"remove the volume {name}", work, asked=True)


async def list_volumes(engine: Engine, labels: dict[str, str]) -> list[dict[str, str]]:
    """The labels of all volumes that have these."""

    def work() -> list[dict[str, str]]:
        found = engine.api.volumes(filters=names.filters(labels)).get("Volumes") or []
        return [dict(volume["Labels"]) for volume in found if names.has_labels(volume, labels)]

    return await engine.call("list volumes", work)


async def find_content(engine: Engine, agent: NodeId, name: str) -> str | None:
    """The engine's name of the volume that tasks and profiles call `name`: what this agent filled, else the host's.

    Raises:
        ConfigurationError: it is one of ours that no task may have.
    """

    def work() -> str | None:
        for candidate in (names.content_name(agent, name), name):
            with contextlib.suppress(docker.errors.NotFound):
                labels = engine.api.inspect_volume(candidate).get("Labels") or {}
                if labels.get(names.VOLUME, names.CONTENT) != names.CONTENT:
                    raise ConfigurationError(f"the volume {name} is refused: it holds what an SL keeps to itself")
                return candidate
        return None

    if not name or "/" in name:
        raise ConfigurationError(f"volume {name[:80]!r}: expected a name without /; a directory is mounted as BIND")
    return await engine.call(f"look for the volume {name}", work, asked=True)


async def fill_volume(engine: Engine, agent: NodeId, name: str, content: Path, image: str) -> None:
    """Replace the volume that tasks call `name` by what is in `content`.

    Raises:
        ConfigurationError: it is in use, or the engine cannot make it.
    """
    real = names.content_name(agent, name)
    labels = _content_labels(agent, name)

    def work() -> None:
        with contextlib.suppress(docker.errors.NotFound):
            if not names.has_labels(engine.api.inspect_volume(real), labels):
                raise ConfigurationError(f"the volume {real} is not this agent's: expected none of that name")
            _remove_helpers(engine, labels)
            engine.api.remove_volume(real)
        engine.api.create_volume(real, labels=labels)
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as made:
                for path in sorted(content.iterdir()):
                    made.add(path, arcname=path.name)
            archive.seek(0)
            with _helper(engine, real, image, labels) as helper:
                engine.api.put_archive(helper, _INSIDE, archive)

    await engine.call(f"fill the volume {name}", work, limit_s=COPY_S, asked=True)


async def read_volume(engine: Engine, agent: NodeId, name: str, image: str) -> IO[bytes]:
    """A tar of the directory with what is in a volume; the caller closes it.

    Raises:
        ConfigurationError: there is no such volume.
    """
    real = await find_content(engine, agent, name)
    if real is None:
        raise ConfigurationError(f"no volume {name}: a task that makes it has to run before (BuildContext)")
    found = real

    def work() -> IO[bytes]:
        with contextlib.ExitStack() as stack:
            archive: IO[bytes] = stack.enter_context(tempfile.SpooledTemporaryFile(_MEMORY))
            with _helper(engine, found, image, _content_labels(agent, name)) as helper:
                pieces, _ = engine.api.get_archive(helper, _INSIDE)
                for piece in pieces:
                    archive.write(piece)
            archive.seek(0)
            stack.pop_all()  # the caller closes it
            return archive

    return await engine.call(f"read the volume {name}", work, limit_s=COPY_S, asked=True)


def _content_labels(agent: NodeId, name: str) -> dict[str, str]:
    return {names.AGENT: agent, names.VOLUME: names.CONTENT, names.CONTENT_NAME: name}


@contextlib.contextmanager
def _helper(engine: Engine, volume: str, image: str, labels: dict[str, str]) -> Iterator[str]:
    """A container that has a volume and never runs; blocks."""
    config: Json = {
        "Image": image,
        "Entrypoint": ["/none"],
        "Labels": labels,
        "HostConfig": {"NetworkMode": "none", "Mounts": [volume_mount(volume, _INSIDE)]},
    }
    helper = engine.create_container(config)
    engine.helpers.add(helper)
    try:
        yield helper
    finally:
        engine.helpers.discard(helper)
        with contextlib.suppress(docker.errors.NotFound):
            engine.api.remove_container(helper, force=True)


def _remove_helpers(engine: Engine, labels: dict[str, str]) -> None:
    """Remove what an agent that was killed left, which would hold the volume; not who reads it now."""
    for container in engine.api.containers(all=True, filters=names.filters(labels)):
        if names.has_labels(container, labels) and container["Id"] not in engine.helpers:
            engine.api.remove_container(container["Id"], force=True)


def pack_directory(name: str, user: str, files: tuple[str, ...] = ()) -> bytes:
    """A tar with the directory `name` of `user` (`uid:gid`), closed to others, and empty files in it."""
    uid, gid = (int(number) for number in user.split(":"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for path, kind, mode in [(name, tarfile.DIRTYPE, 0o700)] + [
            (f"{name}/{file}", tarfile.REGTYPE, 0o600) for file in files
        ]:
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode, entry.uid, entry.gid, entry.mtime = kind, mode, uid, gid, int(time.time())
            made.addfile(entry)
    return buffer.getvalue()
