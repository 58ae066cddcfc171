"""Requests that go on although nobody waits for their answers any more. Spec: docs/spec/transport.md, X-10.

Cancelling a call hangs up: its connection is closed, and the next call has to shake hands anew, which costs more than
several calls. Whoever learns by another way what came of a request (a block that arrives, a record that moves on)
lets it go on instead; it ends within its own limit, or with its carrier.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Carrier:
    """Calls under way that outlive those who wait for them, until it is closed."""

    def __init__(self) -> None:
        self._alone: set[asyncio.Task[Any]] = set()
        """Calls that nobody has to wait for (any more)."""
        self._closed = False

    def begin(self, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begin a call that its caller is not to cancel; what it raises, nobody has to look at."""
        task = asyncio.ensure_future(call)
        self._leave(task)
        return task

    async def carry(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call; where the caller is cancelled, the call goes on without it, unless this is closed.

        Raises:
            Exception: what the call raises.
        """
        task = asyncio.ensure_future(call)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._leave(task)
            if self._closed:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            raise

    async def close(self) -> None:
        """End the calls that nobody waits for; from now on a call ends with its caller."""
        self._closed = True
        tasks = list(self._alone)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self, task: "asyncio.Task[Any]") -> None:
        if not task.done():
            self._alone.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._alone.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen
