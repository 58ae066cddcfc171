"""Judges how a training on this machine ended: did every program finish, with the one model that the ledger has?

Pure, except `newest_result`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.contracts.records import PeerState, Phase, Result, Training
from swarmlearning.encoding import decode
from swarmlearning.sl.results import StoredResult
from swarmlearning.types import NodeId

NEVER_USED: Final = (
    "no program used the swarm: give its training a SwarmCallback "
    "(from swarmlearning.tf or swarmlearning.pyt import SwarmCallback)"
)

_STOPPED: Final = (143, -15)
"""Exit statuses of a program that was ended by SIGTERM, as those left over are when others fail."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How one peer ended."""

    name: str
    node: NodeId
    status: int
    """Exit status of its program."""
    result: StoredResult | None
    """The newest result of the training that its SL has on disk."""


def newest_result(control: Path, training: Training | None) -> StoredResult | None:
    """The newest result of the training's current run in an SL's control directory, or None.

    Raises:
        DecodeError: a file there is not what an SL writes.
    """
    if training is None:
        return None
    found = [decode(path.read_bytes(), StoredResult) for path in control.glob("result-*.meta")]
    ours = [result for result in found if (result.contract, result.run) == (training.name, training.run)]
    return max(ours, key=lambda result: result.round, default=None)


def find_faults(training: Training | None, endings: Sequence[Ending]) -> list[str]:
    """What is wrong with how it ended, one line each, causes first; empty if all finished with the ledger's model."""
    failed = sorted((e for e in endings if e.status != 0), key=lambda e: e.status in _STOPPED)
    faults = [f"{e.name}: the program ended with status {e.status}" for e in failed]
    if training is None or not training.peers:
        # A program that failed may have done so before it came to its callback.
        return faults or [NEVER_USED]
    states = {peer.node: peer.state for peer in training.peers}
    for ending in endings:
        match states.get(ending.node):
            case None:
                faults.append(f"{ending.name}: its program never joined the training")
            case PeerState.LEFT:
                faults.append(f"{ending.name}: left the training before its end")
            case PeerState.FINISHED:
                pass
            # A target ends the training of those that still train, and a late one is told that it is over: what counts
            # then is the model that it ended with.
            case _ if ending.status == 0 and training.phase is not Phase.COMPLETED:
                faults.append(f"{ending.name}: its program ended without finishing the training")
    if training.phase is not Phase.COMPLETED:
        return [*faults, f"the training {training.name} is not complete: it stands at {training.phase.value}"]
    if training.last is None:
        return [*faults, f"the training {training.name} ended without a merged model"]
    if faults:
        return faults
    return _compare_models(training.last, endings)


def _compare_models(last: Result, endings: Sequence[Ending]) -> list[str]:
    faults = []
    for ending in endings:
        if ending.result is None or ending.result.round != last.round:
            faults.append(f"{ending.name}: has no result of round {last.round}, the training's last")
        elif ending.result.sha256 != last.sha256:
            mine, ledger = ending.result.sha256.hex()[:16], last.sha256.hex()[:16]
            faults.append(f"{ending.name}: ended with the model {mine}, but the one on the ledger is {ledger}")
    return faults
