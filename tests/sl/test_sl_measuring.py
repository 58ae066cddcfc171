"""Measuring a shard, merging by the weights that follow, merging on top of the past. Spec: docs/spec/round.md."""

import asyncio
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from sl_world import (
    CONTRACT,
    SECRET,
    SETTINGS,
    checked_in,
    committed,
    desk_of,
    merging,
    model,
    name,
    node,
    result,
    training,
)
from test_sl_guarding import LEASE, Watch
from test_sl_steps import Pair, meanwhile

from swarmlearning.contracts.distances import add_distances
from swarmlearning.contracts.messages import Measure, MergeCommit, Message, Unreachable
from swarmlearning.contracts.records import Phase, Settings, Training
from swarmlearning.encoding import sha256
from swarmlearning.errors import Refused
from swarmlearning.merge.distances import measure_shard, sum_distances, unpack_distances
from swarmlearning.parameters.chunks import merged_root
from swarmlearning.parameters.dtypes import Array
from swarmlearning.sl.desk import Desk, Fetched, Offer
from swarmlearning.sl.exchange import Pull, Shard, merge_steps, store_steps
from swarmlearning.sl.measuring import work_on
from swarmlearning.sl.methods import complete
from swarmlearning.sl.plan import GuardShard, MeasureShard, TellShares
from swarmlearning.sl.results import leaves_of
from swarmlearning.sl.store import ResultStore
from swarmlearning.sl.weighing import chunks_a_step, further_steps, tell_shares

APART = complete(replace(SETTINGS, merge_method="geomedian"))
PAST = complete(replace(SETTINGS, merge_method="fedavgm"))
MEASURE = MeasureShard(round=0, shard=0, contributors=(node(0), node(1)))


class Measuring(Pair):
    """Peer 0 leads the only shard of a round that measures; every element of peer 1 is larger by 2."""

    def __init__(self, tmp: Path, settings: Settings = APART) -> None:
        super().__init__(tmp)
        self.desk = desk_of(0, tmp / "0", self.network, self.manifest, replace(self.record, settings=settings))
        self.desk.offer = Offer(self.mine, committed(self.mine), SECRET)
        self.move(replace(self.record, settings=settings, round=replace(self.round, measuring=settings is APART)))

    def move(self, record: Training) -> None:
        self.record = replace(record, version=record.version + 1)
        self.desk.training = self.other.training = self.record

    def measure(self) -> list[Message]:
        asyncio.run(work_on(self.desk, MEASURE))
        return self.sn.told

    def measured(self, squared: float) -> None:
        """The ledger has the distance."""
        assert self.record.round is not None
        self.move(
            replace(
                self.record,
                round=replace(self.record.round, measuring=False, distances=struct.pack("<d", squared)),
            )
        )


@pytest.fixture
def pair(tmp_path: Path) -> Measuring:
    return Measuring(tmp_path)


# --- R-24 -----------------------------------------------------------------------------------------------------------


def test_r24_a_leader_says_how_far_the_contributors_are_apart(pair: Measuring) -> None:
    (told,) = pair.measure()
    assert isinstance(told, Measure)
    own, other = (np.frombuffer(b, np.float32).astype(np.float64) for b in (pair.mine, pair.theirs))
    assert struct.unpack("<d", told.distances) == (float(np.sum((own - other) ** 2)),)
    assert (told.round, told.attempt, told.shard) == (0, 1, 0)


def test_r24_what_was_pulled_to_measure_is_merged_without_pulling_again(pair: Measuring) -> None:
    pair.measure()
    pair.measured(4.0)
    pair.network.stop(name(1))
    told = pair.merge()[-1]
    assert isinstance(told, MergeCommit)
    assert merged_of(pair.desk, 0)[0] == 2.0


def test_r24_a_contributor_that_cannot_be_had_is_reported(pair: Measuring) -> None:
    pair.network.stop(name(1))
    (told,) = pair.measure()
    assert isinstance(told, Unreachable)
    assert (told.contributor, told.reason, told.shard) == (node(1), "unreachable", 0)


def test_r24_what_was_measured_and_not_heard_is_said_again_without_measuring_again(pair: Measuring) -> None:
    (first,) = pair.measure()
    pair.network.stop(name(1))
    pair.desk.pulls.clear()
    assert pair.record.round is not None
    pair.move(replace(pair.record, round=replace(pair.record.round, attempt=2)))
    _, second = pair.measure()
    assert isinstance(first, Measure)
    assert second == replace(first, attempt=2)


def test_r24_what_was_measured_of_others_is_not_said_in_a_later_attempt(pair: Measuring) -> None:
    assert pair.record.round is not None
    later = replace(pair.record, round=replace(pair.record.round, attempt=2, contributors=(node(0),)))
    meanwhile(pair.desk, lambda: pair.move(later))
    with pytest.raises(Refused, match="merged otherwise now"):
        pair.measure()
    assert pair.sn.told == []
    assert pair.desk.measured == {}


