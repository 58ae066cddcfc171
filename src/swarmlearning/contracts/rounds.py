"""The merging phase of a round: attempts, commits, finality. Spec: docs/spec/training.md, T-20 to T-34, T-42.

Pure: every function takes a training and gives back the next one. Before finality a round may start another attempt;
after it, never. Each attempt after the first removes a contributor or somebody from its charge, so a round ends.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.distances import add_distances
from swarmlearning.contracts.draw import count_shards, draw_order, draw_seed
from swarmlearning.contracts.figures import count_round
from swarmlearning.contracts.limits import HASH_BYTES
from swarmlearning.contracts.messages import MergeCommit, Stored
from swarmlearning.contracts.records import (
    Commit,
    Dropped,
    Holding,
    Peer,
    PeerState,
    Phase,
    Result,
    Round,
    Settings,
    Training,
    wanted_witnesses,
)
from swarmlearning.encoding import sha256
from swarmlearning.parameters.chunks import result_root
from swarmlearning.types import Code, NodeId, short_name

MAX_STRIKES: Final = 3
"""So often a peer's parameters may be dropped from one round for what they are; then it waits for the next round."""

# --- looking at a round ---------------------------------------------------------------------------------------------


def get_settings(training: Training) -> Settings:
    """The settings of a running training.

    Raises:
        Rejected: nobody has enrolled yet.
    """
    if training.settings is None:
        raise Rejected(Code.STALE, f"{training.name} has no settings yet: nobody has enrolled")
    return training.settings


def required_peers(training: Training) -> int:
    """T-8: how many check-ins a round needs: the largest `min_peers` asked for, never fewer than two."""
    return max([2, *(peer.min_peers for peer in training.peers if peer.state is not PeerState.LEFT)])


def is_drawing(training: Training) -> bool:
    """T-21: whether the open round adopts the parameters of one participant instead of merging."""
    return training.last is None and get_settings(training).start == "draw"


def encoded_base(training: Training) -> bytes:
    """T-50: SHA-256 of the result from which differences travel in the open round; empty: parameters do, in full."""
    last = training.last
    return last.sha256 if last is not None and get_settings(training).wire != "float32" else b""


def merging_round(training: Training, run: int, round_: int, attempt: int) -> Round:
    """T-4: the open round, if a message names it, its attempt and the run, and the round is merging.

    Raises:
        Rejected: it names another one.
    """
    current = training.round
    if training.phase is not Phase.MERGING or current is None:
        raise Rejected(Code.STALE, f"{training.name} is {training.phase.value}, not merging")
    if (run, round_, attempt) != (training.run, current.number, current.attempt):
        raise Rejected(
            Code.STALE,
            f"{training.name} is at run {training.run}, round {current.number}, attempt {current.attempt}; "
            f"the message names run {run}, round {round_}, attempt {attempt}",
        )
    return current


def dropped_nodes(round_: Round) -> set[NodeId]:
    """Participants that the round goes on without."""
    return {dropped.node for dropped in round_.dropped if dropped.node in round_.participants}


def is_barred(round_: Round, node: NodeId) -> bool:
    """T-23: whether a peer's parameters have been dropped so often that this round goes on without it."""
    return round_.strikes.count(node) >= MAX_STRIKES


def left_nodes(training: Training) -> set[NodeId]:
    """Peers that have left."""
    return {peer.node for peer in training.peers if peer.state is PeerState.LEFT}


def declining_nodes(training: Training) -> set[NodeId]:
    """T-22: who may be in charge of nothing, whatever happens in a round: distrusted, or it has declined to lead."""
    return {*training.distrusted, *(peer.node for peer in training.peers if not peer.leads)}


def pending_stores(round_: Round) -> tuple[NodeId, ...]:
    """Of whom it is waited that they store what is merged; nobody while something is not."""
    if not all(round_.merged):
        return ()
    out = {*round_.absent, *dropped_nodes(round_), *(holding.node for holding in round_.holdings)}
    return tuple(node for node in round_.participants if node not in out)


def charged_nodes(round_: Round, shard: int) -> tuple[NodeId, ...]:
    """Who is in charge of a shard: its leader, then its witnesses."""
    return (round_.leaders[shard], *round_.witnesses[shard])


