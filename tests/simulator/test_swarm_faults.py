"""Trainings in which something goes wrong: every fault is shown to fire, none to do harm. Spec: docs/spec/round.md."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from sim_checks import check_run, final_rounds
from sim_faults import Fault, Planned
from sim_programs import Program
from sim_swarm import SETTINGS, SwarmSimulator
from sim_wide import wide

from swarmlearning.contracts.records import PeerState, Settings
from swarmlearning.errors import NonFinite
from swarmlearning.parameters.manifest import read_arrays

PATIENT = Program(min_peers=2)
SHARDED = replace(SETTINGS, topology="sharded")
SIZE = 4 * 16384
"""Five chunks."""


def run_with(
    tmp_path: Path,
    faults: Sequence[Planned],
    *,
    peers: int = 4,
    seed: int = 1,
    program: Program = PATIENT,
    settings: Settings = SETTINGS,
    size: int = 100,
    durable: bool = False,
) -> SwarmSimulator:
    """A run with a plan of faults, each of which must fire."""
    swarm = SwarmSimulator(
        seed, tmp_path, [program] * peers, settings=settings, faults=faults, size=size, durable=durable
    ).run()
    for planned in faults:
        assert swarm.fired[planned.fault] > 0, planned
    return swarm


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "chance"),
    [
        (Fault.DROP, 0.02),
        (Fault.BREAK, 0.1),
        (Fault.DELAY, 0.1),
        (Fault.DUPLICATE, 0.5),
        (Fault.REORDER, 0.3),
        (Fault.CORRUPT, 0.07),  # more may strike one peer three times in a round, which waits for all (T-23)
    ],
)
@pytest.mark.parametrize("settings", wide([SHARDED, SETTINGS]))
def test_an_unreliable_network_costs_only_time(tmp_path: Path, fault: Fault, chance: float, settings: Settings) -> None:
    faults = [Planned(fault=fault, chance=chance)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=Program(min_peers=4))
    check_run(swarm, finishing={0, 1, 2, 3})


@pytest.mark.parametrize("at_s", wide([2.2, 0.5, 3.0]))
def test_the_minority_side_of_a_partition_waits(tmp_path: Path, at_s: float) -> None:
    """Organisation 3 is cut off with its SN: the others go on, it does not go on alone, and it comes back."""
    faults = [Planned(fault=Fault.PARTITION, group=frozenset({3}), at_s=at_s, until_s=at_s + 20)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=2, syncs=6))
    check_run(swarm, finishing={0, 1, 2, 3})
    assert all(len(result.participants) >= 3 for _, result in final_rounds(swarm))


def test_both_sides_wait_when_neither_has_min_peers(tmp_path: Path) -> None:
    faults = [Planned(fault=Fault.PARTITION, group=frozenset({2, 3}), at_s=1.5, until_s=31.5)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=4))
    check_run(swarm, finishing={0, 1, 2, 3})
    assert swarm.finished_s > 31.5


def test_a_slow_server_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    """R-10: whoever moves is left alone, though each shard takes longer than a lease."""
    size = 40 * 16384  # eleven frames, 0.6 s each; the lease is two
    swarm = run_with(
        tmp_path, [Planned(fault=Fault.SLOW_LINK, node=1)], size=size, program=Program(min_peers=2, syncs=1)
    )
    check_run(swarm, finishing={0, 1, 2, 3})
    assert all(result.dropped == () for _, result in final_rounds(swarm))
    assert all(len(result.contributors) == 4 for _, result in final_rounds(swarm))


# --- nodes that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("point", wide([2, 3, 4, 5, 6, 7, 8], keep=(1, 2)))
def test_an_sl_may_die_at_any_of_its_transactions(tmp_path: Path, point: int, after: bool) -> None:
    faults = [Planned(fault=Fault.CRASH_SL, node=2, point=point, after=after)]
    swarm = run_with(tmp_path, faults, seed=point)
    check_run(swarm, finishing={0, 1, 3})


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("point", wide([3, 4, 5, 6, 8], keep=(1,)))
def test_an_sl_that_restarts_goes_on_from_the_ledger(tmp_path: Path, point: int, after: bool) -> None:
    """R-18: a program that starts again on its SL's disk is a late peer; what it had promised is promised anew."""
    faults = [Planned(fault=Fault.CRASH_SL, node=2, point=point, after=after, restart_s=3.0)]
    swarm = run_with(tmp_path, faults, seed=point, program=Program(min_peers=2, syncs=8))
    check_run(swarm, finishing={0, 1, 2, 3})


