"""The merging phase, with honest and dishonest peers: docs/spec/training.md, T-20 to T-25, T-30 to T-34, T-40, T-41."""

import itertools

import msgspec
import pytest
from contracts_world import CONTRACT, Honest, World, index_of, name_of, node_of, others

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.draw import MAX_SHARDS, SHARD_MIN_BYTES, count_shards, draw_order, draw_seed
from swarmlearning.contracts.records import PeerState, Phase
from swarmlearning.encoding import sha256
from swarmlearning.types import Code, Role

replace = msgspec.structs.replace


# --- T-20 to T-22, T-40, T-41: attempts and draws ---------------------------------------------------------------------


def test_t20_participants_contributors_and_shards_are_fixed_at_the_close() -> None:
    world = World(topology="sharded")
    world.merging(4)
    round_ = world.round
    everyone = tuple(node_of(i) for i in range(4))
    assert (round_.participants, round_.contributors, round_.shards, round_.attempt) == (everyone, everyone, 4, 1)
    assert set(round_.leaders) == set(everyone)


def test_t20_inactive_peers_take_part_but_do_not_contribute() -> None:
    world = World(checkin_mode="inactive")
    world.enrol(0, 1, 2)
    world.play_round([0, 1, 2])
    world.must(2, world.finishing())
    world.check_in(0, 1, 2)
    assert world.round.participants == tuple(node_of(i) for i in range(3))
    assert world.round.contributors == (node_of(0), node_of(1))


def test_t21_round_0_adopts_one_participants_parameters_and_it_leads() -> None:
    world = World(start="draw", topology="sharded")
    world.merging(3)
    assert len(world.round.contributors) == 1
    assert world.round.leaders == world.round.contributors
    world.finalise()
    world.check_in(0, 1, 2)
    assert len(world.round.contributors) == 3


def test_t21_a_private_checkpoint_is_not_drawn_unless_all_have_one() -> None:
    for restored, expected in (([0, 2], {1}), ([0, 1, 2], {0, 1, 2})):
        drawn = set()
        for blocks in range(12):
            world = World(start="draw")
            world.height += blocks
            for peer in range(3):
                world.must(peer, world.enrolment(restored=peer in restored))
            world.check_in(0, 1, 2)
            drawn.add(index_of(world.round.contributors[0]))
        assert drawn == expected


def test_t21_another_participant_is_drawn_when_the_first_cannot_be_reached() -> None:
    world = World(start="draw")
    world.merging(4)
    drawn = world.round.contributors[0]
    driver = Honest(world, [p for p in range(4) if node_of(p) != drawn])
    for _ in range(30):
        if world.training.last is None:
            driver.step()
    last = world.training.last
    assert last is not None
    assert [d.node for d in last.dropped] == [drawn]
    assert last.contributors != (drawn,)


@pytest.mark.parametrize("blocks", range(6))
def test_t22_whoever_stays_in_charge_keeps_its_work(blocks: int) -> None:
    world = World(topology="sharded", witnesses=1)
    world.height += blocks
    world.merging(5)
    before = world.round
    world.must(index_of(before.leaders[1]), world.commitment(1))
    accuser = world.leader(0)
    world.must(accuser, world.report(0, others(world, accuser)[0]))
    after = world.round
    for shard in range(5):
        stays = [n for n in (before.leaders[shard], *before.witnesses[shard]) if n != node_of(accuser)]
        assert after.leaders[shard] == stays[0]
        assert set(stays) <= {after.leaders[shard], *after.witnesses[shard]}
        assert len({after.leaders[shard], *after.witnesses[shard]}) == 2
    kept = [c for c in after.commits if c.shard == 1]
    assert bool(kept) == (before.leaders[1] != node_of(accuser))


def test_t40_draws_depend_on_block_round_and_attempt_but_not_on_order() -> None:
    world = World()
    world.merging(3)
    seeds = {
        draw_seed(world.training, world.round, 1, bytes(32)),
        draw_seed(world.training, world.round, 2, bytes(32)),
        draw_seed(world.training, world.round, 1, b"x" * 32),
        draw_seed(replace(world.training, run=2), world.round, 1, bytes(32)),
        draw_seed(world.training, replace(world.round, number=1), 1, bytes(32)),
    }
    assert len(seeds) == 5
    nodes = [node_of(i) for i in range(5)]
    orders = {tuple(draw_order(bytes(32), p)) for p in itertools.permutations(nodes)}
    assert len(orders) == 1
    commitments = b"".join(sorted(c.commitment for c in world.round.checkins))
    expected = sha256(bytes(32), CONTRACT.encode() + b"\x001\x000\x001\x00", commitments)
    assert draw_seed(world.training, world.round, 1, bytes(32)) == expected


