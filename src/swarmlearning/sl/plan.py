"""What an SL has to do next, as a pure function of the ledger's record and of what it holds. Spec: docs/spec/round.md.

Level-triggered: nothing is remembered about how the record came about, so a lost, repeated or late notice changes
nothing, and a restarted SL goes on where the ledger stands.
"""

from typing import Literal

import msgspec

from swarmlearning.contracts.closing import is_over, wait_ms
from swarmlearning.contracts.records import Peer, PeerState, Phase, Result, Round, Training
from swarmlearning.contracts.rounds import dropped_nodes, is_barred, pending_nodes, pending_stores
from swarmlearning.types import NodeId


class Local(msgspec.Struct, frozen=True, kw_only=True):
    """What an SL holds of one training."""

    node: NodeId
    run: int
    demand: Literal["", "sync", "finish"]
    """What its ML program waits for: the next result, or the end."""
    adopted: int
    """Round of the newest result that the program (or, once finished, the SL) has, or that what it waits with has been
    carried over to (R-17); -1 before the first. A round and not a hash: two rounds may have the same result, and each
    answers its own sync."""
    offered: bytes
    """Commitment of the parameters that this SL can serve; empty if it holds none."""
    stored: frozenset[tuple[int, bytes]]
    """Results on disk: (round, SHA-256)."""
    vouched: bool = False
    """This SL has said that its program still trains, since that was last answered."""


class CheckInNow(msgspec.Struct, frozen=True, kw_only=True):
    """Offer parameters for the open round."""

    round: int
    attempt: int
    mode: Literal["active", "snapshot", "inactive", "last"]


class MeasureShard(msgspec.Struct, frozen=True, kw_only=True):
    """Pull a shard from its contributors, measure how far they are apart, commit."""

    round: int
    shard: int
    contributors: tuple[NodeId, ...]


class MergeShard(msgspec.Struct, frozen=True, kw_only=True):
    """Pull a shard from its contributors, merge it, commit."""

    round: int
    shard: int
    contributors: tuple[NodeId, ...]


class TellShares(msgspec.Struct, frozen=True, kw_only=True):
    """Tell our operator what the distances have made of the contributors' weights."""

    round: int
    contributors: tuple[NodeId, ...]
    distances: bytes


class SayLost(msgspec.Struct, frozen=True, kw_only=True):
    """What we checked in with is gone, since this SL restarted: say so."""

    round: int
    attempt: int


class StoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """Fetch the merged shards, put them on disk, say so."""

    round: int
    roots: tuple[bytes, ...]
    attempt: int


class GuardShard(msgspec.Struct, frozen=True, kw_only=True):
    """Watch that somebody whom a shard waits for, its leader or a witness, moves."""

    round: int
    attempt: int
    shard: int
    suspect: NodeId
    measuring: bool = False
    """It is to be measured; whoever has done that begins anew with merging."""


class GuardStore(msgspec.Struct, frozen=True, kw_only=True):
    """Watch that a participant that has not stored the merged result moves."""

    round: int
    attempt: int
    suspect: NodeId


class SayHere(msgspec.Struct, frozen=True, kw_only=True):
    """A round has closed without our program, which still trains, and all others have finished: say so."""


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """Fetch a final result from its holders: the newest or, where the merge method needs it, the one before."""

    result: Result


class Deliver(msgspec.Struct, frozen=True, kw_only=True):
    """The newest final result is on disk and the program has not had it: hand it over (or note it, once finished).

    R-17: or carry over to it what the program has trained meanwhile.
    """

    result: Result


