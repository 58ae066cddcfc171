"""How each dataset is trained: one recipe for the alone, the swarm and the pooled model alike.

The values were chosen once, by hand, from a few simulations with plain averaging. Those were scored on test rows: the
heart recipe on splits 0-9 and 100-109, the X-ray recipe on deals 100-105 and the common test images. So the demo's
figures are not those of untouched data, and absolute values are a little optimistic. Nothing is chosen per hospital or
per model.
"""

from dataclasses import dataclass
from typing import Final, Literal

from swarmlearning.demo.records import Dataset
from swarmlearning.errors import ConfigurationError


@dataclass(frozen=True)
class Recipe:
    """One dataset's network and training."""

    network: Literal["dense", "convolutional"]
    hidden: int
    """Units of the hidden layer."""
    learning_rate: float
    weight_decay: float
    """AdamW's, decoupled."""
    epochs: int
    batches: int
    """Batches an epoch at every hospital, whatever its size: each reaches a round after the same share of its rows."""
    sync_frequency: int
    """Batches between rounds."""
    weigh_classes: bool
    """Every hospital weighs its two classes alike, whatever their numbers."""

    @property
    def rounds(self) -> int:
        """Merge rounds of one training."""
        return self.epochs * self.batches // self.sync_frequency

    def batch_size(self, n_train: int) -> int:
        """Rows a batch, so that an epoch over `n_train` rows has exactly `batches` batches.

        Raises:
            ConfigurationError: no batch size gives that number.
        """
        size = -(-n_train // self.batches)
        if size < 1 or -(-n_train // size) != self.batches:
            raise ConfigurationError(f"{n_train} rows cannot be cut into {self.batches} batches of one size")
        return size


RECIPES: Final[dict[Dataset, Recipe]] = {
    "heart": Recipe(
        network="dense",
        hidden=16,
        learning_rate=0.003,
        weight_decay=0.1,
        epochs=20,
        batches=8,
        sync_frequency=8,
        weigh_classes=False,
    ),
    "xray": Recipe(
        network="convolutional",
        hidden=32,
        learning_rate=0.003,
        weight_decay=0.1,
        epochs=8,
        batches=10,
        sync_frequency=2,
        weigh_classes=True,
    ),
}
"""By dataset."""
