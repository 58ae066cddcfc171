"""Waiting until a taskrunner has nothing to do any more, by asking for its status again and again.

Spec: docs/spec/swci-python.md, CI-67. Does not: know where the lines come from.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from swarmlearning.errors import DecodeError, Refused, Unreachable, WaitExpired
from swarmlearning.transport.wire import CERTIFICATE

DONE: Final = ("COMPLETE", "ERROR", "IDLE")
"""States in which a taskrunner does nothing."""

LONGEST_S: Final = 7 * 24 * 3600.0
"""How long is waited if nobody says how long, seconds."""

PATIENCE_S: Final = 300.0
"""How long a service or its SN may be out of reach while a task goes on, seconds."""


class RunnerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the lines of GET TASKRUNNER STATUS say."""

    state: str
    task: str
    """Empty where they do not say; so are the next two."""
    reason: str
    """Why the task failed."""
    progress: str
    """Whom it waits for, or how it ended."""
    lines: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether it does nothing any more, or yet."""
        return self.state in DONE

    @property
    def summary(self) -> str:
        """How the task is, in one line: in short if the service has a line for that, else all that it said."""
        if self.progress:
            return f"{self.state}: {self.progress}"
        return "; ".join(line.strip() for line in self.lines if line.strip())


def read_status(lines: Sequence[str]) -> RunnerStatus:
    """Read the lines of GET TASKRUNNER STATUS.

    Raises:
        DecodeError: none of them tells the state.
    """
    state = _find("TASK_STATE", lines)
    if not state:
        raise DecodeError("GET TASKRUNNER STATUS answered no line with TASK_STATE; is the service a newer one?")
    return RunnerStatus(
        state=state,
        task=_find("TASK_NAME", lines),
        reason=_find("REASON", lines),
        progress=_find("PROGRESS", lines),
        lines=tuple(lines),
    )


def _find(name: str, lines: Sequence[str]) -> str:
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and name in key.upper().replace(" ", "_"):
            return value.strip()
    return ""


def wait_for_runner(
    ask: Callable[[], Sequence[str]],
    what: str,
    *,
    limit_s: float,
    poll_s: float,
    known: bool,
    notice: Callable[[RunnerStatus], None],
    complain: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> RunnerStatus:
    """The status of a taskrunner, once it does nothing any more.

    Args:
        ask: gives the lines of its status; see `Service.exec` for what it raises.
        what: what is waited for, for people.
        limit_s: how long is waited, seconds.
        poll_s: how long between two questions, seconds.
        known: that there is such a taskrunner; otherwise a first question that is refused ends the wait.
        notice: is given each status while the wait goes on.
        complain: is told that the service is out of reach, and that it is tried further.
        clock: seconds from anywhere on.
        sleep: waits that many seconds; what it raises, such as `KeyboardInterrupt`, ends the wait.

    Raises:
        WaitExpired: it goes on after `limit_s` seconds; the message has its status.
        Unreachable, Refused: it could not be asked for `PATIENCE_S` seconds and two questions.
        SwarmError: see `Service.exec`.
    """
    end_s = clock() + limit_s
    heard_s, status, silent = clock(), None, 0
    while True:
        try:
            status, heard_s, silent = read_status(ask()), clock(), 0
        except (Unreachable, Refused) as error:
            silent += 1
            known = known or status is not None
            # Refused is also what the service says while its SN is out of reach, or another command goes on.
            hopeless = isinstance(error, Refused) and (not known or error.code == CERTIFICATE)
            if hopeless or (silent > 1 and clock() - heard_s >= PATIENCE_S):
                raise
            complain(f"waiting for {what}: {error}; trying again")
        else:
            if status.is_done:
                return status
            notice(status)
        left_s = end_s - clock()
        if left_s <= 0:
            last = status.summary if status is not None else "nothing was heard"
            raise WaitExpired(f"waited {limit_s:g} s for {what}; it goes on: {last}")
        sleep(min(poll_s, left_s))


def explain_end(task: str, runner: str, status: RunnerStatus) -> Refused:
    """The error for a task that did not complete."""
    if status.state == "IDLE":
        return Refused(f"task {task} did not complete: taskrunner {runner} was reset meanwhile", code="reset")
    why = f"{status.reason}; {status.summary}" if status.reason else status.summary
    return Refused(f"task {task} on {runner} ended with {status.state}: {why}", code="task-failed")
