"""Weighted quantiles of each element, without a full sort where there are few contributors; and the lower median.

Does not: average (`merge.median`, `merge.trimmed`). Spec: docs/spec/merging.md, G-20, G-21, G-50 to G-52.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from swarmlearning.merge.programs import Program, quantile_program, run_program
from swarmlearning.merge.scratch import scratch
from swarmlearning.parameters.dtypes import BFLOAT16, Array

_STEP_BYTES: Final = 1 << 16
"""Of each contributor at a time, at most."""

_CACHE_BYTES: Final = 1 << 20
"""All registers of a program together, about: they stay in a core's second-level cache."""

_CELLS: Final = 1 << 16
"""Values sorted at a time, over all contributors: scratch stays small however many there are."""

_SIGN16: Final = np.int16(-0x8000)


def merge_exactly(blocks: Sequence[Array], weights: Sequence[int], out: Array) -> bool:
    """Merge a single contributor's elements (G-15), or integers and booleans (G-20, G-21); False: these are others."""
    if len(blocks) == 1:
        out[...] = blocks[0]
    elif out.dtype.kind == "f" or out.dtype == BFLOAT16:
        return False
    else:
        merge_lower_median(blocks, weights, out)
    return True


def merge_lower_median(blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
    """For each element the smallest value that, with all smaller ones, carries at least half of the weight.

    Args:
        blocks: one a contributor, flat, of one integer or boolean type and length.
        weights: one a contributor, at least 1 each; their sum below 2**62.
        out: of the same type and length.
    """
    for step, (lower,) in quantiles(blocks, weights, (-(-sum(weights) // 2),)):
        out[step] = lower


def quantiles(
    blocks: Sequence[Array], weights: Sequence[int], thresholds: tuple[int, ...]
) -> Iterator[tuple[slice, list[Array]]]:
    """For each threshold and element the smallest value that, with all smaller ones, carries at least so much weight.

    Yields a slice of the elements and, for each threshold, their quantiles, valid until the next is asked for. Equal
    functions of the weights are one array. Zeros of 16-bit floats are positive; of others they have any sign.

    Args:
        blocks: one a contributor, flat, of one type that a model may have, and of one length; finite.
        weights: one a contributor, at least 1 each; their sum below 2**62.
        thresholds: 1 to the sum of weights.
    """
    program = quantile_program(tuple(weights), thresholds)
    kind = blocks[0].dtype
    if program is None:
        yield from _by_sorting(blocks, weights, thresholds)
        return
    for step, ordered in ordered_steps(blocks, program):
        yield step, [from_ordered(found, kind) for found in ordered]


def ordered_steps(blocks: Sequence[Array], program: Program) -> Iterator[tuple[slice, list[Array]]]:
    """Run a program over slices of the blocks that fit a core's cache; yields slice and outputs, in `as_ordered` form.

    The outputs are valid until the next are asked for.
    """
    length, kind = len(blocks[0]), as_ordered(blocks[0][:0]).dtype
    size = step_length(program, kind.itemsize)
    room = scratch("quantile", program.registers - program.inputs, min(size, length), kind)
    for step in steps(length, size):
        yield step, run_program(program, [as_ordered(block[step]) for block in blocks], room)


def step_length(program: Program, width: int) -> int:
    """How many elements of `width` bytes a program should take at a time."""
    return max(min(_STEP_BYTES, _CACHE_BYTES // program.registers) // width, 256)


def steps(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` elements that cover `length`."""
    return (slice(at, min(at + size, length)) for at in range(0, length, size))


def as_ordered(block: Array) -> Array:
    """The block, or of 16-bit floats signed integers in the same order: numpy compares those many times faster."""
    return as_integers(block) if _is_short_float(block.dtype) else block


def from_ordered(ordered: Array, kind: np.dtype[Any]) -> Array:
    """The inverse of `as_ordered`, with zeros of 16-bit floats made positive."""
    if not _is_short_float(kind):
        return ordered
    values = from_integers(ordered, kind)
    make_zeros_positive(values)
    return values


def as_integers(block: Array) -> Array:
    """Signed integers of the same width in the order of the floats, negative zero below positive."""
    bits = block.view(f"i{block.dtype.itemsize}")
    return _turned(bits)


def from_integers(integers: Array, kind: np.dtype[Any]) -> Array:
    """The inverse of `as_integers`."""
    return _turned(integers).view(kind)


def _turned(bits: Array) -> Array:
    """Of negative ones all bits but the sign turned; its own inverse."""
    limits = np.iinfo(bits.dtype)
    turned = bits >> bits.dtype.type(limits.bits - 1)
    np.bitwise_and(turned, bits.dtype.type(limits.max), out=turned)
    result: Array = np.bitwise_xor(turned, bits, out=turned)
    return result


def make_zeros_positive(block: Array) -> None:
    """Minima of zeros of both signs have a sign that differs between machines: no zero keeps a minus."""
    if _is_short_float(block.dtype):
        bits = block.view(np.int16)
        bits[bits == _SIGN16] = 0
    elif block.dtype.kind == "f":
        np.add(block, 0.0, out=block)


def _is_short_float(kind: np.dtype[Any]) -> bool:
    return kind == BFLOAT16 or kind == np.float16


def _by_sorting(
    blocks: Sequence[Array], weights: Sequence[int], thresholds: tuple[int, ...]
) -> Iterator[tuple[slice, list[Array]]]:
    by_contributor = np.array(weights, dtype=np.int64)
    kind = blocks[0].dtype
    is_equal = len(set(weights)) == 1
    for step in steps(len(blocks[0]), max(_CELLS // len(blocks), 64)):
        values = np.stack([as_ordered(block[step]) for block in blocks], axis=1)
        if is_equal:
            values.sort(axis=1)
            found = [values[:, -(-threshold // weights[0]) - 1] for threshold in thresholds]
        else:
            order = np.argsort(values, axis=1, kind="stable")
            reached = np.cumsum(by_contributor[order], axis=1)
            firsts = [(reached >= threshold).argmax(axis=1)[:, np.newaxis] for threshold in thresholds]
            chosen = [np.take_along_axis(order, first, axis=1) for first in firsts]
            found = [np.take_along_axis(values, at, axis=1)[:, 0] for at in chosen]
        yield step, [from_ordered(np.ascontiguousarray(ordered), kind) for ordered in found]
