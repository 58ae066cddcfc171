"""Stored elements to float64 and back, rounded once: to nearest, ties to even, with the same bits on every machine.

Does not: say what is computed in between (`merge`, `parameters.wire`). Spec: docs/spec/parameters.md, P-43.
"""

from typing import Any

import numpy as np

from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array

Float64 = np.ndarray[Any, np.dtype[np.float64]]


def widen(dtype: str, stored: Array) -> Float64:
    """Elements of a floating type, as they are stored, as float64; exact."""
    native = stored.astype(np.uint16).view(BFLOAT16) if dtype == "bfloat16" else stored
    wide: Float64 = native.astype(np.float64)
    return wide


def narrow(dtype: str, values: Float64) -> Array:
    """Round float64 once to a floating type; the elements as they are stored."""
    if dtype == "bfloat16":
        return round_to_bfloat16(values).view(np.uint16).astype(STORED[dtype], copy=False)
    return values.astype(STORED[dtype])


def round_to_bfloat16(values: Float64) -> Array:
    """Round float64 to bfloat16 once, to nearest, ties to even.

    The library's own cast of float64 goes through float32 and so rounds twice: 1 + 2**-8 + 2**-30 would become 1, not
    1 + 2**-7.
    """
    singles = values.astype(np.float32)
    bits = singles.view(np.uint32)
    # Where float32 lies exactly between two bfloat16 but the value does not, one step back to the value's side tells.
    is_between = np.left_shift(bits, np.uint32(16)) == np.uint32(0x8000_0000)
    if is_between.any():
        between = np.flatnonzero(is_between)
        exact, rounded = np.abs(values[between]), np.abs(singles[between].astype(np.float64))
        bits[between] += (exact > rounded).astype(np.uint32)
        bits[between] -= (exact < rounded).astype(np.uint32)
    return singles.astype(BFLOAT16)
