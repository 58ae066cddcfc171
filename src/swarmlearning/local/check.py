"""Judges how a training on this machine ended: did every program finish, with the one model that the ledger has?

Pure, except `read_outcome`.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.encoding import from_json
from swarmlearning.sl.control import OUTCOME_FILE, Outcome
from swarmlearning.types import NodeId


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How one peer ended."""

    name: str
    node: NodeId
    status: int
    """Exit status of its program."""
    outcome: Outcome | None
    """What its SL wrote at the end of the training, if anything."""


def read_outcome(control: Path) -> Outcome | None:
    """What an SL left in its control directory about the training that it ended last, or None.

    Raises:
        DecodeError: the file is not an outcome.
    """
    path = control / OUTCOME_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return from_json(data, Outcome, str(path))


def find_faults(training: Training | None, endings: Sequence[Ending]) -> list[str]:
    """What is wrong with how it ended, one line each; empty if all peers finished with the model on the ledger."""
    failed = [ending for ending in endings if ending.status != 0]
    faults = [f"{ending.name}: the program ended with status {ending.status}" for ending in failed]
    if training is None or not training.peers:
        return [
            *faults,
            "no program used the swarm: give its training a SwarmCallback "
            "(from swarmlearning.tf or swarmlearning.pyt import SwarmCallback)",
        ]
    enrolled = {peer.node: peer for peer in training.peers}
    faults += [f"{e.name}: its program never joined the training" for e in endings if e.node not in enrolled]
    faults += [
        f"{e.name}: left the training before its end"
        for e in endings
        if e.node in enrolled and enrolled[e.node].state is PeerState.LEFT
    ]
    if training.phase is not Phase.COMPLETED:
        return [*faults, f"the training {training.name} is not complete: it stands at {training.phase.value}"]
    if training.last is None:
        return [*faults, f"the training {training.name} ended without a merged model"]
    return faults + _compare_models(training, training.last.sha256.hex(), endings)


def _compare_models(training: Training, ledger: str, endings: Sequence[Ending]) -> list[str]:
    faults = []
    for ending in endings:
        outcome = ending.outcome
        if ending.status != 0 or all(peer.node != ending.node for peer in training.peers):
            continue  # said already
        if outcome is None or (outcome.contract, outcome.run) != (training.name, training.run):
            faults.append(f"{ending.name}: its SL did not say with which model it ended")
        elif outcome.sha256 != ledger:
            mine = outcome.sha256[:16] or "no model"
            faults.append(f"{ending.name}: ended with {mine}, but the ledger's model is {ledger[:16]}")
    return faults
