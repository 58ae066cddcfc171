"""One ML program's part in one training: follows the ledger's record and carries out what `plan` says.

The program's door is `open`, `sync`, `finish`, `leave`; each waits for the ledger and says what it waits for.
Steps run as tasks keyed by what they are for: one that is no longer wanted is cancelled, one that failed is tried
again after a pause, as long as the record still wants it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Literal

import msgspec

from swarmlearning.contracts.messages import CheckIn, CreateContract, Enrol, Finish, Leave
from swarmlearning.contracts.records import Manifested, PeerState, Phase, Progress, Result, Training
from swarmlearning.contracts.training import explain_wait
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import (
    Broken,
    Closed,
    ModelMismatch,
    NonFinite,
    PeerError,
    Refused,
    SettingsMismatch,
    SwarmError,
    Unreachable,
)
from swarmlearning.parameters.chunks import Commitment, commit
from swarmlearning.parameters.manifest import decode_manifest, describe_difference, find_nonfinite
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, Offer, log
from swarmlearning.sl.exchange import CALL_MANIFEST, ManifestRequest
from swarmlearning.sl.fetching import catch_up, store_and_say
from swarmlearning.sl.guarding import guard_leader, tick_later
from swarmlearning.sl.merging import merge_and_commit
from swarmlearning.sl.plan import (
    Action,
    CatchUp,
    CheckInNow,
    Deliver,
    End,
    GuardShard,
    Local,
    MergeShard,
    SayFinished,
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
        self._adopted = b""
        self._interval = request.settings.sync_frequency
        self._jobs: dict[Action, asyncio.Task[None]] = {}
        self._done: set[Action] = set()
        self._poke = asyncio.Event()
        self._failure: SwarmError | None = None
        self.ended = asyncio.Event()
        """The training is complete, or we left it."""

    # --- the program's door -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the record and act on it until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._steer())
        finally:
            for job in self._jobs.values():
                job.cancel()
            await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    async def open(self) -> tuple[int, OpenResult | None]:
        """Enrol; returns the round that the first sync goes to, and the newest final result for a late program.

        Raises:
            SettingsMismatch, ModelMismatch: this program differs from the contract; says in what.
            Refused: the ledger refused the enrolment.
            Unreachable: the SN does not answer.
        """
        desk, request = self.desk, self._request
        if await self._sn.training(desk.contract) is None:
            with contextlib.suppress(Refused):  # another peer may have been faster
                await desk.submitter.require(CreateContract(contract=desk.contract))
                log.info("created contract %s", desk.contract)
        record = await self._sn.training(desk.contract)
        if record is None:
            raise Broken(f"contract {desk.contract} was created and is not there")
        manifested = Manifested(hash=desk.manifest.hash, size=desk.size)
        enrolment = Enrol(
            contract=desk.contract,
            run=record.run,
            settings=request.settings,
            manifest=manifested,
            min_peers=request.min_peers,
            weight=request.weight,
            endpoint=self._endpoint,
            restored=request.restored,
        )
        try:
            await desk.submitter.require(enrolment)
        except Refused as refused:
            raise await self._explain_refusal(refused) from refused
        newest = await self._sn.training(desk.contract)
        if newest is None:
            raise Broken(f"contract {desk.contract} is gone")
        desk.run = newest.run
        self._take(newest)
        result = None
        if newest.last is not None:
            result = desk.store.get(desk.contract, newest.run, newest.last.round)
            if result is None or result.record.sha256 != newest.last.sha256:
                result = await catch_up(desk, newest.last)
            self._adopted = newest.last.sha256
        return newest.round.number if newest.round else 0, result

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
        """Leave the training politely.

        Raises:
            Refused: the ledger refused it.
            Unreachable: the SN does not answer.
        """
        if not self.ended.is_set():
            await self.desk.submitter.send(Leave(contract=self.desk.contract, run=self.desk.run, reason=reason[:200]))
            self.ended.set()
        if self._demand is not None and not self._demand.outcome.done():
            self._demand.outcome.cancel()
        self._demand = None

    async def _ask(self, kind: Literal["sync", "finish"], progress: Progress) -> SyncOutcome:
        if self._failure is not None:
            raise self._failure
        if self._demand is not None:
            raise Closed("the program asked again before its last request was answered")
        bad = await self.desk.run_blocking(find_nonfinite, self.desk.manifest, self._own)
        if bad is not None:
            raise NonFinite(f"tensor {bad} of {short_name(self.desk.node)} holds NaN or infinity; it is not offered")
        self.desk.offer = None
        self._demand = _Demand(kind, progress)
        self._poke.set()
        try:
            return await self._demand.outcome
        finally:
            self._demand = None

    def explain(self) -> str:
        """What the program waits for, for people."""
        record = self.desk.training
        if record is None:
            return "no word from the SN yet"
        round_ = record.round
        training = [short_name(peer.node) for peer in record.peers if peer.state is PeerState.LIVE]
        if self._demand is not None and self._demand.kind == "finish" and training:
            return f"for those that still train: {', '.join(training)}"
        if record.phase is Phase.COLLECTING and round_ is not None:
            return f"round {round_.number}: {explain_wait(record)}"
        if record.phase is Phase.MERGING and round_ is not None:
            merged = sum(bool(root) for root in round_.merged)
            if merged < round_.shards:
                names = ", ".join(sorted({short_name(node) for node in round_.leaders}))
                return f"round {round_.number}: {merged} of {round_.shards} shards merged; led by {names}"
            held = ", ".join(short_name(n) for n in round_.participants if all(h.node != n for h in round_.holdings))
            return f"round {round_.number}: merged; to be stored by {held}"
        return f"{record.name} is {record.phase.value}"

    # --- following the ledger ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Keep the newest record; an SN that falls silent is asked again."""
        while True:
            version = self.desk.training.version if self.desk.training else 0
            try:
                watch: AsyncIterator[Training] = self._sn.watch(self.desk.contract, version)
                async for record in watch:
                    self._take(record)
            except (Unreachable, PeerError) as error:
                log.warning("the SN does not answer: %s", error)
            await asyncio.sleep(WATCH_RETRY_S)

    def _take(self, record: Training) -> None:
        known = self.desk.training
        if known is not None and record.version <= known.version:
            return
        self.desk.training = record
        self._poke.set()

    async def _steer(self) -> None:
        """Whenever something changed, start what is wanted and stop what is not."""
        while True:
            await self._poke.wait()
            self._poke.clear()
            async with self.desk.changed:
                self.desk.changed.notify_all()
            record = self.desk.training
            if record is None or not self.desk.run:
                continue
            self._check_standing(record)
            self._settle_void(record)
            wanted = plan(record, self._local(record))
            for action in [action for action in self._jobs if action not in wanted]:
                self._jobs.pop(action).cancel()
            self._done.intersection_update(wanted)
            for action in wanted:
                if action not in self._jobs and action not in self._done:
                    self._jobs[action] = asyncio.ensure_future(self._do(action))

    def _local(self, record: Training) -> Local:
        stored = self.desk.store.get(self.desk.contract, record.run, record.last.round) if record.last else None
        return Local(
            node=self.desk.node,
            run=self.desk.run,
            demand=self._demand.kind if self._demand else "",
            adopted=self._adopted,
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
        except SwarmError as error:
            if isinstance(error, Refused) and error.code in ("stale", "conflict", "too_early"):
                log.debug("%s: %s", type(action).__name__, error)
            elif isinstance(error, NonFinite) and self._demand is not None and not self._demand.outcome.done():
                self._demand.outcome.set_exception(error)
            else:
                log.warning("%s: %s", self.explain(), error)
            await asyncio.sleep(RETRY_S)
        except Exception:  # noqa: BLE001  # a task's boundary: a bug in one step must not end the others silently
            log.exception("%s failed", type(action).__name__)
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
            case StoreResult():
                return store_and_say(self.desk, action)
            case GuardShard():
                return guard_leader(self.desk, action)
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
        demand = self._demand
        if demand is None:
            return
        offer: Offer | None = None
        if action.mode in ("active", "snapshot"):
            offer = self.desk.offer or await self._commit(self._own)
        elif action.mode == "last":
            newest = self.desk.record.last
            stored = self.desk.store.get(self.desk.contract, self.desk.run, newest.round) if newest else None
            if stored is None:
                raise Refused("the newest result is not here yet", code="stale")
            offer = await self._commit(stored.buffer)
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
                base=self._adopted,
                commitment=offer.commitment.root if offer else b"",
                weight=self._request.weight if offer else 0,
                mode=action.mode,
                progress=progress,
            )
        )

    async def _commit(self, buffer: memoryview) -> Offer:
        secret = secrets.token_bytes(32)
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
        stored = self.desk.store.get(self.desk.contract, self.desk.run, result.round)
        self._adopted = result.sha256
        self.desk.forget_rounds(result.round)
        demand = self._demand
        if demand is not None and demand.kind == "sync" and not demand.outcome.done():
            self.desk.offer = None
            demand.outcome.set_result(
                SyncOutcome(
                    kind="synced", round=result.round, result=result, stored=stored, next_interval=self._interval
                )
            )

    async def _end(self, result: Result | None) -> None:
        stored = self.desk.store.get(self.desk.contract, self.desk.run, result.round) if result else None
        if result is not None:
            self._adopted = result.sha256
            self.desk.forget_rounds(result.round)
        self.ended.set()
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

    # --- explaining a refused enrolment ------------------------------------------------------------------------------

    async def _explain_refusal(self, refused: Refused) -> SwarmError:
        """The error for the user: what differs, on both sides."""
        text = str(refused)
        if refused.code != "conflict":
            return refused
        if text.startswith("settings: "):
            return SettingsMismatch(f"contract {self.desk.contract}: {text.removeprefix('settings: ')}")
        if not text.startswith("model: "):
            return refused
        difference = await self._compare_manifests()
        return ModelMismatch(f"contract {self.desk.contract}: {difference or text.removeprefix('model: ')}")

    async def _compare_manifests(self) -> str:
        """The first tensor that differs from an enrolled peer's, or "" where none answers."""
        record = await self._sn.training(self.desk.contract)
        if record is None or record.manifest is None:
            return ""
        self.desk.training = record
        body = encode(ManifestRequest(contract=self.desk.contract))
        for peer in record.peers:
            if peer.state is PeerState.LEFT or peer.node == self.desk.node:
                continue
            with contextlib.suppress(Unreachable, PeerError):
                address = self.desk.address_of(peer.node)
                data = await self.desk.client.call(address, CALL_MANIFEST, body, timeout_s=5.0)
                theirs = decode_manifest(decode(data, bytes))
                if theirs.hash == record.manifest.hash:
                    return f"{describe_difference(self.desk.manifest, theirs)} ({short_name(peer.node)})"
        return ""
