"""Layout, validation and arrays in and out of the canonical buffer (docs/spec/parameters.md, P-1 to P-15)."""

import os
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swarmlearning.encoding import encode
from swarmlearning.errors import Broken, ConfigurationError, DecodeError, ModelMismatch
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import (
    ALIGNMENT,
    Manifest,
    Tensor,
    decode_manifest,
    describe_difference,
    find_nonfinite,
    lay_out,
    read_arrays,
    validate_manifest,
    write_arrays,
)

NATIVE = [BFLOAT16 if name == "bfloat16" else np.dtype(name) for name in STORED]


def written(arrays: dict[str, Array]) -> tuple[Manifest, memoryview]:
    manifest = lay_out(arrays)
    buffer = memoryview(bytearray(os.urandom(manifest.size)))  # what was there before must not show
    write_arrays(manifest, arrays, buffer)
    return manifest, buffer


@st.composite
def arrays_of_any_kind(draw: st.DrawFn) -> Array:
    kind = draw(st.sampled_from(NATIVE))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    raw = draw(st.binary(min_size=kind.itemsize * int(np.prod(shape)), max_size=kind.itemsize * int(np.prod(shape))))
    array: Array = np.frombuffer(raw, np.uint8).copy().view(kind).reshape(shape)
    if kind == np.bool_:
        array = (array.view(np.uint8) & 1).view(np.bool_)
    elif draw(st.booleans()) and kind != BFLOAT16:
        array = array.astype(kind.newbyteorder(">"))
    if draw(st.booleans()) and array.ndim:
        array = np.repeat(array, 2, axis=0)[::-2]
    return array.T if draw(st.booleans()) else array


@given(st.dictionaries(st.text("abcä/0", min_size=1, max_size=8), arrays_of_any_kind(), max_size=6))
@settings(deadline=None, max_examples=150)
def test_p10_every_type_order_and_stride_round_trips_bit_for_bit(arrays: dict[str, Array]) -> None:
    manifest, buffer = written(arrays)
    found = read_arrays(manifest, buffer)
    assert list(found) == sorted(arrays)
    for name, array in arrays.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert found[name].dtype == native.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == native.tobytes()
        assert found[name].flags["C_CONTIGUOUS"]
        assert found[name].flags["WRITEABLE"]
    assert decode_manifest(encode(manifest)) == manifest


def test_p1_p3_layout_is_sorted_aligned_little_endian_with_zero_padding() -> None:
    manifest, buffer = written({"b": np.array([1, 2], ">i2"), "a": np.asarray(1.0, ">f4"), "c": np.empty((0, 4))})
    assert manifest == Manifest(
        tensors=(
            Tensor(name="a", dtype="float32", shape=(), offset=0, bytes=4),
            Tensor(name="b", dtype="int16", shape=(2,), offset=64, bytes=4),
            Tensor(name="c", dtype="float64", shape=(0, 4), offset=128, bytes=0),
        ),
        size=128,
    )
    assert bytes(buffer) == b"\0\0\x80\x3f" + bytes(60) + b"\1\0\2\0" + bytes(60)


def test_p4_a_model_without_bytes_is_a_model() -> None:
    arrays = {"empty": np.empty((2, 0), np.int8)}
    manifest, buffer = written(arrays)
    assert manifest.size == 0
    assert read_arrays(manifest, buffer)["empty"].shape == (2, 0)
    assert lay_out({}) == Manifest(tensors=(), size=0)


def test_p11_read_arrays_are_copies_and_bools_are_zero_or_one() -> None:
    manifest, buffer = written({"x": np.array([True, False])})
    buffer[0] = 7  # from outside: true, but not a byte that numpy expects in a bool
    found = read_arrays(manifest, buffer)["x"]
    buffer[0] = 0
    assert found.tobytes() == b"\1\0"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.array([object()])}, "object"),
        ({"x": np.zeros(2, np.complex64)}, "complex64"),
        ({"x": np.zeros(2, "datetime64[s]")}, "datetime64"),
        ({"x": np.zeros(2, [("f4", "<f4")])}, "f4"),
        ({"x": np.array(["text"])}, "U4"),
        ({"x": [1.0]}, "expected a numpy array, got list"),
        ({1: np.zeros(1)}, "expected text, got int"),
        ({"": np.zeros(1)}, "1-512 bytes, got 0"),
        ({"ä" * 257: np.zeros(1)}, "1-512 bytes, got 514"),
        ({"a\nb": np.zeros(1)}, r"'a\\nb': control characters"),
        ({"a\u202eb": np.zeros(1)}, "control characters"),
        ({"a\ud800": np.zeros(1)}, "control characters"),
        ({"x": np.empty((1 << 41, 0))}, "does not fit"),
        ({"x": np.empty((1,) * 33)}, "33 dimensions"),
    ],
)
def test_p2_what_cannot_be_laid_out_is_refused_by_name(arrays: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        lay_out(arrays)


def test_p2_names_of_512_bytes_are_allowed_and_100_001_tensors_are_not() -> None:
    assert lay_out({"ä" * 256: np.zeros(1)}).size == ALIGNMENT
    one = np.zeros(0)
    with pytest.raises(ConfigurationError, match="100001 tensors"):
        lay_out({str(k): one for k in range(100_001)})


def tensor(
    name: str = "a", *, dtype: str = "float32", shape: tuple[int, ...] = (2,), offset: int = 0, size: int = 8
) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape, offset=offset, bytes=size)


