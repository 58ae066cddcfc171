"""`int8x60`, a type for the wire only: blocks of 64 bytes, a float32 scale and 60 elements of int8.

A block stands for itself: wherever a buffer is cut at a multiple of 64 bytes, each part can be decoded and merged
alone. Does not: say what is encoded (`parameters.wire`). Spec: docs/spec/parameters.md, P-45 to P-48.
"""

from typing import Any, Final

import numpy as np

from swarmlearning.errors import Broken

Float32 = np.ndarray[Any, np.dtype[np.float32]]

INT8X60: Final = "int8x60"
"""The type's name in a wire manifest."""

BLOCK_BYTES: Final = 64
BLOCK_ELEMENTS: Final = 60

_SCALES: Final = np.dtype("<f4")
_LEAST_SCALE: Final = np.float32(2.0**-126)
"""The smallest normal float32: no machine takes it for zero."""

_MOST_SCALE: Final = np.float32(2.0**120)
"""Even -128 times it is finite."""

MAX_VALUE: Final = 127 * 2.0**120
"""Largest magnitude that a block can hold."""

_LEAST_BITS: Final = np.uint32(0x0080_0000)
_SPAN_BITS: Final = np.uint32(0x7B80_0000 - 0x0080_0000)
"""From the bits of the least scale to those of the largest."""


def encode_blocks(values: Float32) -> bytes:
    """Encode flat float32 elements; each block's scale is its largest magnitude divided by 127.

    Larger magnitudes than `MAX_VALUE` become that. A block that holds NaN gets NaN as its scale, which whoever receives
    it finds.

    Args:
        values: as many as fill their blocks.

    Raises:
        Broken: they do not.
    """
    if len(values) % BLOCK_ELEMENTS:
        raise Broken(f"{len(values)} elements; expected a multiple of {BLOCK_ELEMENTS}")
    count = len(values) // BLOCK_ELEMENTS
    rows = np.clip(values, np.float32(-MAX_VALUE), np.float32(MAX_VALUE)).reshape(count, BLOCK_ELEMENTS)
    peaks = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    scales = peaks / np.float32(127)
    scales[scales < _LEAST_SCALE] = 0
    spoilt = np.flatnonzero(np.isnan(scales))
    if len(spoilt):
        rows[spoilt] = 0
        scales[spoilt] = 1
    encoded = np.empty((count, BLOCK_BYTES), np.int8)
    np.divide(rows, np.where(scales == 0, np.float32(1), scales)[:, np.newaxis], out=rows)
    encoded[:, 4:] = np.rint(rows, out=rows)
    scales[spoilt] = np.nan
    encoded[:, :4] = scales.astype(_SCALES).view(np.int8).reshape(count, 4)
    return encoded.tobytes()


def decode_blocks(data: memoryview) -> Float32:
    """The elements of whole blocks: int8 times scale, rounded once to float32; 60 a block, flat.

    Args:
        data: blocks whose scales `are_blocks_finite` accepts; of others the elements mean nothing.

    Raises:
        Broken: not whole blocks.
    """
    if data.nbytes % BLOCK_BYTES:
        raise Broken(f"{data.nbytes} bytes; expected whole blocks of {BLOCK_BYTES}")
    rows = np.frombuffer(data, np.int8).reshape(-1, BLOCK_BYTES)
    values = rows[:, 4:].astype(np.float32)
    with np.errstate(all="ignore"):  # only where a scale is none
        np.multiply(values, _scales(data).astype(np.float32)[:, np.newaxis], out=values)
    return values.reshape(-1)


def are_blocks_finite(data: memoryview) -> bool:
    """Whether every scale is 0 or from 2^-126 to 2^120; NaN, infinite, negative, subnormal and larger ones are not."""
    bits = _scales(data).view("<u4")
    return bool(np.all((bits == 0) | (bits - _LEAST_BITS <= _SPAN_BITS)))


def _scales(data: memoryview) -> Float32:
    scales: Float32 = np.frombuffer(data, _SCALES).reshape(-1, BLOCK_BYTES // 4)[:, 0]
    return scales
