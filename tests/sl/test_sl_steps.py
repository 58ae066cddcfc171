"""Single steps of a round at the moments at which they could go wrong. Spec: docs/spec/round.md."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from msgspec.structs import replace
from sl_world import (
    CONTRACT,
    FIVE_CHUNKS,
    SECRET,
    SETTINGS,
    Handlers,
    address,
    checked_in,
    committed,
    desk_of,
    merging,
    model,
    name,
    node,
    peer,
    read_all,
    result,
    training,
)

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.messages import CheckIn, MergeCommit, Message, Payload, Tick, Tx, Unreachable
from swarmlearning.contracts.records import Holding, PeerState, Phase, Progress, Result, Round, RoundSummary, Training
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Refused
from swarmlearning.errors import Unreachable as UnreachableError
from swarmlearning.parameters.chunks import CHUNK_BYTES, commit, merged_root
from swarmlearning.sl import participation as participation_module
from swarmlearning.sl.control import CONTROL_VERSION, Open
from swarmlearning.sl.desk import Desk, Offer
from swarmlearning.sl.exchange import STREAM_CHUNKS, STREAM_RESULT, ResultRequest, Shard
from swarmlearning.sl.fetching import catch_up, store_and_say
from swarmlearning.sl.merging import merge_and_commit
from swarmlearning.sl.offering import check_in
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.plan import CheckInNow, MergeShard, StoreResult
from swarmlearning.sl.program import Demand
from swarmlearning.sl.results import leaves_of, shard_leaves
from swarmlearning.sl.serving import ExchangeService
from swarmlearning.sl.steps import deliver
from swarmlearning.sl.unmerged import is_answered
from swarmlearning.sn.api import (
    CALL_CONTRACT,
    CALL_HISTORY,
    CALL_STATUS,
    CALL_SUBMIT,
    STREAM_WATCH,
    Notice,
    Status,
    Submitted,
)
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address, Caller, Frame
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, Endpoint, NodeId, Role

T = TypeVar("T")


class FakeSn:
    """The SN of organisation 0: shows `record`, and writes down what it is told."""

    def __init__(self, record: Training | None = None) -> None:
        self.record = record
        self.told: list[Message] = []
        self.silent = False
        self.calls = {CALL_STATUS: self._status, CALL_SUBMIT: self._submit, CALL_CONTRACT: self._contract}
        self.streams: dict[str, Any] = {STREAM_WATCH: self._watch}

    async def _status(self, caller: Caller, body: bytes) -> bytes:
        sn = name(0, Role.SN).id
        return encode(
            Status(
                node=sn,
                network="testnet",
                sentinel=sn,
                height=1,
                transactions=0,
                app_hash=b"",
                time_ms=0,
                clock_ms=0,
                problem="",
                version="0",
            )
        )

    async def _submit(self, caller: Caller, body: bytes) -> bytes:
        self.told.append(decode(decode(body, Tx).payload, Payload).message)
        return encode(Submitted(height=1, code=Code.OK, log=""))

    async def _contract(self, caller: Caller, body: bytes) -> bytes:
        return encode(self.record) if self.record is not None else b""

    async def _watch(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        version = -1
        while True:
            if self.record is not None and self.record.version != version:
                version = self.record.version
                yield encode(Notice(height=1, training=encode(self.record)))
            await asyncio.sleep(0.001)


class Pair:
    """Peer 0, the leader of the only shard, and peer 1, who serves what it checked in."""

    def __init__(self, tmp: Path, size: int = FIVE_CHUNKS) -> None:
        self.network = MemoryNetwork()
        self.manifest, self.mine = model(size, fill=1.0)
        _, self.theirs = model(size, fill=3.0)
        roots = [committed(buffer).root for buffer in (self.mine, self.theirs)]
        self.round: Round = merging(peers=2, checkins=(checked_in(0, roots[0]), checked_in(1, roots[1])))
        self.record = training(
            phase=Phase.MERGING, round_=self.round, peers=[peer(0), peer(1)], size=self.manifest.size
        )
        self.sn = FakeSn(self.record)
        sn = name(0, Role.SN)
        self.network.serve(sn, Endpoint(host="org0", port=30304), self.sn)
        self.desk = desk_of(0, tmp / "0", self.network, self.manifest, self.record)
        self.other = desk_of(1, tmp / "1", self.network, self.manifest, self.record)
        self.desk.offer = Offer(self.mine, committed(self.mine), SECRET)
        self.other.offer = Offer(self.theirs, committed(self.theirs), SECRET)
        self.network.serve(name(1), address(1).endpoint, ExchangeService({CONTRACT: self.other}))
        self.action = MergeShard(round=0, shard=0, contributors=(node(0), node(1)))

    def merge(self) -> list[Message]:
        asyncio.run(merge_and_commit(self.desk, self.action))
        return self.sn.told


def meanwhile(desk: Desk, change: Callable[[], None]) -> None:
    """Let something happen while the desk computes."""

    async def run_blocking(function: Callable[..., T], *args: Any) -> T:
        result = function(*args)
        if function.__name__ in ("advance", "commit"):
            change()
        return result

    desk.run_blocking = run_blocking


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_leader_commits_the_mean(pair: Pair) -> None:
    (told,) = pair.merge()
    assert isinstance(told, MergeCommit)
    merged = pair.desk.merged[0, 0]
    assert told.root == merged.root
    mean = (np.frombuffer(pair.mine, np.float32) + np.frombuffer(pair.theirs, np.float32)) / 2
    assert np.array_equal(
        np.frombuffer(read_all(merged.chunks, merged.shard), np.float32)[: 4 * 16384], mean[: 4 * 16384]
    )


def test_what_was_merged_of_others_is_not_committed_in_a_later_attempt(pair: Pair) -> None:
    """R-9: the attempt's number alone would let an honest leader commit a wrong merge."""
    later = replace(pair.round, attempt=2, contributors=(node(0),))

    def dropped() -> None:
        pair.desk.training = replace(pair.record, round=later, version=2)

    meanwhile(pair.desk, dropped)
    with pytest.raises(Refused, match="merged otherwise now"):
        pair.merge()
    assert pair.sn.told == []
    assert pair.desk.merged == {}


