"""The merging phase of a round: attempts, commits, disputes, finality. Spec: docs/spec/training.md, T-20 to T-39.

Pure: every function takes a training and gives back the next one. Before finality a round may start another attempt;
after it, never. Each step removes a contributor or a leader, or adds a witness, so a round ends.
"""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.draw import count_shards, draw_order, draw_seed
from swarmlearning.contracts.messages import MergeCommit, Stored, Suspect, Unreachable
from swarmlearning.contracts.records import (
    Commit,
    Dropped,
    Holding,
    Peer,
    PeerState,
    Phase,
    Report,
    Result,
    Round,
    Settings,
    Suspicion,
    Training,
)
from swarmlearning.parameters.chunks import result_root
from swarmlearning.types import Code, NodeId, short_name

MAX_DETAIL: Final = 200
"""Longest text a report may carry, characters."""

HASH_BYTES: Final = 32


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
    """T-12: how many check-ins a round needs: the largest `min_peers` asked for, never fewer than two."""
    return max([2, *(peer.min_peers for peer in training.peers if peer.state is not PeerState.LEFT)])


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
    return {dropped.node for dropped in round_.dropped}


def shard_sources(round_: Round, shard: int) -> list[NodeId]:
    """Who can serve a merged shard: its leader first, then whoever committed the same root, then holders."""
    root = round_.merged[shard]
    committed = [c.node for c in round_.commits if c.shard == shard and c.root == root and root]
    held = [h.node for h in round_.holdings]
    ordered = [round_.leaders[shard], *committed, *held] if round_.leaders[shard] in committed else [*committed, *held]
    return list(dict.fromkeys(ordered))


def merge_peers(peers: Iterable[Peer], node: NodeId, **changes: object) -> tuple[Peer, ...]:
    """`peers` with the record of `node` changed."""
    return tuple(replace(peer, **changes) if peer.node == node else peer for peer in peers)


# --- attempts -------------------------------------------------------------------------------------------------------


def start_merging(training: Training, context: Context, closing: bool) -> Training:
    """T-20: fix participants, contributors and shards of the round that closes, and begin its first attempt."""
    round_ = _open(training)
    settings = get_settings(training)
    participants = tuple(c.node for c in round_.checkins)
    weighted = tuple(c.node for c in round_.checkins if c.weight > 0)
    size = training.manifest.size if training.manifest else 0
    is_draw = training.last is None and settings.start == "draw"
    contributors = _draw_seed_peer(training, round_, context) if is_draw else weighted
    shards = count_shards(settings.topology, size, len(participants), len(contributors))
    round_ = replace(
        round_,
        merging=True,
        closing=closing,
        participants=participants,
        contributors=contributors,
        shards=shards,
        leaders=("",) * shards,
        witnesses=((),) * shards,
        merged=(b"",) * shards,
    )
    return _next_attempt(replace(training, round=round_, phase=Phase.MERGING), context, range(shards))


def _open(training: Training) -> Round:
    if training.round is None:
        raise Rejected(Code.STALE, f"{training.name} has no open round")
    return training.round


def _draw_seed_peer(training: Training, round_: Round, context: Context) -> tuple[NodeId, ...]:
    """T-21: whose parameters all start from, drawn among those that restored no private checkpoint."""
    restored = {peer.node for peer in training.peers if peer.restored}
    out = dropped_nodes(round_)
    offered = [c.node for c in round_.checkins if c.weight > 0 and c.node not in out]
    candidates = [node for node in offered if node not in restored] or offered
    if not candidates:
        return ()
    return (draw_order(draw_seed(training, round_, round_.attempt + 1, context.previous_hash), candidates)[0],)


