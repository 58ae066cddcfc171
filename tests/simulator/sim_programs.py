"""The ML programs of a simulated swarm: they train, sync, finish, die, and wait for an SL that was lost."""

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
from msgspec.structs import replace
from sim_nodes import SimSl

from swarmlearning.contracts.records import Progress, Result, Settings
from swarmlearning.encoding import encode
from swarmlearning.errors import Closed, SwarmError, WaitExpired
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import lay_out, read_arrays, write_arrays
from swarmlearning.sl.control import CONTROL_VERSION, Open
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.patience import Patience
from swarmlearning.sl.program import SyncOutcome
from swarmlearning.types import DEFAULT_CONTRACT

T = TypeVar("T")

PATIENCE_LOOK_S: Final = 20.0
"""How often it is looked whether a wait has lasted too long, seconds."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one peer's ML program does."""

    syncs: int = 3
    pace_s: float = 1.0
    """Training between two syncs, seconds; jittered."""
    batch_s: float = 0.0
    """Seconds per batch, jittered: it trains as many as it is told, and first syncs at once (C-13); 0: see `pace_s`."""
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
    goes: bool = False
    """Ends once it has told its SL that it has finished; the SL goes on for it."""
    nan_at: int | None = None
    """Offers NaN at its k-th sync."""
    still: bool = False
    """Training changes nothing, so that all rounds have one result."""
    figures: bool = False
    """Shows a loss with its check-ins that falls from round to round."""
    patience_s: float | None = None
    """What it puts up with, as `SWARM_MAX_WAIT`; None: everything."""


@dataclass(frozen=True)
class Asked:
    """One sync of a program."""

    adopted: int
    """Round of the result that its training started from."""
    base: bytes
    """That result; empty before the first."""
    own: bytes


@dataclass(kw_only=True)
class Ended:
    """How a program ended."""

    outcome: SyncOutcome | None = None
    error: SwarmError | None = None
    left: bool = False
    gone: bool = False
    """It ended before its SL, which goes on for it."""
    synced: list[SyncOutcome] = field(default_factory=list)
    merged: dict[int, bytes] = field(default_factory=dict)
    """What it was given, by round."""
    reopened: int = 0
    """How often it went on with an SL that had been restarted."""
    position: Progress = field(default_factory=Progress)
    """What its SL told it of an earlier program when it opened."""


class Stage(Protocol):
    """What programs need of the simulation."""

    settings: Settings
    seed: int
    programs: list[Program | None]
    sls: list[SimSl]
    asked: dict[int, list[Asked]]
    """Every sync of each peer's programs."""

    def initial(self, index: int) -> dict[str, Array]:
        """A model that differs from peer to peer."""
        ...

    def on_delivered(self, index: int, run: int, result: Result) -> None:
        """A program was given a result."""
        ...