@pytest.mark.parametrize(
    ("tensors", "size", "attack"),
    [
        ([tensor("b"), tensor("a", offset=64)], 128, "names must rise"),
        ([tensor("a"), tensor("a", offset=64)], 128, "names must rise"),
        ([tensor("a"), tensor("b")], 64, "layout gives 8 bytes at 64"),  # overlapping
        ([tensor("a"), tensor("b", offset=4)], 64, "layout gives 8 bytes at 64"),
        ([tensor("a"), tensor("b", offset=128)], 192, "layout gives 8 bytes at 64"),  # a gap to hide bytes in
        ([tensor("a", offset=-64)], 64, "layout gives"),
        ([tensor("a", size=4)], 64, "layout gives 8 bytes"),
        ([tensor("a", size=12)], 64, "layout gives 8 bytes"),
        ([tensor("a")], 8, "size 8; the layout gives 64"),
        ([tensor("a")], 1 << 39, "the layout gives 64"),
        ([], 1, "the layout gives 0"),
        ([tensor("a", dtype="object")], 64, "'object'"),
        ([tensor("a", dtype="complex64")], 64, "'complex64'"),
        ([tensor("a", dtype=">f4")], 64, "'>f4'"),
        ([tensor("a", shape=(-1, -2))], 64, "does not fit"),
        ([tensor("a", shape=(1 << 41,), size=1 << 43)], 1 << 43, "does not fit"),
        ([tensor("a", shape=(1 << 30, 1 << 30, 0), size=0)], 0, "does not fit"),
        ([tensor("a", shape=(1,) * 33, size=4)], 64, "33 dimensions"),
        ([tensor("a\x1b[2J")], 64, "control characters"),
        ([tensor("")], 64, "1-512 bytes"),
    ],
)
def test_p8_manifests_from_outside_are_refused_unless_exactly_laid_out(
    tensors: list[Tensor], size: int, attack: str
) -> None:
    manifest = Manifest(tensors=tuple(tensors), size=size)
    with pytest.raises(DecodeError, match=attack):
        validate_manifest(manifest)
    with pytest.raises(DecodeError):
        decode_manifest(encode(manifest))


def test_p8_total_size_is_bounded_not_only_each_tensor() -> None:
    half = 1 << 39
    fits = [
        tensor("a", dtype="int8", shape=(half,), size=half),
        tensor("b", dtype="int8", shape=(half,), offset=half, size=half),
    ]
    validate_manifest(Manifest(tensors=tuple(fits), size=1 << 40))
    more = [*fits, tensor("c", dtype="int8", shape=(1,), offset=1 << 40, size=1)]
    with pytest.raises(DecodeError, match="'c' with shape"):
        validate_manifest(Manifest(tensors=tuple(more), size=(1 << 40) + 64))


def test_p8_garbage_truncated_and_oversized_manifests_are_refused() -> None:
    good = encode(lay_out({"a": np.zeros(3)}))
    for bad in (b"", b"\xc1", good[:-1], good + b"\0", bytes((16 << 20) + 1)):
        with pytest.raises(DecodeError):
            decode_manifest(bad)


