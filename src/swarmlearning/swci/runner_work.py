"""What `Swci` does about a taskrunner's task in several commands: assign, wait, look, reset. Spec: CI-67."""

import logging
from collections.abc import Callable
from typing import Final

from swarmlearning.errors import SwarmError
from swarmlearning.swci.commander import Commander, check_seconds
from swarmlearning.swci.runner_waiting import RunnerStatus, explain_end, wait_for_runner
from swarmlearning.transport.wire import one_line

RULER: Final = "=" * 40
"""Between the parts of a report."""

_MAX_AGENTS: Final = 256

Callback = Callable[[list[str]], object]
"""Is given the lines of a taskrunner's status."""


class RunnerWork:
    """Follows taskrunners by commands."""

    def __init__(self, commander: Commander, logger: logging.Logger) -> None:
        self._ask = commander.ask
        self._note_final = commander.note_final
        self._logger = logger

    def execute(self, task: str, runner: str, peers: int, *, limit_s: float, poll_s: float, reset: bool) -> list[str]:
        """Assign a task, wait for its end, and reset its taskrunner if it completed and that is wanted.

        Returns:
            The status of the taskrunner and of each of its agents, each followed by `RULER`.

        Raises:
            Refused: it could not be assigned, or did not complete; the message has the reason.
            WaitExpired: it goes on after `limit_s` seconds.
            SwarmError: see `Commander.ask`.
        """
        check_seconds("timeoutInSec", limit_s)
        check_seconds("pollWaitInSec", poll_s)
        self._ask("ASSIGN TASK {} TO {} WITH {} PEERS", task, runner, peers)
        self._note_final(task)
        self._logger.info("task %s is assigned to %s", task, runner)
        status = self._follow(f"task {task} on {runner}", runner, limit_s, poll_s, None, known=True)
        report = [*status.lines, RULER, *self._agents(runner)]
        for line in report:
            self._logger.info("%s", line)
        if status.state != "COMPLETE" or status.task not in ("", task):
            raise explain_end(task, runner, status)
        if reset:
            self._reset(runner)
        return report

    def wait(self, runner: str, limit_s: float, poll_s: float, callback: Callback | None) -> RunnerStatus:
        """The status of a taskrunner, once it does nothing any more.

        Raises:
            WaitExpired: it goes on after `limit_s` seconds.
            SwarmError: see `Commander.ask`.
        """
        check_seconds("timeoutInSec", limit_s)
        check_seconds("pollWaitInSec", poll_s)
        return self._follow(f"taskrunner {runner}", runner, limit_s, poll_s, callback, known=False)

    def _follow(
        self, what: str, runner: str, limit_s: float, poll_s: float, callback: Callback | None, *, known: bool
    ) -> RunnerStatus:
        def notice(status: RunnerStatus) -> None:
            self._logger.info("waiting for %s: %s", what, status.summary)
            if callback is not None:
                callback(list(status.lines))

        try:
            return wait_for_runner(
                lambda: self._ask("GET TASKRUNNER STATUS {}", runner),
                what,
                limit_s=limit_s,
                poll_s=poll_s,
                known=known,
                notice=notice,
                complain=lambda text: self._logger.warning("%s", text),
            )
        except KeyboardInterrupt:
            self._logger.warning("no longer waiting for %s; it goes on", what)
            raise

    def _reset(self, runner: str) -> None:
        """Its task completed, so that this is no failure of it."""
        try:
            self._ask("RESET TASKRUNNER {}", runner)
        except SwarmError as error:
            self._logger.warning("taskrunner %s could not be reset: %s", runner, one_line(str(error)))

    def _agents(self, runner: str) -> list[str]:
        lines: list[str] = []
        for index in range(_MAX_AGENTS):
            try:
                lines += [*self._ask("GET TASKRUNNER PEER STATUS {} {}", runner, index), RULER]
            except SwarmError:
                break  # there are no more; and if they could not be asked for, the end is known all the same
        return lines
