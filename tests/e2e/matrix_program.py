"""The ML program of the fault matrix: numpy alone, one line of JSON for everything that happens to it.

Started as `python matrix_program.py JOB`, JOB being a file with an encoded `Job`. How far it may train is said by the
file `Job.pace`, which the test replaces; so no test guesses how long a round takes.
"""

import sys
import time
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings
from swarmlearning.parameters.dtypes import Array
from swarmlearning.types import ContractName

PACE_POLL_S = 0.005
PARTS = 4
"""Tensors of the model."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one start of the program does."""

    contract: ContractName
    settings: Settings
    min_peers: int
    index: int
    megabytes: int
    pace: str
    log: str
    life: int
    """How often this peer's program was started before."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How far a program may go."""

    upto: int
    """The last round that it may offer parameters in."""
    last: int
    """The round after which it has finished."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a program."""

    kind: Literal["opened", "round", "finishing", "final"]
    life: int
    at_s: float
    """Of the machine's monotonic clock, which all its processes share."""
    round: int = -1
    sha256: str = ""
    """Empty where the round was void."""
    contributors: tuple[str, ...] = ()


class Trainer:
    """The program's model and its notes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        rows = job.megabytes * (1 << 20) // 4 // 1024 // PARTS
        # Others at every site: a merge that lost somebody has another hash.
        self.weights: dict[str, Array] = {
            f"layer{part}": np.full((rows, 1024), job.index + part, np.float32) for part in range(PARTS)
        }

    def say(self, kind: Literal["opened", "round", "finishing", "final"], **fields: object) -> None:
        line = msgspec.convert({"kind": kind, "life": self.job.life, "at_s": time.monotonic(), **fields}, Line)
        with Path(self.job.log).open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def wait_pace(self, round_: int) -> bool:
        """Wait until `round_` may be trained for; False if the training is to end before it."""
        while True:
            pace = msgspec.json.decode(Path(self.job.pace).read_bytes(), type=Pace)
            if round_ > pace.last:
                return False
            if round_ <= pace.upto:
                return True
            time.sleep(PACE_POLL_S)

    def train_batch(self) -> None:
        for name, array in self.weights.items():
            self.weights[name] = array * np.float32(0.75) + np.float32(self.job.index + 1)

    def run(self) -> None:
        job = self.job
        session = SwarmSession(
            SessionConfig(settings=job.settings, min_peers=job.min_peers, contract=job.contract, program="matrix")
        )
        newest = session.open(self.weights)
        self.say("opened")
        self.weights = newest or self.weights
        # A late program learns from its first sync which round it is.
        expected = -1 if newest is not None else 0
        while self.wait_pace(expected):
            self.train_batch()
            result = session.sync(self.weights)
            if result.over:
                break
            self.say("round", round=result.round, sha256=result.sha256, contributors=result.contributors)
            self.weights = result.arrays or self.weights
            expected = result.round + 1
        self.say("finishing", round=expected)
        final = session.finish(self.weights)
        self.say("final", round=final.round, sha256=final.sha256)


if __name__ == "__main__":
    Trainer(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)).run()
