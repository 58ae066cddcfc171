"""Step 4 of a round, as leader or witness: pull a shard from its contributors, verify, merge, commit."""

import asyncio
from typing import Final, Literal

from swarmlearning.contracts.messages import MergeCommit, Unreachable
from swarmlearning.contracts.records import Phase, Round
from swarmlearning.contracts.rounds import charged_nodes
from swarmlearning.errors import NonFinite, PeerError, Refused, VerificationError
from swarmlearning.errors import Unreachable as UnreachableError
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import CHUNK_BYTES, merged_leaf, merged_root
from swarmlearning.sl.desk import Desk, MergedShard, log
from swarmlearning.sl.exchange import STEP_CHUNKS, STREAM_CHUNKS, ChunkRequest, Pull, Shard
from swarmlearning.sl.plan import MeasureShard, MergeShard, SayLost
from swarmlearning.sl.ticking import tick
from swarmlearning.sl.weighing import ingredients_of, past_of, promise_of, weights_of
from swarmlearning.types import NodeId, short_name

PULLS_AT_ONCE: Final = 4
"""Contributors pulled from at the same time."""

RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 2.0

Work = MergeShard | MeasureShard
"""What somebody in charge of a shard does with what it pulls."""

Reason = Literal["unreachable", "unverified", "nonfinite"]


class _NotServed(Exception):
    """A contributor's chunks cannot be had."""

    def __init__(self, contributor: NodeId, reason: Reason, detail: str, *, is_behind: bool = False) -> None:
        super().__init__(detail)
        self.is_behind = is_behind
        """It answers, but knows nothing of this round."""
        self.contributor = contributor
        self.reason: Reason = reason
        self.detail = detail


def round_of(desk: Desk, number: int) -> Round:
    """The merging round `number`, as the newest record has it.

    Raises:
        Refused: the record has moved on.
    """
    record = desk.record
    if record.phase is not Phase.MERGING or record.round is None or record.round.number != number:
        raise Refused(f"round {number} of {desk.contract} is not merging any more", code="stale")
    return record.round


async def merge_and_commit(desk: Desk, action: MergeShard) -> None:
    """Lead or witness one shard.

    Raises:
        Refused: the record moved on, or the ledger refused the commit.
        Unreachable: the SN does not answer.
    """
    round_ = round_of(desk, action.round)
    shard = Shard(size=desk.size, shards=round_.shards, shard=action.shard)
    made_of = ingredients_of(desk, round_, action.contributors)
    merged = desk.merged.get((action.round, action.shard))
    # Merged before, but the commit failed: doing it all again would look like progress for ever.
    if merged is None or merged.shard != shard or merged.made_of != made_of:
        past = past_of(desk)
        weights = await desk.run_blocking(weights_of, desk, round_, action.contributors)
        counted = {node: weight for node, weight in zip(action.contributors, weights, strict=True) if weight}
        buffers = await pull_or_report(desk, action, shard, tuple(counted))
        if buffers is None:
            return
        given = list(counted.values())
        merged = await desk.run_blocking(_merge, desk, action, shard, buffers, given, made_of, past)
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
    desk: Desk, action: Work, shard: Shard, counted: tuple[NodeId, ...] | None = None
) -> list[memoryview] | None:
    """The chunks of a shard of all contributors, or of those that count; None once one has been reported.

    Raises:
        Refused: the record moved on.
        Unreachable: the SN does not answer.
    """
    try:
        return await _pull_all(desk, action, action.contributors if counted is None else counted, shard)
    except _NotServed as fault:
        await _require_known(desk, action, fault)
        await _report(desk, action, fault)
        return None


def still_charged(desk: Desk, action: Work) -> Round:
    """The round, if it still wants this very work: what was made of other contributors must not be committed.

    Raises:
        Refused: the record has moved on.
    """
    current = round_of(desk, action.round)
    if current.contributors != action.contributors or desk.node not in charged_nodes(current, action.shard):
        raise Refused(f"round {action.round}: shard {action.shard} is merged otherwise now", code="stale")
    return current


async def _require_known(desk: Desk, action: Work, fault: _NotServed) -> None:
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


