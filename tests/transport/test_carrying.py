"""Requests that go on although nobody waits for them any more: docs/spec/transport.md, X-10."""

import asyncio

import pytest

from swarmlearning.errors import Unreachable
from swarmlearning.transport.carrying import carry_on, carry_through


def test_x10_a_call_outlives_the_caller_that_is_cancelled() -> None:
    async def work() -> None:
        may_end, ended = asyncio.Event(), asyncio.Event()

        async def call() -> int:
            await may_end.wait()
            ended.set()
            return 7

        caller = asyncio.ensure_future(carry_through(call()))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        may_end.set()
        async with asyncio.timeout(5):
            await ended.wait()

    asyncio.run(work())


def test_x10_the_caller_gets_what_the_call_gives_or_raises() -> None:
    async def work() -> None:
        async def give() -> int:
            return 7

        async def fail() -> int:
            raise Unreachable("nobody is there")

        assert await carry_through(give()) == 7
        with pytest.raises(Unreachable, match="nobody is there"):
            await carry_through(fail())

    asyncio.run(work())


def test_x10_what_a_call_raises_that_nobody_waits_for_is_no_fault() -> None:
    complaints: list[object] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

        async def fail() -> int:
            raise Unreachable("nobody is there")

        task = carry_on(fail())
        await asyncio.wait({task})
        del task

    asyncio.run(work())
    assert complaints == []