def test_another_attempt_with_the_same_contributors_takes_the_same_merge(pair: Pair) -> None:
    def moved_on() -> None:
        pair.desk.training = replace(pair.record, round=replace(pair.round, attempt=2), version=2)

    meanwhile(pair.desk, moved_on)
    (told,) = pair.merge()
    assert isinstance(told, MergeCommit)
    assert told.attempt == 2


def test_a_leader_that_restarted_does_not_merge_other_parameters_than_it_promised(pair: Pair) -> None:
    """R-18."""
    _, fresh = model(fill=9.0)
    for offer in (None, Offer(fresh, committed(fresh), SECRET)):
        pair.desk.offer = offer
        with pytest.raises(Refused, match="no longer holds the parameters"):
            pair.merge()
    assert pair.sn.told == []


def test_a_round_that_collects_again_merges_what_is_offered_then(pair: Pair) -> None:
    """R-9: what was pulled before is kept by commitment, not by name."""
    pair.merge()
    first = pair.desk.merged[0, 0].root
    _, fresh = model(fill=7.0)
    secret = bytes(32)
    promise = commit(fresh, secret)
    pair.other.offer = Offer(fresh, promise, secret)
    again = replace(pair.round, attempt=3, checkins=(pair.round.checkins[0], checked_in(1, promise.root)))
    pair.desk.training = pair.other.training = replace(pair.record, round=again, version=3)
    told = pair.merge()[-1]
    assert isinstance(told, MergeCommit)
    assert told.root != first
    merged = pair.desk.merged[0, 0]
    assert np.frombuffer(read_all(merged.chunks, merged.shard), np.float32)[0] == 4.0


def test_a_contributor_that_cannot_be_reached_is_reported_after_half_a_lease(pair: Pair) -> None:
    pair.network.stop(name(1))
    (told,) = pair.merge()
    assert isinstance(told, Unreachable)
    assert (told.contributor, told.reason) == (node(1), "unreachable")


@pytest.mark.parametrize("orders", [True, False])
def test_a_contributor_that_is_behind_is_reported_only_while_the_ledger_orders(pair: Pair, orders: bool) -> None:
    """R-9: a ledger that fell silent may have told some of a round, and others not."""
    pair.other.training = training(peers=[peer(0), peer(1)], size=pair.manifest.size)
    submit = pair.sn.calls[CALL_SUBMIT]

    async def ordering(caller: Caller, body: bytes) -> bytes:
        if not orders:
            raise Refused("not committed here in time", code="WaitExpired")
        return await submit(caller, body)

    pair.sn.calls[CALL_SUBMIT] = ordering
    if orders:
        tick, report = pair.merge()
        assert isinstance(tick, Tick)
        assert isinstance(report, Unreachable)
        assert (report.contributor, report.reason) == (node(1), "unreachable")
    else:
        with pytest.raises(Refused, match=r"the ledger was out, so sl@org1\.example may not know of it"):
            pair.merge()
        assert pair.sn.told == []


