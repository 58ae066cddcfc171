"""The mean of each coordinate's central values: a share of the weight is cut off at each end.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (2018).
Weighted, and with values at the border counted in part: the mean of the weighted quantile function between the two
cuts.

Spec: docs/spec/merging.md, G-55 to G-58.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from swarmlearning.merge.base import UNIT, Float64, MergeMethod, Option, ratio_of
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.programs import Program, run_program, sorting_program
from swarmlearning.merge.quantile import (
    as_integers,
    as_ordered,
    from_integers,
    from_ordered,
    make_zeros_positive,
    merge_exactly,
    ordered_steps,
    step_length,
    steps,
)
from swarmlearning.merge.scratch import scratch
from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.rounding import round_to_bfloat16

_CELLS: Final = 1 << 15
"""Values sorted at a time, over all contributors."""

_WHO_BITS: Final = 16
_WHO: Final = (1 << _WHO_BITS) - 1
"""Bits below a value that name its contributor."""

_SCALE: Final = math.ldexp(1.0, -56)
"""Sums of kept weight, below 2^52, times differences of values scaled by this do not overflow."""


class TrimmedMean(MergeMethod):
    """Cuts `trim` of the weight at each end, and averages what is left."""

    name = "trimmed_mean"
    takes: ClassVar[Mapping[str, Option]] = {"trim": Option(0, UNIT // 2 - 1, UNIT // 5)}

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        """Merge flat arrays of one type and length into `out`; see `MergeMethod.merge_block`."""
        ratio = ratio_of(weights)
        if merge_exactly(blocks, ratio, out):
            return
        trim = self.option("trim") or 0
        unit = UNIT // math.gcd(trim, UNIT)
        scaled = [weight * unit for weight in ratio]
        cut = sum(ratio) * (trim * unit // UNIT)
        with np.errstate(all="ignore"):  # what overflows is put right
            if len(set(ratio)) == 1:
                _merge_equal(blocks, scaled[0], cut, out)
            else:
                # Equal values stand in the order of their weights, so that the order of contributors leaves no trace.
                order = sorted(range(len(blocks)), key=lambda k: scaled[k])
                _merge_weighted([blocks[k] for k in order], [scaled[k] for k in order], cut, out)
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
    """Unequal weights, rising: what is kept of a value differs between elements."""
    program = sorting_program(len(blocks), tuple(range(len(blocks))))
    if program is not None and out.dtype != np.float64:
        _merge_packed(program, blocks, weights, cut, out)
        return
    by_contributor = np.array(weights, dtype=np.int64)
    total = sum(weights)
    for step in steps(len(out), max(_CELLS // len(blocks), 64)):
        values = np.stack([as_ordered(block[step]) for block in blocks])
        sorting = np.argsort(values, axis=0, kind="stable")
        reached = np.clip(np.cumsum(by_contributor[sorting], axis=0), cut, total - cut)
        kept = np.diff(reached, axis=0, prepend=cut)
        ranked = from_ordered(np.take_along_axis(values, sorting, axis=0), out.dtype).astype(np.float64)
        merged = _mean_of_kept(ranked, kept, total - 2 * cut, is_wide=out.dtype == np.float64)
        _write(merged, out[step])


def _merge_packed(program: Program, blocks: Sequence[Array], weights: Sequence[int], cut: int, out: Array) -> None:
    """The same for narrower types: a value and who offers it are one integer, and sorted together."""
    wide: np.dtype[Any] = np.dtype(np.int64 if out.dtype.itemsize == 4 else np.int32)
    narrow = np.dtype(f"i{out.dtype.itemsize}")
    total, table = float(sum(weights)), np.array(weights, np.float64)
    size = min(step_length(program, wide.itemsize), len(out))
    registers = scratch("packed", program.registers, size, wide)
    for step in steps(len(out), size):
        length = step.stop - step.start
        inputs = [row[:length] for row in registers[: len(blocks)]]
        for who, (block, packed) in enumerate(zip(blocks, inputs, strict=True)):
            np.copyto(packed, as_integers(block[step]))
            np.left_shift(packed, _WHO_BITS, out=packed)
            np.bitwise_or(packed, who, out=packed)
        reached, before, acc = np.zeros(length), np.full(length, float(cut)), np.zeros(length)
        for position, ranked in enumerate(run_program(program, inputs, registers[len(blocks) :])):
            np.add(reached, table.take(ranked & _WHO), out=reached)
            upto = np.minimum(np.maximum(reached, float(cut)), total - cut)
            np.subtract(upto, before, out=before)  # what is kept of this rank
            values = from_integers((ranked >> _WHO_BITS).astype(narrow), out.dtype)
            np.multiply(before, values, out=before, casting="unsafe")
            acc = before if position == 0 else np.add(acc, before, out=acc)
            before = upto
        _write(np.divide(acc, total - 2 * cut, out=acc), out[step])


def _write(merged: Float64, out: Array) -> None:
    if out.dtype == BFLOAT16:
        out[...] = round_to_bfloat16(merged)
    else:
        np.copyto(out, merged, casting="same_kind")


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
