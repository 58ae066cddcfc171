"""What goes on the ledger of a host: SW-9. Attacks on the size of reports, and on what stays at home."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from acting_agents import acting, entries_of
from agent_world import HostFiles, operating
from fake_manager import FakeManager
from swci_world import Swarm

from swarmlearning.contracts.task_records import MAX_DESCRIPTION, WorkState
from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.telling import find_paths, tell_others

pytestmark = pytest.mark.timeout(60)

RUN = ("Command: train.py", "Entrypoint: python3", "WorkingDir: /work", "PrivateContent: /data")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 50))


@pytest.fixture
def files(swarm: Swarm, tmp_path: Path) -> HostFiles:
    made = HostFiles(swarm, tmp_path, swarm.fresh("host"))
    made.write_policy()
    made.write_profile([made.name], nodes=1)
    return made


def test_sw9_paths_of_this_host_stay_on_it(files: HostFiles) -> None:
    """Errors name directories for whoever runs the host; every member reads the ledger."""
    private = files.directory / "oncology-2024"
    (files.directory / "data-0").rename(private)
    (files.directory / "data-0").symlink_to(private)
    manager = FakeManager()

    def fail(pair: Pair) -> int | None:
        data = pair.node.private_data
        assert data is not None
        raise ConfigurationError(f"{data.source}, which is {private}, lies beside {files.data}/x and /opt/task")

    manager.on_start_ml = fail

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            runner = await operator.make_runner(files.name)
            await operator.assign(runner, await operator.write_task(files.name, RUN))
            agent = await operator.until_over(runner)
            (unit,) = agent.units
            told = "(private data of node 0)"
            assert unit.description == f"{told}, which is {told}, lies beside (the agent's data)/x and [path]"
            assert str(files.directory) not in agent.description
            (entry,) = entries_of(host)
            assert str(private) in entry.pairs[0].unit.description, "its own people see where"

    run(story())


def test_sw9_a_policy_that_cannot_be_read_is_not_quoted(files: HostFiles) -> None:
    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, FakeManager()):
            files.write_policy("version: 1\nrules: [{name: secret-partner, hashes: [ward-7]}]\n")
            runner = await operator.make_runner(files.name)
            await operator.assign(runner, await operator.write_task(files.name, RUN))
            found = await operator.until(
                runner, lambda found: any(a.state is WorkState.AWAITING_APPROVAL for a in found.agents)
            )
            assert "cannot be read" in found.agents[0].description
            for word in ("ward-7", "secret-partner", str(files.policy)):
                assert word not in found.agents[0].description

    run(story())


def test_sw9_a_task_whose_command_is_very_long_is_told_all_the_same(files: HostFiles) -> None:
    """The attack: with all of it in the description the report is larger than a transaction may be."""
    files.write_profile([files.name], nodes=1, policy=False)
    lines = ("Command: >", *["  " + "x" * 4000] * 40, *RUN[1:])

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, FakeManager()):
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(files.name, lines)
            await operator.assign(runner, task)
            found = await operator.until(
                runner, lambda found: any(a.state is WorkState.AWAITING_APPROVAL for a in found.agents), 20
            )
            assert "a person has to decide" in found.agents[0].description

    run(story())


def test_sw15_a_task_of_very_many_paths_is_told_soon() -> None:
    """The attack: every agent that takes it tells its Command before anybody has agreed, and does nothing else then."""
    command = " ".join(f"/{number:x}" for number in range(40_000))
    began_s = time.monotonic()
    places = find_paths(command)
    told = tell_others(f"it runs python3 {command}{'/' * 200_000}", (), places)
    assert time.monotonic() - began_s < 2
    assert told.startswith("it runs python3 /0 /1 ")
    assert len(places) == 1000


@pytest.mark.parametrize("text", ["", "a", "é" * 300, "\N{GRINNING FACE}" * 200, "x" * 480, "x" * 481, "a\x1b[31mb"])
def test_sw9_a_description_is_printable_and_no_longer_than_is_kept(text: str) -> None:
    told = tell_others(text, ())
    assert told.isprintable() or not told
    assert len(told.encode()) <= MAX_DESCRIPTION
    assert told.endswith("…") == (len(text.encode()) > MAX_DESCRIPTION)