class RunningProgram:
    """One program, from its start to its end."""

    def __init__(self, stage: Stage, index: int, plan: Program, ended: Ended) -> None:
        self._stage = stage
        self._index = index
        self._plan = plan
        self._ended = ended
        self._rng = random.Random(f"{stage.seed} {index}")
        self._arrays = stage.initial(index)
        self._manifest = lay_out(self._arrays)
        self._own = memoryview(bytearray(self._manifest.size))
        self._adopted = -1
        self._base = b""
        self._interval = stage.settings.sync_frequency
        self._participation: Participation
        self.keeping: asyncio.Task[SyncOutcome] | None = None
        """Its last request, which its SL goes on with after it has gone."""

    async def run(self) -> None:
        """Train to the end."""
        await asyncio.sleep(self._plan.delay_s)
        await self._stage.sls[self._index].up.wait()
        try:
            await self._open()
            for step in range(self._plan.syncs):
                await self._train(step)
                if step == self._plan.leave_at:
                    await self._participation.leave("simulated")
                    self._ended.left = True
                    return
                outcome = await self._sync(step)
                if outcome is None:
                    self._ended.left = True
                    return
                self._take(outcome)
                if outcome.kind == "over":
                    return
            write_arrays(self._manifest, self._arrays, self._own)
            await self._finish()
        except SwarmError as error:
            self._ended.error = error
            await self._leave()

    async def _open(self) -> None:
        request = Open(
            version=CONTROL_VERSION,
            program="simulated",
            contract=DEFAULT_CONTRACT,
            settings=self._stage.settings,
            min_peers=self._plan.min_peers or sum(p is not None for p in self._stage.programs),
            weight=self._plan.weight,
            restored=self._plan.restored,
            manifest=encode(self._manifest),
            file="own",
        )
        self._participation = await self._stage.sls[self._index].begin(request, self._manifest, self._own)
        _, late = await self._patiently(self._participation.open())
        self._ended.position = self._participation.position
        self._request = request
        if late is not None:
            self._arrays = read_arrays(self._manifest, late.buffer)
            self._adopted, self._base = late.record.round, bytes(late.buffer)

    async def _train(self, step: int) -> None:
        plan = self._plan
        if not plan.batch_s:
            await asyncio.sleep(plan.pace_s * self._rng.uniform(0.5, 1.5))
        elif step or self._base:
            await asyncio.sleep(plan.batch_s * self._interval * self._rng.uniform(0.9, 1.1))
        if not plan.still:
            self._arrays["kernel"] = self._arrays["kernel"] + np.float32(self._rng.random())
        if step == plan.nan_at:
            self._arrays["kernel"][0] = np.nan

    async def _sync(self, step: int) -> SyncOutcome | None:
        """One sync; None if the program dies meanwhile, as the door has it."""
        write_arrays(self._manifest, self._arrays, self._own)
        asked = Asked(self._adopted, self._base, bytes(self._own))
        self._stage.asked.setdefault(self._index, []).append(asked)
        request = asyncio.ensure_future(self._patiently(self._request_again("sync", self._progress(batch=step))))
        if step != self._plan.die_at:
            return await request
        await asyncio.wait({request}, timeout=self._plan.die_after_s)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await self._leave()
        return None

    async def _finish(self) -> None:
        progress = self._progress(epoch=self._plan.syncs)
        if not self._plan.goes:
            self._take(await self._patiently(self._request_again("finish", progress)))
            return
        self.keeping = asyncio.ensure_future(self._participation.finish(progress))
        while self._participation.program.demand is None and not self.keeping.done():  # noqa: ASYNC110  # no event
            await asyncio.sleep(0)
        self._participation.attended = False  # as the door does
        self._ended.gone = True

    def _progress(self, batch: int = -1, epoch: int = -1) -> Progress:
        progress = Progress(batch=batch, epoch=epoch)
        if not self._plan.figures or self._adopted < 0:
            return progress
        loss = 1_000_000 - 100_000 * self._adopted + self._rng.randrange(20_000)
        return replace(progress, loss_micro=loss, figures_round=self._adopted)

    async def _patiently(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait as the door does: R-22.

        Raises:
            WaitExpired: no round ended for as long as the program puts up with.
        """
        if self._plan.patience_s is None:
            return await work
        loop = asyncio.get_running_loop()
        patience = Patience(self._plan.patience_s, loop.time())
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=PATIENCE_LOOK_S)
                desk = self._participation.desk
                patience.look(desk.training, desk.bytes_received + desk.bytes_sent, loop.time())
                if patience.is_over(loop.time()) and not task.done():
                    raise WaitExpired(f"no round ended: {self._participation.explain()}")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _request_again(self, kind: Literal["sync", "finish"], progress: Progress) -> SyncOutcome:
        """Ask; of an SL that was lost and is back, once more (C-17)."""
        while True:
            participation = self._participation
            try:
                return await (participation.sync(progress) if kind == "sync" else participation.finish(progress))
            except Closed:
                await self._reopen(participation.desk.run)

    async def _reopen(self, run: int) -> None:
        sl = self._stage.sls[self._index]
        request = replace(self._request, run=run, adopted=self._adopted)
        while True:
            await sl.up.wait()
            try:
                self._participation = await sl.begin(request, self._manifest, self._own)
                _, given = await self._participation.open()
            except Closed:
                continue  # lost again
            assert given is None
            self._ended.reopened += 1
            return

    async def _leave(self) -> None:
        try:
            await self._participation.part("the program ended without finishing")
        except SwarmError:
            return  # its SN does not answer: the others find out when it misses a round

    def _take(self, outcome: SyncOutcome) -> None:
        if outcome.kind == "over":
            self._ended.outcome = outcome
        else:
            self._ended.synced.append(outcome)
            self._interval = outcome.next_interval
        if outcome.result is not None and outcome.stored is not None:
            self._stage.on_delivered(self._index, self._participation.desk.run, outcome.result)
            self._ended.merged[outcome.result.round] = bytes(outcome.stored.buffer)
            self._arrays = read_arrays(self._manifest, outcome.stored.buffer)
            self._adopted, self._base = outcome.result.round, bytes(outcome.stored.buffer)
