"""Server-sent events: what changes on the ledger, told to any number of listeners: CI-29."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sim_loop import run_virtual
from swci_world import A, Swarm
from web_table import TABLE
from web_world import Caller, Service, serving

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import CreateContract, CreateTaskrunner
from swarmlearning.errors import Unreachable
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.sn.api import Changes, Directory
from swarmlearning.swci.web.following import Follower
from swarmlearning.swci.web.hub import MAX_REMEMBERED, Hub, Listener
from swarmlearning.swci.web.wire import Changed, Ended, Event, Gap, Silent
from swarmlearning.transport.server import ServerLimits
from swarmlearning.types import ContractName, RunnerName

ONE: Final = ContractName("one")
TWO: Final = ContractName("two")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


# --- the hub ----------------------------------------------------------------------------------------------------


def begun(height: int = 5) -> Hub:
    hub = Hub()
    hub.begin(Changes(height=height))
    return hub


async def told(listener: Listener) -> list[Event]:
    return await listener.take(0)


def test_ci29_the_first_event_comes_at_once_and_names_nothing() -> None:
    async def story() -> None:
        with begun().listen() as listener:
            assert await told(listener) == [Changed(height=5)]
            assert await told(listener) == []

    run(story())


def test_ci29_all_listeners_are_told_and_a_slow_one_is_told_changes_as_one() -> None:
    async def story() -> None:
        hub = begun()
        with hub.listen() as quick, hub.listen() as slow:
            await told(quick)
            hub.publish(Changes(height=6, contracts=(TWO,), members=True, problem="old"))
            assert await told(quick) == [Changed(height=6, contracts=(TWO,), members=True, problem="old")]
            hub.publish(Changes(height=7, contracts=(ONE, TWO), runners=(RunnerName("r"),), problem=""))
            assert await told(quick) == [Changed(height=7, contracts=(ONE, TWO), taskrunners=(RunnerName("r"),))]
            assert await told(slow) == [
                Changed(height=7, contracts=(ONE, TWO), taskrunners=(RunnerName("r"),), members=True)
            ]

    run(story())


def test_ci29_a_sign_of_life_is_no_news_and_a_problem_is() -> None:
    async def story() -> None:
        hub = begun()
        with hub.listen() as listener:
            await told(listener)
            hub.publish(Changes(height=6))
            assert await told(listener) == []
            hub.publish(Changes(height=6, problem="the sentinel\x1b[2J is gone"))
            (event,) = await told(listener)
            assert isinstance(event, Changed)
            assert event.problem.isprintable()
            hub.publish(Changes(height=6))
            assert await told(listener) == [Changed(height=6)]

    run(story())


def test_ci29_who_comes_back_is_told_what_it_missed() -> None:
    async def story() -> None:
        hub = begun()
        for height, name in ((6, ONE), (7, TWO)):
            hub.publish(Changes(height=height, contracts=(name,)))
        for after, names in ((5, (ONE, TWO)), (6, (TWO,)), (7, ())):
            with hub.listen(after) as listener:
                assert await told(listener) == [Changed(height=7, contracts=names)]

    run(story())


@pytest.mark.parametrize("after", [4, 8, 10**17])
def test_ci29_who_missed_more_than_is_remembered_is_told_of_the_gap(after: int) -> None:
    async def story() -> None:
        hub = begun()
        hub.publish(Changes(height=7, contracts=(ONE,)))
        with hub.listen(after) as listener:
            gap, changed = await told(listener)
            assert gap == Gap(height=7)
            assert isinstance(changed, Changed)

    run(story())


def test_ci29_only_so_many_changes_are_remembered() -> None:
    async def story() -> None:
        hub = begun()
        for number in range(MAX_REMEMBERED + 2):
            hub.publish(Changes(height=6 + number, contracts=(ContractName(f"c{number}"),)))
        with hub.listen(7) as listener:
            (changed,) = await told(listener)
            assert isinstance(changed, Changed)
            assert len(changed.contracts) == MAX_REMEMBERED
        with hub.listen(6) as listener:
            assert Gap(height=hub.height) in await told(listener)

    run(story())


def test_ci29_a_silent_sn_is_told_once_and_what_was_missed_meanwhile_is_a_gap() -> None:
    async def story() -> None:
        hub = begun()
        with hub.listen() as listener:
            await told(listener)
            hub.silent("no frame within 15 s")
            hub.silent("refused")
            assert await told(listener) == [Silent(height=5, reason="no frame within 15 s")]
            with hub.listen() as late:
                assert await told(late) == [Changed(height=5), Silent(height=5, reason="refused")]
            hub.begin(Changes(height=9))
            assert await told(listener) == [Gap(height=9), Changed(height=9)]
            assert hub.silence == ""
            hub.silent("again")
            await told(listener)
            hub.begin(Changes(height=9))  # nothing happened meanwhile
            assert await told(listener) == [Changed(height=9)]
            with hub.listen(5) as old:
                assert Gap(height=9) in await told(old)

    run(story())


def test_ci29_the_end_is_told_also_to_who_comes_late() -> None:
    async def story() -> None:
        hub = begun()
        with hub.listen() as listener:
            hub.end("stops")
            assert (await told(listener))[-1] == Ended(reason="stops")
            with hub.listen() as late:
                assert (await told(late))[-1] == Ended(reason="stops")

    run(story())


# --- following --------------------------------------------------------------------------------------------------


class FakeSn:
    """An SN whose streams are lists of notices; an exception in one is raised."""

    def __init__(self, *streams: list[Changes | Exception | asyncio.Event]) -> None:
        self.streams = list(streams)
        self.asked = 0

    @asynccontextmanager
    async def reach(self) -> AsyncIterator["FakeSn"]:
        yield self

    async def directory(self) -> Directory:
        self.asked += 1
        return Directory(network="net", height=1, organisations=(), nodes=())

    async def changes(self) -> AsyncIterator[Changes]:
        stream = self.streams.pop(0) if self.streams else [asyncio.Event()]
        for notice in stream:
            if isinstance(notice, Exception):
                raise notice
            if isinstance(notice, asyncio.Event):
                await notice.wait()
            else:
                yield notice


def follow(sn: FakeSn, story: Callable[[Hub, TrustStore], Coroutine[Any, Any, None]]) -> None:
    """Run `story` beside a follower, in virtual time."""

    async def main() -> None:
        trust = TrustStore("net", system_clock, {A: Trust(issuers=(), roles=())})
        hub = Hub()
        follower = Follower(sn.reach, trust, hub)  # type: ignore[arg-type]  # as much of an SnClient as is used
        running = asyncio.create_task(follower.run())
        try:
            await follower.until_known(1000, running)
            await story(hub, trust)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    run_virtual(main())


@pytest.mark.parametrize("change", [Changes(height=7, members=True), Changes(height=7, everything=True)])
def test_ci21_members_are_learnt_when_the_stream_begins_and_whenever_they_may_have_changed(change: Changes) -> None:
    news = asyncio.Event()
    sn = FakeSn([Changes(height=5, everything=True), Changes(height=6, contracts=(ONE,)), news, change])

    async def story(hub: Hub, trust: TrustStore) -> None:
        with hub.listen() as listener:
            await until(lambda: hub.height == 6)
            assert sn.asked == 1
            assert trust.generation == 1
            news.set()
            await until(lambda: hub.height == 7)
            assert sn.asked == 2
            assert isinstance((await told(listener))[-1], Changed | Silent)

    follow(sn, story)


def test_ci29_a_silent_sn_is_asked_again_with_growing_pauses() -> None:
    silence: list[Changes | Exception | asyncio.Event] = [Unreachable("no")]
    sn = FakeSn([Changes(height=5), Unreachable("no frame")], silence, silence, [Changes(height=8), asyncio.Event()])

    async def story(hub: Hub, _trust: TrustStore) -> None:
        began_s = asyncio.get_running_loop().time()
        await until(lambda: hub.height == 8)
        # The first attempt brought something: it is followed by the shortest pause, then they double.
        assert 1 + 1 + 2 <= asyncio.get_running_loop().time() - began_s < 6
        assert hub.silence == ""

    follow(sn, story)


def test_ci29_a_stream_that_ends_is_silence_too() -> None:
    sn = FakeSn([Changes(height=5)], [Changes(height=5), asyncio.Event()])

    async def story(hub: Hub, _trust: TrustStore) -> None:
        await until(lambda: hub.silence == "the SN ended its stream of changes")
        await until(lambda: hub.silence == "")

    follow(sn, story)


async def until(holds: Callable[[], bool]) -> None:
    """Within a minute of virtual time."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)


