"""SW-16: an agent whose host lacks what a swarm runs in carries out the task that makes it first, if it may."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from acting_agents import acting
from agent_world import HostFiles, Operator, operating
from fake_manager import FakeManager
from swci_world import B, Swarm

from swarmlearning.contracts.task_records import Agent, Taskrunner, TaskType, WorkState
from swarmlearning.swop.managers.boundary import Part
from swarmlearning.types import RunnerName, TaskName

pytestmark = pytest.mark.timeout(60)

RUN = ("Command: train.py", "Entrypoint: python3", "WorkingDir: /work")
BUILD = ("BuildType: INLINE", "BuildSteps:", "  - FROM python:3.11")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 50))


@pytest.fixture
def files(swarm: Swarm, tmp_path: Path) -> HostFiles:
    made = HostFiles(swarm, tmp_path, swarm.fresh("needs"))
    made.write_policy()
    made.write_profile([made.name], policy=False)
    return made


async def prepare(operator: Operator, files: HostFiles) -> tuple[RunnerName, TaskName, TaskName]:
    """A runner, a task, and the task that makes what it runs in."""
    runner = await operator.make_runner(files.name)
    kind = TaskType.MAKE_USER_CONTAINER
    build = await operator.write_task(f"{files.name}-build", BUILD, kind=kind, outcome=files.name)
    return runner, await operator.write_task(files.name, RUN, prereq=build), build


def agent_of(runner: Taskrunner) -> Agent:
    (agent,) = runner.agents
    return agent


def awaits(runner: Taskrunner) -> bool:
    return any(agent.state is WorkState.AWAITING_APPROVAL for agent in runner.agents)


def test_sw16_it_is_made_first_and_the_programs_run_in_it(files: HostFiles) -> None:
    files.write_profile([files.name])
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task, _ = await prepare(operator, files)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            assert {pair.image_id for pair in manager.known.values()} == {manager.images[files.name]}

    run(story())


def test_sw16_who_approves_the_swarm_approves_what_it_needs(files: HostFiles) -> None:
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task, _ = await prepare(operator, files)
            await operator.assign(runner, task)
            await operator.until(runner, awaits)
            assert not manager.images, "nothing is made before anybody agreed"
            await operator.approve(task)
            await manager.until(lambda m: m.runs(0, Part.ML))

    run(story())


def test_sw16_but_what_it_needs_can_be_denied_by_itself(files: HostFiles) -> None:
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task, build = await prepare(operator, files)
            await operator.approve(build, granted=False)
            await operator.approve(task)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.DENIED
            assert agent.description.startswith(f"needs {build} first: ")
            assert not manager.images

    run(story())


def test_sw16_a_third_organisations_task_is_approved_by_itself(files: HostFiles) -> None:
    """The attack: what a swarm needs was written by somebody else, whom nobody thought of who read the swarm."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, operating(files.swarm, B) as other, acting(files, manager):
            runner = await operator.make_runner(files.name)
            kind = TaskType.MAKE_USER_CONTAINER
            build = await other.write_task(f"{files.name}-build", BUILD, kind=kind, outcome=files.name)
            task = await operator.write_task(files.name, RUN, prereq=build)
            await operator.approve(task)
            await operator.assign(runner, task)
            found = await operator.until(runner, awaits)
            assert agent_of(found).description.startswith(f"needs {build} first: ")
            assert not manager.images
            await operator.approve(build)
            await manager.until(lambda m: m.runs(0, Part.ML))

    run(story())


def test_sw16_a_build_that_would_see_private_data_is_approved_by_itself(files: HostFiles) -> None:
    """The attack: the swarm tells nothing of the build's context, and builds have the network."""
    manager = FakeManager()
    profile = files.profile.read_text()
    private = f"src: {files.directory / 'data-0'}, mType: BIND"
    assert private in profile
    files.profile.write_text(profile.replace(private, "src: patients, mType: VOLUME"))

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner = await operator.make_runner(files.name)
            lines = ("BuildContext: patients", *BUILD)
            kind = TaskType.MAKE_USER_CONTAINER
            build = await operator.write_task(f"{files.name}-build", lines, kind=kind, outcome=files.name)
            task = await operator.write_task(files.name, RUN, prereq=build)
            await operator.approve(task)
            await operator.assign(runner, task)
            found = await operator.until(runner, awaits)
            assert "it would see private data or keys" in agent_of(found).description
            assert not manager.images

    run(story())


def test_sw16_it_is_stopped_when_it_is_denied_while_it_is_made(files: HostFiles) -> None:
    manager = FakeManager()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def build_for_ever(*_: object) -> str:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        raise AssertionError

    async def story() -> None:
        with mock.patch.object(manager, "build_image", build_for_ever):
            async with operating(files.swarm) as operator, acting(files, manager):
                runner, task, build = await prepare(operator, files)
                await operator.approve(task)
                await operator.assign(runner, task)
                await begun.wait()
                await operator.approve(build, granted=False)
                agent = await operator.until_over(runner)
                assert agent.state is WorkState.DENIED
                assert cancelled.is_set()

    run(story())


def test_sw16_a_policy_decides_about_both(files: HostFiles) -> None:
    """A rule that allows the swarm does not allow the build; a person may."""
    files.write_policy("version: 1\nrules:\n  - {name: swarms, types: [RUN_SWARM]}\n")
    files.write_profile([files.name])
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task, build = await prepare(operator, files)
            await operator.assign(runner, task)
            found = await operator.until(runner, awaits)
            assert agent_of(found).description.startswith(f"needs {build} first: a person has to decide: no rule")
            await operator.approve(build)
            await manager.until(lambda m: m.runs(0, Part.ML))

    run(story())


def test_sw16_if_it_cannot_be_made_the_swarm_has_failed(files: HostFiles) -> None:
    files.write_profile([files.name])
    manager = FakeManager()
    manager.build_fails = "step 2 failed"

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task, build = await prepare(operator, files)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.ERROR
            assert agent.description == f"{build}, which it needs: step 2 failed: step 1 | no such package"
            assert not manager.started

    run(story())


def test_sw13_what_no_task_made_is_not_replaced(files: HostFiles) -> None:
    files.write_profile([files.name])
    manager = FakeManager()
    manager.foreign.add(files.name)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task, build = await prepare(operator, files)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.ERROR
            assert agent.description.startswith(f"{build}, which it needs: this host has an image {files.name} that no")
            assert not manager.images

    run(story())
