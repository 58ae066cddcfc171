"""Programs over a local network, with a stand-in for the ledger: nobody is left to wait in vain."""

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from swarmlearning.contracts.records import Peer, PeerState, Phase, Training
from swarmlearning.errors import Unreachable
from swarmlearning.local.live import View
from swarmlearning.local.network import LocalNetwork, Site, Sl
from swarmlearning.local.process import Command, Process, Reaper
from swarmlearning.local.training import Ended, Program, TrainingRun
from swarmlearning.sn.client import SnClient
from swarmlearning.types import ContractName, Endpoint, NodeId, TrustDomain

NODES = [NodeId(f"spiffe://local.example/local/sl/sl-{i}") for i in range(3)]
CONTRACT = ContractName("c")
ENDLESS = "import time; print('waiting', flush=True); time.sleep(60)"


class FakeSn(SnClient):
    """The ledger: one record, which the test changes."""

    def __init__(self) -> None:
        self.records: dict[ContractName, Training] = {}
        self.changed = asyncio.Condition()
        self.watched: list[ContractName] = []
        self.asked = asyncio.Event()

    async def contracts(self) -> tuple[ContractName, ...]:
        self.asked.set()
        return tuple(self.records)

    async def training(self, name: ContractName) -> Training | None:
        return self.records.get(name)

    async def watch(self, name: ContractName, after_version: int = 0) -> AsyncIterator[Training]:
        self.watched.append(name)
        seen = after_version
        while True:
            async with self.changed:
                while name not in self.records or self.records[name].version <= seen:
                    await self.changed.wait()
                seen = self.records[name].version
            yield self.records[name]

    async def put(self, training: Training) -> None:
        async with self.changed:
            self.records[training.name] = training
            self.changed.notify_all()


class FakeNetwork(LocalNetwork):
    """A network whose nodes are as healthy as the test wants."""

    def __init__(self, tmp_path: Path, reaper: Reaper) -> None:
        super().__init__([Site(domain=TrustDomain("local.example"))], tmp_path)
        self.reaper = reaper
        self.broken = asyncio.Event()

    async def watch_nodes(self) -> None:
        await self.broken.wait()
        raise Unreachable("sn.local.example ended")


def record(
    states: list[PeerState], version: int, phase: Phase = Phase.COLLECTING, name: ContractName = CONTRACT
) -> Training:
    peers = tuple(
        Peer(
            node=node, endpoint=Endpoint(host="127.0.0.1", port=1), state=state, min_peers=3, weight=1,
            restored=False, enrolled_round=0,
        )
        for node, state in zip(NODES, states, strict=False)
    )  # fmt: skip
    return Training(
        name=name, creator=TrustDomain("local.example"), created_height=1, peers=peers, phase=phase, version=version
    )


LIVE, FINISHED = PeerState.LIVE, PeerState.FINISHED


class Stage:
    """One `TrainingRun` with its fakes."""

    def __init__(self, tmp_path: Path, reaper: Reaper, contracts: list[ContractName]) -> None:
        self.sn = FakeSn()
        self.network = FakeNetwork(tmp_path, reaper)
        self.out = io.StringIO()
        self.lines: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.view = View(Console(file=self.out), {}, title="t")
        self.run = TrainingRun(
            self.network,
            self.sn,
            contracts,
            self.view,
            echo=lambda name, text: self.lines.put_nowait((name, text)),
        )


def play(
    tmp_path: Path,
    programs: list[str],
    script: Callable[[Stage], Coroutine[Any, Any, None]] | None = None,
    contracts: list[ContractName] | None = None,
) -> tuple[list[Ended], Stage]:
    """Run programs while `script`, a coroutine function, plays the ledger."""

    async def main() -> tuple[list[Ended], Stage]:
        stage = Stage(tmp_path, reaper, contracts or [CONTRACT])
        process = await Process.start(command("true", tmp_path), reaper)
        await process.wait()
        made = []
        for index, text in enumerate(programs):
            control = tmp_path / str(index)
            control.mkdir()
            sl = Sl(node=NODES[index], control=control, data=control, process=process)
            argv = (sys.executable, "-I", "-S", "-c", text)
            made.append(Program(name=f"peer {index}", sl=sl, argv=argv, env=os.environ, log=tmp_path / f"{index}.log"))
        playing = asyncio.ensure_future(script(stage)) if script is not None else None
        ended = await asyncio.wait_for(stage.run.run(made), 30)
        if playing is not None:
            await playing
        return ended, stage

    reaper = Reaper()
    try:
        return asyncio.run(main())
    finally:
        reaper.close()


