"""Step 5 of a round, and catching up: fetch merged shards, verify them, put the whole on disk.

What was fetched and verified is kept by (shard, root), so another attempt or another source goes on from there. Chunks
go straight to their place in the result's file, which is hashed as far as it is there.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.messages import Stored, Suspect
from swarmlearning.contracts.records import Result
from swarmlearning.contracts.rounds import encoded_base, shard_sources
from swarmlearning.errors import NonFinite, PeerError, Refused, Unreachable, VerificationError
from swarmlearning.parameters.chunks import CHUNK_BYTES, merged_root, result_root
from swarmlearning.parameters.manifest import find_nonfinite
from swarmlearning.sl.desk import Desk, Fetched, MergedShard, log
from swarmlearning.sl.differences import Applying
from swarmlearning.sl.exchange import STEP_CHUNKS, STREAM_RESULT, Pull, ResultRequest, Shard
from swarmlearning.sl.following import MOST_CHUNKS, Work, follow
from swarmlearning.sl.plan import StoreResult
from swarmlearning.sl.pulling import RETRY_FIRST_S, RETRY_MOST_S, round_of
from swarmlearning.sl.results import OpenResult, Part
from swarmlearning.types import NodeId, short_name

SHARDS_AT_ONCE: Final = 4
"""Merged shards fetched at the same time."""


class _NotServed(msgspec.Struct, frozen=True):
    """A merged shard that nobody serves."""

    shard: int
    silent: frozenset[NodeId]
    """Who did not answer at all."""


class _Wanted(NamedTuple):
    """A result that is to be brought to disk."""

    round: int
    agreed: tuple[bytes, ...]
    """Roots of its shards, as the ledger has them."""
    roots: tuple[bytes, ...]
    """Of the shards that are fetched: those, or the one of the whole."""
    sha256: bytes = b""
    """Of the whole, if the ledger has it."""
    whole: bytes = b""
    """Root of the whole, if that is fetched."""
    base: OpenResult | None = None
    """The shards are of the difference from it."""


class _Nothing:
    """Nothing is to be done with chunks as they come."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self.total = total

    def advance(self, upto: int) -> None:
        """See `Work.advance`."""
        self.done = upto


async def store_and_say(desk: Desk, action: StoreResult) -> None:
    """Fetch the agreed shards of a merging round, store the whole, and tell the ledger.

    A leader that does not serve what it committed, or committed NaN, is suspected.

    Raises:
        Refused: the record moved on.
        Unreachable: the SN does not answer.
    """
    round_ = round_of(desk, action.round)
    existing = desk.store.get(desk.contract, desk.run, action.round)
    if existing is None or existing.record.roots != action.roots:
        sources = [shard_sources(round_, shard) for shard in range(round_.shards)]
        last, base = desk.record.last, None
        if last is not None and encoded_base(desk.record):
            base = await catch_up(desk, last)
        brought = await _bring(desk, _Wanted(action.round, action.roots, action.roots, base=base), sources)
        if isinstance(brought, _NotServed):
            await _suspect(desk, action, brought)
            return
        existing = brought
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
            whole=existing.record.whole,
        )
    )


async def catch_up(desk: Desk, result: Result) -> OpenResult:
    """Fetch a final result from whoever holds it, unless it is here.

    Raises:
        Unreachable: no holder serves it now; call again.
        VerificationError: the result is not the one on the ledger.
        Broken: the disk is full or damaged.
    """
    async with desk.catching_up:
        return desk.stored(result) or await _fetch_final(desk, result)


async def _fetch_final(desk: Desk, result: Result) -> OpenResult:
    others = list(dict.fromkeys(n for n in (*result.holders, *result.participants) if n != desk.node))
    base = desk.store.named(desk.contract, desk.run, result.base) if result.base else None
    if base is not None:
        brought = await _bring_difference(desk, result, base, others)
        if brought is not None:
            return brought
    roots = (result.whole,) if result.whole else result.roots
    wanted = _Wanted(result.round, result.roots, roots, sha256=result.sha256, whole=result.whole)
    found = await _bring(desk, wanted, [others] * len(roots))
    if isinstance(found, _NotServed):
        names = ", ".join(short_name(node) for node in others) or "nobody"
        raise Unreachable(f"round {result.round} of {desk.contract}: its result is held by {names}; none serves it now")
    return found


