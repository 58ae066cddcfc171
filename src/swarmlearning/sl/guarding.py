"""Step 6 of a round: watching that leaders and witnesses move. A silent one is suspected. Spec: docs/spec/round.md."""

import asyncio
from typing import Final

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.messages import Here
from swarmlearning.contracts.records import Round
from swarmlearning.contracts.rounds import encoded_base
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import PeerError, Refused, Unreachable
from swarmlearning.sl.desk import Desk, Watched, log
from swarmlearning.sl.exchange import (
    CALL_PROGRESS,
    Advance,
    ProgressRequest,
    Shard,
    apply_steps,
    merge_steps,
    store_steps,
)
from swarmlearning.sl.fetching import suspect
from swarmlearning.sl.plan import GuardShard, GuardStore, TickLater
from swarmlearning.sl.pulling import round_of
from swarmlearning.sl.ticking import tick
from swarmlearning.sl.weighing import further_steps
from swarmlearning.types import Code, NodeId, short_name

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
    round_ = round_of(desk, action.round)
    shard = Shard(size=desk.travels.size, shards=round_.shards, shard=action.shard)
    contributors = len(round_.contributors)
    whole = merge_steps(shard, contributors) + further_steps(desk, desk.record, shard, contributors)
    gone = await _await_silence(desk, round_, action.shard, action.suspect, whole)
    await suspect(desk, action.round, action.attempt, action.shard, action.suspect, gone=gone)


async def guard_store(desk: Desk, action: GuardStore) -> None:
    """R-10: likewise a participant that has not stored what is merged, once we have.

    Raises:
        Refused: the record moved on.
        Unreachable: our SN does not answer.
    """
    round_ = round_of(desk, action.round)
    whole = store_steps(desk.travels.size, round_.shards)
    if encoded_base(desk.record):
        whole += apply_steps(desk.size)
    gone = await _await_silence(desk, round_, STORING, action.suspect, whole)
    await suspect(desk, action.round, action.attempt, STORING, action.suspect, gone=gone)


async def _await_silence(desk: Desk, round_: Round, shard: int, suspect: NodeId, whole: int) -> bool:
    """Until `suspect` has made no advance for a lease; whether it has not even answered for half of it.

    More steps than the whole work has are no advance: who makes progress up runs out of it. A further attempt that
    leaves it in charge of the same work does not begin the lease anew. Where the ledger was out, what `suspect` has to
    say may have waited for it: it has one lease more.
    """
    loop = asyncio.get_running_loop()
    look_s = desk.lease_s / LOOKS_A_LEASE
    key = (round_.number, round_.closed_ms, shard, suspect, round_.contributors, round_.measuring)
    known = desk.watched.setdefault(key, Watched(loop.time()))
    request = ProgressRequest(contract=desk.contract, run=desk.run, round=round_.number, shard=shard)
    was_out = False
    while True:
        await _await_lease(desk, known, suspect, encode(request), whole)
        began_s = loop.time()
        gone = began_s - known.answered_s >= desk.lease_s / 2
        is_ordered = await tick(desk, round_.number, round_.attempt) is not None
        is_quick = not was_out and loop.time() - began_s <= look_s
        if is_ordered and (is_quick or known.had_more):
            return gone
        log.info("the ledger was out while round %d merged: %s has a lease more", round_.number, short_name(suspect))
        was_out, known.had_more, known.moved_s = not is_ordered, known.had_more or is_ordered, loop.time()


async def _await_lease(desk: Desk, known: Watched, suspect: NodeId, request: bytes, whole: int) -> None:
    """Ask `suspect` how far it is until it has made no advance for a lease."""
    loop = asyncio.get_running_loop()
    look_s = desk.lease_s / LOOKS_A_LEASE
    while (left_s := known.moved_s + desk.lease_s - loop.time()) > 0:
        await asyncio.sleep(min(look_s, left_s))  # most rounds are over by then, and nobody is asked
        try:
            reply = await desk.client.call(desk.address_of(suspect), CALL_PROGRESS, request, timeout_s=look_s)
            steps = decode(reply, Advance).steps
        except Unreachable:
            continue  # silence is what is measured here
        except PeerError:
            known.answered_s = loop.time()
            continue
        known.answered_s = loop.time()
        if known.steps < steps <= whole:
            known.steps, known.moved_s = steps, known.answered_s


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
        # Too early, but it makes a block, and a block moves the ledger's time.
        await tick(desk, action.round, action.attempt)
    await asyncio.sleep(left_s)
    while (code := await tick(desk, action.round, action.attempt)) is not Code.OK:
        if code not in (Code.TOO_EARLY, None):
            raise Refused(f"round {action.round}, attempt {action.attempt} is over already", code="stale")
        await asyncio.sleep(TICK_AGAIN_S)


async def say_here(desk: Desk) -> None:
    """T-19: a round has closed without our program, which still trains; the last rounds are to wait for it.

    Raises:
        Refused: the record moved on.
        Unreachable: our SN does not answer.
    """
    await desk.submitter.require(Here(contract=desk.contract, run=desk.run))
