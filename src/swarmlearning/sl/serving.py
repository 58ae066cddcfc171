"""What an SL serves to other SLs, each request checked against the ledger's record. Spec: docs/spec/exchange.md.

A contributor's chunk: only to the leader or a witness of its shard in the current attempt. A merged shard: only to
peers enrolled in the contract. A manifest (names and shapes): to SLs whose organisation may enrol. Version and clock:
to whoever may look for faults.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from swarmlearning import __version__
from swarmlearning.clock import WallClock, system_clock
from swarmlearning.contracts.records import Phase, Round, Training
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Refused
from swarmlearning.parameters.chunks import salt
from swarmlearning.sl.desk import Desk
from swarmlearning.sl.exchange import (
    CALL_ABOUT,
    CALL_MANIFEST,
    CALL_PROGRESS,
    STREAM_CHUNKS,
    STREAM_RESULT,
    About,
    Advance,
    ChunkRequest,
    ManifestRequest,
    ProgressRequest,
    ResultRequest,
    Shard,
    send_frames,
)
from swarmlearning.sl.plan import find_peer
from swarmlearning.transport.api import Call, Caller, Frame, Stream
from swarmlearning.types import ContractName, Role

CATCH_UP_S: Final = 5.0
"""How long a request that is ahead of our record waits for it at most, seconds; never more than a quarter of a lease,
so that who asks hears of it before it takes us for dead."""


_MAY_ASK_ABOUT: Final = (Role.SL, Role.SN, Role.OPERATOR, Role.AUDITOR)


class ExchangeService:
    """Serves the trainings in `desks`, which the node keeps up to date."""

    def __init__(self, desks: Mapping[ContractName, Desk], clock: WallClock = system_clock) -> None:
        """Serve `desks`; `clock` is told to whoever asks for it."""
        self._desks = desks
        self._clock = clock

    @property
    def calls(self) -> Mapping[str, Call]:
        """Request-reply methods."""
        return {CALL_MANIFEST: self._manifest, CALL_PROGRESS: self._progress, CALL_ABOUT: self._about}

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Streaming methods."""
        return {STREAM_CHUNKS: self._chunks, STREAM_RESULT: self._result}

    def _desk(self, caller: Caller, contract: ContractName) -> Desk:
        if caller.name.role is not Role.SL:
            raise Refused(f"{caller.name.short} is {caller.name.role.value}; only SLs exchange parameters", code="role")
        desk = self._desks.get(contract)
        if desk is None or desk.training is None:
            raise Refused(f"this SL takes no part in {contract}", code="not-found")
        return desk

    async def _manifest(self, caller: Caller, body: bytes) -> bytes:
        request = decode(body, ManifestRequest)
        desk = self._desk(caller, request.contract)
        allowed = desk.record.organisations
        if allowed and caller.name.domain not in allowed:
            raise Refused(f"{caller.name.domain} may not enrol in {request.contract}", code="not-allowed")
        return encode(encode(desk.manifest))

    async def _progress(self, caller: Caller, body: bytes) -> bytes:
        request = decode(body, ProgressRequest)
        desk = self._desk(caller, request.contract)
        self._require_enrolled(desk.record, caller)
        await _hold(desk, caller)
        return encode(Advance(steps=desk.steps(request.round, request.shard)))

    async def _about(self, caller: Caller, body: bytes) -> bytes:
        """E-10: version and clock, nothing of any training."""
        if caller.name.role not in _MAY_ASK_ABOUT:
            allowed = ", ".join(role.value for role in _MAY_ASK_ABOUT)
            raise Refused(f"{caller.name.short} is {caller.name.role.value}; this needs one of: {allowed}", code="role")
        if body:
            raise Refused(f"{CALL_ABOUT} takes no request, got {len(body)} bytes", code="malformed")
        return encode(About(version=__version__, clock_ms=self._clock()))

    def _require_enrolled(self, record: Training, caller: Caller) -> None:
        if find_peer(record, caller.node) is None:
            raise Refused(f"{caller.name.short} is not enrolled in {record.name}", code="not-allowed")

    async def _chunks(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """E-1 to E-4: our own parameters, to whoever leads or witnesses the shard now."""
        request = decode(body, ChunkRequest)
        desk = self._desk(caller, request.contract)
        await self._wait_for(desk, request)
        await _hold(desk, caller)
        round_ = desk.record.round
        if round_ is None or not self._is_current(desk.record, request):
            raise Refused(
                f"{request.contract} is not at round {request.round}, attempt {request.attempt}", code="stale"
            )
        if not 0 <= request.shard < round_.shards:
            raise Refused(f"shard {request.shard}: the round has {round_.shards}", code="malformed")
        if not _is_charged(round_, caller, request.shard):
            raise Refused(f"{caller.name.short} neither leads nor witnesses shard {request.shard}", code="not-allowed")
        promised = next((c.commitment for c in round_.checkins if c.node == desk.node), b"")
        offer = desk.offer
        if desk.node not in round_.contributors or offer is None or offer.commitment.root != promised:
            raise Refused("this SL does not hold the parameters that were checked in", code="gone")
        shard = Shard(size=desk.travels.size, shards=round_.shards, shard=request.shard)
        start = _check_start(request.start, shard)
        leaves, secret = offer.commitment.leaves, offer.secret
        for frame in send_frames(shard, leaves, offer.chunks, start, lambda index: salt(secret, index)):
            if desk.drills is not None:
                await desk.drills.pace(caller.node)
            now = desk.record.round
            if now is None or now.number != request.round or not _is_charged(now, caller, request.shard):
                raise Refused(f"{caller.name.short} has lost shard {request.shard} meanwhile", code="stale")
            desk.bytes_sent += len(frame)
            yield frame

    def _is_current(self, record: Training, request: ChunkRequest) -> bool:
        round_ = record.round
        return (
            record.phase is Phase.MERGING
            and round_ is not None
            and (record.run, round_.number, round_.attempt) == (request.run, request.round, request.attempt)
        )

    async def _wait_for(self, desk: Desk, request: ChunkRequest) -> None:
        """A leader whose SN was faster than ours asks before we know of the attempt: wait for the record a little."""

        def is_there() -> bool:
            record = desk.record
            at = record.round
            if at is None or record.run != request.run:
                return True  # never will be: refused by the caller
            ahead = (at.number, at.attempt) >= (request.round, request.attempt)
            return ahead or self._is_current(record, request)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(CATCH_UP_S, desk.lease_s / 4)), desk.changed:
                await desk.changed.wait_for(is_there)

    async def _result(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """E-6, E-20: a merged shard, to peers enrolled in the contract."""
        request = decode(body, ResultRequest)
        desk = self._desk(caller, request.contract)
        self._require_enrolled(desk.record, caller)
        await _hold(desk, caller)
        find = desk.whole_result if request.whole else desk.merged_shard
        found = await desk.run_blocking(find, request.run, request.round, request.shard)
        if found is None:
            raise Refused(f"round {request.round}, shard {request.shard}: not held here", code="not-found")
        start = _check_start(request.start, found.shard)
        for frame in send_frames(found.shard, found.leaves, found.chunks, start, None):
            if desk.drills is not None:
                await desk.drills.pace(caller.node)
            desk.bytes_sent += len(frame)
            yield frame


async def _hold(desk: Desk, caller: Caller) -> None:
    """In a rehearsal somebody may have to wait for what does not come."""
    if desk.drills is not None:
        await desk.drills.hold(caller.node)


def _is_charged(round_: Round, caller: Caller, shard: int) -> bool:
    """E-2: whether the caller leads or witnesses the shard in the current attempt."""
    if not round_.merging or not 0 <= shard < round_.shards:
        return False
    return caller.node == round_.leaders[shard] or caller.node in round_.witnesses[shard]


def _check_start(start: int, shard: Shard) -> int:
    if not 0 <= start <= len(shard.indices):
        raise Refused(f"start {start}: the shard has {len(shard.indices)} chunks", code="malformed")
    return start
