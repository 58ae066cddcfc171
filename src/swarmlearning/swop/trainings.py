"""What the ledger tells of a pair's SL: whether it takes part in trainings, and how they go. Spec: swop.md, SW-8.

Pure: functions of training records.
"""

from collections.abc import Iterable

from swarmlearning.contracts.records import Peer, PeerState, Phase, Training
from swarmlearning.contracts.rounds import required_peers
from swarmlearning.swop.journal import Standing
from swarmlearning.types import NodeId


def find_peer(training: Training, uid: NodeId) -> Peer | None:
    """An SL's enrolment in a training, also of one that has left."""
    return next((peer for peer in training.peers if peer.node == uid), None)


def find_standings(trainings: Iterable[Training], uid: NodeId) -> tuple[Standing, ...]:
    """Where an SL is enrolled."""
    found = ((training, find_peer(training, uid)) for training in trainings)
    return tuple(Standing(contract=t.name, run=t.run, peer=peer) for t, peer in found if peer is not None)


def has_joined(training: Training, uid: NodeId, before: Iterable[Standing]) -> bool:
    """Whether an SL has done something in a training since it stood there as `before` says."""
    peer = find_peer(training, uid)
    return peer is not None and Standing(contract=training.name, run=training.run, peer=peer) not in before


def has_merged(training: Training, uid: NodeId, before: Iterable[Standing]) -> bool:
    """Whether an SL has contributed to a round of a training since it stood there as `before` says."""
    peer = find_peer(training, uid)
    if peer is None:
        return False
    counted = [each.peer.rounds_contributed for each in before if each.contract == training.name]
    runs = [each.run for each in before if each.contract == training.name]
    return peer.rounds_contributed > (counted[0] if runs == [training.run] else 0)


def is_done(training: Training, uid: NodeId) -> bool:
    """Whether an SL has nothing more to do in a training."""
    peer = find_peer(training, uid)
    return training.phase is Phase.COMPLETED or peer is None or peer.state is PeerState.LEFT


def describe_progress(training: Training, uid: NodeId) -> str:
    """How a training goes for one of its peers, for people."""
    peer = find_peer(training, uid)
    if training.phase is Phase.COMPLETED:
        return f"the training {training.name} is complete"
    if peer is None or peer.state is PeerState.LEFT or training.round is None:
        return ""
    here = sum(each.state is not PeerState.LEFT for each in training.peers)
    missing = required_peers(training) - here
    if missing > 0:
        return f"waits for {missing} more {'peer' if missing == 1 else 'peers'} to join {training.name}"
    if peer.state is PeerState.FINISHED:
        return f"has finished; waits for the other peers of {training.name}"
    return f"round {training.round.number} of {training.name}"