async def _report(desk: Desk, action: Work, fault: _NotServed) -> None:
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


def _merge(
    desk: Desk,
    action: MergeShard,
    shard: Shard,
    buffers: list[memoryview],
    weights: list[int],
    made_of: tuple[bytes, ...],
    past: tuple[memoryview | None, memoryview | None],
) -> MergedShard:
    """Merge the shard's chunks; computes, so it runs away from the event loop."""
    into = desk.scratch(shard.indices)
    leaves = bytearray()
    base, previous = past
    merged = merge_shard(desk.manifest, desk.method, buffers, weights, shard.indices, base=base, previous=previous)
    for count, (index, chunk) in enumerate(merged):
        into[index * CHUNK_BYTES : index * CHUNK_BYTES + len(chunk)] = chunk
        leaves += merged_leaf(chunk)
        desk.merging[action.round, action.shard] = count // STEP_CHUNKS + 1
    root = merged_root(bytes(leaves), shard.size, shard=shard.shard, shards=shard.shards)
    return MergedShard(shard, root, bytes(leaves), into, made_of)


async def _pull_all(desk: Desk, action: Work, contributors: tuple[NodeId, ...], shard: Shard) -> list[memoryview]:
    """These contributors' chunks of the shard, in node-id order.

    Raises:
        _NotServed: one's cannot be had.
        Refused: the record moved on.
    """
    gate, lease_s = asyncio.Semaphore(PULLS_AT_ONCE), desk.lease_s

    async def one(contributor: NodeId) -> memoryview:
        if contributor == desk.node:
            if desk.offer is None or desk.offer.commitment.root != promise_of(round_of(desk, action.round), desk.node):
                # We restarted after our check-in and cannot keep its promise; others will find the same.
                raise Refused("this node no longer holds the parameters it checked in with", code="stale")
            return desk.offer.buffer
        async with gate:
            return await _pull_one(desk, action, shard, contributor, lease_s)

    tasks = [asyncio.ensure_future(one(contributor)) for contributor in contributors]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pull_one(desk: Desk, action: Work, shard: Shard, contributor: NodeId, lease_s: float) -> memoryview:
    """One contributor's chunks; tries again, keeping what was verified, until half a lease has passed in silence.

    Raises:
        _NotServed: it served what does not verify, nothing for half a lease, or says that it has them no more.
        Refused: the record moved on.
    """
    loop = asyncio.get_running_loop()
    round_ = round_of(desk, action.round)
    root = promise_of(round_, contributor)
    key = (action.round, shard, root)
    known = desk.pulls.get(key)
    if known is None:
        buffer = await desk.run_blocking(desk.scratch, shard.indices)
        known = desk.pulls[key] = (Pull(desk.manifest, shard, root, buffer, salted=True), buffer)
    pull, buffer = known
    silent_since, wait_s = loop.time(), RETRY_FIRST_S

    def step(received: int) -> None:
        nonlocal silent_since
        silent_since = loop.time()
        desk.bytes_received += received

    while True:
        request = ChunkRequest(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=round_of(desk, action.round).attempt,
            shard=action.shard,
            start=pull.done,
        )
        before = pull.done
        try:
            source = desk.address_of(contributor)
            await pull.run(desk.client, source, STREAM_CHUNKS, request, idle_s=lease_s / 2, step=step)
        except NonFinite as error:
            raise _NotServed(contributor, "nonfinite", str(error)) from error
        except VerificationError as error:
            raise _NotServed(contributor, "unverified", str(error)) from error
        except (UnreachableError, PeerError) as error:
            # Whoever restarted cannot keep its promise, and says so: waiting does not bring it back.
            is_gone = isinstance(error, Refused) and error.code == "gone"
            if is_gone or loop.time() - silent_since > lease_s / 2:
                is_behind = isinstance(error, Refused) and error.code == "stale"
                raise _NotServed(contributor, "unreachable", str(error), is_behind=is_behind) from error
            wait_s = RETRY_FIRST_S if pull.done > before else min(2 * wait_s, RETRY_MOST_S)
            await asyncio.sleep(wait_s)
        else:
            return buffer
