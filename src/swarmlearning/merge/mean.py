"""The weighted mean, element by element, with the same bits on every machine.

Only + - * / in the written order per element, in float64: no BLAS, no library sums, whose order differs between
machines. float64 has no wider type to lean on, so it averages differences from the first contributor instead:
identical inputs give exactly themselves. Integers and booleans take the weighted lower median (`merge.quantile`), as
a mean would have to leave their type.

Does not: cut chunks into blocks (`merge.shard`). Spec: docs/spec/merging.md, G-10 to G-16.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from swarmlearning.errors import Broken
from swarmlearning.merge.base import Float64, MergeMethod, ratio_of
from swarmlearning.merge.quantile import merge_lower_median
from swarmlearning.merge.scratch import scratch
from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.rounding import round_to_bfloat16

_FLOAT64: Final = np.dtype(np.float64)

_STEP: Final = 16384
"""Elements merged at a time: two float64 scratch arrays of 128 KiB stay in a core's second-level cache."""


class Mean(MergeMethod):
    """sum(weight * value) / sum(weight), rounded once to the type of the values."""

    name = "mean"

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        """Merge flat arrays of one type and length into `out`.

        Args:
            blocks: one a contributor, in node-id order, native byte order.
            weights: one a contributor, at least 1 each.
            out: of the same type and length; not one of `blocks`.

        Raises:
            Broken: the type is not one that a model may have.
        """
        if len(blocks) == 1:
            out[...] = blocks[0]
            return
        ratio = ratio_of(weights)
        kind = out.dtype.kind
        # Overflow and invalid operations happen only where inputs are not finite, or are put right below.
        with np.errstate(all="ignore"):
            if kind in "iub":
                merge_lower_median(blocks, ratio, out)
            elif out.dtype == np.float64:
                _merge_float64(blocks, ratio, out)
            elif kind == "f" or out.dtype == BFLOAT16:
                _merge_narrow(blocks, ratio, out)
            else:
                raise Broken(f"mean of {out.dtype}: not a type that a model may have")


def _steps(length: int) -> Iterator[slice]:
    return (slice(at, min(at + _STEP, length)) for at in range(0, length, _STEP))


def _merge_narrow(blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
    """Floats of at most 32 bits: products are exact in float64 and sums cannot overflow it."""
    total = float(sum(weights))
    sums, terms = scratch("mean", 2, min(_STEP, len(out)), _FLOAT64)
    for step in _steps(len(out)):
        acc, term = sums[: step.stop - step.start], terms[: step.stop - step.start]
        for position, (block, weight) in enumerate(zip(blocks, weights, strict=True)):
            target = term if position else acc
            np.copyto(target, block[step])
            if weight != 1:
                np.multiply(target, float(weight), out=target)
            if position:
                np.add(acc, term, out=acc)
        _divide(acc, total)
        if out.dtype == BFLOAT16:
            out[step] = round_to_bfloat16(acc)
        else:
            np.copyto(out[step], acc, casting="same_kind")


def _merge_float64(blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
    """First - sum(weight * (first - value)) / sum(weight)."""
    total = float(sum(weights))
    sums, terms = scratch("mean", 2, min(_STEP, len(out)), _FLOAT64)
    for step in _steps(len(out)):
        acc, term = sums[: step.stop - step.start], terms[: step.stop - step.start]
        first = blocks[0][step]
        for position, (block, weight) in enumerate(zip(blocks[1:], weights[1:], strict=True)):
            target = term if position else acc
            np.subtract(first, block[step], out=target)
            if weight != 1:
                np.multiply(target, float(weight), out=target)
            if position:
                np.add(acc, term, out=acc)
        _divide(acc, total)
        merged = out[step]
        np.subtract(first, acc, out=merged)
        overflowed = np.flatnonzero(~np.isfinite(merged))
        if len(overflowed):
            merged[overflowed] = _merge_huge([block[step][overflowed] for block in blocks], weights)


def _divide(acc: Float64, total: float) -> None:
    """By a power of two, multiplying with its inverse gives the same bits in a fraction of the time."""
    if math.frexp(total)[0] == 0.5:
        np.multiply(acc, 1.0 / total, out=acc)
    else:
        np.divide(acc, total, out=acc)


def _merge_huge(columns: Sequence[Float64], weights: Sequence[int]) -> Float64:
    """The same for elements whose differences or sums overflow: scaled down by a power of two, and back."""
    scale = math.ldexp(1.0, -(sum(weights).bit_length() + 2))
    first = columns[0] * scale
    acc = np.zeros_like(first)
    for column, weight in zip(columns[1:], weights[1:], strict=True):
        acc += (first - column * scale) * float(weight)
    # Rounding cannot carry this past the largest value: the first contributor's share, at least one in 2**31, holds it
    # back by more than the rounding of fewer than 2**20 terms.
    merged = (first - acc / float(sum(weights))) / scale
    for column in columns:
        merged[~np.isfinite(column)] = np.nan  # what was not finite must not come out finite
    return merged
