"""Step 4 of a round, as leader or witness: pull a shard from its contributors, verify, merge, commit.

Merging follows the pulls: a chunk is merged once every contributor's has come.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from swarmlearning.contracts.messages import MergeCommit, Unreachable
from swarmlearning.contracts.records import Round
from swarmlearning.contracts.rounds import charged_nodes
from swarmlearning.errors import Refused
from swarmlearning.merge.chunks import ChunkSource
from swarmlearning.merge.method import MergeMethod
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import HASH_BYTES, merged_leaf, merged_root
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.sl.chunkfile import ChunkFile, Chunks
from swarmlearning.sl.desk import Desk, MergedShard, log
from swarmlearning.sl.exchange import STEP_CHUNKS, Shard
from swarmlearning.sl.following import Work
from swarmlearning.sl.plan import MergeShard, SayLost
from swarmlearning.sl.pulling import Charge, NotServed, pull_along, round_of
from swarmlearning.sl.ticking import tick
from swarmlearning.sl.weighing import ingredients_of, past_of, weights_of
from swarmlearning.types import NodeId, short_name

W = TypeVar("W", bound=Work)


async def merge_and_commit(desk: Desk, action: MergeShard) -> None:
    """Lead or witness one shard.

    Raises:
        Refused: the record moved on, or the ledger refused the commit.
        Unreachable: the SN does not answer.
    """
    round_ = round_of(desk, action.round)
    shard = Shard(size=desk.travels.size, shards=round_.shards, shard=action.shard)
    made_of = ingredients_of(desk, round_, action.contributors)
    merged = desk.merged.get((action.round, action.shard))
    # Merged before, but the commit failed: doing it all again would look like progress for ever.
    if merged is None or merged.shard != shard or merged.made_of != made_of:
        past = past_of(desk)
        weights = await desk.run_blocking(weights_of, desk, round_, action.contributors)
        counted = {node: weight for node, weight in zip(action.contributors, weights, strict=True) if weight}
        into = await desk.run_blocking(desk.scratch, shard)

        def work_of(sources: Sequence[Chunks]) -> Merging:
            def note(steps: int) -> None:
                desk.merging[action.round, action.shard] = steps

            return Merging(desk.method, shard, desk.travels, sources, list(counted.values()), past, into, note)

        work = await pull_or_report(desk, action, shard, work_of, tuple(counted))
        if work is None:
            return
        merged = work.result(made_of)
    desk.reach("merged")
    current = still_charged(desk, action)
    desk.merged[action.round, action.shard] = merged
    await desk.submitter.require(
        MergeCommit(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=current.attempt,
            shard=action.shard,
            root=merged.root,
        )
    )


async def pull_or_report(
    desk: Desk,
    action: Charge,
    shard: Shard,
    work_of: Callable[[Sequence[Chunks]], W],
    counted: tuple[NodeId, ...] | None = None,
) -> W | None:
    """Work done over the chunks of all contributors, or of those that count; None once one has been reported.

    Raises:
        Refused: the record moved on.
        Unreachable: the SN does not answer.
        Broken: the disk is full or damaged.
    """
    contributors = action.contributors if counted is None else counted
    try:
        return await pull_along(desk, action, contributors, shard, desk.travels, work_of)
    except NotServed as fault:
        await _require_known(desk, action, fault)
        await _report(desk, action, fault)
        return None


def still_charged(desk: Desk, action: Charge) -> Round:
    """The round, if it still wants this very work: what was made of other contributors must not be committed.

    Raises:
        Refused: the record has moved on.
    """
    current = round_of(desk, action.round)
    if current.contributors != action.contributors or desk.node not in charged_nodes(current, action.shard):
        raise Refused(f"round {action.round}: shard {action.shard} is merged otherwise now", code="stale")
    return current


async def _require_known(desk: Desk, action: Charge, fault: NotServed) -> None:
    """R-9: nobody is reported for not knowing what the ledger, when it fell silent, had not told everybody.

    Raises:
        Refused: the ledger was out; we pull again.
    """
    if not fault.is_behind:
        return
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    code = await tick(desk, action.round, round_of(desk, action.round).attempt)
    if code is None or loop.time() - began_s > desk.lease_s / 2:
        who = short_name(fault.contributor)
        raise Refused(f"round {action.round}: the ledger was out, so {who} may not know of it", code="stale")


async def _report(desk: Desk, action: Charge, fault: NotServed) -> None:
    """R-9: say which contributor's chunks cannot be had."""
    log.warning(
        "round %d: %s cannot be merged: %s (%s)",
        action.round,
        short_name(fault.contributor),
        fault.reason,
        fault.detail,
    )
    while True:
        attempt = still_charged(desk, action).attempt
        report = Unreachable(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=attempt,
            shard=action.shard,
            contributor=fault.contributor,
            reason=fault.reason,
            detail=fault.detail[:200],
        )
        try:
            await desk.submitter.require(report)
        except Refused as refused:
            if refused.code != "stale":
                raise
            # Somebody else's report has begun another attempt: what we found out holds in that one too.
            await desk.wait_attempt(action.round, attempt)
        else:
            return


async def say_lost(desk: Desk, action: SayLost) -> None:
    """R-18: our own offer is gone, since we restarted: nobody has to find that out.

    Raises:
        Refused: the record moved on.
        Unreachable: our SN does not answer.
    """
    detail = "it restarted and no longer holds what it checked in with"
    log.warning("round %d: this node %s", action.round, detail.removeprefix("it "))
    await desk.submitter.require(
        Unreachable(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=action.attempt,
            shard=0,
            contributor=desk.node,
            reason="unreachable",
            detail=detail,
        )
    )


class Merging:
    """A shard that is merged as its contributors' chunks come."""

    def __init__(
        self,
        method: MergeMethod,
        shard: Shard,
        manifest: Manifest,
        sources: Sequence[Chunks],
        weights: Sequence[int],
        past: tuple[ChunkSource | None, ChunkSource | None],
        into: ChunkFile,
        note: Callable[[int], None],
    ) -> None:
        """Prepare to merge.

        Args:
            method: merges.
            shard: of the buffers.
            manifest: by which they are laid out.
            sources: where each contributor's chunks lie, in node-id order.
            weights: one a contributor.
            past: the newest result and the one before it, where the method needs them.
            into: takes the merged chunks.
            note: told how many steps (R-10) are done.
        """
        self._note = note
        self._into = into
        self._shard = shard
        base, previous = past
        given = [chunks.source() for chunks in sources]
        self._merged = merge_shard(manifest, method, given, weights, shard.indices, base=base, previous=previous)
        self._leaves = bytearray()

    @property
    def done(self) -> int:
        """Chunks merged."""
        return len(self._leaves) // HASH_BYTES

    @property
    def total(self) -> int:
        """Chunks of the shard."""
        return len(self._shard.indices)

    def advance(self, upto: int) -> None:
        """Merge until `upto` chunks are done; each is hashed while it is in the caches."""
        for index, chunk in itertools.islice(self._merged, upto - self.done):
            self._into.write(index, chunk)
            self._leaves += merged_leaf(chunk)
            self._note(-(-self.done // STEP_CHUNKS))

    def result(self, made_of: tuple[bytes, ...]) -> MergedShard:
        """The merged shard."""
        shard, leaves = self._shard, bytes(self._leaves)
        root = merged_root(leaves, shard.size, shard=shard.shard, shards=shard.shards)
        return MergedShard(shard, root, leaves, self._into, made_of)
