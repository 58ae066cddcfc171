"""How long a program puts up with a training that does not move. Spec: docs/spec/round.md, R-22.

Pure: a clock's readings come in. What counts is that rounds end, not that something happens: a peer that comes and
goes, or a round that starts over and over, must not keep everybody waiting for ever.
"""

from swarmlearning.contracts.records import Phase, Training


class Patience:
    """The limit of one wait."""

    def __init__(self, limit_s: float, now_s: float) -> None:
        """Begin to wait.

        Args:
            limit_s: longest time without an advance, seconds.
            now_s: of a monotonic clock.
        """
        self.limit_s = limit_s
        self._moved_s = now_s
        self._stage: tuple[int, int, int] = (-1, -1, -1)
        self._most = 0
        self._bytes = 0

    def look(self, record: Training | None, travelled: int, now_s: float) -> None:
        """Note where the training stands.

        An advance is a round that ended, one more check-in than the open round ever had, or bytes that travelled while
        it merges, in as many attempts as a round needs at most (T-34).

        Args:
            record: the newest.
            travelled: bytes sent and received by this node so far.
            now_s: of the same clock.
        """
        if record is None:
            return
        round_ = record.round
        stage = (record.run, round_.number if round_ else -1, record.finals + record.voids)
        if stage != self._stage:
            self._stage, self._most, self._moved_s = stage, 0, now_s
        if round_ is not None and len(round_.checkins) > self._most:
            self._most, self._moved_s = len(round_.checkins), now_s
        merging = (
            round_ is not None and record.phase is Phase.MERGING and round_.attempt <= 2 * len(round_.participants)
        )
        if merging and travelled != self._bytes:
            self._moved_s = now_s
        self._bytes = travelled

    def is_over(self, now_s: float) -> bool:
        """Whether the limit has passed without an advance."""
        return now_s - self._moved_s > self.limit_s
