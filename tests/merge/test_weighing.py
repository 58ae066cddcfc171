"""krum, multi_krum and geomedian, from distances to weights (docs/spec/merging.md, G-70 to G-79)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.errors import Broken
from swarmlearning.merge.base import MAX_WEIGHT_SUM, Float64, shrink_weights
from swarmlearning.merge.method import merge_method

MILLION = 1_000_000


def distances_of(points: Float64) -> Float64:
    squared: Float64 = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    return squared


def weigh(name: str, points: Float64, weights: Sequence[int], **options: int) -> list[int]:
    given = tuple((key, value * MILLION) for key, value in options.items())
    found = merge_method(name, given).weigh(distances_of(points), weights)
    assert len(found) == len(weights)
    assert min(found) >= 0
    assert 1 <= sum(found) <= MAX_WEIGHT_SUM
    return found


def mixed(points: Float64, weights: Sequence[int]) -> Float64:
    shares = np.array(weights) / sum(weights)
    point: Float64 = (shares[:, None] * points).sum(axis=0)
    return point


def cost(points: Float64, weights: Sequence[int], at: Float64) -> float:
    return float((np.array(weights) * np.linalg.norm(points - at, axis=1)).sum())


def optimise(points: Float64, weights: Sequence[int]) -> float:
    """The least weighted sum of distances, by a generic descent that knows nothing of Weiszfeld: compass search."""
    starts = [*points, np.average(points, axis=0, weights=weights), np.median(points, axis=0)]
    at = min(starts, key=lambda start: cost(points, weights, start))
    best, step = cost(points, weights, at), float(np.abs(points - at).max()) or 1.0
    rng = np.random.default_rng(0)
    while step > 1e-9:
        moves = [*np.eye(points.shape[1]), *rng.standard_normal((8, points.shape[1]))]
        tried = [at + sign * step * move / np.linalg.norm(move) for move in moves for sign in (1, -1)]
        following = min(tried, key=lambda point: cost(points, weights, point))
        if cost(points, weights, following) < best:
            at, best = following, cost(points, weights, following)
        else:
            step /= 2
    return best


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Float64, list[int]]:
    count, dimensions = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    points = rng.standard_normal((count, dimensions)) * 10.0 ** draw(st.integers(-6, 6))
    if draw(st.booleans()):  # on a grid: identical points, points in line, optima on a point
        points = rng.integers(-2, 3, (count, dimensions)).astype(np.float64)
    return points, draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))


@given(clouds())
@settings(deadline=None, max_examples=60)
def test_g75_g78_no_point_has_a_smaller_sum_of_distances(cloud: tuple[Float64, list[int]]) -> None:
    points, weights = cloud
    found = cost(points, weights, mixed(points, weigh("geomedian", points, weights)))
    extent = float(np.abs(points).max())
    assert found <= optimise(points, weights) * (1 + 1e-7) + extent * 1e-8


def test_g78_three_corners_meet_under_equal_angles() -> None:
    """Fermat's point: the three directions to the corners add up to nothing."""
    points = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]])
    at = mixed(points, weigh("geomedian", points, [1, 1, 1]))
    directions = (points - at) / np.linalg.norm(points - at, axis=1)[:, None]
    assert np.abs(directions.sum(axis=0)).max() < 1e-6


def test_g77_an_optimum_on_a_contributor_is_that_contributor_exactly() -> None:
    points = np.array([[-3.0, 0.0], [0.0, 0.0], [5.0, 0.1], [0.0, 7.0]])
    assert weigh("geomedian", points, [1, 2, 1, 1]) == [0, 1, 0, 0]
    assert weigh("geomedian", np.array([[0.0], [1.0], [9.0]]), [3, 7, 3]) == [0, 1, 0]


def test_g77_two_equals_and_four_in_line_are_met_halfway() -> None:
    assert weigh("geomedian", np.array([[0.0, 1.0], [2.0, 5.0]]), [4, 4]) == [1, 1]
    assert weigh("geomedian", np.array([[0.0], [1.0], [3.0], [9.0]]), [1, 1, 1, 1]) == [0, 1, 1, 0]
    assert weigh("geomedian", np.array([[0.0, 1.0], [2.0, 5.0]]), [4, 5]) == [0, 1]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_g77_identical_contributors_share_by_their_weights(count: int) -> None:
    weights = [3 * k + 3 for k in range(count)]
    assert weigh("geomedian", np.zeros((count, 2)), weights) == [k + 1 for k in range(count)]


