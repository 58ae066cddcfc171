"""Reports and suspicions in the merging phase: docs/spec/training.md, T-26 to T-29."""

import msgspec
import pytest
from contracts_world import Honest, World, node_of, others

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.disputes import STORING, reports_needed
from swarmlearning.contracts.records import Manifested, PeerState, Phase
from swarmlearning.contracts.rounds import shard_sources
from swarmlearning.encoding import sha256
from swarmlearning.types import Code, short_name

replace = msgspec.structs.replace


# --- T-26 to T-28: reports --------------------------------------------------------------------------------------------


def test_t26_an_accusation_costs_the_accuser_its_charge_and_the_accused_nothing() -> None:
    world = World()
    world.merging(4)
    accuser = world.leader()
    accused = others(world, accuser)[0]
    world.must(accuser, world.report(0, accused))
    assert world.round.attempt == 2
    assert world.leader() not in (accuser, accused)
    assert node_of(accused) in world.round.contributors
    assert world.say(accuser, world.report(0, accused)) is Code.NOT_ALLOWED


def test_t26_only_whoever_is_in_charge_reports_others_and_only_contributors() -> None:
    world = World(checkin_mode="inactive")
    world.enrol(0, 1, 2)
    world.play_round([0, 1, 2])
    world.must(2, world.finishing())
    world.check_in(0, 1, 2)
    leader = world.leader()
    assert world.say(leader, world.report(0, 5)) is Code.MALFORMED
    if leader != 2:
        assert world.say(leader, world.report(0, 2)) is Code.MALFORMED
    for peer in others(world, leader):
        assert world.say(peer, world.report(0, leader)) is Code.NOT_ALLOWED


def test_t27_who_reports_itself_is_dropped_at_once_whatever_it_is_in_charge_of() -> None:
    """It restarted and holds its offer no more: nobody has to wait until others have found that out."""
    world = World()
    world.merging(4)
    leader = world.leader()
    restarted = others(world, leader)[0]
    world.must(restarted, world.report(0, restarted))
    assert [d.node for d in world.round.dropped] == [node_of(restarted)]
    assert world.leader() == leader
    world.finalise()
    assert world.training.last is not None


def test_t27_when_all_lost_their_offers_the_round_collects_again() -> None:
    world = World()
    world.merging(3)
    for peer in (0, 1):
        if world.is_at(Phase.MERGING):
            world.must(peer, world.report(0, peer))
    assert world.is_at(Phase.COLLECTING)


def test_t26_a_reports_text_is_short_and_harmless() -> None:
    world = World()
    world.merging(4)
    leader = world.leader()
    message = replace(world.report(0, others(world, leader)[0]), detail="\x1b[2J" + "x" * 60_000)
    world.must(leader, message)
    detail = world.round.reports[0].detail
    assert len(detail) == 200
    assert detail.startswith("?[2J")


@pytest.mark.parametrize(
    ("n", "needed"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 3), (9, 3), (10, 4), (16, 6), (100, 34)]
)
def test_t27_more_reports_are_needed_than_there_may_be_liars(n: int, needed: int) -> None:
    assert reports_needed(n) == needed
    assert n <= 2 or needed > (n - 1) // 3


def test_t28_with_enough_reports_a_contributor_is_dropped_and_the_round_goes_on() -> None:
    world = World(topology="sharded")
    world.merging(4)
    accused = 3
    reporters: list[int] = []
    for _ in range(2):
        reporter = next(p for p in others(world, accused, *reporters) if node_of(p) in world.round.leaders)
        world.must(reporter, world.report(world.round.leaders.index(node_of(reporter)), accused))
        reporters.append(reporter)
    round_ = world.round
    assert world.is_at(Phase.MERGING)
    assert round_.contributors == tuple(node_of(p) for p in range(3))
    assert [(d.node, d.reason) for d in round_.dropped] == [(node_of(accused), "unreachable")]
    assert round_.participants == tuple(node_of(p) for p in range(4))
    assert (round_.commits, round_.holdings, any(round_.merged)) == ((), (), False)
    world.finalise()
    assert world.training.last is not None
    assert world.training.last.dropped == round_.dropped


@pytest.mark.parametrize(("n", "min_peers"), [(2, 2), (3, 3), (4, 4)])
def test_t28_below_min_peers_it_collects_again(n: int, min_peers: int) -> None:
    world = World()
    world.merging(n, min_peers=min_peers)
    driver = Honest(world, range(n - 1))
    for _ in range(10):
        if world.is_at(Phase.MERGING):
            driver.step()
    assert world.is_at(Phase.COLLECTING)
    assert "was dropped (unreachable)" in world.round.setback


def test_t28_without_a_majority_that_could_store_it_collects_again_at_once() -> None:
    world = World(topology="sharded")
    world.merging(6)
    for accuser, accused in [(5, 3), (0, 3), (1, 4), (0, 4), (2, 5), (0, 5)]:
        assert world.is_at(Phase.MERGING)
        shard = next(s for s in range(world.round.shards) if accuser in world.charged(s))
        world.must(accuser, world.report(shard, accused))
    assert world.is_at(Phase.COLLECTING)
    assert [d.node for d in world.round.dropped] == [node_of(3), node_of(4), node_of(5)]
    world.check_in(0, 1, 2)
    world.finalise()
    assert world.training.last is not None
    assert len(world.training.last.dropped) == 3