# --- over the network ---------------------------------------------------------------------------------------------


class Stream:
    """An open stream of events."""

    def __init__(self, caller: Caller, **headers: str) -> None:
        self.response = caller.pool.request("GET", caller.base + "/v1/events", preload_content=False, headers=headers)
        self._data = b""

    def block(self) -> list[str]:
        """The lines up to the next empty one."""
        while b"\n\n" not in self._data:
            piece = self.response.read1(65536)
            assert piece, "the stream ended"
            self._data += piece
        block, _, self._data = self._data.partition(b"\n\n")
        return block.decode().splitlines()

    def event(self) -> tuple[str, dict[str, Any]]:
        """Kind and data of the next event."""
        while True:
            lines = dict(line.split(": ", 1) for line in self.block() if not line.startswith(":"))
            if "event" in lines:
                data = json.loads(lines["data"])
                assert lines.get("id") == (str(data["height"]) if "height" in data else None)
                return lines["event"], data

    def until(self, *names: str) -> int:
        """Until events have named all of these: up to which block."""
        left = set(names)
        while left:
            _, data = self.event()
            left -= {*data.get("contracts", []), *data.get("taskrunners", [])}
        return int(data["height"])


@contextlib.contextmanager
def listening(caller: Caller, **headers: str) -> Iterator[Stream]:
    stream = Stream(caller, **headers)
    try:
        yield stream
    finally:
        stream.response.close()


