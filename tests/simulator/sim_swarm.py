"""`SwarmSimulator`: a whole swarm in one process, on virtual time, decided by one seed."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sim_faults import Fault, Hooks, Planned, SimFaults
from sim_identity import NETWORK, authority, node_name, signing_key, sl_id
from sim_loop import START_MS, describe_tasks, run_virtual
from sim_nodes import SimSl, SimSn, WrongMean, sl_endpoint, sn_api, sn_p2p
from sim_programs import Asked, Ended, Program, RunningProgram

from swarmlearning.contracts.membership import load_training
from swarmlearning.contracts.records import Genesis, Organisation, Result, Settings, Training
from swarmlearning.encoding import encode
from swarmlearning.errors import SwarmError, Unreachable, WaitExpired
from swarmlearning.ledger.embedded.crash import Crash, CrashPoint, HandoverPoint
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, lay_out
from swarmlearning.sl.exchange import ChunkRequest, ResultRequest
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.state import Overlay
from swarmlearning.transport.api import Address
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import DEFAULT_CONTRACT, NodeId, NodeName, Role

SETTINGS = Settings(
    sync_frequency=1, checkin_mode="snapshot", start="merge", grace_ms=5_000, lease_ms=2_000, round_max_ms=60_000
)


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
        """What each commitment was made of."""
        self.committed: dict[bytes, tuple[int, int]] = {}
        """By commitment: whose SL, and at which of its programs' syncs (0: before the first)."""
        self.models: dict[bytes, bytes] = {}
        """Results that somebody has stored, by SHA-256."""
        self.rebased: dict[int, list[bytes]] = {}
        """By peer: the newest results that what it had trained was carried over to."""
        self.asked: dict[int, list[Asked]] = {}
        """Every sync of each peer's programs."""
        self.served: Counter[tuple[NodeId, NodeId, ChunkRequest | ResultRequest]] = Counter()
        """By server, caller and request: how many frames."""
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
                self._on_commit if index in self._recorders() else lambda _: None,
            )
            for index in range(len(self.programs))
        ]
        self.sls = [
            SimSl(self.network, index, random.Random(self.rng.random()), disk / f"sl{index}", self)
            for index in range(len(self.programs))
        ]
        self._final: set[tuple[int, int, bytes]] = set()
        self.early: list[tuple[int, int]] = []
        """(peer, round) of results that were given to a program before they were final."""
        self.alive: set[int] = set()
        """Whose SL ran at the end."""
        self.on_disk: dict[int, frozenset[tuple[int, bytes]]] = {}
        """(round, SHA-256) of the results that each SL had at the end."""
        self.remembered: dict[int, int] = {}
        """How many trainings each SL's journal still had at the end."""
        self._runners: list[RunningProgram] = []
        self._running: dict[int, asyncio.Task[None]] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._echoes: set[asyncio.Task[None]] = set()

    # --- what faults and nodes call -----------------------------------------------------------------------------

    def on_served(self, server: NodeId, caller: NodeId, request: ChunkRequest | ResultRequest) -> None:
        """A frame was served."""
        self.served[server, caller, request] += 1

    def on_committed(self, index: int, root: bytes, buffer: bytes) -> None:
        """An SL has committed to parameters."""
        self.commitments[root] = buffer
        self.committed[root] = index, len(self.asked.get(index, ()))

    def _on_commit(self, app: SwarmApplication) -> None:
        training = load_training(Overlay(app.store), DEFAULT_CONTRACT)
        if training is not None and (not self.history or training.version > self.history[-1].version):
            self.history.append(training)
            if training.last is not None:
                self._final.add((training.run, training.last.round, training.last.sha256))

    def on_delivered(self, index: int, run: int, result: Result) -> None:
        """A program was given a result; the ledger must have said before that it is final."""
        ahead = index == 0 and 0 not in self._recorders()  # its SN is the sentinel, which commits first
        if (run, result.round, result.sha256) not in self._final and not ahead:
            self.early.append((index, result.round))

    @property
    def fired(self) -> Counter[Fault]:
        """How often each fault fired."""
        return self.faults.fired

    @property
    def last(self) -> Training:
        """The record at the end."""
        return self.history[-1]

    def on_write(self, who: int, write: Callable[[], None]) -> None:
        """An SL writes a file; raises if it dies of that."""
        self.faults.on_write(who, write)

    def crash_sl(self, planned: Planned, delay_s: float) -> None:
        """An SL dies, with its program unless it dies alone; they start again after `restart_s`."""
        self._chore(self._crash_sl(planned, delay_s))

    async def _crash_sl(self, planned: Planned, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        index = planned.node
        program = self._running.get(index)
        if program is not None and not planned.alone:
            program.cancel()
        sl = self.sls[index]
        await sl.stop()
        if planned.fault is Fault.LOST_DISK:
            sl.lose_disk()
        if planned.restart_s is None:
            return
        await asyncio.sleep(planned.restart_s)
        sl.port += planned.moves
        await sl.start()
        plan = self.programs[index]
        if not planned.alone:
            assert plan is not None
            self._start_program(index, replace(plan, delay_s=0.0))

    def _recorders(self) -> set[int]:
        """Whose commits are written down: the sentinel's.

        Of one that will be lost the others': what only that one had is void.
        """
        hands_over = any(planned.fault is Fault.HANDOVER for planned in self.faults.plan)
        return set(range(1, len(self.programs))) if hands_over else {0}

    async def _hand_over(self, planned: Planned) -> None:
        """At `at_s` the sentinel is lost; the operators of the others stop, agree, sign, and start again."""
        first, *others = self.sns
        await asyncio.sleep(planned.at_s)
        await first.stop()
        await asyncio.sleep(8.0)  # the others bring each other level
        for sn in others:
            await sn.stop()
        heights = {}
        for sn in others:
            with sn.stopped() as succession:
                heights[sn.index] = succession.height
        chosen = max(others, key=lambda sn: heights[sn.index])
        assert set(heights.values()) == {heights[chosen.index]}, "the replicas did not come level"
        with chosen.stopped() as succession:
            signed = succession.propose(signing_key(chosen.name), None, None)
        for sn in others:
            if sn is not chosen:
                with sn.stopped() as succession:
                    signed = succession.sign(signing_key(sn.name), signed)
        with chosen.stopped() as succession:
            succession.install([signed])
        for sn in (chosen, *(other for other in others if other is not chosen)):
            sn.follows = chosen.index
            await sn.start()
        self.faults.count(Fault.HANDOVER)
        await asyncio.sleep(max(0.0, planned.until_s - planned.at_s))
        first.follows = chosen.index  # its machine was found again
        await first.start()
        await asyncio.sleep(5.0)
        if not first.is_running:  # it holds blocks that nobody else had, and says what its operator has to do
            await first.stop()
            first.forget_ledger()
            await first.start()

    async def _restore_sn(self, planned: Planned) -> None:
        """At `at_s` the node is stopped, copied and started; at `until_s` it is put back to the copy."""
        sn = self.sns[planned.node]
        for moment, act in ((planned.at_s, sn.keep_copy), (planned.until_s - planned.at_s, sn.restore_copy)):
            await asyncio.sleep(moment)
            await sn.stop()
            act()
            await sn.start()
        self.faults.count(Fault.RESTORED_SN)

    def _dying_at(self, planned: Planned) -> Crash:
        """Kill an SN at a numbered point of the commit path of its k-th block, once."""
        blocks = 0

        def on_point(point: CrashPoint | HandoverPoint) -> None:
            nonlocal blocks
            blocks += point is CrashPoint.BEFORE_APPLY
            if point == planned.step and blocks == planned.point:
                self.faults.count(Fault.CRASH_LEDGER)
                self._chore(self._restart_sn(planned))
                raise Unreachable("simulated: the node died")

        return on_point

    async def _restart_sn(self, planned: Planned) -> None:
        await self.sns[planned.node].stop()
        await asyncio.sleep(planned.restart_s or 1.0)
        await self.sns[planned.node].start()

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
        index = self.index_of(to)
        if NodeName.parse(to).role is Role.SL:
            return Address(node=to, endpoint=sl_endpoint(index, self.sls[index].port))
        return sn_p2p(index) if method.startswith("ledger/") else sn_api(index)

    def _spoil(self, index: int) -> None:
        desk = self.sls[index].desks[DEFAULT_CONTRACT]
        if desk.offer is not None and not desk.offer.buffer.readonly and desk.offer.buffer[0] != 77:
            self.faults.count(Fault.OTHER_BYTES)
            desk.offer.buffer[0] = 77

    def index_of(self, node: NodeId) -> int:
        """Whose node that is."""
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
            index_of=self.index_of, now=loop.time, crash_sl=self.crash_sl, repeat=self._repeat, spoil=self._spoil
        )
        self._make_dishonest()
        hands_over = 0 not in self._recorders()
        for sn in self.sns:
            sn.peers = tuple(other.index for other in self.sns if hands_over and other is not sn)
            await sn.start()
        if hands_over:
            await asyncio.gather(*(sn.register() for sn in self.sns))
        await asyncio.gather(*(sl.start() for sl, plan in zip(self.sls, self.programs, strict=True) if plan))
        for planned in self.faults.plan:
            if planned.fault is Fault.CRASH_SN:
                self._chore(self._crash_sn(planned))
            if planned.fault is Fault.RESTORED_SN:
                self._chore(self._restore_sn(planned))
            if planned.fault is Fault.HANDOVER:
                self._chore(self._hand_over(planned))
        for index, plan in enumerate(self.programs):
            if plan is not None:
                self._start_program(index, plan)
        try:
            async with asyncio.timeout(self.limit_s):
                await self._wait_programs()
                # At the same time: one after the other they would wait longer than the run may last.
                await asyncio.gather(*(self._wait_gone(index, ended) for index, ended in self.ended.items()))
        except TimeoutError as error:
            raise AssertionError(self._describe_hang()) from error
        self.finished_s = loop.time()
        await self._stop()

    async def _wait_gone(self, index: int, ended: Ended) -> None:
        """Until an SL whose program has gone has come to the end; as long as the program would have waited."""
        plan = self.programs[index]
        patience_s = plan.patience_s if plan is not None else None
        until = asyncio.get_running_loop().time() + (patience_s or self.limit_s)
        while ended.gone and not self._is_done(index):
            await asyncio.sleep(0.1)
            if asyncio.get_running_loop().time() > until:
                participation = self.sls[index].participation
                ended.gone = False
                ended.error = WaitExpired(participation.explain() if participation is not None else "its SL is down")

    def _is_done(self, index: int) -> bool:
        """Whether an SL whose program has gone has come to the end."""
        participation = self.sls[index].participation
        return participation is not None and participation.ended.is_set()

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
            if sl.trainings is not None:
                self.alive.add(sl.index)
                self.on_disk[sl.index] = sl.store.held()
            for desk in sl.desks.values():
                held = (desk.pulls, desk.merged, desk.fetched, desk.measured)
                self.kept[sl.index] = sum(len(part) for part in held)
                self.remembered[sl.index] = len(sl.journals.entries())
            await sl.stop()
        for program in self._runners:
            if program.keeping is not None:
                await asyncio.gather(program.keeping, return_exceptions=True)
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
            if planned.fault is Fault.WRONG_DISTANCES:
                sl.spoils_distances = lambda: self.faults.count(Fault.WRONG_DISTANCES)
            if planned.fault is Fault.NAN:
                sl.hides_nan = lambda: self.faults.count(Fault.NAN)
            if planned.fault is Fault.FALSE_ACCUSER:
                sl.accuses = lambda: self.faults.count(Fault.FALSE_ACCUSER)
            if planned.fault is Fault.CLOCK_SKEW:
                self.sns[planned.node].skew_ms = int(planned.skew_s * 1000)
                self.faults.count(Fault.CLOCK_SKEW)
            if planned.fault is Fault.CRASH_LEDGER:
                self.sns[planned.node].on_point = self._dying_at(planned)

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
        runner = RunningProgram(self, index, plan, self.ended[index])
        self._runners.append(runner)
        self._running[index] = asyncio.ensure_future(runner.run())

    def initial(self, index: int) -> dict[str, Array]:
        """A model that differs from peer to peer."""
        values = np.random.default_rng((self.seed, index)).normal(size=self.size)
        return {"kernel": values.astype(np.float32), "bias": np.full(3, float(index)), "steps": np.array(index)}

    def manifest(self) -> Manifest:
        """Of every peer's model."""
        return lay_out(self.initial(0))

    def node(self, index: int) -> NodeId:
        """The SL of peer `index`."""
        return sl_id(index)
