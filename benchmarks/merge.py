"""Prints the speed of merging and of hashing beside that of copying memory, measured in the same run.

GB/s count the bytes that are read: all contributors' for a merge, the buffer's for a commitment or a copy.
"""

import argparse
import secrets
import statistics
import time
from collections.abc import Callable

import numpy as np

from swarmlearning.merge.method import merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import chunk_count, commit
from swarmlearning.parameters.dtypes import BFLOAT16
from swarmlearning.parameters.manifest import lay_out, write_arrays

REPEATS = 5


def speed(work: Callable[[], object], size: int) -> float:
    """Median GB/s over a few runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return size / statistics.median(seconds) / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="size of the model, MiB")
    size = parser.parse_args().mib << 20
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    print(f"copy                    {speed(lambda: np.copyto(target, source), size):6.2f} GB/s")
    secret = secrets.token_bytes(32)
    print(f"commit                  {speed(lambda: commit(memoryview(source), secret), size):6.2f} GB/s")
    rng = np.random.default_rng(0)
    mean = merge_method("mean")
    for dtype in ("float32", "float16", "bfloat16", "float64", "int64"):
        kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
        models = []
        for _ in range(8):
            # Sixteen layers: chunks with and without a border between tensors.
            values = rng.integers(-1000, 1000, size // kind.itemsize).astype(np.float32) / 7
            arrays = {str(k): part for k, part in enumerate(np.array_split(values.astype(kind), 16))}
            manifest = lay_out(arrays)
            models.append(memoryview(bytearray(manifest.size)))
            write_arrays(manifest, arrays, models[-1])
        for count in (2, 4, 8):
            for weights in ([1] * count, [k + 2 for k in range(count)]):

                def merge(count: int = count, weights: list[int] = weights) -> None:
                    chunks = range(chunk_count(manifest.size))
                    for _ in merge_shard(manifest, mean, models[:count], weights, chunks):
                        pass

                how = "equal  " if len(set(weights)) == 1 else "weights"
                print(f"mean {dtype:8} n={count} {how} {speed(merge, count * manifest.size):5.2f} GB/s")


if __name__ == "__main__":
    main()
