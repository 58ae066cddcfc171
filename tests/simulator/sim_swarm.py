"""`SwarmSimulator`: a whole swarm in one process, on virtual time, decided by one seed."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sim_faults import Fault, Hooks, Planned, SimFaults
from sim_identity import NETWORK, authority, node_name, signing_key, sl_id
from sim_loop import START_MS, describe_tasks, run_virtual
from sim_nodes import SimSl, SimSn, WrongMean, sl_endpoint, sn_api, sn_p2p

from swarmlearning.contracts.membership import load_training
from swarmlearning.contracts.records import Genesis, Organisation, Progress, Settings, Training
from swarmlearning.encoding import encode
from swarmlearning.errors import SwarmError
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, lay_out, read_arrays, write_arrays
from swarmlearning.sl.control import CONTROL_VERSION, Open
from swarmlearning.sl.exchange import ChunkRequest, ResultRequest
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.program import SyncOutcome
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.state import Overlay
from swarmlearning.transport.api import Address
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import DEFAULT_CONTRACT, NodeId, NodeName, Role

SETTINGS = Settings(
    sync_frequency=1, checkin_mode="snapshot", start="merge", grace_ms=5_000, lease_ms=2_000, round_max_ms=60_000
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one peer's ML program does."""

    syncs: int = 3
    pace_s: float = 1.0
    """Training between two syncs, seconds; jittered."""
    delay_s: float = 0.0
    """Before it starts."""
    min_peers: int = 0
    """0: as many as there are programs."""
    weight: int = 1
    restored: bool = False
    leave_at: int | None = None
    """Leaves politely instead of its k-th sync (from 0)."""
    die_at: int | None = None
    """Dies while its k-th sync is under way; its SL lives."""
    die_after_s: float = 0.3
    """How long after it asked."""
    nan_at: int | None = None
    """Offers NaN at its k-th sync."""
    still: bool = False
    """Training changes nothing, so that all rounds have one result."""


@dataclass(kw_only=True)
class Ended:
    """How a program ended."""

    outcome: SyncOutcome | None = None
    error: SwarmError | None = None
    left: bool = False
    synced: list[SyncOutcome] = field(default_factory=list)
    merged: dict[int, bytes] = field(default_factory=dict)
    """What it was given, by round."""


