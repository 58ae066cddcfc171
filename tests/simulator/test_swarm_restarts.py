"""An SL that is killed while its program lives, or after that has gone, and started again: R-18, R-21, C-17."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from sim_checks import check_run, final_rounds
from sim_faults import Fault, Planned
from sim_programs import Program
from sim_swarm import SETTINGS, SwarmSimulator
from sim_wide import wide

from swarmlearning.contracts.messages import Enrol, Leave
from swarmlearning.contracts.records import PeerState, Settings

POINTS = [
    ("Enrol", 1),
    ("CheckIn", 1),
    ("CheckIn", 2),
    ("MergeCommit", 1),
    ("Stored", 1),
    ("Stored", 3),
    ("CheckIn", 4),
    ("Finish", 1),
    ("CheckIn", 5),
]
"""Of five syncs and the round that finishing closes."""


def crash(on: str, point: int, *, after: bool, restart_s: float = 3.0, moves: int = 0, node: int = 1) -> Planned:
    """That SL dies alone at its `point`-th transaction of kind `on`, and is started again."""
    return Planned(
        fault=Fault.CRASH_SL, node=node, on=on, point=point, after=after, restart_s=restart_s, alone=True, moves=moves
    )


def enrolments(swarm: SwarmSimulator, index: int) -> int:
    """How often an SL asked to enrol."""
    return sum(who == index and isinstance(message, Enrol) for who, message in swarm.faults.sent)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("on", "point"), wide(POINTS, keep=(2, 3, 4, 7)))
@pytest.mark.parametrize("min_peers", wide([3, 2]))
def test_a_program_goes_on_with_its_restarted_sl(
    tmp_path: Path, on: str, point: int, after: bool, min_peers: int
) -> None:
    """R-18, C-17: whatever the SL was about to say or had said, its program repeats what was not answered."""
    settings = SETTINGS if min_peers == 3 else replace(SETTINGS, grace_ms=500)
    swarm = SwarmSimulator(
        point,
        tmp_path,
        [Program(syncs=5, min_peers=min_peers)] * 3,
        settings=settings,
        faults=[crash(on, point, after=after)],
    ).run()
    assert swarm.fired[Fault.CRASH_SL] == 1
    check_run(swarm, finishing={0, 1, 2})
    assert swarm.ended[1].reopened >= (on != "Enrol")
    assert not any(isinstance(message, Leave) for _, message in swarm.faults.sent)
    # An enrolment that stands is not made again: it would take a check-in back, or make a finished peer train again.
    assert enrolments(swarm, 1) <= 1 + (on == "Enrol")


def test_nothing_that_was_trained_is_lost_with_an_sl(tmp_path: Path) -> None:
    """R-18: the sync that its program repeats is merged, though the round closed without it meanwhile."""
    programs = [Program(syncs=12, min_peers=2)] * 2 + [Program(syncs=3, min_peers=2)]
    faults = [crash("CheckIn", 2, after=False, restart_s=4.0, node=2)]
    swarm = SwarmSimulator(2, tmp_path, programs, settings=replace(SETTINGS, grace_ms=300), faults=faults).run()
    check_run(swarm, finishing={0, 1, 2})
    offered = {
        swarm.committed[c.commitment]
        for before, result in final_rounds(swarm)
        if before.round is not None
        for c in before.round.checkins
        if c.mode == "active" and c.node in result.contributors
    }
    assert {(2, 1), (2, 2), (2, 3)} <= offered
    assert len(swarm.rebased[2]) > 0


def test_an_sl_that_comes_back_elsewhere_is_found_there(tmp_path: Path) -> None:
    """R-18: another port, so it enrols anew; the others need what it offers and leads."""
    swarm = SwarmSimulator(5, tmp_path, [Program(syncs=4)] * 3, faults=[crash("CheckIn", 2, after=True, moves=7)]).run()
    check_run(swarm, finishing={0, 1, 2})
    assert enrolments(swarm, 1) == 2
    assert swarm.last.peers[1].endpoint.port == 30312
    assert swarm.node(1) in final_rounds(swarm)[-1][1].contributors


MODES = [replace(SETTINGS, checkin_mode=mode) for mode in ("snapshot", "inactive", "active")]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("on", "point"), [("Finish", 1), ("CheckIn", 3), ("Stored", 4)])
@pytest.mark.parametrize("settings", wide(MODES, keep=(0, 1)))
def test_the_restarted_sl_of_a_program_that_has_gone_goes_on_alone(
    tmp_path: Path, on: str, point: int, after: bool, settings: Settings
) -> None:
    """R-18, R-21: it checks in as the mode says until all have finished, and has the final model."""
    programs = [Program(syncs=7), Program(syncs=2, goes=True), Program(syncs=7)]
    swarm = SwarmSimulator(6, tmp_path, programs, settings=settings, faults=[crash(on, point, after=after)]).run()
    assert swarm.fired[Fault.CRASH_SL] == 1
    check_run(swarm, finishing={0, 2})
    assert swarm.last.peers[1].state is PeerState.FINISHED
    assert enrolments(swarm, 1) == 1
    late = [before.round for before, result in final_rounds(swarm) if result.round >= 4]
    expected = {"snapshot": "snapshot", "inactive": "inactive", "active": "last"}[settings.checkin_mode]
    modes = [c.mode for round_ in late if round_ is not None for c in round_.checkins if c.node == swarm.node(1)]
    assert len(late) >= 3
    assert modes == [expected] * len(late)
    if expected == "snapshot":
        given = {
            swarm.commitments[c.commitment]
            for round_ in late
            if round_ is not None
            for c in round_.checkins
            if c.node == swarm.node(1)
        }
        assert len(given) == 1  # its last local parameters, to the bit
    assert swarm.remembered[1] == 0
    assert not list((tmp_path / "seed-6" / "sl1").glob("journal-*"))
    assert not list((tmp_path / "seed-6" / "sl1").glob("snapshot-*"))


def test_a_new_program_is_told_how_far_the_last_one_had_come(tmp_path: Path) -> None:
    """C-18: SL and program die together, and the next program of the run is a late peer that knows its position."""
    faults = [Planned(fault=Fault.CRASH_SL, node=2, on="CheckIn", point=3, restart_s=1.0)]
    swarm = SwarmSimulator(9, tmp_path, [Program(syncs=6, min_peers=2)] * 3, faults=faults).run()
    check_run(swarm, finishing={0, 1, 2})
    assert swarm.ended[2].position.batch == 2  # its third sync was written down, though nobody heard of it
    assert enrolments(swarm, 2) == 2
