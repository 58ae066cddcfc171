"""Agents (SWOP) of tests: they sign what real ones will; short task files; lines said in a session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from swci_world import A, Swarm, text_of

from swarmlearning.contracts.messages import ListenToRunner, ReportTask, TakeTask
from swarmlearning.contracts.task_records import Evidence, Unit, WorkState
from swarmlearning.local.network import NETWORK
from swarmlearning.sn.client import Submitter
from swarmlearning.swci.running import Done, run_line
from swarmlearning.swci.session import Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.types import NodeName, Role, RunnerName, TrustDomain

T = TypeVar("T")


async def say(session: Session, line: str) -> Done:
    done = await run_line(COMMANDS, session, line)
    assert done is not None
    return done


def lines_of(done: Done) -> list[str]:
    return text_of(done).split("\n")


def session_in(
    swarm: Swarm,
    directory: Path,
    work: Callable[[Session, list[str]], Awaitable[T]],
    role: Role = Role.OPERATOR,
    domain: TrustDomain = A,
) -> T:
    async def main() -> T:
        session, said = swarm.session(role, domain, directory=directory)
        try:
            return await work(session, said.lines)
        finally:
            await session.disconnect()

    return asyncio.run(main())


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
        self,
        state: WorkState,
        description: str = "",
        units: Sequence[Unit] = (),
        number: int = 1,
        *,
        approved_by: str = "",
        evidence: Evidence | None = None,
    ) -> None:
        report = ReportTask(
            runner=self._runner,
            number=number,
            state=state,
            description=description,
            units=tuple(units),
            approved_by=approved_by,
            evidence=evidence,
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
