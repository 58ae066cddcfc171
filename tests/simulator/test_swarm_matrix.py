"""Every further kind of fault alone, each shown to fire and to do no harm. Spec: docs/spec/round.md, ledger.md."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from sim_checks import check_run, final_rounds
from sim_faults import Fault, Planned
from sim_programs import Program
from sim_swarm import SETTINGS, SwarmSimulator
from sim_wide import wide
from test_swarm_faults import SHARDED, SIZE, run_with

from swarmlearning.contracts.records import Settings
from swarmlearning.ledger.embedded.crash import CrashPoint

ALL = {0, 1, 2, 3}


def loose(syncs: int) -> Program:
    """Programs that two are enough for."""
    return Program(min_peers=2, syncs=syncs)


@pytest.mark.parametrize("settings", wide([SHARDED, SETTINGS]))
@pytest.mark.parametrize("ends", [(1, 2), (0, 3)])
def test_one_broken_link_stops_nobody(tmp_path: Path, settings: Settings, ends: tuple[int, int]) -> None:
    """R-9, T-26: with the link between two broken for good, somebody else leads, and both contribute."""
    one, other = ends
    faults = [Planned(fault=Fault.BROKEN_LINK, node=one, group=frozenset({other}))]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(10))
    check_run(swarm, finishing=ALL)
    assert all(not result.dropped for _, result in final_rounds(swarm))


@pytest.mark.parametrize("settings", wide([SETTINGS, SHARDED]))
def test_a_leader_that_only_pretends_to_work_is_replaced(tmp_path: Path, settings: Settings) -> None:
    """R-10: made-up progress runs out."""
    faults = [Planned(fault=Fault.FAKE_PROGRESS, node=node) for node in (1, 2)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(6))
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("settings", wide([SHARDED, SETTINGS]))
def test_lies_to_one_peer_convict_nobody(tmp_path: Path, settings: Settings) -> None:
    """E-4: what does not verify counts as not served; one peer's word drops nobody."""
    faults = [Planned(fault=Fault.LIES_TO_ONE, node=1, group=frozenset({2}))]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(10))
    check_run(swarm, finishing=ALL)
    assert all(not result.dropped for _, result in final_rounds(swarm))


@pytest.mark.parametrize("settings", wide([SHARDED, SETTINGS]))
def test_one_false_accuser_among_four_drops_nobody(tmp_path: Path, settings: Settings) -> None:
    """T-26 to T-29: f = 1 of n = 4; it costs itself its charge."""
    faults = [Planned(fault=Fault.FALSE_ACCUSER, node=2)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=loose(6))
    check_run(swarm, finishing=ALL)
    assert all(not result.dropped for _, result in final_rounds(swarm))
    assert all(swarm.node(node) in result.contributors for _, result in final_rounds(swarm) for node in (0, 1, 3))


def test_two_false_accusers_among_seven_drop_nobody(tmp_path: Path) -> None:
    faults = [Planned(fault=Fault.FALSE_ACCUSER, node=node) for node in (2, 5)]
    swarm = run_with(tmp_path, faults, peers=7, settings=SHARDED, size=7 * 16384, program=loose(3))
    check_run(swarm, finishing=set(range(7)))
    assert all(not result.dropped for _, result in final_rounds(swarm))


