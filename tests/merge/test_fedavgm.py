"""Outer momentum (docs/spec/merging.md, G-80 to G-83)."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mean import FLOATS, finite_columns
from test_shard import buffer_of

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.merge.method import merge_method
from swarmlearning.merge.shard import merge_shard
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import lay_out, read_arrays


def stepped(mean: Array, base: Array, previous: Array | None, **options: int) -> Array:
    out = mean.copy()
    merge_method("fedavgm", tuple(options.items())).step_block(out, base, previous, out)
    return out


@given(st.sampled_from(FLOATS), st.booleans(), st.integers(1, 10_000_000), st.integers(0, 999_999), st.data())
@settings(deadline=None, max_examples=200)
def test_g80_g81_g82_the_step_follows_the_written_order(
    kind: np.dtype[Any], has_previous: bool, rate: int, momentum: int, data: st.DataObject
) -> None:
    mean, base, previous = data.draw(finite_columns(kind, 3))
    found = stepped(mean, base, previous if has_previous else None, rate=rate, momentum=momentum)
    for at in range(len(mean)):
        x, target = float(base[at]), float(mean[at])
        moved = x + (target - x) * (rate / 1_000_000)
        if has_previous and momentum:
            moved = moved + (x - float(previous[at])) * (momentum / 1_000_000)
        if rate == 1_000_000 and not (has_previous and momentum):
            moved = target
        assert math.isfinite(float(found[at]))
        with np.errstate(over="ignore"):
            narrow = np.array([moved]).astype(kind)
        if kind.name in ("float64", "float32") and np.isfinite(narrow[0]):
            assert found[at].tobytes() == narrow.tobytes()
        elif not np.isfinite(narrow[0]):
            assert found[at].tobytes() == mean[at].tobytes()
        else:
            assert float(found[at]) == pytest.approx(moved, rel=2**-7, abs=float(np.finfo(np.float16).tiny))


def test_g80_heavy_ball_goes_on_in_the_direction_of_the_last_step() -> None:
    mean, base, previous = np.array([10.0]), np.array([8.0]), np.array([4.0])
    assert stepped(mean, base, previous).tolist() == [8 + 2 + 0.9 * 4]
    assert stepped(mean, base, previous, momentum=500_000, rate=500_000).tolist() == [8 + 1 + 2]
    assert stepped(mean, base, None, rate=500_000).tolist() == [9]


def test_g81_without_history_or_momentum_the_result_is_the_mean_bit_for_bit() -> None:
    mean, base = np.array([-0.0, 1e-30, 3.0], np.float32), np.array([1e30, 2.0, 3.0], np.float32)
    assert stepped(mean, base, None).tobytes() == mean.tobytes()
    assert stepped(mean, base, base, momentum=0).tobytes() == mean.tobytes()


def test_g82_an_element_that_would_overflow_is_the_means() -> None:
    top = float(np.finfo(np.float32).max)
    found = stepped(*(np.array(v, np.float32) for v in ([top, 1.0], [top, 2.0], [-top, 3.0])))
    assert found.tolist() == [top, struct.unpack("<f", struct.pack("<f", 1 - 0.9))[0]]


@pytest.mark.parametrize("kind", [np.dtype(np.int64), np.dtype(np.bool_)], ids=str)
def test_g83_integers_and_booleans_are_the_means(kind: np.dtype[Any]) -> None:
    mean, base, previous = (np.array(v, kind) for v in ([1, 0], [0, 1], [1, 1]))
    assert stepped(mean, base, previous, rate=5_000_000).tobytes() == mean.tobytes()


def shard(
    models: Sequence[dict[str, Array]], base: Any = None, previous: Any = None, method: str = "fedavgm"
) -> dict[str, Array]:
    manifest = lay_out(models[0])
    buffers = [buffer_of(manifest, model) for model in models]
    history = [None if given is None else buffer_of(manifest, given) for given in (base, previous)]
    whole = bytearray(manifest.size)
    chunks = range(chunk_count(manifest.size))
    for index, merged in merge_shard(
        manifest, merge_method(method), buffers, [1] * len(models), chunks, base=history[0], previous=history[1]
    ):
        whole[index * CHUNK_BYTES : index * CHUNK_BYTES + len(merged)] = merged
    return read_arrays(manifest, memoryview(whole))


def test_g37_g81_shards_are_stepped_from_the_two_newest_results() -> None:
    rng = np.random.default_rng(0)
    models: list[dict[str, Array]] = [
        {"a": rng.standard_normal(40_000).astype(np.float32), "n": np.array([k], np.int32)} for k in range(4)
    ]
    mean = shard(models[:2], method="mean")
    plain = shard(models[:2])
    assert plain["a"].tobytes() == mean["a"].tobytes()
    found = shard(models[:2], models[2], models[3])
    expected = mean["a"].copy()
    merge_method("fedavgm").step_block(mean["a"], models[2]["a"], models[3]["a"], expected)
    assert found["a"].tobytes() == expected.tobytes()
    assert found["n"].tolist() == [0]
    once = shard(models[:2], models[2])
    assert once["a"].tobytes() == mean["a"].tobytes()


def test_g37_earlier_results_go_with_a_method_that_needs_them_only() -> None:
    manifest = lay_out({"a": np.ones(3)})
    whole = memoryview(bytes(manifest.size))
    for method, base, previous in (("mean", whole, None), ("krum", whole, whole), ("fedavgm", None, whole)):
        with pytest.raises(Broken, match="earlier results are for methods that need history"):
            merge_shard(manifest, merge_method(method), [whole], [1], [0], base=base, previous=previous)
    short = [memoryview(bytes(1))]
    with pytest.raises(DecodeError, match="chunk 0 of contributor 1 has 1 bytes; expected 64"):
        list(merge_shard(manifest, merge_method("fedavgm"), [whole], [1], [0], base=short[0]))


def test_g36_who_has_no_weight_is_not_asked() -> None:
    arrays: dict[str, Array] = {"a": np.arange(3.0), "n": np.array([7])}
    manifest = lay_out(arrays)

    def nobody(index: int) -> bytes:
        raise AssertionError(f"asked for chunk {index}")

    whole = buffer_of(manifest, arrays)
    ((_, found),) = merge_shard(manifest, merge_method("geomedian"), [nobody, whole, nobody], [0, 5, 0], [0])
    assert found == whole
    other = buffer_of(manifest, {"a": np.arange(3.0) * 3, "n": np.array([9])})
    ((_, found),) = merge_shard(manifest, merge_method("krum"), [whole, nobody, other], [1, 0, 1], [0])
    merged = read_arrays(manifest, memoryview(found))
    assert (merged["a"].tolist(), merged["n"].tolist()) == ([0.0, 2.0, 4.0], [7])
