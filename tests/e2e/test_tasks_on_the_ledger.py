"""A task's whole life over two real SNs and mutual TLS: what `sn.client` says is what the ledger has."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cometbft_support import needs_cometbft
from real_network import A, ask_swarm, running_network

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import (
    AppendTask,
    AssignTask,
    CreateTask,
    CreateTaskrunner,
    FinalizeTask,
    ListenToRunner,
    ReportTask,
    ResetTaskrunner,
    TakeTask,
)
from swarmlearning.contracts.task_records import ROOT_TASK, RunnerState, TaskType, Unit, WorkState, hash_task
from swarmlearning.errors import Refused
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.local.network import NETWORK, LocalNetwork, Site
from swarmlearning.sn.api import Changes
from swarmlearning.sn.asking import open_sn, open_submitter
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.types import DEFAULT_RUNNER, NodeName, Role, RunnerName, TaskName, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

B = TrustDomain("b.example")
RUN = TaskName("run")
RUNNER = RunnerName("ward")
ANNA = NodeName(domain=A, network=NETWORK, role=Role.OPERATOR, name="anna").id


@pytest.fixture(scope="module", params=["embedded", pytest.param("cometbft", marks=needs_cometbft)])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    sites = (Site(domain=A, sls=1), Site(domain=B, sls=0))
    with running_network(tmp_path_factory.mktemp("tasks") / "w", sites, request.param) as made:
        yield made


def identity(network: LocalNetwork, domain: TrustDomain, role: Role) -> PemSource:
    """The certificate of a node that the organisation's CA names; made if there is none."""
    base = network.workdir / domain
    name = f"{role.value}-of-tests"
    paths = [base / "pki" / f"{name}.{kind}.pem" for kind in ("cert", "key")]
    issuer = base / "pki" / f"{domain}.ca.pem"
    if not paths[0].exists():
        node = NodeName(domain=domain, network=NETWORK, role=role, name=name)
        authority = Authority.load(base / "ca")
        issued = issue_certificate(authority, node, ("127.0.0.1",), base / "pki", at_ms=system_clock(), days=1)
        return PemSource(issued.certificate, issued.key, issued.issuer)
    return PemSource(paths[0], paths[1], issuer)


@asynccontextmanager
async def node(network: LocalNetwork, domain: TrustDomain, role: Role) -> AsyncIterator[tuple[SnClient, Submitter]]:
    """A node that asks its organisation's SN, and signs."""
    source = identity(network, domain, role)
    sn = network.sns[[A, B].index(domain)]
    async with open_sn(source, str(sn.address.endpoint)) as (client, _):
        yield client, await open_submitter(client, source, None)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(stream: AsyncIterator[Changes], wanted: Callable[[Changes], object]) -> Changes:
    """The next notice of a kind; the stream's signs of life go by."""
    async for notice in stream:
        if wanted(notice):
            return notice
    raise AssertionError("the stream ended")


