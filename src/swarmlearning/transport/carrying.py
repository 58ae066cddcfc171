"""Requests that go on although nobody waits for their answers any more.

Cancelling a call hangs up: its connection is closed, and the next call has to shake hands anew, which costs more than
several calls. Whoever learns by another way what came of a request (a block that arrives, a record that moves on)
lets it go on instead; it ends within its own limit.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_UNDER_WAY: Final[set["asyncio.Task[Any]"]] = set()
"""The event loop itself holds tasks weakly only."""


def carry_on(call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Begin a call that is not to be cancelled; what it raises, nobody has to look at."""
    task = asyncio.ensure_future(call)
    _UNDER_WAY.add(task)
    task.add_done_callback(_forget)
    return task


async def carry_through(call: Coroutine[Any, Any, T]) -> T:
    """Await a call; where the caller is cancelled, the call goes on without it.

    Raises:
        Exception: what the call raises.
    """
    return await asyncio.shield(carry_on(call))


def _forget(task: "asyncio.Task[Any]") -> None:
    _UNDER_WAY.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as seen
