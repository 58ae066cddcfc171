"""Whole studies by real `swarm swop` processes on the PROCESS manager: docs/spec/swop.md."""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from agent_world import ALLOW_ALL, HostFiles, copy_programs, kill, operating, run_lines, running_agents, until
from sandbox_support import NEEDS_SANDBOX
from swci_world import A, B, Swarm

from swarmlearning.contracts.records import Phase
from swarmlearning.contracts.task_records import RunnerState, WorkState
from swarmlearning.types import ContractName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    NEEDS_SANDBOX,
]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 150))


async def until_cleaned(host: HostFiles) -> None:
    """Until nothing of any pair is left on a host."""
    await until(lambda: not any((host.data / "pairs").iterdir()))


async def until_printed(host: HostFiles, idx: int, text: str) -> str:
    """Until a program has printed this; all that it printed."""

    def find() -> list[str]:
        logs = (path.read_text() for path in (host.data / "logs").glob(f"*/ml-{idx}.log"))
        return [log for log in logs if text in log]

    await until(lambda: bool(find()))
    return find()[0]


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
                assert all(len(list((host.data / "pairs").iterdir())) == 2 for host in hosts)
                await operator.reset(runner)
                for host in hosts:
                    await until_cleaned(host)

    run(story())
    for host in hosts:
        done = host.logs("1")
        assert "trains at site 1" in done.stdout, done.stderr
        assert "final" in done.stdout
        assert host.sl(0).rpartition("/")[2] in host.logs().stdout


def test_an_agent_killed_in_the_middle_goes_on_and_starts_nothing_twice(
    swarm: Swarm, tmp_path: Path, programs: Path
) -> None:
    """SW-5: SIGKILL at the agent, none at what it started."""
    name = swarm.fresh("killed")
    contract = ContractName(swarm.fresh("contract"))
    host = HostFiles(swarm, tmp_path, name)
    host.write_policy()
    host.write_profile([name])
    (programs / "hold").touch()

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(name)
            environment = [f"CONTRACT: {contract}", "MIN_PEERS: 2", "ROUNDS: 3", "PACE: hold"]
            task = await operator.write_task(name, run_lines(programs, "small_training.py", environment=environment))
            with running_agents(host) as agents:
                await operator.assign(runner, task, peers=2)
                await until_printed(host, 0, "trains at site")
                await until_printed(host, 1, "trains at site")
                kill(agents[0])
                (programs / "hold").unlink()
                await until_printed(host, 0, "final")
                assert (await operator.look(runner)).state is RunnerState.RUNNING
                agents[0] = host.start()
                ended = await operator.until_decided(runner)
                assert ended.state is RunnerState.COMPLETE, ended
            for idx in (0, 1):
                assert (await until_printed(host, idx, "final")).count("trains at site") == 1
            assert len(list((host.data / "pairs").iterdir())) == 2

    run(story())


def test_a_late_agent_is_named_into_a_running_task(swarm: Swarm, tmp_path: Path, programs: Path) -> None:
    """SW-2: TARGET; its peers enrol in the training that goes on."""
    name = swarm.fresh("late")
    contract = ContractName(swarm.fresh("contract"))
    hosts = [HostFiles(swarm, tmp_path, f"{name}-a", A), HostFiles(swarm, tmp_path, f"{name}-b", B)]
    for host, nodes in zip(hosts, (2, 1), strict=True):
        host.write_policy()
        host.write_profile([name], nodes=nodes)
    (programs / "hold").touch()

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(name)
            environment = [f"CONTRACT: {contract}", "MIN_PEERS: 2", "ROUNDS: 4", "PACE: hold"]
            task = await operator.write_task(name, run_lines(programs, "small_training.py", environment=environment))
            with running_agents(hosts[0]), contextlib.ExitStack() as later:
                await operator.until(runner, lambda found: len(found.listeners) == 1)
                # All that listen are chosen: who comes later is not, until it is named.
                await operator.assign_all(runner, task)
                await until_printed(hosts[0], 0, "trains at site")
                later.enter_context(running_agents(hosts[1]))
                await operator.until(runner, lambda found: len(found.listeners) == 2)
                await operator.target(runner, task, hosts[1].agent)
                await until_printed(hosts[1], 0, "trains at site")
                (programs / "hold").unlink()
                done = await operator.until(
                    runner,
                    lambda found: [agent.state for agent in found.agents] == [WorkState.COMPLETE] * 2,
                    limit_s=100,
                )
                assert done.state is RunnerState.COMPLETE
            training = await operator.client.training(contract)
            assert training is not None
            assert {peer.node for peer in training.peers} == {hosts[0].sl(0), hosts[0].sl(1), hosts[1].sl(0)}

    run(story())


def test_a_program_that_crashes_at_once_fails_its_peer_with_its_last_lines(
    swarm: Swarm, tmp_path: Path, programs: Path
) -> None:
    """SW-8, SW-10: within seconds, printable, and without what the profile's variables hold."""
    name = swarm.fresh("crash")
    host = HostFiles(swarm, tmp_path, name)
    host.write_policy()
    host.write_profile([name], nodes=1, environment=["TOKEN: hospital-secret-7"])

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(name)
            task = await operator.write_task(name, run_lines(programs, "crash.py"))
            with running_agents(host):
                await operator.assign(runner, task)
                ended = await operator.until_decided(runner, limit_s=30)
                (unit,) = ended.agents[0].units
                assert (ended.state, unit.state) == (RunnerState.ERROR, WorkState.ERROR)
                assert "its program ended with status 3: " in unit.description
                assert "reads the rows | no column 'age'; the token is ***" in unit.description
                ended = await operator.until(runner, lambda found: found.agents[0].units[0].evidence is not None)
                evidence = ended.agents[0].units[0].evidence
                assert evidence is not None
                assert evidence.exit_status == 3
                await operator.reset(runner)
                await until_cleaned(host)
                # The policy does not let anything out: only the status is told.
                host.write_policy(ALLOW_ALL + "share_log: never\n")
                await operator.assign(runner, task)
                ended = await operator.until_decided(runner, limit_s=30)
                assert ended.agents[0].units[0].description == "its program ended with status 3"

    run(story())
    assert "hospital-secret-7" in host.logs("0").stdout


def test_a_program_that_trains_nothing_is_an_error_unless_it_is_to_train_alone(
    swarm: Swarm, tmp_path: Path, programs: Path
) -> None:
    """SW-8: a task that "completes" in seconds because nobody called the callback is none that succeeded."""
    name = swarm.fresh("idle")
    host = HostFiles(swarm, tmp_path, name)
    host.write_policy()
    host.write_profile([name], nodes=1)
    (programs / "nothing.py").write_text("print('nothing to do')\n")

    async def story() -> None:
        async with operating(swarm) as operator:
            runner = await operator.make_runner(name)
            idle = await operator.write_task(name, run_lines(programs, "nothing.py"))
            alone = await operator.write_task(
                f"{name}-alone", run_lines(programs, "nothing.py", environment=["SWARM_LOOPBACK: TRUE"])
            )
            with running_agents(host):
                await operator.assign(runner, idle)
                ended = await operator.until_decided(runner, limit_s=30)
                assert ended.state is RunnerState.ERROR
                (unit,) = ended.agents[0].units
                assert "ended with status 0 but took part in no training" in unit.description
                await operator.reset(runner)
                await operator.assign(runner, alone)
                ended = await operator.until_decided(runner, limit_s=30)
                assert ended.state is RunnerState.COMPLETE, ended
                assert "alone" in ended.agents[0].units[0].description

    run(story())