def test_r24_a_round_that_collects_again_measures_what_is_offered_then(pair: Measuring) -> None:
    pair.measure()
    _, fresh = model(fill=7.0)
    pair.other.offer = Offer(fresh, committed(fresh), bytes(range(32)))
    assert pair.record.round is not None
    checkins = (pair.record.round.checkins[0], checked_in(1, pair.other.offer.commitment.root))
    pair.move(replace(pair.record, round=replace(pair.record.round, attempt=3, checkins=checkins)))
    first, second = pair.measure()
    assert isinstance(first, Measure)
    assert isinstance(second, Measure)
    assert struct.unpack("<d", second.distances)[0] == 9 * struct.unpack("<d", first.distances)[0]


def test_r24_progress_of_measuring_is_counted_and_ends_at_the_whole(pair: Measuring) -> None:
    shard = Shard(size=pair.manifest.size, shards=1, shard=0)
    pair.measure()
    whole = merge_steps(shard, 2) + further_steps(pair.desk, pair.record, shard, 2)
    done = pair.desk.steps(0, 0)
    assert pair.desk.measuring[0, 0] == 1
    assert 0 < done < whole
    pair.measured(4.0)
    pair.merge()
    assert done < pair.desk.steps(0, 0) <= whole


def test_r24_the_more_pairs_the_fewer_chunks_a_step() -> None:
    assert [chunks_a_step(n) for n in (2, 3, 16, 120)] == [256, 256, 17, 1]


def test_r24_the_ledgers_sum_is_that_of_the_merge_room(pair: Measuring) -> None:
    """T-43: contracts do not import it."""
    buffers = [pair.mine, pair.theirs, model(fill=0.1)[1]]
    parts = [measure_shard(pair.manifest, buffers, range(shard, 5, 2)) for shard in range(2)]
    assert add_distances(parts) == sum_distances(parts)
    top = struct.pack("<d", 1.7e308)
    assert unpack_distances(add_distances([top, top]), 2)[0, 1] == unpack_distances(sum_distances([top, top]), 2)[0, 1]


def guard(tmp_path: Path, *, measuring: bool) -> Watch:
    manifest, _ = model()
    round_ = merging(peers=3, leaders=(node(1),), measuring=measuring, distances=b"" if measuring else bytes(24))
    record = training(phase=Phase.MERGING, round_=round_, size=manifest.size, settings=APART)
    return Watch(tmp_path, lambda _now, _shard: 3, record)


def test_r10_a_leader_that_stands_still_while_it_measures_is_suspected(tmp_path: Path) -> None:
    action = GuardShard(round=0, attempt=1, shard=0, suspect=node(1), measuring=True)
    at, told = guard(tmp_path, measuring=True).run(action)
    assert LEASE < at <= 1.5 * LEASE
    assert told is not None
    assert told.leader == node(1)


def test_r10_a_leader_that_has_measured_has_a_new_lease_to_merge(tmp_path: Path) -> None:
    """It may have waited for the others for longer than a lease."""
    watch = guard(tmp_path, measuring=True)
    watch.run(GuardShard(round=0, attempt=1, shard=0, suspect=node(1), measuring=True), limit_s=0.9 * LEASE)
    assert watch.told == []
    (known,) = watch.desk.watched.values()
    known.moved_s = known.answered_s = -10 * LEASE
    watch.desk.training = guard(tmp_path, measuring=False).desk.training
    at, told = watch.run(GuardShard(round=0, attempt=1, shard=0, suspect=node(1)))
    assert at > LEASE
    assert told is not None


def test_r10_steps_of_measuring_are_progress_and_more_than_the_whole_is_not(tmp_path: Path) -> None:
    watch = guard(tmp_path, measuring=True)
    shard = Shard(size=watch.desk.size, shards=1, shard=0)
    whole = merge_steps(shard, 3) + 1
    watch.steps = lambda now, _shard: int(now / (0.9 * LEASE))
    action = GuardShard(round=0, attempt=1, shard=0, suspect=node(1), measuring=True)
    at, told = watch.run(action, limit_s=1000 * LEASE)
    assert told is not None
    assert 0.9 * LEASE * whole + LEASE < at < 0.9 * LEASE * whole + 2 * LEASE


# --- R-25 -----------------------------------------------------------------------------------------------------------


class Distant:
    """A method that leaves out the last contributor."""

    name = "distant"
    needs = "distances"

    def weigh(self, distances: object, weights: list[int]) -> list[int]:
        return [*weights[:-1], 0]


def test_r25_who_counts_nothing_is_not_needed(pair: Measuring) -> None:
    pair.desk.method = Distant()  # type: ignore[assignment]  # all that merging asks of such a method
    pair.measured(4.0)
    pair.network.stop(name(1))
    (told,) = pair.merge()
    assert isinstance(told, MergeCommit)
    assert told.root == merged_root(leaves_of(pair.mine), pair.manifest.size, shard=0, shards=1)


