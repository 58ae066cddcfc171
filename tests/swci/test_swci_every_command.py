"""Every command of the table, typed into the real shell in front of a running swarm; none is left out, none fails."""

import asyncio
import io
import os
import signal
from pathlib import Path

from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from swci_world import CONTEXT, B, Swarm
from task_agents import PlayedAgent, build_file, play_agent

from swarmlearning.contracts.messages import Propose
from swarmlearning.contracts.proposals import ChangeRoles
from swarmlearning.contracts.task_records import WorkState
from swarmlearning.errors import ExitCode
from swarmlearning.sn.client import SnClient
from swarmlearning.swci.entries import parse
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.shell import Shell
from swarmlearning.swci.table import COMMANDS
from swarmlearning.types import Role, RunnerName

LINES = """
EXIT ON FAILURE
HELP
PWD
LS -l
CREATE CONTEXT heart WITH IP {host} {port}
CREATE CONTEXT lung WITH SERVICE {host}:{port}
WAIT FOR IP {host} {port} 3
WAIT FOR SERVICE {host}:{port}
SWITCH CONTEXT heart
LIST CONTEXTS
SET CONTEXT ENV SWCI_TASK_MAX_WAIT_TIME 1
GET CONTEXT ENV SWCI_TASK_MAX_WAIT_TIME
LIST CONTEXT ENV heart
GET CONTEXT INFO
GET CONTEXT VERSION
DELETE CONTEXT lung
SHOW STATUS
LIST MEMBERS
LIST NODES
CREATE CONTRACT {contract}
LIST CONTRACTS
GET CONTRACT INFO {contract}
GET CONTRACT STATUS {contract}
GET CONTRACT HISTORY {contract}
PERFDATA {contract}
LIST PEERS {contract}
RESET CONTRACT {contract}
CD taskdefs
CREATE TASK FROM build.yaml
CREATE TASK MAKE_USER_CONTAINER {other} me ROOTTASK image
APPEND TASK BODY {other} 1 BuildType: INLINE
DELETE TASK {other}
FINALIZE TASK {task}
LIST TASKS
APPROVE TASK {task}
DENY TASK {task}
GET TASK INFO {task}
GET TASK BODY {task}
CREATE TASKRUNNER {runner}
LIST TASKRUNNERS
GET TASKRUNNER INFO {runner}
SLEEP 0
ASSIGN TASK {task} TO {runner} WITH 1 PEERS
WAIT FOR TASKRUNNER {runner}
GET TASKRUNNER STATUS {runner}
GET TASKRUNNER PEER STATUS {runner} 0
LIST TASKRUNNER PEERS {runner}
RESET TASKRUNNER {runner}
ASSIGN TASK {task} TO {runner} TARGET {agent}@a.example
WAIT FOR TASKRUNNER {runner}
RESET TASKRUNNER {runner}
ASSIGN TASK {task} TO {runner} WITH ALL PEERS
WAIT FOR TASKRUNNER {runner}
RESET TASKRUNNER {runner}
LIST PROPOSALS
GET PROPOSAL INFO {theirs}
VOTE {theirs} NO
WITHDRAW PROPOSAL {ours}
EXPORT LEDGER history.jsonl
WATCH CONTRACT {contract}
EXIT
""".strip().splitlines()


class Page(io.StringIO):
    """What the shell writes; a training that nobody enrols in is watched no longer than until that is said."""

    def write(self, text: str) -> int:
        if "nobody has enrolled" in text and "UTC" in text:
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


async def play(agent: PlayedAgent, sn: SnClient, runner: str, tasks: int) -> None:
    """Take and complete as many tasks as are assigned."""
    for number in range(1, tasks + 1):
        async for _ in sn.changes():
            record = await sn.runner(RunnerName(runner))
            if record is not None and not record.listeners:
                await agent.listen()
            if record is not None and record.assignment is not None and record.assignment.number == number:
                break
        await agent.take(number=number)
        await agent.report(WorkState.COMPLETE, "Build Task Completed", number=number)


def test_every_command_is_carried_out_in_the_shell(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "taskdefs").mkdir()
    names = {name: swarm.fresh(f"every-{name}") for name in ("contract", "task", "other", "runner", "agent")}
    (tmp_path / "taskdefs" / "build.yaml").write_text(build_file(names["task"]))
    # Neither is carried out: one is withdrawn, the other lacks our vote.
    changes = {
        whose: ChangeRoles(domain=B, roles=tuple(role for role in Role if role is not left_out))
        for whose, left_out in (("ours", Role.AUDITOR), ("theirs", Role.SWOP))
    }

    async def propose() -> dict[str, int]:
        numbers = {}
        async with swarm.submitter() as ours, swarm.submitter(domain=B) as theirs, swarm.client() as sn:
            for whose, submitter in (("ours", ours), ("theirs", theirs)):
                await submitter.require(Propose(change=changes[whose], reason="a test"))
                numbers[whose] = max(proposal.number for proposal in (await sn.governance()).proposals)
        return numbers

    async def main() -> tuple[list[str], list[str], ExitCode]:
        where = swarm.sn()
        values = {**names, **await propose(), "host": where.host, "port": where.port}
        lines = [line.format(**values) for line in LINES]
        page = Page()
        session, _ = swarm.session(directory=tmp_path)
        screen = session.output = Screen(page)
        async with (
            swarm.client(Role.SWOP, name=names["agent"]) as sn,
            play_agent(swarm, names["runner"], names["agent"]) as agent,
        ):
            playing = asyncio.create_task(play(agent, sn, names["runner"], 3))
            with create_pipe_input() as pipe:
                shell = Shell(COMMANDS, session, screen, tmp_path / "history", input=pipe, output=DummyOutput())
                pipe.send_text("".join(f"{line}\r" for line in lines))
                async with asyncio.timeout(90):
                    status = await shell.run()
            await session.disconnect()
            await playing
        return lines, page.getvalue().splitlines(), status

    lines, said, status = asyncio.run(main())
    errors = [line for line in said if "ERROR" in line]
    assert errors == [f"    ERROR interrupted: WATCH CONTRACT {names['contract']}"], said
    assert status is ExitCode.OK
    used = {meant.entry.usage for line in lines if (meant := parse(COMMANDS, line)) is not None}
    assert used == {entry.usage for entry in COMMANDS}, "a command without a line here"
    assert f"    CONTEXT CREATED : {CONTEXT}" not in said
    assert said.count("    TASK_STATE : COMPLETE") >= 1
    assert (tmp_path / "taskdefs" / "history.jsonl").stat().st_size > 0
    assert (tmp_path / "history").read_text().splitlines() == lines
    swarm.say(f"WITHDRAW PROPOSAL {next(line.split()[1] for line in lines if line.startswith('VOTE'))}", domain=B)
