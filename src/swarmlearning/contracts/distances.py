"""The bytes of distances on the ledger: what is taken, and what the parts of all shards give. Spec: training.md, T-43.

Squared distances between every two of n contributors: n(n-1)/2 little-endian float64, of the pairs (0, 1), (0, 2) ..
(1, 2) .. in the order of node ids. How they are measured is in docs/spec/merging.md.
"""

import math
import struct
import sys
from collections.abc import Sequence
from typing import Final

from swarmlearning.contracts.context import Rejected
from swarmlearning.types import Code

DISTANCE_BYTES: Final = 8
"""Of one distance."""


def count_pairs(contributors: int) -> int:
    """How many pairs there are of so many contributors."""
    return contributors * (contributors - 1) // 2


def check_distances(distances: bytes, contributors: int) -> None:
    """T-43: one distance a pair, each a number that a squared distance can be.

    Raises:
        Rejected: another length; NaN, infinity or a negative number.
    """
    expected = DISTANCE_BYTES * count_pairs(contributors)
    if len(distances) != expected:
        raise Rejected(
            Code.MALFORMED,
            f"distances of {len(distances)} bytes; expected {expected}, for the pairs of {contributors} contributors",
        )
    for value in _values(distances):
        # -0.0 too: one value has one encoding.
        if not math.isfinite(value) or math.copysign(1.0, value) < 0:
            raise Rejected(Code.MALFORMED, f"a squared distance of {value}; expected a finite number of at least 0")


def add_distances(parts: Sequence[bytes]) -> bytes:
    """T-43: the sum of the shards' parts, pair by pair, added one after another in the order of the shards.

    Float64, rounded to nearest, which Python's own addition is on every machine. A sum beyond the largest finite
    number is that number: no liar makes an infinity of finite parts.
    """
    totals = list(_values(parts[0]))
    for part in parts[1:]:
        totals = [min(total + value, sys.float_info.max) for total, value in zip(totals, _values(part), strict=True)]
    return struct.pack(f"<{len(totals)}d", *totals)


def _values(distances: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(distances) // DISTANCE_BYTES}d", distances)
