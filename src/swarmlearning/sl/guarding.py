"""Step 6 of a round: watching that leaders and witnesses move. A silent one is suspected. Spec: docs/spec/round.md."""

import asyncio
from typing import Final

from swarmlearning.contracts.messages import Tick
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import PeerError, Refused, Unreachable
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.exchange import CALL_PROGRESS, Advance, ProgressRequest
from swarmlearning.sl.fetching import suspect
from swarmlearning.sl.plan import GuardShard, TickLater
from swarmlearning.types import Code

LOOKS_A_LEASE: Final = 4
"""How often a leader is asked within a lease."""

TICK_AGAIN_S: Final = 5.0
"""Time between two tries to have a wait declared over, seconds."""

KEEP_TIME_S: Final = 50.0
"""Longest silence of the ledger while a deadline runs, seconds: a longer gap than a minute between two blocks counts
as a minute (ledger.md), so that in a silent network no long deadline would ever pass."""


async def guard_shard(desk: Desk, action: GuardShard) -> None:
    """R-10: ask a leader or witness how far it is; suspect it once a lease has passed without an advance.

    Ends only by suspicion: the caller cancels it once the shard does not wait for it any more.

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
            address = desk.address_of(action.suspect)
            reply = await desk.client.call(address, CALL_PROGRESS, request, timeout_s=lease_s / LOOKS_A_LEASE)
            steps = decode(reply, Advance).steps
            if steps > seen:
                seen, moved = steps, loop.time()
        except (Unreachable, PeerError):
            continue  # silence is what is measured here
    await suspect(desk, action.round, action.attempt, action.shard, action.suspect)


async def tick_later(desk: Desk, action: TickLater, rank: int) -> None:
    """Wait, then tell the ledger that a wait is over, until block time agrees or the record moves on.

    Args:
        desk: the training.
        action: which wait.
        rank: our place among the peers: later ones wait a little longer, so that one message is enough.

    Raises:
        Refused: the record moved on.
    """
    left_s = action.after_ms / 1000 + 0.25 * rank
    while rank == 0 and left_s > KEEP_TIME_S:
        await asyncio.sleep(KEEP_TIME_S)
        left_s -= KEEP_TIME_S
        await _tick(desk, action)  # too early, but it makes a block, and a block moves the ledger's time
    await asyncio.sleep(left_s)
    while (code := await _tick(desk, action)) is not Code.OK:
        if code not in (Code.TOO_EARLY, None):
            raise Refused(f"round {action.round}, attempt {action.attempt} is over already", code="stale")
        await asyncio.sleep(TICK_AGAIN_S)


async def _tick(desk: Desk, action: TickLater) -> Code | None:
    """What the ledger said to a tick; None if our SN does not answer (a wait that has passed is not begun anew)."""
    tick = Tick(contract=desk.contract, run=desk.run, round=action.round, attempt=action.attempt)
    try:
        return (await desk.submitter.send(tick)).code
    except (Unreachable, PeerError) as error:
        log.debug("tick: %s", error)
        return None
