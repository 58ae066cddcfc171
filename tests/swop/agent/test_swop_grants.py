"""What a task may is what its institution says when it is started, and not when it was taken: SW-4."""

import asyncio
from pathlib import Path

import pytest
from acting_agents import acting
from agent_world import HostFiles, operating
from fake_manager import FakeManager
from swci_world import Swarm

from swarmlearning.contracts.task_records import WorkState
from swarmlearning.swop.managers.boundary import Part

pytestmark = pytest.mark.timeout(60)

ALONE = ("Command: train.py", "Entrypoint: python3", "WorkingDir: /work", "Envvars: [SWARM_LOOPBACK: 'TRUE']")

POLICY = "version: 1\nlimits: {{memory: {memory}}}\nrules: [{{name: {name}, network: {network}}}]\n"


def test_sw4_a_task_that_waited_gets_what_the_policy_grants_when_it_is_started(swarm: Swarm, tmp_path: Path) -> None:
    files = HostFiles(swarm, tmp_path, swarm.fresh("host"))
    files.write_policy(POLICY.format(name="open", network="true", memory="8GiB"))
    names = [files.name, f"{files.name}-2"]
    files.write_profile(names, nodes=1)
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            first, second = [await operator.make_runner(name) for name in names]
            task = await operator.write_task(files.name, ALONE)
            await operator.assign(first, task)
            await manager.until(lambda manager: manager.runs(0, Part.ML))
            await operator.assign(second, task)
            await operator.until(second, lambda found: any("waits for node" in a.description for a in found.agents))
            files.write_policy(POLICY.format(name="closed", network="false", memory="1GiB"))
            manager.exit(0, Part.ML, 0)
            await manager.until(lambda manager: sum(part == "ml" for _, part, _ in manager.started) == 2)
            (before, after) = sorted(manager.known.values(), key=lambda pair: pair.label.startswith(f"{second} "))
            assert (before.online, after.online) == (True, False)
            assert (before.limits.memory, after.limits.memory) == (8 << 30, 1 << 30)
            manager.exit(0, Part.ML, 0)
            agent = await operator.until_over(second)
            assert agent.state is WorkState.COMPLETE
            assert agent.approved_by.startswith("policy closed ")

    asyncio.run(asyncio.wait_for(story(), 50))
