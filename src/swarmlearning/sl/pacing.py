"""How many batches a slow peer trains between two merges, so that the others need not go on without it.

Pure: whoever calls says what time it is. Measured are this peer's own seconds per batch and how long after a round's
opening the others are ready to close it, on this SL's clock. Spec: docs/spec/round.md, R-20.
"""

from collections import deque
from statistics import fmean, median
from typing import Final

from swarmlearning.contracts.closing import grace_ms, is_over
from swarmlearning.contracts.records import PeerState, Phase, Round, Training
from swarmlearning.contracts.rounds import required_peers
from swarmlearning.sl.desk import log
from swarmlearning.types import NodeId

OWN_SAMPLES: Final = 3
"""Intervals over which own seconds per batch are averaged."""

OTHERS_SAMPLES: Final = 5
"""Rounds over whose median the others' time is taken."""

SLOWER: Final = 1.25
"""Only a peer that takes this many times as long as the others is paced. Peers of one speed, each a little faster than
the next by chance, would otherwise shorten their intervals one after another without end."""


class Pacer:
    """Watches one program and its training's rounds."""

    def __init__(self, node: NodeId) -> None:
        """Pace the program of `node`."""
        self._node = node
        self._batch_s: deque[float] = deque(maxlen=OWN_SAMPLES)
        self._others_batch_s: deque[float] = deque(maxlen=OTHERS_SAMPLES)
        """Of the others, from a round's opening to their quorum, for each batch of the interval agreed then."""
        self._handed: tuple[float, int] | None = None
        """When the program was given a result to train on, and for how many batches."""
        self._asked_s = 0.0
        self._cost_s = 0.0
        """From a sync to its check-in."""
        self._round: int | None = None
        self._opened_s: float | None = None
        """When the round that is open now was; None if that was not seen."""
        self._sampled: int | None = None
        """The last round of which the others' time was taken."""
        self._told: int | None = None
        """The interval that was last told of; None while it is the agreed one."""

    # --- what is measured -----------------------------------------------------------------------------------------

    def handed(self, now_s: float, batches: int) -> None:
        """The program was given what it trains on for the next `batches`."""
        self._handed = (now_s, batches)

    def asked(self, now_s: float) -> None:
        """The program has trained and asks for the next round."""
        if self._handed is not None:
            since, batches = self._handed
            self._batch_s.append(max(now_s - since, 0.0) / max(batches, 1))
        self._handed = None
        self._asked_s = now_s

    def checked_in(self, now_s: float) -> None:
        """What it asked with is checked in."""
        self._cost_s = now_s - self._asked_s

    def follow(self, record: Training, now_s: float) -> None:
        """A newer record: notes when rounds open, and when the others are ready to close them."""
        round_ = record.round
        number = round_.number if round_ is not None else None
        if number != self._round:
            # The first round that is seen may have been open for long.
            seen = self._round is not None and record.phase is Phase.COLLECTING
            self._round, self._opened_s = number, now_s if seen else None
        if round_ is None or self._opened_s is None:
            return
        if record.phase is Phase.COLLECTING and round_.attempt:
            self._opened_s = None  # it collects again: nobody has trained in the meantime
        elif self._sampled != number and self._are_others_ready(record, round_):
            self._sampled = number
            self._others_batch_s.append((now_s - self._opened_s) / max(1, record.interval))

    def _are_others_ready(self, record: Training, round_: Round) -> bool:
        """Whether the round has its quorum (T-12) without us."""
        others = {c.node for c in round_.checkins} - {self._node}
        trains = any(peer.node in others and peer.state is PeerState.LIVE for peer in record.peers)
        return len(others) >= required_peers(record) and (trains or is_over(record))

    # --- what follows ---------------------------------------------------------------------------------------------

    def interval(self, record: Training, now_s: float) -> int:
        """Batches until the next sync: as agreed, or fewer, so that this peer arrives before a round closes without it.

        Never fewer than one. A peer that the round cannot close without trains as long as agreed.
        """
        agreed = max(1, record.interval)
        others = sum(p.node != self._node and p.state is not PeerState.LEFT for p in record.peers)
        if record.settings is None or not self._batch_s or not self._others_batch_s or others < required_peers(record):
            return self._tell(record, agreed, agreed)
        batch_s, others_s = fmean(self._batch_s), median(self._others_batch_s) * agreed
        if agreed * batch_s <= SLOWER * others_s:
            return self._tell(record, agreed, agreed)
        is_open = self._opened_s is not None and record.phase is Phase.COLLECTING
        lag_s = now_s - self._opened_s if is_open and self._opened_s is not None else 0.0
        if lag_s > others_s:
            lag_s = 0.0  # such a long stop was everybody's: the others begin now, too
        left_s = others_s + grace_ms(record) / 2000 - lag_s - self._cost_s
        return self._tell(record, max(1, min(agreed, int(left_s / batch_s) if batch_s else agreed)), agreed)

    def _tell(self, record: Training, batches: int, agreed: int) -> int:
        """A line for the operator when the interval is another one than before."""
        if batches == agreed and self._told is not None:
            log.info("%s: training all %d batches between merges again", record.name, agreed)
        elif batches < agreed and batches != self._told:
            log.info(
                "%s: training %d instead of %d batches until the next merge, to be in time: a batch takes %.3g s here, "
                "and the others are ready %.3g s after a round opens",
                record.name,
                batches,
                agreed,
                fmean(self._batch_s),
                median(self._others_batch_s) * agreed,
            )
        self._told = batches if batches < agreed else None
        return batches