def _next_attempt(training: Training, context: Context, redraw: Iterable[int]) -> Training:
    """T-22: the next attempt, with new leaders and witnesses for the shards in `redraw`; others keep theirs."""
    round_ = _open(training)
    attempt = round_.attempt + 1
    out = dropped_nodes(round_)
    accused = {report.contributor for report in round_.reports}
    barred = {*round_.benched, *training.distrusted, *out}
    eligible = [node for node in round_.participants if node not in barred]
    preferred = [node for node in eligible if node not in accused] or eligible
    if not preferred:
        return collect_again(training, context, "no participant is left that could lead")
    order = draw_order(draw_seed(training, round_, attempt, context.previous_hash), preferred)
    if len(round_.contributors) == 1 and round_.contributors[0] in order:
        # The one whose parameters are adopted already holds the result: let it lead, and nothing travels twice.
        order.sort(key=lambda node: node != round_.contributors[0])
    wanted = get_settings(training).witnesses
    leaders, witnesses = list(round_.leaders), list(round_.witnesses)
    merged, commits = list(round_.merged), round_.commits
    for shard in redraw:
        agreeing = [c.node for c in commits if c.shard == shard and c.root == merged[shard] and c.node in preferred]
        if merged[shard] and agreeing:
            leaders[shard] = agreeing[0]  # somebody else has committed the agreed root and can serve it
            continue
        start = shard % len(order)
        turn = [*order[start:], *order[:start]]
        leaders[shard], witnesses[shard] = turn[0], tuple(turn[1 : 1 + wanted])
        merged[shard] = b""
        chosen = {turn[0], *witnesses[shard]}
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
    round_ = _open(training)
    fresh = Round(
        number=round_.number,
        attempt=round_.attempt + 1,
        opened_ms=context.elapsed_ms,
        quorum_ms=None,
        dropped=(*round_.dropped, *(Dropped(node=node, reason=reason) for node in sorted(absent))),
    )
    paused = absent | dropped_nodes(round_)
    peers = tuple(
        replace(peer, state=PeerState.PAUSED) if peer.node in paused and peer.state is PeerState.LIVE else peer
        for peer in training.peers
    )
    return replace(training, round=fresh, phase=Phase.COLLECTING, peers=peers)


# --- merging --------------------------------------------------------------------------------------------------------


