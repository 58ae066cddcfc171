"""Pairs and settings for the tests of container managers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from swarmlearning.swop.managers.boundary import ManagerSettings, Pair
from swarmlearning.swop.managers.docker_engine import connect
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.managers.docker_opening import own_user
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import Attribute, IdentityPart, ManagerKind, PeerNode
from swarmlearning.tasks.bodies import RunSwarm
from swarmlearning.types import Endpoint, NodeId

T = TypeVar("T")

AGENT = NodeId("spiffe://a.example/net/swop/agent")
SL = NodeId("spiffe://a.example/net/sl/sl1")
SL_IMAGE = "localhost/swarmlearning:test"
NO_LIMITS = Limits()


def make_settings(tmp: Path, **changes: Any) -> ManagerSettings:
    settings = ManagerSettings(data=str(tmp / "data"), agent=AGENT, group="demo", sl_image=SL_IMAGE)
    return replace(settings, **changes)


def open_at(socket: Path, settings: ManagerSettings, monkeypatch: Any, kind: ManagerKind) -> ContainerManager:
    """A manager of an engine at `socket`."""
    monkeypatch.setenv("CONTAINER_HOST" if kind is ManagerKind.PODMAN else "DOCKER_HOST", f"unix://{socket}")
    engine = connect(kind)
    return ContainerManager(engine, settings, own_user(rootless=engine.rootless))


def make_identity(directory: Path) -> tuple[Attribute, ...]:
    directory.mkdir(exist_ok=True)
    parts = []
    for part, name in (
        (IdentityPart.CERT, "cert.pem"),
        (IdentityPart.KEY, "key.pem"),
        (IdentityPart.CACERT, "ca.pem"),
    ):
        (directory / name).write_text(f"{part.value} of sl1\n")
        (directory / name).chmod(0o600)
        parts.append(Attribute(part=part, kind="BIND", source=str(directory / name), target=f"/swarm/{name}"))
    return tuple(parts)


def make_body(script: str = "true", **changes: Any) -> RunSwarm:
    """A task whose program is a shell script."""
    quoted = script.replace("'", "'\"'\"'")
    return replace(RunSwarm(entrypoint="/bin/sh", command=f"-c '{quoted}'", working_dir="/tmp"), **changes)


def make_pair(tmp: Path, script: str = "true", *, node: dict[str, Any] | None = None, **changes: Any) -> Pair:
    """A pair of which the program is a shell script."""
    logs = tmp / "logs"
    logs.mkdir(exist_ok=True)
    peer = PeerNode(idx=0, line=10, identity=make_identity(tmp / "identity"), **(node or {}))
    pair = Pair(
        id="p1",
        label="runner 7 run_task",
        uid=SL,
        node=peer,
        group="demo",
        image=SL_IMAGE,
        image_id="",
        body=make_body(script),
        sn=Endpoint(host="10.1.1.1", port=30304),
        host_ip="10.1.1.2",
        sl_environment=(),
        ml_environment=(),
        network=None,
        dns=(),
        online=False,
        sandboxed=True,
        limits=NO_LIMITS,
        directory=str(tmp / "data" / "pairs" / "p1"),
        sl_log=str(logs / "sl.log"),
        ml_log=str(logs / "ml.log"),
    )
    return replace(pair, **changes)


def run(manager: ContainerManager, main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, and close the manager."""

    async def whole() -> T:
        try:
            return await main
        finally:
            await manager.close()

    return asyncio.run(whole())


def read(path: str) -> str:
    """A file's text; empty if there is none."""
    return Path(path).read_text() if Path(path).exists() else ""


def exists(path: str) -> bool:
    return Path(path).exists()


async def until(what: str, condition: Callable[[], Awaitable[bool]], limit_s: float = 30.0) -> None:
    """Wait until a condition holds that nothing tells of by itself, as who asks an engine has to."""
    deadline = time.monotonic() + limit_s
    while not await condition():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s: {what}"
        await asyncio.sleep(0.05)
