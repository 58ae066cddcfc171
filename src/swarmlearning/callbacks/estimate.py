"""How long a program still needs for its epochs, by how long it has needed so far. Pure: the clock is handed in."""

import math
from typing import Final

UNKNOWN: Final = -1


class TimeLeft:
    """Counts time and batches from `start` on.

    Waiting for merges counts like training: it is time until the end all the same. While the number of batches of an
    epoch is not known, as in the first epoch of a loop that does not say it, nothing is estimated.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._first = 0
        self._epoch = 0
        self._epoch_began = 0
        self._per_epoch = 0

    def start(self, now: float, batches: int) -> None:
        """Training begins.

        Args:
            now: seconds, by the clock that `left` is asked with.
            batches: counted before, by an earlier process.
        """
        self._since, self._first, self._epoch_began = now, batches, batches

    def begin_epoch(self, epoch: int, batches: int, per_epoch: int = 0) -> None:
        """An epoch begins.

        Args:
            epoch: its number, from 1.
            batches: counted until now.
            per_epoch: batches of an epoch, where the framework says it; 0 takes those of the epoch before.
        """
        if per_epoch:
            self._per_epoch = per_epoch
        elif epoch == self._epoch + 1 and batches > self._epoch_began:
            self._per_epoch = batches - self._epoch_began
        self._epoch, self._epoch_began = epoch, batches

    def left(self, now: float, total_epochs: int, batches: int) -> int:
        """Seconds until `total_epochs` are trained, rounded up; -1 where that cannot be known.

        Args:
            now: seconds.
            total_epochs: that the program will train, those of earlier processes included; -1 if it does not say.
            batches: counted until now.
        """
        done = batches - self._first
        if self._since is None or done < 1 or not self._per_epoch or not self._epoch <= total_epochs:
            return UNKNOWN
        ahead = (total_epochs - self._epoch + 1) * self._per_epoch - (batches - self._epoch_began)
        return math.ceil(max(0, ahead) * (now - self._since) / done)
