"""A late peer's training on a newer model, against a naive oracle (docs/spec/merging.md, G-40 to G-46)."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mean import FLOATS, bits_of, finite_columns, spacing

from swarmlearning.errors import Broken
from swarmlearning.merge import rebase as rebase_module
from swarmlearning.merge.rebase import rebase_model
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import lay_out, read_arrays, write_arrays

INTEGERS = [name for name in STORED if name not in ("bfloat16", "bool") and STORED[name].kind in "iu"]


def rebased(newest: Array, own: Array, base: Array) -> Array:
    """One tensor, rebased by way of canonical buffers."""
    manifest = lay_out({"t": newest})
    given_ = [memoryview(bytearray(manifest.size)) for _ in range(3)]
    for buffer, array in zip(given_, (newest, own, base), strict=True):
        write_arrays(manifest, {"t": array}, buffer)
    into = memoryview(bytearray(b"\xff" * manifest.size))
    assert rebase_model(manifest, given_[0], given_[1], given_[2], into) is into
    return read_arrays(manifest, into)["t"]


@st.composite
def triples(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    newest, own, base = draw(finite_columns(draw(st.sampled_from(FLOATS)), 3))
    return newest, own, base


def written_order(newest: Array, own: Array, base: Array, at: int) -> float:
    return float(newest[at]) + (float(own[at]) - float(base[at]))


def round_once(value: float, kind: np.dtype[Any]) -> Array:
    """The value of `kind` nearest to a float64, ties to even, by comparing neighbours exactly."""
    if kind != BFLOAT16:
        with np.errstate(all="ignore"):
            plain: Array = np.array([value], np.float64).astype(kind)
            return plain
    with np.errstate(all="ignore"):
        start = int(np.array([value], np.float32).view(np.uint32)[0] >> 16)
    near = [bits for bits in (start - 1, start, start + 1) if 0 <= bits < 1 << 16]
    found = [(bits, np.array([bits], np.uint16).view(BFLOAT16)) for bits in near]
    finite = [(bits, number) for bits, number in found if np.isfinite(number[0])]
    best = min(finite, key=lambda f: (abs(Fraction(float(f[1][0])) - Fraction(value)), f[0] & 1))
    nearest: Array = best[1]
    return nearest


@given(triples())
@settings(deadline=None, max_examples=250)
def test_g40_each_element_follows_the_written_order_and_is_rounded_once(given_: tuple[Array, Array, Array]) -> None:
    newest, own, base = given_
    got = rebased(newest, own, base)
    for at in range(len(newest)):
        moved = written_order(newest, own, base, at)
        with np.errstate(all="ignore"):
            overflows = not np.isfinite(np.array([moved]).astype(newest.dtype)[0])
        if newest[at] == base[at] or own[at] == base[at] or overflows:
            continue  # G-41, G-42, G-43
        assert got[at] == round_once(moved, newest.dtype)[0], (newest[at], own[at], base[at])
        # Two float64 operations and one rounding away from the exact value.
        exact = Fraction(float(newest[at])) + Fraction(float(own[at])) - Fraction(float(base[at]))
        largest = max(abs(Fraction(float(a[at]))) for a in given_)
        allowed = spacing(exact, newest.dtype) + largest * Fraction(2) ** -50 + Fraction(2) ** -1073
        assert abs(Fraction(float(got[at])) - exact) <= allowed


def test_g40_the_difference_is_taken_first() -> None:
    newest, own, base = (np.array([value]) for value in (1.0, 1e17, 1e17 - 16))
    assert rebased(newest, own, base)[0] == 17.0  # (newest - base) + own would be 16


def test_g40_bfloat16_is_rounded_once() -> None:
    newest, own, base = (np.array([value]).astype(BFLOAT16) for value in (1.0, 2.0**-8, -(2.0**-30)))
    assert rebased(newest, own, base).view(np.uint16)[0] == 0x3F81


@given(triples())
@settings(deadline=None, max_examples=150)
def test_g41_where_the_swarm_has_not_moved_own_comes_out_bit_for_bit(given_: tuple[Array, Array, Array]) -> None:
    newest, own, _ = given_
    assert rebased(newest, own, newest).tobytes() == own.tobytes()


@given(triples())
@settings(deadline=None, max_examples=150)
def test_g42_where_nothing_was_trained_newest_comes_out_bit_for_bit(given_: tuple[Array, Array, Array]) -> None:
    newest, own, _ = given_
    assert rebased(newest, own, own).tobytes() == newest.tobytes()


@given(triples())
@settings(deadline=None, max_examples=150)
def test_g43_finite_inputs_give_finite_results(given_: tuple[Array, Array, Array]) -> None:
    assert np.isfinite(rebased(*given_).astype(np.float64)).all()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_g43_an_element_that_overflows_keeps_the_newest_value(kind: np.dtype[Any]) -> None:
    top = {"bfloat16": 0x7F7F, "float16": 0x7BFF, "float32": 0x7F7F_FFFF, "float64": 0x7FEF_FFFF_FFFF_FFFF}[kind.name]
    sign = 1 << (8 * kind.itemsize - 1)
    largest, smallest = (
        np.array([top, 0], bits_of(kind)).view(kind),
        np.array([top | sign, 0], bits_of(kind)).view(kind),
    )
    half = (largest.astype(np.float64) / 2).astype(kind)
    got = rebased(half, largest, smallest)
    assert got.tobytes() == half.tobytes()


@pytest.mark.parametrize("name", INTEGERS)
def test_g44_integers_are_the_newest(name: str) -> None:
    newest, own, base = (np.array([value, value + 1], name) for value in (7, 100, 3))
    assert rebased(newest, own, base).tobytes() == newest.tobytes()


def test_g44_booleans_are_the_newest_and_canonical() -> None:
    newest, own, base = np.array([True, False]), np.array([False, True]), np.array([False, False])
    assert rebased(newest, own, base).tolist() == [True, False]
    manifest = lay_out({"t": newest})
    odd = memoryview(bytearray(manifest.size))
    odd[0] = 7
    into = memoryview(bytearray(manifest.size))
    rebase_model(manifest, odd, odd, odd, into)
    assert bytes(into[:2]) == b"\x01\x00"


def test_g45_padding_is_zero_and_each_tensor_keeps_its_place() -> None:
    arrays: dict[str, Array] = {
        "a": np.array([1.5], np.float32),
        "b": np.zeros((0, 3), np.float32),
        "c": np.array([3], np.int64),
        "d": np.array(2.0, BFLOAT16),
    }
    manifest = lay_out(arrays)
    newest, own, base = (memoryview(bytearray(manifest.size)) for _ in range(3))
    write_arrays(manifest, arrays, newest)
    own[:] = base[:] = bytes(newest)
    for buffer in (newest, own, base):
        buffer[10] = 9  # behind the first tensor's four bytes
    into = memoryview(bytearray(b"\xff" * manifest.size))
    rebase_model(manifest, newest, own, base, into)
    clean = memoryview(bytearray(manifest.size))
    write_arrays(manifest, arrays, clean)
    assert bytes(into) == bytes(clean)


def test_g45_buffers_of_another_size_or_a_read_only_target_are_refused() -> None:
    manifest = lay_out({"t": np.zeros(16, np.float32)})
    good, short = memoryview(bytearray(manifest.size)), memoryview(bytearray(manifest.size - 1))
    for buffers in ((short, good, good, good), (good, good, short, good), (good, good, good, short)):
        with pytest.raises(Broken, match="expected 64 each"):
            rebase_model(manifest, *buffers)
    with pytest.raises(Broken, match="writable"):
        rebase_model(manifest, good, good, good, memoryview(bytes(manifest.size)))


def test_g46_how_many_elements_are_taken_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    for kind in FLOATS:
        triple = [rng.standard_normal(1000).astype(np.float32).astype(kind) for _ in range(3)]
        whole = rebased(triple[0], triple[1], triple[2])
        monkeypatch.setattr(rebase_module, "_STEP", 7)
        assert rebased(triple[0], triple[1], triple[2]).tobytes() == whole.tobytes()
        monkeypatch.undo()
