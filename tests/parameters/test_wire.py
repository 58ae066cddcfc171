"""What travels instead of parameters, and what is lost and kept on the way (docs/spec/parameters.md, P-40 to P-50)."""

import json
import math
import runpy
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import wire_oracle as oracle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarmlearning.errors import Broken, ConfigurationError, DecodeError
from swarmlearning.parameters.blocks import are_blocks_finite, decode_blocks, encode_blocks
from swarmlearning.parameters.chunks import CHUNK_BYTES
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import Manifest, Tensor, find_nonfinite, lay_out, validate_manifest, write_arrays
from swarmlearning.parameters.wire import (
    Wire,
    apply_difference,
    encode_difference,
    reader,
    residual_size,
    wire_manifest,
)

WIRES: list[Wire] = ["bf16", "fp16", "int8"]
KINDS = {"bf16": "bfloat16", "fp16": "float16", "int8": "int8x60"}
FLOATS = ["float64", "float32", "float16", "bfloat16"]
MANY = settings(max_examples=150, deadline=None)


def buffer_of(manifest: Manifest, arrays: dict[str, Array]) -> bytes:
    buffer = bytearray(manifest.size)
    write_arrays(manifest, arrays, memoryview(buffer))
    return bytes(buffer)


def values(dtype: str, seed: int, count: int, spread: float, offset: float) -> Array:
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal(count) * 10.0 ** rng.uniform(-spread, spread, count) + offset
    made = oracle.stored(dtype, raw)
    made[~np.isfinite(made.astype(np.float64))] = 0
    return made


# --- the layout -------------------------------------------------------------------------------------------------------


def test_p40_floats_become_shorter_and_everything_else_stays() -> None:
    arrays: dict[str, Array] = {
        "a": np.zeros((7, 100), np.float32),
        "b": np.zeros(300, np.float64),
        "c": np.zeros(300, np.float16),
        "d": np.zeros(300, BFLOAT16),
        "e": np.zeros(300, np.int32),
        "f": np.zeros(300, np.bool_),
        "g": np.zeros(16, np.float32),
        "h": np.zeros((), np.float64),
        "i": np.zeros((0, 5), np.float32),
    }
    manifest = lay_out(arrays)

    def kinds(wire: Wire) -> list[str]:
        return [f"{t.name} {t.kind} {t.bytes}" for t in wire_manifest(manifest, wire).tensors]

    same = ["e int32 (300,) 1200", "f bool (300,) 300", "g float32 (16,) 64", "h float64 () 8", "i float32 (0, 5) 0"]
    halves = ["c float16 (300,) 600", "d bfloat16 (300,) 600"]
    assert kinds("bf16") == ["a bfloat16 (7, 100) 1400", "b bfloat16 (300,) 600", *halves, *same]
    assert kinds("fp16") == ["a float16 (7, 100) 1400", "b float16 (300,) 600", *halves, *same]
    blocks = [f"{name} int8x60 (5,) 320" for name in "bcd"]
    assert kinds("int8") == ["a int8x60 (12,) 768", *blocks, *same]
    assert wire_manifest(manifest, "float32") == manifest


@MANY
@given(st.lists(st.tuples(st.sampled_from([*STORED]), st.integers(0, 400)), max_size=8), st.sampled_from(WIRES))
def test_p40_a_wire_manifest_is_never_longer_and_its_tensors_are_aligned(
    shapes: list[tuple[str, int]], wire: Wire
) -> None:
    named = {
        f"t{i}": np.zeros(n, BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))
        for i, (dtype, n) in enumerate(shapes)
    }
    manifest = lay_out(named)
    travels = wire_manifest(manifest, wire)
    assert travels.size <= manifest.size
    end = 0
    for tensor, shorter in zip(manifest.tensors, travels.tensors, strict=True):
        assert shorter.offset % 64 == 0
        assert 0 <= shorter.offset - end < 64
        end = shorter.offset + shorter.bytes
        assert shorter.bytes <= tensor.bytes
        assert shorter.dtype in (tensor.dtype, KINDS[wire])
    assert 0 <= travels.size - end < 64


