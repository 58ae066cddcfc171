"""Merging encoded differences instead of models (docs/spec/merging.md, G-100 to G-102)."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.merge.distances import measure_shard, unpack_distances
from swarmlearning.merge.method import merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.blocks import decode_blocks, encode_blocks
from swarmlearning.parameters.chunks import chunk_count
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, find_nonfinite, lay_out, read_arrays, write_arrays
from swarmlearning.parameters.wire import Wire, apply_difference, encode_difference, reader, wire_manifest

WIRES: list[Wire] = ["bf16", "fp16", "int8"]
PART = {"bf16": 2.0**-9, "fp16": 2.0**-12, "int8": 1 / 254}
"""Of the largest magnitude, how far off rounding to the wire's type is at most, and a little more."""


def model(seed: int, count: int = 40_000) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "few": rng.standard_normal(3).astype(np.float32),
        "kernel": rng.standard_normal(count).astype(np.float32),
        "steps": np.asarray(seed, np.int64),
        "wide": rng.standard_normal(500),
    }


def buffer_of(manifest: Manifest, arrays: dict[str, Array]) -> bytes:
    buffer = bytearray(manifest.size)
    write_arrays(manifest, arrays, memoryview(buffer))
    return bytes(buffer)


def encoded(manifest: Manifest, travels: Manifest, own: bytes, base: bytes) -> bytes:
    steps = encode_difference(manifest, travels, reader(own), reader(base))
    return b"".join(bytes(step.data) for step in steps)


def applied(manifest: Manifest, travels: Manifest, base: bytes, merged: bytes) -> bytes:
    return b"".join(bytes(step) for step in apply_difference(manifest, travels, reader(base), reader(merged)))


def merged(travels: Manifest, name: str, buffers: Sequence[bytes], weights: Sequence[int], shards: int = 1) -> bytes:
    """All chunks, merged shard by shard."""
    chunks = chunk_count(travels.size)
    found: dict[int, bytes] = {}
    views = [memoryview(buffer) for buffer in buffers]
    for shard in range(shards):
        indices = range(shard, chunks, shards)
        found |= {
            index: bytes(chunk)
            for index, chunk in merge_shard(travels, merge_method(name), views, list(weights), indices)
        }
    return b"".join(found[index] for index in range(chunks))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", ["mean", "coordmedian", "trimmed_mean"])
def test_g100_merging_differences_is_merging_models(wire: Wire, name: str) -> None:
    base, weights = model(0), [3, 1, 2, 2]
    models = [model(seed) for seed in range(1, 5)]
    manifest = lay_out(base)
    travels = wire_manifest(manifest, wire)
    under = buffer_of(manifest, base)
    whole = [buffer_of(manifest, arrays) for arrays in models]
    sent = [encoded(manifest, travels, own, under) for own in whole]
    found = applied(manifest, travels, under, merged(travels, name, sent, weights))
    expected = read_arrays(manifest, memoryview(merged(manifest, name, whole, weights)))
    got = read_arrays(manifest, memoryview(found))
    largest = max(float(np.abs(arrays[key] - base[key]).max()) for arrays in models for key in ("kernel", "wide"))
    for key in ("kernel", "wide"):
        # A difference, and the result, are rounded to the wire's type; the model to its own.
        assert np.abs(got[key] - expected[key]).max() <= 2 * PART[wire] * largest + 1e-6
    for key in ("few", "steps"):
        assert np.array_equal(got[key], expected[key])


@pytest.mark.parametrize("shards", [2, 3])
def test_g100_blocks_are_merged_alike_however_they_are_sharded(shards: int) -> None:
    manifest = lay_out(model(0, 300_000))
    travels = wire_manifest(manifest, "int8")
    under = buffer_of(manifest, model(0, 300_000))
    sent = [encoded(manifest, travels, buffer_of(manifest, model(seed, 300_000)), under) for seed in (1, 2, 3)]
    assert chunk_count(travels.size) > 4
    assert merged(travels, "mean", sent, [1, 2, 3], shards) == merged(travels, "mean", sent, [1, 2, 3])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=60, max_size=60), min_size=2, max_size=5))
