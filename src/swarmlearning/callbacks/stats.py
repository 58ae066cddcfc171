"""Statistics that all sites share for preprocessing, from sums and counts only.

Two rounds of plain averaging: first sums and counts, then sums of squared deviations from the agreed mean (a single
round of squares would lose all digits where the mean is large beside the spread). With a mean over n peers of sums and
of counts, their quotient is the pooled mean. What leaves a site: per number column the count, sum and sum of squared
deviations of its known values; per category column the count of each declared value. With two sites each can compute
the other's sums. Does no I/O: `session` carries the tensors.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.parameters.dtypes import Array

Number = Sequence[float] | NDArray[Any]
Category = tuple[Sequence[str | None], Sequence[str]]
"""Values (None or "" is missing) and the vocabulary that every site declares alike."""

MAX_COLUMNS: Final = 10_000


class AgreedStats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics over the rows of all contributing sites, by column name; missing values count nowhere."""

    count: Mapping[str, int]
    """Known values of each number column."""
    mean: Mapping[str, float]
    """0 where no site knows a value."""
    std: Mapping[str, float]
    """Over n, not n - 1; 0 where no site knows a value."""
    category_counts: Mapping[str, Mapping[str, int]]
    contributors: int
    """Sites whose rows are in it."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """One site's checked columns."""

    numbers: Mapping[str, NDArray[np.float64]]
    """Known values only."""
    categories: Mapping[str, Mapping[str, int]]
    """Counts by vocabulary."""

    def first(self) -> dict[str, Array]:
        """Tensors of the first round: counts and sums, float64."""
        return self._tensors({name: math.fsum(values) for name, values in self.numbers.items()})

    def second(self, mean: Mapping[str, float]) -> dict[str, Array]:
        """Tensors of the second round: counts again, and sums of squared deviations from the agreed means."""
        return self._tensors({n: math.fsum((values - mean[n]) ** 2) for n, values in self.numbers.items()})

    def _tensors(self, sums: Mapping[str, float]) -> dict[str, Array]:
        tensors: dict[str, Array] = {
            f"number/{name}": np.array([len(values), sums[name]], np.float64) for name, values in self.numbers.items()
        }
        for name, counts in self.categories.items():
            # The vocabulary is part of the name, so that sites which declare different ones are told so.
            digest = hashlib.sha256("\0".join(counts).encode()).hexdigest()[:16]
            tensors[f"category/{name}/{digest}"] = np.array(list(counts.values()), np.float64)
        return tensors

    def means(self, first: Mapping[str, Array]) -> dict[str, float]:
        """Pooled means from the first round's result."""
        return {name: _quotient(first[f"number/{name}"]) for name in self.numbers}

    def agreed(self, first: Mapping[str, Array], second: Mapping[str, Array], contributors: int) -> AgreedStats:
        """The agreed statistics from both results.

        Raises:
            Unreachable: not the same sites took part in both rounds.
        """
        for name in first:
            mine, other = first[name], second[name]
            known, again = (mine[:1], other[:1]) if name.startswith("number/") else (mine, other)
            if not np.array_equal(known, again):
                raise Unreachable(
                    f"statistics: a site that took part in the first round was not in the second (counts of {name!r} "
                    "differ): start all sites again in a new run of the contract"
                )
        counts: dict[str, dict[str, int]] = {}
        tensors = self.first()
        for key in tensors:
            if key.startswith("category/"):
                name = key.removeprefix("category/").rpartition("/")[0]
                totals = (round(float(value) * contributors) for value in first[key])
                counts[name] = dict(zip(self.categories[name], totals, strict=True))
        return AgreedStats(
            count={n: round(float(first[f"number/{n}"][0]) * contributors) for n in self.numbers},
            mean=self.means(first),
            std={n: math.sqrt(max(0.0, _quotient(second[f"number/{n}"]))) for n in self.numbers},
            category_counts=counts,
            contributors=contributors,
        )


def _quotient(pair: Array) -> float:
    count, total = float(pair[0]), float(pair[1])
    return total / count if count > 0 else 0.0


def parse_columns(numeric: Mapping[str, Number], categories: Mapping[str, Category]) -> Columns:
    """Check one site's columns.

    Args:
        numeric: values by column name; NaN is missing.
        categories: values and vocabulary by column name; None and "" are missing.

    Raises:
        ConfigurationError: a column is not of numbers, holds infinity or a value outside its vocabulary, or there
            is none.
    """
    if not 1 <= len(numeric) + len(categories) <= MAX_COLUMNS:
        raise ConfigurationError(
            f"statistics of {len(numeric) + len(categories)} columns: expected 1-{MAX_COLUMNS} columns"
        )
    return Columns(
        numbers={name: _parse_number(name, values) for name, values in numeric.items()},
        categories={name: _count_values(name, *given) for name, given in categories.items()},
    )


def _parse_number(name: str, values: Number) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"column {name!r} is not of numbers ({error}); missing values must be NaN") from error
    known = array[~np.isnan(array)]
    if not np.isfinite(known).all():
        raise ConfigurationError(f"column {name!r} holds infinity; missing values must be NaN")
    return known


def _count_values(name: str, values: Sequence[str | None], vocabulary: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(vocabulary, 0)
    if len(counts) != len(vocabulary) or not counts or "" in counts:
        raise ConfigurationError(f"column {name!r}: its vocabulary must hold each value once, and no empty one")
    for value in values:
        if value is None or value == "":
            continue
        if value not in counts:
            raise ConfigurationError(
                f"column {name!r} holds {value!r}, which is not in its vocabulary "
                f"({', '.join(map(repr, list(counts)[:12]))}): correct the data or declare the value at every site"
            )
        counts[value] += 1
    return counts
