"""A training's course, the same for every framework: begin, so many batches, sync, …, end.

Joins a `SwarmSession`, a `SyncSchedule` and a model. Knows a framework only through `Model`.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from swarmlearning.callbacks.arguments import Arguments
from swarmlearning.callbacks.evaluation import MAX_METRIC_NAME, Measured, to_micro
from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.callbacks.schedule import SyncSchedule
from swarmlearning.callbacks.session import SessionConfig, SwarmSession, SyncResult
from swarmlearning.contracts.records import Progress
from swarmlearning.parameters.dtypes import Array


class Model(Protocol):
    """What the loop needs of a framework's model."""

    def read(self) -> dict[str, Array]:
        """The parameters, by name."""
        ...

    def write(self, arrays: Arrays) -> None:
        """Load parameters, all of them, in place."""
        ...

    def measure(self) -> Measured:
        """Score the model on the validation data, if there is any; changes nothing."""
        ...


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a step of the loop did."""

    adopted: bool
    """The model now holds the swarm's parameters."""
    over: bool
    next_interval: int
    """Batches until the next sync."""
    sha256: str
    """Of the swarm's model, hex, if it was adopted."""


Share = Callable[[Callable[[], Outcome]], Outcome]
"""Runs a step on behalf of a group of replicas, so that all of them see its outcome."""


def _alone(step: Callable[[], Outcome]) -> Outcome:
    return step()


class SwarmLoop:
    """One training of one model."""

    def __init__(self, arguments: Arguments, session: SwarmSession, model: Model, share: Share = _alone) -> None:
        self.session = session
        self.schedule = SyncSchedule(arguments.settings.sync_frequency)
        self.over = False
        self.final_sha256 = ""
        """SHA-256 of the final swarm model, hex; empty until it is loaded."""
        self.epoch = -1
        """Epochs begun; -1 where nobody counts them."""
        self.total_epochs = arguments.total_epochs or -1
        self._model = model
        self._share = share
        self._logger: logging.Logger = arguments.logger
        self._measured = Measured()
        self._bytes = (0, 0)
        self._merges = 0

    def begin(self) -> None:
        """Join the training: load the newest swarm model, or agree on the first one.

        Raises:
            SwarmError: the training cannot be joined; see `SwarmSession.open` and `sync`.
        """
        self._step(self._begin)

    def count(self, index: object) -> None:
        """A batch, or several up to `index`, has been trained; syncs if it is time.

        Raises:
            SwarmError: see `SwarmSession.sync`.
        """
        if self.schedule.count(index) and not self.over:
            self._step(self._sync)
            self._merges += 1

    def end(self) -> None:
        """Training is over here: wait until it is everywhere and load the final swarm model.

        Raises:
            SwarmError: see `SwarmSession.finish`.
        """
        if not self._merges and not self.over and not self.session.is_loopback:
            self._logger.warning(
                "Training ended after %d batches without a merge: syncFrequency is %d, which is too high for it",
                *(self.schedule.batches, self.schedule.interval),
            )
        self._step(self._end)

    def _step(self, step: Callable[[], Outcome]) -> None:
        try:
            outcome = self._share(step)
        except BaseException:
            self.session.close()  # the SL must see at once that this program goes no further
            raise
        if outcome.over:
            self.over = True
            self.final_sha256 = outcome.sha256
        else:
            self.schedule.synced(outcome.next_interval)

    # --- steps, run by the leading replica only -------------------------------------------------------------------

    def _begin(self) -> Outcome:
        if self.session.is_loopback:
            self._logger.info("SWARM_LOOPBACK is set: this program trains alone, nothing is merged")
        newest = self.session.open(self._model.read())
        if newest is None:
            return self._sync()
        self._model.write(newest)
        self._logger.info("Joined a running swarm training as %s; its newest model was loaded", self.session.node)
        self._measured = self._model.measure()
        return Outcome(adopted=True, over=False, next_interval=self.schedule.interval, sha256="")

    def _sync(self) -> Outcome:
        if self.session.is_loopback:
            return Outcome(adopted=False, over=False, next_interval=self.schedule.interval, sha256="")
        self._logger.info("Starting a Swarm merging round after %d batches", self.schedule.batches)
        result = self.session.sync(self._model.read(), self._progress())
        if result.arrays is not None:
            self._model.write(result.arrays)
        self._bytes = (result.bytes_received, result.bytes_sent)
        self._report(result)
        if result.over:
            self.session.close()
        elif result.arrays is not None:
            self._measured = self._model.measure()
        return Outcome(
            adopted=result.arrays is not None,
            over=result.over,
            next_interval=result.next_interval,
            sha256=result.sha256,
        )

    def _end(self) -> Outcome:
        if self.session.is_loopback:
            return Outcome(adopted=False, over=True, next_interval=0, sha256="")
        if not self.over:
            self._logger.info("Training has ended here; waiting until it has at all peers")
        # If a sync has ended the training, this writes the final model again: the framework may have trained a batch
        # more before it looked at our wish to stop.
        final = self.session.finish(self._model.read(), self._progress())
        if final.arrays is None:
            self._logger.error(
                "The Swarm training ended before any round had two contributors, so there is no Swarm model and this "
                "model is the local one: check minPeers and syncFrequency at all peers"
            )
            return Outcome(adopted=False, over=True, next_interval=0, sha256="")
        self._model.write(final.arrays)
        self._logger.info(
            "All peers have finished. The final Swarm model (of round %d, SHA-256 %s) was loaded.",
            *(final.round, final.sha256),
        )
        return Outcome(adopted=True, over=True, next_interval=0, sha256=final.sha256)

    def _report(self, result: SyncResult) -> None:
        if result.over:
            self._logger.info(
                "The Swarm training is over: all peers have finished (last round: %d); training stops here",
                result.round,
            )
        elif result.arrays is None:
            self._logger.warning(
                "Round %d closed void (too few contributors): training goes on with the local parameters; next round "
                "in %d batches",
                *(result.round, result.next_interval),
            )
        else:
            self._logger.info(
                "Round %d: merge done, %d of %d peers contributed; next round in %d batches",
                *(result.round, len(result.contributors), len(result.participants), result.next_interval),
            )

    def _progress(self) -> Progress:
        return Progress(
            epoch=self.epoch,
            total_epochs=self.total_epochs,
            batch=self.schedule.batches,
            loss_micro=to_micro(self._measured.loss),
            metric_micro=to_micro(self._measured.metric),
            metric_name=self._measured.metric_name[:MAX_METRIC_NAME],
            bytes_received=self._bytes[0],
            bytes_sent=self._bytes[1],
        )


def session_config(arguments: Arguments) -> SessionConfig:
    """The session that a callback with these arguments opens."""
    return SessionConfig(
        settings=arguments.settings,
        min_peers=arguments.min_peers,
        contract=arguments.contract,
        weight=arguments.weight,
    )
