"""Merges a shard, chunk by chunk, from the contributors' canonical buffers or whatever serves their chunks.

Memory is one chunk a contributor and one for the result, whatever the size of the model.

Does not: verify chunks (`parameters.chunks`) or fetch them (`sl`). Spec: docs/spec/merging.md, G-30 to G-35.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.merge.method import MergeMethod
from swarmlearning.parameters.blocks import INT8X60, decode_blocks, encode_blocks
from swarmlearning.parameters.chunks import CHUNK_BYTES, Buffer, chunk_count, chunk_length
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import Manifest, tensors_between

ChunkSource = Callable[[int], Buffer]
"""Returns a contributor's chunk by its index in the whole buffer, verified; called once for each chunk, in order."""

MAX_TOTAL_WEIGHT: Final = 1 << 31
"""Largest sum of weights: its products with float32 values stay far inside float64."""


def merge_shard(
    manifest: Manifest,
    method: MergeMethod,
    contributors: Sequence[memoryview | ChunkSource],
    weights: Sequence[int],
    chunk_indices: Iterable[int],
) -> Iterator[tuple[int, bytearray]]:
    """Merge some chunks of a model; yields each chunk's index and merged bytes, padding zero.

    Args:
        manifest: validated.
        method: a coordinate-wise one.
        contributors: in node-id order: a whole canonical buffer, or what returns its verified chunks.
        weights: one a contributor, at least 1 each.
        chunk_indices: of the shard, rising.

    Raises:
        Broken: no contributors, weights that are not one a contributor, below 1 or too large, or a method that is
            not coordinate-wise; raised at once. While iterating: an index that the model does not have.
        DecodeError: while iterating: a chunk has another length than the manifest says.
    """
    if not contributors or len(contributors) != len(weights):
        raise Broken(f"{len(contributors)} contributors and {len(weights)} weights; expected as many, and at least one")
    if min(weights) < 1 or sum(weights) > MAX_TOTAL_WEIGHT:
        raise Broken(
            f"weights from {min(weights)}, in all {sum(weights)}; expected 1 or more, at most {MAX_TOTAL_WEIGHT}"
        )
    if not method.coordinatewise:
        raise Broken(f"merge method {method.name} needs the whole model and cannot merge a shard alone")
    sources = [_chunks_of(given) if isinstance(given, memoryview) else given for given in contributors]
    return _merge_chunks(manifest, method, sources, weights, chunk_indices)


def _chunks_of(buffer: memoryview) -> ChunkSource:
    whole = buffer.cast("B")
    return lambda index: whole[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def _merge_chunks(
    manifest: Manifest,
    method: MergeMethod,
    sources: Sequence[ChunkSource],
    weights: Sequence[int],
    chunk_indices: Iterable[int],
) -> Iterator[tuple[int, bytearray]]:
    chunks = chunk_count(manifest.size)
    for index in chunk_indices:
        if not 0 <= index < chunks:
            raise Broken(f"chunk {index} of a model with {chunks} chunks does not exist")
        length = chunk_length(manifest.size, index)
        inputs = [memoryview(source(index)).cast("B") for source in sources]
        for position, chunk in enumerate(inputs):
            if chunk.nbytes != length:
                raise DecodeError(
                    f"chunk {index} of contributor {position} has {chunk.nbytes} bytes; expected {length}"
                )
        merged = bytearray(length)
        for dtype, start, stop, gaps in _runs(manifest, index * CHUNK_BYTES, length):
            _merge_run(method, dtype, [chunk[start:stop] for chunk in inputs], weights, memoryview(merged)[start:stop])
            for gap in gaps:
                merged[gap] = bytes(gap.stop - gap.start)
        yield index, merged


def _runs(manifest: Manifest, begin: int, length: int) -> Iterator[tuple[str, int, int, list[slice]]]:
    """Neighbouring tensors of one type within a chunk, merged in one go: type, start, stop, and padding in between.

    Padding lies inside a run and is merged with it, whatever a contributor had there, then set to zero.
    """
    dtype, start, stop = "", 0, 0
    gaps: list[slice] = []
    for tensor, low, high in tensors_between(manifest, begin, begin + length):
        if tensor.dtype != dtype:
            if stop > start:
                yield dtype, start, stop, gaps
            dtype, start, gaps = tensor.dtype, low - begin, []
        elif low - begin > stop:
            gaps.append(slice(stop, low - begin))
        stop = high - begin
    if stop > start:
        yield dtype, start, stop, gaps


def _merge_run(
    method: MergeMethod, dtype: str, inputs: Sequence[memoryview], weights: Sequence[int], out: memoryview
) -> None:
    blocks = [_native(dtype, chunk) for chunk in inputs]
    merged = np.empty_like(blocks[0])
    method.merge_block(blocks, weights, merged)
    if dtype == INT8X60:
        out[:] = encode_blocks(merged)
        return
    if merged.dtype == BFLOAT16:
        merged = merged.view(np.uint16)
    np.copyto(np.frombuffer(out, STORED[dtype]), merged, casting="equiv")


def _native(dtype: str, chunk: memoryview) -> Array:
    """The elements of a run, in place where the machine's byte order allows; of encoded blocks, decoded."""
    if dtype == INT8X60:
        return decode_blocks(chunk)
    stored: Array = np.frombuffer(chunk, STORED[dtype])
    if dtype == "bool":
        return np.not_equal(stored, 0).view(np.uint8)  # any other byte than 0 counts as true, and 1 comes out
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return native.view(BFLOAT16) if dtype == "bfloat16" else native
