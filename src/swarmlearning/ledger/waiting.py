"""Everyone who waits on an engine: for a transaction, for a height, for its end; and the reason of that end.

Each wait ends when what it waits for happens or the engine halts; limits in time are the caller's. Nothing polls.
"""

import asyncio
import contextlib
from collections.abc import Iterator

from swarmlearning.errors import SwarmError
from swarmlearning.ledger.boundary import TxResult

Outcome = tuple[int, TxResult]
"""Height of the block that holds a transaction (0: in none, refused before) and its result."""


class Waiting:
    """Wakes those who wait on one engine."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._watchers: dict[bytes, set[asyncio.Future[Outcome]]] = {}
        self._halted: SwarmError | None = None
        self._end = asyncio.Event()

    @property
    def halted(self) -> SwarmError | None:
        """Why the engine takes no further part, None while it does."""
        return self._halted

    def check_running(self) -> None:
        """Do nothing while the engine runs.

        Raises:
            SwarmError: why it does not.
        """
        if self._halted is not None:
            raise self._halted

    @contextlib.contextmanager
    def watching(self, tx_hash: bytes) -> Iterator[asyncio.Future[Outcome]]:
        """A future that gets a transaction's outcome once it is committed here or refused, or the engine's end.

        Raises:
            SwarmError: the engine has halted.
        """
        self.check_running()
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(tx_hash, set()).add(future)
        try:
            yield future
        finally:
            watchers = self._watchers.get(tx_hash, set())
            watchers.discard(future)
            if not watchers:
                self._watchers.pop(tx_hash, None)
            if future.done() and not future.cancelled():
                future.exception()  # marks an error as seen, for a waiter that left at the same moment

    def tell(self, tx_hash: bytes, outcome: Outcome) -> None:
        """Give whoever watches a transaction its outcome."""
        for future in self._watchers.pop(tx_hash, set()):
            if not future.done():
                future.set_result(outcome)

    async def next_news(self) -> None:
        """Wait for the next block.

        Raises:
            SwarmError: the engine halted.
        """
        self.check_running()
        await self._news.wait()
        self.check_running()

    def announce(self) -> None:
        """There is a new block."""
        self._news.set()
        self._news = asyncio.Event()

    def halt(self, error: SwarmError) -> None:
        """Take no further part, for good: everyone who waits gets `error`. The first reason stays."""
        if self._halted is not None:
            return
        self._halted = error
        for watchers in self._watchers.values():
            for future in watchers:
                if not future.done():
                    future.set_exception(error)
        self._watchers.clear()
        self._end.set()
        self.announce()

    async def end(self) -> None:
        """Wait until the engine halts.

        Raises:
            SwarmError: why it did.
        """
        await self._end.wait()
        self.check_running()
