"""Offering parameters to the open round. Spec: docs/spec/round.md, R-4, R-5, R-13."""

import asyncio

from msgspec.structs import replace

from swarmlearning.contracts.messages import CheckIn, Finish
from swarmlearning.contracts.records import Phase, Progress
from swarmlearning.errors import Refused
from swarmlearning.parameters.chunks import SECRET_BYTES, Commitment, commit
from swarmlearning.sl.desk import Desk, Offer
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
    offer: Offer | None = None
    mode = action.mode
    if mode == "snapshot" and program.own is None:
        mode = "inactive"  # what it finished with is lost
    if mode in ("active", "snapshot") and program.own is not None:
        offer = demand.offer = demand.offer or await promise(desk, program.own)
    elif mode == "last":
        stored = desk.stored(newest_result) if newest_result else None
        if stored is None:
            raise Refused("the newest result is not here yet", code="stale")
        offer = await promise(desk, stored.buffer)
    _require_open(desk, action)
    # Before the ledger knows of it: whoever is told to ask for it may be faster than our SN's answer.
    desk.offer = offer
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