@pytest.mark.parametrize("exponent", [3, 5, 6, 7, 12, 30, 100, 140])
def test_g76_a_minority_far_away_moves_the_geometric_median_within_the_others(exponent: int) -> None:
    rng = np.random.default_rng(exponent)
    honest = rng.standard_normal((6, 5))
    bad = rng.standard_normal((4, 5)) * 10.0**exponent
    points = np.concatenate([bad, honest])
    at = mixed(points, weigh("geomedian", points, [1] * 10))
    spread = np.sqrt(distances_of(honest)).max()
    # Lopuhaa and Rousseeuw: within 2 (1 - a) / (1 - 2 a) of the honest, for a share a.
    assert np.linalg.norm(at - honest.mean(axis=0)) <= 2 * 0.6 / 0.2 * spread
    assert np.linalg.norm(mixed(points, [1] * 10) - honest.mean(axis=0)) > 10.0 ** (exponent - 2)


@pytest.mark.parametrize("exponent", [8, 12, 30, 140])
def test_g76_conspirators_too_far_away_to_be_measured_are_left_out(exponent: int) -> None:
    """Their distances to the honest are all the same number: nothing could be learned from them but noise."""
    rng = np.random.default_rng(exponent)
    honest = rng.standard_normal((6, 5))
    points = np.concatenate([np.full((4, 5), 10.0**exponent), honest])
    found = weigh("geomedian", points, [1] * 10)
    assert found[:4] == [0] * 4
    assert all(weight > MAX_WEIGHT_SUM // 100 for weight in found[4:])
    near = np.concatenate([np.full((4, 5), 1e5), honest])
    assert all(weight > 0 for weight in weigh("geomedian", near, [1] * 10))


def test_g76_half_at_the_largest_distance_is_not_the_end_of_arithmetic() -> None:
    most = math.ldexp(1.0, 1000)
    matrix = np.full((4, 4), most)
    np.fill_diagonal(matrix, 0)
    found = merge_method("geomedian").weigh(matrix, [1, 1, 1, 1])
    assert len(set(found)) == 1
    for name in ("krum", "multi_krum"):
        assert sum(merge_method(name).weigh(matrix, [1, 1, 1, 1])) >= 1


def test_g79_figures_that_no_points_have_give_weights_all_the_same() -> None:
    """A dishonest leader may submit any matrix: what comes out is still n weights."""
    rng = np.random.default_rng(4)
    for trial in range(200):
        count = int(rng.integers(1, 12))
        upper = np.triu(10.0 ** rng.integers(-300, 300, (count, count)) * rng.integers(0, 2, (count, count)), 1)
        matrix = np.minimum(upper + upper.T, math.ldexp(1.0, 1000))
        weights = rng.integers(1, 101, count).tolist()
        for name in ("geomedian", "krum", "multi_krum"):
            found = merge_method(name).weigh(matrix, weights)
            assert len(found) == count, trial
            assert min(found) >= 0
            assert 1 <= sum(found) <= MAX_WEIGHT_SUM


@given(clouds(), st.randoms())
@settings(deadline=None, max_examples=60)
def test_g75_another_order_of_contributors_only_rounds_otherwise(cloud: tuple[Float64, list[int]], random: Any) -> None:
    points, weights = cloud
    order = list(range(len(points)))
    random.shuffle(order)
    one = cost(points, weights, mixed(points, weigh("geomedian", points, weights)))
    turned = weigh("geomedian", points[order], [weights[k] for k in order])
    two = cost(points, weights, mixed(points[order], turned))
    assert one == pytest.approx(two, rel=1e-7, abs=float(np.abs(points).max()) * 1e-8)


# --- Krum -----------------------------------------------------------------------------------------------------------


def naive_scores(points: Float64, faulty: int) -> list[float]:
    count = len(points)
    squared = distances_of(points)
    nearest = max(count - faulty - 2, 1)
    return [sum(sorted(squared[k][j] for j in range(count) if j != k)[:nearest]) for k in range(count)]


@given(st.integers(1, 12), st.integers(0, 2**32), st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_g70_g71_krum_takes_the_one_nearest_to_its_neighbours(count: int, seed: int, faulty: int) -> None:
    points = np.random.default_rng(seed).standard_normal((count, 3))
    most = max((count - 3) // 2, 0)
    scores = naive_scores(points, min(faulty, most))
    best = scores.index(min(scores))
    assert weigh("krum", points, [5] * count, faulty=faulty) == [int(k == best) for k in range(count)]
    scores = naive_scores(points, most)
    assert weigh("krum", points, [5] * count)[scores.index(min(scores))] == 1


@given(st.integers(1, 10), st.integers(0, 2**32), st.randoms())
@settings(deadline=None, max_examples=60)
def test_g70_the_order_of_contributors_does_not_change_whom_krum_takes(count: int, seed: int, random: Any) -> None:
    points = np.random.default_rng(seed).integers(-50, 50, (count, 3)).astype(np.float64)
    scores = naive_scores(points, max((count - 3) // 2, 0))
    if len(set(scores)) < count:
        return
    order = list(range(count))
    random.shuffle(order)
    assert order[weigh("krum", points[order], [1] * count).index(1)] == weigh("krum", points, [1] * count).index(1)


def test_g72_multi_krum_leaves_the_chosen_their_weights() -> None:
    points = np.array([[0.0], [1.0], [1.5], [2.5], [50.0], [90.0], [3.0]])
    # f = 2: the n - f - 2 = 3 with the lowest scores.
    scores = naive_scores(points, 2)
    chosen = sorted(range(7), key=lambda k: scores[k])[:3]
    weights = [10, 20, 30, 40, 50, 60, 70]
    assert weigh("multi_krum", points, weights) == [(w // 10 if k in chosen else 0) for k, w in enumerate(weights)]
    assert weigh("multi_krum", points, weights, select=99) == [1, 2, 3, 4, 5, 6, 7]
    assert sum(w > 0 for w in weigh("multi_krum", points, weights, select=1)) == 1
    assert sum(w > 0 for w in weigh("multi_krum", points, weights, faulty=0)) == 5


def test_g73_equal_scores_go_to_the_first() -> None:
    assert weigh("krum", np.zeros((5, 1)), [1, 9, 9, 9, 9]) == [1, 0, 0, 0, 0]
    assert weigh("krum", np.array([[0.0], [4.0]]), [1, 9]) == [1, 0]
    assert weigh("multi_krum", np.zeros((5, 1)), [7] * 5, select=2) == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("name", ["krum", "multi_krum"])
def test_g71_a_minority_far_away_is_not_chosen(name: str) -> None:
    rng = np.random.default_rng(2)
    points = np.concatenate([np.full((2, 4), 1e30), rng.standard_normal((5, 4))])
    assert weigh(name, points, [100, 100, 1, 1, 1, 1, 1])[:2] == [0, 0]


def test_g8_weights_are_made_small_enough_and_none_is_lost() -> None:
    assert shrink_weights([200, 0, 300]) == [2, 0, 3]
    huge = shrink_weights([1 << 31, 0, 1, 1 << 30])
    assert sum(huge) <= MAX_WEIGHT_SUM
    assert huge[1] == 0
    assert huge[2] == 1
    assert huge[0] == pytest.approx(2 * huge[3], rel=1e-6)
    with pytest.raises(Broken, match="no contributor"):
        shrink_weights([0, 0])


@pytest.mark.parametrize("name", ["krum", "multi_krum", "geomedian"])
def test_g8_a_method_that_weighs_does_not_merge_and_the_others_do_not_weigh(name: str) -> None:
    with pytest.raises(Broken, match="does not merge arrays"):
        merge_method(name).merge_block([np.zeros(1)], [1], np.zeros(1))
    with pytest.raises(Broken, match="does not weigh"):
        merge_method("coordmedian").weigh(np.zeros((1, 1)), [1])
    with pytest.raises(Broken, match="does not use earlier results"):
        merge_method(name).step_block(np.zeros(1), np.zeros(1), None, np.zeros(1))
