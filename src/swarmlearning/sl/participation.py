"""One ML program's part in one training: follows the ledger's record and carries out what `plan` says.

The program's door is `open`, `sync`, `finish`, `leave`; each waits for the ledger and says what it waits for.
Steps run as tasks keyed by what they are for: one that is no longer wanted is cancelled, one that failed is tried
again after a pause, as long as the record still wants it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Literal

from swarmlearning.contracts.records import Phase, Progress, Result, Training
from swarmlearning.errors import Closed, NonFinite, PeerError, Refused, SwarmError, Unreachable
from swarmlearning.parameters.manifest import find_nonfinite
from swarmlearning.sl import steps
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.enrolling import enrol, find_contract, is_passing
from swarmlearning.sl.fetching import catch_up, store_and_say
from swarmlearning.sl.guarding import guard_shard, guard_store, tick_later
from swarmlearning.sl.journal import Entry
from swarmlearning.sl.leaving import Farewell
from swarmlearning.sl.measuring import work_on
from swarmlearning.sl.merging import say_lost
from swarmlearning.sl.offering import check_in, say_finished
from swarmlearning.sl.plan import (
    Action,
    CatchUp,
    CheckInNow,
    Deliver,
    End,
    GuardShard,
    GuardStore,
    Local,
    MeasureShard,
    MergeShard,
    SayFinished,
    SayHere,
    SayLost,
    StoreResult,
    TellShares,
    TickLater,
    find_peer,
    plan,
)
from swarmlearning.sl.program import Demand, Program, SyncOutcome
from swarmlearning.sl.results import OpenResult
from swarmlearning.sl.weighing import tell_shares
from swarmlearning.sn.client import SnClient
from swarmlearning.types import Endpoint, short_name

RETRY_S: Final = 0.5
"""Pause before a failed step is tried again, seconds."""

WATCH_RETRY_S: Final = 1.0
"""Pause before the SN is asked again after it fell silent, seconds."""


def _reset_text(record: Training, run: int) -> str:
    return f"contract {record.name} was reset: run {record.run} has begun, this program is in run {run}"


class Participation:
    """A training as one SL takes part in it."""

    def __init__(self, desk: Desk, sn: SnClient, request: Open, endpoint: Endpoint, own: memoryview | None) -> None:
        """Prepare to take part.

        Args:
            desk: identity and tools.
            sn: our organisation's SN.
            request: what the program asked for.
            endpoint: where other SLs reach us.
            own: the file in which the program writes its parameters, mapped; None if there is none any more.
        """
        self.desk = desk
        self._sn = sn
        self.program = Program(desk.node, request, own)
        self.attended = True
        """Whether a program is there; one that has finished may go."""
        self._alone: asyncio.Task[None] | None = None
        """Goes on for a program that had finished."""
        self._endpoint = endpoint
        self._asked_run = 0
        """The run that we asked to enrol in."""
        self._jobs: dict[Action, asyncio.Task[None]] = {}
        self._done: set[Action] = set()
        self._poke = asyncio.Event()
        self._failure: SwarmError | None = None
        self._silence = ""
        """Why the SN does not answer; empty while it does."""
        self._trouble = ""
        """Why the last step failed; empty once one succeeds, or the record is another."""
        self._logged = ""
        """The trouble that the log told last; empty once a step succeeds."""
        self._leaving = False
        """We are saying that we leave."""
        self.ended = asyncio.Event()
        """The training is complete, or we left it, or do so now."""

    # --- the program's door -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the record and act on it, until this training is over for us or cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                follow = group.create_task(self._follow())
                await self._steer()
                follow.cancel()
        finally:
            self.ended.set()
            others = (self._alone, self.program.saying)
            jobs = [*self._jobs.values(), *(job for job in others if job is not None)]
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self.desk.carrier.close()
            if self.program.demand is not None and not self.program.demand.outcome.done():
                self.program.demand.outcome.set_exception(Closed("the SL stopped before the training was over"))

    async def open(self) -> tuple[int, OpenResult | None]:
        """Enrol; returns the round that the first sync goes to, and the newest final result for a late program.

        Waits while the SN or the ledger does not answer, or nobody serves that result; `explain` says so. A program
        that goes on (C-17) is not enrolled again where its enrolment stands, and is given no result.

        Raises:
            SettingsMismatch, ModelMismatch: this program differs from the contract; says in what.
            Refused: the ledger refused the enrolment, or the contract was reset while its program had no SL.
            Broken: the disk is full or damaged.
        """
        request, journals = self.program.request, self.desk.journals
        while not self.desk.run:
            try:
                if self.desk.farewell is not None:  # C-6
                    await self.desk.farewell.say()
                record = await find_contract(self.desk, self._sn)
                self._asked_run = record.run
                stands = self._is_standing(record)
                if not stands or journals.get(record.name, record.run) is None:
                    await self.desk.run_blocking(journals.begin, record.name, record.run, request)
                if not stands:
                    record = await enrol(self.desk, self._sn, self._asked_run, request, self._endpoint)
                self.desk.run = record.run
                self._take(record)
                how = "goes on" if stands else "enrolled"
                log.info("%s %s in %s, run %d", request.program or "a program", how, record.name, record.run)
            except SwarmError as error:
                await self._pause_if_passing(error)
        while True:
            record = self.desk.record
            newest = record.last
            number = record.round.number if record.round else newest.round + 1 if newest else 0
            if request.run:
                self.program.adopted = request.adopted
                self.program.base = self.desk.store.get(record.name, self.desk.run, request.adopted)
                return number, None
            if newest is None:
                return number, None
            try:
                result = self.desk.stored(newest) or await catch_up(self.desk, newest)
            except SwarmError as error:
                await self._pause_if_passing(error)
            else:
                self.program.adopt(newest, result)
                self.program.pacer.handed(asyncio.get_running_loop().time(), record.interval)
                return number, result

    def _is_standing(self, record: Training) -> bool:
        """C-17: whether this program's enrolment stands as it is; a new one would take its check-in back.

        Raises:
            Refused: it never will again.
        """
        request = self.program.request
        if not request.run:
            return False
        if record.run != request.run:
            raise Refused(_reset_text(record, request.run), code="reset")
        peer = find_peer(record, self.desk.node)
        if peer is None and not self.attended:
            raise Refused(f"{short_name(self.desk.node)} has left {record.name}", code="left")
        same = (
            record.settings == request.settings
            and record.manifest is not None
            and record.manifest.hash == self.desk.manifest.hash
        )
        if record.phase is Phase.COMPLETED:
            return same
        return (
            same
            and peer is not None
            and (peer.endpoint, peer.weight, peer.min_peers) == (self._endpoint, request.weight, request.min_peers)
        )

    @property
    def position(self) -> Progress:
        """C-18: how far this peer's program had come in this run, as its SL last heard."""
        entry = self.desk.journals.get(self.desk.contract, self.desk.run)
        return entry.progress if entry is not None else Progress()

    async def _pause_if_passing(self, error: SwarmError) -> None:
        """Wait a little if what failed may work next time."""
        if not is_passing(error):
            raise error
        self._note(self.desk.contract, str(error))
        await asyncio.sleep(RETRY_S)

    def _note(self, where: str, trouble: str) -> None:
        """For the program, and for the log once."""
        if self._logged != trouble:
            log.warning("%s: %s", where, trouble)
        self._logged = self._trouble = trouble

    async def sync(self, progress: Progress) -> SyncOutcome:
        """Offer what the program's file holds, and wait for the round's result.

        Raises:
            NonFinite: the parameters hold NaN or infinity; the message names the tensor.
            Refused: the contract was reset, or we are no longer enrolled.
        """
        return await self._ask("sync", progress)

    async def finish(self, progress: Progress) -> SyncOutcome:
        """Say that our training is over, go on as the settings say, and wait until all have finished.

        Raises:
            NonFinite, Refused: as for `sync`.
        """
        return await self._ask("finish", progress)

    async def leave(self, reason: str) -> None:
        """Leave the training politely; a round that is merging goes on with us.

        From the call on another program may begin. It waits until the ledger has heard this one.

        Raises:
            Refused: the SN refused to pass it on.
            Unreachable: the SN does not answer; the others find out when we miss a round.
        """
        demand, self.program.demand = self.program.demand, None
        if demand is not None and not demand.outcome.done():
            demand.outcome.cancel()
        run = 0 if self.ended.is_set() else self.desk.run or self._asked_run
        self._forget_if(finished=True)
        if run:
            self.desk.farewell = Farewell(self.desk.submitter, self.desk.contract, run, reason)
        self._leaving = run > 0
        self.abandon()
        try:
            if run and self.desk.farewell is not None:
                await self.desk.farewell.say()
        finally:
            self._leaving = False
            self._poke.set()

    def abandon(self) -> None:
        """Give up without a word: the ledger finds out when we miss a round."""
        self.ended.set()
        self._poke.set()

    async def part(self, reason: str) -> None:
        """The program is gone without a word (C-6): it leaves, unless it had finished.

        Raises:
            Refused, Unreachable: as for `leave`.
        """
        entry = self.desk.journals.get(self.desk.contract, self.desk.run or self.program.request.run)
        if entry is None or not entry.finished:
            await self.leave(reason)
        else:
            self.go_on(entry)

    def go_on(self, entry: Entry) -> None:
        """R-18: go on for a program that had finished, with what it finished with, until all have."""
        self.attended = False
        if self.program.demand is None:
            self.program.own = self.desk.journals.snapshot(entry, self.desk.size)
            self._alone = asyncio.ensure_future(self._finish_alone(entry))

    async def _finish_alone(self, entry: Entry) -> None:
        """A task's boundary."""
        try:
            if not self.desk.run:
                await self.open()
            await self._wait_for(Demand("finish", entry.progress, self.program.adopted))
        except SwarmError as error:
            if isinstance(error, Refused):
                self.desk.journals.forget(self.desk.contract)
            log.log(logging.DEBUG if isinstance(error, Closed) else logging.WARNING, "%s: %s", entry.contract, error)
            self.abandon()

    async def _ask(self, kind: Literal["sync", "finish"], progress: Progress) -> SyncOutcome:
        if self.program.demand is not None:
            raise Closed("the program asked again before its last request was answered")
        if kind == "sync":
            self.program.pacer.asked(asyncio.get_running_loop().time())
            self.desk.stages.clear()
            self.desk.reach("asked")
        own = self.program.own
        bad = await self.desk.run_blocking(find_nonfinite, self.desk.manifest, own) if own is not None else None
        if bad is not None:
            raise NonFinite(f"tensor {bad} of {short_name(self.desk.node)} holds NaN or infinity; it is not offered")
        if self._failure is not None:
            raise self._failure
        if self.ended.is_set():
            raise Closed(f"the training {self.desk.contract} is over for this program")
        await self._write_down(kind, progress)
        return await self._wait_for(Demand(kind, progress, self.program.adopted))

    async def _write_down(self, kind: Literal["sync", "finish"], progress: Progress) -> None:
        """R-21: before the ledger is told."""
        desk, settings = self.desk, self.desk.record.settings
        entry = desk.journals.get(desk.contract, desk.run)
        if entry is None:
            return  # the contract was reset, which the record will say
        if kind == "sync":
            await desk.run_blocking(desk.journals.advance, entry, progress)
        else:
            keeps = settings is not None and settings.checkin_mode == "snapshot"
            await desk.run_blocking(desk.journals.finish, entry, progress, self.program.own if keeps else None)

    async def _wait_for(self, demand: Demand) -> SyncOutcome:
        self.program.demand = demand
        self._poke.set()
        try:
            return await demand.outcome
        finally:
            if self.program.demand is demand:
                self.program.demand = None

    def _forget_if(self, *, finished: bool) -> None:
        """Forget what is written down of this run: of a program that had finished, or of any."""
        entry = self.desk.journals.get(self.desk.contract, self.desk.run)
        if entry is not None and (entry.finished or not finished):
            self.desk.journals.forget(self.desk.contract)

    def explain(self) -> str:
        """What the program waits for, for people."""
        farewell = self.desk.farewell
        if not self.desk.run and farewell is not None and not farewell.is_heard:
            text = "for the ledger to hear that this peer's program before has left"
        else:
            text = steps.explain_record(self.desk, self.program)
        if self._silence:
            return f"the SN does not answer ({self._silence}); asking again. Last known: {text}"
        if self._sn.problem:
            return f"the ledger stands still ({self._sn.problem}). Last known: {text}"
        return f"{text}. Last trouble: {self._trouble}" if self._trouble else text

    # --- following the ledger ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Keep the newest record; an SN that falls silent is asked again."""
        while True:
            version = self.desk.training.version if self.desk.training else 0
            try:
                if self._silence:
                    await self._sn.status()
                    log.info("the SN answers again")
                    self._silence = ""
                watch: AsyncIterator[Training] = self._sn.watch(self.desk.contract, version)
                async for record in watch:
                    self._take(record)
            except (Unreachable, PeerError) as error:
                if not self._silence:
                    log.warning("the SN does not answer: %s", error)
                self._silence = str(error)
            await asyncio.sleep(WATCH_RETRY_S)

    def _take(self, record: Training) -> None:
        known = self.desk.training
        if known is not None and record.version <= known.version:
            return
        self.desk.follow(record)
        self._trouble = ""
        self.program.follow(record, asyncio.get_running_loop().time())
        self._poke.set()

    async def _steer(self) -> None:
        """Whenever something changed, start what is wanted and stop what is not; ends when nothing ever will be."""
        while True:
            await self._poke.wait()
            self._poke.clear()
            async with self.desk.changed:
                self.desk.changed.notify_all()
            record = self.desk.training
            wanted: list[Action] = []
            if record is not None and self.desk.run:
                self._check_standing(record)
                steps.settle_void(self.desk, self.program, record)
                self.desk.tidy(record)
                wanted = plan(record, self._local(record))
            for action in [action for action in self._jobs if action not in wanted]:
                self._jobs.pop(action).cancel()
            self._done.intersection_update(wanted)
            for action in wanted:
                if action not in self._jobs and action not in self._done:
                    self._jobs[action] = asyncio.ensure_future(self._do(action))
            if self.ended.is_set() and not self._jobs and not self._is_needed(record):
                return

    def _is_needed(self, record: Training | None) -> bool:
        """Whether a round goes on that our offer is in: it stands after we left, so the record must stay new."""
        if self._leaving:
            return True
        round_ = record.round if record is not None and record.run == self.desk.run else None
        return round_ is not None and self.desk.node in round_.participants

    def _local(self, record: Training) -> Local:
        stored = [self.desk.stored(result) for result in (record.last, record.previous) if result]
        demand = self.program.demand
        return Local(
            node=self.desk.node,
            run=self.desk.run,
            demand=demand.kind if demand else "",
            adopted=demand.based if demand else self.program.adopted,
            offered=self.desk.offer.commitment.root if self.desk.offer else b"",
            vouched=self.program.vouched,
            stored=frozenset((found.record.round, found.record.sha256) for found in stored if found),
        )

    def _check_standing(self, record: Training) -> None:
        """Fail the program's request if the training went on without us for good."""
        gone = ""
        if record.run != self.desk.run:
            gone = _reset_text(record, self.desk.run)
        elif find_peer(record, self.desk.node) is None and not self.ended.is_set():
            gone = f"{short_name(self.desk.node)} has left {record.name}"
        if gone and self._failure is None:
            self._failure = Refused(gone, code="stale")
            self._forget_if(finished=record.run == self.desk.run)
            self.ended.set()
        if self._failure is not None and self.program.demand is not None and not self.program.demand.outcome.done():
            self.program.demand.outcome.set_exception(self._failure)

    # --- steps ----------------------------------------------------------------------------------------------------

    async def _do(self, action: Action) -> None:
        """Carry out one action; a failure that the record does not explain is told and tried again after a pause."""
        try:
            await self._step(action)
            self._done.add(action)
            self._trouble = self._logged = ""
        except SwarmError as error:
            if isinstance(error, Refused) and error.code in ("stale", "too_early"):
                log.debug("%s: %s", type(action).__name__, error)
            else:
                self._note(steps.explain_record(self.desk, self.program), str(error))
            await asyncio.sleep(RETRY_S)
        except Exception:  # noqa: BLE001  # a task's boundary: a bug in one step must not end the others silently
            log.exception("%s failed", type(action).__name__)
            self._trouble = f"{type(action).__name__} failed, which is a bug: see the log"
            await asyncio.sleep(RETRY_S)
        finally:
            if self._jobs.get(action) is asyncio.current_task():
                del self._jobs[action]
            self._poke.set()

    def _step(self, action: Action) -> Coroutine[Any, Any, None]:
        match action:
            case CheckInNow():
                return check_in(self.desk, self.program, action)
            case MeasureShard() | MergeShard():
                return work_on(self.desk, action)
            case TellShares():
                return tell_shares(self.desk, action)
            case SayLost():
                return say_lost(self.desk, action)
            case StoreResult():
                return store_and_say(self.desk, action)
            case GuardShard():
                return guard_shard(self.desk, action)
            case GuardStore():
                return guard_store(self.desk, action)
            case SayHere():
                return steps.vouch(self.desk, self.program)
            case TickLater():
                rank = [peer.node for peer in self.desk.record.peers].index(self.desk.node)
                return tick_later(self.desk, action, rank)
            case CatchUp():
                return self._catch_up(action.result)
            case SayFinished():
                return say_finished(self.desk, self.program)
            case Deliver():
                return steps.deliver(self.desk, self._sn, self.program, action.result)
            case End():
                return self._end(action.result)

    async def _catch_up(self, result: Result) -> None:
        await catch_up(self.desk, result)

    async def _end(self, result: Result | None) -> None:
        self.ended.set()
        self._forget_if(finished=False)
        steps.end(self.desk, self.program, result)