def test_r25_other_distances_are_merged_anew(pair: Measuring) -> None:
    """A round that collects again may come to others, with the same offers, where a leader lies."""
    pair.measured(4.0)
    pair.merge()
    pair.desk.method = Distant()  # type: ignore[assignment]  # so that it shows
    pair.merge()
    assert merged_of(pair.desk, 0)[0] == 2.0, "said again, not merged again"
    pair.measured(5.0)
    pair.merge()
    assert merged_of(pair.desk, 0)[0] == 1.0


def test_r25_the_log_tells_who_has_least_of_the_weight(pair: Measuring, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swarmlearning.sl")
    pair.desk.method = Distant()  # type: ignore[assignment]  # as above
    pair.measured(4.0)
    assert pair.record.round is not None
    action = TellShares(round=0, contributors=MEASURE.contributors, distances=pair.record.round.distances)
    asyncio.run(tell_shares(pair.desk, action))
    assert caplog.messages == ["round 0: distant gave sl@org1.example 0 %, sl@org0.example 100 % of the weight"]
    with pytest.raises(Refused):
        asyncio.run(tell_shares(pair.desk, replace(action, distances=bytes(8))))


# --- R-26 -----------------------------------------------------------------------------------------------------------


def with_past(tmp_path: Path) -> tuple[Measuring, memoryview, memoryview]:
    """The two newest results are models of 1.0 more and of 0.5 more than a rising row."""
    pair = Measuring(tmp_path, PAST)
    _, newest = model(fill=1.0)
    _, older = model(fill=0.5)
    last, previous = (
        result(round_, sha256(b), (merged_root(leaves_of(b), len(b), shard=0, shards=1),))
        for round_, b in ((1, newest), (0, older))
    )
    assert pair.record.round is not None
    pair.move(replace(pair.record, round=replace(pair.record.round, number=2), last=last, previous=previous))
    pair.action = replace(pair.action, round=2)
    return pair, newest, older


def merged_of(desk: Desk, round_: int) -> Array:
    """The merged shard's first chunk."""
    return np.frombuffer(bytes(desk.merged[round_, 0].chunks.source()(0)), np.float32)


def keep(desk: Desk, round_: int, buffer: memoryview) -> None:
    root = merged_root(leaves_of(buffer), len(buffer), shard=0, shards=1)
    desk.store.save(CONTRACT, 1, round_, (root,), buffer)


def test_r26_the_two_newest_results_are_what_merging_builds_on(tmp_path: Path) -> None:
    pair, newest, older = with_past(tmp_path)
    with pytest.raises(Refused, match="round 1 of heart is needed to merge and not here yet"):
        pair.merge()
    keep(pair.desk, 1, newest)
    with pytest.raises(Refused, match="round 0 of heart is needed"):
        pair.merge()
    keep(pair.desk, 0, older)
    pair.merge()
    # The mean is 2.0 at the first element: x + (mean - x) + 0.9 (x - x_before).
    assert merged_of(pair.desk, 2)[0] == np.float32(2.0 + 0.9 * 0.5)


def test_r26_what_is_fetched_of_the_past_is_progress(tmp_path: Path) -> None:
    pair, newest, older = with_past(tmp_path)
    shard = Shard(size=pair.manifest.size, shards=1, shard=0)
    one = store_steps(pair.manifest.size, 1)
    assert further_steps(pair.desk, pair.record, shard, 2) == 2 * one
    seen = [pair.desk.steps(2, 0)]
    assert pair.record.last is not None
    roots = pair.record.last.roots
    part = pair.desk.store.begin(CONTRACT, 1, 1, roots, pair.manifest.size)
    pull = Pull(pair.manifest, shard, roots[0], part.chunks, salted=False)
    pair.desk.fetched[1, roots] = Fetched(pair.manifest, roots, part.chunks, part)
    pair.desk.fetched[1, roots].pulls[0] = pull
    pull.done = 4
    seen.append(pair.desk.steps(2, 0))
    keep(pair.desk, 1, newest)
    seen.append(pair.desk.steps(2, 0))
    keep(pair.desk, 0, older)
    seen.append(pair.desk.steps(2, 0))
    assert seen == [0, 1, one, 2 * one]


def test_r15_one_result_more_is_kept_where_merging_needs_the_past(tmp_path: Path) -> None:
    pair = Measuring(tmp_path, PAST)
    for round_, fill in enumerate((1.0, 2.0, 3.0, 4.0)):
        keep(pair.desk, round_, model(fill=fill)[1])
    kept = [round_ for round_ in range(4) if pair.desk.store.get(CONTRACT, 1, round_) is not None]
    assert kept == [1, 2, 3]


def test_r15_else_two_are_kept(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, node(0), sync=False)
    for round_, fill in enumerate((1.0, 2.0, 3.0, 4.0)):
        store.save(CONTRACT, 1, round_, (bytes(32),), model(fill=fill)[1])
    assert [round_ for round_ in range(4) if store.get(CONTRACT, 1, round_) is not None] == [2, 3]
