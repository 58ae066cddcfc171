"""One ML program's part in one training: follows the ledger's record and carries out what `plan` says.

The program's door is `open`, `sync`, `finish`, `leave`; each waits for the ledger and says what it waits for.
Steps run as tasks keyed by what they are for: one that is no longer wanted is cancelled, one that failed is tried
again after a pause, as long as the record still wants it.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Literal

import msgspec

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.messages import CheckIn, Finish, Leave
from swarmlearning.contracts.records import PeerState, Phase, Progress, Result, Training
from swarmlearning.errors import Closed, NonFinite, PeerError, Refused, SwarmError, Unreachable
from swarmlearning.parameters.chunks import SECRET_BYTES, Commitment, commit
from swarmlearning.parameters.manifest import find_nonfinite
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, Offer, log
from swarmlearning.sl.enrolling import enrol, find_contract
from swarmlearning.sl.fetching import catch_up, store_and_say
from swarmlearning.sl.guarding import guard_shard, guard_store, say_here, tick_later
from swarmlearning.sl.merging import merge_and_commit, say_lost
from swarmlearning.sl.plan import (
    Action,
    CatchUp,
    CheckInNow,
    Deliver,
    End,
    GuardShard,
    GuardStore,
    Local,
    MergeShard,
    SayFinished,
    SayHere,
    SayLost,
    StoreResult,
    TickLater,
    find_peer,
    plan,
)
from swarmlearning.sl.store import OpenResult
from swarmlearning.sn.client import SnClient
from swarmlearning.types import Endpoint, short_name

RETRY_S: Final = 0.5
"""Pause before a failed step is tried again, seconds."""

WATCH_RETRY_S: Final = 1.0
"""Pause before the SN is asked again after it fell silent, seconds."""


PASSING: Final = frozenset({"stale", "busy", "Closed", "Unreachable", "WaitExpired"})
"""Codes of refusals that may not be repeated: the record moved on, or the SN itself waits for the ledger."""


def is_passing(error: SwarmError) -> bool:
    """Whether the same request may succeed a little later."""
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.code in PASSING)


class SyncOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync or the end gave."""

    kind: Literal["synced", "void", "over"]
    round: int
    result: Result | None
    stored: OpenResult | None
    next_interval: int


class _Demand:
    """What the program waits for."""

    def __init__(self, kind: Literal["sync", "finish"], progress: Progress) -> None:
        self.kind: Literal["sync", "finish"] = kind
        self.progress = progress
        self.offer: Offer | None = None
        """What its file holds, committed to; the same in every round that it is offered in."""
        self.round: int | None = None
        """The round it has checked in to."""
        self.outcome: asyncio.Future[SyncOutcome] = asyncio.get_running_loop().create_future()


