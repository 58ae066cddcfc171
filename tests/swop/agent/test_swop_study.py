"""Whole studies by real `swarm swop` processes on the PROCESS manager: docs/spec/swop.md."""

import asyncio
import shutil
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_world import HostFiles, copy_programs, kill, operating, run_lines, running_agents
from swci_world import A, B, Swarm

from swarmlearning.contracts.records import Phase
from swarmlearning.contracts.task_records import RunnerState, WorkState
from swarmlearning.types import ContractName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="programs are kept apart from the host by bubblewrap"),
]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 150))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return copy_programs(tmp_path)


def test_two_organisations_train_on_four_peers_and_a_reset_cleans_up(
    swarm: Swarm, tmp_path: Path, programs: Path
) -> None:
    """SW-8, SW-9: pairs are started, train, and end; what they say of it stands on the ledger."""
    name = swarm.fresh("study")
    contract = ContractName(swarm.fresh("contract"))
    hosts = [HostFiles(swarm, tmp_path, f"{name}-a", A), HostFiles(swarm, tmp_path, f"{name}-b", B)]
    for host in hosts:
        host.write_policy()
        host.write_profile([name])

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(name)
            environment = [f"CONTRACT: {contract}", "MIN_PEERS: 4", "ROUNDS: 3"]
            body = run_lines(programs, "small_training.py", environment=environment, private=True)
            task = await operator.write_task(name, body)
            with running_agents(*hosts):
                await operator.until(runner, lambda found: len(found.listeners) == 2)
                await operator.assign(runner, task, peers=4)
                ended = await operator.until_decided(runner)
                assert ended.state is RunnerState.COMPLETE, ended
                ended = await operator.until(runner, lambda r: all(a.state is WorkState.COMPLETE for a in r.agents))
                units = {unit.uid: unit for agent in ended.agents for unit in agent.units}
                assert set(units) == {host.sl(idx) for host in hosts for idx in (0, 1)}
                for unit in units.values():
                    assert unit.evidence is not None
                    assert unit.evidence.exit_status == 0
                    assert len(unit.evidence.log_hash) == 32
                    assert "sandbox" in unit.evidence.manager
                assert {agent.approved_by.split()[:2] == ["policy", "tests"] for agent in ended.agents} == {True}
                training = await operator.client.training(contract)
                assert training is not None
                assert training.phase is Phase.COMPLETED
                assert {peer.node for peer in training.peers} == set(units)
                assert all((host.data / "pairs").iterdir() for host in hosts)
                await operator.reset(runner)
                for host in hosts:
                    while any((host.data / "pairs").iterdir()):
                        await asyncio.sleep(0.1)

    run(story())
    for host in hosts:
        done = host.logs("1")
        assert "trains at site 1" in done.stdout, done.stderr
        assert "final" in done.stdout
        assert host.sl(0).rpartition("/")[2] in host.logs().stdout
