"""Measuring: the contributors' distances come together before anything is merged. Spec: docs/spec/training.md, T-42.

A merge method that weighs whole models against each other needs to know how far they are apart. Nobody has whole
models: each shard is measured by who merges it. Shards are agreed on as merged ones are, in `rounds`.
"""

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.distances import check_distances
from swarmlearning.contracts.messages import Measure
from swarmlearning.contracts.records import Commit, Part, Training
from swarmlearning.contracts.rounds import commit_root, merging_round, require_charge
from swarmlearning.encoding import sha256
from swarmlearning.types import Code


def commit_distances(training: Training, context: Context, message: Measure) -> Training:
    """T-42: a leader or witness commits what it measured of a shard.

    Raises:
        Rejected: stale, nothing to measure, not the sender's shard, malformed, or contradicting what it measured
            before.
    """
    round_ = merging_round(training, message.run, message.round, message.attempt)
    if not round_.measuring:
        why = "is measured already" if round_.distances else "is merged without distances"
        raise Rejected(Code.STALE, f"round {round_.number} of {training.name} {why}")
    require_charge(round_, message.shard, context.sender)
    check_distances(message.distances, len(round_.contributors))
    commit = Commit(shard=message.shard, node=context.sender, root=sha256(message.distances))
    if commit in round_.commits:
        return training
    part = Part(shard=message.shard, distances=message.distances)
    parts = tuple(sorted({*round_.parts, part}, key=lambda p: (p.shard, p.distances)))
    training = replace(training, round=replace(round_, parts=parts))
    return commit_root(training, context, commit.shard, commit.root)