# --- T-29: suspicions -------------------------------------------------------------------------------------------------


def test_t29_more_than_half_of_the_others_replace_a_leader() -> None:
    world = World()
    world.merging(5)
    leader = world.leader()
    first, second, third, _ = others(world, leader)
    for peer in (first, first, second):
        world.must(peer, world.suspicion(0, node_of(leader)))
        assert world.leader() == leader
    world.must(third, world.suspicion(0, node_of(leader)))
    assert world.leader() != leader
    assert node_of(leader) in world.round.benched


def test_t29_nobody_suspects_itself_and_strangers_suspect_nobody() -> None:
    world = World()
    world.merging(3)
    leader = world.leader()
    assert world.say(leader, world.suspicion(0, node_of(leader))) is Code.NOT_ALLOWED
    assert world.say(5, world.suspicion(0, node_of(leader))) is Code.NOT_ALLOWED


def test_t29_only_whom_the_shard_waits_for_can_be_suspected() -> None:
    world = World(witnesses=1)
    world.merging(4)
    leader, witness = world.charged()
    bystander = others(world, leader, witness)[0]
    assert world.say(bystander, world.suspicion(0, node_of(others(world, leader, witness)[1]))) is Code.STALE
    world.must(leader, world.commitment(0))
    assert world.say(bystander, world.suspicion(0, node_of(leader))) is Code.STALE
    world.must(witness, world.commitment(0))
    assert world.say(bystander, world.suspicion(0, node_of(witness))) is Code.STALE
    assert world.say(bystander, world.suspicion(0, node_of(leader))) is Code.OK


def test_t29_a_silent_witness_is_replaced_and_the_leader_keeps_its_work() -> None:
    """Once only leaders could be suspected: a witness that never committed held every round up."""
    world = World(witnesses=1)
    world.merging(4)
    leader, witness = world.charged()
    world.must(leader, world.commitment(0))
    for peer in others(world, witness)[:2]:
        world.must(peer, world.suspicion(0, node_of(witness)))
    assert world.leader() == leader
    assert witness not in world.charged()
    world.must(world.charged()[1], world.commitment(0))
    assert world.round.merged == (world.true_root(0),)


def test_t29_suspicions_of_one_attempt_do_not_count_in_the_next() -> None:
    world = World(topology="sharded")
    world.merging(4)
    silent = world.leader(0)
    voice = others(world, silent)[0]
    world.must(voice, world.suspicion(0, node_of(silent)))
    reporter = next(world.leader(s) for s in range(4) if world.leader(s) not in (silent, voice))
    shard = world.round.leaders.index(node_of(reporter))
    world.must(reporter, world.report(shard, next(p for p in others(world, reporter))))
    assert world.round.suspicions == ()


def test_t29_a_replaced_leader_leads_none_of_its_shards_any_more() -> None:
    world = World(topology="sharded")
    world.manifest = Manifested(hash=bytes(32), size=65536 * 100)
    world.merging(3)
    silent = world.leader(0)
    for peer in others(world, silent):
        world.must(peer, world.suspicion(0, node_of(silent)))
    assert node_of(silent) not in world.round.leaders


def test_t29_a_merged_shard_moves_to_somebody_who_holds_it() -> None:
    world = World(topology="leader")
    world.merging(5)
    leader = world.leader()
    world.commit_all()
    holder, *rest = others(world, leader)
    world.store(holder)
    for peer in rest:
        world.must(peer, world.suspicion(0, node_of(leader)))
    assert world.leader() == holder
    assert world.round.merged == (world.true_root(0),)
    assert [h.node for h in world.round.holdings] == [node_of(holder)]
    assert node_of(holder) in shard_sources(world.round, 0)


def test_t29_a_false_result_that_nobody_serves_is_merged_anew() -> None:
    world = World()
    world.merging(4)
    liar = world.leader()
    world.must(liar, world.commitment(0, b"rubbish"))
    for peer in others(world, liar)[:2]:
        world.must(peer, world.suspicion(0, node_of(liar)))
    assert world.round.merged == (b"",)
    world.finalise()
    assert world.training.last is not None
    assert world.training.last.roots != (sha256(b"lie", b"rubbish"),)


def test_t29_voices_of_those_who_left_or_were_dropped_do_not_count() -> None:
    world = World()
    world.merging(4)
    leader = world.leader()
    gone, staying, _ = others(world, leader)
    world.must(gone, world.leaving())
    world.must(gone, world.suspicion(0, node_of(leader)))
    world.must(staying, world.suspicion(0, node_of(leader)))
    assert world.leader() == leader


