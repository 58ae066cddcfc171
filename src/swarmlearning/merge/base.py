"""What a merge method is: its name, its options, what it needs, and what it does with arrays or distances.

Plug-ins derive from `MergeMethod` too. Does not: say which methods there are (`merge.method`), know rounds, peers or
files. Spec: docs/spec/merging.md, G-1 to G-9.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np

from swarmlearning.errors import Broken, ConfigurationError
from swarmlearning.parameters.dtypes import Array
from swarmlearning.types import decimal

Float64 = np.ndarray[Any, np.dtype[np.float64]]

Needs = Literal["", "distances", "history"]
"""What a method needs beside the elements that it merges: nothing; the contributors' pairwise distances; the two
newest results."""

Options = tuple[tuple[str, int], ...]
"""By name, rising, in millionths."""

UNIT: Final = 1_000_000
"""Options travel as integers in millionths: the ledger has no fractions."""

MAX_WEIGHT_SUM: Final = 1 << 29
"""Largest sum of the weights that a distance method gives."""


class Option(NamedTuple):
    """One option of a method: from where to where it may go, in millionths."""

    lowest: int
    highest: int
    default: int | None
    """None: follows from the number of contributors."""
    is_whole: bool = False
    """Only multiples of a million."""


class MergeMethod:
    """Arrays of several contributors in, one array out; or distances between contributors in, weights out.

    A method that needs nothing, or history, overrides `merge_block`; one that needs distances, `weigh`; one that needs
    history, `step_block` too.
    """

    name: str = ""
    """As settings and the ledger have it: lower case."""
    needs: Needs = ""
    source: str = ""
    """Of a plug-in: distribution, version and hash of its files; empty for a built-in method."""
    takes: ClassVar[Mapping[str, Option]] = {}
    """Its options, by name."""

    def __init__(self, options: Options = ()) -> None:
        """Check and keep the options.

        Raises:
            ConfigurationError: an option that the method does not take, given twice, or out of range.
        """
        self.options: Options = check_options(self.name, options, self.takes)

    def option(self, name: str) -> int | None:
        """An option's value in millionths, its default if it was not given."""
        return dict(self.options).get(name, self.takes[name].default)

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        """Merge flat arrays of one type and length into `out`.

        Args:
            blocks: one a contributor, in node-id order, native byte order; to be read only.
            weights: one a contributor, at least 1 each.
            out: of the same type and length; not one of `blocks`.

        Raises:
            Broken: the type is not one that a model may have, or the method does not merge arrays.
        """
        del blocks, weights, out
        raise Broken(f"merge method {self.name} does not merge arrays by itself")

    def weigh(self, distances: Float64, weights: Sequence[int]) -> list[int]:
        """Weigh the contributors by how far they are from each other.

        Args:
            distances: n x n, squared, over all floating tensors of the model; symmetric, zero on the diagonal, at
                most 2^1000.
            weights: one a contributor, at least 1 each.

        Returns:
            One integer a contributor, 0 for those left out, in all 1 to 2^29: the shards are merged by `mean` with
            these weights.

        Raises:
            Broken: the method does not weigh.
        """
        del distances, weights
        raise Broken(f"merge method {self.name} does not weigh contributors")

    def step_block(self, mean: Array, base: Array, previous: Array | None, out: Array) -> None:
        """Write what follows from the mean of the contributors and the two newest results.

        Args:
            mean: merged by `merge_block`, flat.
            base: the newest result, of the same type and length.
            previous: the result before that; None: there is none.
            out: of the same type and length; may be `mean`.

        Raises:
            Broken: the method does not use history.
        """
        del mean, base, previous, out
        raise Broken(f"merge method {self.name} does not use earlier results")


def check_options(method: str, options: Options, takes: Mapping[str, Option]) -> Options:
    """The options sorted by name.

    Raises:
        ConfigurationError: unknown to the method, given twice, or out of range.
    """
    known = ", ".join(takes) or "none"
    names = [name for name, _ in options]
    for name, value in options:
        if name not in takes:
            raise ConfigurationError(f"merge method {method!r} has no option {name[:40]!r}; it takes: {known}")
        if names.count(name) > 1:
            raise ConfigurationError(f"merge method {method!r}: option {name} is given {names.count(name)} times")
        lowest, highest, _, is_whole = takes[name]
        if not lowest <= value <= highest or (is_whole and value % UNIT):
            kind = "a whole number" if is_whole else "a number"
            raise ConfigurationError(
                f"merge method {method!r}: option {name} is {decimal(value)}; "
                f"expected {kind} from {decimal(lowest)} to {decimal(highest)}"
            )
    return tuple(sorted(options))


def ratio_of(weights: Sequence[int]) -> list[int]:
    """Weights in their smallest integers: only their ratio counts, to the last bit. One is above 0."""
    divisor = math.gcd(*weights)
    return [weight // divisor for weight in weights]


def shrink_weights(weights: Sequence[int]) -> list[int]:
    """Weights in their smallest integers, scaled down if they exceed 2^29 in all; none becomes 0 that was not.

    Raises:
        Broken: no weight is above 0.
    """
    if not any(weights):
        raise Broken("no contributor has a weight")
    smallest = ratio_of(weights)
    total = sum(smallest)
    if total <= MAX_WEIGHT_SUM:
        return smallest
    room = MAX_WEIGHT_SUM - len(smallest)
    return [max(weight * room // total, 1) if weight else 0 for weight in smallest]


def fold(rows: Float64) -> Float64:
    """The sum of each row: its second half is added to the first until one column is left."""
    width = rows.shape[1]
    if width == 1:
        return rows[:, 0].copy()
    sums: Float64 = rows
    while width > 1:
        half = (width + 1) // 2
        folded = sums[:, :half].copy()
        folded[:, : width - half] += sums[:, half:width]
        sums, width = folded, half
    return sums[:, 0]