def test_t41_small_models_and_small_rounds_have_one_leader() -> None:
    large = SHARD_MIN_BYTES
    assert count_shards("auto", large - 1, 5, 5) == 1
    assert count_shards("auto", large, 5, 5) == 5
    assert count_shards("auto", large, 2, 2) == 1
    assert count_shards("leader", large, 5, 5) == 1
    assert count_shards("sharded", 65536 * 2, 5, 5) == 2
    assert count_shards("sharded", 0, 5, 5) == 1
    assert count_shards("sharded", large, 5, 1) == 1
    assert count_shards("sharded", large, 40, 40) == MAX_SHARDS


# --- T-23: collecting again -------------------------------------------------------------------------------------------


def test_t23_collecting_again_keeps_the_number_and_adopts_nothing() -> None:
    world = World()
    world.merging(2)
    other = 1 - world.leader()
    world.must(world.leader(), world.report(0, other))
    assert (world.phase, world.round.number, world.round.attempt) == (Phase.COLLECTING, 0, 2)
    assert world.round.checkins == ()
    assert world.training.last is None
    assert world.training.peers[other].state is PeerState.PAUSED


def test_t23_who_was_dropped_and_checks_in_anew_leads_and_contributes_like_everybody() -> None:
    """Once a dropped peer stayed barred for good: after two setbacks nobody could lead, and the round never ended."""
    world = World()
    world.merging(2)
    for _ in range(6):
        leader = world.leader()
        world.must(leader, world.report(0, 1 - leader))
        world.check_in(0, 1)
        assert world.is_at(Phase.MERGING)
        assert world.round.dropped == ()
    world.finalise()
    assert world.training.last is not None
    assert world.training.last.dropped == ()


def test_t23_what_was_dropped_does_not_pile_up() -> None:
    world = World(round_max_ms=1000)
    world.merging(3)
    for _ in range(20):
        world.commit_all()
        world.store(0)
        world.now_ms += 1000
        world.must(0, world.ticking())
        assert [d.node for d in world.round.dropped] == [node_of(1), node_of(2)]
        world.check_in(1, 2, 0)


# --- T-24, T-25: commits and witnesses --------------------------------------------------------------------------------


def test_t24_only_leader_and_witnesses_commit() -> None:
    world = World(witnesses=1)
    world.merging(4)
    for peer in others(world, *world.charged()):
        assert world.say(peer, world.commitment(0)) is Code.NOT_ALLOWED
    rejected = world.send(name_of(0, Role.OPERATOR), world.commitment(0))
    assert rejected is not None
    assert rejected.code is Code.NOT_ALLOWED


@pytest.mark.parametrize("shard", [-1, 1, 1 << 40])
def test_t24_a_shard_that_does_not_exist_is_refused(shard: int) -> None:
    world = World()
    world.merging(3)
    leader = world.leader()
    messages = [
        replace(world.commitment(0), shard=shard),
        replace(world.report(0, others(world, leader)[0]), shard=shard),
        *([replace(world.suspicion(0, node_of(others(world, leader)[0])), shard=shard)] if shard != STORING else []),
    ]
    for message in messages:
        assert world.say(leader, message) is Code.MALFORMED  # type: ignore[arg-type]


@pytest.mark.parametrize("root", [b"", b"x" * 31, b"x" * 33, b"x" * 60_000])
def test_t24_a_root_has_32_bytes(root: bytes) -> None:
    world = World()
    world.merging(2)
    assert world.say(world.leader(), replace(world.commitment(0), root=root)) is Code.MALFORMED


def test_t24_nobody_commits_two_roots() -> None:
    world = World(witnesses=1)
    world.merging(3)
    leader = world.leader()
    world.must(leader, world.commitment(0))
    version = world.training.version
    world.must(leader, world.commitment(0))
    assert world.training.version == version
    assert world.say(leader, world.commitment(0, b"other")) is Code.CONFLICT


