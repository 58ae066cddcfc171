"""A session for each caller: its own contexts and directory, its commands one after another. Spec: CI-22, CI-23.

Does not: know requests. Nothing is kept beyond the service's life.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from swarmlearning.swci.session import Output, Session
from swarmlearning.swci.web.problems import WebRefusal
from swarmlearning.types import NodeId, short_name

MAX_SESSIONS: Final = 32
"""Each may hold connections to an SN, which lets a node have 64."""

MAX_TOLD: Final = 10_000
"""Most lines that a command says while it goes on; the newest are kept."""

BUSY_S: Final = 10.0
"""How long a command waits for the caller's command before it, seconds."""


class Kept:
    """Keeps what a command says while it goes on, the newest of it.

    Attributes:
        console: never a terminal.
    """

    console: Final = None

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_TOLD)

    def tell(self, line: str) -> None:
        """Keep a line."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """What was said, once."""
        lines = list(self._lines)
        self._lines.clear()
        return lines


class Held:
    """A caller's session.

    Attributes:
        session: what commands work on.
        output: what they say.
        running: the verb of the command that goes on; empty while none does.
        users: requests that use it or wait for it.
        used_s: when it was last used, monotonic seconds.
    """

    def __init__(self, session: Session, output: Kept) -> None:
        self.session = session
        self.output = output
        self.running = ""
        self.users = 0
        self.used_s = time.monotonic()
        self._since_s = 0.0
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def alone(self, what: str, within_s: float) -> AsyncIterator[None]:
        """While `what` has the session for itself.

        Raises:
            WebRefusal: another command has it for longer than `within_s` seconds; the message says which.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._lock.acquire()
        except TimeoutError as error:
            going_s = time.monotonic() - self._since_s
            raise WebRefusal(
                429,
                "busy",
                f"another command of yours goes on: {self.running}, for {going_s:.0f} s; wait for it, hang up on it, "
                "or use another certificate",
            ) from error
        self.running, self._since_s = what, time.monotonic()
        try:
            self.output.take()
            yield
        finally:
            self.running = ""
            self._lock.release()


class Sessions:
    """The sessions of all callers; of those that are idle the one that was used the longest ago makes room."""

    def __init__(
        self, make: Callable[[NodeId, Output], Session], *, most: int = MAX_SESSIONS, busy_s: float = BUSY_S
    ) -> None:
        self._make = make
        self._most = most
        self._busy_s = busy_s
        self._held: dict[NodeId, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    @contextlib.asynccontextmanager
    async def use(self, caller: NodeId, what: str) -> AsyncIterator[Held]:
        """The caller's session, for one command alone; one that a command ended begins anew.

        Raises:
            WebRefusal: another command of the caller's goes on, or too many callers' do.
        """
        while True:
            held, evicted = self._hold(caller)
            held.users += 1
            try:
                if evicted is not None:
                    await evicted.session.disconnect()
                async with held.alone(what, self._busy_s):
                    if self._held.get(caller) is not held:
                        continue  # the command before ended it while we waited
                    yield held
                    if held.session.ended:
                        await self._end(caller, held)
                    return
            finally:
                held.users -= 1
                held.used_s = time.monotonic()

    async def close(self) -> None:
        """End all sessions."""
        for caller, held in list(self._held.items()):
            await self._end(caller, held)

    def _hold(self, caller: NodeId) -> tuple[Held, Held | None]:
        """The caller's session, a new one if there is none, and the one that made room for it, to be disconnected."""
        known = self._held.get(caller)
        if known is not None:
            return known, None
        evicted = self._make_room() if len(self._held) >= self._most else None
        output = Kept()
        made = self._held[caller] = Held(self._make(caller, output), output)
        return made, evicted

    def _make_room(self) -> Held:
        idle = [(held.used_s, known) for known, held in self._held.items() if not held.users]
        if not idle:
            busy = ", ".join(f"{short_name(known)} ({held.running})" for known, held in self._held.items())
            message = f"{self._most} callers have commands going on, the most there can be: {busy}; try later"
            raise WebRefusal(429, "busy", message)
        _, oldest = min(idle)
        return self._held.pop(oldest)

    async def _end(self, caller: NodeId, held: Held) -> None:
        """The caller's next command begins a new session."""
        if self._held.get(caller) is held:
            del self._held[caller]
        await held.session.disconnect()
