"""A tick: says that a wait is over, and shows by its answer that the ledger orders. Spec: docs/spec/round.md, R-6."""

from swarmlearning.contracts.messages import Tick
from swarmlearning.errors import PeerError, Unreachable
from swarmlearning.sl.desk import Desk, log
from swarmlearning.types import Code


async def tick(desk: Desk, round_: int, attempt: int) -> Code | None:
    """What the ledger said to a tick; None if it cannot be had ordered (a wait that has passed is not begun anew)."""
    message = Tick(contract=desk.contract, run=desk.run, round=round_, attempt=attempt)
    try:
        return (await desk.submitter.send(message)).code
    except (Unreachable, PeerError) as error:
        log.debug("tick: %s", error)
        return None
