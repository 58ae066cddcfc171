"""Loss and metric on the validation data, as they may go on the ledger.

Does not measure: `keras_model` and `torch_model` do.
"""

import math
from typing import Final, Literal

import msgspec

from swarmlearning.contracts.records import MICRO, Settings

LARGEST: Final = 1e12
"""Larger figures are not given; in millionths they would no longer fit 64 bits."""

MAX_METRIC_NAME: Final = 64


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the model scored; None where it was not measured."""

    loss: float | None = None
    metric: float | None = None
    metric_name: str = ""


def figures_needed(settings: Settings) -> dict[str, Literal["loss", "metric"]]:
    """The callback's arguments that need a figure of the merged model, and which (T-35, T-36)."""
    target = settings.target
    needed: dict[str, Literal["loss", "metric"]] = {}
    if settings.adaptive is not None:
        needed["useAdaptiveSync"] = "loss"
    if target is not None and target.loss_micro is not None:
        needed["targetLoss"] = "loss"
    if target is not None and target.metric_micro is not None:
        needed["targetMetric"] = "metric"
    return needed


def explain_missing(settings: Settings, measured: Measured) -> str:
    """What to tell a user whose validation data does not give what the settings need; empty if it does."""
    got = {"loss": to_micro(measured.loss), "metric": to_micro(measured.metric)}
    missing = {name: figure for name, figure in figures_needed(settings).items() if got[figure] is None}
    if not missing:
        return ""
    return (
        f"{', '.join(missing)}: no {' and no '.join(sorted(set(missing.values())))} was measured on adsValData, so "
        "only the figures of other peers count: compile the model with one (Keras), or give lossFunction or "
        "metricFunction (PyTorch)"
    )


def to_micro(value: float | None) -> int | None:
    """`value` in millionths; None if it was not measured or is not a number worth showing."""
    if value is None or not math.isfinite(value) or abs(value) > LARGEST:
        return None
    return round(value * MICRO)


class WeightedMean:
    """A mean over batches that counts every sample once, however it is cut into batches."""

    def __init__(self) -> None:
        self._total = 0.0
        self._samples = 0

    def add_mean(self, mean: float, samples: int) -> None:
        """A batch whose loss is a mean over its samples."""
        self._total += mean * samples
        self._samples += samples

    def add_sum(self, total: float, samples: int) -> None:
        """A batch whose loss is a sum over its samples."""
        self._total += total
        self._samples += samples

    @property
    def value(self) -> float | None:
        """The mean over all samples; None if there were none."""
        return self._total / self._samples if self._samples else None
