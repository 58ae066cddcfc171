"""What must hold after every simulated run, judged from the ledger's history and not by the code under test."""

import numpy as np
from sim_faults import Fault
from sim_plans import Schedule
from sim_swarm import SwarmSimulator

from swarmlearning.contracts.records import PeerState, Phase, Result, Round, Training
from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, NonFinite, Refused, Unreachable, WaitExpired
from swarmlearning.merge.distances import unpack_distances
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import read_arrays
from swarmlearning.sl.exchange import ChunkRequest, ResultRequest
from swarmlearning.sl.methods import method_of
from swarmlearning.types import NodeId


def check_run(swarm: SwarmSimulator, *, finishing: set[int], honest: bool = True) -> None:
    """Check a run.

    Args:
        swarm: after `run`.
        finishing: peers that must end with the swarm's model; all others must not.
        honest: whether merged values must be the mean of what was contributed.
    """
    check_end(swarm, finishing)
    check_history(swarm)
    check_delivered(swarm)
    for before, result in final_rounds(swarm):
        check_adopted(swarm, result)
        if honest:
            check_merged(swarm, before, result)
            check_offered(swarm, before, result)
    check_once(swarm)
    check_entitled(swarm)
    assert {index: kept for index, kept in swarm.kept.items() if kept and index in finishing} == {}
    # whoever has come to the end has nothing to go on with.
    assert {index: kept for index, kept in swarm.remembered.items() if kept and index in finishing} == {}
    assert swarm.network.failures == []
    assert not swarm.left_over, swarm.left_over[0]


def check_end(swarm: SwarmSimulator, finishing: set[int]) -> None:
    """Everybody who finishes has the one model that is on the ledger."""
    assert swarm.last.phase is Phase.COMPLETED, swarm.last
    shown = {i: (ended.outcome is not None, ended.left, repr(ended.error)) for i, ended in swarm.ended.items()}
    assert {i for i, ended in swarm.ended.items() if ended.outcome is not None} == finishing, shown
    ledger = swarm.last.last
    for index in finishing:
        outcome = swarm.ended[index].outcome
        assert outcome is not None
        assert outcome.result == ledger
        if ledger is not None:
            assert outcome.stored is not None
            assert sha256(outcome.stored.buffer) == ledger.sha256


def final_rounds(swarm: SwarmSimulator) -> list[tuple[Training, Result]]:
    """Each final result with the last record before it became final."""
    found = []
    for before, after in zip(swarm.history, swarm.history[1:], strict=False):
        if after.last is not None and after.last != before.last:
            found.append((before, after.last))
    return found


def check_history(swarm: SwarmSimulator) -> None:
    """Rounds and attempts only grow; what is final stays; a round's number is not used twice."""
    results: dict[int, Result] = {}
    for before, after in zip(swarm.history, swarm.history[1:], strict=False):
        if after.run > before.run:  # everybody had left before the first result (T-16)
            assert before.last is None
            continue
        assert after.run == before.run
        if before.round is not None and after.round is not None:
            at = [(r.number, r.attempt) for r in (before.round, after.round)]
            assert at[0] <= at[1]
        if after.last is not None:
            assert results.setdefault(after.last.round, after.last) == after.last
    for before, result in final_rounds(swarm):
        assert before.round is not None
        assert 2 * len(result.holders) > len(result.participants)
        assert set(result.contributors) <= set(result.participants)


def check_adopted(swarm: SwarmSimulator, result: Result) -> None:
    """Nobody adopted anything else for a round than what became final."""
    for ended in swarm.ended.values():
        got = ended.merged.get(result.round)
        assert got is None or sha256(got) == result.sha256


def check_merged(swarm: SwarmSimulator, before: Training, result: Result) -> None:
    """The merged values are what the method makes of what the contributors committed to, computed naively.

    For methods that need distances: those are recomputed from whole models, and the weights from those.
    """
    round_ = before.round
    assert round_ is not None
    got = next((e.merged[result.round] for e in swarm.ended.values() if result.round in e.merged), None)
    if got is None:
        return  # nobody was given this round (all were behind)
    manifest = swarm.manifest()
    offers = {c.node: c for c in round_.checkins}
    given = [offers[node] for node in result.contributors]
    arrays = [read_arrays(manifest, memoryview(swarm.commitments[c.commitment])) for c in given]
    weights = [c.weight for c in given]
    if round_.distances:
        weights = counted_weights(swarm, arrays, weights, round_)
    total = sum(weights)
    merged = read_arrays(manifest, memoryview(got))
    off = encoding_error(swarm, before, arrays)
    for name in ("kernel", "bias"):
        mean = sum(a[name].astype(np.float64) * w for a, w in zip(arrays, weights, strict=True)) / total
        expected = mean + momentum(swarm, before, name)
        assert np.allclose(merged[name], expected, rtol=1e-5, atol=1e-5 + off), f"round {result.round}: {name}"


