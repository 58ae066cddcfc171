"""Whole models merged chunk by chunk (docs/spec/merging.md, G-30 to G-35)."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.method import MergeMethod, merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, shard_chunks
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import Manifest, lay_out, read_arrays, write_arrays

MEAN = merge_method("mean")


def buffer_of(manifest: Manifest, arrays: dict[str, Array]) -> memoryview:
    buffer = memoryview(bytearray(manifest.size))
    write_arrays(manifest, arrays, buffer)
    return buffer


def together(manifest: Manifest, buffers: Sequence[memoryview], weights: Sequence[int], shards: int = 1) -> memoryview:
    whole = bytearray(manifest.size)
    for shard in range(shards):
        dealt = shard_chunks(chunk_count(manifest.size), shards, shard)
        for index, merged in merge_shard(manifest, MEAN, buffers, weights, dealt):
            whole[index * CHUNK_BYTES : index * CHUNK_BYTES + len(merged)] = merged
    return memoryview(whole)


def random_array(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    values = rng.standard_normal(shape) * 100
    return values.astype(np.float32).astype(BFLOAT16) if dtype == "bfloat16" else np.abs(values).astype(dtype)


SHAPES = st.sampled_from([(), (0,), (1,), (3, 5), (17,), (33_000,), (2, 70_001)])


@given(
    st.lists(st.tuples(st.sampled_from(sorted(STORED)), SHAPES), max_size=8),
    st.integers(1, 4),
    st.integers(1, 3),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_g30_any_model_in_any_shards_merges_as_tensor_by_tensor(
    tensors: list[tuple[str, tuple[int, ...]]], count: int, shards: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    models = [{f"t{k}": random_array(rng, *tensor) for k, tensor in enumerate(tensors)} for _ in range(count)]
    weights = data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    manifest = lay_out(models[0])
    buffers = [buffer_of(manifest, model) for model in models]
    whole = together(manifest, buffers, weights, shards)
    expected: dict[str, Array] = {}
    for name, array in models[0].items():
        out = np.empty_like(array.reshape(-1))
        MEAN.merge_block([model[name].reshape(-1) for model in models], weights, out)
        expected[name] = out.reshape(array.shape)
    assert whole == buffer_of(manifest, expected)  # padding is zero in both
    assert {name: array.dtype for name, array in read_arrays(manifest, whole).items()} == {
        name: array.dtype for name, array in models[0].items()
    }


def test_g32_padding_of_the_result_is_zero_whatever_contributors_had_there() -> None:
    arrays: dict[str, Array] = {"a": np.ones(3, np.float32), "b": np.ones(5, np.float32), "c": np.ones(1, np.int8)}
    manifest = lay_out(arrays)
    dirty = [memoryview(bytearray(b"\xff" * manifest.size)) for _ in range(2)]
    for buffer in dirty:
        for tensor in manifest.tensors:
            clean = buffer_of(manifest, arrays)
            buffer[tensor.offset : tensor.offset + tensor.bytes] = clean[tensor.offset : tensor.offset + tensor.bytes]
    assert together(manifest, dirty, [1, 1]) == buffer_of(manifest, arrays)
    assert together(manifest, dirty[:1], [1]) == buffer_of(manifest, arrays)


def test_g33_a_boolean_byte_that_is_neither_0_nor_1_counts_as_true_and_comes_out_as_1() -> None:
    manifest = lay_out({"a": np.array([True, False])})
    odd = memoryview(bytearray(manifest.size))
    odd[0] = 200
    assert bytes(together(manifest, [odd, odd], [1, 1])[:2]) == b"\1\0"
    assert bytes(together(manifest, [odd], [1])[:2]) == b"\1\0"


def test_g31_neighbouring_tensors_of_one_type_are_merged_in_one_go() -> None:
    calls: list[tuple[str, int]] = []

    class Counting(Mean):
        def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
            calls.append((out.dtype.name, len(out)))
            super().merge_block(blocks, weights, out)

    arrays: dict[str, Array] = {f"a{k:03}": np.ones(20, np.float32) for k in range(500)}
    arrays |= {"b": np.ones(4, np.float64), "c": np.ones(7, np.float32)}
    manifest = lay_out(arrays)
    buffers = [buffer_of(manifest, arrays)] * 2
    assert sum(1 for _ in merge_shard(manifest, Counting(), buffers, [1, 1], range(chunk_count(manifest.size)))) == 1
    assert calls == [("float32", 499 * 32 + 20), ("float64", 4), ("float32", 7)]


def test_g34_chunks_may_come_from_functions_and_are_asked_for_once_in_order() -> None:
    arrays: dict[str, Array] = {"a": np.arange(50_000, dtype=np.float32)}
    manifest = lay_out(arrays)
    whole = buffer_of(manifest, arrays)
    asked: list[int] = []

    def source(index: int) -> bytes:
        asked.append(index)
        return bytes(whole[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

    dealt = shard_chunks(chunk_count(manifest.size), 2, 1)
    result = dict(merge_shard(manifest, MEAN, [source, whole], [1, 1], dealt))
    assert asked == list(dealt) == list(result) == [1, 3]
    for index, merged in result.items():
        assert merged == whole[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def test_g35_memory_does_not_grow_with_the_model() -> None:
    def peak(length: int) -> int:
        arrays: dict[str, Array] = {"a": np.ones(length, np.float32)}
        manifest = lay_out(arrays)
        buffers = [buffer_of(manifest, arrays)] * 4
        tracemalloc.start()
        for _ in merge_shard(manifest, MEAN, buffers, [1, 2, 3, 4], range(chunk_count(manifest.size))):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(4_000_000) < max(2 * peak(40_000), 2 << 20)


@pytest.mark.parametrize(
    ("method", "count", "weights", "message"),
    [
        (MEAN, 0, [], "0 contributors"),
        (MEAN, 2, [1], "2 contributors and 1 weights"),
        (MEAN, 2, [1, 0], "expected 1 or more"),
        (MEAN, 2, [1, -1], "expected 1 or more"),
        (MEAN, 2, [1, 1 << 31], "in all 1 to 2147483648"),
        (merge_method("coordmedian"), 2, [1, 0], "expected 1 or more"),
        (merge_method("krum"), 2, [0, 0], "in all 1 to"),
        (merge_method("krum"), 2, [1, -1], "expected 0 or more"),
    ],
)
def test_g1_g34_wrong_calls_are_refused_at_once(
    method: MergeMethod, count: int, weights: list[int], message: str
) -> None:
    manifest = lay_out({"a": np.ones(3)})
    with pytest.raises(Broken, match=message):
        merge_shard(manifest, method, [memoryview(bytes(manifest.size))] * count, weights, [0])


@pytest.mark.parametrize("length", [0, 63, 65, 65536])
def test_g34_a_chunk_of_another_length_is_refused(length: int) -> None:
    manifest = lay_out({"a": np.ones(3)})
    sources: list[Any] = [memoryview(bytes(64)), lambda _: bytes(length)]
    with pytest.raises(DecodeError, match=f"chunk 0 of contributor 1 has {length} bytes; expected 64"):
        list(merge_shard(manifest, MEAN, sources, [1, 1], [0]))


def test_g34_a_chunk_that_the_model_does_not_have_is_refused() -> None:
    manifest = lay_out({"a": np.ones(3)})
    for index in (-1, 1):
        with pytest.raises(Broken, match="does not exist"):
            list(merge_shard(manifest, MEAN, [memoryview(bytes(64))], [1], [index]))
