"""What `swarm bench merge` measures: each method, a commitment, a copy of memory, in one run.

Does not: assert anything; no test depends on a time.
"""

import functools
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from swarmlearning.merge.distances import measure_shard, sum_distances, unpack_distances
from swarmlearning.merge.method import BUILT_IN, MergeMethod, merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import chunk_count, commit
from swarmlearning.parameters.dtypes import BFLOAT16
from swarmlearning.parameters.manifest import Manifest, lay_out, write_arrays

LAYERS: Final = 16
"""Tensors of the made-up model: chunks with and without a border between two."""


_COPIED: Final = 64 << 20
"""Bytes copied at least: what fits a cache would be copied many times faster."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One figure."""

    work: str
    """A method, `distances` (measuring alone) or `commit`."""
    dtype: str
    weights: str
    """`equal`, `unequal`, or empty where there are none."""
    gbps: float
    """10^9 bytes read a second."""
    ratio: float
    """To copying memory."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a run."""

    peers: int
    megabytes: int
    copy_gbps: float
    results: list[Speed]


def measure_all(*, peers: int, size: int, dtypes: Sequence[str], repeats: int) -> Report:
    """Measure copying and committing, then every built-in method with each type.

    Args:
        peers: contributors, 2 at least.
        size: of the model, bytes.
        dtypes: names of types that a model may have.
        repeats: runs, of which the median counts.
    """
    copy, committing = _measure_memory(max(size, _COPIED), repeats)
    results = [_figure("commit", "", "", committing, copy)]
    for dtype in dtypes:
        manifest, models = prepare(dtype, size, peers)
        read = peers * manifest.size
        for work, weights, job in _jobs(manifest, models, peers):
            results.append(_figure(work, dtype, weights, speed(job, read, repeats), copy))
    return Report(peers=peers, megabytes=size >> 20, copy_gbps=round(copy, 2), results=results)


def _measure_memory(size: int, repeats: int) -> tuple[float, float]:
    """GB/s of copying and of committing to a buffer."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    secret = secrets.token_bytes(32)
    copy = speed(lambda: np.copyto(target, source), size, repeats)
    return copy, speed(lambda: commit(source.data, secret), size, repeats)


def _figure(work: str, dtype: str, weights: str, gbps: float, copy: float) -> Speed:
    return Speed(work=work, dtype=dtype, weights=weights, gbps=round(gbps, 3), ratio=round(gbps / copy, 3))


def _jobs(manifest: Manifest, models: list[memoryview], peers: int) -> Iterator[tuple[str, str, Callable[[], object]]]:
    for name in BUILT_IN:
        method = merge_method(name)
        for label, weights in (("equal", [1] * peers), ("unequal", list(range(2, peers + 2)))):
            yield name, label, functools.partial(merge_model, manifest, method, models, weights)
    yield "distances", "", functools.partial(measure_shard, manifest, models, range(chunk_count(manifest.size)))


def merge_model(manifest: Manifest, method: MergeMethod, models: list[memoryview], weights: list[int]) -> None:
    """Merge whole models as one shard, and let the result go; measure and weigh first where the method wants it."""
    chunks = range(chunk_count(manifest.size))
    if method.needs == "distances":
        distances = sum_distances([measure_shard(manifest, models, chunks)])
        weights = method.weigh(unpack_distances(distances, len(models)), weights)
    base, previous = (models[0], models[-1]) if method.needs == "history" else (None, None)
    for _ in merge_shard(manifest, method, models, weights, chunks, base=base, previous=previous):
        pass


def speed(work: Callable[[], object], size: int, repeats: int) -> float:
    """Median GB/s over a few runs, after one to warm up; by the thread's own time, since others may use the machine."""
    work()
    seconds = []
    for _ in range(repeats):
        begun = time.thread_time()
        work()
        seconds.append(time.thread_time() - begun)
    return size / max(statistics.median(seconds), 1e-9) / 1e9


def prepare(dtype: str, size: int, count: int) -> tuple[Manifest, list[memoryview]]:
    """Canonical buffers of `count` different models of about `size` bytes."""
    kind: np.dtype[Any] = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(0)
    models: list[memoryview] = []
    manifest = lay_out({})
    for _ in range(count):
        values = rng.integers(-1000, 1000, size // kind.itemsize).astype(np.float32)
        values = (values / 7 if kind.kind == "f" or kind == BFLOAT16 else values % 100).astype(kind)
        arrays = {f"layer{k:02}": part for k, part in enumerate(np.array_split(values, LAYERS))}
        manifest = lay_out(arrays)
        models.append(memoryview(bytearray(manifest.size)))
        write_arrays(manifest, arrays, models[-1])
    return manifest, models


def table_of(report: Report) -> str:
    """The figures for people, at most 100 columns wide."""
    lines = [
        f"{report.peers} contributors, {report.megabytes} MiB each, one thread; GB/s of what is read",
        f"{'copy of memory':36} {report.copy_gbps:8.2f} GB/s",
        "",
        f"{'work':14} {'type':10} {'weights':10} {'GB/s':>8} {'to a copy':>12}",
    ]
    lines += [
        f"{row.work:14} {row.dtype:10} {row.weights:10} {row.gbps:8.2f} {row.ratio:12.3f}" for row in report.results
    ]
    return "\n".join(lines)
