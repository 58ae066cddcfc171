"""Step 4 of a round, its first half: pull a shard from its contributors and verify it, while something follows.

What follows is `merging`, or whatever else looks at contributors' chunks in their order. What was pulled and verified
is kept on the desk, so that another attempt goes on from there. Spec: docs/spec/round.md, R-9.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeVar

from swarmlearning.contracts.records import Phase, Round
from swarmlearning.errors import NonFinite, PeerError, Refused, VerificationError
from swarmlearning.errors import Unreachable as UnreachableError
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.sl.chunkfile import ChunkFile, Chunks
from swarmlearning.sl.desk import Desk
from swarmlearning.sl.exchange import STREAM_CHUNKS, ChunkRequest, Pull, Shard
from swarmlearning.sl.following import Work, follow
from swarmlearning.sl.plan import MeasureShard, MergeShard
from swarmlearning.types import NodeId

W = TypeVar("W", bound=Work)

PULLS_AT_ONCE: Final = 4
"""Contributors pulled from at the same time."""

RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 2.0

Charge = MergeShard | MeasureShard
"""What somebody in charge of a shard does with what it pulls."""

Reason = Literal["unreachable", "unverified", "nonfinite"]


class NotServed(Exception):
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


def promise_of(round_: Round, contributor: NodeId) -> bytes:
    """The commitment that a contributor checked in with."""
    return next(c.commitment for c in round_.checkins if c.node == contributor)


async def pull_along(
    desk: Desk,
    action: Charge,
    contributors: Sequence[NodeId],
    shard: Shard,
    manifest: Manifest,
    work_of: Callable[[Sequence[Chunks]], W],
) -> W:
    """Pull a shard from contributors, four at a time, and drive work over what all have sent so far.

    Args:
        desk: the training.
        action: names round and shard.
        contributors: whose chunks are needed, in node-id order.
        shard: of the buffers that contributors committed to.
        manifest: by which those are laid out: of what travels.
        work_of: makes the work of where the contributors' chunks lie, in node-id order. It reads a chunk only once
            `advance` has been called for it.

    Returns:
        The work, done.

    Raises:
        NotServed: a contributor's chunks cannot be had.
        Refused: the record moved on.
        Broken: the disk is full or damaged.
    """
    gate, moved = asyncio.Semaphore(PULLS_AT_ONCE), asyncio.Event()
    pulls: list[tuple[NodeId, Pull]] = []
    chunks: list[Chunks] = []
    for contributor in contributors:
        if contributor == desk.node:
            chunks.append(_own(desk, action))
        else:
            pull, file = await _pull_of(desk, action, shard, manifest, contributor)
            pulls.append((contributor, pull))
            chunks.append(file)

    async def one(contributor: NodeId, pull: Pull) -> None:
        async with gate:
            await _pull_one(desk, action, pull, contributor, moved)
        if all(other.complete for _, other in pulls):
            desk.reach("pulled")

    def ready() -> int:
        return min((pull.done for _, pull in pulls), default=len(shard.indices))

    work = work_of(chunks)
    tasks = [asyncio.ensure_future(one(contributor, pull)) for contributor, pull in pulls]
    await follow(desk.run_blocking, work, ready, moved, tasks)
    return work


def _own(desk: Desk, action: Charge) -> Chunks:
    if desk.offer is None or desk.offer.commitment.root != promise_of(round_of(desk, action.round), desk.node):
        # We restarted after our check-in and cannot keep its promise; others will find the same.
        raise Refused("this node no longer holds the parameters it checked in with", code="stale")
    return desk.offer.chunks


async def _pull_of(
    desk: Desk, action: Charge, shard: Shard, manifest: Manifest, contributor: NodeId
) -> tuple[Pull, ChunkFile]:
    """The pull of what a contributor promised, begun in an earlier attempt or new."""
    root = promise_of(round_of(desk, action.round), contributor)
    key = (action.round, shard, root)
    if key not in desk.pulls:
        file = await desk.run_blocking(desk.scratch, shard)
        desk.pulls[key] = (Pull(manifest, shard, root, file, salted=True), file)
    return desk.pulls[key]


async def _pull_one(desk: Desk, action: Charge, pull: Pull, contributor: NodeId, moved: asyncio.Event) -> None:
    """One contributor's chunks; tries again, keeping what was verified, until half a lease has passed in silence.

    Raises:
        NotServed: it served what does not verify, nothing for half a lease, or says that it has them no more.
        Refused: the record moved on.
        Broken: the disk is full or damaged.
    """
    loop = asyncio.get_running_loop()
    lease_s = desk.lease_s
    silent_since, wait_s = loop.time(), RETRY_FIRST_S

    def step(received: int) -> None:
        nonlocal silent_since
        silent_since = loop.time()
        desk.bytes_received += received
        moved.set()

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
            raise NotServed(contributor, "nonfinite", str(error)) from error
        except VerificationError as error:
            raise NotServed(contributor, "unverified", str(error)) from error
        except (UnreachableError, PeerError) as error:
            # Whoever restarted cannot keep its promise, and says so: waiting does not bring it back.
            is_gone = isinstance(error, Refused) and error.code == "gone"
            if is_gone or loop.time() - silent_since > lease_s / 2:
                is_behind = isinstance(error, Refused) and error.code == "stale"
                raise NotServed(contributor, "unreachable", str(error), is_behind=is_behind) from error
            wait_s = RETRY_FIRST_S if pull.done > before else min(2 * wait_s, RETRY_MOST_S)
            await asyncio.sleep(wait_s)
        else:
            return