def commit_merge(training: Training, context: Context, message: MergeCommit) -> Training:
    """T-24: a leader or witness commits what it got for a shard.

    Raises:
        Rejected: stale, not the sender's shard, malformed, or contradicting its own earlier commit.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    _require_shard(round_, message.shard)
    _require_charge(round_, message.shard, context.sender)
    if len(message.root) != HASH_BYTES:
        raise Rejected(Code.MALFORMED, f"merged root of {len(message.root)} bytes, expected {HASH_BYTES}")
    for commit in round_.commits:
        if (commit.shard, commit.node) == (message.shard, context.sender):
            if commit.root != message.root:
                raise Rejected(
                    Code.CONFLICT, f"{context.name.short} has committed another root for shard {message.shard}"
                )
            return training
    commit = Commit(shard=message.shard, node=context.sender, root=message.root)
    commits = tuple(sorted((*round_.commits, commit), key=lambda c: (c.shard, c.node)))
    return _agree_on_shards(replace(training, round=replace(round_, commits=commits)), context)


def _agree_on_shards(training: Training, context: Context) -> Training:
    """T-25: a shard is merged when its leader and all its witnesses have committed one root.

    Where they differ nobody is convicted: a further witness is drawn, and one root counts once it has as many
    commits as leader and witnesses were asked for. Whoever an agreement contradicts leads no more in this run.
    """
    round_ = _open(training)
    merged, witnesses, distrusted = list(round_.merged), list(round_.witnesses), set(training.distrusted)
    disputed = False
    for shard in range(round_.shards):
        if merged[shard]:
            continue
        cast = [c for c in round_.commits if c.shard == shard]
        charged = {round_.leaders[shard], *witnesses[shard]}
        needed = min(get_settings(training).witnesses + 1, len(charged))
        agreed = sorted({c.root for c in cast if sum(o.root == c.root for o in cast) >= needed})
        if len(agreed) == 1:
            merged[shard] = agreed[0]
            distrusted |= {c.node for c in cast if c.root != agreed[0]}
        elif charged <= {c.node for c in cast}:
            spare = [n for n in round_.participants if n not in charged and n not in dropped_nodes(round_)]
            spare = [n for n in spare if n not in round_.benched and n not in distrusted]
            if not spare:
                return collect_again(training, context, f"leader and witnesses of shard {shard} disagree")
            seed = draw_seed(training, round_, round_.attempt + 1, context.previous_hash)
            witnesses[shard] = (*witnesses[shard], draw_order(seed, spare)[0])
            disputed = True
    attempt = round_.attempt + 1 if disputed else round_.attempt
    round_ = replace(
        round_,
        merged=tuple(merged),
        witnesses=tuple(witnesses),
        attempt=attempt,
        attempt_ms=context.elapsed_ms if disputed else round_.attempt_ms,
    )
    return replace(training, round=round_, distrusted=tuple(sorted(distrusted)))


def _require_shard(round_: Round, shard: int) -> None:
    if not 0 <= shard < round_.shards:
        raise Rejected(Code.MALFORMED, f"shard {shard}: the round has shards 0 to {round_.shards - 1}")


def _require_charge(round_: Round, shard: int, node: NodeId) -> None:
    if node != round_.leaders[shard] and node not in round_.witnesses[shard]:
        leader = short_name(round_.leaders[shard])
        raise Rejected(
            Code.NOT_ALLOWED, f"{short_name(node)} neither leads nor witnesses shard {shard}; its leader is {leader}"
        )


# --- disputes -------------------------------------------------------------------------------------------------------


def report_unreachable(training: Training, context: Context, message: Unreachable) -> Training:
    """T-26, T-27: a leader could not get verified, finite chunks from a contributor.

    The first reports only cost the reporter its shard; with enough distinct ones the contributor is dropped.

    Raises:
        Rejected: stale, not the sender's shard, about itself or about somebody who does not contribute.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    _require_shard(round_, message.shard)
    _require_charge(round_, message.shard, context.sender)
    if message.contributor not in round_.contributors or message.contributor == context.sender:
        raise Rejected(Code.MALFORMED, f"{message.contributor} is not another contributor of this round")
    report = Report(
        reporter=context.sender,
        contributor=message.contributor,
        reason=message.reason,
        detail=message.detail[:MAX_DETAIL],
    )
    known = {(r.reporter, r.contributor) for r in round_.reports}
    if (report.reporter, report.contributor) not in known:
        round_ = replace(round_, reports=(*round_.reports, report))
    reporters = {r.reporter for r in round_.reports if r.contributor == message.contributor}
    if len(reporters) >= reports_needed(len(round_.contributors), len(round_.participants)):
        return _drop_contributor(replace(training, round=round_), context, report)
    round_ = replace(round_, benched=tuple(sorted({*round_.benched, context.sender})))
    shards = [s for s in range(round_.shards) if context.sender in (round_.leaders[s], *round_.witnesses[s])]
    return _next_attempt(replace(training, round=round_), context, shards)


