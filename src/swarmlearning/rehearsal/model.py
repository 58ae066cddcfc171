"""A model that needs no training: what a site offers is a function of the rehearsal, its node id and the step.

So every site knows what every other one offers, and computes what their merge must be: written down here once more and
on its own (docs/spec/merging.md, G-10, G-13 and G-20), for a test of the merge by itself would be none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from swarmlearning.encoding import sha256
from swarmlearning.parameters.dtypes import Array
from swarmlearning.types import NodeId

MEGABYTE: Final = 1_000_000

_COLUMNS: Final = 500


def content(rehearsal: bytes, node: NodeId, step: int, megabytes: int) -> dict[str, Array]:
    """What `node` offers in a step: `megabytes` of float32, and a counter.

    Args:
        rehearsal: 32 bytes that are the same at all sites and of this rehearsal only.
        node: whose.
        step: of the script, from 0.
        megabytes: at least 1.
    """
    seed = sha256(rehearsal, node.encode(), b"\x00", str(step).encode())
    # Raw bits of a counter-based generator: the same with every release of numpy, unlike its distributions.
    bits = np.random.Philox(key=int.from_bytes(seed[:16], "big")).random_raw(megabytes * MEGABYTE // 8)
    values = np.empty(2 * len(bits), np.float32)
    values[0::2] = _fractions(bits >> np.uint64(40))
    values[1::2] = _fractions((bits >> np.uint64(8)) & np.uint64(0xFFFFFF))
    kernel, bias = values[_COLUMNS:].reshape(-1, _COLUMNS), values[:_COLUMNS]
    count = np.array([int.from_bytes(seed[16:20], "big")], np.int64)
    return {"bias": bias, "count": count, "kernel": kernel}


def _fractions(bits: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> Array:
    """24 bits as an exact float32 from -0.5 to 0.5."""
    made: Array = (bits.astype(np.float64) / 2**24 - 0.5).astype(np.float32)
    return made


def merged(
    rehearsal: bytes, contributors: Sequence[NodeId], weights: Mapping[NodeId, int], step: int, megabytes: int
) -> dict[str, Array]:
    """What the merge of these contributors must be, to the last bit.

    Args:
        rehearsal: as for `content`.
        contributors: as the ledger names them, at least one.
        weights: of each.
        step: of the script.
        megabytes: of the model.
    """
    nodes = sorted(contributors)
    divisor = math.gcd(*(weights[node] for node in nodes))
    shares = [weights[node] // divisor for node in nodes]
    sums: dict[str, Array] = {}
    counts: list[tuple[int, int]] = []
    for node, share in zip(nodes, shares, strict=True):
        offered = content(rehearsal, node, step, megabytes)
        counts.append((int(offered.pop("count")[0]), share))
        for name, values in offered.items():
            term = values.astype(np.float64) * share
            sums[name] = sums[name] + term if name in sums else term
    means: dict[str, Array] = {name: (total / sum(shares)).astype(np.float32) for name, total in sums.items()}
    return means | {"count": np.array([_lower_median(counts)], np.int64)}


def _lower_median(counts: Sequence[tuple[int, int]]) -> int:
    """The smallest value that, with all smaller ones, carries at least half of the weight."""
    half = sum(weight for _, weight in counts) / 2
    carried = 0
    for value, weight in sorted(counts):
        carried += weight
        if carried >= half:
            return value
    raise ValueError("a median of nothing")


def differing(got: Mapping[str, Array], expected: Mapping[str, Array]) -> int:
    """How many numbers of a merge are not, bit for bit, what they must be; -1 if they are not even the same tensors."""
    if got.keys() != expected.keys() or any(got[name].shape != expected[name].shape for name in got):
        return -1
    return sum(
        int(np.count_nonzero(got[name].view(f"u{got[name].itemsize}") != wanted.view(f"u{wanted.itemsize}")))
        for name, wanted in expected.items()
    )
