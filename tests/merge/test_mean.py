"""The mean against naive oracles, and what must hold for every input (docs/spec/merging.md, G-10 to G-22)."""

import itertools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.errors import Broken
from swarmlearning.merge.mean import Mean
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.rounding import round_to_bfloat16

FLOATS: list[np.dtype[Any]] = [BFLOAT16, *(np.dtype(name) for name in ("float16", "float32", "float64"))]
INTEGERS = [np.dtype(name) for name, kind in STORED.items() if kind.kind in "iu" and name not in ("bool", "bfloat16")]
WEIGHTS = st.integers(1, 1_000_000)


def merged(blocks: Sequence[Array], weights: Sequence[int]) -> Array:
    out = np.full_like(blocks[0], 9)
    Mean().merge_block(blocks, weights, out)
    return out


def bits_of(kind: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{kind.itemsize}")


@st.composite
def finite_columns(draw: st.DrawFn, kind: np.dtype[Any], count: int) -> list[Array]:
    """`count` blocks of one length, of any finite bits: subnormals, zeros of both signs, the largest values."""
    length = draw(st.integers(1, 6))
    top = {2: 0x7C00 if kind == np.float16 else 0x7F80, 4: 0x7F80_0000, 8: 0x7FF0_0000_0000_0000}[kind.itemsize]
    sign = 1 << (8 * kind.itemsize - 1)
    magnitude = st.one_of(st.integers(0, top - 1), st.sampled_from([0, 1, 2, top - 1, top - 2, top // 2]))
    element = st.builds(lambda m, negative: m | (sign if negative else 0), magnitude, st.booleans())
    rows = draw(st.lists(st.lists(element, min_size=length, max_size=length), min_size=count, max_size=count))
    return [np.array(row, bits_of(kind)).view(kind) for row in rows]


@st.composite
def contributions(draw: st.DrawFn, kinds: Sequence[np.dtype[Any]] = FLOATS) -> tuple[list[Array], list[int]]:
    count = draw(st.integers(1, 6))
    blocks = draw(finite_columns(draw(st.sampled_from(kinds)), count))
    return blocks, draw(st.lists(WEIGHTS, min_size=count, max_size=count))


def exact_mean(blocks: Sequence[Array], weights: Sequence[int], at: int) -> Fraction:
    weighted = sum(Fraction(float(block[at])) * weight for block, weight in zip(blocks, weights, strict=True))
    return Fraction(weighted) / sum(weights)


def spacing(value: Fraction, kind: np.dtype[Any]) -> Fraction:
    """Distance of neighbouring values of `kind` around `value`."""
    digits, lowest = {"bfloat16": (7, -126), "float16": (10, -14), "float32": (23, -126), "float64": (52, -1022)}[
        kind.name
    ]
    if value == 0:
        return Fraction(2) ** (lowest - digits)
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    return Fraction(2) ** (max(exponent, lowest) - digits)


@given(contributions())
@settings(deadline=None, max_examples=250)
def test_g11_the_mean_is_within_the_stated_rounding_of_the_exact_one(given_: tuple[list[Array], list[int]]) -> None:
    blocks, weights = given_
    result = merged(blocks, weights)
    kind = result.dtype
    for at, value in enumerate(result):
        exact = exact_mean(blocks, weights, at)
        largest = max(abs(Fraction(float(block[at]))) for block in blocks)
        working = (len(blocks) + 3) * (largest * Fraction(2) ** -51 + Fraction(2) ** -1074)
        assert math.isfinite(float(value))
        assert abs(Fraction(float(value)) - exact) <= spacing(exact, kind) / 2 + working


@given(contributions([np.dtype(np.float32)]))
@settings(deadline=None, max_examples=150)
def test_g10_float32_follows_the_written_order_of_operations(given_: tuple[list[Array], list[int]]) -> None:
    blocks, weights = given_
    divisor = math.gcd(*weights)
    found = merged(blocks, weights)
    for at in range(len(found)):
        if len(blocks) == 1:
            expected = blocks[0][at].tobytes()
        else:
            acc = float(blocks[0][at]) * (weights[0] // divisor)
            for block, weight in zip(blocks[1:], weights[1:], strict=True):
                acc += float(block[at]) * (weight // divisor)
            expected = struct.pack("<f", acc / (sum(weights) // divisor))
        assert found[at].tobytes() == expected


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1], [3, 5], [1, 1, 1], [2, 5]], ids=str)
def test_g10_g12_sums_of_weights_that_are_powers_of_two_are_divided_by_like_others(weights: list[int]) -> None:
    rng = np.random.default_rng(0)
    for kind in (np.float32, np.float64):
        blocks = [(rng.standard_normal(2000) * 3).astype(kind) for _ in weights]
        blocks[0][:5] = np.finfo(kind).smallest_subnormal * np.arange(5)
        found = merged(blocks, weights)
        for at in range(len(found)):
            values = [float(block[at]) for block in blocks]
            base = values[0] if kind is np.float64 else 0.0
            terms = [w * (base - v if kind is np.float64 else v) for v, w in zip(values, weights, strict=True)]
            mean = list(itertools.accumulate(terms[1:] if kind is np.float64 else terms))[-1] / sum(weights)
            assert found[at].tobytes() == np.array([base - mean if kind is np.float64 else mean], kind)[0].tobytes()


@given(contributions([np.dtype(np.float64)]))
@settings(deadline=None, max_examples=150)
def test_g12_float64_follows_the_written_order_of_operations(given_: tuple[list[Array], list[int]]) -> None:
    blocks, weights = given_
    divisor = math.gcd(*weights)
    found = merged(blocks, weights)
    for at in range(len(found)):
        first = float(blocks[0][at])
        acc = [(first - float(b[at])) * (w // divisor) for b, w in zip(blocks[1:], weights[1:], strict=True)]
        expected = first - list(itertools.accumulate(acc))[-1] / (sum(weights) // divisor) if acc else first
        if math.isfinite(expected):
            assert found[at].tobytes() == struct.pack("<d", expected)


@given(contributions(), st.integers(1, 1000))
@settings(deadline=None, max_examples=150)
def test_g13_only_the_ratio_of_weights_counts(given_: tuple[list[Array], list[int]], factor: int) -> None:
    blocks, weights = given_
    scaled = [weight * factor for weight in weights]
    assert merged(blocks, weights).tobytes() == merged(blocks, scaled).tobytes()


@given(st.sampled_from(FLOATS), st.data())
@settings(deadline=None, max_examples=150)
def test_g14_identical_inputs_come_out_bit_for_bit(kind: np.dtype[Any], data: st.DataObject) -> None:
    (block,) = data.draw(finite_columns(kind, 1))
    weights = data.draw(st.lists(WEIGHTS, min_size=1, max_size=40))
    assert merged([block] * len(weights), weights).tobytes() == block.tobytes()


def test_g14_identical_inputs_come_out_bit_for_bit_from_a_thousand_peers() -> None:
    for kind in FLOATS:
        values = np.random.default_rng(1).standard_normal(300)
        block = values.astype(np.float32).astype(kind) if kind == BFLOAT16 else values.astype(kind)
        assert merged([block] * 1024, [1_000_000 - k for k in range(1024)]).tobytes() == block.tobytes()


def test_g15_a_single_contributor_is_copied_even_where_it_holds_nan() -> None:
    block = np.array([0x7FC00001, 0x7F800001, 0x80000000, 1], np.uint32).view(np.float32)
    assert merged([block], [7]).tobytes() == block.tobytes()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_g16_the_largest_values_do_not_overflow(kind: np.dtype[Any]) -> None:
    top = {"bfloat16": 0x7F7F, "float16": 0x7BFF, "float32": 0x7F7F_FFFF, "float64": 0x7FEF_FFFF_FFFF_FFFF}[kind.name]
    sign = 1 << (8 * kind.itemsize - 1)
    largest, smallest = np.array([top], bits_of(kind)).view(kind), np.array([top | sign], bits_of(kind)).view(kind)
    zero = np.zeros(1, kind)
    for weights in ([1, 1], [999_999, 1_000_000]):
        assert merged([largest, largest], weights).tobytes() == largest.tobytes()
        assert math.isfinite(float(merged([largest, smallest], weights)[0]))
        assert 0 < float(merged([zero, largest], weights)[0]) < float(largest[0])
    assert float(merged([largest, smallest], [1, 1])[0]) == 0
    assert merged([largest] * 1023 + [smallest], [1_000_000] * 1024)[0] > 0
    # One dissenter in front: its share alone keeps the rounding of a thousand terms from passing the largest value.
    steep = merged([smallest] + [largest] * 1023, [1] + [1_000_000] * 1023)
    assert 0 < float(steep[0]) <= float(largest[0])


def test_g16_a_value_that_overflows_does_not_disturb_its_neighbours() -> None:
    top = np.finfo(np.float64).max
    found = merged([np.array([1e-320, top, 3.0]), np.array([3e-320, -top, 5.0])], [1, 1])
    assert found.tolist() == [2e-320, 0.0, 4.0]


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_g16_what_is_not_finite_never_comes_out_finite(kind: np.dtype[Any], bad: float) -> None:
    poisoned, plain = np.array([bad, 1.0]).astype(kind), np.array([2.0, 3.0]).astype(kind)
    for blocks in ([poisoned, plain], [plain, poisoned], [poisoned, poisoned]):
        found = merged(blocks, [1, 3]).astype(np.float64)
        assert not math.isfinite(found[0])
        assert math.isfinite(found[1])


@given(contributions(), st.randoms())
@settings(deadline=None, max_examples=150)
def test_g10_bits_depend_on_the_order_given_and_another_order_only_rounds_otherwise(
    given_: tuple[list[Array], list[int]], random: Any
) -> None:
    blocks, weights = given_
    by_node = {f"node-{k}": pair for k, pair in enumerate(zip(blocks, weights, strict=True))}
    arrived = list(by_node.items())
    random.shuffle(arrived)
    in_order = sorted(arrived, key=lambda item: item[0])
    straight = merged(blocks, weights)
    again = merged([pair[0] for _, pair in in_order], [pair[1] for _, pair in in_order])
    assert again.tobytes() == straight.tobytes()
    other = merged([pair[0] for _, pair in arrived], [pair[1] for _, pair in arrived])
    for at, (one, two) in enumerate(zip(straight, other, strict=True)):
        exact = exact_mean(blocks, weights, at)
        largest = max(abs(Fraction(float(block[at]))) for block in blocks)
        working = (len(blocks) + 3) * (largest * Fraction(2) ** -51 + Fraction(2) ** -1074)
        assert abs(Fraction(float(one)) - Fraction(float(two))) <= spacing(exact, straight.dtype) + 2 * working


def test_g10_long_blocks_are_merged_alike_wherever_a_step_ends() -> None:
    rng = np.random.default_rng(5)
    for kind in FLOATS:
        blocks = [rng.standard_normal(40_001).astype(np.float32).astype(kind) for _ in range(3)]
        whole = merged(blocks, [1, 2, 4])
        for cut in (1, 16_384, 20_000):
            parts = [merged([b[:cut] for b in blocks], [1, 2, 4]), merged([b[cut:] for b in blocks], [1, 2, 4])]
            assert np.concatenate(parts).tobytes() == whole.tobytes()


def lower_median(values: Sequence[int], weights: Sequence[int]) -> int:
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if 2 * reached >= sum(weights):
            return value
    raise AssertionError("weights are positive")


@given(st.sampled_from(INTEGERS), st.integers(2, 6), st.data())
@settings(deadline=None, max_examples=150)
def test_g20_integers_take_the_weighted_lower_median(kind: np.dtype[Any], count: int, data: st.DataObject) -> None:
    limits = np.iinfo(kind)
    length = data.draw(st.integers(1, 5))
    element = st.integers(int(limits.min), int(limits.max)) | st.sampled_from([int(limits.min), int(limits.max), 0, 1])
    rows = data.draw(st.lists(st.lists(element, min_size=length, max_size=length), min_size=count, max_size=count))
    weights = data.draw(st.lists(WEIGHTS, min_size=count, max_size=count))
    blocks = [np.array(row, kind) for row in rows]
    found = merged(blocks, weights)
    assert found.dtype == kind
    assert found.tolist() == [lower_median(column, weights) for column in zip(*rows, strict=True)]
    turned = merged(blocks[::-1], weights[::-1])
    assert turned.tobytes() == found.tobytes()


def test_g21_booleans_take_the_weighted_majority_and_false_when_even() -> None:
    yes, no = np.array([True, True, False]), np.array([True, False, False])
    assert merged([yes, no], [1, 1]).tolist() == [True, False, False]
    assert merged([yes, no], [2, 1]).tolist() == [True, True, False]
    assert merged([no, yes], [2, 1]).tolist() == [True, False, False]


def test_g20_a_long_block_of_integers_from_many_peers_is_merged_in_steps() -> None:
    values = np.arange(3000, dtype=np.int64)
    blocks = [values + offset for offset in range(101)]
    assert np.array_equal(merged(blocks, [1] * 101), values + 50)


def test_g17_bfloat16_is_rounded_once_where_its_library_rounds_twice() -> None:
    values = np.array([1 + 2**-8 + 2**-40, 1 + 2**-8 - 2**-40, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-40)])
    expected = [1 + 2**-7, 1.0, 1.0, 1 + 2**-6, -(1 + 2**-7)]
    assert round_to_bfloat16(values).astype(np.float64).tolist() == expected
    assert values.astype(BFLOAT16).astype(np.float64).tolist() != expected
    nans = np.array([0x7FF8 << 48, 0xFFF8 << 48, 2**63 - 1, 2**64 - 1], np.uint64).view(np.float64)
    assert np.isnan(round_to_bfloat16(nans).astype(np.float64)).all()


def test_g17_the_mean_of_bfloat16_is_rounded_once() -> None:
    # A little above the middle of two neighbours, by less than float32 can tell.
    low, high = np.array([1.0]).astype(BFLOAT16), np.array([1 + 2**-7]).astype(BFLOAT16)
    assert merged([low, high], [999_999, 1_000_000]).tobytes() == high.tobytes()
    assert merged([low, high], [1_000_000, 999_999]).tobytes() == low.tobytes()


@given(st.integers(0, 0x7F7F), st.integers(-3, 3), st.booleans())
@settings(deadline=None, max_examples=150)
def test_g17_rounding_to_bfloat16_picks_the_nearest(base: int, nudge: int, negative: bool) -> None:
    low, high = (float(np.array([b], np.uint16).view(BFLOAT16)[0]) for b in (base, min(base + 1, 0x7F7F)))
    value = (low + high) / 2
    for _ in range(abs(nudge)):
        value = math.nextafter(value, math.copysign(math.inf, nudge))
    found = float(round_to_bfloat16(np.array([-value if negative else value]))[0])
    even = low if base % 2 == 0 or low == high else high
    expected = even if nudge == 0 or low == high else (high if nudge > 0 else low)
    assert found == (-expected if negative else expected)


def test_g2_other_types_are_refused() -> None:
    with pytest.raises(Broken, match="complex64"):
        merged([np.zeros(1, np.complex64)] * 2, [1, 1])
