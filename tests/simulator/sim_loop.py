"""Virtual time: an event loop whose clock jumps to the next timer when nothing is ready."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_MS = 1_800_000_000_000
"""Wall-clock time at which every simulation begins, milliseconds since the epoch."""


MAX_STEPS = 400_000
"""Turns of the loop after which a run is one that never ends; the longest of the tests takes some 50,000."""


class Stuck(AssertionError):
    """Nothing is ready, no timer runs, and the work is not done; or it goes round and round; says who waits."""


class _VirtualSelector(selectors.DefaultSelector):
    """Instead of waiting, moves the loop's clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("everybody waits and no timer runs:\n" + describe_tasks(self.loop))
        self.steps += 1
        if self.steps == MAX_STEPS:
            raise Stuck(f"after {MAX_STEPS} turns of the loop, {self.now:.1f} s:\n" + describe_tasks(self.loop))
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)
        self._virtual.loop = self

    def time(self) -> float:
        return self._virtual.now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a loop with virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def wall_clock() -> int:
    """Milliseconds since the epoch, by the running loop."""
    return START_MS + int(asyncio.get_running_loop().time() * 1000)


def describe_tasks(loop: asyncio.AbstractEventLoop | None) -> str:
    """What each task waits for: its chain of coroutines, innermost last."""
    lines = []
    for task in asyncio.all_tasks(loop) if loop is not None else ():
        chain: list[str] = []
        at: Any = task.get_coro()
        while at is not None and len(chain) < 12:
            code = getattr(at, "cr_code", None) or getattr(at, "ag_code", None)
            frame = getattr(at, "cr_frame", None) or getattr(at, "ag_frame", None)
            if code is not None:
                chain.append(
                    f"{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"
                    f":{frame.f_lineno if frame is not None else '?'}"
                )
            at = getattr(at, "cr_await", None) or getattr(at, "ag_await", None)
        lines.append(" > ".join(chain))
    return "\n".join(sorted(lines))
