"""What changes on the ledger, for any number of listeners: one stream from the SN serves them all. Spec: CI-29.

A listener that is slow is told several changes as one; what waits for it is bounded. Does not: ask the SN (`following`)
or know HTTP (`events`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Final

from swarmlearning.reports.status import make_printable
from swarmlearning.sn.api import Changes
from swarmlearning.swci.web.wire import Changed, Ended, Event, Gap, Silent

MAX_REMEMBERED: Final = 256
"""Changes that are remembered for listeners that come back."""


class Listener:
    """One listener: what it has not been told yet."""

    def __init__(self) -> None:
        self._gap: Gap | None = None
        self._changed: Changed | None = None
        self._silent: Silent | None = None
        self._ended: Ended | None = None
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        """Tell it something; what it has not heard yet of the same kind becomes one."""
        match event:
            case Changed():
                self._changed = event if self._changed is None else _join(self._changed, event)
                self._silent = None
            case Gap():
                self._gap = event
            case Silent():
                self._silent = event
            case Ended():
                self._ended = event
        self._news.set()

    def wake(self) -> None:
        """Let it look whether it may still listen."""
        self._news.set()

    async def take(self, within_s: float) -> list[Event]:
        """What it has not been told yet, in order; empty after `within_s` seconds without news, or if it was woken."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
        self._news.clear()
        waiting: tuple[Event | None, ...] = (self._gap, self._changed, self._silent, self._ended)
        self._gap = self._changed = self._silent = None
        return [event for event in waiting if event is not None]


class Hub:
    """Tells all listeners.

    Attributes:
        height: of the last block that the SN told of.
    """

    def __init__(self) -> None:
        self.height = 0
        self._listeners: set[Listener] = set()
        self._remembered: deque[Changed] = deque(maxlen=MAX_REMEMBERED)
        self._from = 0
        """Changes after this height are remembered without a gap."""
        self._problem = ""
        self._silent: Silent | None = None
        self._ended: Ended | None = None

    @property
    def silence(self) -> str:
        """Why the SN does not answer; empty while it does, or was not asked yet."""
        return "" if self._silent is None else self._silent.reason

    def begin(self, first: Changes) -> None:
        """A stream of changes began: those from before are missed."""
        if self.height != 0 and first.height != self.height:
            self._miss(first.height)
        elif not self._from:
            self._from = first.height
        self.height = first.height
        self._publish(first)

    def publish(self, notice: Changes) -> None:
        """Something changed, anything may have, or the SN has a problem."""
        if notice.everything:
            self._miss(notice.height)
        self._publish(notice)

    def _miss(self, height: int) -> None:
        """What changed up to a height is not known."""
        self._remembered.clear()
        self._from = height
        self._tell(Gap(height=height))

    def _publish(self, notice: Changes) -> None:
        changed = Changed(
            height=notice.height,
            contracts=notice.contracts,
            tasks=notice.tasks,
            taskrunners=notice.runners,
            members=notice.members,
            proposals=notice.proposals,
            problem=make_printable(notice.problem),
        )
        names_something = changed != Changed(height=changed.height, problem=changed.problem)
        if not names_something and self._silent is None and changed.problem == self._problem:
            self.height = changed.height  # a sign of life
            return
        if names_something:
            if len(self._remembered) == MAX_REMEMBERED:
                self._from = self._remembered[0].height
            self._remembered.append(changed)
        self.height, self._problem, self._silent = changed.height, changed.problem, None
        self._tell(changed)

    def silent(self, reason: str) -> None:
        """The SN does not answer."""
        told = self._silent is not None
        self._silent = Silent(height=self.height, reason=make_printable(reason))
        if not told:
            self._tell(self._silent)

    def wake(self) -> None:
        """Whom we believe changed: all listeners look whether they may still listen."""
        for listener in self._listeners:
            listener.wake()

    def end(self, reason: str) -> None:
        """Nothing more will come."""
        self._ended = Ended(reason=reason)
        self._tell(self._ended)

    @contextlib.contextmanager
    def listen(self, after: int | None = None) -> Iterator[Listener]:
        """Listen from now on, or from after a height as far as it is remembered."""
        listener = Listener()
        if after is not None and not self._from <= after <= self.height:
            listener.put(Gap(height=self.height))
        for changed in self._remembered:
            if after is not None and changed.height > after:
                listener.put(changed)
        listener.put(Changed(height=self.height, problem=self._problem))
        for event in (self._silent, self._ended):
            if event is not None:
                listener.put(event)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)


def _join(one: Changed, other: Changed) -> Changed:
    """Two changes as one; the newest problem counts."""
    return Changed(
        height=max(one.height, other.height),
        contracts=tuple(sorted({*one.contracts, *other.contracts})),
        tasks=tuple(sorted({*one.tasks, *other.tasks})),
        taskrunners=tuple(sorted({*one.taskrunners, *other.taskrunners})),
        members=one.members or other.members,
        proposals=one.proposals or other.proposals,
        problem=other.problem,
    )
