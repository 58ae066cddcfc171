"""Requests that go on although nobody waits for them any more: docs/spec/transport.md, X-10."""

import asyncio

import pytest

from swarmlearning.errors import Unreachable
from swarmlearning.transport.carrying import Carrier


def test_x10_a_call_outlives_the_caller_that_is_cancelled() -> None:
    async def work() -> None:
        may_end, ended = asyncio.Event(), asyncio.Event()

        async def call() -> int:
            await may_end.wait()
            ended.set()
            return 7

        carrier = Carrier()
        caller = asyncio.ensure_future(carrier.carry(call()))
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

        assert await Carrier().carry(give()) == 7
        with pytest.raises(Unreachable, match="nobody is there"):
            await Carrier().carry(fail())

    asyncio.run(work())


def test_x10_what_a_call_raises_that_nobody_waits_for_is_no_fault() -> None:
    complaints: list[object] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

        async def fail() -> int:
            raise Unreachable("nobody is there")

        task = Carrier().begin(fail())
        await asyncio.wait({task})
        del task

    asyncio.run(work())
    assert complaints == []


def test_x10_closing_a_carrier_ends_what_nobody_waits_for_and_later_calls_end_with_their_callers() -> None:
    async def work() -> None:
        ended: list[str] = []

        async def call(which: str, may_end: asyncio.Event) -> str:
            try:
                await may_end.wait()
            finally:
                ended.append(which)
            return which

        carrier, never, soon = Carrier(), asyncio.Event(), asyncio.Event()
        left, waiting, last = (
            asyncio.ensure_future(carrier.carry(call(which, event)))
            for which, event in (("left", never), ("waited for", soon), ("last", never))
        )
        carrier.begin(call("begun", never))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert ended == []
        await carrier.close()
        assert sorted(ended) == ["begun", "left"]
        soon.set()
        assert await waiting == "waited for"
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        assert ended[2:] == ["waited for", "last"]

    asyncio.run(work())