def test_g100_a_block_is_decoded_merged_and_encoded(rows: list[list[float]]) -> None:
    travels = wire_manifest(lay_out({"x": np.zeros(60, np.float32)}), "int8")
    blocks = [encode_blocks(np.array(row, np.float32)) for row in rows]
    decoded = [decode_blocks(memoryview(block)).astype(np.float64) for block in blocks]
    total = decoded[0].copy()
    for values in decoded[1:]:
        total += values
    expected = encode_blocks((total / len(rows)).astype(np.float32))
    assert merged(travels, "mean", blocks, [1] * len(rows)) == expected


def test_g100_a_single_contributors_blocks_are_copied() -> None:
    """G-9; decoding and encoding again may change a scale in its last place."""
    travels = wire_manifest(lay_out({"x": np.zeros(60_000, np.float32)}), "int8")
    scales = np.random.default_rng(1).uniform(1, 2, 1000).astype(np.float32)
    block = b"".join(struct.pack("<f60b", scale, *range(67, 127)) for scale in scales)
    again = encode_blocks(decode_blocks(memoryview(block)))
    assert merged(travels, "mean", [block], [5]) == block
    assert merged(travels, "coordmedian", [block], [5]) == block
    assert again != block


@pytest.mark.parametrize("name", ["mean", "coordmedian", "trimmed_mean"])
def test_g100_whatever_dishonest_peers_send_the_result_is_finite(name: str) -> None:
    """P-47: only blocks whose scales are finite are merged; of those the largest, and elements of -128."""
    travels = wire_manifest(lay_out({"x": np.zeros(60, np.float32)}), "int8")
    worst = struct.pack("<f60b", 2.0**120, *[-128] * 60)
    other = struct.pack("<f60b", 2.0**120, *[127] * 60)
    for given_blocks in ([worst, worst], [worst, other], [worst, other, encode_blocks(np.ones(60, np.float32))]):
        found = merged(travels, name, given_blocks, [1] * len(given_blocks))
        assert find_nonfinite(travels, memoryview(found)) is None


def test_g101_what_stands_behind_the_last_element_changes_nothing_that_is_read() -> None:
    """A larger magnitude there costs its own block precision, which any element of it could."""
    base = np.zeros(61, np.float32)
    manifest = lay_out({"x": base})
    travels = wire_manifest(manifest, "int8")
    honest = encode_blocks(np.concatenate([np.full(61, 0.5), np.zeros(59)]).astype(np.float32))
    soiled = bytearray(honest)
    soiled[64 + 4 + 1 :] = bytes([0x7F]) * 59
    results = [
        applied(manifest, travels, buffer_of(manifest, {"x": base}), merged(travels, "mean", [honest, tail], [1, 1]))
        for tail in (honest, bytes(soiled))
    ]
    assert results[0] == results[1]


def test_g102_distances_are_those_of_the_decoded_elements() -> None:
    manifest = lay_out(model(0))
    travels = wire_manifest(manifest, "int8")
    under = buffer_of(manifest, model(0))
    whole = [buffer_of(manifest, model(seed)) for seed in (1, 2, 3)]
    sent = [memoryview(encoded(manifest, travels, own, under)) for own in whole]
    apart = unpack_distances(measure_shard(travels, sent, range(chunk_count(travels.size))), 3)
    wanted = unpack_distances(
        measure_shard(manifest, [memoryview(own) for own in whole], range(chunk_count(manifest.size))), 3
    )
    assert np.allclose(apart, wanted, rtol=1e-2)
    assert not np.allclose(apart, 0)
    decoded = [
        np.concatenate(
            [
                decode_blocks(buffer[tensor.offset : tensor.offset + tensor.bytes]).astype(np.float64)
                if tensor.dtype == "int8x60"
                else np.frombuffer(buffer, "<f4", 3, tensor.offset).astype(np.float64)
                for tensor in travels.tensors
                if tensor.dtype != "int64"
            ]
        )
        for buffer in sent
    ]
    exact = np.array([[float(np.sum((a - b) ** 2)) for b in decoded] for a in decoded])
    assert np.allclose(apart, exact, rtol=1e-12)