class SayFinished(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the ledger that our own training is over."""


class TickLater(msgspec.Struct, frozen=True, kw_only=True):
    """When `after_ms` have passed and the record still stands there, say that the wait is over."""

    round: int
    attempt: int
    after_ms: int


class End(msgspec.Struct, frozen=True, kw_only=True):
    """All peers have finished: hand over the final result, if there is one."""

    result: Result | None


Action = (
    CheckInNow
    | MeasureShard
    | MergeShard
    | TellShares
    | SayLost
    | StoreResult
    | GuardShard
    | GuardStore
    | SayHere
    | CatchUp
    | Deliver
    | SayFinished
    | TickLater
    | End
)


def find_peer(training: Training, node: NodeId) -> Peer | None:
    """The enrolment of `node`, if it stands."""
    for peer in training.peers:
        if peer.node == node and peer.state is not PeerState.LEFT:
            return peer
    return None


def past_results(training: Training) -> list[Result]:
    """R-26: final results that merging needs, the newest first; none where the merge method needs no history."""
    if training.settings is None or training.settings.needs != "history":
        return []
    return [result for result in (training.last, training.previous) if result is not None]


def plan(training: Training, local: Local) -> list[Action]:
    """What to do now, in no particular order."""
    peer = find_peer(training, local.node)
    if training.run != local.run or peer is None:
        return []  # what a peer that left has offered stays with `serving`
    newest = training.last
    behind = newest is not None and newest.round != local.adopted
    have = newest is not None and (newest.round, newest.sha256) in local.stored
    if training.phase is Phase.COMPLETED:
        if not local.demand:
            return []
        return [End(result=newest)] if newest is None or have else [CatchUp(result=newest)]
    actions: list[Action] = []
    if local.demand and newest is not None and behind:
        actions.append(Deliver(result=newest) if have else CatchUp(result=newest))
    if local.demand == "finish" and peer.state is not PeerState.FINISHED:
        actions.append(SayFinished())
    if peer.state is PeerState.PAUSED and not local.demand and is_over(training) and not local.vouched:
        actions.append(SayHere())  # once, or a program that hangs would hold up the end for ever
    if training.phase is Phase.COLLECTING:
        actions += _plan_collecting(training, local, peer, behind=behind)
    wait = wait_ms(training)
    if wait is not None and training.round is not None:
        actions.append(TickLater(round=training.round.number, attempt=training.round.attempt, after_ms=wait))
    return actions + _plan_merging(training, local)


def _plan_collecting(training: Training, local: Local, peer: Peer, *, behind: bool) -> list[Action]:
    round_, settings = training.round, training.settings
    if round_ is None or settings is None:
        return []
    actions: list[Action] = []
    mine = next((c for c in round_.checkins if c.node == local.node), None)
    finished = peer.state is PeerState.FINISHED
    ready = local.demand == "sync" or (local.demand == "finish" and finished)
    # an offer that stands is not made again, unless we restarted and cannot keep what it promised.
    kept = mine is not None and mine.commitment in (b"", local.offered)
    if ready and not behind and not kept and not is_barred(round_, local.node):
        mode: Literal["active", "snapshot", "inactive", "last"] = "active"
        if finished:
            offers = {"inactive": "inactive", "snapshot": "snapshot", "active": "last" if training.last else "inactive"}
            mode = offers[settings.checkin_mode]  # type: ignore[assignment]  # the table's values are the modes
        actions.append(CheckInNow(round=round_.number, attempt=round_.attempt, mode=mode))
    return actions


def _plan_merging(training: Training, local: Local) -> list[Action]:
    round_, settings = training.round, training.settings
    if training.phase is not Phase.MERGING or round_ is None or settings is None:
        return []
    if local.node not in round_.participants:
        return []
    actions: list[Action] = []
    dropped = local.node in dropped_nodes(round_)
    if any(
        c.node == local.node and c.commitment != local.offered for c in round_.checkins if c.node in round_.contributors
    ):
        actions.append(SayLost(round=round_.number, attempt=round_.attempt))
    for shard in range(round_.shards):
        pending = pending_nodes(round_, shard)
        if local.node in pending:
            actions.append(_work_on(training, local, round_, shard))
        actions += [
            GuardShard(
                round=round_.number,
                attempt=round_.attempt,
                shard=shard,
                suspect=suspect,
                measuring=round_.measuring,
            )
            for suspect in pending
            if suspect != local.node and not dropped  # nobody counts a dropped peer's suspicion
        ]
    if round_.distances:
        told = TellShares(round=round_.number, contributors=round_.contributors, distances=round_.distances)
        actions.append(told)
    held = any(h.node == local.node for h in round_.holdings)
    if held and not dropped:
        actions += [
            GuardStore(round=round_.number, attempt=round_.attempt, suspect=suspect)
            for suspect in pending_stores(round_)
        ]
    if all(round_.merged) and not held:
        actions.append(StoreResult(round=round_.number, roots=round_.merged, attempt=round_.attempt))
    return actions


def _work_on(training: Training, local: Local, round_: Round, shard: int) -> Action:
    """R-24, R-26: what who is in charge of a shard does next."""
    if round_.measuring:
        return MeasureShard(round=round_.number, shard=shard, contributors=round_.contributors)
    lacking = [result for result in past_results(training) if (result.round, result.sha256) not in local.stored]
    if lacking:
        return CatchUp(result=lacking[0])  # one after the other: what is fetched at the same time gets in its way
    return MergeShard(round=round_.number, shard=shard, contributors=round_.contributors)
