"""Patients as named columns, before any scaling: what a hospital's own file says, with gaps left as gaps."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MISSING = ""
"""How a category that was not recorded is written; a missing number is NaN."""


class Kind(enum.Enum):
    """What a column holds."""

    NUMBER = "number"
    CATEGORY = "category"


@dataclass(frozen=True)
class Column:
    """One feature as all hospitals know it before they meet: its name, kind, and the values a category may take."""

    name: str
    kind: Kind
    vocabulary: tuple[str, ...] = ()
    gaps: bool = False
    """Values are really missing in some hospital, so that "was it measured?" is a feature of its own."""


@dataclass(frozen=True)
class Rows:
    """Some patients of one hospital.

    `numbers` holds one float64 array per number column (NaN where missing), `categories` one tuple of strings per
    category column (`MISSING` where missing), `labels` 1 for sick and 0 for healthy; all of one length.
    """

    columns: tuple[Column, ...]
    numbers: Mapping[str, NDArray[np.float64]]
    categories: Mapping[str, tuple[str, ...]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int]) -> "Rows":
        """The patients at `indices`, in that order."""
        return Rows(
            columns=self.columns,
            numbers={name: values[list(indices)] for name, values in self.numbers.items()},
            categories={name: tuple(values[i] for i in indices) for name, values in self.categories.items()},
            labels=self.labels[list(indices)],
        )


@dataclass(frozen=True)
class Split:
    """A hospital's rows for one seed, each in one part only."""

    train: Rows
    watch: Rows
    """Held out of training to watch the loss by; nothing is chosen with them."""
    test: Rows


def join_rows(parts: Sequence[Rows]) -> Rows:
    """All patients of several hospitals, in order; only the outside observer of the demo may see such a thing."""
    first = parts[0]
    return Rows(
        columns=first.columns,
        numbers={name: np.concatenate([part.numbers[name] for part in parts]) for name in first.numbers},
        categories={name: sum((part.categories[name] for part in parts), ()) for name in first.categories},
        labels=np.concatenate([part.labels for part in parts]),
    )
