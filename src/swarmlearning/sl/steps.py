"""Steps of a round that concern our own program: checking in, and what it is told. Spec: docs/spec/round.md."""

from msgspec.structs import replace

from swarmlearning.contracts.messages import CheckIn, Finish
from swarmlearning.contracts.records import Phase, Result, Training
from swarmlearning.errors import Refused
from swarmlearning.parameters.chunks import SECRET_BYTES, Commitment, commit
from swarmlearning.sl.desk import Desk, Offer, log
from swarmlearning.sl.plan import CheckInNow
from swarmlearning.sl.program import Program, SyncOutcome


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
    if action.mode in ("active", "snapshot"):
        offer = demand.offer = demand.offer or await promise(desk, program.own)
    elif action.mode == "last":
        stored = desk.stored(newest_result) if newest_result else None
        if stored is None:
            raise Refused("the newest result is not here yet", code="stale")
        offer = await promise(desk, stored.buffer)
    _require_open(desk, action)
    # Before the ledger knows of it: whoever is told to ask for it may be faster than our SN's answer.
    desk.offer = offer
    progress = replace(demand.progress, bytes_received=desk.bytes_received, bytes_sent=desk.bytes_sent)
    demand.round = action.round
    await desk.submitter.require(
        CheckIn(
            contract=desk.contract,
            run=desk.run,
            round=action.round,
            attempt=action.attempt,
            base=newest_result.sha256 if newest_result else b"",
            commitment=offer.commitment.root if offer else b"",
            weight=program.request.weight if offer else 0,
            mode=action.mode,
            progress=progress,
        )
    )


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
        await desk.submitter.require(Finish(contract=desk.contract, run=desk.run, progress=program.demand.progress))


async def deliver(desk: Desk, program: Program, result: Result) -> None:
    """R-7: give the program the newest final result; once it has finished, only note it."""
    program.adopted = result.round
    _tell(desk, result, "is final")
    if program.demand is not None and program.demand.kind == "sync":
        program.answer(
            SyncOutcome(
                kind="synced",
                round=result.round,
                result=result,
                stored=desk.stored(result),
                next_interval=program.interval,
            )
        )


def settle_void(program: Program, record: Training) -> None:
    """R-8: a sync whose round closed void is answered: the program keeps its own parameters."""
    demand = program.demand
    if demand is None or demand.kind != "sync" or demand.round is None:
        return
    last = record.last.round if record.last else -1
    if record.round is not None and record.round.number > demand.round > last:
        program.answer(
            SyncOutcome(kind="void", round=demand.round, result=None, stored=None, next_interval=program.interval)
        )


async def end(desk: Desk, program: Program, result: Result | None) -> None:
    """R-19: the training is complete; hand over the final result, if there is one."""
    program.adopted = result.round if result else -1
    if result is None:
        log.info("%s, run %d, is complete without a model", desk.contract, desk.run)
    else:
        _tell(desk, result, "completes the training")
    program.answer(
        SyncOutcome(
            kind="over",
            round=result.round if result else -1,
            result=result,
            stored=desk.stored(result) if result else None,
            next_interval=program.interval,
        )
    )


def _tell(desk: Desk, result: Result, what: str) -> None:
    """A line for the operator's log."""
    share = f"{len(result.contributors)} of {len(result.participants)} contributed"
    digest = result.sha256.hex()[:16]
    log.info("%s, run %d: round %d %s: %s, model %s", desk.contract, desk.run, result.round, what, share, digest)
