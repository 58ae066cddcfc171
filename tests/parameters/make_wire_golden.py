"""Regenerates the golden vectors of encoded differences: `python tests/parameters/make_wire_golden.py`.

A changed vector means that old and new nodes no longer get the same result from the same differences.
"""

import json
from pathlib import Path

import numpy as np
from blake3 import blake3

from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.manifest import lay_out, write_arrays
from swarmlearning.parameters.wire import Wire, apply_difference, encode_difference, reader, wire_manifest

GOLDEN = Path(__file__).parent / "golden" / "wire.json"


def model(seed: int) -> dict[str, Array]:
    """A model with every floating type; no generator of random numbers, so that it is the same for ever."""
    steps = np.arange(20_000, dtype=np.float64) * (seed + 0.25)
    wave = (steps * 0.618033988749895) % 1.0 - 0.5
    return {
        "brain": (wave[:500]).astype(np.float32).astype(BFLOAT16),
        "counter": np.asarray(seed, np.int64),
        "double": wave[:700] * 1e-3,
        "few": wave[:10].astype(np.float32),
        "half": wave[:300].astype(np.float16),
        "huge": (wave[:100] * 6e38).astype(np.float32),
        "tiny": (wave[:100] * 1e-38).astype(np.float32),
        "weights": wave.astype(np.float32).reshape(100, 200),
    }


def vector(wire: Wire) -> dict[str, object]:
    """Two encodings, the second with what the first has left, and what they give."""
    arrays, before = model(2), model(1)
    manifest = lay_out(arrays)
    travels = wire_manifest(manifest, wire)
    own, base = bytearray(manifest.size), bytearray(manifest.size)
    write_arrays(manifest, arrays, memoryview(own))
    write_arrays(manifest, before, memoryview(base))
    first = list(encode_difference(manifest, travels, reader(own), reader(base)))
    left = b"".join(step.residual for step in first)
    second = list(encode_difference(manifest, travels, reader(own), reader(base), reader(left)))
    data = b"".join(step.data for step in second)
    found = b"".join(apply_difference(manifest, travels, reader(base), reader(data)))
    return {
        "wire": wire,
        "tensors": [f"{t.name}: {t.kind}, {t.bytes} bytes at {t.offset}" for t in travels.tensors],
        "sizes": [manifest.size, travels.size, len(left)],
        "first": blake3(b"".join(step.data for step in first)).hexdigest(),
        "left": blake3(left).hexdigest(),
        "second": blake3(data).hexdigest(),
        "left_again": blake3(b"".join(step.residual for step in second)).hexdigest(),
        "applied": blake3(found).hexdigest(),
    }


def vectors() -> list[dict[str, object]]:
    """One of each wire."""
    return [vector("bf16"), vector("fp16"), vector("int8")]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
