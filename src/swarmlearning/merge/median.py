"""The weighted median of each coordinate: a minority, whatever it offers, cannot move it past the others' values.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (2018).

Spec: docs/spec/merging.md, G-52 to G-54.
"""

from collections.abc import Sequence

from swarmlearning.merge.base import MergeMethod, ratio_of
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.quantile import make_zeros_positive, merge_exactly, quantiles
from swarmlearning.parameters.dtypes import Array


class CoordMedian(MergeMethod):
    """The value with half of the weight on either side; the mean of the two central ones where that is exact."""

    name = "coordmedian"

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        """Merge flat arrays of one type and length into `out`; see `MergeMethod.merge_block`."""
        ratio = ratio_of(weights)
        if merge_exactly(blocks, ratio, out):
            return
        total = sum(ratio)
        thresholds = (total // 2, total // 2 + 1) if total % 2 == 0 else (total // 2 + 1,)
        mean = Mean()
        for step, found in quantiles(blocks, ratio, thresholds):
            if found[0] is found[-1]:
                out[step] = found[0]
            else:
                mean.merge_block(found, [1, 1], out[step])
        make_zeros_positive(out)
