"""Trainings in which encoded differences travel, with and without faults. Spec: docs/spec/round.md, R-40 to R-44."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from sim_checks import carried_over, check_run, final_rounds
from sim_faults import Fault, Planned
from sim_programs import Program
from sim_swarm import SETTINGS, SwarmSimulator
from sim_wide import wide

from swarmlearning.contracts.records import Settings
from swarmlearning.parameters.chunks import chunk_count
from swarmlearning.parameters.wire import wire_manifest
from swarmlearning.sl.exchange import ResultRequest
from swarmlearning.sl.methods import complete

INT8 = replace(SETTINGS, wire="int8")
SHARDED = replace(INT8, topology="sharded")
PATIENT = Program(min_peers=2)
SIZE = 8 * 16384
"""Nine chunks in full, three as blocks."""
ALL = {0, 1, 2, 3}


def run_with(
    tmp_path: Path,
    faults: Sequence[Planned] = (),
    *,
    settings: Settings = SHARDED,
    programs: Sequence[Program] = (PATIENT,) * 4,
    seed: int = 1,
    size: int = SIZE,
) -> SwarmSimulator:
    """A run with a plan of faults, each of which must fire."""
    swarm = SwarmSimulator(seed, tmp_path, list(programs), settings=settings, faults=faults, size=size).run()
    for planned in faults:
        assert swarm.fired[planned.fault] > 0, planned
    return swarm


def whole_requests(swarm: SwarmSimulator) -> list[ResultRequest]:
    """Who was served whole models instead of differences."""
    return [request for _, _, request in swarm.served if isinstance(request, ResultRequest) and request.whole]


# --- without faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("topology", ["leader", "sharded"])
def test_r40_r41_all_peers_end_with_one_model(tmp_path: Path, wire: str, topology: str) -> None:
    settings = replace(SETTINGS, wire=wire, topology=topology)
    swarm = run_with(tmp_path, settings=settings)
    check_run(swarm, finishing=ALL)
    results = [result for _, result in final_rounds(swarm)]
    assert len(results) == 4
    assert [result.base for result in results] == [b"", *(before.sha256 for before in results[:-1])]
    assert [len(result.whole) for result in results] == [0, 32, 32, 32]
    manifest = swarm.manifest()
    assert chunk_count(wire_manifest(manifest, settings.wire).size) < chunk_count(manifest.size)
    assert whole_requests(swarm) == []


@pytest.mark.parametrize("size", [10, 100])
def test_a_model_of_which_little_or_nothing_is_encoded(tmp_path: Path, size: int) -> None:
    """T-50: with fewer chunks than shards; and where nothing gets shorter, tensors travel as they are (P-40)."""
    check_run(run_with(tmp_path, size=size), finishing=ALL)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_the_opening_round_by_draw_travels_in_full(tmp_path: Path, wire: str) -> None:
    swarm = run_with(tmp_path, settings=replace(SHARDED, wire=wire, start="draw"))
    check_run(swarm, finishing=ALL)
    _, first = final_rounds(swarm)[0]
    assert (first.base, first.whole, len(first.contributors)) == (b"", b"", 1)


def test_r44_who_stores_after_the_majority_fetches_the_difference_too(tmp_path: Path) -> None:
    """Else every round would cost the slower half of its participants a whole model."""
    faults = [Planned(fault=Fault.SLOW_LINK, node=node, only=frozenset({3})) for node in range(3)]
    swarm = run_with(tmp_path, faults, programs=[Program(min_peers=2, syncs=4)] * 4)
    check_run(swarm, finishing=ALL)
    late = [result.round for _, result in final_rounds(swarm) if result.base and swarm.node(3) not in result.holders]
    assert late
    assert whole_requests(swarm) == []


def test_r44_a_late_peer_fetches_the_whole_and_goes_on_with_differences(tmp_path: Path) -> None:
    programs = [Program(syncs=8, min_peers=2)] * 2 + [Program(syncs=3, min_peers=2, delay_s=4.0)]
    swarm = run_with(tmp_path, programs=programs, seed=10)
    check_run(swarm, finishing={0, 1, 2})
    asked = {(caller, request.shard) for _, caller, request in swarm.served if request in whole_requests(swarm)}
    assert asked == {(swarm.node(2), 0)}
    assert swarm.last.peers[2].rounds_contributed > 0


def test_what_a_slow_peer_trained_while_it_missed_rounds_is_merged_once(tmp_path: Path) -> None:
    """R-17, R-40: encoded from the result that it was carried over to."""
    programs = [Program(syncs=14, min_peers=2, batch_s=1.0)] * 3 + [Program(syncs=3, min_peers=2, batch_s=5.0)]
    settings = replace(INT8, grace_ms=500)
    swarm = run_with(tmp_path, settings=settings, programs=programs, seed=11)
    check_run(swarm, finishing=ALL)
    assert [number for number, index in carried_over(swarm) if index == 3]


@pytest.mark.parametrize("mode", ["snapshot", "inactive", "active"])
def test_a_peer_that_finishes_early_goes_on_as_its_mode_says(tmp_path: Path, mode: str) -> None:
    """R-13, R-40: the same last parameters are another difference from every new result."""
    programs = [Program(syncs=6), Program(syncs=6), Program(syncs=2)]
    swarm = run_with(tmp_path, settings=replace(INT8, checkin_mode=mode), programs=programs, seed=16)
    check_run(swarm, finishing={0, 1, 2})
    late = [before.round for before, result in final_rounds(swarm) if result.round > 2]
    offered = [c for r in late if r is not None for c in r.checkins if c.node == swarm.node(2)]
    assert {c.mode for c in offered} == {{"snapshot": "snapshot", "inactive": "inactive", "active": "last"}[mode]}
    if mode == "snapshot":
        assert len({c.commitment for c in offered}) == len(offered) > 2


def test_a_void_round_leaves_the_program_its_own(tmp_path: Path) -> None:
    """R-8."""
    programs = [Program(syncs=4), Program(syncs=1), Program(syncs=1)]
    swarm = run_with(tmp_path, settings=replace(INT8, checkin_mode="inactive"), programs=programs, seed=17)
    check_run(swarm, finishing={0, 1, 2})
    assert swarm.last.voids > 0


@pytest.mark.parametrize(
    "settings",
    wide(
        [
            replace(SHARDED, merge_method="geomedian"),
            replace(SHARDED, merge_method="multi_krum", wire="bf16"),
            replace(INT8, merge_method="coordmedian"),
            replace(SHARDED, merge_method="trimmed_mean", wire="fp16"),
        ],
        keep=(0, 2),
    ),
)
def test_other_methods_merge_differences_as_they_merge_models(tmp_path: Path, settings: Settings) -> None:
    """G-100, G-102. `check_run` recomputes distances and weights; of medians it knows nothing."""
    swarm = run_with(tmp_path, settings=complete(settings))
    check_run(swarm, finishing=ALL, honest=complete(settings).needs == "distances")
    assert all(result.attempts == 1 for _, result in final_rounds(swarm))


# --- with faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", wide([SHARDED, INT8]))
@pytest.mark.parametrize("fault", [Fault.DEAD_LEADER, Fault.DEAD_LEADER_AFTER])
@pytest.mark.parametrize("restart_s", wide([None, 4.0]))
def test_r43_a_leader_may_die_before_and_after_its_commit_stands(
    tmp_path: Path, settings: Settings, fault: Fault, restart_s: float | None
) -> None:
    program = Program(min_peers=2, syncs=20 if settings is INT8 or restart_s else 3)  # until it leads; until it is back
    faults = [Planned(fault=fault, node=1, restart_s=restart_s)]
    swarm = run_with(tmp_path, faults, settings=settings, programs=[program] * 4)
    check_run(swarm, finishing=ALL - ({1} if restart_s is None else set()))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("on", "point"), wide([("CheckIn", 2), ("MergeCommit", 2), ("Stored", 2), ("Stored", 3)]))
@pytest.mark.parametrize("peers", [2, 3])
def test_r42_r43_a_program_goes_on_with_its_restarted_sl(
    tmp_path: Path, on: str, point: int, after: bool, peers: int
) -> None:
    """The residual and the encoded shards are gone with the process; the model is not."""
    faults = [
        Planned(fault=Fault.CRASH_SL, node=1, on=on, point=point, after=after, restart_s=3.0, alone=True),
    ]
    programs = [Program(syncs=5, min_peers=2)] * peers
    swarm = run_with(tmp_path, faults, settings=replace(SHARDED, grace_ms=500), programs=programs, seed=point)
    check_run(swarm, finishing=set(range(peers)))


@pytest.mark.parametrize("on", ["CheckIn", "Stored"])
def test_an_sl_that_lost_its_disk_fetches_what_it_needs(tmp_path: Path, on: str) -> None:
    """R-40, R-41: without the newest result nothing can be encoded or applied."""
    faults = [Planned(fault=Fault.LOST_DISK, node=1, on=on, point=3, restart_s=0.3, alone=True)]
    swarm = run_with(tmp_path, faults, programs=[Program(syncs=8)] * 4)
    check_run(swarm, finishing=ALL)
    assert whole_requests(swarm)


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.BREAK, Fault.DELAY, Fault.DUPLICATE, Fault.CORRUPT])
def test_an_unreliable_network_costs_only_time(tmp_path: Path, fault: Fault) -> None:
    chance = 0.3 if fault is Fault.DUPLICATE else 0.05
    swarm = run_with(tmp_path, [Planned(fault=fault, chance=chance, until_s=60.0)])
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8"])
def test_p48_a_contributor_of_nan_is_dropped_and_the_tensor_named(tmp_path: Path, wire: str) -> None:
    """It does not check its own parameters; what it encodes of them shows."""
    programs = [Program(min_peers=2, nan_at=1 if index == 2 else None) for index in range(4)]
    settings = replace(SHARDED, wire=wire)
    swarm = run_with(tmp_path, [Planned(fault=Fault.NAN, node=2)], settings=settings, programs=programs)
    dropped = [d for _, result in final_rounds(swarm) for d in result.dropped]
    assert {d.node for d in dropped} == {swarm.node(2)}
    assert any("nonfinite" in d.reason and "kernel" in d.reason for d in dropped)
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("fault", [Fault.NEVER_SERVES, Fault.SILENT_LEADER, Fault.NEVER_STORES])
def test_who_does_not_do_its_part_is_replaced(tmp_path: Path, fault: Fault) -> None:
    swarm = run_with(tmp_path, [Planned(fault=fault, node=1)], programs=[Program(min_peers=2, syncs=4)] * 4)
    check_run(swarm, finishing=ALL)


@pytest.mark.parametrize("node", wide([0, 1, 2, 3]))
def test_with_a_witness_a_wrong_merge_is_outvoted(tmp_path: Path, node: int) -> None:
    settings = replace(SHARDED, witnesses=1)
    swarm = run_with(tmp_path, [Planned(fault=Fault.WRONG_MERGE, node=node)], settings=settings)
    check_run(swarm, finishing=ALL)
    assert swarm.last.distrusted == (swarm.node(node),)