def test_t29_a_contributor_that_answers_nobody_is_dropped_with_the_suspicion() -> None:
    """A dead leader costs one lease: nobody has to find out once more that its chunks cannot be had."""
    world = World()
    world.merging(4)
    dead = world.leader()
    first, second, third = others(world, dead)
    world.must(first, world.suspicion(0, node_of(dead), gone=True))
    assert node_of(dead) in world.round.contributors
    world.must(second, world.suspicion(0, node_of(dead), gone=True))
    assert node_of(dead) not in world.round.contributors
    assert [(d.node, d.reason) for d in world.round.dropped] == [(node_of(dead), "unreachable: no answer")]
    assert world.is_at(Phase.MERGING)
    assert world.leader() in (first, second, third)
    world.finalise()
    assert world.training.last is not None


def test_t29_a_minority_that_cannot_reach_a_silent_leader_does_not_drop_it() -> None:
    world = World()
    world.merging(4)
    silent = world.leader()
    first, second, _ = others(world, silent)
    world.must(first, world.suspicion(0, node_of(silent), gone=True))
    world.must(second, world.suspicion(0, node_of(silent)))
    assert world.leader() != silent
    assert node_of(silent) in world.round.contributors


def test_t29_a_dead_leader_whose_merged_shard_others_serve_stays_a_contributor() -> None:
    world = World()
    world.merging(5)
    leader = world.leader()
    world.commit_all()
    holder, *rest = others(world, leader)
    world.store(holder)
    for peer in rest:
        world.must(peer, world.suspicion(0, node_of(leader), gone=True))
    assert world.leader() == holder
    assert node_of(leader) in world.round.contributors
    assert world.round.merged == (world.true_root(0),)


def test_t29_a_round_does_not_wait_for_the_stores_of_a_silent_half() -> None:
    """Once such a round waited for its time limit, an hour, though as many as are needed were there."""
    world = World()
    world.merging(4)
    world.commit_all()
    stays = [world.leader(), others(world, world.leader())[0]]
    silent = others(world, *stays)
    world.store(*stays)
    for dead in silent:
        for peer in stays:
            world.must(peer, world.suspicion(STORING, node_of(dead), gone=True))
    assert world.is_at(Phase.COLLECTING)
    assert "half of the participants did not store" in world.round.setback
    assert [p.state for p in world.training.peers if p.node in map(node_of, silent)] == [PeerState.PAUSED] * 2
    world.play_round(stays)
    assert world.training.last is not None


def test_t29_a_late_store_still_counts() -> None:
    world = World()
    world.merging(4)
    world.commit_all()
    leader = world.leader()
    slow, second, third = others(world, leader)
    world.store(leader)
    for peer in (leader, second, third):
        if node_of(slow) not in world.round.absent:
            world.must(peer, world.suspicion(STORING, node_of(slow)))
    assert world.round.absent == (node_of(slow),)
    assert short_name(node_of(slow)) in explain_wait(world.training)
    world.store(slow, second)
    assert world.training.last is not None


def test_t29_a_merged_result_is_kept_for_those_who_come_back_where_too_few_are_left() -> None:
    world = World()
    world.merging(2)
    world.commit_all()
    leader = world.leader()
    (silent,) = others(world, leader)
    world.store(leader)
    world.must(leader, world.suspicion(STORING, node_of(silent), gone=True))
    assert world.is_at(Phase.MERGING)
    world.store(silent)
    assert world.training.last is not None


def test_t29_nobody_is_suspected_of_not_storing_before_all_is_merged() -> None:
    world = World()
    world.merging(3)
    assert world.say(0, world.suspicion(STORING, node_of(1))) is Code.STALE
    assert world.say(0, world.suspicion(-2, node_of(1))) is Code.MALFORMED


def test_t23_a_peer_whose_parameters_never_verify_is_left_out_of_the_round_in_the_end() -> None:
    """Once a round that had only one more contributor began anew as fast as the network went, for ever."""
    world = World(checkin_mode="inactive")
    world.enrol(0, 1, 2, 3)
    world.play_round(range(4))
    for peer in (0, 1):
        world.must(peer, world.finishing())
    for strikes in (1, 2, 3):
        world.check_in(2, 0, 1, 3)
        while world.is_at(Phase.MERGING):
            if world.leader() == 2:
                for peer in (0, 1, 3):
                    world.say(peer, world.suspicion(0, node_of(2)))
            else:
                world.must(world.leader(), replace(world.report(0, 2), reason="unverified"))
        assert world.round.strikes == (node_of(2),) * strikes
    refused = world.refusal(2, world.offer(2))
    assert refused.code is Code.NOT_ALLOWED
    assert "did not verify" in refused.log
    assert "dropped too often" in explain_wait(world.training)
    world.check_in(0, 1, 3)  # one contributor: the round is void
    assert world.training.voids == 1
    world.must(2, world.offer(2))
    assert world.round.strikes == ()


def test_t23_whoever_could_not_be_reached_may_come_back_as_often_as_it_likes() -> None:
    world = World()
    world.merging(2)
    for _ in range(5):
        world.must(0, world.report(0, 0))
        assert world.is_at(Phase.COLLECTING)
        world.check_in(0, 1)
    assert world.is_at(Phase.MERGING)
