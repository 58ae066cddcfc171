"""Parameters as encoded differences from a model that all have: what travels where a training asks for less traffic.

A *wire manifest* lays out the same tensors in shorter types. What it lays out is cut, committed to, verified and merged
like any canonical buffer. What encoding loses is the contributor's *residual*: it is added to its next difference
(error feedback: Seide et al. 2014; Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847).

Everything is read at offsets and written in order, some thousand elements at a time. Does not: merge (`merge`), know
rounds, files or what becomes of a residual (`sl`). Spec: docs/spec/parameters.md, P-40 to P-52.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from swarmlearning.errors import Broken
from swarmlearning.parameters.blocks import (
    BLOCK_BYTES,
    BLOCK_ELEMENTS,
    INT8X60,
    MAX_VALUE,
    decode_blocks,
    encode_blocks,
)
from swarmlearning.parameters.chunks import Buffer
from swarmlearning.parameters.dtypes import EXPONENT_BITS, STORED, Array
from swarmlearning.parameters.manifest import Manifest, Tensor, aligned
from swarmlearning.parameters.rounding import Float64, narrow, widen

Wire = Literal["float32", "bf16", "fp16", "int8"]
"""How a training's floats travel; `float32`: in full, whatever their type."""

ReadAt = Callable[[int, int], Buffer]
"""Returns so many bytes (second) of a buffer from an offset on (first); valid until it is asked again."""

_STEP: Final = 256 * BLOCK_ELEMENTS
"""Elements at a time: what is held of them in float64 stays in a core's second-level cache."""

_COPY_BYTES: Final = 1 << 18

_TYPES: Final[dict[Wire, str]] = {"bf16": "bfloat16", "fp16": "float16", "int8": INT8X60}

_MOST: Final = {"bfloat16": float.fromhex("0x1.FEp+127"), "float16": 65504.0, INT8X60: MAX_VALUE}
"""Largest magnitude that each of them can hold; larger ones become that."""

_RESIDUAL: Final = np.dtype("<f4")
_MOST_RESIDUAL: Final = float(np.finfo(np.float32).max)


class Encoded(NamedTuple):
    """The next bytes of an encoded difference, and of the residual that it leaves."""

    data: Buffer
    residual: Buffer


def wire_manifest(manifest: Manifest, wire: Wire) -> Manifest:
    """Lay out what travels of a model: floating tensors in the wire's type where that is shorter, the rest as it is.

    Args:
        manifest: validated, of the model.
        wire: as the training's settings say; `float32` gives `manifest`.
    """
    kind = _TYPES.get(wire)
    if kind is None:
        return manifest
    tensors: list[Tensor] = []
    cursor = 0
    for tensor in manifest.tensors:
        tensors.append(_shorten(tensor, kind, cursor))
        cursor = aligned(cursor + tensors[-1].bytes)
    return Manifest(tensors=tuple(tensors), size=cursor)


