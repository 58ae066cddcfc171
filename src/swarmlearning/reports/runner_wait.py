"""Waiting until a taskrunner has nothing to do any more, while it is said who is waited for. Spec: CI-59.

Follows the ledger through a client that is given; goes on when its SN was away. Does not: know who asked.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from swarmlearning.contracts.task_records import ACTIVE, RunnerState, Taskrunner
from swarmlearning.errors import Refused, Unreachable, WaitExpired
from swarmlearning.reports.runners import explain_runner, find_runner, tell_text
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import show_seconds
from swarmlearning.sn.client import SnClient
from swarmlearning.types import RunnerName

BEGIN_S: Final = 120.0
"""How long a wait tries to begin at an SN that does not answer, seconds."""

_AGAIN_S: Final = 1.0
"""How long after an SN fell silent it is tried again, seconds."""


class RunnerWait:
    """One wait for the task that a taskrunner had when it began.

    Attributes:
        runner: the newest record.
    """

    def __init__(self, client: SnClient, runner: Taskrunner, tell: Callable[[str], None]) -> None:
        """Wait for what `runner` has; `tell` is given a line whenever what is waited for changes."""
        self._client = client
        self._tell = tell
        self._told = ""
        self._away = ""
        self._behind = ""
        self.runner = runner

    async def until_done(self, limit_s: float) -> Taskrunner:
        """CI-59: the taskrunner, once its task completed; at once if it has none.

        Raises:
            WaitExpired: it goes on after `limit_s` seconds; the message says who is waited for.
            Refused: the task failed (code `task_failed`), or the taskrunner was reset meanwhile (code `reset`).
            VerificationError: see `transport.api.Client.call`.
        """
        if self.runner.state not in ACTIVE:
            return self._judge(self.runner)
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    if await self._follow():
                        break
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError as error:
            away = f"; {self._away or self._behind}" if self._away or self._behind else ""
            waited = f"{self.runner.name} is not done after {show_seconds(round(limit_s))}"
            raise WaitExpired(f"{waited}: {explain_runner(self.runner)}{away}") from error
        return self._judge(self.runner)

    async def _follow(self) -> bool:
        """Read the record after every change of it; whether the wait is over. Not so: the SN fell silent."""
        name = self.runner.name
        self._say(explain_runner(self.runner))
        try:
            changes = self._client.changes()
            async with aclosing(changes):  # type: ignore[type-var]  # it is a generator
                async for change in changes:
                    self._note_problem(change.problem)
                    # The first notice says everything, as does one after a snapshot.
                    if not change.everything and name not in change.runners:
                        continue
                    # Nothing is missed: what changes while the record is read comes with a later notice.
                    before = self.runner
                    self.runner = await find_runner(self._client, name)
                    if self._away:
                        self._away = ""
                        self._tell(f"# the SN at {self._client.address.endpoint} answers again")
                    if self._is_over(before):
                        return True
                    self._say(explain_runner(self.runner))
            problem = "it ended the stream of changes"
        except Unreachable as error:
            problem = make_printable(str(error))
        if not self._away:
            self._tell(f"# the SN at {self._client.address.endpoint} does not answer: {problem}; trying again")
        self._away = f"its SN does not answer: {problem}"
        return False

    def _is_over(self, before: Taskrunner) -> bool:
        """Whether the record is of another assignment, or of an ended one."""
        number = before.assignment.number if before.assignment else 0
        now = self.runner.assignment
        if now is None or now.number != number:
            given = f" and given {now.task}" if now else ""
            task = before.assignment.task if before.assignment else "a task"
            raise Refused(f"{self.runner.name} was reset{given} before {task} was done", code="reset")
        return self.runner.state not in ACTIVE

    def _note_problem(self, problem: str) -> None:
        """An SN that answers but does not follow the ledger knows nothing new: that is waited for, too."""
        sn, before = f"the SN at {self._client.address.endpoint}", self._behind
        self._behind = f"{sn} does not follow the ledger: {make_printable(problem)}" if problem else ""
        if self._behind and not before:
            self._tell(f"# {self._behind}; waiting")
        elif before and not self._behind:
            self._tell(f"# {sn} follows the ledger again")

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._tell(f"# {text}")

    @staticmethod
    def _judge(runner: Taskrunner) -> Taskrunner:
        if runner.state is not RunnerState.ERROR or runner.assignment is None:
            return runner
        raise Refused(
            f"{runner.assignment.task} on {runner.name} ended with ERROR: {tell_text(runner.reason)}",
            code="task_failed",
        )


async def begin_wait(client: SnClient, name: RunnerName, tell: Callable[[str], None]) -> RunnerWait:
    """A wait for the task that a taskrunner has now; an SN that is away may come back within `BEGIN_S` seconds.

    Raises:
        NotFound: there is no such taskrunner.
        Unreachable: the SN did not come back.
        VerificationError, Refused: see `SnClient.runner`.
    """
    clock = asyncio.get_running_loop().time
    end_s = clock() + BEGIN_S
    told = False
    while True:
        try:
            return RunnerWait(client, await find_runner(client, name), tell)
        except Unreachable as error:
            if clock() >= end_s:
                raise
            if not told:
                tell(
                    f"# the SN at {client.address.endpoint} does not answer: {make_printable(str(error))}; trying again"
                )
            told = True
        await asyncio.sleep(_AGAIN_S)
