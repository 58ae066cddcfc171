"""Steps of a round in which encoded differences travel (docs/spec/round.md, R-40 to R-44; exchange.md, E-20)."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from sl_world import (
    CONTRACT,
    SECRET,
    SETTINGS,
    address,
    checked_in,
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
from test_sl_steps import FakeSn

from swarmlearning.contracts.messages import MergeCommit, Stored
from swarmlearning.contracts.records import Commit, Phase, Result, Round, Training
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import Broken, ConfigurationError, Refused
from swarmlearning.parameters.chunks import chunk_count, commit, merged_root
from swarmlearning.parameters.wire import apply_difference, encode_difference, reader, residual_size, wire_manifest
from swarmlearning.sl.desk import Desk, Offer
from swarmlearning.sl.differences import Residual
from swarmlearning.sl.exchange import STREAM_RESULT, ResultRequest, Shard
from swarmlearning.sl.fetching import catch_up, store_and_say
from swarmlearning.sl.merging import merge_and_commit
from swarmlearning.sl.methods import complete
from swarmlearning.sl.offering import prepare
from swarmlearning.sl.plan import MergeShard, StoreResult
from swarmlearning.sl.results import leaves_of
from swarmlearning.sl.serving import ExchangeService
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Endpoint, Role

INT8 = replace(SETTINGS, wire="int8")
SIZE = 16 * 16384 + 100
"""Seventeen chunks in full, five encoded."""


class Two:
    """Peers 0, who leads, and 1, in a round of differences from a model that both have stored."""

    def __init__(self, tmp: Path) -> None:
        self.network = MemoryNetwork()
        self.manifest, self.base = model(SIZE, fill=0.0)
        self.travels = wire_manifest(self.manifest, "int8")
        self.owns = [self._trained(seed) for seed in (1, 2)]
        root = merged_root(leaves_of(self.base), self.manifest.size, shard=0, shards=1)
        holders = (node(0), node(1))
        self.last = result(0, sha256(self.base), (root,), holders=holders, participants=holders, contributors=holders)
        self.record = training(peers=[peer(0), peer(1)], last=self.last, settings=INT8, size=self.manifest.size)
        self.sn = FakeSn(self.record)
        self.desks = [desk_of(i, tmp / str(i), self.network, self.manifest, self.record) for i in range(2)]
        for index, desk in enumerate(self.desks):
            self.network.serve(name(index, Role.SN), Endpoint(host=f"org{index}", port=30304), self.sn)
            self.network.serve(name(index), address(index).endpoint, ExchangeService({CONTRACT: desk}))
            desk.store.save(CONTRACT, 1, 0, self.last.roots, self.base)

    def _trained(self, seed: int) -> memoryview:
        own = np.frombuffer(self.base, np.float32).copy()
        own[:SIZE] += np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
        return memoryview(own.tobytes())

    def offer(self, desk: Desk, own: memoryview, *, feeds_back: bool = True) -> Offer:
        return asyncio.run(prepare(desk, own, self.last, feeds_back=feeds_back))

    def merge(self) -> StoreResult:
        """Both offer, peer 0 merges; what is to be stored then."""
        for desk, own in zip(self.desks, self.owns, strict=True):
            desk.offer = self.offer(desk, own)
        offers = [desk.offer.commitment.root for desk in self.desks if desk.offer is not None]
        checkins = tuple(checked_in(index, root) for index, root in enumerate(offers))
        self.show(merging(number=1, peers=2, checkins=checkins))
        asyncio.run(merge_and_commit(self.desks[0], MergeShard(round=1, shard=0, contributors=(node(0), node(1)))))
        told = self.sn.told[-1]
        assert isinstance(told, MergeCommit)
        assert self.record.round is not None
        commits = (Commit(shard=0, node=node(0), root=told.root),)
        self.show(replace(self.record.round, merged=(told.root,), commits=commits))
        return StoreResult(round=1, roots=(told.root,), attempt=1)

    def show(self, round_: Round) -> None:
        """A newer record, in which the round merges."""
        self.follow(replace(self.record, phase=Phase.MERGING, round=round_, version=self.record.version + 1))

    def follow(self, record: Training) -> None:
        self.record = self.sn.record = record
        for desk in self.desks:
            desk.training = record

    def expected(self) -> bytes:
        """What the mean of both differences makes of the base."""
        differences = []
        for own in self.owns:
            steps = encode_difference(self.manifest, self.travels, reader(own), reader(self.base))
            differences.append(b"".join(bytes(step.data) for step in steps))
        merged = self.desks[0].merged[1, 0]
        assert read_all(merged.chunks, merged.shard) not in differences
        steps_ = apply_difference(
            self.manifest, self.travels, reader(self.base), reader(read_all(merged.chunks, merged.shard))
        )
        return b"".join(bytes(step) for step in steps_)


def final(two: Two, told: Stored, *, contributors: int = 2) -> Result:
    """The result that what was told makes."""
    nodes = (node(0), node(1))
    return replace(
        result(1, told.sha256, two.desks[0].record.round.merged if two.desks[0].record.round else ()),
        base=two.last.sha256,
        whole=told.whole,
        holders=nodes[:1],
        participants=nodes,
        contributors=nodes[:contributors],
    )


def test_t50_a_method_that_needs_whole_results_is_refused_before_the_ledger_is_asked() -> None:
    given_settings = replace(INT8, merge_method="fedavgm")
    with pytest.raises(ConfigurationError, match="wire='int8' with merge method 'fedavgm', which needs whole results"):
        complete(given_settings)
    assert complete(replace(given_settings, wire="float32")).needs == "history"
    assert complete(replace(INT8, merge_method="geomedian")).wire == "int8"


def test_two_that_want_the_same_result_fetch_it_once(tmp_path: Path) -> None:
    two = Two(tmp_path)
    lost = desk_of(0, tmp_path / "lost", two.network, two.manifest, two.record)

    async def go() -> None:
        found = await asyncio.gather(catch_up(lost, two.last), catch_up(lost, two.last))
        assert found[0] is found[1]

    asyncio.run(go())
    assert lost.bytes_received < 1.01 * two.manifest.size


def test_r40_an_offer_is_the_encoded_difference_from_the_newest_result(tmp_path: Path) -> None:
    two = Two(tmp_path)
    offer = two.offer(two.desks[0], two.owns[0])
    steps = list(encode_difference(two.manifest, two.travels, reader(two.owns[0]), reader(two.base)))
    data = b"".join(bytes(step.data) for step in steps)
    shard = Shard(size=two.travels.size, shards=1, shard=0)
    assert chunk_count(two.travels.size) == 5
    assert read_all(offer.chunks, shard) == data
    assert offer.commitment == commit(data, SECRET)
    assert offer.base == two.last.sha256
    assert offer.residual is not None
    left = b"".join(bytes(step.residual) for step in steps)
    assert bytes(offer.residual.reader()(0, len(left))) == left


def test_r40_before_there_is_a_result_an_offer_is_in_full(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.follow(replace(two.record, last=None))
    offer = asyncio.run(prepare(two.desks[0], two.owns[0], None, feeds_back=True))
    assert (offer.base, offer.residual) == (b"", None)
    assert offer.commitment == commit(two.owns[0], SECRET)


def test_r40_a_newest_result_that_is_not_on_disk_is_fetched_first(tmp_path: Path) -> None:
    two = Two(tmp_path)
    lost = desk_of(0, tmp_path / "lost", two.network, two.manifest, two.record)
    assert two.offer(lost, two.owns[0]).commitment == two.offer(two.desks[0], two.owns[0]).commitment
    assert lost.stored(two.last) is not None


def test_r41_all_who_store_get_the_same_bits(tmp_path: Path) -> None:
    """And tell the ledger the root of the whole (T-51)."""
    two = Two(tmp_path)
    action = two.merge()
    expected = two.expected()
    for desk in two.desks:
        asyncio.run(store_and_say(desk, action))
        told = two.sn.told[-1]
        assert isinstance(told, Stored)
        assert told.sha256 == sha256(expected)
        assert told.whole == merged_root(leaves_of(memoryview(expected)), len(expected), shard=0, shards=1)
        stored = desk.store.get(CONTRACT, 1, 1)
        assert stored is not None
        assert bytes(stored.buffer) == expected
        assert desk.fetched == {}
    mean = (np.frombuffer(two.owns[0], np.float32) + np.frombuffer(two.owns[1], np.float32)) / 2
    assert np.abs(np.frombuffer(expected, np.float32)[:SIZE] - mean[:SIZE]).max() < 0.1


def test_r41_who_has_lost_the_newest_result_fetches_it_before_it_applies(tmp_path: Path) -> None:
    two = Two(tmp_path)
    action = two.merge()
    lost = desk_of(1, tmp_path / "lost", two.network, two.manifest, two.record)
    asyncio.run(store_and_say(lost, action))
    stored = lost.store.get(CONTRACT, 1, 1)
    assert stored is not None
    assert bytes(stored.buffer) == two.expected()


def test_r43_who_has_stored_serves_the_encoded_shards_until_the_next_result_is_final(tmp_path: Path) -> None:
    """R-43: the leader may be gone by then."""
    two = Two(tmp_path)
    action = two.merge()
    asyncio.run(store_and_say(two.desks[1], action))
    told = two.sn.told[-1]
    assert isinstance(told, Stored)
    served = two.desks[1].merged_shard(1, 1, 0)
    own = two.desks[0].merged_shard(1, 1, 0)
    assert served is not None
    assert own is not None
    assert (served.shard, served.root, served.leaves) == (own.shard, own.root, own.leaves)
    assert read_all(served.chunks, served.shard) == read_all(own.chunks, own.shard)
    newest = final(two, told)
    for desk in two.desks:
        desk.tidy(replace(two.record, last=newest))
    assert two.desks[1].merged_shard(1, 1, 0) is not None
    two.desks[1].tidy(replace(two.record, last=replace(newest, round=2)))
    assert two.desks[1].merged_shard(1, 1, 0) is None


def test_e20_the_new_model_is_served_as_one_shard_and_not_as_the_rounds_own(tmp_path: Path) -> None:
    two = Two(tmp_path)
    action = two.merge()
    asyncio.run(store_and_say(two.desks[1], action))
    told = two.sn.told[-1]
    assert isinstance(told, Stored)
    whole = two.desks[1].whole_result(1, 1, 0)
    assert whole is not None
    assert (whole.shard.size, whole.shard.shards, whole.root) == (two.manifest.size, 1, told.whole)
    assert read_all(whole.chunks, whole.shard) == two.expected()
    assert two.desks[1].whole_result(1, 1, 1) is None
    assert two.desks[1].whole_result(1, 0, 0) is None  # that round travelled in full: it has shards of its own
    assert two.desks[1].merged_shard(1, 0, 0) is not None
    two.desks[1].differences = {}
    assert two.desks[1].merged_shard(1, 1, 0) is None


@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_r44_who_has_the_model_before_asks_for_the_difference_and_else_for_the_whole(
    tmp_path: Path, has_base: bool, kept: bool
) -> None:
    two = Two(tmp_path)
    action = two.merge()
    expected = two.expected()
    asyncio.run(store_and_say(two.desks[0], action))
    told = two.sn.told[-1]
    assert isinstance(told, Stored)
    newest = final(two, told)
    two.follow(training(peers=[peer(0), peer(1)], last=newest, settings=INT8, size=two.manifest.size))
    if not kept:
        two.desks[0].merged, two.desks[0].differences = {}, {}
    late = two.desks[1] if has_base else desk_of(1, tmp_path / "late", two.network, two.manifest, two.record)
    found = asyncio.run(catch_up(late, newest))
    assert bytes(found.buffer) == expected
    assert found.record.whole == newest.whole
    assert found.record.roots == newest.roots
    in_full = not (has_base and kept)
    assert (late.bytes_received > two.manifest.size) is in_full
    if not in_full:
        assert late.bytes_received < 0.28 * two.manifest.size
    assert late.fetched == {}


def test_r44_a_difference_that_gives_another_model_is_not_believed(tmp_path: Path) -> None:
    """As if the majority's machines computed otherwise than ours: then the ledger's whole counts."""
    two = Two(tmp_path)
    action = two.merge()
    asyncio.run(store_and_say(two.desks[0], action))
    told = two.sn.told[-1]
    assert isinstance(told, Stored)
    newest = final(two, told)
    two.follow(training(peers=[peer(0), peer(1)], last=newest, settings=INT8, size=two.manifest.size))
    late = two.desks[1]
    other = model(SIZE, fill=5.0)[1]
    late.store.save(CONTRACT, 1, 0, two.last.roots, other)
    newest = replace(newest, base=sha256(other))
    found = asyncio.run(catch_up(late, newest))
    assert found.record.sha256 == newest.sha256


# --- error feedback -------------------------------------------------------------------------------------------


def offered(two: Two, *, sent: int | None = 1) -> tuple[Desk, Offer]:
    desk = two.desks[0]
    offer = desk.offer = two.offer(desk, two.owns[0])
    offer.sent = sent
    return desk, offer


def after(two: Two, round_: int, *, merged: bool) -> Training:
    """The record once that round is final."""
    nodes = (node(0), node(1)) if merged else (node(1),)
    newest = result(round_, b"n" * 32, holders=nodes, participants=(node(0), node(1)), contributors=nodes)
    return replace(two.record, last=newest, version=two.record.version + 1)


def test_r42_what_was_lost_counts_once_a_final_round_has_the_offer(tmp_path: Path) -> None:
    two = Two(tmp_path)
    desk, offer = offered(two)
    residual = offer.residual
    desk.follow(replace(two.record, version=5))
    assert offer.residual is residual  # the round goes on
    desk.follow(after(two, 1, merged=True))
    assert residual is not None
    assert desk.residual is residual
    desk.follow(after(two, 2, merged=False))
    assert desk.residual is residual


def test_r42_of_an_offer_that_was_not_merged_nothing_is_kept(tmp_path: Path) -> None:
    two = Two(tmp_path)
    desk, first = offered(two)
    desk.follow(after(two, 1, merged=True))
    kept = desk.residual
    assert kept is not None
    desk, second = offered(two, sent=2)
    desk.follow(after(two, 2, merged=False))
    assert desk.residual is kept
    assert second.residual is None
    assert first.residual is None


def test_r42_an_offer_of_a_void_round_is_offered_again_with_what_was_lost_before(tmp_path: Path) -> None:
    two = Two(tmp_path)
    desk, offer = offered(two)
    desk.follow(replace(two.record, version=5))  # no newer result
    offer.sent = 2
    desk.follow(after(two, 2, merged=True))
    assert desk.residual is not None


def test_r42_where_it_is_not_known_whether_an_offer_was_merged_nothing_counts_twice(tmp_path: Path) -> None:
    """The SN was silent while round 1 ended: that the offer is in it cannot be seen from round 2."""
    two = Two(tmp_path)
    desk, _ = offered(two)
    desk.residual = desk.new_residual(two.travels)
    desk.follow(after(two, 2, merged=True))
    assert desk.residual is None


def test_r42_the_next_difference_has_what_the_last_one_lost(tmp_path: Path) -> None:
    two = Two(tmp_path)
    desk, offer = offered(two)
    size = residual_size(two.manifest, two.travels)
    assert offer.residual is not None
    left = bytes(offer.residual.reader()(0, size))
    assert any(left)
    desk.residual = offer.residual
    again = two.offer(desk, two.owns[0])
    steps = encode_difference(two.manifest, two.travels, reader(two.owns[0]), reader(two.base), reader(left))
    data = b"".join(bytes(step.data) for step in steps)
    assert again.commitment == commit(data, SECRET)
    assert again.commitment != offer.commitment
    finished = two.offer(desk, two.owns[0], feeds_back=False)
    assert finished.commitment == offer.commitment  # what a finished peer offers is encoded without
    assert finished.residual is None


def test_a_residual_is_read_back_as_it_was_written_and_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    residual = Residual(tmp_path, 10)
    residual.append(b"01234")
    residual.append(b"56789")
    read = residual.reader()
    assert bytes(read(3, 4)) == b"3456"
    assert bytes(read(0, 10)) == b"0123456789"
    with pytest.raises(Broken):
        read(8, 3)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(Broken, match="cannot write a residual to the disk: No space left on device; free space there"):
        residual.append(b"x")


def test_e20_a_request_for_the_whole_of_a_round_in_full_is_refused(tmp_path: Path) -> None:
    two = Two(tmp_path)

    async def go() -> None:
        request = ResultRequest(contract=CONTRACT, run=1, round=0, shard=0, start=0, whole=True)
        async for _ in two.desks[0].client.stream(address(1), STREAM_RESULT, encode(request), idle_s=1.0):
            raise AssertionError("a frame was served")

    with pytest.raises(Refused, match="round 0, shard 0: not held here"):
        asyncio.run(go())
