"""Whole trainings on virtual time, without faults. Spec: docs/spec/round.md."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace
from sim_checks import carried_over, check_run, final_rounds
from sim_faults import Fault, Planned
from sim_loop import START_MS
from sim_programs import Program
from sim_swarm import SETTINGS, SwarmSimulator
from sim_wide import wide

from swarmlearning.contracts.records import PeerState
from swarmlearning.sl.exchange import ChunkRequest


@pytest.mark.parametrize("peers", [2, 3, 4, 7])
def test_all_peers_end_with_one_model(tmp_path: Path, peers: int) -> None:
    swarm = SwarmSimulator(peers, tmp_path, [Program()] * peers).run()
    check_run(swarm, finishing=set(range(peers)))
    assert swarm.last.last is not None
    assert swarm.last.last.round == 3  # three syncs, and the round that finishing closes


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    tips = [SwarmSimulator(11, tmp_path / name, [Program()] * 3).run().tip for name in ("a", "b")]
    other = SwarmSimulator(12, tmp_path / "c", [Program()] * 3).run().tip
    assert tips[0] == tips[1] != other


def test_a_round_takes_little_more_than_its_messages(tmp_path: Path) -> None:
    """No sleep or poll stands in the way of a round: with no training between syncs it takes tenths of a second."""
    swarm = SwarmSimulator(5, tmp_path, [Program(syncs=10, pace_s=0.0)] * 4).run()
    check_run(swarm, finishing={0, 1, 2, 3})
    assert swarm.finished_s < 11 * 0.4  # some 14 messages of 1-20 ms each way follow one another


def test_nothing_is_told_to_the_ledger_twice(tmp_path: Path) -> None:
    """R-3: what shows in the record, or is on its way there, is not done again."""
    settings = replace(SETTINGS, topology="sharded", witnesses=1)
    swarm = SwarmSimulator(19, tmp_path, [Program()] * 4, settings=settings, size=5 * 16384).run()
    check_run(swarm, finishing={0, 1, 2, 3})
    kinds = Counter(type(message).__name__ for _, message in swarm.faults.sent)
    # Four peers and four rounds; each of four shards has a leader and a witness.
    assert kinds["CheckIn"] == 4 * 4
    assert kinds["MergeCommit"] == 4 * 4 * 2
    assert 3 * 4 <= kinds["Stored"] <= 4 * 4
    assert (kinds["RegisterNode"], kinds["Enrol"], kinds["Finish"]) == (4, 4, 4)
    assert sum(kinds.values()) == sum(kinds[k] for k in ("CheckIn", "MergeCommit", "Stored")) + 12


def test_weights_count(tmp_path: Path) -> None:
    swarm = SwarmSimulator(6, tmp_path, [Program(weight=1), Program(weight=50), Program(weight=7)]).run()
    check_run(swarm, finishing={0, 1, 2})


def test_rounds_with_the_same_result_are_each_answered(tmp_path: Path) -> None:
    """R-7: a sync is answered by its own round, also where that changed nothing."""
    swarm = SwarmSimulator(7, tmp_path, [Program(syncs=4, still=True)] * 3).run()
    check_run(swarm, finishing={0, 1, 2})
    digests = {result.sha256 for _, result in final_rounds(swarm)}
    assert len(digests) == 1
    assert [o.round for o in swarm.ended[0].synced] == [0, 1, 2, 3]


def test_a_round_closes_without_a_peer_that_never_comes(tmp_path: Path) -> None:
    programs = [Program(min_peers=2), Program(min_peers=2), None]
    swarm = SwarmSimulator(8, tmp_path, programs).run()
    check_run(swarm, finishing={0, 1})


def test_a_round_waits_for_min_peers_and_says_so(tmp_path: Path) -> None:
    swarm = SwarmSimulator(9, tmp_path, [Program(min_peers=3), Program(min_peers=3), None], limit_s=60)
    with pytest.raises(AssertionError, match="2 of at least 3 peers have enrolled"):
        swarm.run()


def test_a_grace_period_of_minutes_takes_minutes(tmp_path: Path) -> None:
    """R-6: in a silent network block time counts a gap as a minute at most, so somebody must keep it going."""
    programs = [Program(min_peers=2, syncs=1)] * 2 + [Program(min_peers=2, syncs=1, pace_s=2_000)]
    settings = replace(SETTINGS, grace_ms=180_000, round_max_ms=600_000, checkin_mode="active")
    swarm = SwarmSimulator(20, tmp_path, programs, settings=settings, limit_s=10_000).run()
    check_run(swarm, finishing={0, 1, 2})
    _, first = final_rounds(swarm)[0]
    assert 180 <= (first.time_ms - START_MS) / 1000 < 190


def test_a_late_peer_starts_from_the_newest_result(tmp_path: Path) -> None:
    programs = [Program(syncs=8, min_peers=2)] * 2 + [Program(syncs=3, min_peers=2, delay_s=4.0)]
    swarm = SwarmSimulator(10, tmp_path, programs).run()
    check_run(swarm, finishing={0, 1, 2})
    peer = swarm.last.peers[2]
    assert peer.enrolled_round > 0
    assert peer.rounds_contributed > 0


SLOW = [Program(syncs=14, min_peers=2, batch_s=1.0)] * 3 + [Program(syncs=3, min_peers=2, batch_s=5.0)]


def test_what_a_slow_peer_trained_while_it_missed_rounds_is_merged_once(tmp_path: Path) -> None:
    """R-17."""
    swarm = SwarmSimulator(11, tmp_path, SLOW, settings=replace(SETTINGS, grace_ms=500)).run()
    check_run(swarm, finishing={0, 1, 2, 3})
    answered = [outcome.round for outcome in swarm.ended[3].synced]
    assert answered != list(range(len(answered)))  # it skipped some
    assert any(PeerState.PAUSED is record.peers[3].state for record in swarm.history if len(record.peers) == 4)
    late = [number for number, index in carried_over(swarm) if index == 3]
    assert late
    # The sync is answered by the very round that it was offered in.
    assert set(late) <= set(answered)


def test_a_swarm_that_runs_ahead_once_more_is_caught_up_with_again(tmp_path: Path) -> None:
    """R-17: a round becomes final while what was trained is carried over; it is carried over to that one too."""
    faults = [Planned(fault=Fault.DELAY, chance=0.5, at_s=4.0, until_s=10.0, only=frozenset({3}))]
    programs = [Program(syncs=60, min_peers=2, batch_s=0.3)] * 3 + [Program(syncs=2, min_peers=2, batch_s=6.0)]
    settings = replace(SETTINGS, grace_ms=200)
    runs = []
    for seed in range(4, 24):  # which of them hits the moment changes with every byte on the ledger
        swarm = SwarmSimulator(seed, tmp_path, programs, settings=settings, faults=faults).run()
        check_run(swarm, finishing={0, 1, 2, 3})
        assert swarm.fired[Fault.DELAY] > 0
        runs.append((len(swarm.rebased[3]), [index for _, index in carried_over(swarm)]))
        if runs[-1][0] > 1 and runs[-1][1] == [3]:
            return
    raise AssertionError(f"none of the seeds carried it over more than once: {runs}")


def test_a_void_round_keeps_what_was_carried_over(tmp_path: Path) -> None:
    """R-8, R-17: the program keeps its own parameters and what they build on; its next sync carries both intervals."""
    programs = [Program(syncs=2, min_peers=2, batch_s=1.0)] * 2 + [Program(syncs=3, min_peers=2, batch_s=3.2)]
    settings = replace(SETTINGS, grace_ms=1_500, checkin_mode="inactive")
    swarm = SwarmSimulator(4, tmp_path, programs, settings=settings).run()
    check_run(swarm, finishing={0, 1, 2})
    assert [outcome.kind for outcome in swarm.ended[2].synced] == ["synced", "void", "void"]
    assert len(swarm.rebased[2]) == 2
    assert [asked.adopted for asked in swarm.asked[2]] == [-1, 0, 0]


@pytest.mark.parametrize(
    "program",
    wide(
        [
            Program(leave_at=0),
            Program(leave_at=1),
            Program(die_at=0, die_after_s=0.001),
            Program(die_at=1, die_after_s=0.05),
            Program(die_at=1, die_after_s=0.15, pace_s=1.4),
            Program(die_at=1, die_after_s=0.2, pace_s=1.4),
            Program(die_at=1, die_after_s=0.25, pace_s=1.4),
            Program(die_at=1, die_after_s=0.3, pace_s=1.4),
            Program(die_at=1, die_after_s=0.4, pace_s=1.4),
        ],
        keep=(1, 3, 5),
    ),
)
@pytest.mark.parametrize("topology", ["leader", "sharded"])
def test_a_peer_may_leave_at_any_time(tmp_path: Path, program: Program, topology: str) -> None:
    stays = Program(min_peers=2)
    settings = replace(SETTINGS, topology=topology)
    swarm = SwarmSimulator(
        13, tmp_path, [stays, stays, dataclasses.replace(program, min_peers=2)], settings=settings, size=40_000
    ).run()
    check_run(swarm, finishing={0, 1})
    assert swarm.ended[2].left
    assert swarm.last.peers[2].state is PeerState.LEFT


@pytest.mark.parametrize("witnesses", [0, 1])
def test_shards_are_dealt_to_all(tmp_path: Path, witnesses: int) -> None:
    settings = replace(SETTINGS, topology="sharded", witnesses=witnesses)
    swarm = SwarmSimulator(14, tmp_path, [Program(syncs=2)] * 4, settings=settings, size=5 * 16384 + 11).run()
    check_run(swarm, finishing={0, 1, 2, 3})
    for before, result in final_rounds(swarm):
        assert len(result.roots) == 4
        assert before.round is not None
        assert len(set(before.round.leaders)) == 4
    asked = {(r.round, r.shard, caller) for _, caller, r in swarm.served if isinstance(r, ChunkRequest)}
    # E-2: of its contributors' chunks nobody receives more than its own shards.
    assert all(sum(1 for rnd, _, who in asked if (rnd, who) == (r, c)) <= 1 + witnesses for r, _, c in asked)


@pytest.mark.parametrize("start", ["draw", "merge"])
def test_round_0_draws_or_merges(tmp_path: Path, start: str) -> None:
    swarm = SwarmSimulator(15, tmp_path, [Program()] * 3, settings=replace(SETTINGS, start=start)).run()
    check_run(swarm, finishing={0, 1, 2})
    _, first = final_rounds(swarm)[0]
    assert first.round == 0
    assert len(first.contributors) == (1 if start == "draw" else 3)


def test_a_restored_checkpoint_is_not_drawn(tmp_path: Path) -> None:
    settings = replace(SETTINGS, start="draw")
    for seed in range(4):
        programs = [Program(restored=True, syncs=1), Program(restored=True, syncs=1), Program(syncs=1)]
        swarm = SwarmSimulator(seed, tmp_path, programs, settings=settings).run()
        check_run(swarm, finishing={0, 1, 2})
        assert final_rounds(swarm)[0][1].contributors == (swarm.node(2),)


@pytest.mark.parametrize("mode", ["snapshot", "inactive", "active"])
def test_a_peer_that_finishes_early_goes_on_as_its_mode_says(tmp_path: Path, mode: str) -> None:
    """R-13: snapshot offers the last local parameters, active the last merged, inactive none."""
    programs = [Program(syncs=6), Program(syncs=6), Program(syncs=2)]
    swarm = SwarmSimulator(16, tmp_path, programs, settings=replace(SETTINGS, checkin_mode=mode)).run()
    check_run(swarm, finishing={0, 1, 2})
    expected = {"snapshot": "snapshot", "inactive": "inactive", "active": "last"}[mode]
    late = [before.round for before, result in final_rounds(swarm) if result.round in (3, 4, 5)]
    modes = {c.mode for r in late if r is not None for c in r.checkins if c.node == swarm.node(2)}
    assert modes == {expected}
    contributed = [swarm.node(2) in result.contributors for _, result in final_rounds(swarm) if result.round > 2]
    assert all(contributed) is (mode != "inactive")


def test_a_void_round_leaves_the_program_its_own(tmp_path: Path) -> None:
    """R-8: two finished peers offer nothing, so the one that still trains is alone: no parameters travel."""
    programs = [Program(syncs=4), Program(syncs=1), Program(syncs=1)]
    swarm = SwarmSimulator(17, tmp_path, programs, settings=replace(SETTINGS, checkin_mode="inactive")).run()
    check_run(swarm, finishing={0, 1, 2})
    assert swarm.last.voids > 0
    assert [outcome.kind for outcome in swarm.ended[0].synced] == ["synced", "void", "void", "void"]


def share_of(swarm: SwarmSimulator, index: int) -> float:
    """Of how many of the rounds that became final while it was enrolled a peer's parameters are in."""
    peer = swarm.last.peers[index]
    return peer.rounds_contributed / peer.rounds_offered


