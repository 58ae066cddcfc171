"""Measuring before merging: docs/spec/training.md, T-42 and T-43; and the history that T-31 keeps."""

import math
import struct
import sys

import msgspec
import pytest
from contracts_world import CONTRACT, NETWORK, Honest, World, index_of, node_of, others

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.distances import add_distances, count_pairs
from swarmlearning.contracts.draw import MAX_DISTANCES, MAX_SHARDS, count_shards
from swarmlearning.contracts.messages import MAX_TX_BYTES, Measure, Payload, Tx
from swarmlearning.contracts.records import MAX_MEASURED_PEERS, Phase
from swarmlearning.encoding import encode
from swarmlearning.types import Code, short_name

replace = msgspec.structs.replace


def measured(**changes: object) -> World:
    """A contract whose method needs distances."""
    chosen: dict[str, object] = {"merge_method": "geomedian", "needs": "distances", "topology": "sharded"}
    return World(**(chosen | changes))


def values(distances: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(distances) // 8}d", distances)


# --- T-42: every shard is measured before any is merged ---------------------------------------------------------------


@pytest.mark.parametrize("witnesses", [0, 1, 2])
def test_t42_nothing_is_merged_before_every_shard_is_measured(witnesses: int) -> None:
    world = measured(witnesses=witnesses)
    world.merging(4)
    assert (world.round.measuring, world.round.shards) == (True, 4)
    for shard in range(4):
        for peer in world.charged(shard):
            assert world.say(peer, world.commitment(shard)) is Code.TOO_EARLY
            assert world.round.measuring
            world.must(peer, world.measurement(shard))
    assert not world.round.measuring
    attempt = world.round.attempt
    world.finalise()
    assert world.training.last is not None
    assert (world.training.last.attempts, attempt) == (1, 1)


def test_t42_the_distances_are_the_sum_over_the_shards_and_the_parts_are_dropped() -> None:
    world = measured(witnesses=1)
    world.merging(4)
    parts = [values(world.true_distances(shard)) for shard in range(4)]
    assert len(parts[0]) == 6
    world.measure_all()
    assert values(world.round.distances) == tuple(((a + b) + c) + d for a, b, c, d in zip(*parts, strict=True))
    assert world.round.parts == ()
    assert world.round.commits == ()
    assert world.round.merged == (b"",) * 4


@pytest.mark.parametrize("changes", [{"needs": ""}, {"needs": "history"}, {"start": "draw"}])
def test_t42_nothing_is_measured_where_the_method_does_not_need_it_or_one_is_adopted(changes: dict[str, str]) -> None:
    world = measured(**changes)
    world.merging(3)
    assert not world.round.measuring
    assert world.say(world.leader(), world.measurement(0)) is Code.STALE
    world.finalise()
    assert world.training.last is not None
    world.check_in(0, 1, 2)
    assert world.round.measuring == (world.settings.needs == "distances")


def test_t42_what_is_measured_is_not_measured_again() -> None:
    world = measured(witnesses=0)
    world.merging(3)
    first = world.leader(0)
    message = world.measurement(0)
    world.must(first, message)
    version = world.training.version
    world.must(first, message)
    assert world.training.version == version
    assert world.say(first, world.measurement(0, b"x")) is Code.CONFLICT
    world.measure_all()
    assert world.say(first, message) is Code.STALE


def test_t42_only_who_is_in_charge_measures_and_names_the_attempt() -> None:
    world = measured(witnesses=0)
    world.merging(3)
    leader = world.leader(0)
    for peer in others(world, leader):
        assert world.say(peer, world.measurement(0)) is Code.NOT_ALLOWED
    assert world.say(leader, replace(world.measurement(0), shard=3)) is Code.MALFORMED
    assert world.say(leader, replace(world.measurement(0), attempt=2)) is Code.STALE
    assert world.say(leader, replace(world.measurement(0), run=2)) is Code.STALE


def test_t42_the_record_says_what_is_waited_for() -> None:
    world = measured(witnesses=0)
    world.merging(3)
    world.must(world.leader(0), world.measurement(0))
    waited = sorted(short_name(world.round.leaders[shard]) for shard in (1, 2))
    assert explain_wait(world.training) == f"1 of 3 shards are measured; to be measured by {', '.join(waited)}"
    world.measure_all()
    assert explain_wait(world.training).startswith("0 of 3 shards are merged; to be merged by ")


# --- T-42, T-25: liars ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("liar_leads", [True, False])
def test_t42_a_lie_about_distances_is_outvoted_and_the_liar_merges_nothing(liar_leads: bool) -> None:
    world = measured(witnesses=1, topology="leader")
    world.merging(4)
    liar, honest = world.charged() if liar_leads else world.charged()[::-1]
    true = world.true_distances(0)
    world.must(liar, world.measurement(0, b"lie"))
    world.must(honest, world.measurement(0))
    assert not set(world.training.distrusted), "one word against another convicts nobody"
    third = world.charged()[-1]
    assert len(world.charged()) == 3
    world.must(third, world.measurement(0))
    assert world.round.distances == true
    assert world.training.distrusted == (node_of(liar),)
    assert sorted(world.charged()) == sorted([honest, third])
    assert world.round.attempt == 2
    world.finalise()
    assert world.training.last is not None
    assert node_of(liar) in world.training.last.contributors, "what it offered is as good as anybody's"


def test_t42_two_that_measured_differently_are_not_decided_between() -> None:
    world = measured(witnesses=1, topology="leader")
    world.merging(2)
    world.must(world.charged()[0], world.measurement(0, b"lie"))
    world.must(world.charged()[1], world.measurement(0))
    assert world.is_at(Phase.COLLECTING)
    assert "got different results and nobody can decide" in world.round.setback
    assert (world.round.parts, world.round.distances, world.round.measuring) == ((), b"", False)


def test_t42_without_witnesses_a_lie_about_distances_counts() -> None:
    """The limit that the docs state."""
    world = measured(witnesses=0, topology="leader")
    world.merging(3)
    lie = world.measurement(0, b"lie")
    world.must(world.leader(), lie)
    assert world.round.distances == lie.distances != world.true_distances(0)


def test_t42_lies_do_not_pile_up_in_the_record() -> None:
    world = measured(witnesses=2, topology="leader")
    world.merging(6)
    for lie in (b"1", b"2", b"3"):
        peer = next(p for p in world.charged() if node_of(p) not in {c.node for c in world.round.commits})
        world.must(peer, world.measurement(0, lie))
    assert len(world.round.parts) == 3
    world.must(index_of(world.round.witnesses[0][-1]), world.measurement(0))
    accuser, witness = world.charged()[0], world.charged()[1]
    world.must(accuser, world.report(0, others(world, accuser)[0]))
    assert len(world.round.parts) == len({c.root for c in world.round.commits})
    assert node_of(witness) in {c.node for c in world.round.commits}


def test_t42_a_lie_that_was_outvoted_does_not_come_back_into_the_record() -> None:
    world = measured(witnesses=1)
    world.merging(4)
    liar, honest = world.charged(0)
    lie = world.measurement(0, b"lie")
    world.must(liar, lie)
    world.must(honest, world.measurement(0))
    world.must(world.charged(0)[-1], world.measurement(0))
    assert world.round.measuring
    before = world.training
    world.must(liar, lie)
    assert world.training == before


# --- T-42: changes on the way -----------------------------------------------------------------------------------------


def suspect(world: World, shard: int, suspect: int, *, gone: bool = False) -> None:
    attempt = world.round.attempt
    for peer in others(world, suspect):
        if world.is_at(Phase.MERGING) and world.round.attempt == attempt:
            world.must(peer, world.suspicion(shard, node_of(suspect), gone=gone))


def test_t42_a_leader_that_does_not_measure_is_replaced_like_one_that_does_not_merge() -> None:
    world = measured(witnesses=0, topology="leader")
    world.merging(4)
    silent = world.leader()
    suspect(world, 0, silent)
    assert world.leader() != silent
    assert world.round.measuring
    assert len(world.round.contributors) == 4
    world.finalise()
    assert world.training.last is not None


def test_t42_another_leader_keeps_what_is_agreed() -> None:
    world = measured(witnesses=1)
    world.merging(4)
    for peer in world.charged(0):
        world.must(peer, world.measurement(0))
    agreed = world.round.merged[0]
    assert agreed
    silent = world.leader(1)
    suspect(world, 1, silent)
    assert world.round.merged[0] == agreed
    for shard in range(4):
        assert len(world.charged(shard)) == 2, "also who takes over an agreed shard has a witness when it is merged"
        assert silent not in world.charged(shard)
    world.measure_all()
    assert values(world.round.distances)[0] == sum(values(world.true_distances(s))[0] for s in range(4))


def test_t42_an_agreed_shard_stays_agreed_when_all_that_measured_it_are_relieved() -> None:
    world = measured(witnesses=0)
    world.merging(4)
    leader = world.leader(0)
    world.must(leader, world.measurement(0))
    agreed = world.round.merged[0]
    world.must(leader, world.report(0, others(world, leader)[0]))
    assert world.leader(0) != leader
    assert world.round.merged[0] == agreed
    assert world.say(world.leader(0), world.measurement(0)) is Code.OK
    world.finalise()
    assert world.training.last is not None


def test_t42_nobody_waits_for_the_leader_of_a_measured_shard() -> None:
    world = measured(witnesses=0)
    world.merging(3)
    leader = world.leader(0)
    world.must(leader, world.measurement(0))
    other = others(world, leader)[0]
    assert world.say(other, world.suspicion(0, node_of(leader))) is Code.STALE
    assert world.say(other, world.suspicion(STORING, node_of(leader))) is Code.STALE


def test_t42_a_suspicion_of_one_that_measured_late_does_not_count_when_it_merges() -> None:
    world = measured(witnesses=0, topology="leader")
    world.merging(4)
    leader = world.leader()
    first, second, _ = others(world, leader)
    world.must(first, world.suspicion(0, node_of(leader)))
    world.must(leader, world.measurement(0))
    world.must(second, world.suspicion(0, node_of(leader)))
    assert world.leader() == leader
    world.must(first, world.suspicion(0, node_of(leader)))
    assert world.leader() != leader


def test_t42_another_leader_while_it_merges_keeps_the_distances() -> None:
    world = measured(witnesses=0, topology="leader")
    world.merging(4)
    world.measure_all()
    distances = world.round.distances
    suspect(world, 0, world.leader())
    assert world.round.attempt == 2
    assert (world.round.distances, world.round.measuring) == (distances, False)


@pytest.mark.parametrize("when", ["measuring", "merging"])
def test_t42_without_a_contributor_everything_is_measured_anew(when: str) -> None:
    world = measured(witnesses=0)
    world.merging(5)
    world.must(world.leader(0), world.measurement(0))
    if when == "merging":
        world.measure_all()
        world.must(world.leader(0), world.commitment(0))
    gone = others(world, world.leader(1))[0]
    world.must(gone, world.report(0, gone))
    assert node_of(gone) not in world.round.contributors
    assert (world.round.measuring, world.round.distances, world.round.parts) == (True, b"", ())
    assert world.round.merged == (b"",) * 5
    before = replace(world.measurement(1), distances=bytes(8 * 10))
    assert world.say(world.leader(1), before) is Code.MALFORMED
    world.measure_all()
    assert len(values(world.round.distances)) == 6
    world.finalise()
    assert world.training.last is not None


@pytest.mark.parametrize("witnesses", [0, 1, 2])
@pytest.mark.parametrize("silent", [(4, 5), (5,)])
def test_t42_a_third_that_is_silent_does_not_stop_the_others(witnesses: int, silent: tuple[int, ...]) -> None:
    world = measured(witnesses=witnesses)
    world.merging(6)
    driver = Honest(world, [peer for peer in range(6) if peer not in silent])
    while world.training.last is None:
        driver.step()
        assert driver.steps < 60
    assert world.training.last.attempts <= 12
    assert {d.node for d in world.training.last.dropped} == {node_of(peer) for peer in silent}


# --- T-43: the bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, -math.inf, -1.0, -5e-324, -0.0], ids=["nan", "inf", "-inf", "-1", "-tiny", "-0"]
)
@pytest.mark.parametrize("position", [0, 2])
def test_t43_what_no_squared_distance_can_be_is_refused(bad: float, position: int) -> None:
    world = measured(topology="leader")
    world.merging(3)
    given = [1.0, 0.0, sys.float_info.max]
    given[position] = bad
    message = replace(world.measurement(0), distances=struct.pack("<3d", *given))
    rejected = world.refusal(world.leader(), message)
    assert rejected.code is Code.MALFORMED
    assert str(bad) in rejected.log