async def _bring_difference(
    desk: Desk, result: Result, base: OpenResult, others: Sequence[NodeId]
) -> OpenResult | None:
    """R-44: who has the model before it asks for the difference, which is shorter; None: for the whole, then."""
    wanted = _Wanted(result.round, result.roots, result.roots, sha256=result.sha256, base=base)
    try:
        found = await _bring(desk, wanted, [others] * len(result.roots), patient=False)
    except VerificationError as error:
        log.warning("round %d: %s; the whole is fetched", result.round, error)
        return None
    return None if isinstance(found, _NotServed) else found


async def _bring(
    desk: Desk, wanted: _Wanted, sources: Sequence[Sequence[NodeId]], *, patient: bool = True
) -> OpenResult | _NotServed:
    """Bring all shards to disk; or the first shard that nobody serves.

    Args:
        desk: the training.
        wanted: which.
        sources: of each shard, whom to ask.
        patient: whether to ask again until a lease has passed.

    Raises:
        VerificationError: the result is not the one on the ledger.
        Broken: the disk is full or damaged.
    """
    key = wanted.round, wanted.roots
    if key not in desk.fetched:
        begun = await _begin(desk, wanted)
        desk.fetched.setdefault(key, begun)
    fetched = desk.fetched[key]
    failed = await _fetch_shards(desk, wanted, fetched, sources, patient=patient)
    if failed is not None:
        return failed
    try:
        stored = await _finish(desk, wanted, fetched)
    finally:
        if fetched.part is not None and not fetched.part.is_there:  # kept; or lost, and then it is fetched anew
            desk.fetched.pop(key, None)
    desk.fetched = {known: other for known, other in desk.fetched.items() if known[0] > wanted.round}
    return stored


async def _begin(desk: Desk, wanted: _Wanted) -> Fetched:
    if wanted.base is not None:
        chunks = await desk.run_blocking(desk.scratch, Shard(size=desk.encoded.size, shards=1, shard=0))
        return Fetched(desk.encoded, wanted.roots, chunks, None)
    part = await _make_room(desk, wanted)
    return Fetched(desk.manifest, wanted.roots, part.chunks, part)


async def _make_room(desk: Desk, wanted: _Wanted) -> Part:
    return await desk.run_blocking(desk.store.begin, desk.contract, desk.run, wanted.round, wanted.agreed, desk.size)


async def _finish(desk: Desk, wanted: _Wanted, fetched: Fetched) -> OpenResult:
    """Keep a result all of whose shards are here.

    Raises:
        VerificationError, Broken: see `_bring`.
    """
    leaves = _leaves_of(desk, wanted.round, fetched)
    if fetched.part is not None or wanted.base is None:
        return await desk.run_blocking(desk.store.finish, fetched.part, wanted.sha256, leaves, wanted.whole)
    part = await _make_room(desk, wanted)
    work = Applying(desk.manifest, fetched.manifest, wanted.base.chunks, fetched.chunks, part)
    while work.done < work.total:
        await desk.run_blocking(work.advance, work.done + MOST_CHUNKS)
        fetched.applied = work.done // STEP_CHUNKS
    whole = merged_root(work.leaves, desk.size, shard=0, shards=1)
    stored = await desk.run_blocking(desk.store.finish, part, wanted.sha256, (work.leaves,), whole)
    desk.differences[wanted.round] = tuple(
        MergedShard(_shard_of(fetched, number), root, leaves[number], fetched.chunks)
        for number, root in enumerate(wanted.roots)
    )
    return stored


def _shard_of(fetched: Fetched, number: int) -> Shard:
    return Shard(size=fetched.manifest.size, shards=len(fetched.roots), shard=number)


def _leaves_of(desk: Desk, round_: int, fetched: Fetched) -> tuple[bytes, ...]:
    """Of every shard, if all are known."""
    leaves = []
    for shard in range(len(fetched.roots)):
        own = desk.merged.get((round_, shard))
        if shard in fetched.pulls:
            leaves.append(fetched.pulls[shard].leaves)
        elif own is not None:
            leaves.append(own.leaves)
        else:
            return ()
    return tuple(leaves)


