"""Who may fetch what from an SL. Spec: docs/spec/exchange.md."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sl_world import (
    CONTRACT,
    SECRET,
    checked_in,
    collect,
    committed,
    desk_of,
    merging,
    model,
    name,
    node,
    peer,
    result,
    training,
)

from swarmlearning import __version__
from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.encoding import Record, decode, encode
from swarmlearning.errors import DecodeError, Refused
from swarmlearning.parameters.chunks import merged_root
from swarmlearning.parameters.manifest import decode_manifest
from swarmlearning.sl import serving
from swarmlearning.sl.chunkfile import BufferChunks
from swarmlearning.sl.desk import Desk, MergedShard, Offer
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
)
from swarmlearning.sl.results import leaves_of
from swarmlearning.sl.serving import ExchangeService
from swarmlearning.transport.api import Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import ContractName, NodeName, Role

CHUNKS = ChunkRequest(contract=CONTRACT, run=1, round=0, attempt=1, shard=0, start=0)
RESULT = ResultRequest(contract=CONTRACT, run=1, round=0, shard=0, start=0)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are ahead of our record are refused at once."""
    monkeypatch.setattr(serving, "CATCH_UP_S", 0.0)


def caller(index: int, role: Role = Role.SL) -> Caller:
    return Caller(node=name(index, role).id, name=name(index, role))


class World:
    """Peer 2 serves; its parameters were checked in to round 0, which merges: peer 0 leads, peer 1 witnesses."""

    def __init__(self, tmp: Path) -> None:
        self.manifest, self.buffer = model()
        commitment = committed(self.buffer)
        promises = tuple(checked_in(i, commitment.root if i == 2 else b"") for i in range(3))
        self.round = merging(checkins=promises, witnesses=((node(1),),), peers=4)
        peers = [peer(0), peer(1), peer(2), peer(3), peer(4, PeerState.LEFT)]
        self.record = training(phase=Phase.MERGING, round_=self.round, peers=peers, size=self.manifest.size)
        self.desk: Desk = desk_of(2, tmp, MemoryNetwork(), self.manifest, self.record)
        self.desk.offer = Offer(self.buffer, commitment, SECRET)
        self.service = ExchangeService({CONTRACT: self.desk})

    def stream(self, method: str, who: Caller, request: Record) -> list[bytes]:
        async def go() -> list[bytes]:
            return await collect(self.service.streams[method](who, encode(request)))

        return asyncio.run(go())

    def call(self, method: str, who: Caller, request: Record) -> bytes:
        async def go() -> bytes:
            return await self.service.calls[method](who, encode(request))

        return asyncio.run(go())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "desk")


@pytest.mark.parametrize("index", [0, 1])
def test_leader_and_witness_get_the_chunks_of_their_shard(world: World, index: int) -> None:
    """E-2."""
    frames = world.stream(STREAM_CHUNKS, caller(index), CHUNKS)
    assert sum(map(len, frames)) == 5 * 32 + 5 * 16 + len(world.buffer)


REFUSED: dict[str, tuple[Caller, dict[str, Any], str]] = {
    "a participant that does not lead": (caller(3), {}, "not-allowed"),
    "somebody who is not enrolled": (caller(7), {}, "not-allowed"),
    "a peer that left": (caller(4), {}, "not-allowed"),
    "an SN": (caller(0, Role.SN), {}, "role"),
    "an operator": (caller(0, Role.OPERATOR), {}, "role"),
    "a leader that names an old attempt": (caller(0), {"attempt": 0}, "stale"),
    "a leader that names a later attempt": (caller(0), {"attempt": 2}, "stale"),
    "a leader that names another round": (caller(0), {"round": 1}, "stale"),
    "a leader that names another run": (caller(0), {"run": 2}, "stale"),
    "a shard that there is not": (caller(0), {"shard": 1}, "malformed"),
    "a shard below none": (caller(0), {"shard": -1}, "malformed"),
    "a start beyond the end": (caller(0), {"start": 6}, "malformed"),
    "a start before the beginning": (caller(0), {"start": -1}, "malformed"),
    "another contract": (caller(0), {"contract": ContractName("lung")}, "not-found"),
}


@pytest.mark.parametrize("who", REFUSED)
def test_nobody_else_gets_chunks(world: World, who: str) -> None:
    """E-1, E-2, E-3: for each request the ledger's record decides."""
    asker, changes, code = REFUSED[who]
    with pytest.raises(Refused) as refused:
        world.stream(STREAM_CHUNKS, asker, replace(CHUNKS, **changes))
    assert refused.value.code == code
    assert world.desk.bytes_sent == 0


