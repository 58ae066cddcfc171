"""The mean, followed by a step with momentum from the newest result: federated averaging with server momentum.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification" (2019),
in its heavy-ball form: x' = x + rate * (mean - x) + momentum * (x - x_before). The two newest results, which every peer
holds and the ledger names, are all its state.

Spec: docs/spec/merging.md, G-80 to G-83.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from swarmlearning.merge.base import UNIT, Option
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.quantile import steps
from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.rounding import round_to_bfloat16

_STEP: Final = 8192


class FedAvgM(Mean):
    """The mean with outer momentum."""

    name = "fedavgm"
    needs = "history"
    takes: ClassVar[Mapping[str, Option]] = {
        "momentum": Option(0, UNIT - 1, UNIT * 9 // 10),
        "rate": Option(1, 10 * UNIT, UNIT),
    }

    def step_block(self, mean: Array, base: Array, previous: Array | None, out: Array) -> None:
        """Write the outer step; see `MergeMethod.step_block`."""
        rate, momentum = self.option("rate") or 0, self.option("momentum") or 0
        is_floating = out.dtype.kind == "f" or out.dtype == BFLOAT16
        if not is_floating or (rate == UNIT and (previous is None or not momentum)):
            out[...] = mean
            return
        with np.errstate(all="ignore"):  # what overflows is put right below
            for step in steps(len(out), _STEP):
                newest, target = base[step].astype(np.float64), mean[step]
                moved = target.astype(np.float64)
                np.subtract(moved, newest, out=moved)
                np.multiply(moved, rate / UNIT, out=moved)
                np.add(newest, moved, out=moved)
                if previous is not None and momentum:
                    np.subtract(newest, previous[step], out=newest, casting="unsafe")
                    np.multiply(newest, momentum / UNIT, out=newest)
                    np.add(moved, newest, out=moved)
                stepped = round_to_bfloat16(moved) if out.dtype == BFLOAT16 else moved.astype(out.dtype)
                is_finite = np.isfinite(stepped)
                out[step] = stepped if is_finite.all() else np.where(is_finite, stepped, target)
