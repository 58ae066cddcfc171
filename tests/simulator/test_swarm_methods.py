"""Trainings whose merge method needs more than a shard: distances, measured first, or results of the past.

Spec: docs/spec/round.md, R-24 to R-26; docs/spec/training.md, T-42.
"""

import logging
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace
from sim_checks import check_run, final_rounds
from sim_faults import Fault, Planned
from sim_programs import Program
from sim_swarm import SETTINGS, SwarmSimulator
from sim_wide import wide
from test_swarm_faults import SIZE, run_with

from swarmlearning.contracts.messages import Measure, MergeCommit
from swarmlearning.contracts.records import Settings, Training
from swarmlearning.sl.exchange import ChunkRequest
from swarmlearning.sl.methods import complete
from swarmlearning.types import NodeId

ALL = {0, 1, 2, 3}
GEOMEDIAN = complete(replace(SETTINGS, merge_method="geomedian"))
SHARDED = replace(GEOMEDIAN, topology="sharded")
KRUM = complete(replace(SETTINGS, merge_method="multi_krum", topology="sharded"))
FEDAVGM = complete(replace(SETTINGS, merge_method="fedavgm"))


def loose(syncs: int) -> Program:
    """Programs that two are enough for."""
    return Program(min_peers=2, syncs=syncs)


def measured(swarm: SwarmSimulator) -> list[Training]:
    """The last record of each final round before it was final, of rounds that were measured."""
    return [before for before, _ in final_rounds(swarm) if before.round is not None and before.round.distances]


# --- distances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    wide([SHARDED, replace(GEOMEDIAN, start="draw"), GEOMEDIAN, replace(SHARDED, witnesses=0), KRUM], keep=(0, 1)),
)
def test_every_round_is_measured_and_merged_by_the_weights_that_follow(tmp_path: Path, settings: Settings) -> None:
    """R-24, R-25: `check_run` recomputes distances, weights and result from whole models."""
    swarm = SwarmSimulator(1, tmp_path, [Program(weight=1 + i) for i in range(4)], settings=settings, size=SIZE).run()
    check_run(swarm, finishing=ALL)
    rounds = final_rounds(swarm)
    assert len(measured(swarm)) == len(rounds) - (settings.start == "draw")
    assert all(result.attempts == 1 for _, result in rounds)


def test_what_was_pulled_to_measure_is_not_pulled_again_to_merge(tmp_path: Path) -> None:
    """R-24."""
    swarm = SwarmSimulator(2, tmp_path, [Program()] * 4, settings=SHARDED, size=SIZE).run()
    check_run(swarm, finishing=ALL)
    frames: Counter[tuple[NodeId, NodeId, int, int]] = Counter()
    for (server, caller, request), count in swarm.served.items():
        if isinstance(request, ChunkRequest):
            frames[server, caller, request.round, request.shard] += count
    assert set(frames.values()) == {2}, "one of leaves, one of the shard's two chunks"


def test_who_got_which_share_of_the_weight_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-25: one line a round for each SL's operator."""
    caplog.set_level(logging.INFO, "swarmlearning.sl")
    swarm = SwarmSimulator(3, tmp_path, [Program()] * 4, settings=GEOMEDIAN).run()
    told = [record.getMessage() for record in caplog.records if " of the weight" in record.getMessage()]
    assert len(told) == 4 * len(measured(swarm))
    assert all(line.split(": ")[1].startswith("geomedian gave sl@org0") for line in told)
    assert len(set(told)) == len(measured(swarm)), "all SLs come to the same shares"