@pytest.mark.parametrize("length", [0, 8, 16, 23, 25, 32])
def test_t43_there_is_one_distance_a_pair(length: int) -> None:
    world = measured(topology="leader")
    world.merging(3)
    rejected = world.refusal(world.leader(), replace(world.measurement(0), distances=bytes(length)))
    assert rejected.code is Code.MALFORMED
    assert rejected.log == f"distances of {length} bytes; expected 24, for the pairs of 3 contributors"


def test_t43_they_are_added_in_the_order_of_the_shards() -> None:
    parts = [struct.pack("<2d", 0.1, 1e16), struct.pack("<2d", 0.2, 1.0), struct.pack("<2d", 0.3, 1.0)]
    assert values(add_distances(parts)) == ((0.1 + 0.2) + 0.3, 1e16)
    assert values(add_distances(parts[::-1])) == ((0.3 + 0.2) + 0.1, 1e16 + 2.0)
    assert values(add_distances(parts)) != values(add_distances(parts[::-1])), "the order must show, or say nothing"


def test_t43_finite_parts_give_finite_sums() -> None:
    huge = struct.pack("<1d", sys.float_info.max)
    assert add_distances([huge, huge, huge]) == huge


def test_t43_the_most_distances_fit_into_one_transaction() -> None:
    most = bytes(8 * count_pairs(MAX_MEASURED_PEERS))
    number = 2**62
    message = Measure(
        contract=type(CONTRACT)("c" * 128), run=number, round=number, attempt=number, shard=15, distances=most
    )
    payload = Payload(network=NETWORK * 12, nonce=bytes(16), expires=number, message=message)
    assert len(encode(Tx(payload=encode(payload), signer=bytes(32), signature=bytes(64)))) < MAX_TX_BYTES


