"""Prints the speed of merging and of hashing beside that of copying memory, measured in the same run.

GB/s count the bytes that are read: all contributors' for a merge, the buffer's for a commitment or a copy.
"""

import argparse
import functools
import secrets
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from swarmlearning.merge.method import merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import chunk_count, commit
from swarmlearning.parameters.dtypes import BFLOAT16
from swarmlearning.parameters.manifest import Manifest, lay_out, write_arrays

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


def prepare(kind: np.dtype[Any], size: int, count: int) -> tuple[Manifest, list[memoryview]]:
    """Canonical buffers of `count` models of `size` bytes with sixteen layers: chunks with and without a border."""
    rng = np.random.default_rng(0)
    models: list[memoryview] = []
    for _ in range(count):
        values = (rng.integers(-1000, 1000, size // kind.itemsize).astype(np.float32) / 7).astype(kind)
        arrays = {str(k): part for k, part in enumerate(np.array_split(values, 16))}
        manifest = lay_out(arrays)
        models.append(memoryview(bytearray(manifest.size)))
        write_arrays(manifest, arrays, models[-1])
    return manifest, models


def merge(manifest: Manifest, models: list[memoryview], weights: list[int]) -> None:
    """Merge whole models as one shard, and let the result go."""
    for _ in merge_shard(manifest, merge_method("mean"), models, weights, range(chunk_count(manifest.size))):
        pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="size of the model, MiB")
    size = parser.parse_args().mib << 20
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    print(f"copy                    {speed(lambda: np.copyto(target, source), size):6.2f} GB/s")
    secret = secrets.token_bytes(32)
    print(f"commit                  {speed(lambda: commit(source.data, secret), size):6.2f} GB/s")
    for dtype in ("float32", "float16", "bfloat16", "float64", "int64"):
        kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
        manifest, models = prepare(kind, size, 8)
        for count in (2, 4, 8):
            for how, weights in (("equal", [1] * count), ("weights", list(range(2, count + 2)))):
                rate = speed(functools.partial(merge, manifest, models[:count], weights), count * manifest.size)
                print(f"mean {dtype:8} n={count} {how:8} {rate:6.2f} GB/s")


if __name__ == "__main__":
    main()
