"""Regenerates the golden vectors: `python tests/merge/make_merge_golden.py`.

What each method makes of some fixed bits, as hex, so that any other machine or version is seen to differ: G-2. Inputs
are drawn from SHA-256, not from a library's random numbers.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from swarmlearning.merge.distances import measure_shard, sum_distances, unpack_distances
from swarmlearning.merge.method import BUILT_IN, merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, shard_chunks
from swarmlearning.parameters.dtypes import BFLOAT16, EXPONENT_BITS, STORED, Array
from swarmlearning.parameters.manifest import Manifest, lay_out, read_arrays, write_arrays

GOLDEN = Path(__file__).parent / "golden" / "merging-v1.json"

WEIGHTS = {"equal": [5] * 7, "unequal": [3, 1, 4, 1, 5, 9, 2]}

OPTIONS: dict[str, tuple[tuple[str, int], ...]] = {
    "trimmed_mean": (("trim", 150_000),),
    "multi_krum": (("faulty", 1_000_000),),
    "fedavgm": (("momentum", 700_000), ("rate", 1_300_000)),
}


def model(number: int) -> dict[str, Array]:
    """A small model of every type: values near each other, and some of any finite bits."""
    arrays: dict[str, Array] = {}
    for dtype, stored in STORED.items():
        count = 40 if dtype != "float32" else 17_000
        seed = f"{dtype} {number}".encode()
        raw = hashlib.shake_256(seed).digest(count * stored.itemsize)
        bits = np.frombuffer(raw, stored).copy()
        if dtype in EXPONENT_BITS:
            unsigned, mask = EXPONENT_BITS[dtype]
            words = bits.view(unsigned)
            lowest = mask & -mask
            # Half of them of about one size; the others of any exponent but the highest, zeros and subnormals included.
            words[::2] = (words[::2] & ~unsigned.type(mask)) | unsigned.type((mask >> 1) & mask)
            words[1::2] = np.where(words[1::2] & mask == mask, words[1::2] ^ unsigned.type(lowest), words[1::2])
            words[1::8] &= ~unsigned.type(mask)
            words[5::16] = 0
        if dtype == "bool":
            bits &= np.uint8(1)
        arrays[dtype] = bits
    return arrays


def buffers(count: int) -> tuple[Manifest, list[memoryview]]:
    """`count` models in canonical form, of the types they say."""
    models = [model(number) for number in range(count)]
    for arrays in models:
        arrays["bfloat16"] = arrays["bfloat16"].view(BFLOAT16)
        arrays["bool"] = arrays["bool"].view(np.bool_)
    manifest = lay_out(models[0])
    made = []
    for arrays in models:
        made.append(memoryview(bytearray(manifest.size)))
        write_arrays(manifest, arrays, made[-1])
    return manifest, made


def vectors(shards: int = 1) -> dict[str, Any]:
    """Every method's results: by type the SHA-256 of the bytes, and the first elements as hex."""
    manifest, models = buffers(9)
    contributors, history = models[:7], models[7:]
    dealt = [shard_chunks(chunk_count(manifest.size), shards, shard) for shard in range(shards)]
    # Of one shard, whatever `shards` is: sums over other shards round otherwise.
    part = measure_shard(manifest, contributors, range(chunk_count(manifest.size)))
    distances = unpack_distances(sum_distances([part]), len(contributors))
    found: dict[str, Any] = {"distances": part.hex(), "results": {}}
    for name in BUILT_IN:
        method = merge_method(name, OPTIONS.get(name, ()))
        for label, weights in WEIGHTS.items():
            given = method.weigh(distances, weights) if method.needs == "distances" else weights
            base, previous = history if method.needs == "history" else (None, None)
            whole = bytearray(manifest.size)
            for chunks in dealt:
                for index, merged in merge_shard(
                    manifest, method, contributors, given, chunks, base=base, previous=previous
                ):
                    whole[index * CHUNK_BYTES : index * CHUNK_BYTES + len(merged)] = merged
            found["results"][f"{name} {label}"] = {
                "weights": given,
                **{
                    key: [hashlib.sha256(array.tobytes()).hexdigest(), array[:6].tobytes().hex()]
                    for key, array in read_arrays(manifest, memoryview(whole)).items()
                },
            }
    return found


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(vectors(), indent=1) + "\n")
