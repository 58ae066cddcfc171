"""Merges a shard, chunk by chunk, from the contributors' canonical buffers or whatever serves their chunks.

Memory is one chunk a contributor and one for the result, whatever the size of the model.

Does not: verify chunks (`parameters.chunks`), fetch them (`sl`), or measure distances (`merge.distances`). Spec:
docs/spec/merging.md, G-30 to G-37, G-100, G-101.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from swarmlearning.errors import Broken
from swarmlearning.merge.base import MergeMethod
from swarmlearning.merge.chunks import ChunkSource, as_native, check_lengths, chunks_of, require_chunk
from swarmlearning.merge.mean import Mean
from swarmlearning.parameters.blocks import INT8X60, encode_blocks
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_length
from swarmlearning.parameters.dtypes import BFLOAT16, STORED
from swarmlearning.parameters.manifest import Manifest, tensors_between

MAX_TOTAL_WEIGHT: Final = 1 << 31
"""Largest sum of weights: its products with float32 values stay far inside float64."""


def merge_shard(
    manifest: Manifest,
    method: MergeMethod,
    contributors: Sequence[memoryview | ChunkSource],
    weights: Sequence[int],
    chunk_indices: Iterable[int],
    *,
    base: memoryview | ChunkSource | None = None,
    previous: memoryview | ChunkSource | None = None,
) -> Iterator[tuple[int, bytearray]]:
    """Merge some chunks of a model; yields each chunk's index and merged bytes, padding zero.

    Args:
        manifest: validated.
        method: one that needs distances merges by `mean` here.
        contributors: in node-id order: a whole canonical buffer, or what returns its verified chunks.
        weights: one a contributor. At least 1 each; of a method that needs distances, what its `weigh` gave: those of
            weight 0 are not asked for chunks.
        chunk_indices: of the shard, rising.
        base: of a method that needs history: the newest result; None: there is none yet, and the mean is the result.
        previous: of such a method: the result before that; None: there is none yet.

    Raises:
        Broken: no contributors, weights that are not one a contributor, too small or too large, or history that does
            not go with the method; raised at once. While iterating: an index that the model does not have.
        DecodeError: while iterating: a chunk has another length than the manifest says.
    """
    if not contributors or len(contributors) != len(weights):
        raise Broken(f"{len(contributors)} contributors and {len(weights)} weights; expected as many, and at least one")
    lowest = 0 if method.needs == "distances" else 1
    if min(weights) < lowest or not 1 <= sum(weights) <= MAX_TOTAL_WEIGHT:
        raise Broken(
            f"weights from {min(weights)}, in all {sum(weights)}; expected {lowest} or more, in all 1 to "
            f"{MAX_TOTAL_WEIGHT}"
        )
    if (base is not None and method.needs != "history") or (previous is not None and base is None):
        raise Broken(f"merge method {method.name}: earlier results are for methods that need history, newest first")
    kernel = Mean() if method.needs == "distances" else method
    sources = [_source(given) for given, weight in zip(contributors, weights, strict=True) if weight]
    history = [_source(given) for given in (base, previous) if given is not None]
    return _merge_chunks(manifest, kernel, sources, [weight for weight in weights if weight], chunk_indices, history)


def _source(given: memoryview | ChunkSource) -> ChunkSource:
    return chunks_of(given) if isinstance(given, memoryview) else given


def _merge_chunks(
    manifest: Manifest,
    method: MergeMethod,
    sources: Sequence[ChunkSource],
    weights: Sequence[int],
    chunk_indices: Iterable[int],
    history: Sequence[ChunkSource],
) -> Iterator[tuple[int, bytearray]]:
    for index in chunk_indices:
        require_chunk(manifest, index)
        length = chunk_length(manifest.size, index)
        inputs = [memoryview(source(index)).cast("B") for source in sources]
        earlier = [memoryview(source(index)).cast("B") for source in history]
        check_lengths(index, [*inputs, *earlier], length)
        merged = bytearray(length)
        view = memoryview(merged)
        for dtype, start, stop, gaps in _runs(manifest, index * CHUNK_BYTES, length):
            run = [chunk[start:stop] for chunk in inputs]
            _merge_run(method, dtype, run, weights, view[start:stop], [chunk[start:stop] for chunk in earlier])
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
    method: MergeMethod,
    dtype: str,
    inputs: Sequence[memoryview],
    weights: Sequence[int],
    out: memoryview,
    history: Sequence[memoryview],
) -> None:
    if dtype == INT8X60 and len(inputs) == 1:
        out[:] = inputs[0]
        return
    blocks = [as_native(dtype, chunk) for chunk in inputs]
    if dtype == INT8X60:
        merged = np.empty_like(blocks[0])
        method.merge_block(blocks, weights, merged)
        out[:] = encode_blocks(merged)
        return
    target = np.frombuffer(out, STORED[dtype])
    merged = target.view(blocks[0].dtype) if target.dtype.isnative else np.empty_like(blocks[0])
    method.merge_block(blocks, weights, merged)
    if history:
        earlier = [as_native(dtype, chunk) for chunk in history]
        method.step_block(merged, earlier[0], earlier[1] if len(earlier) > 1 else None, merged)
    if not target.dtype.isnative:
        np.copyto(target, merged.view(np.uint16) if merged.dtype == BFLOAT16 else merged, casting="equiv")
