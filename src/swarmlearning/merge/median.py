"""The weighted lower median of integers and booleans: exact, without overflow, and one of the values given.

Does not: handle floating types. Spec: docs/spec/merging.md, G-20 to G-22.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from swarmlearning.parameters.dtypes import Array

_CELLS: Final = 65536
"""Values sorted at a time, over all contributors: scratch stays small however many there are."""


def merge_lower_median(blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
    """For each element the smallest value that, with all smaller ones, carries at least half of the weight.

    Args:
        blocks: one a contributor, flat, of one integer or boolean type and length.
        weights: one a contributor, at least 1 each; their sum below 2**62.
        out: of the same type and length.
    """
    total = sum(weights)
    by_contributor = np.array(weights, dtype=np.int64)
    step = max(_CELLS // len(blocks), 64)
    for at in range(0, len(out), step):
        values = np.stack([block[at : at + step] for block in blocks])
        order = np.argsort(values, axis=0, kind="stable")
        reached = np.cumsum(by_contributor[order], axis=0) * 2 >= total
        chosen = np.take_along_axis(order, reached.argmax(axis=0)[np.newaxis], axis=0)
        out[at : at + step] = np.take_along_axis(values, chosen, axis=0)[0]
