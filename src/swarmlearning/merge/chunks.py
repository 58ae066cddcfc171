"""A contributor's chunks as arrays: what merging and measuring a shard share.

Does not: verify chunks (`parameters.chunks`) or fetch them (`sl`). Spec: docs/spec/merging.md, G-33, G-34.
"""

from collections.abc import Callable, Sequence

import numpy as np

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.parameters.blocks import INT8X60, decode_blocks
from swarmlearning.parameters.chunks import CHUNK_BYTES, Buffer, chunk_count
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import Manifest

ChunkSource = Callable[[int], Buffer]
"""Returns a contributor's chunk by its index in the whole buffer, verified; called once for each chunk, in order."""


def chunks_of(buffer: memoryview) -> ChunkSource:
    """The chunks of a whole canonical buffer."""
    whole = buffer.cast("B")
    return lambda index: whole[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def require_chunk(manifest: Manifest, index: int) -> None:
    """Check that a model has a chunk.

    Raises:
        Broken: it has not.
    """
    chunks = chunk_count(manifest.size)
    if not 0 <= index < chunks:
        raise Broken(f"chunk {index} of a model with {chunks} chunks does not exist")


def check_lengths(index: int, inputs: Sequence[memoryview], length: int) -> None:
    """Check that every contributor's chunk has the length that the manifest says.

    Raises:
        DecodeError: one has not.
    """
    for position, chunk in enumerate(inputs):
        if chunk.nbytes != length:
            raise DecodeError(f"chunk {index} of contributor {position} has {chunk.nbytes} bytes; expected {length}")


def as_native(dtype: str, part: memoryview) -> Array:
    """The elements of a part of a chunk, in place where the machine's byte order allows; encoded blocks are decoded."""
    if dtype == INT8X60:
        return decode_blocks(part)
    stored: Array = np.frombuffer(part, STORED[dtype])
    if dtype == "bool":
        return np.not_equal(stored, 0).view(np.uint8)  # any other byte than 0 counts as true, and 1 comes out
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return native.view(BFLOAT16) if dtype == "bfloat16" else native
