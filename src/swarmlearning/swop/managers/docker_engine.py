"""A container engine behind the Docker API: how it is reached, and every call to it kept off the event loop.

Nothing but this module and those that are given an `Engine` import the `docker` package (extra `containers`). Knows
nothing of pairs and images. Spec: docs/spec/swop-containers.md, SW-70.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import docker
import docker.errors
import requests
import urllib3

from swarmlearning.errors import ConfigurationError, SwarmError, Unreachable, WaitExpired
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.profile import ManagerKind

T = TypeVar("T")

CALL_S: Final = 30.0
"""How long the engine may take over one call, seconds."""

SILENCE_S: Final = 3600.0
"""How long a build or a pull may say nothing before it is given up, seconds."""

MAX_CALLS: Final = 16
"""Calls at once; more wait. One that hangs must not take every thread of this process."""

MAX_EXPLANATION: Final = 400
"""Characters of what an engine says that are passed on."""

_BACKLOG: Final = 1_000
"""Items of a stream that are read ahead."""

Item = dict[str, Any]
"""What an engine says in JSON; `Any`, as it is whatever it sent."""

FAULTS: Final = (
    docker.errors.DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    # An answer that is no engine's fails wherever somebody looks into it.
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    struct.error,
)
"""What calls of the `docker` package end with."""


def explain(error: BaseException) -> str:
    """What an engine or the way to it says is wrong, in a line."""
    if isinstance(error, docker.errors.APIError):
        said: object = error.explanation
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said or error)
    else:
        reason: BaseException = error
        while reason.args and isinstance(reason.args[-1], BaseException):  # theirs wrap one another
            reason = reason.args[-1]
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return make_printable(" ".join(text.split()))[:MAX_EXPLANATION]


def status_of(error: BaseException) -> int | None:
    """The HTTP status an engine refused with; None where it did not answer."""
    return error.status_code if isinstance(error, docker.errors.APIError) else None


class Engine:
    """An engine that answered."""

    def __init__(self, kind: ManagerKind, address: str, api: docker.APIClient) -> None:
        """Ask what it is; blocks.

        Raises:
            One of `FAULTS`: it does not answer, or not as an engine does.
        """
        self.kind = kind
        self.address = address
        self.api = api
        version = str(api.version()["Version"])
        options = [str(option) for option in api.info().get("SecurityOptions") or ()]
        self.version = make_printable(version)[:40]
        self.rootless = any("rootless" in option for option in options)
        """Whether it runs as a user, who is `root` in its containers."""
        self.selinux = any("selinux" in option for option in options)
        self.helpers: set[str] = set()
        """Containers that never run, through which volumes are read and filled just now."""
        self._slots = asyncio.Semaphore(MAX_CALLS)

    @property
    def title(self) -> str:
        """Its product's name, for people."""
        return "Podman" if self.kind is ManagerKind.PODMAN else "Docker"

    async def call(self, doing: str, function: Callable[[], T], *, limit_s: float = CALL_S, asked: bool = False) -> T:
        """What `function` returns, which is run in a thread of its own.

        Args:
            doing: for messages: `start the container x`.
            function: makes calls of `api`; goes on for nothing once its time is up.
            limit_s: how long it may take, seconds.
            asked: it is what a task or profile asks for, and an engine's refusal, which it calls an error of its own
                as often as not, is about that.

        Raises:
            WaitExpired: its time is up.
            Unreachable: the engine does not answer, or not as an engine does.
            ConfigurationError: the engine refuses.
        """
        async with self._slots:
            try:
                async with asyncio.timeout(limit_s):
                    return await run_in_thread(function)
            except TimeoutError as error:
                raise WaitExpired(f"waited {limit_s:g} s for {self.title} at {self.address} to {doing}") from error
            except SwarmError:
                raise
            except FAULTS as error:
                raise self.fault(doing, error, asked=asked) from error

    def fault(self, doing: str, error: BaseException, *, asked: bool = False) -> SwarmError:
        """How we tell an error of `FAULTS`."""
        status = status_of(error)
        if status is not None and (status < 500 or asked):
            return ConfigurationError(f"{self.title} could not {doing}: {explain(error)}")
        if status is not None:
            return Unreachable(f"{self.title} at {self.address} could not {doing} (status {status}): {explain(error)}")
        if isinstance(error, requests.Timeout):
            return WaitExpired(f"waited for {self.title} at {self.address} to {doing}: {explain(error)}")
        return Unreachable(f"{self.title} at {self.address} does not answer, so as to {doing}: {explain(error)}")

    async def stream(self, doing: str, make: Callable[[], Iterator[Item]], handle: Callable[[Item], None]) -> None:
        """Have `handle` see all that an engine says while it builds or pulls.

        Where this is cancelled the connection is closed at the next thing it says, and the engine stops.

        Raises:
            As `call`; and whatever `handle` raises.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
        room = threading.Semaphore(_BACKLOG)
        stopped = threading.Event()

        def put(item: Item | BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(items.put_nowait, item)

        def read() -> None:
            try:
                for item in make():
                    room.acquire()
                    if stopped.is_set():
                        return
                    put(item)
                put(None)
            except FAULTS as error:
                put(error)

        threading.Thread(target=read, name=f"engine: {doing}", daemon=True).start()
        try:
            while True:
                try:
                    item = await asyncio.wait_for(items.get(), SILENCE_S)
                except TimeoutError as error:
                    raise WaitExpired(
                        f"{self.title} at {self.address} was to {doing} and has said nothing for {SILENCE_S:g} s"
                    ) from error
                room.release()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise self.fault(doing, item, asked=True) from item
                handle(item)
        finally:
            stopped.set()
            room.release()

    def create_container(self, config: Item, name: str | None = None) -> str:
        """Make a container of what the API calls its configuration; its id. Blocks."""
        made = self.api.create_container_from_config(config, name)  # type: ignore[no-untyped-call]  # no types there
        return str(made["Id"])

    def find_image(self, tag: str) -> str | None:
        """An image's id; None if there is none of this tag. Blocks."""
        try:
            return str(self.api.inspect_image(tag)["Id"])  # type: ignore[no-untyped-call]  # no types there
        except docker.errors.NotFound:
            return None

    def image_labels(self, tag: str) -> dict[str, str] | None:
        """An image's labels; None if there is none of this tag. Blocks."""
        try:
            found = self.api.inspect_image(tag)  # type: ignore[no-untyped-call]  # no types there
        except docker.errors.NotFound:
            return None
        return dict((found.get("Config") or {}).get("Labels") or {})

    def close(self) -> None:
        """Close its connections."""
        self.api.close()


