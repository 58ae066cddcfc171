"""What a hospital's network is fed for one seed: prepared training, watch and test examples.

Joins the datasets with their preparation. A hospital's program uses the functions that take one hospital; those that
take all of them are for the outside observer who draws up the report (`demo.evaluate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.preparation import Statistics, encode_rows
from swarmlearning.demo.rows import Rows
from swarmlearning.demo.xray import Images


@dataclass(frozen=True)
class Examples:
    """Inputs (n, …) float32, labels (n,) of 0 and 1, and what each example counts in the loss (n,), 1 on average."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> NDArray[np.float32]:
        """Labels as a network's outputs are compared with them, (n, 1)."""
        return self.labels.astype(np.float32)[:, None]


def rows_to_examples(rows: Rows, statistics: Statistics) -> Examples:
    """Prepared examples of heart patients."""
    return Examples(
        inputs=encode_rows(rows, statistics), labels=rows.labels, weights=np.ones(len(rows), dtype=np.float32)
    )


def images_to_examples(images: Images) -> Examples:
    """Prepared examples of X-rays (n, 28, 28, 1) in 0…1; both classes count alike in the loss."""
    counts = np.bincount(images.labels, minlength=2)
    per_class = len(images) / (2 * np.maximum(counts, 1))
    return Examples(
        inputs=(images.pixels / np.float32(255)).astype(np.float32)[..., None],
        labels=images.labels,
        weights=per_class[images.labels].astype(np.float32),
    )


def join_examples(parts: Sequence[Examples]) -> Examples:
    """Examples of several hospitals in one place, in order."""
    return Examples(
        inputs=np.concatenate([part.inputs for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )


def weighted_loss(logits: NDArray[np.float32], examples: Examples) -> float:
    """Mean binary cross-entropy of `logits` (n,), weighted as training weighs it."""
    losses = np.logaddexp(0.0, logits.astype(np.float64)) - logits * examples.labels
    return float(np.average(losses, weights=examples.weights))
