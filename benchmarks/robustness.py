"""How well each merge method holds against dishonest peers, on real data: the table of docs/robustness.md.

    python benchmarks/robustness.py [--peers 10] [--seeds 3] [--rounds 30] [--alpha 0.5] [--markdown]

Ten peers hold shares of handwritten digits (scikit-learn's copy of the UCI set: 1,797 images of 8 x 8) and train
a small network together. Some of them are dishonest, in one of six ways. Merging is done by the functions that an SL
calls, on canonical buffers; the swarm around them is left out. Printed is the accuracy on 20 % of the images that
nobody trained on, the mean over the seeds. With `--alpha` the peers' digits differ: each digit's images are dealt by
a Dirichlet distribution of that parameter; without it every peer has a like sample.
"""

import argparse
import math
import multiprocessing
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from swarmlearning.merge.distances import measure_shard, sum_distances, unpack_distances
from swarmlearning.merge.method import merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count
from swarmlearning.parameters.manifest import Manifest, lay_out, read_arrays, write_arrays

Floats = np.ndarray[Any, np.dtype[np.float32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Arrays = dict[str, Floats]

METHODS = {
    "mean": (),
    "fedavgm": (("momentum", 500_000),),
    "coordmedian": (),
    "trimmed_mean": (("trim", 300_000),),
    "geomedian": (),
    "krum": (),
    "multi_krum": (),
}
ATTACKS = ("none", "sign flip", "scaling", "noise", "label flip", "stale", "little is enough")
HIDDEN, EPOCHS, BATCH, RATE = 32, 2, 16, 0.1


@dataclass(frozen=True)
class Case:
    """One training."""

    method: str
    attack: str
    peers: int
    dishonest: int
    rounds: int
    seed: int
    alpha: float | None


class Data:
    """Digits, dealt to peers, and what nobody trains on."""

    def __init__(self, peers: int, seed: int, alpha: float | None) -> None:
        images, labels = load_digits(return_X_y=True)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(labels))
        images, labels = (images[order] / 16).astype(np.float32), labels[order]
        held = len(labels) // 5
        self.test = images[:held], labels[:held]
        owner = np.arange(held, len(labels)) % peers
        if alpha is not None:
            for digit in range(10):
                mine = np.flatnonzero(labels[held:] == digit)
                owner[mine] = rng.choice(peers, len(mine), p=rng.dirichlet([alpha] * peers))
            owner[:peers] = np.arange(peers)  # nobody has nothing
        self.shares = [(images[held:][owner == peer], labels[held:][owner == peer]) for peer in range(peers)]


def begin(seed: int) -> Arrays:
    """Parameters to begin with."""
    rng = np.random.default_rng(seed)
    return {
        "b1": np.zeros(HIDDEN, np.float32),
        "b2": np.zeros(10, np.float32),
        "w1": rng.normal(0, math.sqrt(2 / 64), (64, HIDDEN)).astype(np.float32),
        "w2": rng.normal(0, math.sqrt(2 / HIDDEN), (HIDDEN, 10)).astype(np.float32),
    }


def forward(model: Arrays, images: Floats) -> tuple[Floats, Floats]:
    """Hidden activations and logits."""
    hidden = np.maximum(images @ model["w1"] + model["b1"], 0)
    return hidden, hidden @ model["w2"] + model["b2"]


def train(model: Arrays, images: Floats, labels: Integers, rng: np.random.Generator) -> Arrays:
    """A few epochs of stochastic gradient descent."""
    model = {name: array.copy() for name, array in model.items()}
    for _ in range(EPOCHS):
        order = rng.permutation(len(labels))
        for at in range(0, len(order), BATCH):
            x, y = images[order[at : at + BATCH]], labels[order[at : at + BATCH]]
            hidden, logits = forward(model, x)
            logits -= logits.max(axis=1, keepdims=True)
            error = np.exp(logits)
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(y)), y] -= 1
            error /= len(y)
            back = (error @ model["w2"].T) * (hidden > 0)
            for name, gradient in (
                ("w2", hidden.T @ error),
                ("b2", error.sum(axis=0)),
                ("w1", x.T @ back),
                ("b1", back.sum(axis=0)),
            ):
                model[name] -= np.float32(RATE) * gradient.astype(np.float32)
    return model


def accuracy(model: Arrays, data: Data) -> float:
    """Share of the held-out images that are told right."""
    images, labels = data.test
    with np.errstate(all="ignore"):
        return float(np.mean(forward(model, images)[1].argmax(axis=1) == labels))


