"""What the demo asks of a framework: one small network that can be reset, trained alone or in the swarm, and asked.

Does not import a framework until one is chosen; `keras_learner` and `torch_learner` implement it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.cohort import Examples
from swarmlearning.demo.recipe import Recipe
from swarmlearning.demo.records import Framework, RoundLoss
from swarmlearning.errors import ConfigurationError
from swarmlearning.types import ContractName

Weights = tuple[NDArray[Any], ...]
"""A model's parameters in the model's own order."""


@dataclass(frozen=True)
class SwarmPlan:
    """Which training to take part in, and with how many others."""

    contract: ContractName
    peers: int
    """All hospitals: a round needs every one of them."""


@dataclass(frozen=True)
class Swarmed:
    """How a swarm training went here."""

    sha256: str
    """Of the final swarm model, hex; empty under `SWARM_LOOPBACK`."""
    losses: tuple[RoundLoss, ...]
    """On the watch examples, after each sync."""


class Learner(Protocol):
    """One network with its optimiser; compiled once, used for all seeds."""

    def reset(self, start: Sequence[int], shuffle: Sequence[int]) -> None:
        """Fresh weights drawn from the seed `start`, a fresh optimiser; batches in an order drawn from `shuffle`."""
        ...

    def train(self, examples: Examples, batch_size: int) -> None:
        """Train for the recipe's epochs on these examples only."""
        ...

    def train_swarm(self, examples: Examples, watch: Examples, batch_size: int, plan: SwarmPlan) -> Swarmed:
        """Train for the recipe's epochs as a peer of a swarm; ends with the swarm's final model.

        Raises:
            SwarmError: the swarm training failed; see `swarmlearning.callbacks`.
        """
        ...

    def weights(self) -> Weights:
        """Copies of the parameters."""
        ...

    def load(self, weights: Sequence[NDArray[Any]]) -> None:
        """Take over saved parameters.

        Raises:
            ConfigurationError: they are not of this network's shapes.
        """
        ...

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n,): above 0 means sick."""
        ...


def make_learner(framework: Framework, recipe: Recipe, input_shape: tuple[int, ...]) -> Learner:
    """A learner in the chosen framework.

    Raises:
        ConfigurationError: the framework is not installed.
    """
    # Several of these programs share a machine; one thread each is faster than all of them fighting for the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    extra = "keras" if framework == "keras" else "torch"
    try:
        if framework == "keras":
            from swarmlearning.demo.keras_learner import KerasLearner

            return KerasLearner(recipe, input_shape)
        from swarmlearning.demo.torch_learner import TorchLearner

        return TorchLearner(recipe, input_shape)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the demo with {framework} needs {error.name}: pip install 'swarmlearning[{extra}]'"
        ) from error


def check_shapes(expected: Sequence[tuple[int, ...]], weights: Sequence[NDArray[Any]]) -> None:
    """Refuse saved weights of another network.

    Raises:
        ConfigurationError: number or shapes differ.
    """
    found = [array.shape for array in weights]
    if found != list(expected):
        raise ConfigurationError(f"saved weights have the shapes {found}, expected {list(expected)}")
