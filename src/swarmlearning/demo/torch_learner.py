"""The demo's network in PyTorch: the same layers, loss and optimiser as in Keras, and a plain training loop."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarmlearning.demo.cohort import Examples, weighted_loss
from swarmlearning.demo.learner import Swarmed, SwarmPlan, Weights, check_shapes
from swarmlearning.demo.recipe import Recipe
from swarmlearning.demo.records import RoundLoss


class TorchLearner:
    """Implements `learner.Learner`."""

    def __init__(self, recipe: Recipe, input_shape: tuple[int, ...]) -> None:
        torch.set_num_threads(1)
        layers: list[Any] = []
        width = math.prod(input_shape)
        if recipe.network == "convolutional":
            layers += [
                torch.nn.Conv2d(1, 8, 3, stride=2, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
            ]
            width = 16 * -(-input_shape[0] // 4) * -(-input_shape[1] // 4)
        layers += [torch.nn.Linear(width, recipe.hidden), torch.nn.ReLU(), torch.nn.Linear(recipe.hidden, 1)]
        self._model = torch.nn.Sequential(*layers)
        self._recipe = recipe
        self._loss = torch.nn.BCEWithLogitsLoss(reduction="none")
        self.reset((0,), (0,))

    def reset(self, start: Sequence[int], shuffle: Sequence[int]) -> None:
        """See `Learner`."""
        initial = _make_generator(start)
        self._generator = _make_generator(shuffle)
        for parameter in self._model.parameters():
            if parameter.dim() < 2:
                torch.nn.init.zeros_(parameter)
            else:
                torch.nn.init.xavier_uniform_(parameter, generator=initial)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=self._recipe.learning_rate, weight_decay=self._recipe.weight_decay
        )

    def train(self, examples: Examples, batch_size: int) -> None:
        """See `Learner`."""
        batches = self._cut_batches(examples, batch_size)
        self._model.train()
        for _ in range(self._recipe.epochs):
            for batch in batches:
                self._step(*batch)

    def train_swarm(self, examples: Examples, watch: Examples, batch_size: int, plan: SwarmPlan) -> Swarmed:
        """See `Learner`."""
        from swarmlearning.pyt import SwarmCallback

        watched = torch.utils.data.TensorDataset(_to_tensor(watch.inputs), torch.from_numpy(watch.targets))
        swarm = SwarmCallback(
            syncFrequency=self._recipe.sync_frequency,
            minPeers=plan.peers,
            model=self._model,
            trainingContract=plan.contract,
            adsValData=torch.utils.data.DataLoader(watched, batch_size=len(watch)),
            lossFunction="BCEWithLogitsLoss",
            metricFunction="AUROC",
            metricFunctionArgs={"task": "binary"},
            totalEpochs=self._recipe.epochs,
        )
        batches = self._cut_batches(examples, batch_size)
        losses: list[RoundLoss] = []
        done = 0
        swarm.on_train_begin()
        for epoch in range(self._recipe.epochs):
            for index, batch in enumerate(batches):
                self._model.train()
                self._step(*batch)
                swarm.on_batch_end(index)
                done += 1
                if done % self._recipe.sync_frequency == 0:
                    loss = weighted_loss(self.predict(watch.inputs), watch)
                    losses.append(RoundLoss(round=done // self._recipe.sync_frequency, loss=loss))
            swarm.on_epoch_end(epoch)
        swarm.on_train_end()
        return Swarmed(sha256=swarm.final_sha256, losses=tuple(losses))

    def weights(self) -> Weights:
        """See `Learner`."""
        return tuple(value.detach().numpy().copy() for value in self._model.state_dict().values())

    def load(self, weights: Sequence[NDArray[Any]]) -> None:
        """See `Learner`."""
        state = self._model.state_dict()
        check_shapes([tuple(value.shape) for value in state.values()], weights)
        self._model.load_state_dict(
            {name: torch.from_numpy(np.array(array)) for name, array in zip(state, weights, strict=True)}
        )

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Learner`."""
        self._model.eval()
        with torch.no_grad():
            outputs = self._model(_to_tensor(inputs))
        logits: NDArray[np.float32] = outputs[:, 0].numpy()
        return logits

    def _cut_batches(self, examples: Examples, batch_size: int) -> torch.utils.data.DataLoader:
        rows = torch.utils.data.TensorDataset(
            _to_tensor(examples.inputs), torch.from_numpy(examples.targets), torch.from_numpy(examples.weights)
        )
        return torch.utils.data.DataLoader(rows, batch_size=batch_size, shuffle=True, generator=self._generator)

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
        losses = self._loss(self._model(inputs), targets)[:, 0]
        self._optimizer.zero_grad()
        (losses * weights).mean().backward()
        self._optimizer.step()


def _make_generator(seed: Sequence[int]) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.Generator(np.random.PCG64(list(seed))).integers(1 << 31)))


def _to_tensor(inputs: NDArray[np.float32]) -> torch.Tensor:
    """Images come with their channel last; PyTorch wants it first."""
    tensor = torch.from_numpy(np.ascontiguousarray(inputs))
    return tensor.movedim(-1, 1) if tensor.dim() == 4 else tensor
