"""`SwarmCallback` for Keras 3, on any backend (TensorFlow's `tf.keras` is Keras 3 from TensorFlow 2.16 on).

    model.fit(x, y, callbacks=[SwarmCallback(syncFrequency=128, minPeers=3, adsValData=(xv, yv))])

Reference: docs/reference/callback.md. The optimiser's state stays local.
"""

import logging
from typing import Any

from swarmlearning.callbacks.arguments import (
    CheckinModel,
    SLMergeMethod,
    SLPlatforms,
    parse_arguments,
)
from swarmlearning.callbacks.exchange import model_hash
from swarmlearning.callbacks.logs import show_errors_plainly
from swarmlearning.callbacks.loop import SwarmLoop, session_config
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.errors import ConfigurationError, SwarmError

try:
    import keras
except ImportError as error:
    if error.name == "keras":
        raise ImportError(
            "swarmlearning.tf needs Keras 3: pip install 'swarmlearning[keras]' or, from a clone, '.[keras]'",
            name="keras",
        ) from error
    raise ImportError(
        f"swarmlearning.tf: Keras cannot load its backend ({error}); install it, or choose one that is installed with "
        "KERAS_BACKEND=jax (pip install 'swarmlearning[keras]'), torch or tensorflow",
        name=error.name,
    ) from error
if not hasattr(keras, "ops"):
    raise ImportError(f"swarmlearning.tf needs Keras 3, found {keras.__version__}: pip install 'swarmlearning[keras]'")

from swarmlearning.callbacks.keras_model import KerasModel, check_data

__all__ = ["CheckinModel", "SLMergeMethod", "SLPlatforms", "SwarmCallback", "SwarmError"]


class SwarmCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Merges the model with the other peers' while `fit` trains it.

    Put it last in `callbacks=[…]`. When `fit` returns, the model is the final swarm model.
    """

    def __init__(self, syncFrequency: int | None = None, minPeers: int | None = None, **arguments: object) -> None:
        """Check the arguments; the swarm is joined when training begins.

        Args:
            syncFrequency: batches between merges; required.
            minPeers: peers that a merge waits for; required.
            **arguments: the others of docs/reference/callback.md.

        Raises:
            ConfigurationError: an argument or the environment does not fit.
        """
        super().__init__()
        show_errors_plainly()
        self._arguments = parse_arguments((SLPlatforms.KERAS, SLPlatforms.TF), syncFrequency, minPeers, arguments)
        check_data(self._arguments.data)
        self.logger: logging.Logger = self._arguments.logger
        self.session: SwarmSession = self._make_session()
        self._loop: SwarmLoop | None = None
        self._resumed = False

    @property
    def final_sha256(self) -> str:
        """SHA-256 of the final swarm model, hex, as the ledger has it; empty until it is loaded, and in loopback."""
        return self._loop.final_sha256 if self._loop is not None else ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002  # Keras gives it
        """Join the training and load the model that all start from.

        Raises:
            SwarmError: the training cannot be joined.
        """
        if self._loop is not None:  # fit() again
            self.session.close()
            self.session = self._make_session()
        loop = self._loop = SwarmLoop(self._arguments, self.session, KerasModel(lambda: self.model, self._arguments))
        if loop.total_epochs < 0:
            loop.total_epochs = int((self.params or {}).get("epochs") or -1)
        loop.begin()
        self._resume(loop)
        self._stop_if_over(loop)
        self._watch_end()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002  # Keras gives it
        """Count epochs."""
        self._forget_resuming()
        loop = self._require()
        loop.begin_epoch(epoch + 1, (self.params or {}).get("steps") or 0)
        loop.schedule.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002  # Keras gives it
        """Sync if it is time.

        Raises:
            SwarmError: the round failed for this peer.
        """
        loop = self._require()
        # With steps_per_execution the last index may point beyond the epoch's end.
        steps = (self.params or {}).get("steps")
        loop.count(min(batch, steps - 1) if steps else batch)
        self._stop_if_over(loop)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002  # Keras gives it
        """Wait until all peers have finished and load the final swarm model.

        Raises:
            SwarmError: the end was not reached.
        """
        self._forget_resuming()
        self._require().end()
        self.session.close()

    def leave(self, reason: str) -> None:
        """Leave the swarm training politely, at any time; `fit` goes on with this model alone.

        Raises:
            ConfigurationError: training has not begun, or the reason is no text.
        """
        self._require().leave(reason)

    def _make_session(self) -> SwarmSession:
        return SwarmSession(session_config(self._arguments), logger=self._arguments.logger)

    def _require(self) -> SwarmLoop:
        if self._loop is None:
            raise ConfigurationError("SwarmCallback: on_train_begin was not called; pass it to fit(callbacks=[…])")
        return self._loop

    def _resume(self, loop: SwarmLoop) -> None:
        """Let `fit` begin at a later epoch, by the attribute through which Keras's own `BackupAndRestore` does it."""
        restored = getattr(self.model, "_initial_epoch", None)
        if not loop.first_epoch:
            return
        if restored is not None:
            self.logger.info("fit() goes on with epoch %d, as its own checkpoint says", restored + 1)
            return
        self.model._initial_epoch = loop.first_epoch  # noqa: SLF001  # Keras has no public way
        self._resumed = True

    def _forget_resuming(self) -> None:
        """Keras has read where to begin; the next `fit` begins where it says itself."""
        if self._resumed:
            self.model._initial_epoch = None  # noqa: SLF001  # as above
            self._resumed = False

    def _stop_if_over(self, loop: SwarmLoop) -> None:
        if loop.over:
            self.model.stop_training = True

    def _watch_end(self) -> None:
        """See to it that `_check_final` runs after the callbacks that come after this one.

        Keras appends its own `History` to the user's callbacks, so the end of that is the end of all.
        """
        history = getattr(self.model, "history", None)
        if not isinstance(history, keras.callbacks.History):
            return
        inner = type(history).on_train_end

        def check(logs: dict[str, Any] | None = None) -> None:
            vars(history).pop("on_train_end", None)
            inner(history, logs)
            self._check_final()

        history.on_train_end = check

    def _check_final(self) -> None:
        if (
            self.final_sha256
            and model_hash(KerasModel(lambda: self.model, self._arguments).read()) != self.final_sha256
        ):
            self.logger.warning(
                "The final Swarm model was overwritten by a callback that comes after SwarmCallback, as "
                "EarlyStopping(restore_best_weights=True) does: put SwarmCallback last in callbacks=[…], or set "
                "restore_best_weights=False; now this peer's model differs from the others'"
            )
