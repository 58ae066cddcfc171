"""Offering parameters to the open round. Spec: docs/spec/round.md, R-4, R-5, R-13."""

import asyncio

from msgspec.structs import replace

from swarmlearning.contracts.messages import CheckIn, Finish
from swarmlearning.contracts.records import Phase, Progress, Result
from swarmlearning.contracts.rounds import encoded_base
from swarmlearning.errors import Refused
from swarmlearning.parameters.chunks import SECRET_BYTES, Commitment, commit
from swarmlearning.parameters.wire import reader
from swarmlearning.sl.desk import Desk, Offer
from swarmlearning.sl.differences import encode_offer, file_reader
from swarmlearning.sl.exchange import Shard
from swarmlearning.sl.fetching import catch_up
from swarmlearning.sl.plan import CheckInNow
from swarmlearning.sl.program import Program


async def check_in(desk: Desk, program: Program, action: CheckInNow) -> None:
    """R-4, R-5: offer parameters for the open round.

    Raises:
        Refused: the record moved on, or the ledger refused the check-in.
        Unreachable: the SN does not answer.
    """
    demand, newest_result = program.demand, desk.record.last
    if demand is None:
        return
    _require_open(desk, action)
    offer: Offer | None = None
    mode = action.mode
    if mode == "snapshot" and program.own is None:
        mode = "inactive"  # what it finished with is lost
    if mode in ("active", "snapshot") and program.own is not None:
        if demand.offer is None or demand.offer.base != encoded_base(desk.record):
            # A finished peer's last parameters are another difference from every new result.
            demand.offer = await prepare(desk, program.own, newest_result, feeds_back=mode == "active")
        offer = demand.offer
        desk.reach("offered")
    elif mode == "last":
        stored = desk.stored(newest_result) if newest_result else None
        if stored is None:
            raise Refused("the newest result is not here yet", code="stale")
        offer = await prepare(desk, stored.buffer, newest_result, feeds_back=False)
    _require_open(desk, action)
    # Before the ledger knows of it: whoever is told to ask for it may be faster than our SN's answer.
    desk.offer = offer
    if offer is not None:
        offer.sent = action.round
    demand.tried = action.round
    await desk.submitter.require(
        CheckIn(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=action.attempt,
            base=newest_result.sha256 if newest_result else b"",
            commitment=offer.commitment.root if offer else b"",
            weight=program.request.weight if offer else 0,
            mode=mode,
            progress=shown_progress(desk, program, demand.progress),
        )
    )
    demand.round = action.round
    desk.reach("checked_in")
    program.pacer.checked_in(asyncio.get_running_loop().time())


def shown_progress(desk: Desk, program: Program, progress: Progress) -> Progress:
    """C-18: what goes on the ledger of what a program tells of itself."""
    if not program.request.share:
        return Progress()
    return replace(progress, bytes_received=desk.bytes_received, bytes_sent=desk.bytes_sent)


def _require_open(desk: Desk, action: CheckInNow) -> None:
    """What was promised for a round that has closed meanwhile must still be there when it is asked for.

    Raises:
        Refused: the round is not open any more.
    """
    record = desk.record
    at = (record.round.number, record.round.attempt) if record.round else None
    if record.phase is not Phase.COLLECTING or at != (action.round, action.attempt):
        raise Refused(f"round {action.round}, attempt {action.attempt} is not open any more", code="stale")


async def prepare(desk: Desk, own: memoryview, newest: Result | None, *, feeds_back: bool) -> Offer:
    """R-40 to R-42: commit to parameters, or where differences travel to what they add to the newest result.

    Args:
        desk: the training.
        own: the parameters.
        newest: the newest final result, if there is one.
        feeds_back: whether what earlier encodings have lost is added, and what this one loses may be kept for the next.

    Raises:
        Unreachable: the newest result is not on disk, and nobody serves it now.
        Broken: the disk is full or damaged.
    """
    if newest is None or not encoded_base(desk.record):
        return await promise(desk, own)
    travels = desk.encoded
    base = await catch_up(desk, newest)
    into = await desk.run_blocking(desk.scratch, Shard(size=travels.size, shards=1, shard=0))
    after = await desk.run_blocking(desk.new_residual, travels) if feeds_back else None
    secret = desk.random_bytes(SECRET_BYTES)
    commitment: Commitment = await desk.run_blocking(
        encode_offer,
        desk.manifest,
        travels,
        reader(own),
        file_reader(base.chunks.descriptor),
        desk.residual if feeds_back else None,
        into,
        after,
        secret,
    )
    offer = Offer(memoryview(b""), commitment, secret)
    offer.chunks, offer.base, offer.residual = into, newest.sha256, after
    return offer


async def promise(desk: Desk, buffer: memoryview) -> Offer:
    """Commit to the chunks of a canonical buffer, with fresh salts."""
    secret = desk.random_bytes(SECRET_BYTES)
    commitment: Commitment = await desk.run_blocking(commit, buffer, secret)
    return Offer(buffer, commitment, secret)


async def say_finished(desk: Desk, program: Program) -> None:
    """R-13: tell the ledger that our program's training is over.

    Raises:
        Refused: the ledger refused.
        Unreachable: the SN does not answer.
    """
    if program.demand is not None:
        progress = program.demand.progress if program.request.share else Progress()
        await desk.submitter.require(Finish(contract=desk.contract, run=desk.run, progress=progress))
