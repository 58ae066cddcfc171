"""The mean of each coordinate's central values: a share of the weight is cut off at each end.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (2018).
Weighted, and with values at the border counted in part: the mean of the weighted quantile function between the two
cuts.

Spec: docs/spec/merging.md, G-55 to G-58.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np

from swarmlearning.merge.base import UNIT, Float64, MergeMethod, Option
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.programs import sorting_program
from swarmlearning.merge.quantile import (
    as_ordered,
    from_ordered,
    make_zeros_positive,
    merge_lower_median,
    ordered_steps,
    steps,
)
from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.rounding import round_to_bfloat16

_CELLS: Final = 1 << 15
"""Values sorted at a time, over all contributors."""

_SCALE: Final = math.ldexp(1.0, -56)
"""Sums of kept weight, below 2^52, times differences of values scaled by this do not overflow."""


class TrimmedMean(MergeMethod):
    """Cuts `trim` of the weight at each end, and averages what is left."""

    name = "trimmed_mean"
    takes: ClassVar[Mapping[str, Option]] = {"trim": Option(0, UNIT // 2 - 1, UNIT // 5)}

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        """Merge flat arrays of one type and length into `out`; see `MergeMethod.merge_block`."""
        if len(blocks) == 1:
            out[...] = blocks[0]
            return
        divisor = math.gcd(*weights)
        ratio = [weight // divisor for weight in weights]
        if not (out.dtype.kind == "f" or out.dtype == BFLOAT16):
            merge_lower_median(blocks, ratio, out)
            return
        trim = self.option("trim") or 0
        unit = UNIT // math.gcd(trim, UNIT)
        scaled = [weight * unit for weight in ratio]
        cut = sum(ratio) * (trim * unit // UNIT)
        with np.errstate(all="ignore"):  # what overflows is put right
            if len(set(ratio)) == 1:
                _merge_equal(blocks, scaled[0], cut, out)
            else:
                _merge_weighted(blocks, scaled, cut, out)
        make_zeros_positive(out)


def _merge_equal(blocks: Sequence[Array], weight: int, cut: int, out: Array) -> None:
    """Equal weights: every element keeps the same ranks, so the sorted ranks are merged like contributors."""
    total = weight * len(blocks)
    kept = [max(min((k + 1) * weight, total - cut) - max(k * weight, cut), 0) for k in range(len(blocks))]
    ranks = [k for k, share in enumerate(kept) if share]
    shares = [kept[k] for k in ranks]
    mean = Mean()
    program = sorting_program(len(blocks), tuple(ranks))
    if program is not None:
        for step, ordered in ordered_steps(blocks, program):
            mean.merge_block([from_ordered(rank, out.dtype) for rank in ordered], shares, out[step])
        return
    for step in steps(len(out), max(_CELLS // len(blocks), 64)):
        values = np.stack([as_ordered(block[step]) for block in blocks], axis=1)
        values.sort(axis=1)
        rows = np.ascontiguousarray(values.T)
        mean.merge_block([from_ordered(rows[k], out.dtype) for k in ranks], shares, out[step])


def _merge_weighted(blocks: Sequence[Array], weights: Sequence[int], cut: int, out: Array) -> None:
    """Unequal weights: what is kept of a value differs between elements."""
    # Equal values stand in the order of their weights, so that the order of contributors leaves no trace.
    order = sorted(range(len(blocks)), key=lambda k: weights[k])
    by_contributor = np.array([weights[k] for k in order], dtype=np.int64)
    total = sum(weights)
    for step in steps(len(out), max(_CELLS // len(blocks), 64)):
        values = np.stack([as_ordered(blocks[k][step]) for k in order])
        sorting = np.argsort(values, axis=0, kind="stable")
        reached = np.clip(np.cumsum(by_contributor[sorting], axis=0), cut, total - cut)
        kept = np.diff(reached, axis=0, prepend=cut)
        ranked = from_ordered(np.take_along_axis(values, sorting, axis=0), out.dtype).astype(np.float64)
        merged = _mean_of_kept(ranked, kept, total - 2 * cut, is_wide=out.dtype == np.float64)
        if out.dtype == BFLOAT16:
            out[step] = round_to_bfloat16(merged)
        else:
            np.copyto(out[step], merged, casting="same_kind")


def _mean_of_kept(ranked: Float64, kept: Array, total: int, *, is_wide: bool) -> Float64:
    """The sum of kept weight times value, in rank order, divided by the total.

    float64, which has no wider type to lean on, averages differences from the lowest value kept.
    """
    shares = kept.astype(np.float64)
    if not is_wide:
        acc = shares[0] * ranked[0]
        for share, value in zip(shares[1:], ranked[1:], strict=True):
            acc += share * value
        average: Float64 = acc / float(total)
        return average
    lowest = np.take_along_axis(ranked, (kept > 0).argmax(axis=0)[np.newaxis], axis=0)[0]
    last = len(kept) - 1 - (kept > 0)[::-1].argmax(axis=0)
    highest = np.take_along_axis(ranked, last[np.newaxis], axis=0)[0]
    merged = _above(lowest, ranked, shares, kept, total)
    overflowed = np.flatnonzero(~np.isfinite(merged))
    if len(overflowed):
        columns = ranked[:, overflowed] * _SCALE
        scaled = _above(lowest[overflowed] * _SCALE, columns, shares[:, overflowed], kept[:, overflowed], total)
        merged[overflowed] = scaled / _SCALE
    bounded: Float64 = np.minimum(np.maximum(merged, lowest), highest)
    return bounded


def _above(lowest: Float64, ranked: Float64, shares: Float64, kept: Array, total: int) -> Float64:
    acc = np.zeros_like(lowest)
    for share, value, count in zip(shares, ranked, kept, strict=True):
        acc += np.where(count > 0, share * (value - lowest), 0.0)
    result: Float64 = lowest + acc / float(total)
    return result