def encoding_error(swarm: SwarmSimulator, before: Training, models: list[dict[str, Array]]) -> float:
    """P-43, P-46: how far off an element of one of these models is at most, after its difference has been encoded."""
    if before.last is None:
        return 0.0
    part = {"float32": 0.0, "bf16": 2.0**-8, "fp16": 2.0**-11, "int8": 1 / 127}[swarm.settings.wire]
    base = read_arrays(swarm.manifest(), memoryview(swarm.models[before.last.sha256]))
    return part * max(float(np.abs(m[name] - base[name]).max()) for m in models for name in ("kernel", "bias"))


def counted_weights(
    swarm: SwarmSimulator, models: list[dict[str, Array]], weights: list[int], round_: Round
) -> list[int]:
    """What a method makes of the weights by distances, which the ledger must have right."""
    n = len(models)
    flat = [np.concatenate([m[name].astype(np.float64).ravel() for name in ("kernel", "bias")]) for m in models]
    apart = np.array([[float(np.sum((a - b) ** 2)) for b in flat] for a in flat])
    rtol = 1e-6 if swarm.settings.wire == "float32" else 1e-3
    assert np.allclose(unpack_distances(round_.distances, n), apart, rtol=rtol), "the distances on the ledger are wrong"
    return method_of(swarm.settings).weigh(unpack_distances(round_.distances, n), weights)


def momentum(swarm: SwarmSimulator, before: Training, name: str) -> Array | float:
    """What fedavgm adds to the mean, by the two newest results on the ledger: 0.9 (x - x_before)."""
    if swarm.settings.merge_method != "fedavgm" or before.last is None or before.previous is None:
        return 0.0
    manifest = swarm.manifest()
    models = (swarm.models[result.sha256] for result in (before.last, before.previous))
    newest, older = (read_arrays(manifest, memoryview(model))[name].astype(np.float64) for model in models)
    return 0.9 * (newest - older)


def largest_loss(swarm: SwarmSimulator, node: NodeId) -> float:
    """P-44: how large an element of a peer's residual can be at most."""
    largest = 0.0
    for before, _ in final_rounds(swarm):
        for offer in before.round.checkins if before.round is not None else ():
            if offer.node == node and offer.commitment in swarm.commitments:
                model = read_arrays(swarm.manifest(), memoryview(swarm.commitments[offer.commitment]))
                largest = max(largest, encoding_error(swarm, before, [model]))
    return largest


def check_offered(swarm: SwarmSimulator, before: Training, result: Result) -> None:
    """R-7, R-17: who trains offers what it has trained, on top of the newest result: newest + (own - base)."""
    assert before.round is not None
    for offer in before.round.checkins:
        if offer.mode != "active" or offer.node not in result.contributors or offer.commitment not in swarm.committed:
            continue
        index, sync = swarm.committed[offer.commitment]
        if any(planned.fault is Fault.OTHER_BYTES and planned.node == index for planned in swarm.faults.plan):
            continue  # its own parameters changed after it had committed to them
        asked = swarm.asked[index][sync - 1]
        offered = swarm.commitments[offer.commitment]
        newest = before.last.round if before.last is not None else -1
        if asked.adopted == newest and (before.last is None or swarm.settings.wire == "float32"):
            assert offered == asked.own
            continue
        assert before.last is not None
        assert asked.base, f"round {result.round}: peer {index} offers what builds on nothing that it adopted"
        manifest = swarm.manifest()
        models = (swarm.models[before.last.sha256], asked.own, asked.base, offered)
        top, own, base, got = (read_arrays(manifest, memoryview(model)) for model in models)
        # What was lost before travels now, and what is lost now does not: R-42.
        off = 1e-6 + encoding_error(swarm, before, [got]) + 1.1 * largest_loss(swarm, offer.node)
        for name in ("kernel", "bias"):
            expected = top[name].astype(np.float64) + (own[name].astype(np.float64) - base[name].astype(np.float64))
            assert np.allclose(got[name], expected, rtol=1e-6, atol=off), f"round {result.round}, peer {index}: {name}"
        assert got["steps"] == (own if asked.adopted == newest else top)["steps"]