def create(swarm: Swarm, contract: str, runner: str = "") -> int:
    async def main() -> int:
        async with swarm.submitter() as submitter:
            if runner:
                await submitter.require(CreateTaskrunner(runner=RunnerName(runner)))
            return await submitter.require(CreateContract(contract=ContractName(contract)))

    return asyncio.run(main())


def until_height(service: Service, height: int) -> None:
    """Until the service has heard of a block."""

    async def wait() -> None:
        with service.node._hub.listen() as listener:
            while service.node._hub.height < height:
                await listener.take(20)

    asyncio.run_coroutine_threadsafe(wait(), service.loop).result(20)


def test_ci29_what_changes_on_the_ledger_is_told_to_every_listener(small: Service) -> None:
    contract, runner = small.swarm.fresh("event/s"), small.swarm.fresh("runner")
    with listening(small.caller()) as one, listening(small.caller()) as other:
        assert one.response.headers["Content-Type"] == "text/event-stream"
        assert one.block() == ["retry: 3000"]
        kind, first = one.event()
        assert kind == "change"
        assert first["height"] > 0
        assert (first["contracts"], first["members"], first["problem"]) == ([], False, "")
        height = create(small.swarm, contract, runner)
        for stream in (one, other):
            assert stream.until(runner, contract) >= height


def test_ci29_who_comes_back_with_the_last_id_misses_nothing(small: Service) -> None:
    contract = small.swarm.fresh("missed")
    caller = small.caller()
    with listening(caller) as stream:
        _, first = stream.event()
    until_height(small, create(small.swarm, contract))
    with listening(caller, **{"Last-Event-ID": str(first["height"])}) as stream:
        kind, data = stream.event()
        assert kind == "change"
        assert contract in data["contracts"]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 19, "٣"])
def test_ci29_an_id_that_is_none_is_refused(small: Service, last: str) -> None:
    answer = small.caller().ask("GET", "/v1/events", headers={"Last-Event-ID": last.encode()})
    assert answer.problem[:2] == (400, "ConfigurationError")


def test_ci29_one_caller_has_only_so_many_streams(small: Service) -> None:
    caller, other = small.caller(), small.caller()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(listening(caller)).event()
        assert caller.get("/v1/events").problem[:2] == (429, "busy")
        with listening(other) as stream:
            stream.event()
    while True:  # until the service has noticed that they left
        with listening(caller) as stream:
            if stream.response.status == 200:
                break


def test_ci29_with_nothing_to_say_a_comment_comes(swarm: Swarm, tmp_path: Path) -> None:
    with serving(swarm, tmp_path, TABLE, keepalive_s=0.1) as made, listening(made.caller()) as stream:
        stream.event()
        assert stream.block() == [":"]


def test_ci29_a_service_that_stops_ends_its_streams(swarm: Swarm, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with serving(swarm, tmp_path, TABLE, limits=ServerLimits(shutdown_s=5)) as made:
            caller = Caller(made.base, swarm.identity(name="stays"))
            stack.callback(caller.close)
            stream = stack.enter_context(listening(caller))
            stream.event()
        assert stream.event() == ("end", {"reason": "the service stops"})
        assert stream.response.read() == b""