async def run_in_thread(function: Callable[[], T]) -> T:
    """What `function` returns; its thread does not keep this process from ending, however long it hangs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # nobody waits any more
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is what function returned, None or not

    def work() -> None:
        try:
            result, error = function(), None
        except Exception as raised:  # noqa: BLE001  # a thread's boundary: whoever awaits gets it
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="engine", daemon=True).start()
    return await future


# --- reaching one -------------------------------------------------------------------------------------------------


def connect(kind: ManagerKind) -> Engine:
    """Reach the engine that this environment names; blocks.

    Raises:
        ConfigurationError: the environment is wrong.
        Unreachable: it does not answer; says what was tried and what to do.
    """
    return _connect_podman() if kind is ManagerKind.PODMAN else _connect_docker()


def _connect_docker() -> Engine:
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if os.environ.get("DOCKER_HOST"):  # else a context of the command line's may name another
        _try_socket("Docker", address, _DOCKER_HELP)

    def make() -> docker.APIClient:
        try:
            return docker.from_env(timeout=int(CALL_S)).api
        except docker.errors.TLSParameterError as error:
            raise ConfigurationError(
                f"DOCKER_TLS_VERIFY, DOCKER_CERT_PATH: {explain(error)}; expected ca.pem, cert.pem and key.pem there"
            ) from error

    return _connect(ManagerKind.DOCKER, "Docker", address, make, _DOCKER_HELP)


def _connect_podman() -> Engine:
    address = os.environ.get("CONTAINER_HOST") or next(iter(_podman_sockets()), "")
    if not address:
        tried = ", ".join(str(path) for path in _podman_paths())
        raise Unreachable(f"no socket of Podman at {tried}: {_PODMAN_HELP}")
    if not address.startswith(("unix://", "tcp://", "http://")):
        raise ConfigurationError(f"CONTAINER_HOST={address}: expected unix:///PATH or tcp://HOST:PORT")
    _try_socket("Podman", address, _PODMAN_HELP)

    def make() -> docker.APIClient:
        return docker.APIClient(base_url=address, version="auto", timeout=int(CALL_S))

    return _connect(ManagerKind.PODMAN, "Podman", address, make, _PODMAN_HELP)


def _connect(
    kind: ManagerKind, title: str, address: str, make: Callable[[], docker.APIClient], help_text: str
) -> Engine:
    try:
        api = make()
        try:
            return Engine(kind, address, api)
        except FAULTS:
            api.close()
            raise
    except FAULTS as error:
        raise _unreachable(title, address, explain(error), help_text) from error


def _try_socket(title: str, address: str, help_text: str) -> None:
    """Whether anything listens there; the package would say so in many words, and leave the socket open."""
    if not address.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CALL_S)
        try:
            connection.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise _unreachable(title, address, error.strerror or str(error), help_text) from error


_DOCKER_HELP: Final = (
    "start Docker (`systemctl start docker`), let this user use it (group docker), or name another by DOCKER_HOST"
)
_PODMAN_HELP: Final = (
    "start its service (`systemctl --user start podman.socket`, or without --user as root), or name another by "
    "CONTAINER_HOST"
)


def _unreachable(title: str, address: str, reason: str, help_text: str) -> Unreachable:
    return Unreachable(f"{title} does not answer at {address} ({reason}): {help_text}")


def _podman_paths() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = [Path(runtime) / "podman" / "podman.sock"] if runtime else []
    return [*own, Path("/run/podman/podman.sock")]


def _podman_sockets() -> list[str]:
    found = []
    for path in _podman_paths():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.stat().st_mode):
                found.append(f"unix://{path}")
    return found