def test_a_restarted_sl_needs_no_network_for_what_it_has_on_disk(tmp_path: Path) -> None:
    faults = [Planned(fault=Fault.CRASH_SL, node=1, point=8, restart_s=0.5)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=4, syncs=4))
    check_run(swarm, finishing={0, 1, 2, 3})


@pytest.mark.parametrize("settings", [SETTINGS, SHARDED, replace(SHARDED, witnesses=1)])
@pytest.mark.parametrize("node", wide([0, 1, 2, 3]))
def test_a_contributor_that_dies_after_its_check_in_is_dropped(tmp_path: Path, node: int, settings: Settings) -> None:
    faults = [Planned(fault=Fault.DEAD_CONTRIBUTOR, node=node)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, seed=node)
    check_run(swarm, finishing={0, 1, 2, 3} - {node})
    assert swarm.last.last is not None
    assert swarm.node(node) not in swarm.last.last.contributors


@pytest.mark.parametrize("fault", [Fault.DEAD_LEADER, Fault.DEAD_LEADER_AFTER])
@pytest.mark.parametrize("settings", wide([SHARDED, SETTINGS]))
@pytest.mark.parametrize("node", wide([1, 2]))
def test_a_leader_that_dies_is_replaced(tmp_path: Path, fault: Fault, settings: Settings, node: int) -> None:
    program = Program(min_peers=2, syncs=20 if settings is SETTINGS else 3)  # until it leads
    swarm = run_with(
        tmp_path, [Planned(fault=fault, node=node)], settings=settings, size=SIZE, program=program, seed=node
    )
    assert swarm.fired[fault] == 1
    check_run(swarm, finishing={0, 1, 2, 3} - {node})


def test_of_two_peers_the_one_that_is_left_waits_and_says_for_whom(tmp_path: Path) -> None:
    faults = [Planned(fault=Fault.DEAD_CONTRIBUTOR, node=1)]
    # With this seed it dies before the first round is final.
    swarm = SwarmSimulator(1, tmp_path, [Program()] * 2, faults=faults, limit_s=120)
    with pytest.raises(
        AssertionError, match=r"1 of at least 2 peers have checked in; missing: sl@org01.example \(paused"
    ):
        swarm.run()


@pytest.mark.parametrize("at_s", wide([1.7, 0.3, 2.4]))
def test_an_sl_whose_sn_is_down_for_a_while_goes_on(tmp_path: Path, at_s: float) -> None:
    """R-1."""
    faults = [Planned(fault=Fault.CRASH_SN, node=2, at_s=at_s, until_s=at_s + 12)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=2, syncs=6))
    check_run(swarm, finishing={0, 1, 2, 3})


@pytest.mark.parametrize("at_s", wide([1.7, 0.3, 2.05, 2.4]))
def test_the_ledger_waits_for_its_sentinel(tmp_path: Path, at_s: float) -> None:
    faults = [Planned(fault=Fault.CRASH_SN, node=0, at_s=at_s, until_s=at_s + 12)]
    swarm = run_with(tmp_path, faults, program=Program(min_peers=4), durable=True)
    check_run(swarm, finishing={0, 1, 2, 3})
    assert swarm.finished_s > at_s + 12


# --- nodes that lie -------------------------------------------------------------------------------------------------


def is_mean(swarm: SwarmSimulator) -> bool:
    """Whether the first round's result is the mean of the initial contributions."""
    before, result = final_rounds(swarm)[0]
    assert before.round is not None
    manifest = swarm.manifest()
    given = [c.commitment for c in before.round.checkins if c.node in result.contributors]
    arrays = [read_arrays(manifest, memoryview(swarm.commitments[root]))["kernel"] for root in given]
    merged = next(e.merged[result.round] for e in swarm.ended.values() if result.round in e.merged)
    return np.allclose(read_arrays(manifest, memoryview(merged))["kernel"], np.mean(arrays, axis=0), atol=1e-5)


def test_without_witnesses_a_wrong_merge_is_not_noticed(tmp_path: Path) -> None:
    """The limit that the docs state: leaders are trusted to compute honestly where witnesses = 0."""
    faults = [Planned(fault=Fault.WRONG_MERGE, node=node) for node in range(4)]
    swarm = run_with(tmp_path, faults)
    check_run(swarm, finishing={0, 1, 2, 3}, honest=False)
    assert not is_mean(swarm)


