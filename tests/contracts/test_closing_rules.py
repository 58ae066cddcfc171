"""When a round closes and what it says meanwhile: docs/spec/training.md, T-12 to T-14, T-17 to T-19, T-33."""

import msgspec
from contracts_world import World, node_of

from swarmlearning.contracts.closing import explain_wait, wait_ms
from swarmlearning.contracts.membership import training_key
from swarmlearning.contracts.records import PeerState, Phase
from swarmlearning.encoding import encode
from swarmlearning.types import Code, short_name

replace = msgspec.structs.replace
GRACE, LIMIT = 10_000, 100_000
"""Of the world's settings, milliseconds."""


def states(world: World) -> list[PeerState]:
    return [peer.state for peer in world.training.peers]


def wait(world: World, ms: int, ticker: int = 0) -> Code:
    world.now_ms += ms
    return world.say(ticker, world.ticking())


# --- T-12, T-13 -----------------------------------------------------------------------------------------------------


def test_t13_a_round_closes_at_once_when_all_have_checked_in() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    assert world.is_at(Phase.COLLECTING)
    world.check_in(2)
    assert world.is_at(Phase.MERGING)


def test_t13_with_enough_check_ins_it_closes_after_the_grace_period_and_not_before() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0)
    world.now_ms += 5_000
    world.check_in(1)
    assert wait_ms(world.training) == GRACE
    assert wait(world, GRACE - 1) is Code.TOO_EARLY
    assert wait(world, 1) is Code.OK
    assert world.round.participants == (node_of(0), node_of(1))
    assert states(world) == [PeerState.LIVE, PeerState.LIVE, PeerState.PAUSED]


def test_t12_below_min_peers_it_waits_without_end() -> None:
    world = World()
    world.enrol(0, 1, 2, min_peers=3)
    world.check_in(0, 1)
    assert wait_ms(world.training) is None
    assert wait(world, 10 * LIMIT) is Code.TOO_EARLY
    assert world.is_at(Phase.COLLECTING)


def test_t12_those_who_finished_wait_for_one_who_still_trains() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.play_round([0, 1, 2])
    for peer in (1, 2):
        world.must(peer, world.finishing())
    world.check_in(1, 2)
    assert wait(world, GRACE) is Code.TOO_EARLY
    assert "none of them still training; missing: sl0@org0.example" in explain_wait(world.training)


def test_t13_but_not_longer_than_the_time_limit_for_one_that_never_comes() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.play_round([0, 1, 2])
    for peer in (1, 2):
        world.must(peer, world.finishing())
    world.check_in(1, 2)
    assert wait_ms(world.training) == LIMIT
    assert wait(world, LIMIT - 1, ticker=1) is Code.TOO_EARLY
    assert wait(world, 1, ticker=1) is Code.OK
    assert states(world)[0] is PeerState.PAUSED
    assert world.round.closing
    world.finalise()
    assert world.is_at(Phase.COMPLETED)


def test_t13_a_finished_peer_that_died_does_not_keep_the_others_for_ever() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    for peer in (0, 1):
        world.must(peer, world.finishing())
    world.check_in(0)
    assert wait(world, GRACE) is Code.TOO_EARLY
    assert wait(world, LIMIT) is Code.OK
    assert world.is_at(Phase.COMPLETED)
    assert world.training.last is not None


def test_t13_a_paused_peer_gets_the_grace_period_before_the_training_ends_without_it() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    for peer in (0, 1):
        world.must(peer, world.finishing())
    world.check_in(0, 1)
    contributor = next(p for p in (0, 1) if p != world.leader())
    world.must(world.leader(), world.report(0, contributor))
    remaining = 1 - contributor
    world.check_in(remaining)
    assert world.is_at(Phase.COLLECTING)
    assert wait(world, GRACE - 1, remaining) is Code.TOO_EARLY
    assert wait(world, 1, remaining) is Code.OK
    assert world.is_at(Phase.COMPLETED)


def test_t13_when_all_others_left_nobody_is_waited_for() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.must(1, world.leaving())
    world.must(0, world.finishing())
    world.check_in(0)
    assert world.is_at(Phase.COMPLETED)


# --- T-14 -----------------------------------------------------------------------------------------------------------