def test_a_contributor_that_says_it_restarted_is_reported_at_once(pair: Pair) -> None:
    """R-9: half a lease of asking again does not bring its parameters back."""
    asked: list[bytes] = []

    async def gone(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        asked.append(body)
        if asked:
            raise Refused("this SL does not hold the parameters that were checked in", code="gone")
        yield b""

    pair.network.stop(name(1))
    pair.network.serve(name(1), address(1).endpoint, Handlers(streams={STREAM_CHUNKS: gone}))
    (told,) = pair.merge()
    assert isinstance(told, Unreachable)
    assert (told.contributor, told.reason) == (node(1), "unreachable")
    assert len(asked) == 1


def liar(asked: list[bytes]) -> Handlers:
    """Serves zeros for a merged shard."""

    async def stream(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        asked.append(body)
        yield bytes(5 * 32)

    return Handlers(streams={STREAM_RESULT: stream})


def final(pair: Pair, holders: tuple[NodeId, ...]) -> Result:
    """What the two agreed on: the model of peer 1."""
    root = merged_root(leaves_of(pair.theirs), pair.manifest.size, shard=0, shards=1)
    return result(roots=(root,), sha256=sha256(pair.theirs), holders=holders, participants=holders)


def test_a_holder_that_lies_is_asked_once_and_the_next_one_serves(pair: Pair) -> None:
    """R-11, R-19."""
    asked: list[bytes] = []
    pair.network.serve(name(2), address(2).endpoint, liar(asked))
    newest = final(pair, (node(2), node(1)))
    record = training(peers=[peer(0), peer(1), peer(2)], last=newest, size=pair.manifest.size)
    pair.desk.training = pair.other.training = record
    pair.other.store.save(CONTRACT, 1, 0, newest.roots, pair.theirs)
    found = asyncio.run(catch_up(pair.desk, newest))
    assert bytes(found.buffer) == bytes(pair.theirs)
    assert len(asked) == 1
    assert pair.desk.fetched == {}


def test_where_all_holders_lie_catching_up_fails_and_names_them(pair: Pair) -> None:
    asked: list[bytes] = []
    pair.network.serve(name(2), address(2).endpoint, liar(asked))
    newest = final(pair, (node(2),))
    pair.desk.training = training(peers=[peer(0), peer(2)], last=newest, size=pair.manifest.size)
    with pytest.raises(UnreachableError, match=r"held by sl@org2.example; none serves it now"):
        asyncio.run(catch_up(pair.desk, newest))
    assert len(asked) == 1


def frames_until(stop: int, *, shards: int, shard: int, buffer: memoryview, gate: asyncio.Event) -> Any:
    """Serves a merged shard's leaves and chunks; the frames from the `stop`-th chunk on once `gate` is open."""
    part = Shard(size=len(buffer), shards=shards, shard=shard)
    leaves = shard_leaves(leaves_of(buffer), shards, shard)

    async def stream(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        start = decode(body, ResultRequest).start
        yield leaves
        for at, index in list(enumerate(part.indices))[start:]:
            if at >= stop:
                await gate.wait()
            yield buffer[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]

    return stream


def test_a_result_with_one_other_root_keeps_what_was_fetched_of_the_same(pair: Pair) -> None:
    """R-11, R-12: by shard and root; the other attempt's result is another file, and the first leaves none."""
    own, roots = {}, []
    for shard in range(2):
        part = Shard(size=pair.manifest.size, shards=2, shard=shard)
        leaves = shard_leaves(leaves_of(pair.theirs), 2, shard)
        roots.append(merged_root(leaves, part.size, shard=shard, shards=2))
        own[shard] = leaves
    asked: list[tuple[int, int]] = []

    async def go() -> None:
        gate = asyncio.Event()
        serve = [frames_until(2 - shard, shards=2, shard=shard, buffer=pair.theirs, gate=gate) for shard in range(2)]

        async def stream(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
            request = decode(body, ResultRequest)
            asked.append((request.shard, request.start))
            async for frame in serve[request.shard](caller, body):
                yield frame

        pair.network.stop(name(1))
        pair.network.serve(name(1), address(1).endpoint, Handlers(streams={STREAM_RESULT: stream}))
        held = (Holding(node=node(1), sha256=b""),)
        both = replace(pair.round, shards=2, leaders=(node(1),) * 2, witnesses=((),) * 2, merged=tuple(roots))
        pair.desk.training = replace(pair.record, round=replace(both, holdings=held))
        first = StoreResult(round=0, roots=(roots[0], bytes(32)), attempt=1)
        storing = asyncio.ensure_future(store_and_say(pair.desk, first))
        await until(lambda: any(fetched.done(0) == 2 for fetched in pair.desk.fetched.values()))
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        gate.set()
        del asked[:]
        await store_and_say(pair.desk, StoreResult(round=0, roots=tuple(roots), attempt=1))

    asyncio.run(go())
    assert sorted(asked) == [(0, 2), (1, 0)]
    stored = pair.desk.store.get(CONTRACT, 1, 0)
    assert stored is not None
    assert bytes(stored.buffer) == bytes(pair.theirs)
    assert [stored.leaves(shard) for shard in range(2)] == [own[0], own[1]]
    assert pair.desk.fetched == {}
    gc.collect()
    assert {path.suffix for path in pair.desk.store.directory.iterdir()} == {".bin", ".meta"}


def test_storing_goes_on_where_it_was_and_counts_each_frame_once(pair: Pair) -> None:
    """R-10, R-11: another attempt with the same roots takes the same file."""
    root = merged_root(leaves_of(pair.theirs), pair.manifest.size, shard=0, shards=1)
    held = (Holding(node=node(1), sha256=b""),)
    round_ = replace(pair.round, leaders=(node(1),), merged=(root,), holdings=held)
    pair.desk.training = replace(pair.record, round=round_)
    action = StoreResult(round=0, roots=(root,), attempt=1)
    seen: list[int] = []

    async def go() -> None:
        gate = asyncio.Event()
        stream = frames_until(4, shards=1, shard=0, buffer=pair.theirs, gate=gate)
        pair.network.stop(name(1))
        pair.network.serve(name(1), address(1).endpoint, Handlers(streams={STREAM_RESULT: stream}))
        storing = asyncio.ensure_future(store_and_say(pair.desk, action))
        await until(lambda: any(fetched.done(0) == 4 for fetched in pair.desk.fetched.values()))
        seen.append(pair.desk.steps(0, STORING))
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        (part,) = [fetched.part for fetched in pair.desk.fetched.values()]
        assert part is not None
        gate.set()
        await store_and_say(pair.desk, replace(action, attempt=1))
        assert not part.is_there  # it is the result now

    asyncio.run(go())
    assert seen == [2]  # leaves, and a frame's worth of chunks
    stored = pair.desk.store.get(CONTRACT, 1, 0)
    assert stored is not None
    assert bytes(stored.buffer) == bytes(pair.theirs)


def test_an_own_shard_that_is_not_finite_is_not_stored(pair: Pair) -> None:
    """Contributors that lie together may make one; nobody takes it, ourselves included."""
    np.frombuffer(pair.mine, np.float32)[60_000] = np.inf
    bad = committed(pair.mine)
    pair.desk.offer = Offer(pair.mine, bad, SECRET)
    pair.round = replace(pair.round, checkins=(checked_in(0, bad.root), pair.round.checkins[1]))
    pair.desk.training = pair.other.training = replace(pair.record, round=pair.round)
    (told,) = pair.merge()
    assert isinstance(told, MergeCommit)
    pair.desk.training = replace(pair.record, round=replace(pair.round, merged=(told.root,)))
    with pytest.raises(Refused, match="shard 0 cannot be fetched in this attempt"):
        asyncio.run(store_and_say(pair.desk, StoreResult(round=0, roots=(told.root,), attempt=1)))
    assert pair.desk.store.get(CONTRACT, 1, 0) is None


def test_a_shard_is_merged_while_its_last_chunks_are_on_their_way(tmp_path: Path) -> None:
    """R-9: with many chunks merging does not wait for the end of the pulls."""
    pair = Pair(tmp_path, size=40 * 16384)
    progress: list[tuple[int, int]] = []
    inner = pair.desk.run_blocking

    async def run_blocking(function: Callable[..., T], *args: Any) -> T:
        if function.__name__ == "advance":
            (pull,) = [pull for pull, _ in pair.desk.pulls.values()]
            progress.append((args[0], pull.done))
        return await inner(function, *args)

    pair.desk.run_blocking = run_blocking
    pair.merge()
    assert progress[0][0] < 40
    assert progress[0][1] < 40
    assert progress[-1] == (40, 40)


# --- a participation ------------------------------------------------------------------------------------------------


def participation_of(pair: Pair, record: Training, *, share: bool = True) -> Participation:
    pair.sn.record = pair.desk.training = record
    request = Open(
        version=CONTROL_VERSION,
        program="",
        contract=CONTRACT,
        settings=SETTINGS,
        min_peers=2,
        weight=1,
        restored=False,
        manifest=encode(pair.manifest),
        file="own",
        share=share,
    )
    sn = SnClient(pair.desk.client, Address(node=name(0, Role.SN).id, endpoint=Endpoint(host="org0", port=30304)))
    return Participation(pair.desk, sn, request, address(0).endpoint, pair.mine)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


def test_a_round_that_closes_while_parameters_are_hashed_keeps_its_promise(pair: Pair) -> None:
    """R-5: an earlier offer that stands in the closing round is not thrown away for one that comes too late."""
    open_round = Round(number=0, attempt=0, opened_ms=0, quorum_ms=None, checkins=pair.round.checkins)
    collecting = training(peers=[peer(0), peer(1)], round_=open_round, size=pair.manifest.size)
    promised = pair.desk.offer

    async def go() -> None:
        taking_part = participation_of(pair, collecting)
        asked = asyncio.ensure_future(taking_part.sync(Progress()))
        await until(lambda: taking_part.program.demand is not None)

        def closed() -> None:
            pair.desk.training = replace(pair.record, version=2)

        meanwhile(pair.desk, closed)
        with pytest.raises(Refused, match="not open any more"):
            await check_in(pair.desk, taking_part.program, CheckInNow(round=0, attempt=0, mode="active"))
        asked.cancel()

    asyncio.run(go())
    assert pair.desk.offer is promised
    assert not [message for message in pair.sn.told if isinstance(message, CheckIn)]


def test_the_sl_of_a_peer_that_left_follows_the_round_it_is_in(pair: Pair) -> None:
    """R-16: to serve what it offered it must know who leads now; then it ends."""
    left = [replace(pair.record.peers[0], state=PeerState.LEFT), pair.record.peers[1]]

    async def go() -> None:
        taking_part = participation_of(pair, replace(pair.record, version=2))
        running = asyncio.ensure_future(taking_part.run())
        await taking_part.leave("done")
        pair.sn.record = replace(pair.record, peers=tuple(left), version=3)
        await until(lambda: pair.desk.record.version == 3)
        moved = replace(pair.round, attempt=2, leaders=(node(1),))
        pair.sn.record = replace(pair.record, peers=tuple(left), round=moved, version=4)
        await until(lambda: pair.desk.record.version == 4)
        assert not running.done()
        over = training(peers=left, round_=Round(number=1, attempt=0, opened_ms=0, quorum_ms=None), version=5)
        pair.sn.record = over
        await asyncio.wait_for(running, 10)

    asyncio.run(go())


def test_the_sl_of_a_peer_that_is_still_leaving_follows_the_ledger(pair: Pair) -> None:
    """R-16: until the ledger has heard it, its offer may yet be in a round that closes."""
    record = training(peers=[peer(0), peer(1)], size=pair.manifest.size, version=2)

    async def go() -> None:
        taking_part = participation_of(pair, record)
        ordered = asyncio.Event()
        submit = pair.sn.calls[CALL_SUBMIT]

        async def late(caller: Caller, body: bytes) -> bytes:
            await ordered.wait()
            return await submit(caller, body)

        pair.sn.calls[CALL_SUBMIT] = late
        running = asyncio.ensure_future(taking_part.run())
        leaving = asyncio.ensure_future(taking_part.leave("done"))
        await taking_part.ended.wait()
        pair.sn.record = replace(record, version=3, round=replace(pair.round, merging=False), settings=None)
        await until(lambda: pair.desk.record.version == 3)
        pair.sn.record = replace(pair.record, version=4)
        await until(lambda: pair.desk.record.version == 4)
        assert not running.done()
        ordered.set()
        await leaving
        pair.sn.record = training(peers=[peer(1)], round_=replace(pair.round, number=1, participants=()), version=5)
        await asyncio.wait_for(running, 10)

    asyncio.run(go())


def test_trouble_is_not_told_any_more_once_the_training_goes_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that failed may never be wanted again, and so never succeed."""
    monkeypatch.setattr(participation_module, "RETRY_S", 3600)
    record = training(peers=[peer(0), peer(1)], size=pair.manifest.size, version=2)

    async def go() -> None:
        taking_part = participation_of(pair, record)

        async def fail(caller: Caller, body: bytes) -> bytes:
            raise UnreachableError("the sentinel is asleep")

        pair.sn.calls[CALL_SUBMIT] = fail
        running = asyncio.ensure_future(taking_part.run())
        asked = asyncio.ensure_future(taking_part.sync(Progress()))
        await until(lambda: "asleep" in taking_part.explain())
        pair.sn.record = replace(record, version=3)
        await until(lambda: pair.desk.record.version == 3)
        assert "trouble" not in taking_part.explain()
        asked.cancel()
        running.cancel()
        await asyncio.gather(asked, running, return_exceptions=True)

    asyncio.run(go())


def test_an_sn_that_is_back_is_not_called_silent_any_more(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-1: also while nothing new happens in the training."""
    monkeypatch.setattr(participation_module, "WATCH_RETRY_S", 0.01)
    sn, endpoint = name(0, Role.SN), Endpoint(host="org0", port=30304)

    async def go() -> None:
        taking_part = participation_of(pair, replace(pair.record, version=2))
        running = asyncio.ensure_future(taking_part.run())
        await until(lambda: pair.desk.record.version == 2)
        assert taking_part.explain().startswith("round 0: 0 of 1 shards are merged")
        pair.network.stop(sn)
        await until(lambda: "the SN does not answer" in taking_part.explain())
        pair.network.serve(sn, endpoint, pair.sn)
        await until(lambda: "the SN does not answer" not in taking_part.explain())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(go())


def test_a_finished_program_is_told_who_still_trains(pair: Pair) -> None:
    states = [peer(0, PeerState.FINISHED), peer(1, PeerState.FINISHED), peer(2)]
    record = training(peers=states, round_=Round(number=7, attempt=0, opened_ms=0, quorum_ms=None), version=2)

    async def go() -> None:
        taking_part = participation_of(pair, record)
        asked = asyncio.ensure_future(taking_part.finish(Progress()))
        await until(lambda: taking_part.program.demand is not None)
        assert taking_part.explain() == "for those that still train: sl@org2.example"
        asked.cancel()

    asyncio.run(go())


# --- what goes on the ledger, and what the program is told ----------------------------------------------------------


def test_what_a_program_does_not_share_stays_with_its_sl(pair: Pair) -> None:
    """C-18: neither its progress nor what travelled; it is written down for the next program."""
    record = training(peers=[peer(0), peer(1)], size=pair.manifest.size, version=2)
    far = Progress(epoch=3, loss_micro=7, metric_micro=8, figures_round=0)

    async def go(*, share: bool) -> list[Message]:
        taking_part = participation_of(pair, record, share=share)
        pair.sn.told.clear()
        pair.desk.journals.begin(CONTRACT, 1, taking_part.program.request)
        pair.desk.bytes_sent = 99
        running = asyncio.ensure_future(taking_part.run())
        asked = asyncio.ensure_future(taking_part.sync(far))
        await until(lambda: pair.sn.told)
        taking_part.program.demand = None
        asked.cancel()
        finishing = asyncio.ensure_future(taking_part.finish(far))
        await until(lambda: len(pair.sn.told) > 1)
        assert taking_part.position == far
        for task in (running, finishing):
            task.cancel()
        await asyncio.gather(running, finishing, asked, return_exceptions=True)
        return pair.sn.told[:2]

    shared = asyncio.run(go(share=True))
    assert [getattr(message, "progress", None) for message in shared] == [replace(far, bytes_sent=99), far]
    silent = asyncio.run(go(share=False))
    assert [type(message).__name__ for message in silent] == ["CheckIn", "Finish"]
    assert [getattr(message, "progress", None) for message in silent] == [Progress(), Progress()]


def test_a_sync_is_answered_with_the_share_and_the_swarms_figures(pair: Pair) -> None:
    """Of the model of the round before, over those who showed them with their check-ins to this round."""
    stored = pair.desk.store.save(CONTRACT, 1, 0, (b"r" * 32,), pair.mine)
    first = result(0, stored.record.sha256)
    second = result(1, pair.desk.store.save(CONTRACT, 1, 1, (b"r" * 32,), pair.theirs).record.sha256)
    shown = [
        replace(peer(0), progress=Progress(loss_micro=10, metric_micro=4, figures_round=0)),
        replace(peer(1), progress=Progress(loss_micro=21, figures_round=0)),
        replace(peer(2), progress=Progress(loss_micro=900, figures_round=-1)),  # of another model
    ]
    merging_ = training(peers=shown, phase=Phase.MERGING, round_=merging(number=1), last=first, interval=17)

    async def go() -> None:
        taking_part = participation_of(pair, merging_)
        pair.desk.training = None
        program = taking_part.program
        program.demand = Demand("sync", Progress(), 0)
        program.demand.tried = program.demand.round = 1
        program.adopt(first, stored)
        taking_part._take(merging_)
        share = replace(shown[0], recent=0b1011, rounds_offered=4, rounds_contributed=3)
        taking_part._take(training(peers=[share, *shown[1:]], last=second, interval=17, version=2))
        await deliver(pair.desk, taking_part._sn, program, second)
        got = program.demand.outcome.result()
        assert (got.kind, got.round, got.next_interval) == ("synced", 1, 17)
        assert (got.contributed, got.recent) == (3, 4)
        assert (got.mean_loss_micro, got.mean_metric_micro) == (15, 4)

    asyncio.run(go())


def test_the_end_says_whether_the_target_was_reached(pair: Pair) -> None:
    async def go(*, reached: bool) -> bool:
        over = training(phase=Phase.COMPLETED, reached=reached)
        taking_part = participation_of(pair, over)
        taking_part.program.demand = Demand("sync", Progress(), -1)
        await taking_part._end(None)
        return taking_part.program.demand.outcome.result().reached

    assert asyncio.run(go(reached=True))
    assert not asyncio.run(go(reached=False))


# --- what no round has merged yet -----------------------------------------------------------------------------


class History:
    """What an SN tells of earlier rounds."""

    def __init__(self, pair: Pair, rounds: dict[int, tuple[bool, bool]]) -> None:
        self.asked = 0
        self._rounds = rounds
        self._node = pair.desk.node
        pair.sn.calls[CALL_HISTORY] = self._answer

    async def _answer(self, caller: Caller, body: bytes) -> bytes:
        self.asked += 1
        return encode(tuple(encode(self.summary(number, run)) for run in (0, 1) for number in self._rounds))

    def summary(self, number: int, run: int) -> RoundSummary:
        took_part, contributed = self._rounds[number] if run else (True, True)
        return RoundSummary(
            run=run,
            round=number,
            sha256=b"s" * 32,
            participants=(self._node,) if took_part else (),
            contributors=(self._node,) if contributed else (),
            dropped=(),
            attempts=1,
            height=1,
            time_ms=0,
            collect_ms=0,
            merge_ms=0,
            interval=1,
            mean_loss_micro=None,
            mean_metric_micro=None,
            figures=(),
        )


IN, DROPPED, OUT = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("resumed", "tried", "rounds", "newest", "answered", "asks"),
    [
        (False, None, {}, OUT, False, 0),  # never offered
        (False, 4, {}, IN, True, 0),
        (False, 4, {}, DROPPED, True, 0),  # it was offered once
        (False, 4, {}, OUT, False, 0),  # the check-in came too late
        (False, 2, {2: IN, 3: OUT}, OUT, True, 1),  # its SN was silent while it became final
        (False, 2, {2: DROPPED}, OUT, True, 1),
        (False, 2, {2: OUT, 3: OUT}, OUT, False, 1),
        (True, None, {1: OUT, 2: IN, 3: OUT}, OUT, True, 1),  # an SL before us had offered it
        (True, None, {2: DROPPED}, OUT, False, 1),  # ... and could not serve it
        (True, None, {2: OUT}, IN, True, 1),
        (True, 4, {2: OUT}, DROPPED, True, 1),
        (True, 4, {2: OUT}, OUT, False, 1),
    ],
)
def test_what_a_final_round_has_is_not_added_again(
    pair: Pair,
    resumed: bool,
    tried: int | None,
    rounds: dict[int, tuple[bool, bool]],
    newest: tuple[bool, bool],
    answered: bool,
    asks: int,
) -> None:
    """R-17, R-18."""
    history = History(pair, rounds)
    mine = (pair.desk.node,)
    last = result(4, participants=mine if newest[0] else (node(1),), contributors=mine if newest[1] else (node(1),))
    base = pair.desk.store.save(CONTRACT, 1, 0, (b"r" * 32,), pair.mine)

    async def go() -> None:
        taking_part = participation_of(pair, training(last=last))
        program = taking_part.program
        program.adopt(result(0), base)
        program.resumed = resumed
        program.demand = Demand("sync", Progress(), 0)
        program.demand.tried = tried
        assert await is_answered(pair.desk, taking_part._sn, program, last) is answered

    asyncio.run(go())
    assert history.asked == asks


def test_without_what_its_training_started_from_a_program_is_given_the_newest(pair: Pair) -> None:
    """R-17: also a finished one, whose last parameters are offered as they are."""
    last = result(4, participants=(node(1),), contributors=(node(1),))

    async def go() -> None:
        taking_part = participation_of(pair, training(last=last))
        program = taking_part.program
        program.adopted = 0
        program.demand = Demand("sync", Progress(), 0)
        assert await is_answered(pair.desk, taking_part._sn, program, last)
        program.base = pair.desk.store.save(CONTRACT, 1, 0, (b"r" * 32,), pair.mine)
        assert not await is_answered(pair.desk, taking_part._sn, program, last)
        program.demand = Demand("finish", Progress(), 0)
        assert await is_answered(pair.desk, taking_part._sn, program, last)

    asyncio.run(go())


def test_carrying_over_never_writes_the_programs_file(pair: Pair) -> None:
    """R-17: newest + (own - base), in memory of its own."""
    _, newest = model(fill=10.0)
    _, base_buffer = model(fill=0.5)
    own = bytes(pair.mine)
    base = pair.desk.store.save(CONTRACT, 1, 0, (b"r" * 32,), base_buffer)
    stored = pair.desk.store.save(CONTRACT, 1, 3, (b"r" * 32,), newest)
    last = result(3, stored.record.sha256, participants=(node(1),), contributors=(node(1),))

    async def go() -> None:
        taking_part = participation_of(pair, training(peers=[peer(0, PeerState.PAUSED), peer(1)], last=last))
        program = taking_part.program
        program.adopt(result(0), base)
        demand = program.demand = Demand("sync", Progress(), 0)
        await deliver(pair.desk, taking_part._sn, program, last)
        assert not demand.outcome.done()
        assert (demand.based, program.adopted) == (3, 0)
        assert demand.offer is not None
        offered = np.frombuffer(demand.offer.buffer, np.float32)[: 4 * 16384]
        assert np.array_equal(offered, np.arange(4 * 16384, dtype=np.float32) + np.float32(10.5))

    asyncio.run(go())
    assert bytes(pair.mine) == own
    assert [type(message).__name__ for message in pair.sn.told] == ["Here"]  # T-19: the others wait for it again


def test_a_program_is_vouched_for_once_between_two_syncs(pair: Pair) -> None:
    """R-23: one that hangs cannot hold up the others' end for ever."""
    others = (peer(1, PeerState.FINISHED),)
    record = training(peers=[peer(0, PeerState.PAUSED), *others], size=pair.manifest.size, version=2)

    def is_at(version: int) -> bool:
        return pair.desk.record.version == version

    async def go() -> None:
        taking_part = participation_of(pair, record)
        program, answered, submit = taking_part.program, asyncio.Event(), pair.sn.calls[CALL_SUBMIT]

        async def late(caller: Caller, body: bytes) -> bytes:
            reply = await submit(caller, body)
            await answered.wait()
            return reply

        pair.sn.calls[CALL_SUBMIT] = late
        running = asyncio.ensure_future(taking_part.run())
        live = replace(record, peers=(peer(0), *others))
        for version in (3, 5):  # a round closes without it, twice
            pair.sn.record = replace(record, version=version)
            await until(partial(is_at, version))
            await until(lambda: pair.sn.told)
            # The record shows it before the answer to it comes.
            pair.sn.record = replace(live, version=version + 1)
            await until(partial(is_at, version + 1))
            answered.set()
            await until(lambda: program.vouched)
        assert len(pair.sn.told) == 1
        pair.sn.record = replace(record, version=7)
        await until(partial(is_at, 7))
        program.demand = Demand("sync", Progress(), -1)
        program.answer_sync(pair.desk, None, 0, 0.0)
        program.demand = None
        taking_part._poke.set()
        await until(lambda: len(pair.sn.told) == 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(go())
    assert {type(message).__name__ for message in pair.sn.told} == {"Here"}


def test_a_finished_peer_that_lost_its_snapshot_offers_nothing(pair: Pair) -> None:
    """R-21."""
    record = training(peers=[peer(0, PeerState.FINISHED), peer(1)], size=pair.manifest.size)

    async def go() -> None:
        taking_part = participation_of(pair, record)
        taking_part.program.own = None
        taking_part.program.demand = Demand("finish", Progress(), -1)
        await check_in(pair.desk, taking_part.program, CheckInNow(round=0, attempt=0, mode="snapshot"))

    asyncio.run(go())
    (told,) = pair.sn.told
    assert isinstance(told, CheckIn)
    assert (told.mode, told.commitment, told.weight) == ("inactive", b"", 0)