def carried_over(swarm: SwarmSimulator) -> list[tuple[int, int]]:
    """R-17: (round, peer) where what a peer had trained on an older result was merged."""
    found = []
    for before, result in final_rounds(swarm):
        assert before.round is not None
        newest = before.last.round if before.last is not None else -1
        for offer in before.round.checkins:
            if offer.mode == "active" and offer.node in result.contributors and offer.commitment in swarm.committed:
                index, sync = swarm.committed[offer.commitment]
                if swarm.asked[index][sync - 1].adopted != newest:
                    found.append((result.round, index))
    return found


def check_once(swarm: SwarmSimulator) -> None:
    """R-17: what a program has trained until one sync is merged in one round at most."""
    merged: dict[tuple[int, int], int] = {}
    for before, result in final_rounds(swarm):
        assert before.round is not None
        for offer in before.round.checkins:
            if offer.mode == "active" and offer.node in result.contributors and offer.commitment in swarm.committed:
                sync = swarm.committed[offer.commitment]
                assert merged.setdefault(sync, result.round) == result.round, f"sync {sync} in two rounds"


def check_entitled(swarm: SwarmSimulator) -> None:
    """Nobody was served anything that the ledger did not entitle it to at some moment."""
    charged: set[tuple[int, int, int, NodeId]] = set()
    contributing: set[tuple[int, int, NodeId]] = set()
    enrolled: set[NodeId] = set()
    for record in swarm.history:
        enrolled |= {peer.node for peer in record.peers if peer.state is not PeerState.LEFT}
        round_ = record.round
        if record.phase is Phase.MERGING and round_ is not None:
            charged |= {(round_.number, round_.attempt, s, n) for s, n in _charges(round_)}
            contributing |= {(round_.number, round_.attempt, node) for node in round_.contributors}
    for server, caller, request in swarm.served:
        match request:
            case ChunkRequest():
                assert (request.round, request.attempt, request.shard, caller) in charged, (caller, request)
                assert (request.round, request.attempt, server) in contributing, (server, request)
            case ResultRequest():
                assert caller in enrolled, (caller, request)


def _charges(round_: Round) -> list[tuple[int, NodeId]]:
    return [
        (shard, node) for shard in range(round_.shards) for node in (round_.leaders[shard], *round_.witnesses[shard])
    ]


# --- runs that may end in more than one way ---------------------------------------------------------------------------


def check_any_end(swarm: SwarmSimulator, schedule: Schedule) -> None:
    """Judge a made-up run: what may never happen did not, and everybody came to an end that its schedule explains."""
    finished = {index for index, ended in swarm.ended.items() if ended.outcome is not None or ended.gone}
    for index, ended in swarm.ended.items():
        if index in finished:
            continue
        why = str(ended.error)
        assert ended.error is not None or index in schedule.mortal, (index, ended)
        allowed = index in schedule.mortal or schedule.starved
        # Where few are needed the others may be done before a late one comes, which is told so.
        assert allowed or "has completed run 1" in why, (index, ended.error)
        if not allowed:
            continue
        stated = (Refused, WaitExpired, Unreachable, NonFinite, *([Broken] if index in _diskless(schedule) else []))
        assert ended.error is None or isinstance(ended.error, stated), ended
    check_history(swarm)
    check_delivered(swarm)
    for before, result in final_rounds(swarm):
        check_adopted(swarm, result)
        check_merged(swarm, before, result)
        check_offered(swarm, before, result)
    check_once(swarm)
    check_entitled(swarm)
    check_held(swarm, schedule)
    assert swarm.network.failures == []
    assert not swarm.left_over, swarm.left_over[0]
    if swarm.last.phase is Phase.COMPLETED and swarm.last.last is not None:
        for index in finished:
            outcome = swarm.ended[index].outcome
            assert outcome is None or outcome.result == swarm.last.last


def _diskless(schedule: Schedule) -> set[int]:
    return {planned.node for planned in schedule.faults if planned.fault is Fault.LOST_DISK}


def check_delivered(swarm: SwarmSimulator) -> None:
    """Nothing was given to a program before the ledger said that it is final."""
    assert swarm.early == []


def check_held(swarm: SwarmSimulator, schedule: Schedule) -> None:
    """While one of those that stored the newest result lives, with its disk, somebody can serve it."""
    result = swarm.last.last
    if result is None:
        return
    lost = _diskless(schedule)
    lying = {planned.node for planned in schedule.faults if planned.fault is Fault.NEVER_SERVES}
    for node in result.holders:
        index = swarm.index_of(node)
        if index in swarm.alive and index not in lost | lying:
            assert (result.round, result.sha256) in swarm.on_disk[index], f"peer {index} stored round {result.round}"