def test_p41_no_model_has_the_type_of_the_wire() -> None:
    block = Tensor(name="x", dtype="int8x60", shape=(1,), offset=0, bytes=64)
    with pytest.raises(DecodeError, match="type 'int8x60'; supported"):
        validate_manifest(Manifest(tensors=(block,), size=64))
    with pytest.raises(ConfigurationError, match="supported"):
        lay_out({"x": np.zeros(1, np.dtype("V64"))})
    assert "int8x60" not in STORED


# --- encoding ---------------------------------------------------------------------------------------------------------


@MANY
@given(
    wire=st.sampled_from(WIRES),
    dtype=st.sampled_from(FLOATS),
    count=st.sampled_from([1, 33, 59, 60, 61, 150, 400]),
    spread=st.sampled_from([0.0, 3.0, 40.0, 300.0]),
    seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 2**32)),
    keeps=st.booleans(),
)
@example(wire="int8", dtype="float64", count=150, spread=300.0, seeds=(1, 2, 3), keeps=True)
def test_p43_p44_an_encoded_difference_is_what_pythons_own_numbers_give(
    wire: Wire, dtype: str, count: int, spread: float, seeds: tuple[int, int, int], keeps: bool
) -> None:
    own, base = (values(dtype, seed, count, spread, 0.5) for seed in seeds[:2])
    left = values("float32", seeds[2], count, 3.0, 0.0) if keeps else np.zeros(count, np.float32)
    manifest = lay_out({"x": own})
    travels = wire_manifest(manifest, wire)
    kind = travels.tensors[0].dtype
    given_left = left.tobytes() if keeps and residual_size(manifest, travels) else None
    data, rest = oracle.encode(
        manifest, travels, buffer_of(manifest, {"x": own}), buffer_of(manifest, {"x": base}), given_left
    )
    assert len(data) == travels.size
    assert len(rest) == residual_size(manifest, travels)
    if kind == dtype:
        assert data == buffer_of(manifest, {"x": own})
        return
    sent, residual = oracle.encode_tensor(kind, *map(oracle.floats_of, (own, base, left)))
    assert oracle.part(travels.tensors[0], data) == sent
    assert rest == struct.pack(f"<{count}f", *residual)
    assert find_nonfinite(travels, memoryview(data)) is None


@MANY
@given(
    wire=st.sampled_from(WIRES),
    dtype=st.sampled_from(FLOATS),
    count=st.sampled_from([1, 60, 61, 400]),
    spread=st.sampled_from([0.0, 3.0, 40.0, 300.0]),
    seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)),
)
def test_p49_an_applied_difference_is_what_pythons_own_numbers_give(
    wire: Wire, dtype: str, count: int, spread: float, seeds: tuple[int, int]
) -> None:
    base = values(dtype, seeds[0], count, spread, 0.5)
    moved = oracle.floats_of(values("float64", seeds[1], count, spread, 0.0))
    manifest = lay_out({"x": base})
    travels = wire_manifest(manifest, wire)
    kind = travels.tensors[0].dtype
    if kind == dtype:
        return
    sent, decoded = oracle.sent_and_decoded(kind, moved)
    merged = sent + bytes(travels.size - len(sent))
    found = oracle.apply(manifest, travels, buffer_of(manifest, {"x": base}), merged)
    wanted = [oracle.add(dtype, b, d) for b, d in zip(oracle.floats_of(base), decoded, strict=True)]
    expected = np.array(wanted, np.float64).astype(base.dtype)
    assert found == buffer_of(manifest, {"x": expected})


def mixed(seed: int, count: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "big": rng.standard_normal((3, 40_000 + count)).astype(np.float32),
        "brain": rng.standard_normal(777).astype(BFLOAT16),
        "count": np.asarray(seed, np.int64),
        "double": rng.standard_normal(1001),
        "flags": rng.standard_normal(5) > 0,
        "half": rng.standard_normal(100).astype(np.float16),
        "none": np.empty((0, 2), np.float32),
        "scalar": np.asarray(rng.standard_normal(), np.float32),
    }


