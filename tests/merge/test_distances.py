"""Squared distances, shard by shard (docs/spec/merging.md, G-60 to G-65)."""

import math
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shard import buffer_of, random_array

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.merge.distances import MOST, lanes_of, measure_shard, sum_distances, unpack_distances
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, shard_chunks
from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.manifest import Manifest, lay_out

SHAPES = st.sampled_from([(), (0,), (1,), (3, 5), (4097,), (33_000,)])
FLOATING = ("float16", "bfloat16", "float32", "float64")


def measured(manifest: Manifest, buffers: list[memoryview], shards: int = 1) -> Array:
    parts = [
        measure_shard(manifest, buffers, shard_chunks(chunk_count(manifest.size), shards, shard))
        for shard in range(shards)
    ]
    return unpack_distances(sum_distances(parts), len(buffers))


@given(
    st.lists(st.tuples(st.sampled_from([*FLOATING, "int32", "bool"]), SHAPES), max_size=6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_g60_g63_distances_over_any_shards_are_those_of_the_whole_models_floats(
    tensors: list[tuple[str, tuple[int, ...]]], count: int, shards: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    models = [{f"t{k}": random_array(rng, *tensor) for k, tensor in enumerate(tensors)} for _ in range(count)]
    manifest = lay_out(models[0])
    floats = [
        np.concatenate([np.zeros(0), *(a.astype(np.float64).ravel() for a in model.values() if a.dtype.kind in "fV")])
        for model in models
    ]
    expected = [[math.fsum((one - two) ** 2) for two in floats] for one in floats]
    found = measured(manifest, [buffer_of(manifest, model) for model in models], shards)
    assert np.allclose(found, expected, rtol=1e-12, atol=0)
    assert np.array_equal(found, found.T)
    assert not np.diagonal(found).any()


def test_g61_lanes_are_summed_in_the_written_order() -> None:
    rng = np.random.default_rng(1)
    models: list[dict[str, Array]] = [
        {"a": rng.standard_normal(20_001).astype(np.float32), "b": rng.standard_normal(5)} for _ in range(9)
    ]
    manifest = lay_out(models[0])
    width = lanes_of(9)
    assert width == 512
    lanes = [0.0] * width
    one, two = models[2], models[7]
    # The first chunk has 16,384 elements of `a`; each tensor's part begins at the first lane.
    for part in (("a", 0, 16_384), ("a", 16_384, 20_001), ("b", 0, 5)):
        name, low, high = part
        for at in range(low, high):
            difference = float(two[name][at]) - float(one[name][at])
            lanes[(at - low) % width] += difference * difference
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
    found = measured(manifest, [buffer_of(manifest, model) for model in models])
    assert found[2, 7] == lanes[0]


@pytest.mark.parametrize(
    ("count", "lanes"), [(1, 2048), (2, 2048), (4, 2048), (5, 1024), (8, 1024), (16, 512), (256, 32), (1000, 32)]
)
def test_g61_the_number_of_lanes_follows_from_the_number_of_contributors(count: int, lanes: int) -> None:
    assert lanes_of(count) == lanes


def test_g60_padding_counts_for_nothing() -> None:
    arrays: dict[str, Array] = {"a": np.ones(3, np.float32), "b": np.ones(5, np.float64)}
    manifest = lay_out(arrays)
    dirty = buffer_of(manifest, arrays)
    dirty[12:64] = b"\x55" * 52
    assert not measured(manifest, [buffer_of(manifest, arrays), dirty]).any()


def test_g62_values_that_would_overflow_do_not_disturb_the_others_distances() -> None:
    top = np.finfo(np.float64).max
    models: list[dict[str, Array]] = [
        {"a": np.array([0.0, 1.0])},
        {"a": np.array([0.0, 3.0])},
        {"a": np.array([top, -top])},
        {"a": np.array([-top, top])},
        {"a": np.array([math.nan, math.inf])},
    ]
    manifest = lay_out(models[0])
    found = measured(manifest, [buffer_of(manifest, model) for model in models])
    assert found[0, 1] == 4
    assert found[2, 3] == 2 * math.ldexp(1.0, 960)
    assert np.isfinite(found).all()
    assert found.max() <= MOST
    singles = [{"a": np.array([value], np.float32)} for value in (3.0e38, -3.0e38)]
    manifest = lay_out(singles[0])
    wide = float(np.float32(3.0e38))
    assert measured(manifest, [buffer_of(manifest, m) for m in singles])[0, 1] == (2 * wide) ** 2


def test_g62_a_leaders_false_figures_cannot_break_the_others_arithmetic() -> None:
    bad = struct.pack("<3d", math.nan, -5.0, math.inf)
    good = struct.pack("<3d", 1.0, 2.0, 3.0)
    assert unpack_distances(sum_distances([bad, good, bad]), 3)[np.triu_indices(3, 1)].tolist() == [MOST, 2.0, MOST]
    assert unpack_distances(bad, 3)[np.triu_indices(3, 1)].tolist() == [MOST, 0.0, MOST]


def test_g63_parts_are_the_upper_triangle_row_by_row_and_added_in_order() -> None:
    assert unpack_distances(struct.pack("<3d", 1, 2, 3), 3).tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]]
    parts = [struct.pack("<d", value) for value in (1.0, 2.0**-53, 2.0**-53)]
    assert struct.unpack("<d", sum_distances(parts)) == (1.0,)
    assert struct.unpack("<d", sum_distances(parts[::-1])) == (1 + 2**-52,)
    assert sum_distances([b""]) == b""
    assert unpack_distances(b"", 1).tolist() == [[0.0]]


def test_g64_chunks_are_asked_for_once_in_order_and_each_is_told() -> None:
    arrays: dict[str, Array] = {"a": np.arange(50_000, dtype=np.float32)}
    manifest = lay_out(arrays)
    whole = buffer_of(manifest, arrays)
    asked: list[int] = []
    told: list[int] = []

    def source(index: int) -> bytes:
        asked.append(index)
        return bytes(whole[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

    part = measure_shard(manifest, [source, whole], shard_chunks(chunk_count(manifest.size), 2, 1), step=told.append)
    assert (asked, told) == ([1, 3], [1, 2])
    assert struct.unpack("<d", part) == (0.0,)


def test_g35_g64_memory_of_measuring_does_not_grow_with_the_model() -> None:
    def peak(length: int) -> int:
        arrays: dict[str, Array] = {"a": np.ones(length, np.float32)}
        manifest = lay_out(arrays)
        buffers = [buffer_of(manifest, arrays)] * 8
        tracemalloc.start()
        measure_shard(manifest, buffers, range(chunk_count(manifest.size)))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(2_000_000) < (1 << 20) + 8 * (32 << 10)


def test_g65_what_has_another_length_is_refused() -> None:
    manifest = lay_out({"a": np.ones(3)})
    whole: list[Any] = [memoryview(bytes(64)), lambda _: bytes(65)]
    with pytest.raises(DecodeError, match="chunk 0 of contributor 1 has 65 bytes; expected 64"):
        measure_shard(manifest, whole, [0])
    with pytest.raises(Broken, match="0 contributors"):
        measure_shard(manifest, [], [0])
    with pytest.raises(Broken, match="does not exist"):
        measure_shard(manifest, whole[:1], [1])
    with pytest.raises(DecodeError, match="distances of 16 bytes; expected 24"):
        unpack_distances(bytes(16), 3)
    with pytest.raises(DecodeError, match="distances of 16 bytes; expected 8"):
        sum_distances([bytes(8), bytes(16)])
    with pytest.raises(DecodeError, match="distances of 9 bytes"):
        sum_distances([bytes(9)])
    with pytest.raises(DecodeError, match="no distances"):
        sum_distances([])


def test_g60_brain_floats_are_widened_exactly() -> None:
    bits = np.arange(0, 0x7F80, 7, dtype=np.uint16)
    model, zero = {"a": bits.view(BFLOAT16)}, {"a": np.zeros(len(bits), BFLOAT16)}
    manifest = lay_out(model)
    expected = math.fsum(float(value) ** 2 for value in bits.view(BFLOAT16).astype(np.float64))
    assert measured(manifest, [buffer_of(manifest, model), buffer_of(manifest, zero)])[0, 1] == pytest.approx(expected)
