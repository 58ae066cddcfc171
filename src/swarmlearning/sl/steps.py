"""Steps that end what our own program waits for, and what it is told until then. Spec: docs/spec/round.md.

R-7, R-8, R-17, R-19, R-23.
"""

import asyncio

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.records import PeerState, Result, Training
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.guarding import say_here
from swarmlearning.sl.program import Program
from swarmlearning.sl.unmerged import carry_over, is_answered
from swarmlearning.sn.client import SnClient
from swarmlearning.types import short_name


async def deliver(desk: Desk, sn: SnClient, program: Program, result: Result) -> None:
    """R-7, R-17: the newest final result is on disk: give it to the program, or put what it has trained on top of it.

    Once the program has finished it is only noted.

    Raises:
        Unreachable, PeerError: the SN does not answer.
        Refused: the record moved on.
        Broken: the disk has no room.
    """
    if not await is_answered(desk, sn, program, result):
        await carry_over(desk, program, result)
        return
    program.adopt(result, desk.stored(result))
    if program.demand is not None:
        program.demand.based = result.round
    _tell(desk, result, "is final")
    program.answer_sync(desk, result, result.round, asyncio.get_running_loop().time())


async def vouch(desk: Desk, program: Program) -> None:
    """R-23: the last rounds are to wait for our program, which still trains.

    Raises:
        Refused: the record moved on.
        Unreachable: our SN does not answer.
    """

    def note(told: "asyncio.Task[None]") -> None:
        program.vouched = not told.cancelled() and told.exception() is None

    # The record shows that it was heard before the answer comes, and then this step is wanted no more and cancelled.
    saying = asyncio.ensure_future(say_here(desk))
    program.saying = saying
    saying.add_done_callback(note)
    await asyncio.shield(saying)


def settle_void(desk: Desk, program: Program, record: Training) -> None:
    """R-8: a sync whose round closed void is answered: the program keeps its own parameters, and what they build on."""
    demand = program.demand
    if demand is None or demand.kind != "sync" or demand.round is None or demand.outcome.done():
        return
    last = record.last.round if record.last else -1
    if record.round is not None and record.round.number > demand.round > last:
        program.answer_sync(desk, None, demand.round, asyncio.get_running_loop().time())


def end(desk: Desk, program: Program, result: Result | None) -> None:
    """R-19: the training is complete; hand over the final result, if there is one."""
    if result is None:
        log.info("%s, run %d, is complete without a model", desk.contract, desk.run)
    else:
        program.adopt(result, desk.stored(result))
        _tell(desk, result, "completes the training")
    program.answer_over(desk, result)


def _tell(desk: Desk, result: Result, what: str) -> None:
    """A line for the operator's log."""
    share = f"{len(result.contributors)} of {len(result.participants)} contributed"
    digest = result.sha256.hex()[:16]
    log.info("%s, run %d: round %d %s: %s, model %s", desk.contract, desk.run, result.round, what, share, digest)


def explain_record(desk: Desk, program: Program) -> str:
    """What the training waits for, as this peer's program is told (T-33)."""
    record = desk.training
    if record is None:
        return "no word from the SN yet"
    training = [
        short_name(peer.node) for peer in record.peers if peer.state is PeerState.LIVE and peer.node != desk.node
    ]
    if program.demand is not None and program.demand.kind == "finish" and training:
        return f"for those that still train: {', '.join(training)}"
    return f"round {record.round.number}: {explain_wait(record)}" if record.round else explain_wait(record)