@pytest.mark.parametrize("fault", [Fault.DEAD_MEASURER, Fault.DEAD_MEASURER_AFTER, Fault.DEAD_LEADER])
@pytest.mark.parametrize("settings", wide([SHARDED, GEOMEDIAN]))
@pytest.mark.parametrize("restart_s", wide([None, 4.0]))
def test_a_leader_may_die_while_it_measures_or_between_measuring_and_merging(
    tmp_path: Path, fault: Fault, settings: Settings, restart_s: float | None
) -> None:
    program = loose(20 if settings is GEOMEDIAN or restart_s else 3)  # until it leads; until it is back
    faults = [Planned(fault=fault, node=1, restart_s=restart_s)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=program, seed=1)
    check_run(swarm, finishing=ALL - ({1} if restart_s is None else set()))
    assert measured(swarm)


@pytest.mark.parametrize("settings", wide([SHARDED, GEOMEDIAN]))
def test_a_contributor_that_dies_while_it_is_measured_is_dropped(tmp_path: Path, settings: Settings) -> None:
    """T-42: all are measured anew, without it."""
    faults = [Planned(fault=Fault.DEAD_CONTRIBUTOR, node=2)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE)
    check_run(swarm, finishing={0, 1, 3})
    assert swarm.last.last is not None
    assert swarm.node(2) not in swarm.last.last.contributors
    measuring = [record.round for record in swarm.history if record.round is not None and record.round.measuring]
    numbers = Counter(len(round_.contributors) for round_ in measuring)
    assert set(numbers) == {4, 3}, "with it, until it is found to be gone, and without it"
    assert measured(swarm)


@pytest.mark.parametrize("fault", [Fault.SILENT_LEADER, Fault.FAKE_PROGRESS])
@pytest.mark.parametrize("settings", wide([SHARDED, GEOMEDIAN]))
def test_a_leader_that_does_not_measure_is_replaced(tmp_path: Path, fault: Fault, settings: Settings) -> None:
    """R-10: also one that says that it makes progress."""
    faults = [Planned(fault=fault, node=node) for node in (1, 2)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(4))
    check_run(swarm, finishing=ALL)
    assert [r for r in swarm.history if r.round is not None and r.round.measuring and r.round.attempt > 1]


@pytest.mark.parametrize("node", wide([0, 1, 2, 3]))
@pytest.mark.parametrize("settings", [SHARDED, GEOMEDIAN])
def test_with_a_witness_a_lie_about_distances_is_outvoted(tmp_path: Path, node: int, settings: Settings) -> None:
    """T-42: and the liar merges nothing either."""
    faults = [Planned(fault=Fault.WRONG_DISTANCES, node=node)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(6), seed=node)
    check_run(swarm, finishing=ALL)
    assert swarm.last.distrusted == (swarm.node(node),)
    lied_at = next(i for i, (who, m) in enumerate(swarm.faults.sent) if who == node and isinstance(m, Measure))
    assert not [m for who, m in swarm.faults.sent[lied_at:] if who == node and isinstance(m, MergeCommit)]


def test_without_witnesses_a_lie_about_distances_is_not_noticed(tmp_path: Path) -> None:
    """The limit that the docs state."""
    faults = [Planned(fault=Fault.WRONG_DISTANCES, node=node) for node in range(4)]
    swarm = run_with(tmp_path, faults, settings=replace(GEOMEDIAN, witnesses=0), size=SIZE)
    check_run(swarm, finishing=ALL, honest=False)
    with pytest.raises(AssertionError, match="the distances on the ledger are wrong"):
        check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("fault", [Fault.OTHER_BYTES, Fault.NAN])
def test_what_does_not_verify_or_is_not_finite_is_dropped_while_it_is_measured(tmp_path: Path, fault: Fault) -> None:
    bad = Program(min_peers=2, nan_at=1 if fault is Fault.NAN else None)
    programs = [loose(3), bad, loose(3), loose(3)]
    swarm = SwarmSimulator(
        2, tmp_path, programs, settings=SHARDED, size=SIZE, faults=[Planned(fault=fault, node=1)]
    ).run()
    assert swarm.fired[fault]
    check_run(swarm, finishing=ALL)
    assert {d.node for _, result in final_rounds(swarm) for d in result.dropped} == {swarm.node(1)}


