"""When to sync: so many batches after the last time. Counts by the batches' indices, not by calls."""

import operator

from swarmlearning.errors import ConfigurationError


class SyncSchedule:
    """Counts batches towards the next sync.

    A framework may report several batches at once (Keras with `steps_per_execution`), number them from 0 in every
    epoch or through the whole training, or not number them.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.batches = 0
        """Batches since training began."""
        self._due = interval
        self._last = -1

    def count(self, index: object) -> bool:
        """Count up to the batch with `index` (from 0), or one batch if None; say whether a sync is due.

        Raises:
            ConfigurationError: `index` is not an index.
        """
        if index is None:
            self.batches += 1
        else:
            try:
                number = operator.index(index)  # type: ignore[arg-type]  # raises TypeError for what is no integer
            except TypeError as error:
                raise ConfigurationError(f"batch: expected an index from 0, or None, got {index!r}") from error
            if number < 0:
                raise ConfigurationError(f"batch: expected an index from 0, or None, got {number}")
            # An index that does not rise belongs to a new epoch.
            self.batches += number - self._last if number > self._last else number + 1
            self._last = number
        return self.batches >= self._due

    def begin_epoch(self) -> None:
        """Indices begin anew at 0."""
        self._last = -1

    def synced(self, interval: int) -> None:
        """A sync has happened; the next is due `interval` batches from here."""
        self.interval = interval
        self._due = self.batches + interval
