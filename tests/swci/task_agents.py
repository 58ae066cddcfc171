"""Agents (SWOP) of tests: they sign what real ones will; and task files that are short."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from swci_world import A, Swarm

from swarmlearning.contracts.messages import ListenToRunner, ReportTask, TakeTask
from swarmlearning.contracts.task_records import Unit, WorkState
from swarmlearning.local.network import NETWORK
from swarmlearning.sn.client import Submitter
from swarmlearning.types import NodeName, Role, RunnerName, TrustDomain


class PlayedAgent:
    """Says on the ledger what an agent says, as a node with the role swop."""

    def __init__(self, submitter: Submitter, name: NodeName, runner: str) -> None:
        self.name = name
        self._submitter = submitter
        self._runner = RunnerName(runner)

    async def listen(self, *, listening: bool = True) -> None:
        await self._submitter.require(ListenToRunner(runner=self._runner, listening=listening))

    async def take(self, planned: int = 1, number: int = 1) -> None:
        await self._submitter.require(TakeTask(runner=self._runner, number=number, planned=planned))

    async def report(
        self, state: WorkState, description: str = "", units: Sequence[Unit] = (), number: int = 1
    ) -> None:
        report = ReportTask(
            runner=self._runner, number=number, state=state, description=description, units=tuple(units)
        )
        await self._submitter.require(report)


@asynccontextmanager
async def play_agent(swarm: Swarm, runner: str, name: str, domain: TrustDomain = A) -> AsyncIterator[PlayedAgent]:
    """An agent that is registered and does not listen yet."""
    async with swarm.submitter(Role.SWOP, domain, name) as submitter:
        yield PlayedAgent(submitter, NodeName(domain=domain, network=NETWORK, role=Role.SWOP, name=name), runner)


def unit(uid: str, state: WorkState, description: str = "") -> Unit:
    return Unit(uid=uid, state=state, description=description)


def build_file(name: str, *, steps: Sequence[str] = ("FROM scratch",), outcome: str = "image") -> str:
    """A task definition of two lines and one for each step."""
    lines = [f"    - '{step}'" for step in steps]
    header = [f"Name: {name}", "TaskType: MAKE_USER_CONTAINER", "Author: Heart-Team", "Prereq: ROOTTASK"]
    return "\n".join([*header, f"Outcome: {outcome}", "Body:", "    BuildType: INLINE", "    BuildSteps:", *lines, ""])


def run_file(name: str, prereq: str) -> str:
    """A task definition that runs a swarm."""
    header = [f"Name: {name}", "TaskType: RUN_SWARM", "Author: Heart-Team", f"Prereq: {prereq}", f"Outcome: {name}"]
    body = ["Command: model/heart.py", "Entrypoint: python3", "WorkingDir: /w", 'Envvars: ["MIN_PEERS": 2]']
    return "\n".join([*header, "Body:", *(f"    {line}" for line in body), ""])