@pytest.mark.parametrize("fault", wide([Fault.CORRUPT, Fault.DUPLICATE, Fault.DROP]))
def test_an_unreliable_network_costs_only_time(tmp_path: Path, fault: Fault) -> None:
    faults = [Planned(fault=fault, chance=0.5 if fault is Fault.DUPLICATE else 0.01)]
    swarm = run_with(tmp_path, faults, settings=SHARDED, size=SIZE, program=Program(min_peers=4))
    check_run(swarm, finishing=ALL)


def test_a_slow_leader_is_left_alone_in_both_stages(tmp_path: Path) -> None:
    """R-10: eleven frames of 0.6 s from one, the lease is two seconds."""
    faults = [Planned(fault=Fault.SLOW_LINK, node=1)]
    swarm = run_with(tmp_path, faults, settings=GEOMEDIAN, size=40 * 16384, program=Program(min_peers=2, syncs=1))
    check_run(swarm, finishing=ALL)
    assert all(result.attempts == 1 and len(result.contributors) == 4 for _, result in final_rounds(swarm))


# --- history --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", wide([replace(FEDAVGM, start="draw"), FEDAVGM, replace(FEDAVGM, topology="sharded")])
)
def test_momentum_builds_on_the_two_newest_results(tmp_path: Path, settings: Settings) -> None:
    """R-26: `check_run` recomputes it from the results on the ledger."""
    swarm = SwarmSimulator(1, tmp_path, [Program(syncs=5)] * 4, settings=settings, size=SIZE).run()
    check_run(swarm, finishing=ALL)
    assert sum(before.previous is not None for before, _ in final_rounds(swarm)) >= 3


@pytest.mark.parametrize("point", wide([5, 6, 7, 8], keep=(0,)))
@pytest.mark.parametrize("fault", [Fault.CRASH_SL, Fault.LOST_DISK])
def test_an_sl_that_restarts_fetches_what_it_needs_of_the_past(tmp_path: Path, fault: Fault, point: int) -> None:
    """R-26: also one that has lost its disk, and is drawn to lead."""
    faults = [Planned(fault=fault, node=2, point=point, after=True, restart_s=2.0)]
    settings = replace(FEDAVGM, topology="sharded")
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(8), seed=point)
    check_run(swarm, finishing=ALL)
    led = [m.round for who, m in swarm.faults.sent if who == 2 and isinstance(m, MergeCommit)]
    assert max(led) > 4, "it leads again"


def test_a_late_peer_leads_with_results_that_it_never_took_part_in(tmp_path: Path) -> None:
    """R-26."""
    late = Program(min_peers=2, syncs=4, delay_s=9.0)
    settings = replace(FEDAVGM, topology="sharded")
    swarm = SwarmSimulator(4, tmp_path, [loose(9), loose(9), loose(9), late], settings=settings, size=SIZE).run()
    check_run(swarm, finishing=ALL)
    first = min(r.round for _, r in final_rounds(swarm) if swarm.node(3) in r.participants)
    led = {m.round for who, m in swarm.faults.sent if who == 3 and isinstance(m, MergeCommit)}
    assert first >= 2
    assert first in led, "in its first round already: the one before the newest was made without it"
    assert all(result.attempts == 1 for _, result in final_rounds(swarm))


@pytest.mark.parametrize("point", wide([3, 4]))
def test_a_round_merged_anew_still_finds_the_result_before_the_last(tmp_path: Path, point: int) -> None:
    """R-15: of two peers one has stored what is not final; the other loses all that it had, and nobody else has it."""
    faults = [Planned(fault=Fault.LOST_DISK, node=1, on="Stored", point=point, restart_s=3.0)]
    swarm = run_with(tmp_path, faults, peers=2, settings=FEDAVGM, program=loose(8))
    check_run(swarm, finishing={0, 1})
    assert any(result.attempts > 1 for _, result in final_rounds(swarm))