async def _fetch_shards(
    desk: Desk, wanted: _Wanted, fetched: Fetched, sources: Sequence[Sequence[NodeId]], *, patient: bool
) -> _NotServed | None:
    """Bring all shards to where they belong, hashed as they come; the first that nobody serves, or None."""
    gate, moved = asyncio.Semaphore(SHARDS_AT_ONCE), asyncio.Event()

    async def one(number: int) -> _NotServed | None:
        shard = _shard_of(fetched, number)
        async with gate:
            own = desk.merged.get((wanted.round, number))
            if own is None or own.root != fetched.roots[number]:
                pull = await _pull_of(desk, fetched, shard)
                return await _fetch_shard(desk, wanted, shard, pull, sources[number], moved.set, patient=patient)
            if number in fetched.pulls and fetched.pulls[number].complete:
                return None
            fetched.pulls.pop(number, None)  # we have merged it ourselves meanwhile
            return await _copy_own(desk, own, fetched, moved.set)

    tasks = [asyncio.ensure_future(one(number)) for number in range(len(fetched.roots))]
    work: Work = fetched.part if fetched.part is not None else _Nothing(fetched.total)
    await follow(desk.run_blocking, work, lambda: fetched.ready, moved, tasks)
    return next((failed for failed in (task.result() for task in tasks) if failed is not None), None)


async def _copy_own(desk: Desk, own: MergedShard, fetched: Fetched, moved: Callable[[], None]) -> _NotServed | None:
    """A shard that we merged ourselves. It is checked for NaN here; what comes from others is when it comes."""
    number, total = own.shard.shard, len(own.shard.indices)
    while (done := fetched.own.setdefault(number, 0)) < total:
        indices = own.shard.indices[done : done + MOST_CHUNKS]
        try:
            await desk.run_blocking(_copy, own, fetched, indices)
        except NonFinite:
            return _NotServed(number, frozenset())
        fetched.own[number] = done + len(indices)
        moved()
    return None


def _copy(own: MergedShard, fetched: Fetched, indices: range) -> None:
    chunk_of = own.chunks.source()
    for index in indices:
        chunk = memoryview(chunk_of(index))
        bad = find_nonfinite(fetched.manifest, chunk, offset=index * CHUNK_BYTES)
        if bad is not None:
            raise NonFinite(f"merged tensor {bad} holds NaN or infinity")
        fetched.chunks.write(index, chunk)


async def _pull_of(desk: Desk, fetched: Fetched, shard: Shard) -> Pull:
    """The pull of a shard into the result's file: begun before, also for another result that has it too, or new."""
    number, root = shard.shard, fetched.roots[shard.shard]
    if number not in fetched.pulls:
        into = fetched.chunks
        for other in list(desk.fetched.values()):
            before = other.pulls.get(number)
            if before is not None and before.is_of(shard, root):
                fetched.pulls[number] = await desk.run_blocking(before.elsewhere, other.chunks, into)
                break
        else:
            fetched.pulls[number] = Pull(fetched.manifest, shard, root, into, salted=False)
    return fetched.pulls[number]


async def _fetch_shard(
    desk: Desk,
    wanted: _Wanted,
    shard: Shard,
    pull: Pull,
    sources: Sequence[NodeId],
    moved: Callable[[], None],
    *,
    patient: bool,
) -> _NotServed | None:
    """One shard from any of `sources`, in turn until a lease has passed in silence; without patience, once."""
    loop = asyncio.get_running_loop()
    lease_s = desk.lease_s
    silent_since, wait_s = loop.time(), RETRY_FIRST_S

    def step(received: int) -> None:
        nonlocal silent_since
        silent_since = loop.time()
        desk.bytes_received += received
        moved()

    liars: set[NodeId] = set()
    answered: set[NodeId] = set()
    while True:
        for source in sources:
            if source in liars or source == desk.node:
                continue
            request = ResultRequest(
                contract=desk.contract,
                run=desk.run,
                round=wanted.round,
                shard=shard.shard,
                start=pull.done,
                whole=wanted.whole != b"",
            )
            try:
                address = desk.address_of(source)
                await pull.run(desk.client, address, STREAM_RESULT, request, idle_s=lease_s / 2, step=step)
            except (VerificationError, NonFinite) as error:
                log.warning("round %d, shard %d from %s: %s", wanted.round, shard.shard, short_name(source), error)
                liars.add(source)
            except (Unreachable, PeerError) as error:
                if isinstance(error, PeerError):
                    answered.add(source)
                log.debug("round %d, shard %d from %s: %s", wanted.round, shard.shard, short_name(source), error)
            else:
                return None
        if not patient or loop.time() - silent_since > lease_s or liars >= set(sources) - {desk.node}:
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