@pytest.mark.parametrize("wire", WIRES)
def test_p43_a_difference_and_its_residual_give_back_what_was_trained(wire: Wire) -> None:
    own, base = mixed(1), mixed(2)
    manifest = lay_out(own)
    travels = wire_manifest(manifest, wire)
    mine, theirs = buffer_of(manifest, own), buffer_of(manifest, base)
    data, rest = oracle.encode(manifest, travels, mine, theirs, None)
    found = oracle.apply(manifest, travels, theirs, data)
    at = 0
    for tensor, shorter in zip(manifest.tensors, travels.tensors, strict=True):
        if shorter.dtype == tensor.dtype:
            assert oracle.part(tensor, found) == oracle.part(tensor, mine)  # as it is, not as a difference
            continue
        kind = BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype)
        wanted, got = (np.frombuffer(oracle.part(tensor, b), kind).astype(np.float64) for b in (mine, found))
        lost = np.frombuffer(rest, "<f4", len(wanted), at).astype(np.float64)
        at += 4 * len(wanted)
        # The tensor's own rounding, of the result and of what is compared with it.
        place = float(np.abs(wanted).max()) * {"float64": 2.0**-23, "float32": 2.0**-22}.get(tensor.dtype, 2.0**-7)
        assert np.abs(got + lost - wanted).max() <= place
    assert at == len(rest)


@pytest.mark.parametrize("wire", WIRES)
def test_p43_p44_steps_and_tensors_do_not_show(wire: Wire) -> None:
    """What is longer than a step is encoded as its parts would be, and each finds its own part of the residual."""
    count = 256 * 60 * 2 + 7
    own, base, left = (np.random.default_rng(seed).standard_normal(count).astype(np.float32) for seed in (1, 2, 3))
    manifest = lay_out({"x": own, "y": base, "z": np.zeros(3, np.int8)})
    travels = wire_manifest(manifest, wire)
    mine, theirs = (
        buffer_of(manifest, {"x": one, "y": other, "z": np.zeros(3, np.int8)})
        for one, other in ((own, base), (base, own))
    )
    data, rest = oracle.encode(manifest, travels, mine, theirs, left.tobytes() + left[::-1].tobytes())
    kind = travels.tensors[0].dtype
    forth, back, carried = map(oracle.floats_of, (own, base, left))
    sent, residual = oracle.encode_tensor(kind, forth, back, carried)
    sent_too, residual_too = oracle.encode_tensor(kind, back, forth, carried[::-1])
    assert oracle.part(travels.tensors[0], data) == sent
    assert oracle.part(travels.tensors[1], data) == sent_too
    assert rest == struct.pack(f"<{2 * count}f", *residual, *residual_too)


@pytest.mark.parametrize("wire", WIRES)
def test_p44_what_is_lost_in_one_round_travels_in_a_later_one(wire: Wire) -> None:
    """A change far below what the wire can show beside a large one arrives in the end, with the residual only."""
    own = np.array([1.0, *[2.0**-14] * 59], np.float32)
    base = np.zeros(60, np.float32)
    manifest = lay_out({"x": own})
    travels = wire_manifest(manifest, wire)
    mine, theirs = buffer_of(manifest, {"x": own}), buffer_of(manifest, {"x": base})
    sums = {True: np.zeros(60), False: np.zeros(60)}
    for feeds_back, total in sums.items():
        left: bytes | None = None
        for _ in range(512):
            data, rest = oracle.encode(manifest, travels, mine, theirs, left)
            left = rest if feeds_back else None
            total += np.frombuffer(oracle.apply(manifest, travels, bytes(manifest.size), data), "<f4", 60)
    wanted = 512 * own.astype(np.float64)
    assert np.abs(sums[True] - wanted).max() <= 1 / 127
    if wire == "int8":
        assert sums[False][1] == 0  # never arrives


# --- blocks -----------------------------------------------------------------------------------------------------------


@MANY
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=True), min_size=60, max_size=60))
@example([0.0] * 59 + [float.fromhex("0x1.FFFFFEp+127")])
@example([2.0**-149] * 60)
@example([127 * 2.0**-126] + [2.0**-127] * 59)
@example([-127 * 2.0**-127] + [1e-40] * 59)
@example([127.0, 0.5, 1.5, 2.5, -0.5, -1.5] + [-0.0] * 54)
def test_p45_p46_a_block_is_what_pythons_own_numbers_give(given_values: list[float]) -> None:
    data = encode_blocks(np.array(given_values, np.float32))
    scale, elements = oracle.encode_block(given_values)
    assert data == struct.pack("<f60b", scale, *elements)
    assert are_blocks_finite(memoryview(data))
    found = decode_blocks(memoryview(data))
    assert found.dtype == np.float32
    assert found.tolist() == [oracle.to_float32(element * scale) for element in elements]
    peak = min(max(map(abs, given_values)), 127 * 2.0**120)
    cut = [math.copysign(min(abs(value), 127 * 2.0**120), value) for value in given_values]
    allowed = peak / 254 * (1 + 2.0**-15) if scale else 127 * 2.0**-126
    assert max(abs(a - b) for a, b in zip(found.tolist(), cut, strict=True)) <= allowed


