"""What every driver shares: the parameters that travel, what "training" is, and when a peer held a merged model.

It runs in the environment of each measured system, so it needs nothing but numpy, and imports nothing of ours.

The model is eight float32 arrays of random normal numbers, equal on every peer at first. Training adds `1 + peer` to
everything, so that a mean over peers 0..n-1 adds `(n + 1) / 2` a round: from the first number anybody can tell how many
whole rounds a model has behind it, and a merge that left a peer out shows.

A peer writes a mark (`Marks`) when it holds the merged model of round k. Round k lasted from the moment the last peer
held merged model k-1 to the moment the last peer held merged model k, by the one monotonic clock of this machine.
"""

import json
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

ARRAYS = 8
MARKS = "BENCH_PEERS_MARKS"


def make_arrays(megabytes: float) -> list[np.ndarray]:
    """The first parameters, the same on every peer; together `megabytes` (10^6 bytes) of float32."""
    rng = np.random.default_rng(1)
    count = max(1, int(megabytes * 1e6) // 4 // ARRAYS)
    return [rng.standard_normal(count, dtype=np.float32) for _ in range(ARRAYS)]


def train(arrays: list[np.ndarray], peer: int) -> list[np.ndarray]:
    """Next to no training: new arrays, each number greater by `1 + peer`."""
    return [array + np.float32(1 + peer) for array in arrays]


def merged_rounds(arrays: list[np.ndarray], peers: int) -> float:
    """How many rounds of means over all peers lie behind these arrays; not whole if somebody was left out."""
    first = np.random.default_rng(1).standard_normal(1, dtype=np.float32)[0]
    return float((arrays[0].reshape(-1)[0] - first) / ((peers + 1) / 2))


class Marks:
    """Writes when one peer held which merged model; `folder` holds a file for each peer."""

    def __init__(self, peer: int, folder: Path | None = None) -> None:
        self._path = (folder or Path(os.environ[MARKS])) / f"{peer}.jsonl"

    def write(self, arrays: list[np.ndarray], peers: int) -> None:
        """Say that this peer holds these merged parameters now."""
        line = json.dumps({"at": time.monotonic(), "merged": merged_rounds(arrays, peers)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_rounds(folder: Path, peers: int) -> tuple[list[float], str]:
    """Seconds of each round that all peers marked, and what was wrong with them ("" if nothing).

    The first mark of a peer is where the clock starts: it holds the first parameters, or the first merged ones.
    """
    marks = []
    for peer in range(peers):
        path = folder / f"{peer}.jsonl"
        marks.append([json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [])
    models = list(zip(*marks, strict=False))
    last = [max(mark["at"] for mark in model) for model in models]
    wrong = 0
    for before, after in pairwise(models):
        steps = [new["merged"] - old["merged"] for old, new in zip(before, after, strict=True)]
        wrong += any(abs(step - 1) > 0.01 for step in steps)
    note = f"{wrong} of {len(models) - 1} merges were not the mean over all {peers} peers" if wrong else ""
    return [after - before for before, after in pairwise(last)], note


def report(
    system: str,
    version: str,
    *,
    megabytes: float,
    peers: int,
    tls: str,
    rounds: list[float] | dict[str, float],
    note: str,
) -> None:
    """Print the one JSON line that `run.py` reads from a driver."""
    record = {
        "system": system,
        "version": version,
        "megabytes": megabytes,
        "peers": peers,
        "tls": tls,
        "round_seconds": rounds,
        "note": note,
    }
    print(json.dumps(record), flush=True)
