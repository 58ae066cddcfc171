"""Faults on purpose: whom they touch, for how long, and whom never. Spec: docs/spec/control.md, C-19 to C-21."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sim_loop import run_virtual
from sl_world import (
    CONTRACT,
    SECRET,
    Handlers,
    address,
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
    serves,
    training,
)

from swarmlearning.contracts.messages import AnyMessage, Here, Leave
from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Refused, Unreachable
from swarmlearning.sl.chunkfile import BufferChunks
from swarmlearning.sl.control import Drill, Drilled
from swarmlearning.sl.desk import Desk, MergedShard, Offer
from swarmlearning.sl.drills import MAX_DRILL_S, DrilledClient, Drills, carry_out, is_rehearsal, prepare
from swarmlearning.sl.exchange import (
    CALL_PROGRESS,
    STREAM_CHUNKS,
    STREAM_RESULT,
    Advance,
    ChunkRequest,
    ProgressRequest,
    ResultRequest,
    Shard,
)
from swarmlearning.sl.leaving import Farewell
from swarmlearning.sl.serving import ExchangeService
from swarmlearning.sn.api import Submitted
from swarmlearning.sn.client import Submitter
from swarmlearning.transport.api import Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, ContractName, NodeId

REHEARSAL = ContractName("rehearsal/network/0-abc")
CHUNKS = ChunkRequest(contract=REHEARSAL, run=1, round=0, attempt=1, shard=0, start=0)
RESULT = ResultRequest(contract=REHEARSAL, run=1, round=0, shard=0, start=0)
PROGRESS = ProgressRequest(contract=REHEARSAL, run=1, round=0, shard=0)
MERGE = training(phase=Phase.MERGING, round_=merging())
SLOW = Drill(kind="slow", seconds=9)
KILL = Drill(kind="kill", seconds=60)
NONE = Drill(kind="none")


class Recorded(Submitter):
    """Notes what it is to say to the ledger."""

    def __init__(self) -> None:
        self.said: list[AnyMessage] = []

    async def send(self, message: AnyMessage) -> Submitted:
        self.said.append(message)
        return Submitted(code=Code.OK, log="", height=1)

    async def prepare(self, message: AnyMessage) -> bytes:
        self.said.append(message)
        return b"signed"

    async def repeat(self, tx: bytes) -> Submitted:
        return Submitted(code=Code.OK, log="", height=1)


class World:
    """The SL of peer 2, whose parameters are in the merging round 0 that peer 0 leads; peers 0 and 1 answer."""

    def __init__(self, tmp: Path, contract: ContractName = REHEARSAL) -> None:
        self.manifest, self.buffer = model()
        commitment = committed(self.buffer)
        promises = tuple(checked_in(i, commitment.root if i == 2 else b"") for i in range(3))
        self.merging = training(
            phase=Phase.MERGING,
            round_=merging(checkins=promises, witnesses=((node(1),),)),
            size=self.manifest.size,
            name=contract,
        )
        self.network = MemoryNetwork()
        self.desk: Desk = desk_of(2, tmp, self.network, self.manifest, self.merging)
        self.desk.contract = contract
        self.desk.offer = Offer(self.buffer, commitment, SECRET)
        self.ledger = Recorded()
        self.desk.submitter = self.ledger
        prepare(self.desk)
        self.service = ExchangeService({contract: self.desk})

    def start(self) -> None:
        async def answer(_: Caller, body: bytes) -> bytes:
            return body

        for index in range(2):
            service = Handlers({"exchange/say": answer}, {"exchange/tell": serves([b"a", b"b"])})
            self.network.serve(name(index), address(index).endpoint, service)

    async def order(self, drill: Drill) -> int:
        """Ask for a drill; how often the one before took hold."""
        return (await carry_out(self.desk, drill)).fired

    async def progress(self, index: int) -> int:
        """What our SL tells peer `index` of its progress."""
        reply = await self.service.calls[CALL_PROGRESS](Caller(node=node(index), name=name(index)), encode(PROGRESS))
        return decode(reply, Advance).steps

    async def ask(self, index: int) -> bytes:
        return await self.desk.client.call(address(index), "exchange/say", b"x", timeout_s=2.0)

    async def answers(self, index: int) -> bool:
        """Whether our SL answers peer `index` within its lease."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.progress(index)
                return True
        return False

    async def reaches(self, index: int) -> bool:
        """Whether our SL gets an answer of peer `index`."""
        try:
            return await self.ask(index) == b"x"
        except Unreachable:
            return False


