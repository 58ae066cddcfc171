"""A training's course, the same for every framework: begin, so many batches, sync, …, end.

Joins a `SwarmSession`, a `SyncSchedule` and a model. Knows a framework only through `Model`.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from swarmlearning.callbacks.arguments import Arguments
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.estimate import TimeLeft
from swarmlearning.callbacks.evaluation import MAX_METRIC_NAME, Measured, explain_missing, to_micro
from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.callbacks.report import Reporter
from swarmlearning.callbacks.schedule import SyncSchedule
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Progress
from swarmlearning.errors import ConfigurationError, SwarmError
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
    first_epoch: int = 0
    """Of `begin`: epochs that an earlier process of this program has trained, which are not trained again."""


Share = Callable[[Callable[[], Outcome]], Outcome]
"""Runs a step on behalf of a group of replicas, so that all of them see its outcome."""


def _alone(step: Callable[[], Outcome]) -> Outcome:
    return step()


class SwarmLoop:
    """One training of one model."""

    def __init__(
        self,
        arguments: Arguments,
        session: SwarmSession,
        model: Model,
        share: Share = _alone,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put the parts together; nothing is joined yet.

        Args:
            arguments: the callback's.
            session: not opened yet.
            model: that is trained.
            share: runs steps on behalf of replicas.
            clock: monotonic seconds.
        """
        self.session = session
        self.schedule = SyncSchedule(arguments.settings.sync_frequency)
        self.over = False
        self.left = False
        """This program has left the training and goes on alone."""
        self.final_sha256 = ""
        """SHA-256 of the final swarm model, hex; empty until it is loaded."""
        self.epoch = -1
        """Epochs begun; -1 where nobody counts them."""
        self.total_epochs = arguments.total_epochs or -1
        self.first_epoch = 0
        """Index from 0 of the epoch that training goes on with."""
        self._arguments = arguments
        self._model = model
        self._share = share
        self._clock = clock
        self._logger: logging.Logger = arguments.logger
        self._reporter = Reporter(arguments.logger)
        self._time_left = TimeLeft()
        self._measured = Measured()
        self._figures_round = -1
        self._bytes = (0, 0)
        self._merges = 0

    def begin(self) -> None:
        """Join the training: load the newest swarm model, or agree on the first one.

        Raises:
            SwarmError: the training cannot be joined; see `SwarmSession.open` and `sync`.
        """
        self.first_epoch = self._step(self._begin).first_epoch
        # After the first round: the wait for peers to appear says nothing of the pace.
        self._time_left.start(self._clock(), self.schedule.batches)

    def begin_epoch(self, epoch: int, per_epoch: int = 0) -> None:
        """An epoch begins.

        Args:
            epoch: its number, from 1.
            per_epoch: its batches; 0 where the framework does not say.
        """
        self.epoch = epoch
        self._time_left.begin_epoch(epoch, self.schedule.batches, per_epoch)

    def count(self, index: object) -> None:
        """A batch, or several up to `index`, has been trained; syncs if it is time.

        Raises:
            SwarmError: see `SwarmSession.sync`.
        """
        if self.schedule.count(index) and not self.over and not self.left:
            self._step(self._sync)
            self._merges += 1

    def end(self) -> None:
        """Training is over here: wait until it is everywhere and load the final swarm model.

        Raises:
            SwarmError: see `SwarmSession.finish`.
        """
        if self.left:
            return
        if not self._merges and not self.over and not self.session.is_loopback:
            self._logger.warning(
                "Training ended after %d batches without a merge: syncFrequency is %d, which is too high for it",
                *(self.schedule.batches, self.schedule.interval),
            )
        self._step(self._end)

    def leave(self, reason: str) -> None:
        """Leave the training politely: nobody waits for this peer any more, and this program may train on alone.

        Raises:
            ConfigurationError: the reason is no text.
        """
        if not isinstance(reason, str):
            raise ConfigurationError(f"leave: expected a reason in words, got {reason!r}")
        if not self.over and not self.left:
            self._step(lambda: self._leave(reason))
            self.left = True

    def _step(self, step: Callable[[], Outcome]) -> Outcome:
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
        return outcome

    # --- steps, run by the leading replica only -------------------------------------------------------------------

    def _begin(self) -> Outcome:
        if self.session.is_loopback:
            self._logger.info("SWARM_LOOPBACK is set: this program trains alone, nothing is merged")
        newest = self.session.open(self._model.read())
        first_epoch = self._resume()
        if newest is None:
            return msgspec.structs.replace(self._sync(), first_epoch=first_epoch)
        self._model.write(newest)
        self._logger.info(
            "Joined a running swarm training as %s; its newest model (of round %d) was loaded",
            *(self.session.node, self.session.adopted),
        )
        self._measure(self.session.adopted)
        interval = self.session.interval
        return Outcome(adopted=True, over=False, next_interval=interval, sha256="", first_epoch=first_epoch)

    def _resume(self) -> int:
        """The index from 0 of the epoch to go on with, from what the SL remembers of an earlier process."""
        position = self.session.position
        if position.epoch < 1 or position.batch < 1:
            return 0
        if not self._arguments.resume:
            self._logger.info(
                "In this run this program had come to epoch %d before; it trains all its epochs again, from the newest "
                "swarm model (resume=True goes on from there)",
                position.epoch,
            )
            return 0
        self._logger.info(
            "Resuming after %d batches: epoch %d was interrupted and is trained anew from its start, with the newest "
            "swarm model",
            *(position.batch, position.epoch),
        )
        self.schedule.batches = position.batch
        self.epoch = position.epoch
        return position.epoch - 1

    def _sync(self) -> Outcome:
        if self.session.is_loopback:
            return Outcome(adopted=False, over=False, next_interval=self.schedule.interval, sha256="")
        self._logger.info("Starting a Swarm merging round after %d batches", self.schedule.batches)
        result = self.session.sync(self._model.read(), self._progress())
        if result.arrays is not None:
            self._model.write(result.arrays)
        self._bytes = (result.bytes_received, result.bytes_sent)
        self._reporter.tell_round(result)
        if result.over:
            self.session.close()
        elif result.arrays is not None:
            self._measure(result.round)
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
        final = self.session.finish(self._model.read(), self._progress(eta_s=0))
        if final.arrays is None:
            self._logger.error(
                "The Swarm training ended before any round had two contributors, so there is no Swarm model and this "
                "model is the local one: check minPeers and syncFrequency at all peers"
            )
            return Outcome(adopted=False, over=True, next_interval=0, sha256="")
        self._model.write(final.arrays)
        self._logger.info(
            "%s. The final Swarm model (of round %d, SHA-256 %s) was loaded.",
            "The target of the Swarm training was reached" if final.reached else "All peers have finished",
            *(final.round, final.sha256),
        )
        return Outcome(adopted=True, over=True, next_interval=0, sha256=final.sha256)

    def _leave(self, reason: str) -> Outcome:
        try:
            self.session.leave(reason)
        except SwarmError as error:
            self._logger.warning("Left without a word to the others, who wait out the grace period once: %s", error)
        else:
            self._logger.info("Left the Swarm training (%s); this program goes on alone", reason)
        return Outcome(adopted=False, over=False, next_interval=self.schedule.interval, sha256="")

    def _measure(self, number: int) -> None:
        """Score the merged model of round `number`."""
        first = self._figures_round < 0
        self._measured, self._figures_round = self._model.measure(), number
        if (
            first
            and self._arguments.data is not None
            and (text := explain_missing(self._arguments.settings, self._measured))
        ):
            self._logger.warning("%s", text)

    def _progress(self, eta_s: int | None = None) -> Progress:
        loss, metric = to_micro(self._measured.loss), to_micro(self._measured.metric)
        if eta_s is None:
            eta_s = self._time_left.left(self._clock(), self.total_epochs, self.schedule.batches)
        return Progress(
            epoch=self.epoch,
            total_epochs=self.total_epochs,
            eta_s=eta_s,
            batch=self.schedule.batches,
            loss_micro=loss,
            metric_micro=metric,
            metric_name=self._measured.metric_name[:MAX_METRIC_NAME],
            figures_round=-1 if loss is None and metric is None else self._figures_round,
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
        share=arguments.share,
    )