def test_a_task_is_written_assigned_taken_and_reported_and_all_sns_tell_the_same(network: LocalNetwork) -> None:
    async def story() -> None:
        async with (
            node(network, A, Role.OPERATOR) as (client, operator),
            node(network, B, Role.SWOP) as (there, agent),
        ):
            seen = there.changes()
            assert (await anext(seen)).everything
            create = CreateTask(task=RUN, kind=TaskType.RUN_SWARM, author="Anna", prereq=ROOT_TASK, outcome="model")
            await operator.on_behalf_of(ANNA).require(create)
            await until(seen, lambda notice: RUN in notice.tasks)
            await operator.require(AppendTask(task=RUN, first=1, lines=("image: tumour", "peers: all")))
            written = await client.task(RUN)
            assert written is not None
            assert written.body == ("image: tumour", "peers: all")
            digest = hash_task(written.task, written.body)
            await operator.require(FinalizeTask(task=RUN, hash=digest))
            await operator.require(CreateTaskrunner(runner=RUNNER))
            await until(seen, lambda notice: RUNNER in notice.runners)
            await agent.require(ListenToRunner(runner=RUNNER, listening=True))
            await until(seen, lambda notice: RUNNER in notice.runners)
            await operator.require(AssignTask(runner=RUNNER, task=RUN, hash=digest, mode="peers", peers=1))
            await until(seen, lambda notice: RUNNER in notice.runners)
            await agent.require(TakeTask(runner=RUNNER, number=1, planned=1))
            done = (Unit(uid="sl-0", state=WorkState.COMPLETE, description="trained"),)
            await agent.require(ReportTask(runner=RUNNER, number=1, state=WorkState.COMPLETE, units=done))
            runner = await there.runner(RUNNER)
            assert runner is not None
            assert (runner.state, runner.agents[0].units) == (RunnerState.COMPLETE, done)
            # The other SN follows: it knows it when it has the block.
            while (await client.status()).height < there.height:
                await until(client.changes(), lambda notice: notice.height >= there.height)
            assert await client.runner(RUNNER) == runner
            assert await client.tasks() == await there.tasks()
            assert [task.name for task in await client.tasks()] == [ROOT_TASK, RUN]
            assert await there.runners() == (DEFAULT_RUNNER, RUNNER)
            final = await there.task(RUN)
            assert final is not None
            assert (final.task.hash, final.body) == (digest, written.body)
            assert final.task.caller == ANNA
            with pytest.raises(Refused, match="needs sn or operator"):
                await agent.require(ResetTaskrunner(runner=RUNNER, number=1))
            await operator.require(ResetTaskrunner(runner=RUNNER, number=1))

    run(story())


def test_presence_tells_whom_each_sn_has_heard_of(network: LocalNetwork) -> None:
    async def story() -> None:
        async with (
            node(network, A, Role.OPERATOR) as (client, _),
            node(network, B, Role.OPERATOR) as (there, _),
        ):
            here = {found.node: found for found in await client.presence()}
            other = {found.node: found for found in await there.presence()}
            assert set(here) == set(other) == {found.node for found in (await client.directory()).nodes}
            now_ms = system_clock()
            sn_a, sn_b, sl = network.sns[0].address.node, network.sns[1].address.node, network.sls[0].node
            for found in (here[sn_a], here[sn_b], here[sl], other[sn_a], other[sn_b]):
                assert 0 <= now_ms - found.seen_ms < 60_000, found
            # Who orders stands above the other SNs; the SL asks its own SN.
            above = sn_a if network.ledger == "embedded" else ""
            assert (here[sn_a].parent, here[sn_b].parent, here[sl].parent) == ("", above, sn_a)
            assert other[sl].parent == sn_a

    run(story())


def test_an_export_and_a_proof_show_on_whose_behalf_a_transaction_was_signed(
    network: LocalNetwork, tmp_path: Path
) -> None:
    async def story() -> None:
        async with node(network, A, Role.OPERATOR) as (_, operator):
            await operator.on_behalf_of(ANNA).require(CreateTaskrunner(runner=RunnerName("annas")))
            for_bob = operator.on_behalf_of(NodeName(domain=B, network=NETWORK, role=Role.OPERATOR, name="bob").id)
            with pytest.raises(Refused, match="cannot speak for"):
                await for_bob.require(CreateTaskrunner(runner=RunnerName("bobs")))

    run(story())
    out, proof = tmp_path / "history.jsonl", tmp_path / "proof.bin"
    done = ask_swarm(network, "ledger", "export", "--out", str(out))
    assert done.returncode == 0, done.stderr
    told = [tx for line in out.read_bytes().splitlines() for tx in json.loads(line)["transactions"]]
    created = {tx["message"]["runner"]: tx for tx in told if tx["message"]["type"] == "CreateTaskrunner"}
    assert created["annas"]["caller"] == ANNA
    assert "bobs" not in created
    assert {tx["caller"] for tx in told if tx["message"]["type"] == "RegisterNode"} == {None}
    done = ask_swarm(network, "ledger", "proof", "--tx", created["annas"]["hash"], "--out", str(proof))
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "swarmlearning", "ledger", "verify", "--genesis", str(network.genesis), str(proof)]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "CreateTaskrunner in annas" in verified.stdout, verified.stderr
    assert f"on behalf   {ANNA}, as the sender says" in verified.stdout
