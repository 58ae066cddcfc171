"""Squared distances between contributors: measured shard by shard, added up, unpacked.

A leader sees its shard's chunks only; the sum over all shards' parts is over the whole model. Floating tensors count;
integers and booleans do not: a step counter would drown all the rest.

Does not: weigh (`merge.krum`, `merge.geomedian`), verify or fetch. Spec: docs/spec/merging.md, G-60 to G-65.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.merge.base import Float64, fold
from swarmlearning.merge.chunks import ChunkSource, as_native, check_lengths, chunks_of, require_chunk
from swarmlearning.parameters.blocks import INT8X60
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_length
from swarmlearning.parameters.dtypes import BFLOAT16, EXPONENT_BITS, Array
from swarmlearning.parameters.manifest import Manifest, tensors_between

LANES: Final = 8192
"""Values of all contributors that are looked at together, about: the lanes of all pairs stay in a core's cache."""

FARTHEST: Final = math.ldexp(1.0, 480)
"""Larger differences count as this: squares, and sums of 2^40 of them, stay far inside float64. Only float64 tensors
can differ so much."""

MOST: Final = math.ldexp(1.0, 1000)
"""Largest squared distance."""

_STORED: Final = np.dtype("<f8")


def measure_shard(
    manifest: Manifest,
    contributors: Sequence[memoryview | ChunkSource],
    chunk_indices: Iterable[int],
    *,
    step: Callable[[int], None] | None = None,
) -> bytes:
    """Measure some chunks of a model: squared distances of each pair of contributors, for `sum_distances`.

    Args:
        manifest: validated.
        contributors: in node-id order: a whole canonical buffer, or what returns its verified chunks.
        chunk_indices: of the shard, rising.
        step: called after each chunk with the number of chunks done.

    Returns:
        The upper triangle, row by row, as little-endian float64: n * (n - 1) / 2 of them.

    Raises:
        Broken: no contributors, or an index that the model does not have.
        DecodeError: a chunk has another length than the manifest says.
    """
    if not contributors:
        raise Broken("0 contributors; expected at least one")
    sources = [chunks_of(given) if isinstance(given, memoryview) else given for given in contributors]
    count = len(sources)
    lanes = _Lanes(count)
    for done, index in enumerate(chunk_indices, 1):
        require_chunk(manifest, index)
        length = chunk_length(manifest.size, index)
        inputs = [memoryview(source(index)).cast("B") for source in sources]
        check_lengths(index, inputs, length)
        for dtype, start, stop in _floating_parts(manifest, index * CHUNK_BYTES, length):
            lanes.add(dtype, [chunk[start:stop] for chunk in inputs])
        if step is not None:
            step(done)
    return _pack(lanes.folded())


def lanes_of(count: int) -> int:
    """How many lanes each pair of n contributors has: the largest power of two up to LANES / n, 32 to 2048."""
    return min(max(1 << max((LANES // count).bit_length() - 1, 0), 32), 2048)


def sum_distances(parts: Sequence[bytes]) -> bytes:
    """Add up the parts of all shards, in the order of shards.

    Raises:
        DecodeError: there are none, or their lengths differ or are no multiple of 8.
    """
    if not parts:
        raise DecodeError("no distances of any shard; expected at least one part")
    total = _parse(parts[0], len(parts[0]) // 8)
    for part in parts[1:]:
        total = total + _parse(part, len(total))
    return _pack(total)


def unpack_distances(data: bytes, count: int) -> Float64:
    """The whole matrix from its upper triangle: count x count, symmetric, zero on the diagonal.

    Raises:
        DecodeError: the length is not that of `count` contributors.
    """
    triangle = _parse(data, count * (count - 1) // 2)
    matrix = np.zeros((count, count))
    matrix[np.triu_indices(count, 1)] = triangle
    return matrix + matrix.T


def _pack(sums: Float64) -> bytes:
    return _bounded(sums).astype(_STORED).tobytes()


def _parse(data: bytes, expected: int) -> Float64:
    if len(data) != 8 * expected:
        raise DecodeError(f"distances of {len(data)} bytes; expected {8 * expected}, 8 for each pair of contributors")
    return _bounded(np.frombuffer(data, _STORED).astype(np.float64))


def _bounded(values: Float64) -> Float64:
    """From 0 to `MOST`; what is not a number is the most: nobody's figures can break the others' arithmetic."""
    return np.where(values > 0, np.fmin(values, MOST), np.where(np.isnan(values), MOST, 0.0))


def _floating_parts(manifest: Manifest, begin: int, length: int) -> Iterator[tuple[str, int, int]]:
    """Floating tensors' bytes within a chunk: type, start, stop; padding is left out, as nobody need make it zero."""
    for tensor, low, high in tensors_between(manifest, begin, begin + length):
        if (tensor.dtype in EXPONENT_BITS or tensor.dtype == INT8X60) and high > low:
            yield tensor.dtype, low - begin, high - begin


class _Lanes:
    """Sums of squares: every element of a part goes to the lane of its position, whatever else is in the chunk."""

    def __init__(self, count: int) -> None:
        self.width = lanes_of(count)
        self._count = count
        self._sums = [np.zeros((count - 1 - first, self.width)) for first in range(count - 1)]
        self._values = np.empty((count, self.width))
        self._squares = np.empty((max(count - 1, 1), self.width))

    def add(self, dtype: str, parts: Sequence[memoryview]) -> None:
        """Add the squared differences of one part, whose first element goes to the first lane."""
        blocks = [as_native(dtype, part) for part in parts]
        with np.errstate(all="ignore"):  # what is not finite is bounded
            for at in range(0, len(blocks[0]), self.width):
                self._add_block(dtype, [block[at : at + self.width] for block in blocks])

    def _add_block(self, dtype: str, blocks: Sequence[Array]) -> None:
        size = len(blocks[0])
        values = self._values[:, :size]
        for row, block in zip(values, blocks, strict=True):
            _widen(block, row)
        for first, sums in enumerate(self._sums):
            squares = self._squares[: len(sums), :size]
            np.subtract(values[first + 1 :], values[first], out=squares)
            if dtype == "float64":
                np.abs(squares, out=squares)
                np.fmin(squares, FARTHEST, out=squares)
            np.multiply(squares, squares, out=squares)
            np.add(sums[:, :size], squares, out=sums[:, :size])

    def folded(self) -> Float64:
        """One sum a pair."""
        return np.concatenate([fold(sums) for sums in self._sums]) if self._sums else np.zeros(0)


def _widen(block: Array, into: Float64) -> None:
    if block.dtype == BFLOAT16:
        block = (block.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    np.copyto(into, block)