def test_t25_without_witnesses_the_leaders_word_counts() -> None:
    world = World()
    world.merging(3)
    world.must(world.leader(), world.commitment(0))
    assert world.round.merged == (world.true_root(0),)


def test_t25_with_witnesses_a_shard_counts_when_all_agree() -> None:
    world = World(witnesses=2)
    world.merging(4)
    first, second, third = world.charged()
    for peer in (third, first):
        world.must(peer, world.commitment(0))
        assert world.round.merged == (b"",)
    world.must(second, world.commitment(0))
    assert world.round.merged == (world.true_root(0),)


@pytest.mark.parametrize("liar", [0, 1])
def test_t25_a_lying_leader_or_witness_is_outvoted_and_leads_no_more(liar: int) -> None:
    world = World(witnesses=1)
    world.merging(4)
    charged = world.charged()
    for position, peer in enumerate(charged):
        world.must(peer, world.commitment(0, b"lie" if position == liar else b""))
    third = world.charged()[2]
    assert (world.round.merged, world.training.distrusted, world.round.attempt) == ((b"",), (), 1)
    world.must(third, world.commitment(0))
    assert world.round.merged == (world.true_root(0),)
    assert world.training.distrusted == (node_of(charged[liar]),)
    for _ in range(8):
        world.finalise()
        world.check_in(0, 1, 2, 3)
        assert charged[liar] not in world.charged()


def test_t25_who_contradicts_an_agreement_afterwards_is_found_out_too() -> None:
    world = World(witnesses=1)
    world.merging(5)
    first, second = world.charged()
    world.must(first, world.commitment(0, b"a"))
    world.must(second, world.commitment(0, b"b"))
    third = world.charged()[2]
    world.must(third, world.commitment(0, b"c"))
    fourth = world.charged()[3]
    world.must(fourth, world.commitment(0, b"a"))
    assert world.training.distrusted == tuple(sorted([node_of(second), node_of(third)]))


def test_t25_between_two_nobody_is_convicted() -> None:
    world = World(witnesses=1)
    world.merging(2)
    first, second = world.charged()
    world.must(first, world.commitment(0, b"lie"))
    world.must(second, world.commitment(0))
    assert world.is_at(Phase.COLLECTING)
    assert world.training.distrusted == ()
    assert "nobody can decide" in world.round.setback


def test_t25_a_leaders_word_alone_convicts_nobody() -> None:
    world = World(witnesses=0)
    world.merging(4)
    liar = world.leader()
    world.must(liar, world.commitment(0, b"lie"))
    for peer in others(world, liar)[:2]:
        world.must(peer, world.suspicion(0, node_of(liar)))
    world.must(world.leader(), world.commitment(0))
    assert world.round.merged == (world.true_root(0),)
    assert world.training.distrusted == ()


def test_t25_one_word_against_another_convicts_nobody_either() -> None:
    world = World(witnesses=0)
    world.merging(5)
    liar = world.leader()
    world.must(liar, world.commitment(0, b"lie"))
    holder, *rest = others(world, liar)
    world.store(holder)
    for peer in rest:
        world.must(peer, world.suspicion(0, node_of(liar)))
    assert world.leader() == holder
    world.must(holder, world.commitment(0))
    assert world.training.distrusted == ()


# --- T-30 to T-32: finality -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "needed"), [(2, 2), (3, 2), (4, 3), (5, 3)])
def test_t30_a_round_is_final_when_a_majority_has_stored_it(n: int, needed: int) -> None:
    world = World()
    world.merging(n)
    world.commit_all()
    for count, peer in enumerate(range(needed), 1):
        assert world.training.last is None, count
        world.store(peer)
    assert world.training.last is not None
    assert world.training.last.holders == tuple(node_of(p) for p in range(needed))


def test_t30_one_peer_counts_once() -> None:
    world = World()
    world.merging(3)
    world.commit_all()
    world.store(0, 0, 0)
    assert world.training.last is None


def test_t30_only_participants_store_and_only_what_was_agreed_on() -> None:
    world = World()
    world.merging(3)
    assert world.say(0, world.storing()) is Code.TOO_EARLY
    world.commit_all()
    world.enrol(4)
    assert world.say(4, world.storing()) is Code.NOT_ALLOWED
    assert world.say(0, replace(world.storing(), result_root=b"x" * 32)) is Code.CONFLICT
    assert world.say(0, replace(world.storing(), sha256=b"x" * 31)) is Code.CONFLICT
    world.store(0)
    assert world.say(0, world.storing(b"other")) is Code.CONFLICT