def pending_nodes(round_: Round, shard: int) -> tuple[NodeId, ...]:
    """Whose commit a shard waits for that is not merged or, while the round measures, not measured."""
    if round_.merged[shard]:
        return ()
    committed = {c.node for c in round_.commits if c.shard == shard}
    return tuple(node for node in charged_nodes(round_, shard) if node not in committed)


def shard_sources(round_: Round, shard: int) -> list[NodeId]:
    """Who can serve a merged shard: its leader first, then whoever committed the same root, then holders."""
    root = round_.merged[shard]
    committed = [c.node for c in round_.commits if c.shard == shard and c.root == root and root]
    held = [h.node for h in round_.holdings]
    ordered = [round_.leaders[shard], *committed, *held] if round_.leaders[shard] in committed else [*committed, *held]
    return list(dict.fromkeys(ordered))


def lacks_majority(round_: Round) -> bool:
    """Whether those that are neither dropped nor absent are no majority: no result can become final."""
    out = dropped_nodes(round_) | set(round_.absent) - {holding.node for holding in round_.holdings}
    return 2 * (len(round_.participants) - len(out)) <= len(round_.participants)


def merge_peers(peers: Iterable[Peer], node: NodeId, **changes: object) -> tuple[Peer, ...]:
    """`peers` with the record of `node` changed."""
    return tuple(replace(peer, **changes) if peer.node == node else peer for peer in peers)


def pause_peers(peers: Iterable[Peer], nodes: Iterable[NodeId]) -> tuple[Peer, ...]:
    """T-19: `peers` with `nodes` paused, except those that have left."""
    absent = set(nodes)
    return tuple(
        replace(peer, state=PeerState.PAUSED) if peer.node in absent and peer.state is not PeerState.LEFT else peer
        for peer in peers
    )


# --- attempts -------------------------------------------------------------------------------------------------------


def start_merging(training: Training, context: Context, *, closing: bool) -> Training:
    """T-20: fix participants, contributors and shards of the round that closes, and begin its first attempt."""
    round_ = open_round(training)
    participants = tuple(c.node for c in round_.checkins)
    # Whoever was dropped from an earlier try and has checked in anew takes part like everybody else.
    round_ = replace(round_, dropped=tuple(d for d in round_.dropped if d.node not in participants))
    weighted = tuple(c.node for c in round_.checkins if c.weight > 0)
    size = training.manifest.size if training.manifest else 0
    contributors = draw_seed_peer(training, round_, context) if is_drawing(training) else weighted
    measured = needs_measuring(training, contributors)
    topology = get_settings(training).topology
    shards = count_shards(topology, size, len(participants), len(contributors), measured=measured)
    round_ = replace(
        round_,
        merging=True,
        closed_ms=context.elapsed_ms,
        closing=closing,
        setback="",
        participants=participants,
        contributors=contributors,
        shards=shards,
        leaders=(NodeId(""),) * shards,
        witnesses=((),) * shards,
    )
    round_ = begin_work(training, round_)
    return next_attempt(replace(training, round=round_, phase=Phase.MERGING), context, range(shards))


def needs_measuring(training: Training, contributors: Sequence[NodeId]) -> bool:
    """T-42: whether the contributors' distances are measured before anything is merged."""
    return get_settings(training).needs == "distances" and not is_drawing(training) and len(contributors) > 1


def begin_work(training: Training, round_: Round) -> Round:
    """`round_` with nothing measured or merged: work is compared per set of contributors."""
    return replace(
        round_,
        measuring=needs_measuring(training, round_.contributors),
        parts=(),
        distances=b"",
        commits=(),
        merged=(b"",) * round_.shards,
        holdings=(),
    )


def open_round(training: Training) -> Round:
    """The round that is open.

    Raises:
        Rejected: there is none.
    """
    if training.round is None:
        raise Rejected(Code.STALE, f"{training.name} has no open round")
    return training.round


def draw_seed_peer(training: Training, round_: Round, context: Context) -> tuple[NodeId, ...]:
    """T-21: whose parameters all start from, drawn among those that restored no private checkpoint."""
    restored = {peer.node for peer in training.peers if peer.restored}
    out = dropped_nodes(round_)
    offered = [c.node for c in round_.checkins if c.weight > 0 and c.node not in out]
    candidates = [node for node in offered if node not in restored] or offered
    if not candidates:
        return ()
    return (draw_order(draw_seed(training, round_, round_.attempt + 1, context.previous_hash), candidates)[0],)


