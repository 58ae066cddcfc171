"""The demo's network in Keras 3, on any backend; JAX by default.

Compiled once: a second `compile` would throw the compiled training step away, which costs more than a seed's training.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.cohort import Examples, weighted_loss
from swarmlearning.demo.learner import Swarmed, SwarmPlan, Weights, check_shapes
from swarmlearning.demo.recipe import Recipe
from swarmlearning.demo.records import RoundLoss


class KerasLearner:
    """Implements `learner.Learner`."""

    def __init__(self, recipe: Recipe, input_shape: tuple[int, ...]) -> None:
        layers = [keras.Input(shape=input_shape)]
        if recipe.network == "convolutional":
            layers += [
                keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
                keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
                keras.layers.Flatten(),
            ]
        layers += [keras.layers.Dense(recipe.hidden, activation="relu"), keras.layers.Dense(1)]
        self._model = keras.Sequential(layers)
        self._model.compile(
            optimizer=keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay),
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
        )
        self._model.optimizer.build(self._model.trainable_variables)
        self._fresh_optimizer = [_read_variable(variable) for variable in self._model.optimizer.variables]
        self._recipe = recipe

    def reset(self, start: Sequence[int], shuffle: Sequence[int]) -> None:
        """See `Learner`."""
        random = np.random.Generator(np.random.PCG64(list(start)))
        self._model.set_weights([_draw_weight(variable.shape, random) for variable in self._model.weights])
        for variable, value in zip(self._model.optimizer.variables, self._fresh_optimizer, strict=True):
            variable.assign(value)
        # Keras shuffles the batches by its global generator.
        keras.utils.set_random_seed(int(np.random.Generator(np.random.PCG64(list(shuffle))).integers(1 << 31)))

    def train(self, examples: Examples, batch_size: int) -> None:
        """See `Learner`."""
        self._fit(examples, batch_size, [])

    def train_swarm(self, examples: Examples, watch: Examples, batch_size: int, plan: SwarmPlan) -> Swarmed:
        """See `Learner`."""
        from swarmlearning.tf import SwarmCallback

        swarm = SwarmCallback(
            syncFrequency=self._recipe.sync_frequency,
            minPeers=plan.peers,
            trainingContract=plan.contract,
            adsValData=(watch.inputs, watch.targets),
            adsValBatchSize=len(watch),
            totalEpochs=self._recipe.epochs,
        )
        # After the swarm's callback, so that it sees the model as the swarm has left it.
        watcher = _LossWatcher(self, watch, self._recipe.sync_frequency)
        self._fit(examples, batch_size, [swarm, watcher])
        return Swarmed(sha256=swarm.final_sha256, losses=tuple(watcher.losses))

    def weights(self) -> Weights:
        """See `Learner`."""
        return tuple(_read_variable(variable) for variable in self._model.weights)

    def load(self, weights: Sequence[NDArray[Any]]) -> None:
        """See `Learner`."""
        check_shapes([tuple(variable.shape) for variable in self._model.weights], weights)
        self._model.set_weights(list(weights))

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Learner`."""
        outputs = keras.ops.convert_to_numpy(self._model(inputs, training=False))
        logits: NDArray[np.float32] = np.asarray(outputs, dtype=np.float32)[:, 0]
        return logits

    def _fit(self, examples: Examples, batch_size: int, callbacks: list[Any]) -> None:
        self._model.fit(
            examples.inputs,
            examples.targets,
            sample_weight=examples.weights,
            batch_size=batch_size,
            epochs=self._recipe.epochs,
            callbacks=callbacks,
            verbose=0,
        )


class _LossWatcher(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Notes the loss on the watch examples after every sync."""

    def __init__(self, learner: KerasLearner, watch: Examples, sync_frequency: int) -> None:
        super().__init__()
        self.losses: list[RoundLoss] = []
        self._learner = learner
        self._watch = watch
        self._sync_frequency = sync_frequency
        self._batches = 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002  # Keras names them
        """Keras calls this after each batch."""
        self._batches += 1
        if self._batches % self._sync_frequency:
            return
        if hasattr(self.model, "jax_state_sync"):
            # While it trains on JAX, Keras keeps the weights outside the model.
            self.model.jax_state_sync()
        loss = weighted_loss(self._learner.predict(self._watch.inputs), self._watch)
        self.losses.append(RoundLoss(round=self._batches // self._sync_frequency, loss=loss))


def _read_variable(variable: Any) -> NDArray[Any]:  # noqa: ANN401  # keras ships no types
    """A copy of a variable; its `value`, because NumPy 2 warns about how Keras hands out the variable itself."""
    return np.array(keras.ops.convert_to_numpy(variable.value))


def _draw_weight(shape: Sequence[int], random: np.random.Generator) -> NDArray[np.float32]:
    """Glorot and Bengio (2010), uniform; biases start at 0."""
    if len(shape) < 2:
        return np.zeros(shape, dtype=np.float32)
    fans = (shape[-2] + shape[-1]) * int(np.prod(shape[:-2]))
    limit = float(np.sqrt(6.0 / fans))
    return random.uniform(-limit, limit, size=tuple(shape)).astype(np.float32)
