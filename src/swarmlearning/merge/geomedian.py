"""The weighted geometric median: the point with the least weighted sum of distances to all contributors.

Weiszfeld's iteration in the form of Vardi and Zhang, "The multivariate L1-median and associated data depth" (2000).
Every iterate is a mix of contributors, x = sum(a_i * x_i), so their pairwise distances are all that it needs:
|x - x_i|^2 = (D a)_i - (a' D a) / 2. Sums are folded by halves: the same bits on every machine.

Does not: see parameters. Spec: docs/spec/merging.md, G-75 to G-79.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from swarmlearning.merge.base import MAX_WEIGHT_SUM, Float64, MergeMethod, Needs, fold, shrink_weights

ITERATIONS: Final = 1000
"""Most iterations."""

SETTLED: Final = math.ldexp(1.0, -36)
"""The iteration ends when no share of the mix changes by more."""

FAR: Final = math.ldexp(1.0, 40)
"""Squared ratio of distances: those further from the medoid than 2^20 times its typical distance are left out. Shares
of theirs that are not zero would be lost in rounding, and their distances say nothing about the others' any more."""

_NOISE: Final = math.ldexp(1.0, -40)
"""Relative: squared distances below it are rounding."""


class GeoMedian(MergeMethod):
    """Weiszfeld's iteration on the contributors' distances."""

    name = "geomedian"
    needs: Needs = "distances"

    def weigh(self, distances: Float64, weights: Sequence[int]) -> list[int]:
        """The mix that is the geometric median, in integers; see `MergeMethod.weigh`."""
        with np.errstate(all="ignore"):  # a matrix that no points have may overflow; the mix is looked at
            return self._weigh(distances, weights)

    def _weigh(self, distances: Float64, weights: Sequence[int]) -> list[int]:
        count = len(weights)
        total = sum(weights)
        given = np.array([weight / total for weight in weights])
        roots = np.sqrt(distances)
        sums = fold(roots * given)
        medoid = int(sums.argmin())
        # Half of the weight at most lies further away than this.
        typical = _lower_quantile(roots[medoid], weights)
        is_near = distances[medoid] <= FAR * (typical * typical) if typical > 0 else np.ones(count, dtype=np.bool_)
        near = np.flatnonzero(is_near)
        at = int(np.searchsorted(near, medoid))
        shares = given[near] / fold(given[near][np.newaxis])[0]
        among = distances[np.ix_(near, near)]
        start = _leave_medoid(among, shares, at)
        settled = None if start is None else _iterate(among, shares, start)
        if settled is None or not np.isfinite(settled).all():
            # No other mix is better. Contributors as good as the medoid share its place: with two equals, both.
            tied = sums <= sums[medoid] * (1 + _NOISE)
            return shrink_weights([weight if tied[k] else 0 for k, weight in enumerate(weights)])
        mix = np.zeros(count)
        mix[near] = settled
        scale = float(MAX_WEIGHT_SUM - count)
        return [int(share) for share in np.floor(mix * scale + 0.5).tolist()]


def _lower_quantile(values: Float64, weights: Sequence[int]) -> float:
    """The weighted lower median."""
    reached = 0
    for value, weight in sorted(zip(values.tolist(), weights, strict=True)):
        reached += weight
        if 2 * reached >= sum(weights):
            return float(value)
    return math.inf  # weights are positive: never reached


def _leave_medoid(distances: Float64, shares: Float64, medoid: int) -> Float64 | None:
    """One step of Vardi and Zhang from the medoid; None if it is the geometric median.

    That is the only contributor that can be it, and the step goes below its sum of distances: no later iterate lies on
    a contributor.
    """
    from_medoid = distances[medoid]
    others = np.flatnonzero(from_medoid > 0)
    there = 1.0 - fold(shares[others][np.newaxis])[0] if len(others) else 1.0
    if not len(others):
        return None
    lengths = np.sqrt(from_medoid[others])
    # Unit vectors from the medoid to the others: from their scalar products, how hard they pull.
    products = from_medoid[others][:, np.newaxis] + from_medoid[others] - distances[np.ix_(others, others)]
    cosines = np.clip(products / lengths[:, np.newaxis] / lengths / 2, -1.0, 1.0)
    pulls = shares[others]
    pull = math.sqrt(max(fold((fold(cosines * pulls) * pulls)[np.newaxis])[0], 0.0))
    if pull <= there * (1 + 2 * _NOISE):
        return None
    keep = there / pull
    towards = pulls / lengths
    mix = np.zeros(len(shares))
    mix[others] = (1 - keep) * (towards / fold(towards[np.newaxis])[0])
    mix[medoid] = keep
    return mix


def _iterate(distances: Float64, shares: Float64, mix: Float64) -> Float64:
    """Weiszfeld's iteration until the mix is settled."""
    for _ in range(ITERATIONS):
        spread = fold(distances * mix)
        within = fold((spread * mix)[np.newaxis])[0] / 2
        squared = np.maximum(spread - within, spread * _NOISE)
        pulls = shares / np.sqrt(squared)
        following = pulls / fold(pulls[np.newaxis])[0]
        moved = float(np.abs(following - mix).max())
        mix = following
        if moved <= SETTLED:
            break
    return mix