def test_chunks_are_served_from_the_asked_position(world: World) -> None:
    everything = world.stream(STREAM_CHUNKS, caller(0), CHUNKS)
    rest = world.stream(STREAM_CHUNKS, caller(0), replace(CHUNKS, start=4))
    assert rest == [everything[0], everything[-1]]
    assert world.stream(STREAM_CHUNKS, caller(0), replace(CHUNKS, start=5)) == [everything[0]]


@pytest.mark.parametrize("phase", [Phase.COLLECTING, Phase.COMPLETED])
def test_outside_of_merging_nobody_gets_chunks(world: World, phase: Phase) -> None:
    world.desk.training = replace(world.record, phase=phase)
    with pytest.raises(Refused, match="not at round 0, attempt 1"):
        world.stream(STREAM_CHUNKS, caller(0), CHUNKS)


def test_parameters_that_were_not_checked_in_are_not_served(world: World) -> None:
    """E-3: a restarted SL, or one whose program has gone on, serves nothing instead of something else."""
    _, other = model(fill=5.0)
    for offer in (None, Offer(other, committed(other), SECRET)):
        world.desk.offer = offer
        with pytest.raises(Refused) as refused:
            world.stream(STREAM_CHUNKS, caller(0), CHUNKS)
        assert refused.value.code == "gone"


def test_a_dropped_contributor_serves_nothing(world: World) -> None:
    world.desk.training = replace(world.record, round=replace(world.round, contributors=(node(0), node(1))))
    with pytest.raises(Refused) as refused:
        world.stream(STREAM_CHUNKS, caller(0), CHUNKS)
    assert refused.value.code == "gone"


def test_a_leader_that_loses_its_shard_meanwhile_gets_no_more(world: World) -> None:
    """E-2 holds for every frame, not only for the request."""

    async def go() -> int:
        frames = world.service.streams[STREAM_CHUNKS](caller(0), encode(CHUNKS))
        got = [await anext(frames)]
        moved = replace(world.round, attempt=2, leaders=(node(3),), witnesses=((),))
        world.desk.training = replace(world.record, round=moved, version=2)
        with pytest.raises(Refused, match="has lost shard 0"):
            await anext(frames)
        return len(got)

    assert asyncio.run(go()) == 1


def test_a_leader_that_is_ahead_of_our_sn_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CATCH_UP_S", 5.0)
    before = replace(world.record, phase=Phase.COLLECTING, round=replace(world.round, attempt=0, merging=False))
    world.desk.training = before

    async def go() -> list[bytes]:
        asked = asyncio.ensure_future(collect(world.service.streams[STREAM_CHUNKS](caller(0), encode(CHUNKS))))
        await asyncio.sleep(0)
        world.desk.training = world.record
        async with world.desk.changed:
            world.desk.changed.notify_all()
        return await asked

    assert len(asyncio.run(go())) == 3


# --- merged shards --------------------------------------------------------------------------------------------------


def with_merged(world: World) -> bytes:
    """Peer 2 has merged the shard itself."""
    shard = Shard(size=world.manifest.size, shards=1, shard=0)
    leaves = leaves_of(world.buffer)
    root = merged_root(leaves, shard.size, shard=0, shards=1)
    world.desk.merged[0, 0] = MergedShard(shard, root, leaves, BufferChunks(world.buffer))
    return leaves


def with_stored(world: World, round_: int = 0) -> None:
    """Peer 2 has the result on disk."""
    world.desk.store.save(CONTRACT, 1, round_, (b"r" * 32,), world.buffer)


@pytest.mark.parametrize("have", [with_merged, with_stored])
@pytest.mark.parametrize("index", [0, 3])
def test_every_enrolled_peer_gets_the_result(world: World, have: Any, index: int) -> None:
    """E-6: from whoever merged it, and from whoever has it on disk."""
    have(world)
    frames = world.stream(STREAM_RESULT, caller(index), RESULT)
    assert b"".join(frames) == leaves_of(world.buffer) + bytes(world.buffer)
    assert world.desk.bytes_sent == sum(map(len, frames))