PACED = replace(SETTINGS, sync_frequency=10, grace_ms=500, checkin_mode="inactive")


def test_a_peer_three_times_as_slow_contributes_to_four_of_five_rounds(tmp_path: Path) -> None:
    """R-20: it trains fewer batches, and arrives before the others go on without it."""
    programs = [Program(syncs=30, min_peers=2, batch_s=0.1)] * 3 + [Program(syncs=30, min_peers=2, batch_s=0.3)]
    swarm = SwarmSimulator(21, tmp_path, programs, settings=PACED).run()
    check_run(swarm, finishing={0, 1, 2, 3})
    assert share_of(swarm, 3) >= 0.8
    intervals = [outcome.next_interval for outcome in swarm.ended[3].synced]
    assert 1 < intervals[-2] < 10
    # Nobody else is slowed down or shortened.
    assert {o.next_interval for index in range(3) for o in swarm.ended[index].synced} == {10}
    assert all(share_of(swarm, index) > 0.95 for index in range(3))


def test_a_peer_that_the_rounds_cannot_close_without_is_not_paced(tmp_path: Path) -> None:
    """R-20: the others wait for it, so it may train as much as agreed."""
    programs = [Program(syncs=6, min_peers=3, batch_s=0.1)] * 2 + [Program(syncs=6, min_peers=3, batch_s=0.3)]
    swarm = SwarmSimulator(22, tmp_path, programs, settings=PACED).run()
    check_run(swarm, finishing={0, 1, 2})
    assert {o.next_interval for ended in swarm.ended.values() for o in ended.synced} == {10}
    assert share_of(swarm, 2) == 1.0