def spoil(
    case: Case, base: Arrays, first: Arrays, honest: list[Arrays], own: Arrays, rng: np.random.Generator
) -> Arrays:
    """What a dishonest peer offers; `own` is what it has trained."""

    def moved(factor: float) -> Arrays:
        return {k: base[k] + np.float32(factor) * (own[k] - base[k]) for k in own}

    match case.attack:
        case "sign flip":
            return moved(-3.0)
        case "scaling":
            return moved(10.0)
        case "noise":
            return {k: base[k] + rng.normal(0, 1, base[k].shape).astype(np.float32) for k in base}
        case "stale":
            return first
        case "little is enough":
            # Baruch et al. 2019: all of them a bit off the honest mean, as far as still counts as the majority's side.
            majority = case.peers // 2 + 1 - case.dishonest
            honest_share = (case.peers - case.dishonest - majority) / (case.peers - case.dishonest)
            reach = statistics.NormalDist().inv_cdf(max(0.5, honest_share))
            stacked = {k: np.stack([model[k] for model in honest]) for k in base}
            return {k: (v.mean(axis=0) - reach * v.std(axis=0)).astype(np.float32) for k, v in stacked.items()}
        case _:
            return own  # label flip has spoilt the data already


def merge(case: Case, manifest: Manifest, buffers: list[memoryview], results: list[memoryview]) -> memoryview:
    """One merge, as leaders do it."""
    method = merge_method(case.method, METHODS[case.method])
    weights = [1] * len(buffers)
    chunks = range(chunk_count(manifest.size))
    if method.needs == "distances":
        part = measure_shard(manifest, buffers, chunks)
        weights = method.weigh(unpack_distances(sum_distances([part]), len(buffers)), weights)
    base, previous = None, None
    if method.needs == "history":
        base, previous = results[-1], results[-2] if len(results) > 1 else None
    into = memoryview(bytearray(manifest.size))
    for index, chunk in merge_shard(manifest, method, buffers, weights, chunks, base=base, previous=previous):
        into[index * CHUNK_BYTES : index * CHUNK_BYTES + len(chunk)] = chunk
    return into


def run(case: Case) -> tuple[Case, float]:
    """Train, and say how good the final model is."""
    data, rng = Data(case.peers, case.seed, case.alpha), np.random.default_rng(case.seed)
    first = model = begin(case.seed)
    manifest = lay_out(model)
    results: list[memoryview] = []
    for _ in range(case.rounds):
        if len(results) == 0:
            results.append(memoryview(bytearray(manifest.size)))
            write_arrays(manifest, model, results[-1])
        trained = []
        for index, (images, labels) in enumerate(data.shares):
            bad = index < case.dishonest and case.attack == "label flip"
            trained.append(train(model, images, 9 - labels if bad else labels, rng))
        honest = trained[case.dishonest :]
        offers = [
            spoil(case, model, first, honest, own, rng) if index < case.dishonest else own
            for index, own in enumerate(trained)
        ]
        buffers = []
        for offer in offers:
            buffers.append(memoryview(bytearray(manifest.size)))
            write_arrays(manifest, offer, buffers[-1])
        results = [*results[-1:], merge(case, manifest, buffers, results)]
        model = read_arrays(manifest, results[-1])
        if not all(np.isfinite(array).all() for array in model.values()):
            break  # nobody adopts such a model: the training has failed
    return case, accuracy(model, data)


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    counts = [0, *sorted({round(options.peers * share) for share in (0.1, 0.2, 0.3, 0.4)} - {0})]
    cases = [
        Case(method, attack, options.peers, count, options.rounds, seed, options.alpha)
        for method in METHODS
        for attack in ATTACKS
        for count in counts
        for seed in range(options.seeds)
        if (count == 0) == (attack == "none")
    ]
    found: dict[tuple[str, str, int], list[float]] = {}
    with multiprocessing.Pool() as pool:
        for case, score in pool.imap_unordered(run, cases):
            found.setdefault((case.method, case.attack, case.dishonest), []).append(score)
    edge = "| " if options.markdown else ""
    print(
        edge + " | ".join(["attack".ljust(17), "dishonest", *(m.rjust(12) for m in METHODS)]) + (" |" if edge else "")
    )
    if edge:
        print("|" + " --- |" * (2 + len(METHODS)))
    for attack in ATTACKS:
        for count in counts:
            if (count == 0) != (attack == "none"):
                continue
            scores = [statistics.mean(found[method, attack, count]) for method in METHODS]
            shown = [f"{100 * score:.1f} %".rjust(12) for score in scores]
            cells = [attack.ljust(17), f"{count} of {options.peers}".rjust(9), *shown]
            print(edge + " | ".join(cells) + (" |" if edge else ""))


if __name__ == "__main__":
    main()