@pytest.mark.parametrize("point", wide([1, 2, 3, 4, 5, 6, 7, 8], keep=(1, 2, 3)))
@pytest.mark.parametrize("after", [False, True])
def test_an_sl_may_die_at_any_of_its_writes(tmp_path: Path, point: int, after: bool) -> None:
    """R-12: the whole result or none; two files a result, the first has the parameters, the second makes it count."""
    faults = [Planned(fault=Fault.CRASH_DISK, node=1, point=point, after=after, restart_s=3.0)]
    swarm = run_with(tmp_path, faults, size=SIZE, program=loose(6))
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("point", wide([2, 3, 4, 5, 6, 7], keep=(4, 5)))
def test_an_sl_may_lose_its_disk(tmp_path: Path, point: int) -> None:
    faults = [Planned(fault=Fault.LOST_DISK, node=1, point=point, after=True, restart_s=3.0)]
    swarm = run_with(tmp_path, faults, size=SIZE, program=loose(6))
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("step", list(CrashPoint))
@pytest.mark.parametrize("node", [0, 2])
@pytest.mark.parametrize("block", wide([12, 20], keep=(12,)))
def test_an_sn_may_die_at_each_point_of_the_commit_path(
    tmp_path: Path, step: CrashPoint, node: int, block: int
) -> None:
    """L-9, L-10: the sentinel (0) or a follower; nothing acknowledged is lost, and the training goes on."""
    faults = [Planned(fault=Fault.CRASH_LEDGER, node=node, step=step, point=block, restart_s=4.0)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=4), durable=True)
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("node", [1, 3])
def test_a_follower_put_back_to_an_old_copy_catches_up(tmp_path: Path, node: int) -> None:
    faults = [Planned(fault=Fault.RESTORED_SN, node=node, at_s=1.2, until_s=5.0)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=4, syncs=6), durable=True)
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("peers", [4, 5])
@pytest.mark.parametrize("at_s", wide([2.3, 0.8, 4.1]))
def test_a_training_goes_on_under_another_sentinel(tmp_path: Path, peers: int, at_s: float) -> None:
    """L-24 to L-29: the sentinel is lost; its organisation's SL waits for its SN and comes back with that."""
    faults = [Planned(fault=Fault.HANDOVER, at_s=at_s, until_s=at_s + 5.0)]
    program = Program(min_peers=2, syncs=8)
    swarm = run_with(tmp_path, faults, peers=peers, seed=int(10 * at_s), program=program, durable=True)
    check_run(swarm, finishing=set(range(peers)))
    assert swarm.finished_s > at_s + 8.0
    assert {sn.ledger.sentinel for sn in swarm.sns} == {swarm.sns[swarm.sns[1].follows].name.id}


@pytest.mark.parametrize(("node", "skew_s"), [(0, -8.0), (0, 8.0), (2, -8.0), (2, 8.0), (2, 600.0)])
def test_a_wrong_clock_costs_only_time(tmp_path: Path, node: int, skew_s: float) -> None:
    """L-14: blocks from more than 5 s ahead are held back; while that is less than a lease everybody takes part."""
    faults = [Planned(fault=Fault.CLOCK_SKEW, node=node, skew_s=skew_s)]
    settings = replace(SETTINGS, lease_ms=10_000)
    swarm = run_with(tmp_path, faults, settings=settings, program=Program(min_peers=4))
    check_run(swarm, finishing=ALL)


def test_a_dead_leader_costs_a_lease(tmp_path: Path) -> None:
    """T-29: the suspicion says that it is gone, so nobody has to find out again that its chunks cannot be had."""
    for seed in range(8):
        faults = [Planned(fault=Fault.DEAD_LEADER, node=1)]
        settings = replace(SETTINGS, lease_ms=10_000, topology="leader", grace_ms=500)
        swarm = SwarmSimulator(seed, tmp_path, [loose(20)] * 4, settings=settings, faults=faults).run()
        check_run(swarm, finishing={0, 2, 3})
        (struck,) = [result for _, result in final_rounds(swarm) if result.dropped and result.attempts > 1]
        took = (struck.elapsed_ms - closed_ms(swarm, struck.round)) / 1000
        assert 9.0 < took < 12.0, f"round {struck.round} took {took} s"


def closed_ms(swarm: SwarmSimulator, number: int) -> int:
    """When a round closed for the first time."""
    times = (r.round.closed_ms for r in swarm.history if r.round is not None and r.round.number == number)
    return min(time for time in times if time)
