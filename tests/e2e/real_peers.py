"""Programs that train beside real SLs, step by step, as a test tells them to."""

import os
import subprocess
import sys

from swarmlearning.local.network import LocalNetwork, Sl

# It goes on by a line on its stdin, so that a test decides how far the training is.
PROGRAM = """
import sys
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Progress, Settings

contract, shows = sys.argv[1], sys.argv[2] == "shows"
settings = Settings(sync_frequency=5, start="merge", grace_ms=1000)
with SwarmSession(SessionConfig(min_peers=2, contract=contract, settings=settings)) as session:
    weights = {"w": np.zeros(4, np.float32)}
    session.open(weights)
    print("enrolled", flush=True)
    for step, _ in enumerate(sys.stdin):
        shown = Progress(epoch=step + 1, total_epochs=3, eta_s=749, loss_micro=500_000 - step, metric_micro=910_000,
                         metric_name="auc", figures_round=step - 1)
        result = session.sync({"w": weights["w"] + 1}, shown if shows else Progress())
        print("round", result.round, flush=True)
    session.finish(weights)
"""


class Peer:
    """A program that trains when it is told to."""

    def __init__(self, sl: Sl, contract: str, *, shows: bool) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SWARM_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, contract, "shows" if shows else "silent"],
            env=clean | {"SWARM_SL": str(sl.control)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def train(network: LocalNetwork, contract: str, rounds: int) -> list[Peer]:
    """Two peers after some rounds; only the first shows figures."""
    peers = [Peer(sl, contract, shows=index == 0) for index, sl in enumerate(network.sls)]
    assert [peer.read() for peer in peers] == ["enrolled\n"] * 2
    for number in range(rounds):
        play(peers, number)
    return peers


def play(peers: list[Peer], number: int) -> None:
    for peer in peers:
        peer.train()
    assert [peer.read() for peer in peers] == [f"round {number}\n"] * 2


def finish(peers: list[Peer]) -> None:
    for peer in peers:
        peer.end()
    ends = []
    for peer in peers:
        with peer.process:  # closes its pipes
            ends.append(peer.process.wait(60))
    assert ends == [0, 0]
