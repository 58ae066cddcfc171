"""When somebody does not serve: reports and suspicions. Spec: docs/spec/training.md, T-26 to T-29 and T-34.

Nobody is convicted on one peer's word: an accusation costs the accuser its charge, and only several drop a contributor.
"""

from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.limits import clean_text
from swarmlearning.contracts.messages import Suspect, Unreachable
from swarmlearning.contracts.records import Dropped, Report, Round, Suspicion, Training
from swarmlearning.contracts.rounds import (
    begin_work,
    charged_nodes,
    collect_again,
    draw_seed_peer,
    dropped_nodes,
    is_drawing,
    lacks_majority,
    left_nodes,
    merging_round,
    next_attempt,
    open_round,
    pending_nodes,
    pending_stores,
    require_charge,
    require_shard,
    required_peers,
    shard_sources,
)
from swarmlearning.types import Code, NodeId, short_name

STORING: Final = -1
"""In a suspicion, instead of a shard: the suspect does not store what is merged."""

REPORTS_BETWEEN_TWO: Final = 1
"""Of two participants each is the only one that could report the other."""


def report_unreachable(training: Training, context: Context, message: Unreachable) -> Training:
    """T-26: somebody in charge of a shard could not get verified, finite chunks from a contributor.

    The first reports only cost the reporter its charge; with enough distinct ones the contributor is dropped. Who
    reports itself, since it has restarted, is dropped at once.

    Raises:
        Rejected: stale, not the sender's shard, or about somebody who does not contribute.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    about_itself = message.contributor == context.sender
    if not about_itself:
        require_charge(round_, message.shard, context.sender)
    if message.contributor not in round_.contributors:
        raise Rejected(Code.MALFORMED, "the report names nobody who is a contributor of this round")
    report = Report(
        reporter=context.sender,
        contributor=message.contributor,
        reason=message.reason,
        detail=clean_text(message.detail),
    )
    round_ = replace(round_, reports=(*round_.reports, report))
    training = replace(training, round=round_)
    reporters = {r.reporter for r in round_.reports if r.contributor == message.contributor}
    if about_itself or len(reporters) >= reports_needed(len(round_.participants)):
        return _drop_contributor(training, context, report)
    return relieve(training, context, context.sender)


def reports_needed(participants: int) -> int:
    """T-27: distinct reports that drop a contributor: f + 1 with f = floor((n - 1) / 3), at least 2; 1 between two."""
    return REPORTS_BETWEEN_TWO if participants <= 2 else max(2, (participants - 1) // 3 + 1)


def _drop_contributor(training: Training, context: Context, report: Report) -> Training:
    """T-28: go on without a contributor, or collect again where too few are left."""
    round_ = open_round(training)
    gone = report.contributor
    why = f"{report.reason}: {report.detail}" if report.detail else report.reason
    dropped = {d.node: d for d in round_.dropped} | {gone: Dropped(node=gone, reason=why)}
    struck = report.reason != "unreachable"
    round_ = replace(
        round_,
        strikes=(*round_.strikes, gone) if struck else round_.strikes,
        contributors=tuple(node for node in round_.contributors if node != gone),
        dropped=tuple(dropped[node] for node in sorted(dropped)),
        benched=tuple(sorted({*round_.benched, gone})),
        reports=tuple(r for r in round_.reports if r.contributor != gone),
    )
    round_ = begin_work(training, round_)
    training = replace(training, round=round_)
    setback = f"{short_name(gone)} was dropped ({why}) and too few were left"
    left = len(round_.participants) - len(dropped_nodes(round_))
    if left < required_peers(training) or lacks_majority(round_):
        return collect_again(training, context, setback)
    if is_drawing(training):
        drawn = draw_seed_peer(training, round_, context)
        # The newly drawn holds the result already, so it leads (T-22); nobody else has work to keep.
        shards = round_.shards
        round_ = replace(round_, contributors=drawn, leaders=(NodeId(""),) * shards, witnesses=((),) * shards)
        training = replace(training, round=round_)
        if not drawn:
            return collect_again(training, context, setback)
    elif len(round_.contributors) < 2:
        return collect_again(training, context, setback)
    return next_attempt(training, context, range(round_.shards))


def suspect_leader(training: Training, context: Context, message: Suspect) -> Training:
    """T-29: a silent leader, witness or storer is gone on without when more than half of the others suspect it.

    Raises:
        Rejected: stale, not a participant, or naming somebody whom that shard does not wait for.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    if message.shard != STORING:
        require_shard(round_, message.shard)
    if context.sender not in round_.participants or context.sender == message.leader:
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} is not another participant of this round")
    if message.leader not in _awaited_nodes(round_, message.shard):
        what = "the round" if message.shard == STORING else f"shard {message.shard}"
        raise Rejected(Code.STALE, f"{what} does not wait for the node that is suspected")
    suspicion = Suspicion(reporter=context.sender, suspect=message.leader, shard=message.shard, gone=message.gone)
    if suspicion in round_.suspicions:
        return training
    round_ = replace(round_, suspicions=(*round_.suspicions, suspicion))
    training = replace(training, round=round_)
    about = [s for s in round_.suspicions if s.suspect == message.leader]
    if not _is_majority(training, message.leader, {s.reporter for s in about if s.shard == message.shard}):
        return training
    if message.shard == STORING:
        return _note_absent(training, context, message.leader)
    # At least what T-27 asks for: a majority that it did not answer, as long as a leader tries to pull.
    gone = _is_majority(training, message.leader, {s.reporter for s in about if s.gone})
    if gone and message.leader in round_.contributors and not _is_served_without(round_, message.leader):
        report = Report(reporter=context.sender, contributor=message.leader, reason="unreachable", detail="no answer")
        return _drop_contributor(training, context, report)
    return relieve(training, context, message.leader)