def test_p9_the_hash_changes_with_every_field() -> None:
    base = lay_out({"a": np.zeros((2, 3), np.float32)})
    assert base.hash == lay_out({"a": np.ones((2, 3), ">f4")}).hash
    others: list[dict[str, Array]] = [
        {"b": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
    ]
    assert len({base.hash, *(lay_out(other).hash for other in others)}) == 4


def test_p7_a_difference_names_the_first_tensor_and_both_sides() -> None:
    mine = lay_out({"a": np.zeros(2), "b": np.zeros((3, 4), np.float32), "c": np.zeros(1)})
    other_shape = lay_out({"a": np.zeros(2), "b": np.zeros((3, 5), np.float32), "c": np.zeros(2)})
    other_type = lay_out({"a": np.zeros(2), "b": np.zeros((3, 4), np.float16), "c": np.zeros(1)})
    fewer = lay_out({"a": np.zeros(2), "c": np.zeros(1)})
    assert (
        describe_difference(mine, other_shape)
        == "tensor 'b' is float32 (3, 4) here and float32 (3, 5) on the other side"
    )
    assert (
        describe_difference(mine, other_type)
        == "tensor 'b' is float32 (3, 4) here and float16 (3, 4) on the other side"
    )
    assert describe_difference(mine, fewer) == "tensor 'b' (float32 (3, 4) here) is missing on the other side"
    assert describe_difference(fewer, mine) == "tensor 'b' is missing here; the other side has it as float32 (3, 4)"
    assert describe_difference(mine, mine) == "the tensors are the same"


def test_p10_writing_another_model_than_announced_is_refused_by_tensor() -> None:
    manifest, buffer = written({"a": np.zeros(4, np.float32)})
    for other in ({"a": np.zeros((2, 2), np.float32)}, {"a": np.zeros(4, np.int32)}, {"b": np.zeros(4, np.float32)}):
        with pytest.raises(ModelMismatch, match="tensor 'a'"):
            write_arrays(manifest, other, buffer)


def test_p10_buffers_of_the_wrong_size_are_refused() -> None:
    arrays = {"a": np.zeros(4)}
    manifest, buffer = written(arrays)
    for wrong in (memoryview(bytearray(63)), memoryview(bytearray(128)), buffer.toreadonly()):
        with pytest.raises(Broken, match="expected a writable one of 64"):
            write_arrays(manifest, arrays, wrong)
    with pytest.raises(DecodeError, match="buffer of 63 bytes; the manifest says 64"):
        read_arrays(manifest, buffer[:63])


@pytest.mark.parametrize("kind", [kind for kind in NATIVE if kind.kind not in "iub"], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_p13_nonfinite_values_are_found_and_named_in_whole_buffers_and_in_chunks(kind: Any, value: float) -> None:
    size = 200_000
    arrays = {
        "a": np.ones(3, kind),
        "b": np.ones(size, kind),
        "c": np.full(2, 2**31 - 1, np.int32),
        "d": np.ones(1, kind),
    }
    for at in (0, size // 2, size - 1):
        arrays["b"] = np.ones(size, kind)
        manifest, buffer = written(arrays)
        assert find_nonfinite(manifest, buffer) is None
        arrays["b"][at] = value
        manifest, buffer = written(arrays)
        assert find_nonfinite(manifest, buffer) == "b"
        found = {find_nonfinite(manifest, buffer[i : i + 65536], offset=i) for i in range(0, manifest.size, 65536)}
        assert found == {None, "b"}


def test_p13_largest_finite_values_subnormals_and_integers_are_not_nonfinite() -> None:
    arrays: dict[str, Array] = {
        str(k): np.array([np.finfo(k).max, -np.finfo(k).max, np.finfo(k).smallest_subnormal])
        for k in (np.float16, np.float32, np.float64)
    }
    arrays |= {"int": np.array([-1, 2**63 - 1]), "bits": np.array([0x7F80], np.uint16)}
    arrays["brain"] = np.array([0x7F7F, 0xFF7F, 1], np.uint16).view(BFLOAT16)
    manifest, buffer = written(arrays)
    assert find_nonfinite(manifest, buffer) is None
    padding = manifest.tensors[0].bytes
    buffer[padding : padding + 2] = b"\xff\xff"  # padding is no parameter
    assert find_nonfinite(manifest, buffer) is None


def test_p13_the_first_of_several_is_named() -> None:
    manifest, buffer = written({"b": np.array([np.nan]), "a": np.array([np.inf]), "0": np.empty(0)})
    assert find_nonfinite(manifest, buffer) == "a"


def test_records_are_frozen() -> None:
    manifest = lay_out({"a": np.zeros(1)})
    with pytest.raises(AttributeError):
        manifest.size = 0  # type: ignore[misc]  # what is tested
    assert msgspec.structs.asdict(manifest)["size"] == 64