class SwarmSimulator:
    """N organisations, each with an SN and an SL; organisation 0's SN is the sentinel. `run` once.

    Args:
        seed: decides everything that chance decides.
        tmp: where SLs keep results.
        programs: one a peer; None where an organisation's never comes.
        settings: of the contract.
        faults: what goes wrong.
        size: float32 elements of the model's large tensor.
        durable: whether SNs keep their ledger on disk (one that is crashed must).
        limit_s: virtual time after which the run has hung.
    """

    def __init__(
        self,
        seed: int,
        tmp: Path,
        programs: Sequence[Program | None],
        *,
        settings: Settings = SETTINGS,
        faults: Sequence[Planned] = (),
        size: int = 100,
        durable: bool = False,
        limit_s: float = 300.0,
    ) -> None:
        self.seed = seed
        self.tmp = tmp
        self.settings = settings
        self.limit_s = limit_s
        self.size = size
        self.programs = list(programs)
        self.rng = random.Random(seed)
        self.faults = SimFaults(plan=tuple(faults), rng=random.Random(self.rng.random()))
        self.network = MemoryNetwork(self.faults)
        self.commitments: dict[bytes, bytes] = {}
        self.served: set[tuple[NodeId, NodeId, ChunkRequest | ResultRequest]] = set()
        self.history: list[Training] = []
        """The default contract's record after every block that changed it."""
        self.ended: dict[int, Ended] = {}
        self.finished_s = 0.0
        self.tip = b""
        """State root of the sentinel at the end."""
        self.left_over: list[str] = []
        """Tasks that still ran after everything had been stopped."""
        self.kept: dict[int, int] = {}
        """How many received or merged shards each SL still held in memory at the end."""
        genesis = encode(self._genesis())
        disk = tmp / f"seed-{seed}"
        disk.mkdir(parents=True, exist_ok=True)
        self.sns = [
            SimSn(
                self.network,
                index,
                genesis,
                random.Random(self.rng.random()),
                disk / f"sn{index}" if durable else None,
                self._on_commit if index == 0 else lambda _: None,
            )
            for index in range(len(self.programs))
        ]
        self.sls = [
            SimSl(self.network, index, random.Random(self.rng.random()), disk / f"sl{index}", self)
            for index in range(len(self.programs))
        ]
        self._running: dict[int, asyncio.Task[None]] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._echoes: set[asyncio.Task[None]] = set()

    # --- what faults and nodes call -----------------------------------------------------------------------------

    def on_served(self, server: NodeId, caller: NodeId, request: ChunkRequest | ResultRequest) -> None:
        """A frame was served."""
        self.served.add((server, caller, request))

    def _on_commit(self, app: SwarmApplication) -> None:
        training = load_training(Overlay(app.store), DEFAULT_CONTRACT)
        if training is not None and (not self.history or training.version > self.history[-1].version):
            self.history.append(training)

    @property
    def fired(self) -> Counter[Fault]:
        """How often each fault fired."""
        return self.faults.fired

    @property
    def last(self) -> Training:
        """The record at the end."""
        return self.history[-1]

    def crash_sl(self, index: int, restart_s: float | None) -> None:
        """An SL dies with its program; both start again after `restart_s`."""
        self._chore(self._crash_sl(index, restart_s))

    async def _crash_sl(self, index: int, restart_s: float | None) -> None:
        program = self._running.get(index)
        if program is not None:
            program.cancel()
        await self.sls[index].stop()
        if restart_s is not None:
            await asyncio.sleep(restart_s)
            await self.sls[index].start()
            plan = self.programs[index]
            assert plan is not None
            self._start_program(index, replace(plan, delay_s=0.0))

    async def _crash_sn(self, planned: Planned) -> None:
        await asyncio.sleep(planned.at_s)
        self.faults.count(Fault.CRASH_SN)
        await self.sns[planned.node].stop()
        await asyncio.sleep(planned.until_s - planned.at_s)
        await self.sns[planned.node].start()

    def _repeat(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> None:
        async def again() -> None:
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            try:
                await self.network.deliver(NodeName.parse(frm), self._address(to, method), method, body)
            except SwarmError:
                return  # the second copy may come too late for anybody to answer

        task = asyncio.ensure_future(again())
        self._echoes.add(task)
        task.add_done_callback(self._echoes.discard)

    def _address(self, to: NodeId, method: str) -> Address:
        index = self._index_of(to)
        if NodeName.parse(to).role is Role.SL:
            return Address(node=to, endpoint=sl_endpoint(index))
        return sn_p2p(index) if method.startswith("ledger/") else sn_api(index)

    def _spoil(self, index: int) -> None:
        desk = self.sls[index].desks[DEFAULT_CONTRACT]
        if desk.offer is not None and not desk.offer.buffer.readonly and desk.offer.buffer[0] != 77:
            self.faults.count(Fault.OTHER_BYTES)
            desk.offer.buffer[0] = 77

    def _index_of(self, node: NodeId) -> int:
        return int(NodeName.parse(node).domain[3:5])

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    # --- the run --------------------------------------------------------------------------------------------------

    def _genesis(self) -> Genesis:
        sentinel = node_name(0, Role.SN)
        names = [node_name(index, Role.SN).domain for index in range(len(self.programs))]
        return Genesis(
            network=NETWORK,
            version=1,
            created_ms=START_MS - 1000,
            sentinel=sentinel.id,
            sentinel_key=signing_key(sentinel).public,
            organisations=tuple(Organisation(domain=name, issuers=(authority(name),)) for name in names),
        )

    def run(self) -> "SwarmSimulator":
        """Run until every program has ended; returns itself."""
        try:
            run_virtual(self._run())
        except BaseException as error:
            error.add_note(f"simulation with seed {self.seed}; faults fired: {dict(self.fired)}")
            raise
        return self

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self.faults.hooks = Hooks(
            index_of=self._index_of, now=loop.time, crash_sl=self.crash_sl, repeat=self._repeat, spoil=self._spoil
        )
        self._make_dishonest()
        for sn in self.sns:
            await sn.start()
        await asyncio.gather(*(sl.start() for sl, plan in zip(self.sls, self.programs, strict=True) if plan))
        for planned in self.faults.plan:
            if planned.fault is Fault.CRASH_SN:
                self._chore(self._crash_sn(planned))
        for index, plan in enumerate(self.programs):
            if plan is not None:
                self._start_program(index, plan)
        try:
            async with asyncio.timeout(self.limit_s):
                await self._wait_programs()
        except TimeoutError as error:
            raise AssertionError(self._describe_hang()) from error
        self.finished_s = loop.time()
        await self._stop()

    async def _wait_programs(self) -> None:
        while True:
            waiting = [task for task in (*self._running.values(), *self._chores) if not task.done()]
            if not waiting:
                break
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in self._running.values():
            if not task.cancelled():
                task.result()

    async def _stop(self) -> None:
        for echo in list(self._echoes):
            echo.cancel()
        for sl in self.sls:
            for desk in sl.desks.values():
                self.kept[sl.index] = len(desk.pulls) + len(desk.merged) + len(desk.fetched)
            await sl.stop()
        self.tip = self.sns[0].app.store.root()
        for sn in self.sns:
            await sn.stop()
        for _ in range(5):
            await asyncio.sleep(0)
        own = asyncio.current_task()
        if any(task is not own for task in asyncio.all_tasks()):
            self.left_over.append(describe_tasks(asyncio.get_running_loop()))

    def _make_dishonest(self) -> None:
        for planned in self.faults.plan:
            sl = self.sls[planned.node]
            if planned.fault is Fault.WRONG_MERGE:
                sl.method = WrongMean(lambda: self.faults.count(Fault.WRONG_MERGE))
            if planned.fault is Fault.NAN:
                sl.hides_nan = lambda: self.faults.count(Fault.NAN)

    def _describe_hang(self) -> str:
        waits = []
        for index, sl in enumerate(self.sls):
            if sl.participation is not None and not self._running[index].done():
                waits.append(f"peer {index}: {sl.participation.explain()}")
        tasks = describe_tasks(asyncio.get_running_loop())
        return f"hung: not over after {self.limit_s:.0f} s of virtual time\n" + "\n".join(waits) + "\n" + tasks

    # --- programs -------------------------------------------------------------------------------------------------

    def _start_program(self, index: int, plan: Program) -> None:
        self.ended[index] = Ended()
        self._running[index] = asyncio.ensure_future(self._program(index, plan))

    def initial(self, index: int) -> dict[str, Array]:
        """A model that differs from peer to peer."""
        values = np.random.default_rng((self.seed, index)).normal(size=self.size)
        return {"kernel": values.astype(np.float32), "bias": np.full(3, float(index)), "steps": np.array(index)}

    async def _program(self, index: int, plan: Program) -> None:
        ended = self.ended[index]
        rng = random.Random(f"{self.seed} {index}")
        await asyncio.sleep(plan.delay_s)
        arrays = self.initial(index)
        manifest = lay_out(arrays)
        own = memoryview(bytearray(manifest.size))
        request = Open(
            version=CONTROL_VERSION,
            program="simulated",
            contract=DEFAULT_CONTRACT,
            settings=self.settings,
            min_peers=plan.min_peers or sum(p is not None for p in self.programs),
            weight=plan.weight,
            restored=plan.restored,
            manifest=encode(manifest),
            file="own",
        )
        participation = await self.sls[index].begin(request, manifest, own)
        try:
            _, late = await participation.open()
            if late is not None:
                arrays = read_arrays(manifest, late.buffer)
            for step in range(plan.syncs):
                await asyncio.sleep(plan.pace_s * rng.uniform(0.5, 1.5))
                if not plan.still:
                    arrays["kernel"] = arrays["kernel"] + np.float32(rng.random())
                if step == plan.nan_at:
                    arrays["kernel"][0] = np.nan
                if step == plan.leave_at:
                    await participation.leave("simulated")
                    ended.left = True
                    return
                write_arrays(manifest, arrays, own)
                outcome = await self._sync(participation, plan, step)
                if outcome is None:
                    ended.left = True
                    return
                self._note(ended, outcome)
                if outcome.kind == "over":
                    return
                if outcome.stored is not None:
                    arrays = read_arrays(manifest, outcome.stored.buffer)
            write_arrays(manifest, arrays, own)
            self._note(ended, await participation.finish(Progress(epoch=plan.syncs)))
        except SwarmError as error:
            ended.error = error
            await self._leave(participation)

    async def _sync(self, participation: Participation, plan: Program, step: int) -> SyncOutcome | None:
        """One sync; None if the program dies meanwhile, as the door has it."""
        asked = asyncio.ensure_future(participation.sync(Progress(batch=step)))
        if step != plan.die_at:
            return await asked
        await asyncio.wait({asked}, timeout=plan.die_after_s)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await self._leave(participation)
        return None

    async def _leave(self, participation: Participation) -> None:
        try:
            await participation.leave("the program ended without finishing")
        except SwarmError:
            return  # its SN does not answer: the others find out when it misses a round

    def _note(self, ended: Ended, outcome: SyncOutcome) -> None:
        if outcome.kind == "over":
            ended.outcome = outcome
        else:
            ended.synced.append(outcome)
        if outcome.result is not None and outcome.stored is not None:
            ended.merged[outcome.result.round] = bytes(outcome.stored.buffer)

    def manifest(self) -> Manifest:
        """Of every peer's model."""
        return lay_out(self.initial(0))

    def node(self, index: int) -> NodeId:
        """The SL of peer `index`."""
        return sl_id(index)
