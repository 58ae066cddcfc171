"""An agent whose SN is away for a while: docs/spec/swop.md, SW-3 and SW-9."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from acting_agents import acting, entries_of
from agent_world import HostFiles, operating, until
from fake_manager import FakeManager
from msgspec.structs import replace
from swci_world import Swarm
from test_swop_agent import ALONE, BUILD, agent_of, run, states

from swarmlearning.contracts.messages import ReportTask
from swarmlearning.contracts.task_records import TaskType, Unit, WorkState
from swarmlearning.errors import Refused, Unreachable
from swarmlearning.swop.journal import Entry, PairEntry
from swarmlearning.swop.managers.boundary import Part
from swarmlearning.swop.reporting import QUIET_S, Reporter
from swarmlearning.types import Endpoint, RunnerName, TaskName

pytestmark = pytest.mark.timeout(90)


class Cable:
    """Carries bytes to an SN, and can be cut."""

    def __init__(self, there: Endpoint) -> None:
        self._there = there
        self._server: asyncio.Server
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def plug_in(self) -> Endpoint:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return Endpoint(host="127.0.0.1", port=self._port)

    async def cut(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        reader_there, writer_there = await asyncio.open_connection(self._there.host, self._there.port)
        self._writers |= {writer, writer_there}
        await asyncio.gather(self._pump(reader, writer_there), self._pump(reader_there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
def files(swarm: Swarm, tmp_path: Path) -> HostFiles:
    made = HostFiles(swarm, tmp_path, swarm.fresh("away"))
    made.write_policy()
    made.write_profile([made.name])
    return made


def test_what_runs_goes_on_without_an_sn_and_is_told_later(files: HostFiles, caplog: pytest.LogCaptureFixture) -> None:
    """SW-3: it says once that the SN is away; what happened meanwhile is reported as it stands then."""
    manager = FakeManager()

    async def story() -> None:
        cable = Cable(files.swarm.sn(files.domain))
        endpoint = await cable.plug_in()
        async with operating(files.swarm) as operator, acting(files, manager, sn=endpoint) as host:
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(files.name, ALONE)
            await operator.assign(runner, task, peers=2)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            await operator.until(runner, lambda found: states(found) == [WorkState.RUNNING] * 2)
            await cable.cut()
            manager.exit(0, Part.ML, 4)
            manager.exit(1, Part.ML, 0)
            await manager.until(lambda m: {(0, "sl"), (1, "sl")} <= set(m.stopped))
            await until(lambda: all(entry.is_over for entry in entries_of(host)))
            assert states(await operator.look(runner)) == [WorkState.RUNNING] * 2
            assert await cable.plug_in() == endpoint
            agent = await operator.until_over(runner)
            assert [unit.state for unit in agent.units] == [WorkState.ERROR, WorkState.COMPLETE]
            # It could not be asked whether the program had read data: then its lines are not told.
            assert agent.units[0].description == "its program ended with status 4"
            await until(lambda: all(entry.reported for entry in entries_of(host)))
        await cable.cut()

    with caplog.at_level(logging.INFO, logger="swarmlearning.swop"):
        run(story())
    away = [record for record in caplog.records if "is away, what runs goes on" in record.getMessage()]
    assert 1 <= len(away) <= 2, [record.getMessage() for record in away]


def test_an_agent_that_starts_without_its_sn_waits_for_it_and_watches_what_runs(files: HostFiles) -> None:
    """SW-5: a host that was restarted may have its agent before its SN."""
    manager = FakeManager()

    async def story() -> None:
        cable = Cable(files.swarm.sn(files.domain))
        endpoint = await cable.plug_in()
        async with operating(files.swarm) as operator:
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(files.name, ALONE)
            async with acting(files, manager, sn=endpoint):
                await operator.assign(runner, task, peers=2)
                await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            await cable.cut()
            async with acting(files, manager, sn=endpoint, wait=False):
                manager.exit(0, Part.ML, 4)
                await manager.until(lambda m: (0, "sl") in m.stopped)
                await cable.plug_in()
                await operator.until(runner, lambda found: WorkState.ERROR in states(found))
        await cable.cut()

    run(story())


def test_an_assignment_made_while_the_sn_was_away_is_taken(files: HostFiles) -> None:
    """SW-3: the first notice after that says everything."""
    manager = FakeManager()

    async def story() -> None:
        cable = Cable(files.swarm.sn(files.domain))
        endpoint = await cable.plug_in()
        async with operating(files.swarm) as operator, acting(files, manager, sn=endpoint):
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(files.name, BUILD, kind=TaskType.MAKE_USER_CONTAINER)
            await operator.until(runner, lambda found: found.listeners != ())
            await cable.cut()
            await operator.assign(runner, task)
            await cable.plug_in()
            assert (await operator.until_over(runner)).state is WorkState.COMPLETE
            assert agent_of(await operator.look(runner)).planned == 1
        await cable.cut()

    run(story())


# --- reports -------------------------------------------------------------


class Ledger:
    """Stands for an SN: takes reports, or not."""

    def __init__(self) -> None:
        self.said: list[tuple[float, ReportTask]] = []
        self.answers: list[Exception] = []
        self.came = asyncio.Event()

    async def require(self, message: ReportTask) -> int:
        self.said.append((asyncio.get_running_loop().time(), message))
        self.came.set()
        if self.answers:
            raise self.answers.pop(0)
        return 1

    async def until(self, wanted: Callable[[list[ReportTask]], bool]) -> None:
        async with asyncio.timeout(20):
            while not wanted([message for _, message in self.said]):
                self.came.clear()
                await self.came.wait()


class SmallLink:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def say(self, speech: Callable[[Ledger], "asyncio.Future[int]"]) -> int:
        return await speech(self.ledger)


class Told:
    """An entry that changes, and its reporter."""

    def __init__(self, ledger: Ledger) -> None:
        self.entry = Entry(
            id="x",
            runner=RunnerName("ward"),
            number=1,
            task=TaskName("t"),
            kind=TaskType.RUN_SWARM,
            hash=b"",
            assigned_ms=1,
            version=1,
            planned=1,
            begun_ms=1,
        )
        # Only `say` of a link is used.
        self.reporter = Reporter(SmallLink(ledger), lambda: self.entry)  # type: ignore[arg-type]
        self.running = asyncio.create_task(self.reporter.run())

    def change(self, **changes: object) -> None:
        self.entry = replace(self.entry, **changes)
        self.reporter.changed()


def test_sw9_words_wait_and_states_do_not() -> None:
    async def story() -> None:
        ledger = Ledger()
        told = Told(ledger)
        await ledger.until(lambda said: len(said) == 1)
        for round_ in range(50):
            told.change(description=f"round {round_}", state=WorkState.ENROLLED)
            await asyncio.sleep(0)
        await ledger.until(lambda said: len(said) == 2)
        (first, _), (second, message) = ledger.said
        assert second - first >= QUIET_S * 0.9
        assert message.description == "round 49"
        told.change(description="round 50")
        told.change(state=WorkState.RUNNING)
        await ledger.until(lambda said: len(said) == 3)
        assert ledger.said[2][0] - second < QUIET_S / 2
        told.change(state=WorkState.ERROR, ended_ms=5)
        await told.running
        assert ledger.said[-1][1].state is WorkState.ERROR

    asyncio.run(story())


def test_sw9_what_could_not_be_said_is_said_again_the_newest_only() -> None:
    async def story() -> None:
        ledger = Ledger()
        ledger.answers = [Unreachable("away"), Refused("later", code="busy")]
        told = Told(ledger)
        await ledger.until(lambda said: len(said) == 1)
        told.change(description="old news")
        told.change(state=WorkState.COMPLETE, description="news", ended_ms=5)
        await told.running
        assert [message.description for _, message in ledger.said] == ["", "news", "news"]

    asyncio.run(story())


@pytest.mark.parametrize("code", ["stale", "conflict", "not_found"])
def test_sw9_a_report_of_what_is_over_is_the_last(code: str) -> None:
    async def story() -> None:
        ledger = Ledger()
        ledger.answers = [Refused("assignment 1 of ward is over", code=code)]
        told = Told(ledger)
        await told.running
        assert told.reporter.refused == "assignment 1 of ward is over"
        assert len(ledger.said) == 1

    asyncio.run(story())


def test_sw9_peers_stand_in_the_order_of_their_uids() -> None:
    """W-12 refuses them otherwise."""

    async def story() -> None:
        ledger = Ledger()
        told = Told(ledger)
        units = [PairEntry(idx=i, pair=None, unit=Unit(uid=uid, state=WorkState.ERROR)) for i, uid in enumerate("cab")]
        told.change(pairs=tuple(units), state=WorkState.ERROR, ended_ms=1)
        await told.running
        assert [unit.uid for unit in ledger.said[-1][1].units] == ["a", "b", "c"]

    asyncio.run(story())
