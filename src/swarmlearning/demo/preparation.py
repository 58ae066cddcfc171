"""From patients to the numbers a network is fed: standardise, fill gaps, one-hot. Needs only sums and counts.

Does not know where the statistics come from: a hospital on its own uses `local_statistics` of its training rows, the
swarm uses what `SwarmSession.agree_stats` returns, and both go through the same `encode_rows`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.rows import MISSING, Column, Kind, Rows


class Statistics(Protocol):
    """What preparation needs to know of the training rows, by column name; missing values count nowhere."""

    @property
    def mean(self) -> Mapping[str, float]:
        """Mean of each number column."""
        ...

    @property
    def std(self) -> Mapping[str, float]:
        """Standard deviation of each number column (over n, not n - 1)."""
        ...

    @property
    def category_counts(self) -> Mapping[str, Mapping[str, int]]:
        """How often each value of each category column occurs."""
        ...


@dataclass(frozen=True)
class LocalStatistics:
    """`Statistics` of rows that lie in one place."""

    mean: Mapping[str, float]
    std: Mapping[str, float]
    category_counts: Mapping[str, Mapping[str, int]]


def local_statistics(rows: Rows) -> LocalStatistics:
    """Statistics of `rows` alone; a column without any value has mean 0 and standard deviation 0."""
    mean: dict[str, float] = {}
    std: dict[str, float] = {}
    counts: dict[str, dict[str, int]] = {}
    for column in rows.columns:
        if column.kind is Kind.NUMBER:
            known = rows.numbers[column.name]
            known = known[~np.isnan(known)]
            mean[column.name] = float(known.mean()) if len(known) else 0.0
            std[column.name] = float(known.std()) if len(known) else 0.0
        else:
            values = rows.categories[column.name]
            counts[column.name] = {value: values.count(value) for value in column.vocabulary}
    return LocalStatistics(mean=mean, std=std, category_counts=counts)


def feature_names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    """Names of the inputs that `encode_rows` makes, in order."""
    names: list[str] = []
    for column in columns:
        if column.kind is Kind.NUMBER:
            names.append(column.name)
        else:
            names.extend(f"{column.name}={value}" for value in column.vocabulary)
        if column.gaps:
            names.append(f"{column.name} missing")
    return tuple(names)


def encode_rows(rows: Rows, statistics: Statistics) -> NDArray[np.float32]:
    """The inputs of `rows`: float32, one row a patient, columns as `feature_names` says.

    Numbers: (x - mean) / std, a gap becomes 0, which is the mean, and so does a column that never
    varied. Categories: one-hot minus the share of each value,
    a gap becomes all 0, which again is the mean. Columns with gaps add a column that is 1 where the value is missing.
    """
    parts: list[NDArray[np.float64]] = []
    for column in rows.columns:
        if column.kind is Kind.NUMBER:
            values = rows.numbers[column.name]
            missing = np.isnan(values)
            std = statistics.std[column.name]
            if std > 0:
                parts.append(np.where(missing, 0.0, (values - statistics.mean[column.name]) / std)[:, None])
            else:
                # It never varied in training (or was never measured), so no model learnt what to do with it; raw
                # values would swamp the inputs that were scaled.
                parts.append(np.zeros((len(rows), 1)))
        else:
            texts = np.array(rows.categories[column.name])
            missing = texts == MISSING
            counts = statistics.category_counts[column.name]
            total = sum(counts[value] for value in column.vocabulary) or 1
            shares = np.array([counts[value] / total for value in column.vocabulary])
            hot = (texts[:, None] == np.array(column.vocabulary)[None, :]).astype(np.float64)
            parts.append(np.where(missing[:, None], 0.0, hot - shares))
        if column.gaps:
            parts.append(missing.astype(np.float64)[:, None])
    return np.concatenate(parts, axis=1).astype(np.float32)
