"""Tells the ledger how far an assignment is: states at once, words at most every two seconds, always the newest only.

Does not decide what is said: it reads the journal's entry. Spec: docs/spec/swop.md, SW-9.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from swarmlearning.contracts.messages import ReportTask
from swarmlearning.contracts.task_records import FAILED, Unit, WorkState
from swarmlearning.errors import Refused, SwarmError
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.journal import Entry
from swarmlearning.swop.link import AGAIN_S, Link, is_passing
from swarmlearning.swop.telling import Private, tell_others
from swarmlearning.types import Code

log = logging.getLogger("swarmlearning.swop")

QUIET_S: Final = 2.0
"""Least time between two reports in which no state differs, seconds."""

_OVER: Final = frozenset({Code.STALE.name.lower(), Code.CONFLICT.name.lower(), Code.NOT_FOUND.name.lower()})


def make_report(entry: Entry, private: Private = ()) -> ReportTask:
    """What an entry says, for the ledger: W-12; `private` is what it does not say of this host."""
    state, description = entry.state, entry.description
    summed = sum_up(entry.planned, tuple(item.unit for item in entry.pairs)) if entry.pairs else None
    if state is WorkState.RUNNING and summed is not None and summed[0] is WorkState.COMPLETE:
        # Said with its last peer, so that nobody sees it at work with nothing left to do.
        state, description = summed
    units = (
        msgspec.structs.replace(item.unit, description=tell_others(item.unit.description, private, entry.places))
        for item in entry.pairs
    )
    return ReportTask(
        runner=entry.runner,
        number=entry.number,
        state=state,
        description=tell_others(description, private, entry.places),
        units=tuple(sorted(units, key=lambda unit: unit.uid)),
        approved_by=entry.approved_by,
        evidence=entry.evidence,
    )


def _states(report: ReportTask) -> tuple[object, ...]:
    return report.state, report.approved_by, tuple((unit.uid, unit.state) for unit in report.units)


class Reporter:
    """Reports one assignment."""

    def __init__(self, link: Link, read: Callable[[], Entry], private: Private = ()) -> None:
        """Report what `read` gives, but for what is `private`, whenever `changed` is called."""
        self._link = link
        self._entry = read
        self._private = private
        self._news = asyncio.Event()
        self._sent: ReportTask | None = None
        self.refused = ""
        """Why the ledger takes no more reports of this assignment; empty while it may."""

    def _read(self) -> ReportTask:
        return make_report(self._entry(), self._private)

    def changed(self) -> None:
        """There is something new to say, perhaps."""
        self._news.set()

    async def run(self) -> None:
        """Report until the entry is over and the ledger has that, or takes no more reports."""
        loop = asyncio.get_running_loop()
        last_s = float("-inf")
        while True:
            report = self._read()
            if report != self._sent:
                before = self._sent
                if before is not None and _states(before) == _states(report):
                    # Words only: wait, unless a state changes meanwhile.
                    await self._wait(last_s + QUIET_S - loop.time(), before)
                    report = self._read()
                last_s = loop.time()
                if not await self._send(report):
                    continue
                if self.refused:
                    return
            if self._entry().is_over and self._sent == self._read():
                return
            await self._news.wait()
            self._news.clear()

    async def _wait(self, limit_s: float, before: ReportTask) -> None:
        """For so long, or until a state differs from what was said before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, limit_s)):
                while _states(self._read()) == _states(before):
                    await self._news.wait()
                    self._news.clear()

    async def _send(self, report: ReportTask) -> bool:
        """Say it; whether it was answered, by whatever. What was not is said again, by then the newest."""
        try:
            await self._link.say(lambda submitter: submitter.require(report))
        except SwarmError as error:
            if is_passing(error):
                log.debug("%s %d: reported later: %s", report.runner, report.number, error)
                await asyncio.sleep(AGAIN_S)
                return False
            text = make_printable(str(error))
            if isinstance(error, Refused) and error.code in _OVER:
                log.info("%s %d: the ledger takes no report of it any more: %s", report.runner, report.number, text)
                self.refused = text
            else:
                log.warning("%s %d: a report was refused: %s", report.runner, report.number, text)
        self._sent = report
        return True


def sum_up(planned: int, units: tuple[Unit, ...]) -> tuple[WorkState, str] | None:
    """W-12: the agent's own state when all its peers have ended, and what to say of it; None before that."""
    if len(units) < planned or any(unit.state not in {*FAILED, WorkState.COMPLETE} for unit in units):
        return None
    failed = [unit for unit in units if unit.state in FAILED]
    if not failed:
        return WorkState.COMPLETE, f"all {planned} peers complete"
    first = failed[0]
    return WorkState.ERROR, f"{len(failed)} of {planned} peers failed; {first.description}"
