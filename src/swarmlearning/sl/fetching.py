"""Step 5 of a round, and catching up: fetch merged shards, verify them, put the whole on disk.

What was fetched and verified is kept by (shard, root), so another attempt or another source goes on from there.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.messages import Stored, Suspect
from swarmlearning.contracts.records import Result
from swarmlearning.contracts.rounds import shard_sources
from swarmlearning.errors import NonFinite, PeerError, Refused, Unreachable, VerificationError
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, chunk_length, result_root
from swarmlearning.parameters.manifest import find_nonfinite
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.exchange import STREAM_RESULT, Pull, ResultRequest, Shard
from swarmlearning.sl.merging import RETRY_FIRST_S, RETRY_MOST_S, round_of
from swarmlearning.sl.plan import StoreResult
from swarmlearning.sl.store import OpenResult
from swarmlearning.types import NodeId, short_name

SHARDS_AT_ONCE: Final = 4
"""Merged shards fetched at the same time."""


class _NotServed(msgspec.Struct, frozen=True):
    """A merged shard that nobody serves."""

    shard: int
    silent: frozenset[NodeId]
    """Who did not answer at all."""


async def store_and_say(desk: Desk, action: StoreResult) -> None:
    """Fetch the agreed shards of a merging round, store the whole, and tell the ledger.

    A leader that does not serve what it committed, or committed NaN, is suspected.

    Raises:
        Refused: the record moved on.
        Unreachable: the SN does not answer.
    """
    round_ = round_of(desk, action.round)
    lease_s = desk.lease_s
    existing = desk.store.get(desk.contract, desk.run, action.round)
    if existing is None or existing.record.roots != action.roots:
        buffer = await desk.run_blocking(desk.scratch, range(chunk_count(desk.size)))
        sources = [shard_sources(round_, shard) for shard in range(round_.shards)]
        failed = await _fetch_shards(desk, action.round, action.roots, sources, buffer, lease_s)
        if failed is not None:
            await _suspect(desk, action, failed)
            return
        existing = await desk.run_blocking(desk.store.save, desk.contract, desk.run, action.round, action.roots, buffer)
        desk.fetched.clear()
    desk.reach("stored")
    current = round_of(desk, action.round)
    await desk.submitter.require(
        Stored(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=current.attempt,
            result_root=result_root(action.roots),
            sha256=existing.record.sha256,
        )
    )


async def catch_up(desk: Desk, result: Result) -> OpenResult:
    """Fetch a final result from whoever holds it.

    Raises:
        Unreachable: no holder serves it now; call again.
        VerificationError: the result is not the one on the ledger.
    """
    lease_s = desk.lease_s
    buffer = await desk.run_blocking(desk.scratch, range(chunk_count(desk.size)))
    others = [node for node in (*result.holders, *result.participants) if node != desk.node]
    sources = [list(dict.fromkeys(others)) for _ in result.roots]
    failed = await _fetch_shards(desk, result.round, result.roots, sources, buffer, lease_s)
    if failed is not None:
        names = ", ".join(short_name(node) for node in sources[failed.shard]) or "nobody"
        raise Unreachable(f"round {result.round} of {desk.contract}: its result is held by {names}; none serves it now")
    stored = await desk.run_blocking(
        desk.store.save, desk.contract, desk.run, result.round, result.roots, buffer, result.sha256
    )
    desk.fetched.clear()
    return stored


async def _fetch_shards(
    desk: Desk,
    round_: int,
    roots: Sequence[bytes],
    sources: Sequence[Sequence[NodeId]],
    buffer: memoryview,
    lease_s: float,
) -> _NotServed | None:
    """Bring all merged shards into `buffer`; the first shard that nobody serves, or None."""
    gate = asyncio.Semaphore(SHARDS_AT_ONCE)
    shards = len(roots)

    async def one(number: int) -> _NotServed | None:
        shard = Shard(size=desk.size, shards=shards, shard=number)
        async with gate:
            own = desk.merged.get((round_, number))
            if own is not None and own.root == roots[number]:
                try:
                    await desk.run_blocking(_copy, shard, own.buffer, buffer, desk)
                except NonFinite:
                    return _NotServed(number, frozenset())
                return None
            fetched = await _fetch_shard(desk, round_, shard, roots[number], sources[number], lease_s)
            if isinstance(fetched, _NotServed):
                return fetched
            await desk.run_blocking(_copy, shard, fetched, buffer, None)
            return None

    tasks = [asyncio.ensure_future(one(number)) for number in range(shards)]
    try:
        done = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return next((failed for failed in done if failed is not None), None)


def _copy(shard: Shard, source: memoryview, target: memoryview, check: Desk | None) -> None:
    """Copy a shard's chunks; our own merge is checked for NaN, what came from others was when it came."""
    for index in shard.indices:
        low = index * CHUNK_BYTES
        chunk = source[low : low + chunk_length(shard.size, index)]
        if check is not None:
            bad = find_nonfinite(check.manifest, chunk, offset=low)
            if bad is not None:
                raise NonFinite(f"merged tensor {bad} holds NaN or infinity")
        target[low : low + len(chunk)] = chunk


