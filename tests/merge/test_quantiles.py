"""coordmedian, trimmed_mean and the programs behind them, against naive oracles: docs/spec/merging.md, G-50 to G-58."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mean import FLOATS, INTEGERS, WEIGHTS, bits_of, finite_columns, lower_median, spacing

from swarmlearning.merge import quantile, trimmed
from swarmlearning.merge.method import merge_method
from swarmlearning.merge.programs import quantile_program, run_program, sorting_program
from swarmlearning.parameters.dtypes import BFLOAT16, Array

SMALL_WEIGHTS = st.sampled_from([[1], [1, 2], [1, 2, 3, 5], list(range(1, 101))])


def merged(name: str, blocks: Sequence[Array], weights: Sequence[int], trim: int | None = None) -> Array:
    options = () if trim is None else (("trim", trim),)
    out = np.full_like(blocks[0], 9)
    merge_method(name, options).merge_block(blocks, weights, out)
    return out


@st.composite
def contributions(draw: st.DrawFn, kinds: Sequence[np.dtype[Any]] = FLOATS) -> tuple[list[Array], list[int]]:
    count = draw(st.integers(2, 9))
    blocks = draw(finite_columns(draw(st.sampled_from(kinds)), count))
    allowed = draw(SMALL_WEIGHTS)
    return blocks, draw(st.lists(st.sampled_from(allowed), min_size=count, max_size=count))


def quantile_at(values: Sequence[Fraction], weights: Sequence[int], share: Fraction) -> Fraction:
    """G-50, word by word."""
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= share:
            return value
    raise AssertionError("shares go up to the sum of weights")


def exact_median(values: Sequence[Fraction], weights: Sequence[int]) -> Fraction:
    total = Fraction(sum(weights))
    return (quantile_at(values, weights, total / 2) + quantile_at(values, weights, total / 2 + Fraction(1, 2))) / 2


def exact_trimmed(values: Sequence[Fraction], weights: Sequence[int], trim: Fraction) -> Fraction:
    total = Fraction(sum(weights))
    cut, reached, acc = total * trim, Fraction(0), Fraction(0)
    for value, weight in sorted(zip(values, weights, strict=True)):
        acc += value * max(min(reached + weight, total - cut) - max(reached, cut), Fraction(0))
        reached += weight
    return acc / (total - 2 * cut)


def column(blocks: Sequence[Array], at: int) -> list[Fraction]:
    return [Fraction(float(block[at])) for block in blocks]


def check_near(found: Array, blocks: Sequence[Array], exact: Sequence[Fraction]) -> None:
    """Half a unit of the last place, and the rounding of working in float64."""
    for at, value in enumerate(found):
        largest = max(abs(v) for v in column(blocks, at))
        working = (len(blocks) + 3) * (largest * Fraction(2) ** -50 + Fraction(2) ** -1073)
        assert math.isfinite(float(value))
        assert abs(Fraction(float(value)) - exact[at]) <= spacing(exact[at], found.dtype) / 2 + working


@given(contributions())
@settings(deadline=None, max_examples=150)
def test_g50_g52_the_median_is_the_oracles(given_: tuple[list[Array], list[int]]) -> None:
    blocks, weights = given_
    found = merged("coordmedian", blocks, weights)
    check_near(found, blocks, [exact_median(column(blocks, at), weights) for at in range(len(found))])
    half = Fraction(sum(weights), 2)
    for at, value in enumerate(found):
        values = column(blocks, at)
        if quantile_at(values, weights, half) == quantile_at(values, weights, half + Fraction(1, 2)):
            assert float(value) in {float(block[at]) for block in blocks}  # chosen, not computed


@given(contributions(), st.sampled_from([0, 1, 200_000, 250_000, 333_333, 499_999]))
@settings(deadline=None, max_examples=150)
def test_g55_g58_the_trimmed_mean_is_the_oracles(given_: tuple[list[Array], list[int]], trim: int) -> None:
    blocks, weights = given_
    found = merged("trimmed_mean", blocks, weights, trim)
    share = Fraction(trim, 1_000_000)
    check_near(found, blocks, [exact_trimmed(column(blocks, at), weights, share) for at in range(len(found))])


@given(contributions([np.dtype(np.float32), np.dtype(np.float64)]), st.sampled_from([0, 200_000, 333_333]))
@settings(deadline=None, max_examples=150)
def test_g56_the_trimmed_mean_follows_the_written_order_of_operations(
    given_: tuple[list[Array], list[int]], trim: int
) -> None:
    blocks, weights = given_
    found = merged("trimmed_mean", blocks, weights, trim)
    ratio = [weight // math.gcd(*weights) for weight in weights]
    unit = 1_000_000 // math.gcd(1_000_000, trim)
    total, cut = sum(ratio) * unit, sum(ratio) * trim * unit // 1_000_000
    for at in range(len(found)):
        counted: list[tuple[float, int]] = []
        reached = 0
        for weight, value in sorted(
            ((w, float(b[at])) for b, w in zip(blocks, ratio, strict=True)), key=lambda p: p[::-1]
        ):
            kept = max(min(reached + weight * unit, total - cut) - max(reached, cut), 0)
            reached += weight * unit
            if kept:
                counted.append((value, kept))
        shares = [kept for _, kept in counted]
        if len(set(ratio)) == 1:
            shares = [share // math.gcd(*shares) for share in shares]
        base = counted[0][0] if found.dtype == np.float64 else 0.0
        acc = 0.0
        for (value, _), share in zip(counted, shares, strict=True):
            acc += share * (value - base)
        expected = base + acc / sum(shares)
        if found.dtype == np.float64:
            expected = min(max(expected, base), counted[-1][0])
        if math.isfinite(acc):
            assert found[at].tobytes() == (np.array([expected], found.dtype) + 0)[0].tobytes()


def test_g55_trimming_nothing_is_the_mean_and_the_default_is_a_fifth() -> None:
    blocks = [np.array([value], np.float64) for value in (1.0, 2.0, 4.0, 8.0, 100.0)]
    assert merged("trimmed_mean", blocks, [1] * 5, 0).tolist() == [23.0]
    assert merged("trimmed_mean", blocks, [1] * 5).tolist() == pytest.approx([14 / 3])
    # T = 0.5: of the first and the last value a half each is left.
    assert merged("trimmed_mean", blocks, [1] * 5, 100_000).tolist() == [(0.5 + 2 + 4 + 8 + 50) / 4]


@given(contributions(), st.sampled_from(["coordmedian", "trimmed_mean"]), st.randoms())
@settings(deadline=None, max_examples=150)
def test_g53_g57_the_order_of_contributors_leaves_no_trace(
    given_: tuple[list[Array], list[int]], name: str, random: Any
) -> None:
    blocks, weights = given_
    pairs = list(zip(blocks, weights, strict=True))
    random.shuffle(pairs)
    other = merged(name, [block for block, _ in pairs], [weight for _, weight in pairs])
    assert other.tobytes() == merged(name, blocks, weights).tobytes()


@given(contributions(), st.sampled_from(["coordmedian", "trimmed_mean"]), st.integers(2, 50))
@settings(deadline=None, max_examples=100)
def test_g13_only_the_ratio_of_weights_counts(given_: tuple[list[Array], list[int]], name: str, factor: int) -> None:
    blocks, weights = given_
    scaled = merged(name, blocks, [weight * factor for weight in weights])
    assert scaled.tobytes() == merged(name, blocks, weights).tobytes()


@given(st.sampled_from(FLOATS), st.sampled_from(["coordmedian", "trimmed_mean"]), st.data())
@settings(deadline=None, max_examples=150)
def test_g53_identical_contributors_give_themselves_with_positive_zeros(
    kind: np.dtype[Any], name: str, data: st.DataObject
) -> None:
    (block,) = data.draw(finite_columns(kind, 1))
    weights = data.draw(st.lists(WEIGHTS, min_size=2, max_size=40))
    expected = np.where(block == 0, np.zeros_like(block), block)
    assert merged(name, [block] * len(weights), weights).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["coordmedian", "trimmed_mean"])
@pytest.mark.parametrize("weights", [[1] * 4, [1, 2, 3, 5]], ids=str)
def test_g51_no_zero_has_a_minus(kind: np.dtype[Any], name: str, weights: list[int]) -> None:
    zeros = [np.array([0.0 if k & 1 << at else -0.0 for k in range(16)], kind) for at in range(4)]
    tiny = np.array([1 | 1 << (8 * kind.itemsize - 1)], bits_of(kind)).view(kind)
    for found in (
        merged(name, zeros, weights),
        merged(name, [tiny, tiny, np.zeros_like(tiny), np.zeros_like(tiny)], [1] * 4),
    ):
        assert not any(value == 0 and math.copysign(1, value) < 0 for value in found.astype(np.float64).tolist())


@given(st.sampled_from([*INTEGERS, np.dtype(np.bool_)]), st.sampled_from(["coordmedian", "trimmed_mean"]), st.data())
@settings(deadline=None, max_examples=150)
def test_g54_integers_and_booleans_take_the_lower_median(kind: np.dtype[Any], name: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 20))
    low, high = (0, 1) if kind == np.bool_ else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    rows = data.draw(st.lists(st.lists(st.integers(low, high), min_size=3, max_size=3), min_size=count, max_size=count))
    weights = data.draw(st.lists(WEIGHTS, min_size=count, max_size=count))
    found = merged(name, [np.array(row, kind) for row in rows], weights)
    assert found.dtype == kind
    assert found.tolist() == [lower_median(values, weights) for values in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", ["coordmedian", "trimmed_mean"])
def test_g9_a_single_contributor_is_copied_bit_for_bit(name: str) -> None:
    block = np.array([0x7FC00001, 0x80000000, 1], np.uint32).view(np.float32)
    assert merged(name, [block], [7]).tobytes() == block.tobytes()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["coordmedian", "trimmed_mean"])
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "unequal"])
def test_g58_a_minority_at_the_largest_value_cannot_leave_the_others_range(
    kind: np.dtype[Any], name: str, equal: bool
) -> None:
    top = {"bfloat16": 0x7F7F, "float16": 0x7BFF, "float32": 0x7F7F_FFFF, "float64": 0x7FEF_FFFF_FFFF_FFFF}[kind.name]
    bad = np.full(50, top, bits_of(kind)).view(kind)
    honest = [np.random.default_rng(k).standard_normal(50).astype(np.float32).astype(kind) for k in range(6)]
    weights = [2] * 7 if equal else [1, 2, 2, 2, 2, 2, 2]
    found = merged(name, [bad, *honest], weights).astype(np.float64)
    wide = [block.astype(np.float64) for block in honest]
    assert np.all((np.min(wide, axis=0) <= found) & (found <= np.max(wide, axis=0)))
    moved = merged("mean", [bad, *honest], weights).astype(np.float64)
    assert np.all(moved > np.max(wide, axis=0))


@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 4, 5]], ids=str)
def test_g58_float64_at_both_ends_does_not_overflow(weights: list[int]) -> None:
    top = np.finfo(np.float64).max
    blocks = [np.array([top, 5e-324, 1.0]), np.array([-top, 0.0, 2.0]), np.array([top, 5e-324, 3.0])]
    for trim in (0, 100_000):
        found = merged("trimmed_mean", blocks, weights, trim)
        assert np.isfinite(found).all()
        assert abs(found[0]) < top
    assert merged("coordmedian", [blocks[0], blocks[2]], [1, 1])[0] == top


# --- programs -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(deadline=None, max_examples=200)
def test_g50_a_program_finds_every_quantile_of_every_order(weights: list[int], data: st.DataObject) -> None:
    thresholds = tuple(data.draw(st.lists(st.integers(1, sum(weights)), min_size=1, max_size=3)))
    program = quantile_program(tuple(weights), thresholds)
    assert program is not None
    values = data.draw(
        st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=len(weights), max_size=len(weights))
    )
    inputs = [np.array(row, np.int32) for row in values]
    before = [block.copy() for block in inputs]
    scratch = np.empty((program.registers - program.inputs, 6), np.int32)
    found = [row.tolist() for row in run_program(program, inputs, scratch)]
    for threshold, row in zip(thresholds, found, strict=True):
        columns = [[Fraction(v) for v in column] for column in zip(*values, strict=True)]
        assert row == [quantile_at(column, weights, Fraction(threshold)) for column in columns]
    assert all(np.array_equal(one, two) for one, two in zip(inputs, before, strict=True)), "inputs are only read"


@pytest.mark.parametrize("count", range(1, 13))
def test_g50_the_sorting_network_sorts_every_sequence_of_zeros_and_ones(count: int) -> None:
    """The zero-one principle: then it sorts everything."""
    program = sorting_program(count, tuple(range(count)))
    assert program is not None
    table = np.array(list(itertools.product([0, 1], repeat=count)), np.int8).T.copy()
    scratch = np.empty((program.registers - count, table.shape[1]), np.int8)
    found = np.stack(run_program(program, list(table), scratch))
    assert np.array_equal(found, np.sort(table, axis=0))


def test_g50_medians_of_few_take_few_steps() -> None:
    """What the speed rests on; more steps than this would be a loss that no result shows."""
    most = {3: 4, 4: 10, 5: 12, 8: 36}
    for count, steps in most.items():
        half = count // 2
        program = quantile_program((1,) * count, (half, half + 1) if count % 2 == 0 else (half + 1,))
        assert program is not None
        assert len(program.steps) <= steps


def test_g50_a_dominating_weight_takes_no_step_at_all() -> None:
    program = quantile_program((1, 100, 1, 1), (52,))
    assert program is not None
    assert (program.steps, program.outputs) == ((), (1,))


@pytest.mark.parametrize("kind", [*FLOATS, np.dtype(np.int16)], ids=str)
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "unequal"])
@pytest.mark.parametrize("name", ["coordmedian", "trimmed_mean"])
def test_g53_sorting_gives_the_same_bits_as_programs(
    kind: np.dtype[Any], equal: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((7, 70_000)) * 3).round(1).astype(np.float32)
    blocks = [row.astype(kind) for row in values]
    weights = [1] * 7 if equal else [3, 1, 4, 1, 5, 9, 2]
    by_program = merged(name, blocks, weights)
    monkeypatch.setattr(quantile, "quantile_program", lambda *_: None)
    monkeypatch.setattr(trimmed, "sorting_program", lambda *_: None)
    assert merged(name, blocks, weights).tobytes() == by_program.tobytes()


@pytest.mark.parametrize("name", ["coordmedian", "trimmed_mean"])
@pytest.mark.parametrize("count", [2, 3, 15, 16, 17, 33, 70])
def test_g52_any_number_of_contributors_is_merged(name: str, count: int) -> None:
    rng = np.random.default_rng(count)
    blocks = [rng.standard_normal(20).astype(np.float32) for _ in range(count)]
    for weights in ([1] * count, rng.integers(1, 101, count).tolist()):
        found = merged(name, blocks, weights)
        for at in range(20):
            values = column(blocks, at)
            fifth = Fraction(1, 5)
            exact = exact_median(values, weights) if name == "coordmedian" else exact_trimmed(values, weights, fifth)
            assert abs(Fraction(float(found[at])) - exact) <= spacing(exact, found.dtype)


@pytest.mark.parametrize("name", ["coordmedian", "trimmed_mean"])
@pytest.mark.parametrize("kind", [np.dtype(np.float32), BFLOAT16, np.dtype(np.float64)], ids=str)
def test_g2_long_blocks_are_merged_alike_wherever_a_step_ends(name: str, kind: np.dtype[Any]) -> None:
    rng = np.random.default_rng(5)
    blocks = [rng.standard_normal(70_001).astype(np.float32).astype(kind) for _ in range(4)]
    for weights in ([1, 1, 1, 1], [1, 2, 4, 5]):
        whole = merged(name, blocks, weights)
        for cut in (1, 16_384, 65_536):
            parts = [merged(name, [b[:cut] for b in blocks], weights), merged(name, [b[cut:] for b in blocks], weights)]
            assert np.concatenate(parts).tobytes() == whole.tobytes()
