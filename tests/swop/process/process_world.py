"""Real pairs for tests of the PROCESS manager: programs given as text, without an SL unless a test wants one."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sandbox_support import has_bubblewrap

from swarmlearning.swop.managers.boundary import ManagerSettings, Pair, Part, PartState, PartStatus
from swarmlearning.swop.managers.process import ProcessManager
from swarmlearning.swop.managers.process_images import ProcessImages
from swarmlearning.swop.managers.process_sl import make_control
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import PeerNode, PrivateData
from swarmlearning.tasks.bodies import Mount, RunSwarm
from swarmlearning.types import Endpoint, NodeId

UID = NodeId("spiffe://a.example/test/sl/sl-0")

WAIT_S = 30.0


def settings(data: Path, *, keep: bool = False) -> ManagerSettings:
    return ManagerSettings(
        data=str(data), agent=NodeId("spiffe://a.example/test/swop/swop-0"), group="group", keep=keep
    )


def plain_manager(data: Path, reason: str = "there is none in this test", *, keep: bool = False) -> ProcessManager:
    """A manager on a host that has no sandbox."""
    return ProcessManager(settings(data, keep=keep), ProcessImages(settings(data)), reason)


def make_pair(data: Path, program: str = "", name: str = "pair-1", **changes: Any) -> Pair:
    """A pair whose program is `program`, in Python; other fields as in `changes`, those of its body with `body_`."""
    logs = data / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = Pair(
        id=name,
        label="runner 1 task",
        uid=UID,
        node=PeerNode(idx=0, line=1, identity=()),
        group="group",
        image="",
        image_id="",
        body=RunSwarm(command=quote(program), entrypoint="python3 -I -c", working_dir="/platform"),
        sn=Endpoint(host="127.0.0.1", port=1),
        host_ip="127.0.0.1",
        sl_environment=(),
        ml_environment=(),
        network=None,
        dns=(),
        online=False,
        sandboxed=False,
        limits=Limits(),
        directory=str(data / "pairs" / name),
        sl_log=str(logs / f"{name}.sl.log"),
        ml_log=str(logs / f"{name}.ml.log"),
    )
    body = {key.removeprefix("body_"): value for key, value in changes.items() if key.startswith("body_")}
    rest = {key: value for key, value in changes.items() if not key.startswith("body_")}
    return replace(pair, body=replace(pair.body, **body), **rest)


def shared(source: Path, target: str = "/platform/shared") -> Mount:
    return Mount(source=str(source), target=target, kind="BIND")


def private(source: Path) -> PeerNode:
    return PeerNode(idx=0, line=1, identity=(), private_data=PrivateData(source=str(source), kind="BIND"))


def quote(program: str) -> str:
    return "'" + program.replace("'", "'\"'\"'") + "'"


def prepare(pair: Pair) -> Path:
    """What starting an SL would have made; its control directory."""
    (Path(pair.directory) / "exchange").mkdir(mode=0o700, parents=True, exist_ok=True)
    return make_control(Path(pair.directory))


async def run_program(manager: ProcessManager, pair: Pair, limit_s: float = WAIT_S) -> PartStatus:
    """Run a pair's program to its end."""
    prepare(pair)
    await manager.start_ml(pair)
    return await wait_ended(manager, pair, Part.ML, limit_s)


async def wait_ended(manager: ProcessManager, pair: Pair, part: Part, limit_s: float = WAIT_S) -> PartStatus:
    async def ended() -> PartStatus | None:
        status = getattr(await manager.look(pair), part.value)
        return status if status.state is PartState.EXITED else None

    deadline = time.monotonic() + limit_s
    while (status := await ended()) is None:
        assert time.monotonic() < deadline, f"{part} of {pair.id} runs on: {log_of(pair)}"
        await asyncio.sleep(0.02)
    return status


async def wait_for(what: Callable[[], bool], limit_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


def log_of(pair: Pair) -> str:
    path = Path(pair.ml_log)
    return path.read_text(errors="replace") if path.exists() else ""


def sl_log_of(pair: Pair) -> str:
    return Path(pair.sl_log).read_text(errors="replace")


async def wait_ready(manager: ProcessManager, pair: Pair) -> bool:
    """Wait until an SL is ready; whether it was seen starting."""
    starting = False
    while (state := (await manager.look(pair)).sl.state) is not PartState.RUNNING:
        assert state is PartState.STARTING, sl_log_of(pair)
        starting = True
        await asyncio.sleep(0.02)
    return starting


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def open_manager(data: Path, *, sandbox: bool) -> ProcessManager:
    """A manager with the sandbox of this host, or without one; skips where this host has none."""
    if not sandbox:
        return plain_manager(data)
    manager = asyncio.run(ProcessManager.open(settings(data)))
    if not manager.isolates:
        # A sandbox that we have broken must not pass for a host that has none.
        if not has_bubblewrap():
            pytest.skip(manager.describe())
        pytest.fail(manager.describe())
    return manager


IS_ROOT = os.getuid() == 0
