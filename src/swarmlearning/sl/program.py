"""What an SL knows of the ML program beside it: what it asked for, what it waits for, what it was given."""

import asyncio
from typing import Literal

import msgspec

from swarmlearning.contracts.records import Progress, Result
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Offer
from swarmlearning.sl.store import OpenResult


class SyncOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync or the end gave."""

    kind: Literal["synced", "void", "over"]
    round: int
    result: Result | None
    stored: OpenResult | None
    next_interval: int


class Demand:
    """What the program waits for."""

    def __init__(self, kind: Literal["sync", "finish"], progress: Progress) -> None:
        self.kind: Literal["sync", "finish"] = kind
        self.progress = progress
        self.offer: Offer | None = None
        """What its file holds, committed to; the same in every round that it is offered in."""
        self.round: int | None = None
        """The round it has checked in to."""
        self.outcome: asyncio.Future[SyncOutcome] = asyncio.get_running_loop().create_future()


class Program:
    """One ML program."""

    def __init__(self, request: Open, own: memoryview) -> None:
        """Know a program by what it opened with and the file that it writes its parameters to, mapped."""
        self.request = request
        self.own = own
        self.demand: Demand | None = None
        self.adopted = -1
        """Round of the newest result that it (or, once it has finished, the SL for it) has; -1 before the first."""
        self.interval = request.settings.sync_frequency

    def answer(self, outcome: SyncOutcome) -> None:
        """Answer what it waits for, once."""
        if self.demand is not None and not self.demand.outcome.done():
            self.demand.outcome.set_result(outcome)
