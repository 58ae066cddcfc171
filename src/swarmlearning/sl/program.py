"""What an SL knows of the ML program beside it: what it asked for, what it waits for, what it was given."""

import asyncio
from typing import Literal

import msgspec

from swarmlearning.contracts.figures import mean_of, recent_share, shown_figures
from swarmlearning.contracts.records import Phase, Progress, Result, Training
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, Offer
from swarmlearning.sl.pacing import Pacer
from swarmlearning.sl.plan import find_peer
from swarmlearning.sl.results import OpenResult
from swarmlearning.types import NodeId


class SyncOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync or the end gave."""

    kind: Literal["synced", "void", "over"]
    round: int
    result: Result | None = None
    stored: OpenResult | None = None
    next_interval: int = 1
    contributed: int = 0
    """To so many of the last `recent` rounds this peer contributed."""
    recent: int = 0
    mean_loss_micro: int | None = None
    """Of the model of the round before, over those who showed it with this round's check-ins."""
    mean_metric_micro: int | None = None
    reached: bool = False
    """The training's target was reached (T-35)."""
    timings_us: tuple[tuple[str, int], ...] = ()
    """Stages that the sync came to, and after how many microseconds."""


class Demand:
    """What the program waits for."""

    def __init__(self, kind: Literal["sync", "finish"], progress: Progress, adopted: int) -> None:
        self.kind: Literal["sync", "finish"] = kind
        self.progress = progress
        self.offer: Offer | None = None
        """What it offers, committed to: what its file holds, or that carried over to a newer model (R-17). The same in
        every round that it is offered in."""
        self.based = adopted
        """Round of the result that the offer builds on."""
        self.tried: int | None = None
        """The round that a check-in was last sent to; whether it came in time may not be known."""
        self.round: int | None = None
        """The round that it is known to have checked in to."""
        self.outcome: asyncio.Future[SyncOutcome] = asyncio.get_running_loop().create_future()


class Program:
    """One ML program."""

    def __init__(self, node: NodeId, request: Open, own: memoryview | None) -> None:
        """Know a program by what it opened with.

        Args:
            node: its SL.
            request: what it opened with.
            own: the file that it writes its parameters to, mapped; None if it is gone, and what it held too.
        """
        self.request = request
        self.own = own
        self.demand: Demand | None = None
        self.adopted = -1
        """Round of the newest result that it (or, once it has finished, the SL for it) has; -1 before the first."""
        self.saying: asyncio.Task[None] | None = None
        """Outlives its step: its SL says (R-23) that it still trains."""
        self.vouched = False
        """Its SL has said that it still trains (R-23), since it was last answered."""
        self.base: OpenResult | None = None
        """That result, if the SL still has it: its mapping stays valid after the file is gone."""
        self.resumed = request.run > 0
        """C-17: a request of it may have been offered by an SL before us; until one is answered."""
        self.pacer = Pacer(node)
        self._means: tuple[int, int | None, int | None] = (-1, None, None)
        """Of the newest round that was seen merging: its number, mean loss and metric."""

    def follow(self, record: Training, now_s: float) -> None:
        """A newer record."""
        self.pacer.follow(record, now_s)
        round_, demand = record.round, self.demand
        if round_ is None:
            return
        if record.phase is Phase.MERGING:
            shown = shown_figures(record, round_)
            means = mean_of(p.loss_micro for p in shown), mean_of(p.metric_micro for p in shown)
            self._means = (round_.number, *means)
        if demand is not None and demand.offer is not None:
            root = demand.offer.commitment.root
            if any(c.commitment == root for c in round_.checkins):
                demand.round = round_.number

    def adopt(self, result: Result, stored: OpenResult | None) -> None:
        """It (or, once it has finished, the SL for it) has a result."""
        self.adopted, self.base = result.round, stored

    def answer_sync(self, desk: Desk, result: Result | None, number: int, now_s: float) -> None:
        """A sync is answered by round `number`; without a result it was void, and the program keeps its own."""
        if self.demand is None or self.demand.kind != "sync":
            return
        record = desk.record
        peer = find_peer(record, desk.node)
        contributed, recent = recent_share(peer) if peer is not None else (0, 0)
        merged, loss, metric = self._means
        batches = self.pacer.interval(record, now_s)
        self.pacer.handed(now_s, batches)
        self.resumed = self.vouched = False
        self._answer(
            SyncOutcome(
                kind="void" if result is None else "synced",
                round=number,
                result=result,
                stored=desk.stored(result) if result is not None else None,
                next_interval=batches,
                contributed=contributed,
                recent=recent,
                mean_loss_micro=loss if merged == number else None,
                mean_metric_micro=metric if merged == number else None,
                timings_us=_timings(desk, now_s),
            )
        )

    def answer_over(self, desk: Desk, result: Result | None) -> None:
        """The training is complete."""
        self._answer(
            SyncOutcome(
                kind="over",
                round=result.round if result else -1,
                result=result,
                stored=desk.stored(result) if result else None,
                reached=desk.record.reached,
            )
        )

    def _answer(self, outcome: SyncOutcome) -> None:
        if self.demand is not None and not self.demand.outcome.done():
            self.demand.outcome.set_result(outcome)


def _timings(desk: Desk, now_s: float) -> tuple[tuple[str, int], ...]:
    stages = {**desk.stages, "final": now_s}
    asked_s = stages.get("asked", now_s)
    return tuple((stage, round((at_s - asked_s) * 1e6)) for stage, at_s in stages.items())
