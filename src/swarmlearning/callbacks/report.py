"""What the user is told of the rounds, in plain lines. Decides nothing."""

import logging
from typing import Final

from swarmlearning.callbacks.results import SyncResult
from swarmlearning.contracts.records import RECENT_ROUNDS

REMIND_ROUNDS: Final = 10
"""A peer that goes on missing rounds is reminded this often."""


class Reporter:
    """Tells one training's rounds."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._warned = False
        self._rounds_since = 0

    def tell_round(self, result: SyncResult) -> None:
        """Say what a round brought."""
        if result.over:
            why = "its target was reached" if result.reached else "all peers have finished"
            self._logger.info("The Swarm training is over: %s (last round: %d); training stops here", why, result.round)
            return
        if result.arrays is None:
            self._logger.warning(
                "Round %d closed void (too few contributors): training goes on with the local parameters; next round "
                "in %d batches",
                *(result.round, result.next_interval),
            )
        else:
            self._logger.info(
                "Round %d: merge done, %d of %d peers contributed; next round in %d batches%s%s",
                *(result.round, len(result.contributors), len(result.participants), result.next_interval),
                *(_share(result), _means(result)),
            )
        self._watch_share(result)

    def _watch_share(self, result: SyncResult) -> None:
        """Warn a peer that contributed to less than half of a full window of rounds."""
        if result.recent < RECENT_ROUNDS or 2 * result.contributed >= result.recent:
            self._warned = False
            return
        self._rounds_since += 1
        if self._warned and self._rounds_since < REMIND_ROUNDS:
            return
        self._warned, self._rounds_since = True, 0
        self._logger.warning(
            "This peer contributed to only %d of the last %d rounds, because it comes too late: let the others wait "
            "longer (a larger graceS at all peers, or SL_WAIT_FOR_FULL_QUORUM_SECONDS at this peer's SL), merge after "
            "fewer batches (a smaller syncFrequency at all peers), or use a faster machine here",
            *(result.contributed, result.recent),
        )


def _share(result: SyncResult) -> str:
    if not result.recent:
        return ""
    return f"; this peer contributed to {result.contributed} of the last {result.recent} rounds"


def _means(result: SyncResult) -> str:
    """The swarm's figures: they are of the model before this one, since each peer measures before it checks in."""
    named = (("loss", result.mean_loss), ("metric", result.mean_metric))
    figures = ", ".join(f"{name} {value:.6g}" for name, value in named if value is not None)
    return f"; mean over the swarm, of the model before: {figures}" if figures else ""