async def _fetch_shard(
    desk: Desk, round_: int, shard: Shard, root: bytes, sources: Sequence[NodeId], lease_s: float
) -> memoryview | _NotServed:
    """One merged shard from any of `sources`, in turn until a lease has passed in silence."""
    loop = asyncio.get_running_loop()
    key = (shard, root)
    if key not in desk.fetched:
        buffer = await desk.run_blocking(desk.scratch, shard.indices)
        desk.fetched[key] = (Pull(desk.manifest, shard, root, buffer, salted=False), buffer)
    pull, buffer = desk.fetched[key]
    silent_since, wait_s = loop.time(), RETRY_FIRST_S

    def step(received: int) -> None:
        nonlocal silent_since
        silent_since = loop.time()
        desk.bytes_received += received

    liars: set[NodeId] = set()
    answered: set[NodeId] = set()
    while True:
        for source in sources:
            if source in liars or source == desk.node:
                continue
            request = ResultRequest(
                contract=desk.contract, run=desk.run, round=round_, shard=shard.shard, start=pull.done
            )
            try:
                address = desk.address_of(source)
                await pull.run(desk.client, address, STREAM_RESULT, request, idle_s=lease_s / 2, step=step)
            except (VerificationError, NonFinite) as error:
                log.warning("round %d, shard %d from %s: %s", round_, shard.shard, short_name(source), error)
                liars.add(source)
            except (Unreachable, PeerError) as error:
                if isinstance(error, PeerError):
                    answered.add(source)
                log.debug("round %d, shard %d from %s: %s", round_, shard.shard, short_name(source), error)
            else:
                return buffer
        if loop.time() - silent_since > lease_s or liars >= set(sources) - {desk.node}:
            return _NotServed(shard.shard, frozenset(sources) - answered - liars)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, RETRY_MOST_S)


async def _suspect(desk: Desk, action: StoreResult, failed: _NotServed) -> None:
    current = round_of(desk, action.round)
    leader = current.leaders[failed.shard]
    if leader == desk.node or current.attempt != action.attempt:
        raise Refused(f"round {action.round}: shard {failed.shard} cannot be fetched in this attempt", code="stale")
    await suspect(desk, current.number, current.attempt, failed.shard, leader, gone=leader in failed.silent)


async def suspect(desk: Desk, round_: int, attempt: int, shard: int, leader: NodeId, *, gone: bool = False) -> None:
    """Tell the ledger that somebody whom a shard waits for, or the storing (shard -1), does not move.

    Args:
        desk: the training.
        round_: its round.
        attempt: of the round.
        shard: that waits, or -1.
        leader: whom it waits for.
        gone: whether it has not answered at all.

    Raises:
        Refused: the record moved on.
        Unreachable: the SN does not answer.
    """
    what = "the stores" if shard == STORING else f"shard {shard}"
    how = "does not answer" if gone else "does not move"
    log.warning("round %d: %s, whom %s waits for, %s", round_, short_name(leader), what, how)
    await desk.submitter.require(
        Suspect(
            contract=desk.contract,
            run=desk.run,
            round=round_,
            attempt=attempt,
            shard=shard,
            leader=leader,
            gone=gone,
        )
    )
