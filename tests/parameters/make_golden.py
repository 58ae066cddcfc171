"""Regenerates the golden vectors: `python tests/parameters/make_golden.py`.

A changed vector means that old and new nodes can no longer verify each other.
"""

import json
from pathlib import Path

import numpy as np
from blake3 import blake3

from swarmlearning.parameters import chunks
from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.manifest import lay_out, write_arrays

GOLDEN = Path(__file__).parent / "golden" / "commitments.json"
SECRET = bytes(range(32))


def model(size: int) -> dict[str, Array]:
    """A model with every type, a scalar, an empty tensor, and `size` further float32."""
    arrays: dict[str, Array] = {
        "counter": np.asarray(7, np.int64),
        "empty": np.empty((0, 3), np.float16),
        "flags": np.array([True, False, True]),
        "half": np.array([1.5, -0.0, 65504.0], np.float16),
        "brain": np.array([1.5, -2.0, 3.0], np.float32).astype(BFLOAT16),
        "wide/ä": np.array([[1e300, -0.0]], ">f8"),
    }
    arrays |= {kind: np.array([0, 1, 100], kind) for kind in ("int8", "int16", "int32", "uint8", "uint16", "uint32")}
    arrays["uint64"] = np.array([2**64 - 1], np.uint64)
    arrays["weights"] = np.arange(size, dtype=np.float32) / np.float32(3)
    return arrays


def vector(size: int) -> dict[str, object]:
    """Manifest, buffer and commitment of `model(size)`, hashed."""
    arrays = model(size)
    manifest = lay_out(arrays)
    buffer = bytearray(manifest.size)
    write_arrays(manifest, arrays, memoryview(buffer))
    committed = chunks.commit(buffer, SECRET)
    count = chunks.chunk_count(manifest.size)
    parts = [buffer[i * chunks.CHUNK_BYTES : (i + 1) * chunks.CHUNK_BYTES] for i in range(count)]
    shards = min(count, 3)
    roots = []
    for shard in range(shards):
        leaves = b"".join(chunks.merged_leaf(parts[i]) for i in chunks.shard_chunks(count, shards, shard))
        roots.append(chunks.merged_root(leaves, manifest.size, shard=shard, shards=shards))
    return {
        "size": size,
        "tensors": [f"{t.name}: {t.kind}, {t.bytes} bytes at {t.offset}" for t in manifest.tensors],
        "buffer_size": manifest.size,
        "manifest_hash": manifest.hash.hex(),
        "buffer_blake3": blake3(bytes(buffer)).hexdigest(),
        "first_salt": chunks.salt(SECRET, 0).hex(),
        "last_salt": chunks.salt(SECRET, count - 1).hex(),
        "leaves": [committed.leaves[i : i + 32].hex() for i in range(0, len(committed.leaves), 32)],
        "root": committed.root.hex(),
        "merged_roots": [root.hex() for root in roots],
        "result_root": chunks.result_root(roots).hex(),
    }


def vectors() -> list[dict[str, object]]:
    """One chunk; several, an odd number of them, the last one short."""
    return [vector(0), vector(100_000)]


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
