"""When somebody does not serve: reports and suspicions. Spec: docs/spec/training.md, T-26 to T-29 and T-34.

Nobody is convicted on one peer's word: an accusation costs the accuser its charge, and only several drop a contributor.
"""

from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.limits import clean_text
from swarmlearning.contracts.messages import Suspect, Unreachable
from swarmlearning.contracts.records import Dropped, Report, Suspicion, Training
from swarmlearning.contracts.rounds import (
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
    require_charge,
    require_shard,
    required_peers,
)
from swarmlearning.types import Code, NodeId, short_name

REPORTS_BETWEEN_TWO: Final = 1
"""Of two participants each is the only one that could report the other."""


def report_unreachable(training: Training, context: Context, message: Unreachable) -> Training:
    """T-26: somebody in charge of a shard could not get verified, finite chunks from a contributor.

    The first reports only cost the reporter its charge; with enough distinct ones the contributor is dropped.

    Raises:
        Rejected: stale, not the sender's shard, about itself or about somebody who does not contribute.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    require_charge(round_, message.shard, context.sender)
    if message.contributor not in round_.contributors or message.contributor == context.sender:
        raise Rejected(Code.MALFORMED, "the report names nobody who is another contributor of this round")
    report = Report(
        reporter=context.sender,
        contributor=message.contributor,
        reason=message.reason,
        detail=clean_text(message.detail),
    )
    round_ = replace(round_, reports=(*round_.reports, report))
    training = replace(training, round=round_)
    reporters = {r.reporter for r in round_.reports if r.contributor == message.contributor}
    if len(reporters) >= reports_needed(len(round_.participants)):
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
    round_ = replace(
        round_,
        contributors=tuple(node for node in round_.contributors if node != gone),
        dropped=tuple(dropped[node] for node in sorted(dropped)),
        benched=tuple(sorted({*round_.benched, gone})),
        # Work is compared per set of contributors: with another set every shard is merged anew.
        commits=(),
        merged=(b"",) * round_.shards,
        holdings=(),
        reports=tuple(r for r in round_.reports if r.contributor != gone),
    )
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
    """T-29: a silent leader or witness is replaced when more than half of the other participants suspect it.

    Raises:
        Rejected: stale, not a participant, or naming somebody whom that shard does not wait for.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    require_shard(round_, message.shard)
    gone = dropped_nodes(round_) | left_nodes(training)
    others = [node for node in round_.participants if node != message.leader and node not in gone]
    if context.sender not in round_.participants or context.sender == message.leader:
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} is not another participant of this round")
    # A merged shard is served by its leader; an unmerged one waits for whoever has not committed.
    expected = round_.leaders[message.shard : message.shard + 1] if round_.merged[message.shard] else None
    if message.leader not in (pending_nodes(round_, message.shard) if expected is None else expected):
        raise Rejected(Code.STALE, f"shard {message.shard} does not wait for the node that is suspected")
    suspicion = Suspicion(reporter=context.sender, suspect=message.leader, shard=message.shard)
    if suspicion in round_.suspicions:
        return training
    round_ = replace(round_, suspicions=(*round_.suspicions, suspicion))
    training = replace(training, round=round_)
    voices = {s.reporter for s in round_.suspicions if (s.suspect, s.shard) == (message.leader, message.shard)}
    if 2 * len(voices & set(others)) <= len(others):
        return training
    return relieve(training, context, message.leader)


def relieve(training: Training, context: Context, node: NodeId) -> Training:
    """T-34: `node` leads and witnesses nothing any more in this round; whatever it was in charge of moves."""
    round_ = open_round(training)
    shards = [shard for shard in range(round_.shards) if node in charged_nodes(round_, shard)]
    if not shards:
        return training
    round_ = replace(round_, benched=tuple(sorted({*round_.benched, node})))
    return next_attempt(replace(training, round=round_), context, shards)
