"""Step 6 of a round: watching that leaders move. One that makes progress is left alone, a silent one suspected."""

import asyncio
from typing import Final

from swarmlearning.contracts.messages import Tick
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import PeerError, Refused, Unreachable
from swarmlearning.sl.desk import Desk
from swarmlearning.sl.exchange import CALL_PROGRESS, Advance, ProgressRequest
from swarmlearning.sl.fetching import suspect
from swarmlearning.sl.plan import GuardShard, TickLater
from swarmlearning.types import Code

LOOKS_A_LEASE: Final = 4
"""How often a leader is asked within a lease."""

TICK_AGAIN_S: Final = 5.0
"""Time between two tries to have a wait declared over, seconds."""


async def guard_leader(desk: Desk, action: GuardShard) -> None:
    """Ask a leader how far it is; suspect it once a lease has passed without an advance.

    Ends only by suspicion: the caller cancels it when the shard is merged or the attempt is over.

    Raises:
        Refused: the record moved on.
        Unreachable: our SN does not answer.
    """
    loop = asyncio.get_running_loop()
    settings = desk.record.settings
    lease_s = settings.lease_ms / 1000 if settings else 10.0
    request = encode(ProgressRequest(contract=desk.contract, run=desk.run, round=action.round, shard=action.shard))
    seen, moved = -1, loop.time()
    while loop.time() - moved < lease_s:
        await asyncio.sleep(lease_s / LOOKS_A_LEASE)  # most rounds are over by then, and nobody is asked
        try:
            address = desk.address_of(action.leader)
            reply = await desk.client.call(address, CALL_PROGRESS, request, timeout_s=lease_s / LOOKS_A_LEASE)
            steps = decode(reply, Advance).steps
            if steps > seen:
                seen, moved = steps, loop.time()
        except (Unreachable, PeerError):
            continue  # silence is what is measured here
    await suspect(desk, action.round, action.attempt, action.shard, action.leader)


async def tick_later(desk: Desk, action: TickLater, rank: int) -> None:
    """Wait, then tell the ledger that a wait is over, until block time agrees or the record moves on.

    Args:
        desk: the training.
        action: which wait.
        rank: our place among the peers: later ones wait a little longer, so that one message is enough.

    Raises:
        Refused: the record moved on.
        Unreachable: our SN does not answer.
    """
    await asyncio.sleep(action.after_ms / 1000 + 0.25 * rank)
    while True:
        submitted = await desk.submitter.send(
            Tick(contract=desk.contract, run=desk.run, round=action.round, attempt=action.attempt)
        )
        if submitted.code is not Code.TOO_EARLY:
            if submitted.code is not Code.OK:
                raise Refused(submitted.log, code=submitted.code.name.lower())
            return
        await asyncio.sleep(TICK_AGAIN_S)