def test_t30_a_liar_about_the_hash_does_not_hold_the_result() -> None:
    world = World()
    world.merging(3)
    world.commit_all()
    world.must(0, world.storing(b"lie"))
    world.store(1, 2)
    assert world.training.last is not None
    assert world.training.last.holders == (node_of(1), node_of(2))


def test_t30_where_no_hash_can_win_it_collects_again_instead_of_waiting() -> None:
    """Once two that stored different hashes waited for each other until the time limit."""
    world = World()
    world.merging(2)
    world.commit_all()
    world.must(0, world.storing(b"lie"))
    world.must(1, world.storing())
    assert world.is_at(Phase.COLLECTING)
    assert "different hashes" in world.round.setback


def test_t31_finality_folds_the_round_into_one_record() -> None:
    world = World(topology="sharded")
    world.merging(3)
    round_ = world.round
    roots = tuple(world.true_root(s) for s in range(3))
    world.finalise()
    last = world.training.last
    assert last is not None
    assert (last.round, last.roots, last.attempts, last.height) == (0, roots, 1, world.height)
    assert (last.participants, last.contributors) == (round_.participants, round_.contributors)
    assert world.round == type(world.round)(number=1, attempt=0, opened_ms=world.now_ms, quorum_ms=None)
    assert [(p.rounds_offered, p.rounds_contributed) for p in world.training.peers] == [(1, 1)] * 3


def test_t31_after_finality_there_is_no_other_attempt() -> None:
    world = World()
    world.merging(3)
    world.commit_all()
    late = world.storing()
    again = world.suspicion(0, world.round.leaders[0])
    world.store(0, 1)
    final = world.training.last
    for peer in range(3):
        assert world.say(peer, late) is Code.STALE
        assert world.say(peer, again) is Code.STALE
    assert world.training.last == final


def test_t32_who_enrols_during_the_closing_round_keeps_the_training_open() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    for peer in (0, 1):
        world.must(peer, world.finishing())
    world.check_in(0, 1)
    assert world.round.closing
    world.enrol(2)
    world.finalise()
    assert world.is_at(Phase.COLLECTING)
    assert world.training.last is not None
    assert world.training.last.round == 1


# --- T-34: rounds end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("witnesses", [0, 2])
def test_t34_with_every_peer_accusing_a_round_still_ends_within_2n_attempts(n: int, witnesses: int) -> None:
    world = World(topology="sharded", witnesses=witnesses)
    world.merging(n)
    first, turn = world.round.attempt, 0
    while world.is_at(Phase.MERGING):
        assert world.round.attempt - first < 2 * n
        turn += 1
        shard = turn % world.round.shards
        accuser = world.charged(shard)[turn % len(world.charged(shard))]
        victims = [p for p in map(index_of, world.round.contributors) if p != accuser]
        world.must(accuser, world.report(shard, victims[turn % len(victims)]))
    assert world.training.last is None


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_t34_with_every_leader_silent_a_round_still_ends_within_2n_attempts(n: int) -> None:
    world = World(topology="sharded")
    world.merging(n)
    first = world.round.attempt
    while world.is_at(Phase.MERGING):
        assert world.round.attempt - first < 2 * n
        silent = world.round.leaders[0]
        attempt = world.round.attempt
        for peer in others(world, index_of(silent)):
            if world.is_at(Phase.MERGING) and world.round.attempt == attempt:
                world.must(peer, world.suspicion(0, silent))
    assert "no participant was left that could lead" in world.round.setback


@pytest.mark.parametrize("witnesses", [0, 1, 2])
def test_t34_a_third_that_is_silent_does_not_stop_the_others(witnesses: int) -> None:
    world = World(topology="sharded", witnesses=witnesses)
    world.merging(6)
    driver = Honest(world, [0, 1, 2, 3])
    while world.training.last is None:
        driver.step()
        assert driver.steps < 60
    assert world.training.last.attempts <= 12
    assert {d.node for d in world.training.last.dropped} == {node_of(4), node_of(5)}
