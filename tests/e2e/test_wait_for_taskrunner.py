"""WAIT FOR TASKRUNNER goes on when the SN it follows is killed and starts again. Rule CI-59."""

import asyncio
from pathlib import Path

import pytest
from matrix_network import FaultyNetwork

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import ListenToRunner, ReportTask, TakeTask
from swarmlearning.contracts.task_records import WorkState
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.local.network import NETWORK, prepare_workdir
from swarmlearning.sn.asking import open_sn, open_submitter
from swarmlearning.swci.contexts import Book, Context, IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.running import run_line
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import ContextName
from swarmlearning.types import DEFAULT_RUNNER, NodeName, Role, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CONTEXT = ContextName("c")
DOMAIN = TrustDomain("a.example")
PULL = "Name: pull\nTaskType: PULL_IMAGE\nAuthor: me\nPrereq:\nOutcome: o\nBody: {Tag: t, RepoName: r, OrgAndReg: o}\n"


def identity(workdir: Path, role: Role, name: str) -> IdentityPaths:
    base = workdir / DOMAIN
    node = NodeName(domain=DOMAIN, network=NETWORK, role=role, name=name)
    issued = issue_certificate(
        Authority.load(base / "ca"), node, ("127.0.0.1",), base / "more", at_ms=system_clock(), days=1
    )
    return IdentityPaths(cert=str(issued.certificate), key=str(issued.key), cacert=str(issued.issuer))


async def wait_across_a_restart(network: FaultyNetwork) -> list[str]:
    endpoint, workdir = network.sns[0].address.endpoint, network.workdir
    (workdir / "pull.yaml").write_text(PULL)
    heard = asyncio.Event()
    said = Collected(lambda _: heard.set())
    session = Session(
        contexts=MemoryContexts(
            Book(contexts=(Context(name=ContextName("c"), sn=endpoint),), current=ContextName("c"))
        ),
        directory=Directory(workdir),
        output=said,
        identity=identity(workdir, Role.OPERATOR, "op"),
    )

    async def say(line: str) -> list[str]:
        done = await run_line(COMMANDS, session, line)
        assert done is not None
        assert not done.failed, done.error
        return list(done.shown.lines)

    async def until(text: str) -> None:
        while not any(text in line for line in said.lines):
            heard.clear()
            await asyncio.wait_for(heard.wait(), 60)

    agent = identity(workdir, Role.SWOP, "swop1").source()
    await say("CREATE TASK FROM pull.yaml")
    await say("FINALIZE TASK pull")
    async with open_sn(agent, str(endpoint)) as (client, _):
        submitter = await open_submitter(client, agent, None)
        await submitter.require(ListenToRunner(runner=DEFAULT_RUNNER, listening=True))
        await say(f"ASSIGN TASK pull TO {DEFAULT_RUNNER} WITH 1 PEERS")
        waiting = asyncio.create_task(say(f"WAIT FOR TASKRUNNER {DEFAULT_RUNNER}"))
        await until("has not taken it: swop1@a.example")
        name = network.name_of("sn", 0)
        await network.kill(name)
        await until("does not answer")
        await network.start_again(name)
        await until("answers again")
        await submitter.require(TakeTask(runner=DEFAULT_RUNNER, number=1, planned=1))
        await until("has taken it: swop1@a.example")
        await submitter.require(ReportTask(runner=DEFAULT_RUNNER, number=1, state=WorkState.COMPLETE))
        shown = await waiting
    await session.disconnect()
    return shown


def test_ci59_a_wait_outlives_a_restart_of_its_sn(tmp_path: Path) -> None:
    async def main() -> list[str]:
        prepare_workdir(tmp_path / "w")
        async with FaultyNetwork(1, tmp_path / "w", sls=0) as network:
            return await wait_across_a_restart(network)

    assert asyncio.run(main()) == ["TASK_STATE : COMPLETE"]
