"""R-17: what a program has trained and no round has merged yet, where the swarm has gone on without it.

Its sync comes when newer results are final than the one it started from. The newest one is fetched, and newest +
(own - base) is offered in the open round, once. The program's file is never written. Spec: docs/spec/round.md.
"""

import contextlib

from swarmlearning.contracts.messages import Here
from swarmlearning.contracts.records import PeerState, Result, RoundSummary
from swarmlearning.errors import PeerError, Refused, Unreachable
from swarmlearning.merge.rebase import rebase_model
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.offering import prepare
from swarmlearning.sl.plan import find_peer
from swarmlearning.sl.program import Program
from swarmlearning.sn.client import SnClient


async def is_answered(desk: Desk, sn: SnClient, program: Program, newest: Result) -> bool:
    """Whether the newest result answers the program's sync: a final round has what it trained, or cannot have it.

    What has been offered once must not be added again. An SL that restarted may not know what it offered: the ledger
    does.

    Raises:
        Unreachable, PeerError: the SN does not answer.
    """
    demand = program.demand
    if demand is None or demand.kind != "sync" or program.base is None or program.own is None:
        return True
    first = program.adopted + 1 if program.resumed else demand.tried
    if first is None:
        return False
    rounds: list[Result | RoundSummary] = [newest]
    if first < newest.round:
        # Void rounds have no summary, so there are at most that many.
        summaries = await sn.history(desk.contract, newest.round - first + 1)
        rounds += [s for s in summaries if s.run == desk.run and first <= s.round < newest.round]
    # what an SL before us offered and could not serve any more was dropped, and is not merged.
    return any(
        desk.node in made.contributors or (made.round == demand.tried and desk.node in made.participants)
        for made in rounds
    )


async def _say_here(desk: Desk) -> None:
    """T-19: the others are to wait for us again: what we are about to offer would come too late for another round."""
    peer = find_peer(desk.record, desk.node)
    if peer is not None and peer.state is PeerState.PAUSED:
        with contextlib.suppress(Unreachable, PeerError):  # it only helps
            await desk.submitter.send(Here(contract=desk.contract, run=desk.run))


async def carry_over(desk: Desk, program: Program, newest: Result) -> None:
    """Prepare to offer what the program trained on top of the newest result, which is on disk.

    Raises:
        Refused: the result has gone from the disk meanwhile.
        Broken: the disk has no room.
    """
    demand, base, own, stored = program.demand, program.base, program.own, desk.stored(newest)
    if demand is None or base is None or own is None:
        return
    if stored is None:
        raise Refused(f"round {newest.round} is not here any more", code="stale")
    await _say_here(desk)
    into = await desk.run_blocking(desk.mapped_scratch)
    await desk.run_blocking(rebase_model, desk.manifest, stored.buffer, own, base.buffer, into)
    offer = await prepare(desk, into, newest, feeds_back=True)
    if program.demand is not demand or demand.outcome.done():
        return
    demand.offer, demand.based, demand.tried, demand.round = offer, newest.round, None, None
    log.info(
        "%s, run %d: what was trained since round %d is offered on top of round %d, which became final meanwhile",
        desk.contract,
        desk.run,
        program.adopted,
        newest.round,
    )