def test_p46_elements_are_rounded_half_to_even_and_reach_both_ends() -> None:
    data = encode_blocks(np.array([127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5] + [0.0] * 53, np.float32))
    assert struct.unpack("<f60b", data)[:8] == (1.0, 127, -127, 0, 2, 2, 0, -2)


@pytest.mark.parametrize(
    ("bits", "fine"),
    [
        (0x00000000, True),
        (0x00800000, True),  # 2^-126
        (0x7B800000, True),  # 2^120
        (0x3F800000, True),
        (0x80000000, False),  # -0
        (0x00000001, False),  # subnormal
        (0x007FFFFF, False),
        (0x7B800001, False),
        (0x7F7FFFFF, False),
        (0x7F800000, False),  # infinity
        (0x7FC00000, False),  # NaN
        (0x7F800001, False),
        (0xBF800000, False),  # -1
        (0xFF800000, False),
        (0xFFFFFFFF, False),
    ],
)
def test_p47_a_scale_that_is_none_is_found_wherever_its_block_stands(bits: int, fine: bool) -> None:
    own = np.zeros(60 * 3000, np.float32)
    travels = wire_manifest(lay_out({"a": own[:60], "b": own}), "int8")
    buffer = bytearray(travels.size)
    tensor = travels.tensors[1]
    for block in (0, 1022, 1023, 2999):
        at = tensor.offset + block * 64
        spoilt = bytearray(buffer)
        spoilt[at : at + 4] = struct.pack("<I", bits)
        assert find_nonfinite(travels, memoryview(spoilt)) == (None if fine else "b")
        low = at // CHUNK_BYTES * CHUNK_BYTES
        chunk = memoryview(spoilt)[low : low + CHUNK_BYTES]
        assert find_nonfinite(travels, chunk, offset=low) == (None if fine else "b")


@pytest.mark.parametrize("scale", [0.0, 2.0**-126, 1.0, 2.0**120])
def test_p47_whatever_elements_a_dishonest_peer_sends_they_decode_to_finite_values(scale: float) -> None:
    elements = [-128, -127, 127, -1, *range(56)]
    data = memoryview(struct.pack("<f60b", scale, *elements))
    assert are_blocks_finite(data)
    found = decode_blocks(data)
    assert np.isfinite(found).all()
    assert found.tolist() == [element * scale for element in elements]


def test_p48_nan_in_a_block_is_found_and_leaves_the_others_alone() -> None:
    given_values = np.arange(180, dtype=np.float32)
    clean = encode_blocks(given_values)
    given_values[61] = np.nan
    data = encode_blocks(given_values)
    assert data[:64] == clean[:64]
    assert data[128:] == clean[128:]
    assert data[64:128] == bytes.fromhex("0000c07f") + bytes(60)
    assert not are_blocks_finite(memoryview(data))


def test_p45_only_whole_blocks_are_encoded_or_decoded() -> None:
    with pytest.raises(Broken, match="61 elements; expected a multiple of 60"):
        encode_blocks(np.zeros(61, np.float32))
    with pytest.raises(Broken, match="65 bytes; expected whole blocks"):
        decode_blocks(memoryview(bytes(65)))


def test_p45_what_stands_behind_the_last_element_is_not_read() -> None:
    base = np.arange(61, dtype=np.float32)
    manifest = lay_out({"x": base})
    travels = wire_manifest(manifest, "int8")
    merged = bytearray(encode_blocks(np.ones(120, np.float32)))
    clean = oracle.apply(manifest, travels, buffer_of(manifest, {"x": base}), bytes(merged))
    merged[64 + 4 + 1 :] = bytes([0x81]) * 59
    assert oracle.apply(manifest, travels, buffer_of(manifest, {"x": base}), bytes(merged)) == clean


