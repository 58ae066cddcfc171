"""Work that follows chunks as they come: what is there is worked on while the rest is on its way.

The work is done in small blocking steps, driven from the event loop: no thread waits for anything, so that whoever is
cancelled or stopped leaves at most one short step behind.

Does not: know what the work is (`merging`, `store`), or pull (`pulling`, `fetching`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from swarmlearning.sl.desk import RunBlocking

LEAST_CHUNKS: Final = 16
"""A step is worth a thread from 1 MiB on."""

MOST_CHUNKS: Final = 64
"""At most 4 MiB (of each contributor) in a step: nobody waits long for one that is not wanted any more."""


class Work(Protocol):
    """Work over chunks in their order."""

    @property
    def done(self) -> int:
        """How many chunks have been worked on."""
        ...

    @property
    def total(self) -> int:
        """How many there are."""
        ...

    def advance(self, upto: int) -> None:
        """Work until `upto` chunks are done; blocks. What is done already is not done again."""
        ...


async def follow(
    run_blocking: RunBlocking,
    work: Work,
    ready: Callable[[], int],
    moved: asyncio.Event,
    tasks: Sequence["asyncio.Future[Any]"],
) -> None:
    """Drive `work` over the chunks that `tasks` bring, until all tasks have ended and what they brought is done.

    Ends early with the first task that fails. No task goes on afterwards, however this ends.

    Args:
        run_blocking: runs a step.
        work: to be driven.
        ready: how many chunks, in order, are there to be worked on.
        moved: set by whoever brings chunks; each of the tasks has limits of its own, so this ends with them.
        tasks: what brings the chunks.

    Raises:
        What a task or a step raises.
    """
    for task in tasks:
        task.add_done_callback(lambda _: moved.set())
    try:
        while True:
            moved.clear()
            for task in tasks:
                if task.done():
                    task.result()
            ended = all(task.done() for task in tasks)
            upto = min(ready(), work.total)
            if upto - work.done >= (1 if ended or upto == work.total else LEAST_CHUNKS):
                await run_blocking(work.advance, min(upto, work.done + MOST_CHUNKS))
            elif ended:
                return
            else:
                await moved.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