def test_t14_with_fewer_than_two_that_offer_parameters_a_round_is_void() -> None:
    world = World(checkin_mode="inactive")
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.must(1, world.finishing())
    world.check_in(0, 1)
    training = world.training
    assert (training.voids, training.phase, world.round.number) == (1, Phase.COLLECTING, 2)
    assert "round 1 closed void: 1 of its 2 peers offered parameters" in explain_wait(training)


def test_t14_a_void_closing_round_completes_the_training_with_the_result_before() -> None:
    world = World(checkin_mode="inactive")
    world.enrol(0, 1)
    world.play_round([0, 1])
    before = world.training.last
    for peer in (0, 1):
        world.must(peer, world.finishing())
    world.check_in(0, 1)
    assert world.is_at(Phase.COMPLETED)
    assert world.training.last == before


def test_t14_a_round_of_only_distrusted_peers_is_void_instead_of_trying_for_ever() -> None:
    world = World(witnesses=1)
    world.merging(3)
    liar, *others = world.charged() + [p for p in range(3) if p not in world.charged()]
    world.must(liar, world.commitment(0, b"lie"))
    for peer in others:
        world.must(peer, world.commitment(0))
    assert world.training.distrusted == (node_of(liar),)
    assert world.is_at(Phase.MERGING)
    for peer in others:
        world.store(peer)
    everyone = tuple(sorted(node_of(p) for p in range(3)))
    world.state.put(training_key(world.training.name), encode(replace(world.training, distrusted=everyone)))
    world.check_in(0, 1, 2)
    assert (world.training.voids, world.round.number) == (1, 2)


# --- T-17 to T-19 ---------------------------------------------------------------------------------------------------


def test_t17_a_tick_that_changes_nothing_is_too_early_and_explains() -> None:
    world = World()
    world.enrol(0, 1)
    rejected = world.refusal(0, world.ticking())
    assert rejected.code is Code.TOO_EARLY
    assert "0 of at least 2 peers have checked in" in rejected.log


def test_t17_ticking_at_nothing_is_stale() -> None:
    world = World()
    assert world.say(0, world.ticking()) is Code.STALE
    world.enrol(0, 1)
    assert world.say(0, replace(world.ticking(), run=0)) is Code.STALE
    assert world.say(0, replace(world.ticking(), attempt=-1)) is Code.STALE


def test_t18_block_time_alone_ends_an_attempt_only_past_the_limit() -> None:
    world = World()
    world.merging(3)
    assert wait(world, LIMIT - 1) is Code.TOO_EARLY
    assert wait(world, 1) is Code.OK
    assert world.is_at(Phase.COLLECTING)
    assert (world.round.number, world.round.attempt, world.round.dropped) == (0, 2, ())
    assert "the attempt took longer than 100 s" in explain_wait(world.training)


def test_t18_if_some_have_stored_the_others_are_paused_and_named() -> None:
    world = World()
    world.merging(4)
    world.commit_all()
    world.store(0, 1)
    assert wait(world, LIMIT) is Code.OK
    assert [d.node for d in world.round.dropped] == [node_of(2), node_of(3)]
    assert states(world) == [PeerState.LIVE, PeerState.LIVE, PeerState.PAUSED, PeerState.PAUSED]
    world.check_in(0, 1)
    assert world.is_at(Phase.MERGING)


def test_t19_a_paused_peers_next_accepted_message_makes_it_live() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    wait(world, GRACE)
    assert world.say(2, world.offer(2)) is Code.STALE
    assert states(world)[2] is PeerState.PAUSED
    world.finalise()
    world.check_in(2)
    assert states(world)[2] is PeerState.LIVE


def test_t19_a_finished_peer_that_missed_a_close_is_not_waited_for_again() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.play_round([0, 1, 2])
    world.must(2, world.finishing())
    world.check_in(0, 1)
    wait(world, GRACE)
    world.finalise()
    world.check_in(0, 1)
    assert world.is_at(Phase.MERGING)


# --- T-33 -----------------------------------------------------------------------------------------------------------