def test_t41_where_distances_are_measured_many_contributors_have_fewer_shards() -> None:
    whole = 1 << 30
    for n in range(3, MAX_MEASURED_PEERS + 1):
        shards = count_shards("sharded", whole, n, n, measured=True)
        assert 1 <= shards <= min(n, MAX_SHARDS)
        assert shards * count_pairs(n) <= MAX_DISTANCES
        assert shards in (n, MAX_SHARDS) or (shards + 1) * count_pairs(n) > MAX_DISTANCES
    assert count_shards("sharded", whole, 120, 120, measured=True) == 2
    assert count_shards("sharded", whole, 120, 120) == MAX_SHARDS


# --- T-31: history ----------------------------------------------------------------------------------------------------


def test_t31_a_method_that_needs_history_finds_the_result_before_the_last() -> None:
    world = World(needs="history", merge_method="fedavgm")
    world.enrol(0, 1)
    seen = []
    for _ in range(3):
        world.play_round([0, 1])
        seen.append((world.training.previous, world.training.last))
    assert [previous for previous, _ in seen] == [None, seen[0][1], seen[1][1]]
    world.complete([0, 1])
    assert world.training.previous == seen[2][1]
    world.must(0, world.resetting())
    assert (world.training.previous, world.training.last) == (None, None)


@pytest.mark.parametrize("needs", ["", "distances"])
def test_t31_other_methods_keep_no_history(needs: str) -> None:
    world = World(needs=needs)
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.play_round([0, 1])
    assert world.training.previous is None
