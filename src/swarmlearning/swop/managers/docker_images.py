"""Images by an engine: built from a task's steps, pulled, looked up. Spec: docs/spec/swop-containers.md, SW-76."""

import asyncio
import contextlib
import io
import json
import os
import secrets
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import docker.auth
import docker.errors
import msgspec

from swarmlearning.errors import ConfigurationError, TaskFailed
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.managers import docker_names as names
from swarmlearning.swop.managers.boundary import Tell
from swarmlearning.swop.managers.docker_engine import SILENCE_S, Engine, Item, explain, run_in_thread
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import Credentials, PullImage

MAX_AUTH_BYTES: Final = 1 << 20
MAX_PULL_LOG: Final = 4 << 20
TELL_S: Final = 1.0
"""How often a pull's progress is told, seconds."""

_DOCKERFILE: Final = ".swarmlearning.Dockerfile."


async def find_image(engine: Engine, tag: str) -> str | None:
    """An image's id; None if there is none of this tag."""
    return await engine.call(f"look for the image {tag}", lambda: engine.find_image(tag))


async def is_foreign(engine: Engine, tag: str) -> bool:
    """Whether an image has this tag that no agent built, be it this one or another one of this engine."""
    labels = await engine.call(f"look for the image {tag}", lambda: engine.image_labels(tag))
    return labels is not None and names.AGENT not in labels


_CUT: Final = b"\n(the log's limit is reached: what follows is left out)\n"


class BoundedLog:
    """A log that others' programs fill: what goes beyond its limit is left out."""

    def __init__(self, path: str, limit: int) -> None:
        """Append to `path`."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._room = max(limit - os.fstat(self._file).st_size, 0)

    def write(self, text: str) -> None:
        """Append, if there is room."""
        data = text.encode("utf-8", "replace")
        if len(data) <= self._room:
            os.write(self._file, data)
            self._room -= len(data)
        elif self._room >= 0:
            os.write(self._file, data[: self._room] + _CUT)
            self._room = -1  # and nothing more, be it ever so short

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


# --- building -----------------------------------------------------------------------------------------------------


class BuildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built."""

    tag: str
    steps: tuple[str, ...]
    """Lines of a Dockerfile."""
    labels: dict[str, str]
    """Of the image."""
    log: str
    """File to which what the build prints is appended."""
    limits: Limits


async def build_image(engine: Engine, order: BuildOrder, files: IO[bytes] | None, tell: Tell) -> str:
    """Build an image; `files` is a tar of the directory that the build sees, closed here.

    Raises:
        TaskFailed: a step failed; says what the build printed last.
    """
    tag, limits = order.tag, order.limits
    context, dockerfile = await run_in_thread(lambda: make_context(order.steps, files))
    try:
        async with asyncio.timeout(limits.run_time_s):
            await _build(engine, order, context, dockerfile, tell)
    except TimeoutError as error:
        raise TaskFailed(f"building {tag} took longer than {limits.run_time_s:g} s, and was given up") from error
    finally:
        context.close()
    found = await find_image(engine, tag)
    if found is None:
        raise TaskFailed(f"building {tag} ended without an image of that tag; see the log of the build")
    return found


async def _build(engine: Engine, order: BuildOrder, context: IO[bytes], dockerfile: str, tell: Tell) -> None:
    output = BoundedLog(order.log, order.limits.log)
    last: list[str] = []
    failed: list[str] = []

    def make() -> Iterator[Item]:
        return engine.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=dockerfile,
            tag=order.tag,
            labels=order.labels,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=int(SILENCE_S),
            container_limits={"memory": order.limits.memory} if order.limits.memory else None,
        )

    def handle(item: Item) -> None:
        text = str(item.get("stream") or "")
        if text:
            output.write(text)
        for line in text.splitlines():
            if shown := make_printable(line.strip())[:200]:
                last[:] = [shown]
                if shown.upper().startswith("STEP "):
                    tell(shown)
        if item.get("error"):
            detail = item.get("errorDetail")
            failed.append(str((isinstance(detail, dict) and detail.get("message")) or item["error"]))
            output.write(failed[-1].rstrip() + "\n")

    try:
        await engine.stream(f"build the image {order.tag}", make, handle)
    except ConfigurationError as error:  # a step that is none is refused before the build begins
        output.write(f"{error}\n")
        raise TaskFailed(f"building {order.tag} failed: {error}") from error
    finally:
        output.close()
    if failed:
        said = make_printable(" ".join(failed[-1].split()))[:300]
        before = f"; before that: {last[-1]}" if last else ""
        raise TaskFailed(f"building {order.tag} failed: {said}{before}")


def make_context(steps: tuple[str, ...], files: IO[bytes] | None) -> tuple[IO[bytes], str]:
    """A tar with the Dockerfile and, beside it, what is in the directory that the tar `files` holds; and its name.

    The caller closes it; `files` is closed here.
    """
    name = _DOCKERFILE + secrets.token_hex(8)  # which the volume cannot have foreseen
    with contextlib.ExitStack() as stack:
        context: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
        with tarfile.open(fileobj=context, mode="w") as made:
            text = ("\n".join(steps) + "\n").encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text), int(time.time())
            made.addfile(entry, io.BytesIO(text))
            if files is not None:
                with files:
                    _add_files(made, files)
        context.seek(0)
        stack.pop_all()  # the caller closes it
        return context, name


