"""An agent that is stopped: SW-1."""

import asyncio
import signal
from pathlib import Path

import pytest
from agent_world import HostFiles, kill, operating, running_agents
from swci_world import Swarm

from swarmlearning.contracts.task_records import Taskrunner, TaskType, WorkState

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

BUILD = ("BuildType: INLINE", "BuildSteps:", "- FROM python:3")


def test_sw1_an_agent_that_is_stopped_listens_no_more_and_one_that_is_killed_does(swarm: Swarm, tmp_path: Path) -> None:
    host = HostFiles(swarm, tmp_path, swarm.fresh("stopping"))
    host.write_policy()
    host.write_profile([host.name])

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(host.name)
            with running_agents(host) as (agent,):
                assert (await operator.look(runner)).listeners == (host.agent,)
                await asyncio.to_thread(kill, agent, signal.SIGTERM)
            assert (await operator.look(runner)).listeners == ()
            with running_agents(host) as (agent,):
                assert (await operator.look(runner)).listeners == (host.agent,), "it is back"
                await asyncio.to_thread(kill, agent, signal.SIGKILL)
                assert (await operator.look(runner)).listeners == (host.agent,)

    asyncio.run(asyncio.wait_for(story(), 100))


def test_sw1_one_that_is_stopped_while_something_waits_stays_and_goes_on(swarm: Swarm, tmp_path: Path) -> None:
    host = HostFiles(swarm, tmp_path, swarm.fresh("waiting"))
    host.write_profile([host.name], policy=False)

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(host.name)
            with running_agents(host) as (agent,):
                task = await operator.write_task(host.name, BUILD, kind=TaskType.MAKE_USER_CONTAINER, outcome=host.name)
                await operator.assign(runner, task)
                await operator.until(runner, lambda found: states(found) == [WorkState.AWAITING_APPROVAL])
                await asyncio.to_thread(kill, agent, signal.SIGTERM)
            assert (await operator.look(runner)).listeners == (host.agent,)
            await operator.approve(task)
            with running_agents(host):
                await operator.until(runner, lambda found: states(found) == [WorkState.COMPLETE])

    asyncio.run(asyncio.wait_for(story(), 100))


def states(runner: Taskrunner) -> list[WorkState]:
    return [agent.state for agent in runner.agents]