def _shorten(tensor: Tensor, kind: str, offset: int) -> Tensor:
    if tensor.dtype in EXPONENT_BITS:
        count = _count(tensor)
        blocks = -(-count // BLOCK_ELEMENTS)
        length = blocks * BLOCK_BYTES if kind == INT8X60 else count * STORED[kind].itemsize
        # Padding counted: for a handful of elements precision would be lost for nothing.
        if aligned(length) < aligned(tensor.bytes):
            shape = (blocks,) if kind == INT8X60 else tensor.shape
            return Tensor(name=tensor.name, dtype=kind, shape=shape, offset=offset, bytes=length)
    return replace(tensor, offset=offset)


def residual_size(manifest: Manifest, travels: Manifest) -> int:
    """Bytes of a residual: a float32 for each element that is encoded, tensor after tensor."""
    pairs = zip(manifest.tensors, travels.tensors, strict=True)
    return sum(_count(tensor) for tensor, shorter in pairs if tensor.dtype != shorter.dtype) * _RESIDUAL.itemsize


def reader(buffer: Buffer) -> ReadAt:
    """Read from a whole buffer."""
    view = memoryview(buffer).cast("B")
    return lambda offset, length: view[offset : offset + length]


def encode_difference(
    manifest: Manifest, travels: Manifest, own: ReadAt, base: ReadAt, residual: ReadAt | None = None
) -> Iterator[Encoded]:
    """Encode what `own` adds to `base`, together with what earlier encodings have left.

    Args:
        manifest: validated, of the model.
        travels: what `wire_manifest` made of it.
        own: the parameters, all finite, laid out by `manifest`.
        base: the model that they are a difference from, finite, likewise.
        residual: left by the contributor's last encoding; None: nothing.

    Yields:
        In order, all bytes of the buffer that `travels` lays out, padding zero, and all bytes of the new residual.

    Raises:
        Broken: `travels` is not of the same tensors; when first iterated over.
    """
    end = left = 0
    for tensor, shorter in _pairs(manifest, travels):
        if shorter.offset > end:
            yield Encoded(bytes(shorter.offset - end), b"")
        end = shorter.offset + shorter.bytes
        if shorter.dtype == tensor.dtype:
            yield from (Encoded(data, b"") for data in _copy(tensor, own))
            continue
        width = STORED[tensor.dtype].itemsize
        for at, count in _steps(tensor):
            place = tensor.offset + at * width, count * width
            with np.errstate(all="ignore"):  # what overflows is cut right below
                moved = _read(tensor, own(*place)) - _read(tensor, base(*place))
                if residual is not None:
                    moved += np.frombuffer(residual(left, count * _RESIDUAL.itemsize), _RESIDUAL)
            data = _encode(shorter.dtype, moved)
            np.subtract(moved, decode_elements(shorter.dtype, memoryview(data), count), out=moved)
            np.clip(moved, -_MOST_RESIDUAL, _MOST_RESIDUAL, out=moved)
            left += count * _RESIDUAL.itemsize
            yield Encoded(data, moved.astype(_RESIDUAL).tobytes())
    if travels.size > end:
        yield Encoded(bytes(travels.size - end), b"")


def apply_difference(manifest: Manifest, travels: Manifest, base: ReadAt, merged: ReadAt) -> Iterator[Buffer]:
    """Add a merged difference to the model that it is one from.

    Args:
        manifest: validated, of the model.
        travels: what `wire_manifest` made of it.
        base: that model, laid out by `manifest`.
        merged: the difference, finite, laid out by `travels`.

    Yields:
        In order, all bytes of the new model's canonical buffer; each valid until the next.

    Raises:
        Broken: `travels` is not of the same tensors; when first iterated over.
    """
    end = 0
    for tensor, shorter in _pairs(manifest, travels):
        if tensor.offset > end:
            yield bytes(tensor.offset - end)
        end = tensor.offset + tensor.bytes
        if shorter.dtype == tensor.dtype:
            yield from _copy(shorter, merged)
            continue
        width = STORED[tensor.dtype].itemsize
        for at, count in _steps(tensor):
            first, length = _bytes_of(shorter.dtype, at, count)
            difference = decode_elements(shorter.dtype, merged(shorter.offset + first, length), count)
            before = np.frombuffer(base(tensor.offset + at * width, count * width), STORED[tensor.dtype])
            yield _add(tensor.dtype, before, difference).tobytes()
    if manifest.size > end:
        yield bytes(manifest.size - end)


def decode_elements(dtype: str, data: Buffer, count: int) -> Float64:
    """The first `count` elements of a part of an encoded tensor, exactly."""
    if dtype == INT8X60:
        return decode_blocks(memoryview(data))[:count].astype(np.float64)
    return widen(dtype, np.frombuffer(data, STORED[dtype], count))


def _add(dtype: str, before: Array, difference: Float64) -> Array:
    with np.errstate(all="ignore"):  # what overflows is put right below
        moved = narrow(dtype, widen(dtype, before) + difference)
    kept = (difference == 0) | ~np.isfinite(widen(dtype, moved))
    result: Array = np.where(kept, before, moved)
    return result


def _encode(dtype: str, values: Float64) -> bytes:
    """Round once; magnitudes that are too large become the largest."""
    cut = np.clip(values, -_MOST[dtype], _MOST[dtype])
    if dtype != INT8X60:
        return narrow(dtype, cut).tobytes()
    singles = np.zeros(-(-len(cut) // BLOCK_ELEMENTS) * BLOCK_ELEMENTS, np.float32)
    singles[: len(cut)] = cut
    return encode_blocks(singles)


def _read(tensor: Tensor, data: Buffer) -> Float64:
    return widen(tensor.dtype, np.frombuffer(data, STORED[tensor.dtype]))


def _copy(tensor: Tensor, source: ReadAt) -> Iterator[Buffer]:
    for at in range(0, tensor.bytes, _COPY_BYTES):
        yield source(tensor.offset + at, min(_COPY_BYTES, tensor.bytes - at))


def _steps(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """First element and number of elements of each step; all but the last fill their blocks."""
    total = _count(tensor)
    return ((at, min(_STEP, total - at)) for at in range(0, total, _STEP))


def _bytes_of(dtype: str, at: int, count: int) -> tuple[int, int]:
    """Where in an encoded tensor a step's elements stand, and in how many bytes."""
    if dtype == INT8X60:
        return at // BLOCK_ELEMENTS * BLOCK_BYTES, -(-count // BLOCK_ELEMENTS) * BLOCK_BYTES
    width = STORED[dtype].itemsize
    return at * width, count * width


def _count(tensor: Tensor) -> int:
    return tensor.bytes // STORED[tensor.dtype].itemsize


def _pairs(manifest: Manifest, travels: Manifest) -> Iterator[tuple[Tensor, Tensor]]:
    if [tensor.name for tensor in manifest.tensors] != [tensor.name for tensor in travels.tensors]:
        raise Broken("what travels has other tensors than the model; expected what wire_manifest makes of it")
    return zip(manifest.tensors, travels.tensors, strict=True)