def command(program: str, tmp_path: Path) -> Command:
    return Command(name=program, argv=(program,), env=os.environ, log=tmp_path / "stand-in.log")


def test_programs_that_all_end_are_reported_with_their_status(tmp_path: Path) -> None:
    (ended,), _ = play(tmp_path, ["", "raise SystemExit(3)"])
    assert [ending.status for ending in ended.endings] == [0, 3]
    assert ended.training is None
    assert ended.faults[0] == "peer 1: the program ended with status 3"


def test_peers_left_below_the_minimum_are_ended_and_it_is_said(tmp_path: Path) -> None:
    async def ledger(stage: Stage) -> None:
        await stage.sn.put(record([LIVE, LIVE, LIVE], 1))

    (ended,), stage = play(tmp_path, [ENDLESS, ENDLESS, "raise SystemExit(1)"], ledger)
    assert [ending.status for ending in ended.endings] == [143, 143, 1]
    assert "ended early: peer 2 (status 1); c would need 1 more for a round" in stage.out.getvalue()


def test_whoever_enrols_later_is_not_left_to_wait(tmp_path: Path) -> None:
    """Peer 2 ends before anybody has enrolled, the others enrol after that, under a contract that we do not show."""

    async def ledger(stage: Stage) -> None:
        while stage.run._running.get(NODES[2]) is None:
            await stage.lines.get()
        await stage.run._running[NODES[2]].wait()
        await stage.sn.put(record([LIVE, LIVE], 1, name=ContractName("c/stats")))

    (ended,), stage = play(tmp_path, [ENDLESS, ENDLESS, "raise SystemExit(1)"], ledger)
    assert [ending.status for ending in ended.endings] == [143, 143, 1]
    assert "c/stats would need 1 more" in stage.out.getvalue()


def test_programs_that_never_enrol_may_end_when_they_like(tmp_path: Path) -> None:
    (ended,), _ = play(tmp_path, ["import time; time.sleep(1.5)", ""])
    assert [ending.status for ending in ended.endings] == [0, 0]


def test_a_peer_whose_sl_goes_on_serving_still_counts(tmp_path: Path) -> None:
    """Peer 2's program is over and finished: with the two that are left there are three, and nobody is ended."""

    async def ledger(stage: Stage) -> None:
        await stage.sn.put(record([LIVE, LIVE, FINISHED], 1))
        first = {await stage.lines.get(), await stage.lines.get()}
        assert first == {("peer 0", "waiting"), ("peer 1", "waiting")}
        await stage.sn.asked.wait()  # peer 2 has ended, and the ledger was asked whether enough are left
        assert "ended early" not in stage.out.getvalue()
        for node in NODES[:2]:
            stage.run._running[node].ask_to_stop()

    (ended,), _ = play(tmp_path, [ENDLESS, ENDLESS, ""], ledger)
    assert [ending.status for ending in ended.endings] == [143, 143, 0]


def test_a_complete_training_ends_nobody_early(tmp_path: Path) -> None:
    linger = "import time; time.sleep(0.5)"

    async def ledger(stage: Stage) -> None:
        await stage.sn.put(record([LIVE, FINISHED, FINISHED], 1, Phase.COMPLETED))

    (ended,), stage = play(tmp_path, [linger, "", ""], ledger)
    assert [ending.status for ending in ended.endings] == [0, 0, 0]
    assert "ended early" not in stage.out.getvalue()


def test_a_node_that_dies_ends_the_programs(tmp_path: Path) -> None:
    stages: list[Stage] = []

    async def ledger(stage: Stage) -> None:
        stages.append(stage)
        await stage.lines.get()
        stage.network.broken.set()

    with pytest.raises(Unreachable, match=r"sn\.local\.example ended"):
        play(tmp_path, [ENDLESS, ENDLESS], ledger)
    assert all(process.status == 143 for process in stages[0].run._running.values())


def test_trainings_are_followed_in_turn(tmp_path: Path) -> None:
    names = [ContractName("heart-0"), ContractName("heart-1")]

    async def ledger(stage: Stage) -> None:
        await stage.sn.put(record([FINISHED] * 3, 1, Phase.COMPLETED, names[0]))
        await stage.sn.put(record([FINISHED] * 3, 1, Phase.COMPLETED, names[1]))

    ended, stage = play(tmp_path, ["", ""], ledger, names)
    assert [each.contract for each in ended] == names
    assert stage.sn.watched[:1] == names[:1]