def reports_needed(contributors: int, participants: int) -> int:
    """T-27: distinct reports that drop a contributor: f + 1 with f = floor((n - 1) / 3), at least 2; 1 between two."""
    if participants <= 2:
        return 1
    return max(2, (contributors - 1) // 3 + 1)


def _drop_contributor(training: Training, context: Context, report: Report) -> Training:
    """T-28: go on without a contributor, or collect again where too few are left."""
    round_ = _open(training)
    why = f"{report.reason}: {report.detail}" if report.detail else report.reason
    gone = report.contributor
    round_ = replace(
        round_,
        contributors=tuple(node for node in round_.contributors if node != gone),
        dropped=(*round_.dropped, Dropped(node=gone, reason=why)),
        benched=tuple(sorted({*round_.benched, gone})),
        # Work is compared per set of contributors: with another set every shard is merged anew.
        commits=(),
        merged=(b"",) * round_.shards,
        holdings=(),
        reports=tuple(r for r in round_.reports if r.contributor != gone),
    )
    training = replace(training, round=round_)
    left = len(round_.participants) - len(round_.dropped)
    if left < required_peers(training):
        return collect_again(training, context, why)
    if training.last is None and get_settings(training).start == "draw":
        drawn = _draw_seed_peer(training, round_, context)
        training = replace(training, round=replace(round_, contributors=drawn))
        if not drawn:
            return collect_again(training, context, why)
    elif len(round_.contributors) < 2:
        return collect_again(training, context, why)
    return _next_attempt(training, context, range(round_.shards))


def suspect_leader(training: Training, context: Context, message: Suspect) -> Training:
    """T-29: a leader is replaced when more than half of the other participants suspect it.

    Raises:
        Rejected: stale, not a participant, or naming somebody who does not lead that shard.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    _require_shard(round_, message.shard)
    if context.sender not in round_.participants or context.sender == message.leader:
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} is not another participant of this round")
    if round_.leaders[message.shard] != message.leader:
        raise Rejected(Code.STALE, f"shard {message.shard} is led by {short_name(round_.leaders[message.shard])}")
    suspicion = Suspicion(reporter=context.sender, shard=message.shard)
    if suspicion not in round_.suspicions:
        round_ = replace(round_, suspicions=(*round_.suspicions, suspicion))
    others = [n for n in round_.participants if n != message.leader and n not in dropped_nodes(round_)]
    voices = sum(1 for s in round_.suspicions if s.shard == message.shard and s.reporter in others)
    if 2 * voices <= len(others):
        return replace(training, round=round_)
    round_ = replace(round_, benched=tuple(sorted({*round_.benched, message.leader})))
    return _next_attempt(replace(training, round=round_), context, [message.shard])


# --- finality -------------------------------------------------------------------------------------------------------


def record_stored(training: Training, context: Context, message: Stored) -> Training:
    """T-30: a participant has the whole result; the round is final when a majority has, all with one hash.

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
    if any(h.node == context.sender for h in round_.holdings):
        return training
    holding = Holding(node=context.sender, sha256=message.sha256)
    holdings = tuple(sorted((*round_.holdings, holding), key=lambda h: h.node))
    round_ = replace(round_, holdings=holdings)
    same = [h.node for h in holdings if h.sha256 == message.sha256]
    if 2 * len(same) <= len(round_.participants):
        return replace(training, round=round_)
    return _finalise(training, context, round_, message.sha256, tuple(same))


def _finalise(
    training: Training, context: Context, round_: Round, digest: bytes, holders: tuple[NodeId, ...]
) -> Training:
    """T-31: the round is final: fold it into its result and open the next, or complete the training."""
    result = Result(
        round=round_.number,
        roots=round_.merged,
        result_root=result_root(round_.merged),
        sha256=digest,
        holders=holders,
        participants=round_.participants,
        contributors=round_.contributors,
        dropped=round_.dropped,
        attempts=round_.attempt,
        height=context.height,
        time_ms=context.time_ms,
    )
    peers = tuple(
        replace(
            peer,
            rounds_offered=peer.rounds_offered + (peer.state is not PeerState.LEFT),
            rounds_contributed=peer.rounds_contributed + (peer.node in round_.contributors),
        )
        for peer in training.peers
    )
    return open_next_round(replace(training, last=result, peers=peers), context, complete=round_.closing)


def open_next_round(training: Training, context: Context, *, complete: bool) -> Training:
    """T-32: the next round opens for check-ins; after the closing round the training is complete."""
    if complete:
        return replace(training, phase=Phase.COMPLETED, round=None)
    number = training.round.number + 1 if training.round else 0
    opened = Round(number=number, attempt=0, opened_ms=context.elapsed_ms, quorum_ms=None)
    return replace(training, phase=Phase.COLLECTING, round=opened)