@pytest.mark.parametrize("node", wide([0, 1, 2, 3]))
@pytest.mark.parametrize("topology", ["leader", "sharded"])
def test_with_a_witness_a_wrong_merge_is_outvoted(tmp_path: Path, node: int, topology: str) -> None:
    settings = replace(SETTINGS, witnesses=1, topology=topology)
    program = Program(min_peers=2, syncs=6)
    swarm = SwarmSimulator(
        node,
        tmp_path,
        [program] * 4,
        settings=settings,
        size=SIZE,
        faults=[Planned(fault=Fault.WRONG_MERGE, node=node)],
    ).run()
    assert swarm.fired[Fault.WRONG_MERGE] > 0
    check_run(swarm, finishing={0, 1, 2, 3})
    assert swarm.last.distrusted == (swarm.node(node),)


@pytest.mark.parametrize("settings", [SETTINGS, SHARDED, replace(SETTINGS, start="draw")])
def test_a_contributor_of_nan_is_dropped_and_the_tensor_named(tmp_path: Path, settings: Settings) -> None:
    patient = Program(min_peers=2)
    programs = [patient, Program(min_peers=2, nan_at=1), patient, patient]
    swarm = SwarmSimulator(
        2, tmp_path, programs, settings=settings, size=SIZE, faults=[Planned(fault=Fault.NAN, node=1)]
    ).run()
    assert swarm.fired[Fault.NAN] > 0
    check_run(swarm, finishing={0, 1, 2, 3})
    dropped = [d for _, result in final_rounds(swarm) for d in result.dropped]
    assert {d.node for d in dropped} == {swarm.node(1)}
    assert "tensor kernel holds NaN" in dropped[0].reason


def test_an_honest_program_with_nan_is_told_and_the_round_goes_on_without_it(tmp_path: Path) -> None:
    swarm = SwarmSimulator(3, tmp_path, [PATIENT, Program(min_peers=2, nan_at=1), PATIENT]).run()
    check_run(swarm, finishing={0, 2})
    assert isinstance(swarm.ended[1].error, NonFinite)
    assert "tensor kernel of sl@org01.example" in str(swarm.ended[1].error)


@pytest.mark.parametrize("settings", [SETTINGS, SHARDED])
def test_a_contributor_that_serves_other_bytes_than_promised_is_dropped(tmp_path: Path, settings: Settings) -> None:
    swarm = run_with(tmp_path, [Planned(fault=Fault.OTHER_BYTES, node=2)], settings=settings, size=SIZE)
    check_run(swarm, finishing={0, 1, 2, 3})
    reasons = {d.reason.split(":")[0] for _, result in final_rounds(swarm) for d in result.dropped}
    assert reasons == {"unverified"}


@pytest.mark.parametrize("settings", wide([SHARDED, SETTINGS]))
@pytest.mark.parametrize("node", wide([0, 1, 2]))
def test_a_leader_that_commits_but_never_serves_loses_its_shard(tmp_path: Path, settings: Settings, node: int) -> None:
    faults = [Planned(fault=Fault.NEVER_SERVES, node=node)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=Program(min_peers=2, syncs=20), seed=node)
    check_run(swarm, finishing={0, 1, 2, 3})


@pytest.mark.parametrize("settings", [SETTINGS, SHARDED])
def test_a_leader_that_does_nothing_but_lives_is_replaced(tmp_path: Path, settings: Settings) -> None:
    faults = [Planned(fault=Fault.SILENT_LEADER, node=node) for node in (1, 2)]
    swarm = run_with(tmp_path, faults, settings=settings, size=SIZE, program=Program(min_peers=2, syncs=4))
    check_run(swarm, finishing={0, 1, 2, 3})


def test_a_participant_that_never_stores_holds_nobody_up(tmp_path: Path) -> None:
    swarm = run_with(tmp_path, [Planned(fault=Fault.NEVER_STORES, node=1)])
    check_run(swarm, finishing={0, 1, 2, 3})
    assert all(swarm.node(1) not in result.holders for _, result in final_rounds(swarm))


def test_of_two_peers_one_that_never_stores_is_paused_in_the_end(tmp_path: Path) -> None:
    """R-14: no majority without it, so the round takes until `round_max`, collects again, and waits with a reason."""
    settings = replace(SETTINGS, round_max_ms=20_000)
    swarm = SwarmSimulator(
        4, tmp_path, [Program()] * 2, settings=settings, faults=[Planned(fault=Fault.NEVER_STORES, node=1)], limit_s=100
    )
    with pytest.raises(AssertionError, match="stored by 1 of 2 participants; to be stored by sl@org01"):
        swarm.run()
    setbacks = {record.round.setback for record in swarm.history if record.round is not None}
    assert setbacks == {"", "the attempt took longer than 20 s"}
    assert swarm.last.last is None
    assert {peer.state for peer in swarm.last.peers} <= {PeerState.LIVE, PeerState.PAUSED}
