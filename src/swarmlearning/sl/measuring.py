"""Before step 4 of a round, where the method needs distances: pull a shard, verify, measure, commit.

What was pulled is kept by commitment: merging, which comes next, pulls nothing again. Spec: docs/spec/round.md, R-24.
"""

from collections.abc import Coroutine
from typing import Any

from swarmlearning.contracts.messages import Measure
from swarmlearning.merge.distances import measure_shard
from swarmlearning.sl.desk import Desk, MeasuredShard
from swarmlearning.sl.exchange import Shard
from swarmlearning.sl.merging import merge_and_commit, pull_or_report, round_of, still_charged
from swarmlearning.sl.plan import MeasureShard, MergeShard
from swarmlearning.sl.weighing import chunks_a_step, promise_of


def work_on(desk: Desk, action: MeasureShard | MergeShard) -> Coroutine[Any, Any, None]:
    """What whoever is in charge of a shard does now; see `measure_and_commit` and `merging.merge_and_commit`."""
    return measure_and_commit(desk, action) if isinstance(action, MeasureShard) else merge_and_commit(desk, action)


async def measure_and_commit(desk: Desk, action: MeasureShard) -> None:
    """Measure one shard as its leader or witness.

    Raises:
        Refused: the record moved on, or the ledger refused the commit.
        Unreachable: the SN does not answer.
    """
    round_ = round_of(desk, action.round)
    shard = Shard(size=desk.size, shards=round_.shards, shard=action.shard)
    made_of = tuple(promise_of(round_, contributor) for contributor in action.contributors)
    measured = desk.measured.get((action.round, action.shard))
    # Measured before, but the commit failed: doing it all again would look like progress for ever.
    if measured is None or measured.shard != shard or measured.made_of != made_of:
        buffers = await pull_or_report(desk, action, shard)
        if buffers is None:
            return
        measured = await desk.run_blocking(_measure, desk, action, shard, buffers, made_of)
    current = still_charged(desk, action)
    desk.measured[action.round, action.shard] = measured
    await desk.submitter.require(
        Measure(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=current.attempt,
            shard=action.shard,
            distances=measured.distances,
        )
    )


def _measure(
    desk: Desk, action: MeasureShard, shard: Shard, buffers: list[memoryview], made_of: tuple[bytes, ...]
) -> MeasuredShard:
    """Measure the shard's chunks; computes, so it runs away from the event loop."""

    def step(done: int) -> None:
        desk.measuring[action.round, action.shard] = -(-done // chunks_a_step(len(buffers)))

    distances = measure_shard(desk.manifest, buffers, shard.indices, step=step)
    return MeasuredShard(shard, distances, made_of)
