"""Work that follows chunks as they come. Spec: docs/spec/round.md, R-9."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from sim_loop import run_virtual

from swarmlearning.sl.following import LEAST_CHUNKS, MOST_CHUNKS, follow

T = TypeVar("T")


class Counted:
    """Notes how far it is driven, and how far what it follows had come then."""

    def __init__(self, total: int, come: Callable[[], int]) -> None:
        self.total = total
        self.done = 0
        self.steps: list[tuple[int, int]] = []
        self._come = come

    def advance(self, upto: int) -> None:
        assert self.done < upto <= self._come()
        self.steps.append((upto - self.done, self._come()))
        self.done = upto


class Bringer:
    """Brings a chunk a second; may fail, hang, or be slow to go."""

    def __init__(self, total: int, fails_at: int = -1, hangs_at: int = -1) -> None:
        self.total = total
        self.come = 0
        self.ended = ""
        self.moved = asyncio.Event()
        self._fails_at = fails_at
        self._hangs_at = hangs_at

    async def bring(self) -> str:
        try:
            while self.come < self.total:
                await asyncio.sleep(1)
                if self.come == self._fails_at:
                    raise OSError("no more")
                if self.come == self._hangs_at:
                    await asyncio.Event().wait()
                self.come += 1
                self.moved.set()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "whole"
        return "what it says"


async def run_slowly(function: Callable[..., T], *args: Any) -> T:
    await asyncio.sleep(0.25)
    return function(*args)


def start(bringer: Bringer) -> "asyncio.Task[str]":
    return asyncio.ensure_future(bringer.bring())


def test_what_is_there_is_worked_on_while_the_rest_is_on_its_way() -> None:
    async def main() -> None:
        bringer = Bringer(100)
        work = Counted(100, lambda: bringer.come)
        task = start(bringer)
        await follow(run_slowly, work, lambda: bringer.come, bringer.moved, [task])
        assert task.result() == "what it says"
        assert work.done == 100
        assert [size for size, _ in work.steps] == [LEAST_CHUNKS] * 6 + [4]
        assert [come for _, come in work.steps] == [16, 32, 48, 64, 80, 96, 100]

    run_virtual(main())


def test_a_step_is_short_even_where_everything_is_there_already() -> None:
    """So nobody waits long for a step that is not wanted any more."""

    async def main() -> None:
        work = Counted(150, lambda: 150)
        await follow(run_slowly, work, lambda: 150, asyncio.Event(), [])
        assert [size for size, _ in work.steps] == [MOST_CHUNKS, MOST_CHUNKS, 22]

    run_virtual(main())


def test_one_that_fails_ends_all_at_once() -> None:
    async def main() -> None:
        one, other = Bringer(10, fails_at=3), Bringer(10, hangs_at=5)
        moved = one.moved = other.moved
        work = Counted(10, lambda: 10)
        tasks = [start(one), start(other)]
        with pytest.raises(OSError, match="no more"):
            await follow(run_slowly, work, lambda: min(one.come, other.come), moved, tasks)
        assert asyncio.get_running_loop().time() == pytest.approx(4.0)
        assert other.ended == "cancelled"
        assert work.done == 0

    run_virtual(main())


def test_one_that_ends_without_all_its_chunks_does_not_hold_up_the_end() -> None:
    """It has its say by what it returns."""

    async def main() -> None:
        short, whole = Bringer(5), Bringer(20)
        moved = short.moved = whole.moved
        work = Counted(20, lambda: 5)
        await follow(run_slowly, work, lambda: min(short.come, whole.come), moved, [start(short), start(whole)])
        assert whole.ended == "whole"
        assert work.done == 5

    run_virtual(main())


@pytest.mark.parametrize("at_s", [3.5, 16.1])
def test_who_is_cancelled_leaves_nobody_behind(at_s: float) -> None:
    """Also in the middle of a step."""

    async def main() -> None:
        bringer = Bringer(100)
        work = Counted(100, lambda: bringer.come)
        driving = asyncio.ensure_future(follow(run_slowly, work, lambda: bringer.come, bringer.moved, [start(bringer)]))
        await asyncio.sleep(at_s)
        driving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driving
        assert bringer.ended == "cancelled"
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_a_step_that_fails_is_told_and_ends_what_brings() -> None:
    async def main() -> None:
        bringer = Bringer(100)
        work = Counted(100, lambda: 0)  # so its own check fails
        with pytest.raises(AssertionError):
            await follow(run_slowly, work, lambda: bringer.come, bringer.moved, [start(bringer)])
        assert bringer.ended == "cancelled"

    run_virtual(main())