def _add_files(made: tarfile.TarFile, files: IO[bytes]) -> None:
    with tarfile.open(fileobj=files, mode="r|") as given:
        for member in given:
            member.name = _inner(member.name)
            if member.islnk():  # a link of the tar, whose names begin with the directory's
                member.linkname = _inner(member.linkname)
            if member.name:
                made.addfile(member, given.extractfile(member) if member.isreg() else None)


def _inner(name: str) -> str:
    """A name within the directory that a tar begins with."""
    return name.removeprefix("./").partition("/")[2]


# --- pulling ------------------------------------------------------------------------------------------------------


async def pull_image(engine: Engine, tag: str, body: PullImage, log: str, tell: Tell) -> str:
    """Pull an image and tag it.

    Raises:
        TaskFailed: there is none, it may not be pulled, or the registry does not answer.
        ConfigurationError: the file with credentials cannot be used.
    """
    repository = "/".join(part.strip("/") for part in (body.registry, body.repository) if part.strip("/"))
    name = f"{repository}:{body.tag}"
    credentials = _credentials(body, repository)
    output = BoundedLog(log, MAX_PULL_LOG)
    layers: dict[str, tuple[int, int]] = {}
    failed: list[str] = []
    told = [0.0]

    def make() -> Iterator[Item]:
        found: Iterator[Item] = engine.api.pull(
            repository, tag=body.tag, stream=True, decode=True, auth_config=credentials
        )
        return found

    def handle(item: Item) -> None:
        if item.get("error"):
            failed.append(str(item["error"]))
        detail = item.get("progressDetail")
        if isinstance(detail, dict) and isinstance(detail.get("total"), int) and isinstance(detail.get("current"), int):
            if item.get("status") == "Downloading":
                layers[str(item.get("id"))] = (detail["current"], detail["total"])
        elif item.get("status") or item.get("stream"):
            words = [str(item[key]) for key in ("id", "status", "stream") if item.get(key)]
            output.write(" ".join(words).rstrip() + "\n")
        if layers and time.monotonic() - told[0] > TELL_S:
            told[0] = time.monotonic()
            done, total = (sum(column) for column in zip(*layers.values(), strict=True))
            tell(f"pulling {name}: {done >> 20} of {total >> 20} MiB")

    try:
        tell(f"pulling {name}")
        await engine.stream(f"pull {name}", make, handle)
        if failed:
            raise TaskFailed(f"pulling {name} failed: {make_printable(' '.join(failed[-1].split()))[:300]}")
    except (ConfigurationError, TaskFailed) as error:
        output.write(f"{error}\n")
        raise error if isinstance(error, TaskFailed) else TaskFailed(f"pulling {name} failed: {error}") from error
    finally:
        output.close()
    return await _tag(engine, name, tag)


async def _tag(engine: Engine, name: str, tag: str) -> str:
    head, _, last = tag.rpartition(":")
    repository, label = (head, last) if head and "/" not in last else (tag, "latest")

    def work() -> str | None:
        engine.api.tag(name, repository, label, force=True)
        return engine.find_image(tag)

    try:
        found = await engine.call(f"tag {name} as {tag}", work, asked=True)
    except ConfigurationError as error:
        raise TaskFailed(str(error)) from error
    if found is None:
        raise TaskFailed(f"{name} was pulled and tagged, and there is no image {tag}")
    return found


def _credentials(body: PullImage, repository: str) -> dict[str, Any] | None:
    """For the registry; None: whatever this user is logged in with.

    Raises:
        ConfigurationError: the file is missing, or has none for this registry.
    """
    if body.auth is None:
        return None
    if isinstance(body.auth, Credentials):
        return {"username": body.auth.username, "password": body.auth.password}
    path = Path(body.auth)
    expected = "expected a file as `docker login` writes it (config.json)"
    try:
        registry, _ = docker.auth.resolve_repository_name(repository)
        if path.stat().st_size > MAX_AUTH_BYTES:
            raise ConfigurationError(f"Auth {path}: more than {MAX_AUTH_BYTES} bytes; {expected}")
        # Of the file's parts this alone: others name programs that are run to get at credentials.
        entries = docker.auth.parse_auth(json.loads(path.read_bytes())["auths"], raise_on_error=True)
        found = docker.auth.AuthConfig({"auths": entries}).resolve_authconfig(registry)
    except OSError as error:
        raise ConfigurationError(f"Auth {path}: {error.strerror}; {expected}") from error
    except docker.errors.InvalidRepository as error:
        raise TaskFailed(f"cannot pull {repository}: {explain(error)}") from error
    except (docker.errors.DockerException, ValueError, KeyError, TypeError, AttributeError) as error:
        # Without what the file holds: it may be any file of this host that the task names.
        raise ConfigurationError(f"Auth {path}: {expected}") from error
    if not found:
        raise ConfigurationError(f"Auth {path}: no credentials for {registry}; {expected}")
    if "IdentityToken" in found:
        return {"identitytoken": found["IdentityToken"]}
    return {"username": found["username"], "password": found["password"]}
