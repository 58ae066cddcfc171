"""Before step 4 of a round, where the method needs distances: pull a shard, verify, measure, commit.

What was pulled is kept by commitment: merging, which comes next, pulls nothing again. Spec: docs/spec/round.md, R-24.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from swarmlearning.contracts.messages import Measure
from swarmlearning.merge.distances import measure_shard
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.sl.chunkfile import Chunks
from swarmlearning.sl.desk import Desk, MeasuredShard
from swarmlearning.sl.exchange import Shard
from swarmlearning.sl.merging import merge_and_commit, pull_or_report, still_charged
from swarmlearning.sl.plan import MeasureShard, MergeShard
from swarmlearning.sl.pulling import promise_of, round_of
from swarmlearning.sl.weighing import chunks_a_step


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
    shard = Shard(size=desk.travels.size, shards=round_.shards, shard=action.shard)
    made_of = tuple(promise_of(round_, contributor) for contributor in action.contributors)
    measured = desk.measured.get((action.round, action.shard))
    # Measured before, but the commit failed: doing it all again would look like progress for ever.
    if measured is None or measured.shard != shard or measured.made_of != made_of:

        def work_of(sources: Sequence[Chunks]) -> Measuring:
            def note(done: int) -> None:
                desk.measuring[action.round, action.shard] = -(-done // chunks_a_step(len(sources)))

            return Measuring(shard, desk.travels, sources, note)

        work = await pull_or_report(desk, action, shard, work_of)
        if work is None:
            return
        measured = await desk.run_blocking(work.result, made_of)
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


class Measuring:
    """A shard that is measured once all its contributors' chunks are there."""

    def __init__(
        self, shard: Shard, manifest: Manifest, sources: Sequence[Chunks], note: Callable[[int], None]
    ) -> None:
        """Prepare to measure.

        Args:
            shard: of the buffers.
            manifest: by which they are laid out.
            sources: where each contributor's chunks lie, in node-id order.
            note: told how many chunks are measured.
        """
        self._shard = shard
        self._manifest = manifest
        self._sources = sources
        self._note = note
        self.done = 0
        """Chunks that are there, and at the end measured."""
        self._distances = b""

    @property
    def total(self) -> int:
        """Chunks of the shard."""
        return len(self._shard.indices)

    def advance(self, upto: int) -> None:
        """Measure, once `upto` says that all are there."""
        if upto == self.total:
            sources = [chunks.source() for chunks in self._sources]
            self._distances = measure_shard(self._manifest, sources, self._shard.indices, step=self._note)
        self.done = upto

    def result(self, made_of: tuple[bytes, ...]) -> MeasuredShard:
        """The measured shard."""
        if not self.total:
            self.advance(0)  # a shard without a chunk: nothing was ever there to be worked on
        return MeasuredShard(self._shard, self._distances, made_of)
