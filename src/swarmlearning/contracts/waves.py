"""Which messages come in waves: check-ins, merge commits and stores, one from each of those a round waits for.

Advice for whoever makes blocks, and for nobody else: one block for a wave costs every node less than one for each
message. Nothing that is carried out depends on it.
"""

from collections.abc import Sequence

from swarmlearning.contracts.closing import missing_peers
from swarmlearning.contracts.context import State
from swarmlearning.contracts.membership import load_training
from swarmlearning.contracts.messages import AnyMessage, CheckIn, MergeCommit, Stored
from swarmlearning.contracts.records import Phase, Training
from swarmlearning.contracts.rounds import pending_nodes, pending_stores
from swarmlearning.types import ContractName, NodeId

_Expected = tuple[type[CheckIn] | type[MergeCommit] | type[Stored], int, NodeId]
"""Kind of message, shard and sender."""


def expects_more(state: State, messages: Sequence[tuple[NodeId, AnyMessage]]) -> bool:
    """Whether each of `messages`, with its sender, belongs to a wave of which others have yet to come.

    Args:
        state: committed.
        messages: that wait for the next block.
    """
    sent: dict[ContractName, set[_Expected]] = {}
    for sender, message in messages:
        if not isinstance(message, CheckIn | MergeCommit | Stored):
            return False
        shard = message.shard if isinstance(message, MergeCommit) else 0
        sent.setdefault(message.contract, set()).add((type(message), shard, sender))
    for contract, known in sent.items():
        training = load_training(state, contract)
        if training is None or _awaited(training) <= known:
            return False
    return bool(sent)


def _awaited(training: Training) -> set[_Expected]:
    """What the open round waits for: kind, shard and sender."""
    round_ = training.round
    if round_ is None:
        return set()
    if training.phase is Phase.COLLECTING:
        return {(CheckIn, 0, node) for node in missing_peers(training)}
    if training.phase is not Phase.MERGING:
        return set()
    merges: set[_Expected] = {
        (MergeCommit, shard, node) for shard in range(round_.shards) for node in pending_nodes(round_, shard)
    }
    stores: set[_Expected] = {(Stored, 0, node) for node in pending_stores(round_)}
    return merges or stores
