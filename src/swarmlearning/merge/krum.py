"""Krum and Multi-Krum: of all contributors the one, or the few, that lie closest to their nearest neighbours.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent"
(2017). The number of those averaged follows Damaskinos et al., "AggregaThor" (2019): at most n - f - 2.

Spec: docs/spec/merging.md, G-70 to G-73.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from swarmlearning.merge.base import UNIT, Float64, MergeMethod, Needs, Option, shrink_weights

_MOST: Final = 1024 * UNIT
"""Options count contributors."""


class Krum(MergeMethod):
    """Picks one contributor. Weights do not count: the method defines none."""

    name = "krum"
    needs: Needs = "distances"
    takes: ClassVar[Mapping[str, Option]] = {"faulty": Option(0, _MOST, None, is_whole=True)}

    def weigh(self, distances: Float64, weights: Sequence[int]) -> list[int]:
        """Give the chosen one the weight 1; see `MergeMethod.weigh`."""
        best = rank_by_krum(distances, self.faulty(len(weights)))[0]
        return [int(k == best) for k in range(len(weights))]

    def faulty(self, count: int) -> int:
        """How many of `count` contributors may be dishonest: as given, but at most the largest f with n >= 2f + 3."""
        most = max((count - 3) // 2, 0)
        given = self.option("faulty")
        return most if given is None else min(given // UNIT, most)


class MultiKrum(Krum):
    """Averages the few best, with their weights."""

    name = "multi_krum"
    takes: ClassVar[Mapping[str, Option]] = {**Krum.takes, "select": Option(UNIT, _MOST, None, is_whole=True)}

    def weigh(self, distances: Float64, weights: Sequence[int]) -> list[int]:
        """Leave the chosen ones their weights; see `MergeMethod.weigh`."""
        count = len(weights)
        faulty = self.faulty(count)
        given = self.option("select")
        select = max(count - faulty - 2, 1) if given is None else min(given // UNIT, count)
        chosen = set(rank_by_krum(distances, faulty)[:select])
        return shrink_weights([weight if k in chosen else 0 for k, weight in enumerate(weights)])


def rank_by_krum(distances: Float64, faulty: int) -> list[int]:
    """Contributors by the sum of squared distances to their n - f - 2 nearest others (at least one), best first.

    Sums go from the nearest on; equal ones stand in the order of contributors.
    """
    count = len(distances)
    nearest = min(max(count - faulty - 2, 1), count - 1)
    scores = []
    for own, row in enumerate(distances.tolist()):
        others = sorted(distance for other, distance in enumerate(row) if other != own)
        score = 0.0
        for distance in others[:nearest]:
            score += distance
        scores.append(score)
    return sorted(range(count), key=lambda k: (scores[k], k))