@pytest.mark.parametrize(
    ("asker", "changes", "code"),
    [
        (caller(7), {}, "not-allowed"),
        (caller(4), {}, "not-allowed"),
        (caller(0, Role.SN), {}, "role"),
        (caller(0), {"contract": ContractName("lung")}, "not-found"),
        (caller(0), {"round": 1}, "not-found"),
        (caller(0), {"run": 2}, "not-found"),
        (caller(0), {"shard": 1}, "not-found"),
        (caller(0), {"shard": -1}, "not-found"),
        (caller(0), {"start": 6}, "malformed"),
    ],
)
def test_nobody_else_gets_a_result(world: World, asker: Caller, changes: dict[str, Any], code: str) -> None:
    with_stored(world)
    with pytest.raises(Refused) as refused:
        world.stream(STREAM_RESULT, asker, replace(RESULT, **changes))
    assert refused.value.code == code


def test_the_result_before_the_newest_is_served_too(world: World) -> None:
    """A peer whose SN is slow asks for what was the newest a moment ago."""
    with_stored(world, 0)
    with_stored(world, 1)
    world.desk.training = training(last=result(round_=1), size=world.manifest.size)
    assert world.stream(STREAM_RESULT, caller(0), RESULT)


# --- calls ----------------------------------------------------------------------------------------------------------


def test_progress_is_told_to_enrolled_peers_only(world: World) -> None:
    """E-7."""
    world.desk.merging[0, 0] = 1
    request = ProgressRequest(contract=CONTRACT, run=1, round=0, shard=0)
    assert decode(world.call(CALL_PROGRESS, caller(0), request), Advance).steps == 1
    assert decode(world.call(CALL_PROGRESS, caller(0), replace(request, shard=5)), Advance).steps == 0
    with pytest.raises(Refused):
        world.call(CALL_PROGRESS, caller(4), request)


def test_the_manifest_is_shown_to_those_who_may_enrol(world: World) -> None:
    """E-8: names and shapes, so that a differing model can be explained before it is enrolled."""
    shown = decode(world.call(CALL_MANIFEST, caller(9), ManifestRequest(contract=CONTRACT)), bytes)
    assert decode_manifest(shown) == world.manifest
    only: Training = replace(world.record, organisations=(name(0).domain,))
    world.desk.training = only
    with pytest.raises(Refused, match="may not enrol in heart"):
        world.call(CALL_MANIFEST, caller(9), ManifestRequest(contract=CONTRACT))


@pytest.mark.parametrize("method", [STREAM_CHUNKS, STREAM_RESULT])
def test_garbage_is_refused(world: World, method: str) -> None:
    async def go() -> None:
        await collect(world.service.streams[method](caller(0), b"\xc1 garbage"))

    with pytest.raises(DecodeError):
        asyncio.run(go())


def test_a_contract_that_no_program_uses_here_is_not_served() -> None:
    service = ExchangeService({})

    async def go() -> None:
        await service.calls[CALL_MANIFEST](caller(0), encode(ManifestRequest(contract=CONTRACT)))

    with pytest.raises(Refused, match="takes no part in heart"):
        asyncio.run(go())


def test_names_of_other_organisations_are_no_entitlement(world: World) -> None:
    """The leader's name in another organisation's domain is another node."""
    other = NodeName(domain=name(3).domain, network="testnet", role=Role.SL, name=name(0).name)
    with pytest.raises(Refused):
        world.stream(STREAM_CHUNKS, Caller(node=other.id, name=other), CHUNKS)


def ask_about(service: ExchangeService, who: Caller, body: bytes = b"") -> About:
    async def go() -> bytes:
        return await service.calls[CALL_ABOUT](who, body)

    return decode(asyncio.run(go()), About)


@pytest.mark.parametrize("role", [Role.SL, Role.SN, Role.OPERATOR, Role.AUDITOR])
def test_e10_whoever_may_look_for_faults_learns_version_and_clock_and_nothing_else(role: Role) -> None:
    """E-10. Of an SL that takes part in nothing too: peers are looked at before a training."""
    service = ExchangeService({}, lambda: 1_700_000_000_123)
    assert ask_about(service, caller(7, role)) == About(version=__version__, clock_ms=1_700_000_000_123)
    assert set(About.__struct_fields__) == {"version", "clock_ms"}


def test_e10_a_swop_is_told_nothing_and_a_body_is_refused() -> None:
    for who, body, code in ((caller(0, Role.SWOP), b"", "role"), (caller(0), b"x", "malformed")):
        with pytest.raises(Refused) as refused:
            ask_about(ExchangeService({}), who, body)
        assert refused.value.code == code