def _awaited_nodes(round_: Round, shard: int) -> tuple[NodeId, ...]:
    """Whom a shard waits for: to commit it or, once it is merged, its leader, to serve it. STORING: all, to store."""
    if shard == STORING:
        return pending_stores(round_)
    serving = bool(round_.merged[shard]) and not round_.measuring
    return (round_.leaders[shard],) if serving else pending_nodes(round_, shard)


def _is_majority(training: Training, suspect: NodeId, voices: set[NodeId]) -> bool:
    """Whether `voices` are more than half of the other participants that are neither dropped nor gone."""
    round_ = open_round(training)
    out = {suspect, *dropped_nodes(round_), *round_.absent, *left_nodes(training)}
    others = [node for node in round_.participants if node not in out]
    return 2 * len(voices & set(others)) > len(others)


def _is_served_without(round_: Round, node: NodeId) -> bool:
    """Whether every shard is merged and can be had from others than `node`."""
    return all(
        bool(root) and any(source != node for source in shard_sources(round_, shard))
        for shard, root in enumerate(round_.merged)
    )


def _note_absent(training: Training, context: Context, node: NodeId) -> Training:
    """T-29: wait no more for the store of a silent participant.

    Where no majority is left that could store, but as many as a round needs, it collects again without the silent ones;
    where fewer are left the merged result is kept for those that come back.
    """
    round_ = open_round(training)
    round_ = replace(round_, absent=tuple(sorted({*round_.absent, node})))
    training = replace(training, round=round_)
    here = set(round_.participants) - set(round_.absent) - dropped_nodes(round_) - left_nodes(training)
    if not lacks_majority(round_) or len(here) < required_peers(training):
        return training
    names = ", ".join(short_name(absent) for absent in round_.absent)
    return collect_again(training, context, f"half of the participants did not store the result ({names})")


def relieve(training: Training, context: Context, node: NodeId) -> Training:
    """T-34: `node` leads and witnesses nothing any more in this round; whatever it was in charge of moves."""
    round_ = open_round(training)
    shards = [shard for shard in range(round_.shards) if node in charged_nodes(round_, shard)]
    if not shards:
        return training
    round_ = replace(round_, benched=tuple(sorted({*round_.benched, node})))
    return next_attempt(replace(training, round=round_), context, shards)