def next_attempt(training: Training, context: Context, redraw: Iterable[int]) -> Training:
    """T-22: the next attempt. Of the shards in `redraw`, whoever may not be in charge is replaced; others stay."""
    round_ = open_round(training)
    attempt = round_.attempt + 1
    barred = {*round_.benched, *declining_nodes(training), *dropped_nodes(round_), *left_nodes(training)}
    eligible = [node for node in round_.participants if node not in barred]
    accused = {report.contributor for report in round_.reports}
    preferred = [node for node in eligible if node not in accused] or eligible
    if not preferred:
        return collect_again(training, context, "no participant was left that could lead")
    order = draw_order(draw_seed(training, round_, attempt, context.previous_hash), preferred)
    if len(round_.contributors) == 1 and round_.contributors[0] in order:
        # The one whose parameters are adopted already holds the result: let it lead, and nothing travels twice.
        order.sort(key=lambda node: node != round_.contributors[0])
    wanted = 1 + wanted_witnesses(get_settings(training))
    leaders, witnesses = list(round_.leaders), list(round_.witnesses)
    merged, commits = list(round_.merged), round_.commits
    held = [h.node for h in round_.holdings]
    for shard in redraw:
        agreeing = [c.node for c in commits if c.shard == shard and c.root == merged[shard]]
        serving = [node for node in (*agreeing, *held) if node in eligible]
        if merged[shard] and serving and not round_.measuring:
            leaders[shard] = serving[0]  # somebody else has the agreed shard and can serve it
            witnesses[shard] = tuple(node for node in witnesses[shard] if node in eligible and node != serving[0])
            continue
        start = shard % len(order)
        # Whoever stays in charge has pulled and verified part of the work already.
        stays = [node for node in charged_nodes(round_, shard) if node in eligible]
        chosen = list(dict.fromkeys([*stays, *order[start:], *order[:start]]))[: max(wanted, len(stays))]
        leaders[shard], witnesses[shard] = chosen[0], tuple(chosen[1:])
        if merged[shard] and round_.measuring:
            continue  # what is agreed of distances is on the ledger: nobody has to serve it
        merged[shard] = b""
        commits = tuple(c for c in commits if c.shard != shard or c.node in chosen)
    cleared = any(before and not after for before, after in zip(round_.merged, merged, strict=True))
    round_ = replace(
        round_,
        attempt=attempt,
        attempt_ms=context.elapsed_ms,
        leaders=tuple(leaders),
        witnesses=tuple(witnesses),
        merged=tuple(merged),
        commits=commits,
        suspicions=(),
        holdings=() if cleared else round_.holdings,
    )
    return _agree_on_shards(replace(training, round=round_), context)


def collect_again(
    training: Training, context: Context, reason: str, absent: frozenset[NodeId] = frozenset()
) -> Training:
    """T-23: the round goes back to collecting check-ins, under the same number; nothing was adopted."""
    round_ = open_round(training)
    absent |= frozenset(round_.absent)
    dropped = {d.node: d for d in round_.dropped} | {node: Dropped(node=node, reason=reason) for node in absent}
    fresh = Round(
        number=round_.number,
        attempt=round_.attempt + 1,
        opened_ms=context.elapsed_ms,
        quorum_ms=None,
        dropped=tuple(dropped[node] for node in sorted(dropped)),
        strikes=round_.strikes,
        setback=reason,
    )
    peers = pause_peers(training.peers, absent | dropped_nodes(round_))
    return replace(training, round=fresh, phase=Phase.COLLECTING, peers=peers)


# --- merging --------------------------------------------------------------------------------------------------------