# --- applying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_p49_a_difference_of_zero_changes_no_bit(wire: Wire, dtype: str) -> None:
    base = oracle.stored(dtype, np.array([-0.0, 0.0, 5e-324, 1e-40, 1.5, -2.0] * 20))
    manifest = lay_out({"x": base})
    travels = wire_manifest(manifest, wire)
    mine = buffer_of(manifest, {"x": base})
    data, rest = oracle.encode(manifest, travels, mine, mine, None)
    assert oracle.apply(manifest, travels, mine, data) == mine
    assert not any(rest)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_p49_an_element_that_would_not_be_finite_stays(wire: Wire, dtype: str) -> None:
    most = float(np.finfo(dtype).max)
    base = np.array([most, -most, 1.0, most] * 20, dtype)
    own = np.array([-most, most, 2.0, most] * 20, dtype)
    manifest = lay_out({"x": base})
    travels = wire_manifest(manifest, wire)
    data, rest = oracle.encode(
        manifest, travels, buffer_of(manifest, {"x": own}), buffer_of(manifest, {"x": base}), None
    )
    assert find_nonfinite(travels, memoryview(data)) is None
    assert np.isfinite(np.frombuffer(rest, "<f4")).all()
    forth = oracle.apply(manifest, travels, buffer_of(manifest, {"x": base}), data)
    back = oracle.apply(manifest, travels, buffer_of(manifest, {"x": own}), data)
    for found in (forth, back):
        assert find_nonfinite(manifest, memoryview(found)) is None
    if dtype == "float32" and wire == "bf16":  # what would leave the type is not applied
        assert np.frombuffer(back, "<f4", 80)[0] == np.float32(-most)


@pytest.mark.parametrize("wire", WIRES)
def test_p42_p49_buffers_are_canonical_whatever_was_in_the_padding(wire: Wire) -> None:
    own, base = mixed(1), mixed(2)
    manifest = lay_out(own)
    travels = wire_manifest(manifest, wire)

    def dirty(layout: Manifest, clean: bytes) -> bytes:
        soiled = bytearray(b"\xff" * layout.size)
        for tensor in layout.tensors:
            soiled[tensor.offset : tensor.offset + tensor.bytes] = oracle.part(tensor, clean)
        return bytes(soiled)

    mine, theirs = buffer_of(manifest, own), buffer_of(manifest, base)
    data, rest = oracle.encode(manifest, travels, mine, theirs, None)
    assert oracle.encode(manifest, travels, dirty(manifest, mine), dirty(manifest, theirs), None) == (data, rest)
    found = oracle.apply(manifest, travels, theirs, data)
    assert oracle.apply(manifest, travels, dirty(manifest, theirs), dirty(travels, data)) == found
    for layout, buffer in ((travels, data), (manifest, found)):
        end = 0
        for tensor in layout.tensors:
            assert not any(buffer[end : tensor.offset])
            end = tensor.offset + tensor.bytes
        assert not any(buffer[end:])
        assert len(buffer) == layout.size


def test_p50_memory_does_not_grow_with_the_model() -> None:
    def peak(count: int) -> int:
        own, base = np.ones(count, np.float32), np.zeros(count, np.float32)
        left = np.zeros(count, np.float32)
        manifest = lay_out({"x": own})
        travels = wire_manifest(manifest, "int8")
        data = bytearray(travels.size)
        tracemalloc.start()
        at = 0
        for step in encode_difference(manifest, travels, reader(own.data), reader(base.data), reader(left.data)):
            data[at : at + len(step.data)] = step.data
            at += len(step.data)
        for applied in apply_difference(manifest, travels, reader(base.data), reader(data)):
            del applied
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(100_000), peak(800_000)
    assert large < 1.2 * small
    assert large < 2 << 20


def test_a_wire_manifest_of_another_model_is_refused() -> None:
    mine, other = (lay_out({name: np.zeros(100, np.float32)}) for name in ("x", "y"))
    with pytest.raises(Broken, match="other tensors than the model"):
        next(encode_difference(mine, wire_manifest(other, "int8"), reader(b""), reader(b"")))
    with pytest.raises(Broken, match="other tensors than the model"):
        next(apply_difference(mine, wire_manifest(other, "int8"), reader(b""), reader(b"")))


def test_golden_vectors_are_what_the_code_computes() -> None:
    here = Path(__file__).parent
    expected = json.loads((here / "golden" / "wire.json").read_text())
    found = runpy.run_path(str(here / "make_wire_golden.py"))["vectors"]()
    assert json.loads(json.dumps(found)) == expected