def test_t33_says_who_is_missing_in_every_phase() -> None:
    world = World()
    assert explain_wait(world.training) == "nobody has enrolled yet"
    world.enrol(0)
    assert explain_wait(world.training) == "1 of at least 2 peers have enrolled (sl0@org0.example)"
    world.enrol(1, 2)
    world.check_in(0)
    assert explain_wait(world.training).endswith("missing: sl1@org1.example, sl2@org2.example")
    world.check_in(1, 2)
    leader = short_name(node_of(world.leader()))
    assert explain_wait(world.training) == f"0 of 1 shards are merged; to be merged by {leader}"
    world.commit_all()
    world.store(1)
    text = "merged; stored by 1 of 3 participants; to be stored by sl0@org0.example, sl2@org2.example"
    assert explain_wait(world.training) == text
    world.store(0)
    world.complete([0, 1, 2])
    assert explain_wait(world.training) == "the training is complete"


def test_t33_names_paused_peers_that_are_needed() -> None:
    world = World()
    world.merging(2)
    other = 1 - world.leader()
    world.must(world.leader(), world.report(0, other))
    text = explain_wait(world.training)
    assert f"{short_name(node_of(other))} (paused)" in text
    assert "was dropped (unreachable)" in text


def test_t33_a_setback_is_forgotten_once_the_round_merges() -> None:
    world = World()
    world.merging(3)
    wait(world, LIMIT)
    assert world.round.setback
    world.check_in(0, 1, 2)
    assert not world.round.setback


# --- whom a round waits for, and for how long -------------------------------------------------------------------------


def test_t13_the_longest_grace_period_that_a_peer_wants_counts() -> None:
    world = World()
    for peer, wish in enumerate((None, 3 * GRACE, 1)):
        world.must(peer, world.enrolment(grace_ms=wish))
    world.check_in(0, 1)
    assert wait_ms(world.training) == 3 * GRACE
    assert wait(world, 3 * GRACE - 1) is Code.TOO_EARLY
    world.must(1, world.leaving())
    world.must(2, world.offer(2))
    assert world.is_at(Phase.MERGING)


def test_t13_a_shorter_grace_period_counts_where_all_want_it() -> None:
    world = World()
    for peer in range(3):
        world.must(peer, world.enrolment(grace_ms=500))
    world.check_in(0, 1)
    assert wait(world, 500) is Code.OK
    assert world.is_at(Phase.MERGING)


def test_t2_a_wish_for_a_grace_period_has_limits() -> None:
    world = World()
    assert world.say(0, world.enrolment(grace_ms=-1)) is Code.MALFORMED
    assert world.say(0, world.enrolment(grace_ms=86_400_001)) is Code.MALFORMED


def paused_while_two_finish() -> World:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    wait(world, GRACE)
    world.finalise()
    assert states(world)[2] is PeerState.PAUSED
    for peer in (0, 1):
        world.must(peer, world.finishing())
        world.must(peer, world.offer(peer))
    return world


def test_t19_a_paused_peer_that_still_trains_says_so_before_the_last_round_closes() -> None:
    """Once the others were done without it as soon as they had finished, though it was only slow."""
    world = paused_while_two_finish()
    assert world.is_at(Phase.COLLECTING)
    world.must(2, world.here())
    assert states(world)[2] is PeerState.LIVE
    assert wait(world, GRACE) is Code.TOO_EARLY
    world.must(2, world.offer(2))
    assert not world.round.closing


def test_t13_the_last_round_waits_the_grace_period_for_a_paused_peer_and_no_longer() -> None:
    world = paused_while_two_finish()
    assert wait(world, GRACE - 1) is Code.TOO_EARLY
    assert wait(world, 1) is Code.OK
    assert world.round.closing


def test_t19_a_stranger_says_nothing_by_being_there() -> None:
    world = World()
    world.enrol(0, 1)
    assert world.say(5, world.here()) is Code.NOT_ALLOWED


# --- T-22: who declines to lead ---------------------------------------------------------------------------------------


def test_t22_a_peer_that_declines_to_lead_never_leads_nor_witnesses() -> None:
    world = World(witnesses=2, topology="sharded")
    for peer in range(4):
        world.must(peer, world.enrolment(leads=peer != 1))
    for _ in range(4):
        world.check_in(*range(4))
        charged = {p for shard in range(world.round.shards) for p in world.charged(shard)}
        assert charged == {0, 2, 3}
        world.finalise()


def test_t14_a_round_that_nobody_may_lead_is_void() -> None:
    world = World()
    for peer in range(2):
        world.must(peer, world.enrolment(leads=False))
    world.check_in(0, 1)
    assert world.training.voids == 1
    assert "declined to lead" in world.round.setback
