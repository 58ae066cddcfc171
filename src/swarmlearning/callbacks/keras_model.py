"""A Keras 3 model as the loop sees it: weights by path, scores by `evaluate`. Imports Keras; the core does not."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np

from swarmlearning.callbacks.arguments import Arguments
from swarmlearning.callbacks.evaluation import Measured
from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.errors import ConfigurationError
from swarmlearning.parameters.dtypes import BFLOAT16, Array

Variable = Any  # Keras ships no types

DEFAULT_BATCH_SIZE: Final = 32


class KerasModel:
    """The weights of a Keras model; without the states of random generators, metrics and the optimiser."""

    def __init__(self, current: Callable[[], Any], arguments: Arguments) -> None:
        """Wrap a model.

        Args:
            current: returns the model with its weights up to date. On JAX the trainer keeps them aside while it
                trains; `Callback.model` puts them back, and the next step starts from what the model holds then.
            arguments: the callback's.
        """
        self._current = current
        self._arguments = arguments

    def read(self) -> dict[str, Array]:
        """The weights by path.

        Raises:
            ConfigurationError: the model has not been built.
        """
        return {name: _to_numpy(variable) for name, variable in self._variables()}

    def write(self, arrays: Arrays) -> None:
        """Assign all weights."""
        for name, variable in self._variables():
            variable.assign(arrays[name])

    def measure(self) -> Measured:
        """Evaluate on `adsValData`; the metrics of the epoch that is under way are kept.

        Raises:
            ConfigurationError: the model cannot be evaluated on that data.
        """
        data = self._arguments.data
        if data is None:
            return Measured()
        model = self._current()
        # evaluate() resets the metrics that fit() is accumulating.
        kept = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in model.metrics_variables]
        training = getattr(model, "training", None)
        try:
            scores = model.evaluate(**_inputs(data, self._arguments.batch_size), verbose=0, return_dict=True)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"adsValData: the model cannot be evaluated on it: {error}") from error
        finally:
            for variable, value in zip(model.metrics_variables, kept, strict=True):
                variable.assign(value)
            if training is not None and keras.backend.backend() == "torch":
                model.train(training)
        return self._measured(scores)

    def _variables(self) -> Iterator[tuple[str, Variable]]:
        model = self._current()
        weights = list(model.weights)
        if not weights:
            raise ConfigurationError(
                "the model has no weights yet: build it before fit(), for instance with an Input layer or build()"
            )
        yield from zip(unique_names([variable.path for variable in weights]), weights, strict=True)

    def _measured(self, scores: dict[str, Any]) -> Measured:
        values = {name: float(value) for name, value in scores.items() if np.ndim(value) == 0}
        others = [name for name in values if name != "loss"]
        wanted = self._arguments.metric_name
        name = wanted if wanted in others else next(iter(others), "")
        return Measured(loss=values.get("loss"), metric=values.get(name) if name else None, metric_name=name)


def check_data(data: object) -> None:
    """Refuse validation data that could be read once only, or for ever.

    Raises:
        ConfigurationError: it is a plain generator or iterator.
    """
    if inspect.isgenerator(data) or (isinstance(data, Iterator) and not hasattr(data, "__len__")):
        raise ConfigurationError(
            "adsValData is a plain generator, which has no known end and cannot be read again after each merge: give "
            "(x, y), a keras.utils.PyDataset or a dataset with a length"
        )


def unique_names(paths: Sequence[str]) -> list[str]:
    """`paths`, where one that occurs again gets `#2`, `#3`, … in the model's order, the same at every peer."""
    taken = set(paths)
    seen: set[str] = set()
    names: list[str] = []
    for path in paths:
        name, number = path, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{path}#{number}"
        seen.add(name)
        names.append(name)
    return names


def _inputs(data: object, batch_size: int | None) -> dict[str, Any]:
    if isinstance(data, tuple | list):
        if not 2 <= len(data) <= 3:
            raise ConfigurationError(f"adsValData: expected (x, y) or (x, y, weights), got {len(data)} parts")
        names = ("x", "y", "sample_weight")
        return dict(zip(names, data, strict=False)) | {"batch_size": batch_size or DEFAULT_BATCH_SIZE}
    return {"x": data}  # it makes its own batches


def _to_numpy(variable: Variable) -> Array:
    array = np.asarray(keras.ops.convert_to_numpy(variable.value))
    # Some backends hand bfloat16 out as float32: the manifest must be the same on all of them.
    return array.astype(BFLOAT16) if variable.dtype == "bfloat16" and array.dtype != BFLOAT16 else array