class Participation:
    """A training as one SL takes part in it."""

    def __init__(self, desk: Desk, sn: SnClient, request: Open, endpoint: Endpoint, own: memoryview) -> None:
        """Prepare to take part.

        Args:
            desk: identity and tools.
            sn: our organisation's SN.
            request: what the program asked for.
            endpoint: where other SLs reach us.
            own: the file in which the program writes its parameters, mapped.
        """
        self.desk = desk
        self._sn = sn
        self._request = request
        self._endpoint = endpoint
        self._own = own
        self._demand: _Demand | None = None
        self._adopted = -1
        self._asked_run = 0
        """The run that we asked to enrol in."""
        self._interval = request.settings.sync_frequency
        self._jobs: dict[Action, asyncio.Task[None]] = {}
        self._done: set[Action] = set()
        self._poke = asyncio.Event()
        self._failure: SwarmError | None = None
        self._silence = ""
        """Why the SN does not answer; empty while it does."""
        self._trouble = ""
        """The last step that failed, and why; empty once one succeeds."""
        self.ended = asyncio.Event()
        """The training is complete, or we left it."""

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
            jobs = list(self._jobs.values())
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            if self._demand is not None and not self._demand.outcome.done():
                self._demand.outcome.set_exception(Closed("the SL stopped before the training was over"))

    async def open(self) -> tuple[int, OpenResult | None]:
        """Enrol; returns the round that the first sync goes to, and the newest final result for a late program.

        Waits while the SN or the ledger does not answer, or nobody serves that result; `explain` says so.

        Raises:
            SettingsMismatch, ModelMismatch: this program differs from the contract; says in what.
            Refused: the ledger refused the enrolment.
        """
        while not self.desk.run:
            try:
                self._asked_run = (await find_contract(self.desk, self._sn)).run
                record = await enrol(self.desk, self._sn, self._asked_run, self._request, self._endpoint)
                self.desk.run = record.run
                self._take(record)
                log.info("%s enrolled in %s, run %d", self._request.program or "a program", record.name, record.run)
            except SwarmError as error:
                await self._pause_if_passing(error)
        while True:
            record = self.desk.record
            newest = record.last
            number = record.round.number if record.round else newest.round + 1 if newest else 0
            if newest is None:
                return number, None
            try:
                result = self.desk.stored(newest) or await catch_up(self.desk, newest)
            except SwarmError as error:
                await self._pause_if_passing(error)
            else:
                self._adopted = newest.round
                return number, result

    async def _pause_if_passing(self, error: SwarmError) -> None:
        """Wait a little if what failed may work next time."""
        if not is_passing(error):
            raise error
        if self._trouble != str(error):
            log.warning("%s: %s", self.desk.contract, error)
        self._trouble = str(error)
        await asyncio.sleep(RETRY_S)

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

        Raises:
            Refused: the SN refused to pass it on.
            Unreachable: the SN does not answer; the others find out when we miss a round.
        """
        demand, self._demand = self._demand, None
        if demand is not None and not demand.outcome.done():
            demand.outcome.cancel()
        run = self.desk.run or self._asked_run
        try:
            if run and not self.ended.is_set():
                await self.desk.submitter.send(Leave(contract=self.desk.contract, run=run, reason=reason[:200]))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give up without a word: the ledger finds out when we miss a round."""
        self.ended.set()
        self._poke.set()

    async def _ask(self, kind: Literal["sync", "finish"], progress: Progress) -> SyncOutcome:
        if self._demand is not None:
            raise Closed("the program asked again before its last request was answered")
        bad = await self.desk.run_blocking(find_nonfinite, self.desk.manifest, self._own)
        if bad is not None:
            raise NonFinite(f"tensor {bad} of {short_name(self.desk.node)} holds NaN or infinity; it is not offered")
        if self._failure is not None:
            raise self._failure
        if self.ended.is_set():
            raise Closed(f"the training {self.desk.contract} is over for this program")
        demand = self._demand = _Demand(kind, progress)
        self._poke.set()
        try:
            return await demand.outcome
        finally:
            if self._demand is demand:
                self._demand = None

    def explain(self) -> str:
        """What the program waits for, for people."""
        text = self._explain_record()
        if self._silence:
            return f"the SN does not answer ({self._silence}); asking again. Last known: {text}"
        return f"{text}. Last trouble: {self._trouble}" if self._trouble else text

    def _explain_record(self) -> str:
        record = self.desk.training
        if record is None:
            return "no word from the SN yet"
        training = [
            short_name(peer.node)
            for peer in record.peers
            if peer.state is PeerState.LIVE and peer.node != self.desk.node
        ]
        if self._demand is not None and self._demand.kind == "finish" and training:
            return f"for those that still train: {', '.join(training)}"
        return f"round {record.round.number}: {explain_wait(record)}" if record.round else explain_wait(record)

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
        self.desk.training = record
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
                self._settle_void(record)
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
        round_ = record.round if record is not None and record.run == self.desk.run else None
        return round_ is not None and self.desk.node in round_.participants

    def _local(self, record: Training) -> Local:
        stored = self.desk.stored(record.last) if record.last else None
        return Local(
            node=self.desk.node,
            run=self.desk.run,
            demand=self._demand.kind if self._demand else "",
            adopted=self._adopted,
            offered=self.desk.offer.commitment.root if self.desk.offer else b"",
            stored=frozenset([(stored.record.round, stored.record.sha256)] if stored else []),
        )

    def _check_standing(self, record: Training) -> None:
        """Fail the program's request if the training went on without us for good."""
        gone = ""
        if record.run != self.desk.run:
            gone = (
                f"contract {record.name} was reset: run {record.run} has begun, this program is in run {self.desk.run}"
            )
        elif find_peer(record, self.desk.node) is None and not self.ended.is_set():
            gone = f"{short_name(self.desk.node)} has left {record.name}"
        if gone and self._failure is None:
            self._failure = Refused(gone, code="stale")
            self.ended.set()
        if self._failure is not None and self._demand is not None and not self._demand.outcome.done():
            self._demand.outcome.set_exception(self._failure)

    def _settle_void(self, record: Training) -> None:
        """A sync whose round closed void is answered: the program keeps its own parameters."""
        demand = self._demand
        if demand is None or demand.kind != "sync" or demand.round is None or demand.outcome.done():
            return
        last = record.last.round if record.last else -1
        if record.round is not None and record.round.number > demand.round > last:
            demand.outcome.set_result(
                SyncOutcome(kind="void", round=demand.round, result=None, stored=None, next_interval=self._interval)
            )

    # --- steps ----------------------------------------------------------------------------------------------------

    async def _do(self, action: Action) -> None:
        """Carry out one action; a failure that the record does not explain is told and tried again after a pause."""
        try:
            await self._step(action)
            self._done.add(action)
            self._trouble = ""
        except SwarmError as error:
            if isinstance(error, Refused) and error.code in ("stale", "too_early"):
                log.debug("%s: %s", type(action).__name__, error)
            else:
                if self._trouble != str(error):
                    log.warning("%s: %s", self._explain_record(), error)
                self._trouble = str(error)
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
                return self._check_in(action)
            case MergeShard():
                return merge_and_commit(self.desk, action)
            case SayLost():
                return say_lost(self.desk, action)
            case StoreResult():
                return store_and_say(self.desk, action)
            case GuardShard():
                return guard_shard(self.desk, action)
            case GuardStore():
                return guard_store(self.desk, action)
            case SayHere():
                return say_here(self.desk)
            case TickLater():
                rank = [peer.node for peer in self.desk.record.peers].index(self.desk.node)
                return tick_later(self.desk, action, rank)
            case CatchUp():
                return self._catch_up(action)
            case SayFinished():
                return self._say_finished()
            case Deliver():
                return self._deliver(action.result)
            case End():
                return self._end(action.result)

    async def _check_in(self, action: CheckInNow) -> None:
        demand, newest_result = self._demand, self.desk.record.last
        if demand is None:
            return
        offer: Offer | None = None
        if action.mode in ("active", "snapshot"):
            offer = demand.offer = demand.offer or await self._commit(self._own)
        elif action.mode == "last":
            stored = self.desk.stored(newest_result) if newest_result else None
            if stored is None:
                raise Refused("the newest result is not here yet", code="stale")
            offer = await self._commit(stored.buffer)
        self._require_open(action)
        # Before the ledger knows of it: whoever is told to ask for it may be faster than our SN's answer.
        self.desk.offer = offer
        progress = msgspec.structs.replace(
            demand.progress, bytes_received=self.desk.bytes_received, bytes_sent=self.desk.bytes_sent
        )
        demand.round = action.round
        await self.desk.submitter.require(
            CheckIn(
                contract=self.desk.contract,
                run=self.desk.run,
                round=action.round,
                attempt=action.attempt,
                base=newest_result.sha256 if newest_result else b"",
                commitment=offer.commitment.root if offer else b"",
                weight=self._request.weight if offer else 0,
                mode=action.mode,
                progress=progress,
            )
        )

    def _require_open(self, action: CheckInNow) -> None:
        """What was promised for a round that has closed meanwhile must still be there when it is asked for.

        Raises:
            Refused: the round is not open any more.
        """
        record = self.desk.record
        at = (record.round.number, record.round.attempt) if record.round else None
        if record.phase is not Phase.COLLECTING or at != (action.round, action.attempt):
            raise Refused(f"round {action.round}, attempt {action.attempt} is not open any more", code="stale")

    async def _commit(self, buffer: memoryview) -> Offer:
        secret = self.desk.random_bytes(SECRET_BYTES)
        commitment: Commitment = await self.desk.run_blocking(commit, buffer, secret)
        return Offer(buffer, commitment, secret)

    async def _say_finished(self) -> None:
        demand = self._demand
        if demand is not None:
            await self.desk.submitter.require(
                Finish(contract=self.desk.contract, run=self.desk.run, progress=demand.progress)
            )

    async def _catch_up(self, action: CatchUp) -> None:
        await catch_up(self.desk, action.result)

    async def _deliver(self, result: Result) -> None:
        """Give the program the newest final result; once it has finished, only note it."""
        stored = self.desk.stored(result)
        self._adopted = result.round
        self._tell(result, "is final")
        demand = self._demand
        if demand is not None and demand.kind == "sync" and not demand.outcome.done():
            demand.outcome.set_result(
                SyncOutcome(
                    kind="synced", round=result.round, result=result, stored=stored, next_interval=self._interval
                )
            )

    def _tell(self, result: Result, what: str) -> None:
        """A line for the operator's log."""
        share = f"{len(result.contributors)} of {len(result.participants)} contributed"
        digest = result.sha256.hex()[:16]
        log.info(
            "%s, run %d: round %d %s: %s, model %s",
            self.desk.contract,
            self.desk.run,
            result.round,
            what,
            share,
            digest,
        )

    async def _end(self, result: Result | None) -> None:
        stored = self.desk.stored(result) if result else None
        self._adopted = result.round if result else -1
        self.ended.set()
        if result is None:
            log.info("%s, run %d, is complete without a model", self.desk.contract, self.desk.run)
        else:
            self._tell(result, "completes the training")
        demand = self._demand
        if demand is not None and not demand.outcome.done():
            demand.outcome.set_result(
                SyncOutcome(
                    kind="over",
                    round=result.round if result else -1,
                    result=result,
                    stored=stored,
                    next_interval=self._interval,
                )
            )
