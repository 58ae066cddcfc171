"""The ML program of a measured swarm: offers arrays of a given size, takes what comes back, and trains next to nothing.

Prints one line of JSON when it is done. Runs in processes of its own (`rounds`).
"""

import sys
import time

import msgspec
import numpy as np

from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings
from swarmlearning.types import ContractName

LAYERS = 16
"""Tensors that the model is divided into."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a program is told."""

    index: int
    peers: int
    size: int
    """Of the model, bytes."""
    rounds: int
    contract: ContractName
    settings: Settings


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a program has measured. Times are this machine's monotonic clock, which all processes share."""

    asked_s: list[float]
    """When it handed over its arrays, a round each."""
    answered_s: list[float]
    """When it had the merged ones."""
    bytes_received: list[int]
    """By its SL, in all so far, after each round."""
    bytes_sent: list[int]
    timings_ms: list[dict[str, float]]
    """Of its SL, a round each: milliseconds after it was asked."""
    peak_rss_kb: int


def work(told: str) -> None:
    """Train."""
    task = msgspec.json.decode(told, type=Task)
    rng = np.random.default_rng(task.index)
    values = rng.standard_normal(max(LAYERS, task.size // 4), np.float32)
    weights = {f"layer{k:02}": part for k, part in enumerate(np.array_split(values, LAYERS))}
    del values
    asked: list[float] = []
    answered: list[float] = []
    received: list[int] = []
    sent: list[int] = []
    timings: list[dict[str, float]] = []
    config = SessionConfig(
        settings=task.settings, min_peers=task.peers, contract=task.contract, program="swarm bench round"
    )
    with SwarmSession(config) as session:
        session.open(weights)
        for _ in range(task.rounds):
            asked.append(time.monotonic())
            result = session.sync(weights)
            answered.append(time.monotonic())
            if result.arrays is None:
                raise SystemExit(f"round {result.round} was void")
            weights = dict(result.arrays)
            # A little training, so that no two peers offer the same.
            weights["layer00"] = weights["layer00"] + np.float32(1e-3 * task.index)
            received.append(result.bytes_received)
            sent.append(result.bytes_sent)
            timings.append(dict(result.timings_ms))
        session.finish(weights)
    figures = Figures(
        asked_s=asked,
        answered_s=answered,
        bytes_received=received,
        bytes_sent=sent,
        timings_ms=timings,
        peak_rss_kb=peak_rss_kb("self"),
    )
    sys.stdout.buffer.write(msgspec.json.encode(figures) + b"\n")


def peak_rss_kb(pid: int | str) -> int:
    """Largest resident memory that a process has had so far, kB; 0 where the system does not tell (not Linux)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123  # not a file
            found = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    except OSError:
        return 0
    return int(found[0]) if found else 0
