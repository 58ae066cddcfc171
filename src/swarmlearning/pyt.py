"""`SwarmCallback` for PyTorch: four calls in the training loop.

    callback = SwarmCallback(syncFrequency=128, minPeers=3, model=model)
    callback.on_train_begin()
    ...                                 # after each batch: callback.on_batch_end(); each epoch: callback.on_epoch_end()
    callback.on_train_end()

Reference: docs/reference/callback.md. The optimiser's state stays local. In a data-parallel training
(`torch.distributed`) every process makes the calls; the first one syncs and hands on what it got.
"""

import logging
from collections.abc import Callable

from swarmlearning.callbacks.arguments import (
    CheckinModel,
    SLMergeMethod,
    SLPlatforms,
    parse_arguments,
)
from swarmlearning.callbacks.logs import show_errors_plainly
from swarmlearning.callbacks.loop import Outcome, SwarmLoop, session_config
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.errors import ConfigurationError, SwarmError, Unreachable

try:
    import torch  # noqa: F401  # so that its absence is said here, in one line
except ImportError as error:
    raise ImportError(
        "swarmlearning.pyt needs PyTorch: pip install 'swarmlearning[torch]' or, from a clone, '.[torch]'", name="torch"
    ) from error

from swarmlearning.callbacks.torch_model import Replicas, TorchModel

__all__ = ["CheckinModel", "SLMergeMethod", "SLPlatforms", "SwarmCallback", "SwarmError"]

_HASH_CHARACTERS = 64
_NUMBERS = 5


class SwarmCallback:
    """Merges a module with the other peers' while the program trains it.

    After `on_train_end` the module is the final swarm model.
    """

    def __init__(
        self, syncFrequency: int | None = None, minPeers: int | None = None, model: object = None, **arguments: object
    ) -> None:
        """Check the arguments; the swarm is joined by `on_train_begin`.

        Args:
            syncFrequency: batches between merges; required.
            minPeers: peers that a merge waits for; required.
            model: the `torch.nn.Module` to be merged, also inside DDP or `torch.compile`.
            **arguments: the others of docs/reference/callback.md.

        Raises:
            ConfigurationError: an argument or the environment does not fit.
        """
        show_errors_plainly()
        self._arguments = parse_arguments(
            (SLPlatforms.PYTORCH,), syncFrequency, minPeers, {"model": model, **arguments}
        )
        self.logger: logging.Logger = self._arguments.logger
        self._model = TorchModel(model, self._arguments)
        self.session: SwarmSession = self._make_session()
        self._loop: SwarmLoop | None = None

    @property
    def final_sha256(self) -> str:
        """SHA-256 of the final swarm model, hex, as the ledger has it; empty until it is loaded, and in loopback."""
        return self._loop.final_sha256 if self._loop is not None else ""

    @property
    def over(self) -> bool:
        """The training is over everywhere: the program may stop training and call `on_train_end`."""
        return self._loop is not None and self._loop.over

    @property
    def first_epoch(self) -> int:
        """Index from 0 of the epoch to begin with, for `range(first_epoch, epochs)`; above 0 after `resume=True`."""
        return self._loop.first_epoch if self._loop is not None else 0

    def on_train_begin(self) -> None:
        """Join the training and load the model that all start from.

        Raises:
            SwarmError: the training cannot be joined.
        """
        if self._loop is not None:
            self.session.close()
            self.session = self._make_session()
        self._loop = SwarmLoop(self._arguments, self.session, self._model, self._share)
        self._loop.epoch = 1
        self._loop.begin()
        self._loop.begin_epoch(self._loop.first_epoch + 1)

    def on_batch_end(self, batch: int | None = None) -> None:
        """A batch has been trained; sync if it is time.

        Args:
            batch: its index from 0; None counts calls.

        Raises:
            SwarmError: the round failed for this peer.
        """
        self._require().count(batch)

    def on_epoch_end(self, epoch: int | None = None) -> None:
        """An epoch has ended.

        Args:
            epoch: its index from 0; None counts calls.
        """
        loop = self._require()
        loop.begin_epoch((epoch if epoch is not None else loop.epoch - 1) + 2)

    def on_train_end(self) -> None:
        """Wait until all peers have finished and load the final swarm model.

        Raises:
            SwarmError: the end was not reached.
        """
        loop = self._require()
        loop.epoch = max(1, loop.epoch - 1)  # the one that `on_epoch_end` began has not been trained
        loop.end()
        self.session.close()

    def leave(self, reason: str) -> None:
        """Leave the swarm training politely, at any time; the program may train on alone.

        Raises:
            ConfigurationError: training has not begun, or the reason is no text.
        """
        self._require().leave(reason)

    def _make_session(self) -> SwarmSession:
        return SwarmSession(session_config(self._arguments), logger=self._arguments.logger)

    def _require(self) -> SwarmLoop:
        if self._loop is None:
            raise ConfigurationError("SwarmCallback: call on_train_begin() before training")
        return self._loop

    def _share(self, step: Callable[[], Outcome]) -> Outcome:
        """Run `step` in the first process of a data-parallel training and give all the outcome and the model."""
        if not Replicas.exist():
            return step()
        device = self._model.device
        if Replicas.lead():
            try:
                outcome = step()
            except BaseException:
                Replicas.broadcast_numbers([0] * (_NUMBERS + _HASH_CHARACTERS), device)  # so that nobody waits for us
                raise
            numbers = [outcome.adopted, outcome.over, outcome.next_interval, outcome.first_epoch]
            digest = outcome.sha256.ljust(_HASH_CHARACTERS).encode()
            Replicas.broadcast_numbers([1, *numbers, *digest], device)
        else:
            nothing = [0] * (_NUMBERS + _HASH_CHARACTERS)
            done, adopted, over, interval, first_epoch, *digits = Replicas.broadcast_numbers(nothing, device)
            if not done:
                raise Unreachable(
                    "the first process of this data-parallel training could not sync: its message says why"
                )
            outcome = Outcome(
                adopted=bool(adopted),
                over=bool(over),
                next_interval=interval,
                sha256=bytes(digits).decode("ascii").strip(),
                first_epoch=first_epoch,
            )
        if outcome.adopted:
            Replicas.broadcast_model(self._model)
        return outcome