def commit_merge(training: Training, context: Context, message: MergeCommit) -> Training:
    """T-24: a leader or witness commits what it got for a shard.

    Raises:
        Rejected: stale, not the sender's shard, malformed, or contradicting its own earlier commit.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    require_charge(round_, message.shard, context.sender)
    if round_.measuring:
        raise Rejected(Code.TOO_EARLY, f"round {round_.number}: not every shard is measured yet")
    if len(message.root) != HASH_BYTES:
        raise Rejected(Code.MALFORMED, f"merged root of {len(message.root)} bytes, expected {HASH_BYTES}")
    return commit_root(training, context, message.shard, message.root)


def commit_root(training: Training, context: Context, shard: int, root: bytes) -> Training:
    """T-24, T-25: one root of a shard from each who is in charge of it, and what follows from it.

    Raises:
        Rejected: the sender has committed another one.
    """
    round_ = open_round(training)
    for commit in round_.commits:
        if (commit.shard, commit.node) == (shard, context.sender):
            if commit.root != root:
                raise Rejected(Code.CONFLICT, f"{context.name.short} has committed another root for shard {shard}")
            return training
    commit = Commit(shard=shard, node=context.sender, root=root)
    commits = tuple(sorted((*round_.commits, commit), key=lambda c: (c.shard, c.node)))
    return _agree_on_shards(replace(training, round=replace(round_, commits=commits)), context)


def _agree_on_shards(training: Training, context: Context) -> Training:
    """T-25: a shard is merged, or measured, when its leader and all its witnesses have committed one root.

    Where they differ nobody is convicted: a further witness is drawn, and one root counts once it has as many
    commits as leader and witnesses were asked for. Whoever an agreement of two contradicts, then or later, leads no
    more in this run.
    """
    round_ = open_round(training)
    merged, witnesses, distrusted = list(round_.merged), list(round_.witnesses), set(training.distrusted)
    stuck: int | None = None
    for shard in range(round_.shards):
        cast = [c for c in round_.commits if c.shard == shard]
        charged = charged_nodes(round_, shard)
        needed = min(wanted_witnesses(get_settings(training)) + 1, len(charged))
        agreed = sorted({c.root for c in cast if sum(o.root == c.root for o in cast) >= needed})
        if not merged[shard] and len(agreed) == 1:
            merged[shard] = agreed[0]
        if merged[shard]:
            against = {c.node for c in cast if c.root != merged[shard]}
            if len(cast) - len(against) >= 2:
                distrusted |= against
        elif not pending_nodes(round_, shard):
            barred = {*charged, *dropped_nodes(round_), *left_nodes(training), *round_.benched, *distrusted}
            barred |= declining_nodes(training)
            spare = [node for node in round_.participants if node not in barred]
            if spare:
                seed = draw_seed(training, round_, round_.attempt, context.previous_hash)
                witnesses[shard] = (*witnesses[shard], draw_order(seed, spare)[0])
            else:
                stuck = shard
    round_ = replace(round_, merged=tuple(merged), witnesses=tuple(witnesses))
    training = replace(training, round=round_, distrusted=tuple(sorted(distrusted)))
    if stuck is not None:
        names = ", ".join(short_name(node) for node in charged_nodes(round_, stuck))
        return collect_again(training, context, f"shard {stuck}: {names} got different results and nobody can decide")
    return _end_measuring(training, context) if round_.measuring else training


def _end_measuring(training: Training, context: Context) -> Training:
    """T-42: once every shard is measured the distances are known, and the shards are merged.

    Whoever was contradicted while they were measured is in charge of nothing any more.
    """
    round_ = open_round(training)
    cast = {(c.shard, c.root) for c in round_.commits if round_.merged[c.shard] in (b"", c.root)}
    round_ = replace(round_, parts=tuple(p for p in round_.parts if (p.shard, sha256(p.distances)) in cast))
    if not all(round_.merged):
        return replace(training, round=round_)
    distances = add_distances([part.distances for part in round_.parts])
    round_ = replace(begin_work(training, round_), measuring=False, distances=distances, suspicions=())
    training = replace(training, round=round_)
    liars = set(training.distrusted)
    shards = [shard for shard in range(round_.shards) if liars & set(charged_nodes(round_, shard))]
    return next_attempt(training, context, shards) if shards else training


def require_charge(round_: Round, shard: int, node: NodeId) -> None:
    """Refuse a sender that neither leads nor witnesses `shard`.

    Raises:
        Rejected: it does not, or there is no such shard.
    """
    require_shard(round_, shard)
    if node not in charged_nodes(round_, shard):
        leader = short_name(round_.leaders[shard])
        raise Rejected(
            Code.NOT_ALLOWED, f"{short_name(node)} neither leads nor witnesses shard {shard}; its leader is {leader}"
        )


def require_shard(round_: Round, shard: int) -> None:
    """Refuse a shard that the round does not have.

    Raises:
        Rejected: it has no such shard.
    """
    if not 0 <= shard < round_.shards:
        raise Rejected(Code.MALFORMED, f"shard {shard}: the round has shards 0 to {round_.shards - 1}")


# --- finality -------------------------------------------------------------------------------------------------------


def record_stored(training: Training, context: Context, message: Stored) -> Training:
    """T-30, T-51: a participant has the whole result; the round is final when a majority has, all with one hash.

    Raises:
        Rejected: stale, not a participant, shards are missing, or the root is another than the agreed one.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    if context.sender not in round_.participants:
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} is not a participant of round {round_.number}")
    if not all(round_.merged):
        raise Rejected(Code.TOO_EARLY, f"round {round_.number}: not every shard is merged yet")
    if message.result_root != result_root(round_.merged) or len(message.sha256) != HASH_BYTES:
        raise Rejected(Code.CONFLICT, f"round {round_.number}: the stored result is not the one agreed on")
    expected = HASH_BYTES if encoded_base(training) else 0
    if len(message.whole) != expected:
        raise Rejected(
            Code.MALFORMED,
            f"round {round_.number}: root of the whole of {len(message.whole)} bytes, expected {expected}",
        )
    holding = Holding(node=context.sender, sha256=message.sha256, whole=message.whole)
    for held in round_.holdings:
        if held.node == context.sender:
            if held != holding:
                raise Rejected(Code.CONFLICT, f"{context.name.short} has stored another result of this round")
            return training
    holdings = tuple(sorted((*round_.holdings, holding), key=lambda h: h.node))
    round_ = replace(round_, holdings=holdings)
    training = replace(training, round=round_)
    same = [h.node for h in holdings if (h.sha256, h.whole) == (message.sha256, message.whole)]
    if 2 * len(same) > len(round_.participants):
        return _finalise(training, context, round_, holding, tuple(same))
    most = max(sum((h.sha256, h.whole) == (o.sha256, o.whole) for o in holdings) for h in holdings)
    if 2 * (most + len(round_.participants) - len(holdings)) <= len(round_.participants):
        return collect_again(training, context, "those who stored the result got different hashes, none a majority")
    return training


