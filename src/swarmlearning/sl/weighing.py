"""What merging goes by beside the shard itself: weights from distances, and results of the past.

Spec: docs/spec/round.md, R-25 and R-26.
"""

from typing import Final

from swarmlearning.contracts.distances import count_pairs
from swarmlearning.contracts.records import Round, Training
from swarmlearning.errors import Refused
from swarmlearning.merge.chunks import ChunkSource
from swarmlearning.merge.distances import unpack_distances
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.exchange import STEP_CHUNKS, Shard, store_steps
from swarmlearning.sl.plan import TellShares, past_results
from swarmlearning.sl.pulling import promise_of
from swarmlearning.types import NodeId, short_name

SHARES_TOLD: Final = 8
"""Contributors whose share of the weight is told, those with the least."""


def weights_of(desk: Desk, round_: Round, contributors: tuple[NodeId, ...]) -> list[int]:
    """R-25: what each contributor counts: as it enrolled, or as the method makes it of that and of the distances.

    Who counts nothing is not needed. Computes: runs away from the event loop.

    Raises:
        Refused: the round has other contributors meanwhile.
    """
    if contributors != round_.contributors:
        raise Refused(f"round {round_.number} has other contributors now", code="stale")
    enrolled = {c.node: c.weight for c in round_.checkins}
    weights = [enrolled[contributor] for contributor in contributors]
    if not round_.distances:
        return weights
    return desk.method.weigh(unpack_distances(round_.distances, len(contributors)), weights)


def past_of(desk: Desk) -> tuple[ChunkSource | None, ChunkSource | None]:
    """R-26: the newest final result and the one before it, where the method needs them and there are any.

    Raises:
        Refused: one is not on disk yet.
    """
    past: list[ChunkSource | None] = []
    for result in past_results(desk.record):
        stored = desk.stored(result)
        if stored is None:
            raise Refused(f"round {result.round} of {desk.contract} is needed to merge and not here yet", code="stale")
        past.append(stored.chunks.source())
    base, previous, *_ = [*past, None, None]
    return base, previous


def ingredients_of(desk: Desk, round_: Round, contributors: tuple[NodeId, ...]) -> tuple[bytes, ...]:
    """What a merged shard follows from: with the same ingredients it need not be merged again."""
    past = (result.sha256 for result in past_results(desk.record))
    return (*(promise_of(round_, contributor) for contributor in contributors), round_.distances, *past)


def chunks_a_step(contributors: int) -> int:
    """How many chunks are measured in one step of progress: fewer, the more pairs there are."""
    return max(1, min(STEP_CHUNKS, 8 * STEP_CHUNKS // max(1, count_pairs(contributors))))


def further_steps(desk: Desk, record: Training, shard: Shard, contributors: int) -> int:
    """R-10: how many steps there are beside those of pulling and merging: of measuring, and of fetching the past."""
    if record.settings is not None and record.settings.needs == "distances":
        return -(-len(shard.indices) // chunks_a_step(contributors))
    return sum(store_steps(desk.size, len(result.roots)) for result in past_results(record))


async def tell_shares(desk: Desk, action: TellShares) -> None:
    """R-25: one line for the operator: whom the method has given how much of the weight.

    Raises:
        Refused: the record moved on.
    """
    round_ = desk.record.round
    if round_ is None or (round_.number, round_.distances) != (action.round, action.distances):
        raise Refused(f"round {action.round} of {desk.contract} is not merging any more", code="stale")
    weights = await desk.run_blocking(weights_of, desk, round_, action.contributors)
    shares = sorted(zip(weights, action.contributors, strict=True))
    least = [f"{short_name(node)} {100 * weight / max(1, sum(weights)):.3g} %" for weight, node in shares[:SHARES_TOLD]]
    rest = f", {len(shares) - SHARES_TOLD} others more" if len(shares) > SHARES_TOLD else ""
    log.info("round %d: %s gave %s%s of the weight", action.round, desk.method.name, ", ".join(least), rest)
