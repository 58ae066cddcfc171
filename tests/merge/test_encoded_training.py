"""What training makes of encoded differences (docs/spec/round.md, R-42): small models, whole trainings, no network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from swarmlearning.demo.heart import split_hospital
from swarmlearning.demo.preparation import encode_rows, local_statistics
from swarmlearning.demo.records import HOSPITALS
from swarmlearning.demo.rows import join_rows
from swarmlearning.merge.method import merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import chunk_count
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import lay_out, read_arrays, write_arrays
from swarmlearning.parameters.wire import Wire, apply_difference, encode_difference, reader, wire_manifest

Arrays = dict[str, Array]
Float = np.ndarray[Any, np.dtype[np.float32]]
Train = Callable[[int, int, Arrays], Arrays]
"""A peer's interval: peer, round, the model it starts from; returns what it has trained."""

WIRES: list[Wire] = ["bf16", "fp16", "int8"]


def federate(start: Arrays, peers: int, rounds: int, train: Train, wire: Wire, *, feeds_back: bool = True) -> Arrays:
    """The model after so many rounds of peers of equal weight; `feeds_back`: with their residuals."""
    manifest = lay_out(start)
    travels = wire_manifest(manifest, wire)
    base = bytearray(manifest.size)
    write_arrays(manifest, start, memoryview(base))
    left: list[bytes | None] = [None] * peers
    for number in range(rounds):
        offers: list[memoryview] = []
        for peer in range(peers):
            own = bytearray(manifest.size)
            write_arrays(manifest, train(peer, number, read_arrays(manifest, memoryview(base))), memoryview(own))
            if wire == "float32":
                offers.append(memoryview(own))
                continue
            before = left[peer]
            residual = None if before is None or not feeds_back else reader(before)
            steps = list(encode_difference(manifest, travels, reader(own), reader(base), residual))
            offers.append(memoryview(b"".join(bytes(step.data) for step in steps)))
            left[peer] = b"".join(bytes(step.residual) for step in steps)
        indices = range(chunk_count(travels.size))
        chunks = merge_shard(travels, merge_method("mean"), offers, [1] * peers, indices)
        merged = b"".join(bytes(chunk) for _, chunk in chunks)
        if wire == "float32":
            base = bytearray(merged)
        else:
            steps_ = apply_difference(manifest, travels, reader(base), reader(merged))
            base = bytearray(b"".join(bytes(step) for step in steps_))
    return read_arrays(manifest, memoryview(base))


# --- the demo's hospitals ---------------------------------------------------------------------------------------------


class Hearts:
    """A network of one hidden layer on the four hospitals' own rows, which differ a lot; plain descent."""

    def __init__(self) -> None:
        splits = [split_hospital(hospital, seed=1) for hospital in HOSPITALS["heart"]]
        statistics = local_statistics(join_rows([split.train for split in splits]))
        self.inputs = [encode_rows(split.train, statistics) for split in splits]
        self.labels = [split.train.labels.astype(np.float32) for split in splits]
        tested = join_rows([split.test for split in splits])
        self.test_inputs, self.test_labels = encode_rows(tested, statistics), tested.labels
        rng = np.random.default_rng(7)
        width = self.inputs[0].shape[1]
        self.start: Arrays = {
            "hidden": (rng.standard_normal((width, 32)) / np.sqrt(width)).astype(np.float32),
            "hidden_bias": np.zeros(32, np.float32),
            "out": (rng.standard_normal(32) / np.sqrt(32)).astype(np.float32),
            "out_bias": np.zeros((), np.float32),
        }

    def train(self, peer: int, number: int, model: Arrays) -> Arrays:
        """Eight batches of 16 rows."""
        rng = np.random.default_rng([peer, number])
        for _ in range(8):
            rows = rng.integers(0, len(self.labels[peer]), 16)
            x, y = self.inputs[peer][rows], self.labels[peer][rows]
            hidden, risk = self.predict(model, x)
            slope = ((risk - y) / len(y)).astype(np.float32)
            inner = np.outer(slope, model["out"]) * (hidden > 0)
            steps = {"hidden": x.T @ inner, "hidden_bias": inner.sum(0), "out": hidden.T @ slope}
            steps["out_bias"] = slope.sum()
            model = {name: np.asarray(model[name] - np.float32(0.1) * steps[name], np.float32) for name in model}
        return model

    def predict(self, model: Arrays, x: Float) -> tuple[Float, Float]:
        hidden = np.maximum(x @ model["hidden"] + model["hidden_bias"], 0)
        return hidden, 1 / (1 + np.exp(-(hidden @ model["out"] + model["out_bias"])))

    def score(self, model: Arrays) -> tuple[float, float]:
        """Accuracy and loss on the patients that no training saw."""
        risk = self.predict(model, self.test_inputs)[1].astype(np.float64)
        right = np.where(self.test_labels == 1, risk, 1 - risk)
        return float(np.mean(right > 0.5)), float(-np.mean(np.log(np.maximum(right, 1e-12))))


@pytest.fixture(scope="module")
def hearts() -> Hearts:
    return Hearts()


@pytest.fixture(scope="module")
def in_full(hearts: Hearts) -> tuple[float, float]:
    return hearts.score(federate(hearts.start, 4, 60, hearts.train, "float32"))


def test_the_training_learns_something(hearts: Hearts, in_full: tuple[float, float]) -> None:
    assert hearts.score(hearts.start)[0] < 0.6
    assert in_full[0] > 0.78


@pytest.mark.parametrize("wire", WIRES)
def test_r42_every_wire_reaches_what_full_parameters_reach(
    hearts: Hearts, in_full: tuple[float, float], wire: Wire
) -> None:
    accuracy, loss = hearts.score(federate(hearts.start, 4, 60, hearts.train, wire))
    assert abs(accuracy - in_full[0]) <= 0.01
    assert abs(loss - in_full[1]) <= 0.005


def test_without_feedback_int8_does_as_well_on_this_model(hearts: Hearts, in_full: tuple[float, float]) -> None:
    """Said honestly: scales of 60 elements are fine enough here. Where feedback is needed is shown below."""
    _, loss = hearts.score(federate(hearts.start, 4, 60, hearts.train, "int8", feeds_back=False))
    assert abs(loss - in_full[1]) <= 0.005


# --- where feedback is needed ---------------------------------------------------------------------------------------


def pulled_apart(peer: int, number: int, model: Arrays) -> Arrays:
    """One weight is pulled to opposite sides by two peers, far and for ever; all the others have a little to learn."""
    del number
    own = model["x"].copy()
    own[0] += np.float32(1.0 if peer else -1.0)
    own[1:] += np.float32(0.002) * (1 - own[1:])
    return {"x": own}


@pytest.mark.parametrize(("feeds_back", "learned"), [(True, 0.8), (False, 0.0)])
def test_r42_small_changes_beside_large_ones_arrive_with_feedback_only(feeds_back: bool, learned: float) -> None:
    """0.002 is less than half a step of 1/127: without feedback it is lost in every round, and never learned."""
    start = {"x": np.zeros(60, np.float32)}
    found = federate(start, 2, 1000, pulled_apart, "int8", feeds_back=feeds_back)["x"][1:]
    full = federate(start, 2, 1000, pulled_apart, "float32")["x"][1:]
    assert full.min() > 0.85
    if feeds_back:
        assert np.abs(found - full).max() < 0.02
        assert found.min() > learned
    else:
        assert np.all(found == learned)
