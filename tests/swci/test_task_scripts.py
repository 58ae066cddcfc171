"""A script of the shape that the product's examples have, in each letter case, by a real `swarm ci`, with a real end.

Its agent is played: it listens, takes what it is given and reports, as a node with the role swop.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from swci_world import Swarm
from task_agents import PlayedAgent, build_file, play_agent, run_file, unit

from swarmlearning.contracts.messages import CreateTaskrunner
from swarmlearning.contracts.task_records import RunnerState, TaskType, WorkState
from swarmlearning.errors import ExitCode
from swarmlearning.types import Role, RunnerName

SCRIPT = """
# An agent listens already.
EXIT ON FAILURE
WAIT FOR IP {host} {port} 3
CREATE CONTEXT {context} WITH IP {host} {port}
SWITCH CONTEXT {context}
EXIT ON FAILURE OFF
CD /platform/swarm/usr

# What the image needs
EXIT ON FAILURE
CREATE TASK FROM {folder}/build.yaml
FINALIZE TASK {build}
GET TASK INFO {build}
GET TASK BODY {build}
LIST TASKS
EXIT ON FAILURE OFF

# Build it
EXIT ON FAILURE
RESET TASKRUNNER {runner}
ASSIGN TASK {build} TO {runner} WITH 1 PEERS
WAIT FOR TASKRUNNER {runner}
EXIT ON FAILURE OFF

EXIT ON FAILURE
CREATE TASK FROM {folder}/run.yaml
FINALIZE TASK {run}
RESET TASKRUNNER {runner}
ASSIGN TASK {run} TO {runner} WITH 2 PEERS
WAIT FOR TASKRUNNER {runner}
GET TASKRUNNER STATUS {runner}
GET TASKRUNNER PEER STATUS {runner} 0
RESET TASKRUNNER {runner}
EXIT
NO SUCH COMMAND
"""


@asynccontextmanager
async def working_agent(swarm: Swarm, runner: str, *, fails: bool = False) -> AsyncIterator[None]:
    """An agent that does whatever the taskrunner has, until closed."""
    async with play_agent(swarm, runner, "worker") as agent, swarm.client(Role.SWOP, name="worker") as client:

        async def work() -> None:
            done = 0
            async for _ in client.changes():
                record = await client.runner(RunnerName(runner))
                assignment = record.assignment if record is not None else None
                if record is None or assignment is None or record.state is not RunnerState.WAITING:
                    continue
                if assignment.number > done:
                    done = assignment.number
                    await carry_out(agent, done, assignment.kind, fails=fails)

        await agent.listen()
        working = asyncio.create_task(work())
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def carry_out(agent: PlayedAgent, number: int, kind: TaskType, *, fails: bool) -> None:
    peers = 2 if kind is TaskType.RUN_SWARM else 1
    uids = [f"spiffe://a.example/local/sl/sl{index}" for index in range(peers)] if peers == 2 else []
    await agent.take(peers, number)
    await agent.report(WorkState.RUNNING, "", [unit(uid, WorkState.RUNNING) for uid in uids], number)
    end = WorkState.ERROR if fails else WorkState.COMPLETE
    await agent.report(end, "no disk" if fails else "", [unit(uid, end) for uid in uids], number)


def run_script(
    swarm: Swarm, tmp_path: Path, case: str, *, fails: bool = False
) -> tuple[int, list[str], dict[str, str]]:
    names = {name: swarm.fresh(name) for name in ("build", "run", "runner", "context")}
    (tmp_path / "taskdefs").mkdir()
    (tmp_path / "taskdefs" / "build.yaml").write_text(build_file(names["build"]))
    (tmp_path / "taskdefs" / "run.yaml").write_text(run_file(names["run"], names["build"]))
    where = swarm.sn()
    given = names | {"folder": "taskdefs", "host": where.host, "port": str(where.port)}
    text = {"upper": str.upper, "lower": str.lower, "mixed": str.title}[case](SCRIPT)
    for name, value in given.items():
        for form in (name, name.upper(), name.title()):
            text = text.replace("{" + form + "}", value)
    # Files are as they are written.
    for file in ("/platform/swarm/usr", "build.yaml", "run.yaml"):
        text = text.replace(file.upper(), file).replace(file.title(), file)
    (tmp_path / "swci-init").write_text(text)

    async def main() -> tuple[int, list[str]]:
        async with swarm.submitter() as submitter:
            await submitter.require(CreateTaskrunner(runner=RunnerName(names["runner"])))
            async with working_agent(swarm, names["runner"], fails=fails):
                arguments = ["--script", "swci-init", "--usr-dir", str(tmp_path), *swarm.options()]
                done = await asyncio.to_thread(swarm.ci, *arguments, config=tmp_path / "config", cwd=tmp_path)
                return done.returncode, [line.strip() for line in done.stdout.decode().splitlines()]

    status, said = asyncio.run(main())
    return status, said, names


@pytest.mark.parametrize("case", ["upper", "lower", "mixed"])
def test_ci59_a_script_of_the_products_shape_builds_runs_and_ends(swarm: Swarm, tmp_path: Path, case: str) -> None:
    status, said, names = run_script(swarm, tmp_path, case)
    assert status == ExitCode.OK, said
    for line in (
        "Task definition is valid",
        f"Task Registered : {names['build']}",
        f"Task Registered : {names['run']}",
        "batch start : 1 , len : 3 Successful",
        "BuildType: INLINE",
        f"Task Assigned : {names['run']} , taskrunner : {names['runner']}",
        "PEER_TYPE : SL",
        "COMPLETED_PEERS : 2",
        "PEER_UID : spiffe://a.example/local/sl/sl0 , STATUS : COMPLETE",
    ):
        assert line in said, line
    # Of each wait, and of the status.
    assert said.count("TASK_STATE : COMPLETE") == 3
    assert said[-1].lower().endswith("> exit")


def test_ci59_a_script_ends_with_the_task_that_failed(swarm: Swarm, tmp_path: Path) -> None:
    status, said, names = run_script(swarm, tmp_path, "lower", fails=True)
    assert status == ExitCode.PEER
    assert said[-1].startswith(f"ERROR {names['build']} on {names['runner']} ended with ERROR: ")
    assert said[-1].endswith("no disk")
    assert said[-2] == "TASK_STATE : ERROR"