def drilled(tmp: Path, work: Callable[[World], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        world = World(tmp)
        world.start()
        return await work(world)

    return run_virtual(go())


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("contract", ["heart", "rehearsal", "rehearsals/x", "a/rehearsal/x", "Rehearsal/x"])
def test_c19_a_training_is_never_drilled(tmp_path: Path, contract: str) -> None:
    """Its desk asks and submits as ever, and a drill is refused."""
    assert not is_rehearsal(ContractName(contract))
    before = desk_of(2, tmp_path / "before", MemoryNetwork(), model()[0])
    world = World(tmp_path, ContractName(contract))
    assert world.desk.drills is None
    assert type(world.desk.client) is type(before.client)
    assert world.desk.submitter is world.ledger
    for kind in ("slow", "kill", "none"):
        with pytest.raises(Refused, match="rehearsal/"):
            run_virtual(carry_out(world.desk, Drill(kind=kind, seconds=1)))


def test_c19_a_rehearsal_that_is_not_drilled_answers_asks_and_speaks(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert await world.answers(0)
        assert await world.reaches(0)
        await world.desk.submitter.require(Here(contract=REHEARSAL, run=1))
        assert len(world.ledger.said) == 1
        assert await world.order(NONE) == 0

    drilled(tmp_path, work)


@pytest.mark.parametrize(
    "drill",
    [
        Drill(kind="slow", seconds=MAX_DRILL_S + 1),
        Drill(kind="kill", seconds=-1),
        Drill(kind="cut", seconds=1),
        Drill(kind="kill", seconds=1, peer=node(0)),
        Drill(kind="cut", seconds=1, peer=node(2)),
        Drill(kind="cut", seconds=1, peer=node(7)),
        Drill(kind="cut", seconds=1, peer=NodeId("\x1b[31m")),
    ],
    ids=["too long", "negative", "cut from nobody", "kill another", "cut from itself", "a stranger", "no name"],
)
def test_c20_a_drill_without_bounds_or_of_others_is_refused(tmp_path: Path, drill: Drill) -> None:
    async def work(world: World) -> None:
        with pytest.raises(Refused, match="drill") as refusal:
            await world.order(drill)
        assert str(refusal.value).isprintable()
        assert await world.answers(0)

    drilled(tmp_path, work)


def test_c20_a_slow_sl_sends_every_frame_but_within_half_a_lease(tmp_path: Path) -> None:
    """It moves: whoever pulls from it sees a frame before half a lease is over, and the whole takes longer."""

    async def work(world: World) -> list[float]:
        await world.order(SLOW)
        before = now_s()
        caller = Caller(node=node(0), name=name(0))
        frames = world.service.streams[STREAM_CHUNKS](caller, encode(CHUNKS))
        times = [before, *[now_s() async for _ in frames]]
        assert await world.order(NONE) == len(times) - 1
        return [late - early for early, late in itertools.pairwise(times)]

    gaps = drilled(tmp_path, work)
    assert len(gaps) == 3  # leaves, four chunks, the fifth
    assert all(gap == pytest.approx(0.25) for gap in gaps)  # the test's lease is a second


def test_c20_merged_shards_are_served_slowly_too_and_not_at_all_over_a_cut_link(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        shard = Shard(size=world.manifest.size, shards=1, shard=0)
        world.desk.merged[0, 0] = MergedShard(shard, bytes(32), bytes(160), BufferChunks(world.buffer))
        caller = Caller(node=node(0), name=name(0))

        async def fetch() -> float:
            before = now_s()
            async with asyncio.timeout(5):
                assert len(await collect(world.service.streams[STREAM_RESULT](caller, encode(RESULT)))) == 3
            return now_s() - before

        assert await fetch() == 0.0
        await world.order(SLOW)
        assert await fetch() == pytest.approx(0.75)
        await world.order(Drill(kind="cut", peer=node(0), seconds=60))
        with pytest.raises(TimeoutError):
            await fetch()
        assert await world.order(NONE) == 1

    drilled(tmp_path, work)


def test_c20_a_drill_ends_by_its_time(tmp_path: Path) -> None:
    async def work(world: World) -> float:
        await world.order(replace(SLOW, seconds=2))
        await asyncio.sleep(2)
        before = now_s()
        caller = Caller(node=node(0), name=name(0))
        assert len(await collect(world.service.streams[STREAM_CHUNKS](caller, encode(CHUNKS)))) == 3
        return now_s() - before

    assert drilled(tmp_path, work) == 0.0


def test_c20_nothing_passes_a_cut_link_either_way_and_all_others_do(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.order(Drill(kind="cut", peer=node(1), seconds=60))
        assert not await world.answers(1)
        assert not await world.reaches(1)
        assert await world.answers(0)
        assert await world.reaches(0)
        await world.desk.submitter.require(Here(contract=REHEARSAL, run=1))  # the ledger is not on that link
        assert await world.order(NONE) == 2
        assert await world.answers(1)
        assert await world.reaches(1)

    drilled(tmp_path, work)


def test_c20_a_stream_that_runs_when_the_link_is_cut_gets_no_further(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        client = world.desk.client
        assert isinstance(client, DrilledClient)
        frames = client.stream(address(1), "exchange/tell", b"", idle_s=1.0)
        async with contextlib.aclosing(frames):  # type: ignore[type-var]  # iterators of the seam have aclose
            assert bytes(await anext(frames)) == b"a"
            await world.order(Drill(kind="cut", peer=node(1), seconds=60))
            before = now_s()
            with pytest.raises(Unreachable, match=r"sl@org1\.example .* \(cut drill\)"):
                await anext(frames)
            assert now_s() - before >= 1.0

    drilled(tmp_path, work)


def test_c20_who_is_kept_waiting_is_answered_once_the_drill_is_over(tmp_path: Path) -> None:
    async def work(world: World) -> float:
        await world.order(Drill(kind="cut", peer=node(1), seconds=3))
        before = now_s()
        assert await world.progress(1) == 0
        return now_s() - before

    assert drilled(tmp_path, work) == pytest.approx(3, abs=0.2)


def test_c20_a_killed_sl_falls_silent_when_the_round_merges_and_not_before(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.desk.training = replace(training(size=world.manifest.size), name=REHEARSAL)
        await world.order(KILL)
        assert await world.answers(0)
        await world.desk.submitter.require(Here(contract=REHEARSAL, run=1))
        world.desk.training = world.merging
        assert not await world.answers(0)
        assert not await world.reaches(1)
        with pytest.raises(Unreachable, match="plays dead"):
            await world.desk.submitter.require(Here(contract=REHEARSAL, run=1))
        assert len(world.ledger.said) == 1

    drilled(tmp_path, work)


def test_c20_a_killed_sl_cannot_say_either_that_it_leaves_and_any_other_can(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        farewell = Farewell(world.desk.submitter, REHEARSAL, 1, "done")
        await world.order(KILL)
        with pytest.raises(Unreachable, match="plays dead"):
            await farewell.say()
        await world.order(NONE)
        world.ledger.said.clear()
        await farewell.say()
        assert farewell.is_heard
        assert world.ledger.said == [Leave(contract=REHEARSAL, run=1, reason="done")]

    drilled(tmp_path, work)


@pytest.mark.parametrize(
    ("record", "back"),
    [
        (training(last=result(0)), True),
        (training(), False),  # collects again without it
        (training(phase=Phase.MERGING, round_=merging(attempt=4)), False),
        (training(phase=Phase.COMPLETED, last=result(0)), True),
    ],
    ids=["final", "collects again", "another attempt", "complete"],
)
def test_c20_a_killed_sl_comes_back_when_its_round_is_over(tmp_path: Path, record: Training, back: bool) -> None:
    async def work(world: World) -> None:
        await world.order(KILL)
        assert not await world.answers(0)
        world.desk.training = replace(record, name=REHEARSAL)
        assert await world.answers(0) is back
        assert await world.reaches(0) is back

    drilled(tmp_path, work)


def test_c20_a_new_drill_ends_the_one_before(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.order(Drill(kind="cut", peer=node(1), seconds=60))
        await world.order(Drill(kind="cut", peer=node(0), seconds=60))
        assert await world.answers(1)
        assert not await world.answers(0)

    drilled(tmp_path, work)


def test_c21_a_frame_counts_once_and_the_answer_tells_the_newest_result(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.order(Drill(kind="cut", peer=node(1), seconds=60))
        assert not await world.reaches(1)
        world.desk.training = replace(training(last=result(4)), name=REHEARSAL)
        answer = await carry_out(world.desk, NONE)
        assert answer == Drilled(fired=1, last=result(4))

    drilled(tmp_path, work)


@pytest.mark.parametrize(("state", "says"), [(PeerState.PAUSED, True), (PeerState.LIVE, False)])
def test_c21_who_was_paused_meanwhile_says_that_it_is_back(tmp_path: Path, state: PeerState, says: bool) -> None:
    async def work(world: World) -> None:
        peers = [peer(0), peer(1), peer(2, state)]
        world.desk.training = replace(training(peers=peers, last=result(0)), name=REHEARSAL)
        await world.order(NONE)
        assert world.ledger.said == ([Here(contract=REHEARSAL, run=1)] if says else [])

    drilled(tmp_path, work)


def test_c19_another_training_of_the_same_sl_goes_on(tmp_path: Path) -> None:
    """Two desks of one SL on one client: what is dead in the one answers in the other."""

    async def work(world: World) -> None:
        other = World(tmp_path / "other", CONTRACT)
        shared = world.desk.client
        assert isinstance(shared, DrilledClient)
        other.desk.client = shared._client
        await world.order(KILL)
        assert not await world.reaches(0)
        assert await other.reaches(0)
        assert other.service is not world.service
        both = ExchangeService({CONTRACT: other.desk, REHEARSAL: world.desk})
        caller = Caller(node=node(0), name=name(0))
        request = replace(PROGRESS, contract=CONTRACT)
        assert decode(await both.calls[CALL_PROGRESS](caller, encode(request)), Advance).steps == 0
        await shared.close()
        assert await other.reaches(0)

    drilled(tmp_path, work)


def test_a_drill_without_any_record_holds_nothing_back() -> None:
    async def go() -> None:
        drills = Drills(lambda: None, lambda: 1.0)
        drills.arm(KILL)
        assert not drills.is_silent(node(0))
        assert not drills.is_silent(None)

    run_virtual(go())
