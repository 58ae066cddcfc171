"""The local door as a rehearsal uses it: a session that can also ask for drills, and a limit for every wait."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final, TextIO

from swarmlearning.callbacks.connection import unexpected
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.errors import Closed, WaitExpired
from swarmlearning.sl.control import Drill, Drilled
from swarmlearning.types import NodeId

_PREFIX: Final = "Waiting: "

_TOO_FEW: Final = "peers have enrolled"
"""In what an SL waits for (T-33) when too few are enrolled. Were it worded otherwise, the time limit would still end
the wait."""


class RehearsalSession(SwarmSession):
    """A training under a name that begins with `rehearsal/`."""

    is_model = False

    def drill(self, kind: str, peer: NodeId, seconds: int) -> Drilled:
        """Let something go wrong with this site's SL, or, with `none`, let nothing be wrong any more.

        Raises:
            Refused: the SL refuses the drill.
            Unreachable: the SL went away.
            ValueError: there is no such drill.
        """
        self._require_open()
        if kind not in ("none", "slow", "cut", "kill"):
            raise ValueError(f"drill {kind!r}")
        if self._connection is None:
            raise Closed("SWARM_LOOPBACK is set, so there is no SL to drill: unset it")
        drill = Drill(kind=kind, peer=peer, seconds=seconds)  # type: ignore[arg-type]  # checked above
        reply = self._connection.ask(drill, None)
        if not isinstance(reply, Drilled):
            raise unexpected("Drill", reply)
        return reply


class WaitMemory(logging.Handler):
    """Remembers what is waited for, and shows it."""

    def __init__(self, shown_on: TextIO) -> None:
        """Show on `shown_on`, one line each."""
        super().__init__()
        self.newest = ""
        self._shown_on = shown_on
        self._together = ""

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the session's log.

        Raises:
            WaitExpired: all were here, and somebody has left.
        """
        text = record.getMessage()
        if text.startswith(_PREFIX):
            self.newest = text.removeprefix(_PREFIX)
        print(f"  {text[:1].lower()}{text[1:]}", file=self._shown_on, flush=True)
        if self._together and _TOO_FEW in self.newest:
            raise WaitExpired(f"{self._together}: a site was interrupted, or its SL has left: {self.newest}")

    @contextlib.contextmanager
    def limit(self, seconds: float, what: str, *, together: bool = False) -> Iterator[None]:
        """End what is done in this block after so long, with the newest thing that was waited for.

        By the main thread's alarm clock: a session blocks, and has no limit that is shorter than its SL's.

        Args:
            seconds: how long.
            what: is done, for people.
            together: all sites have been here: end at once when the SL says that there are too few.

        Raises:
            WaitExpired: the time is over, or somebody has left.
        """
        self.newest, self._together = "", what if together else ""

        def expire(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a signal handler's arguments
            raise WaitExpired(f"{what}: waited {seconds:.0f} s: {self.newest or 'the SL said nothing'}")

        before = signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._together = ""


def memory_logger(memory: WaitMemory) -> logging.Logger:
    """A logger for sessions that writes to nothing but `memory`."""
    logger = logging.getLogger("swarm rehearse")
    logger.handlers = [memory]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return logger