def _finalise(
    training: Training, context: Context, round_: Round, stored: Holding, holders: tuple[NodeId, ...]
) -> Training:
    """T-31: the round is final: fold it into its result and open the next, or complete the training."""
    result = Result(
        round=round_.number,
        roots=round_.merged,
        result_root=result_root(round_.merged),
        sha256=stored.sha256,
        base=encoded_base(training),
        whole=stored.whole,
        holders=holders,
        participants=round_.participants,
        contributors=round_.contributors,
        dropped=round_.dropped,
        attempts=round_.attempt,
        height=context.height,
        time_ms=context.time_ms,
        elapsed_ms=context.elapsed_ms,
    )
    # All who took part in a draw have contributed their share: that it was another's parameters is chance.
    counted = round_.participants if is_drawing(training) else round_.contributors
    peers = tuple(
        count_round(
            peer,
            offered=peer.state is not PeerState.LEFT or peer.node in counted,
            contributed=peer.node in counted,
        )
        for peer in training.peers
    )
    # Somebody may have enrolled or come back while the closing round was merging.
    complete = round_.closing and all(peer.state is not PeerState.LIVE for peer in peers)
    previous = training.last if get_settings(training).needs == "history" else None
    training = replace(training, last=result, previous=previous, peers=peers, finals=training.finals + 1)
    return open_next_round(training, context, complete=complete)


def open_next_round(training: Training, context: Context, *, complete: bool, setback: str = "") -> Training:
    """T-32: the next round opens for check-ins; after the closing round the training is complete."""
    if complete:
        return replace(training, phase=Phase.COMPLETED, round=None)
    number = training.round.number + 1 if training.round else 0
    opened = Round(number=number, attempt=0, opened_ms=context.elapsed_ms, quorum_ms=None, setback=setback)
    return replace(training, phase=Phase.COLLECTING, round=opened)
