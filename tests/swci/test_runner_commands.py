"""Commands for taskrunners on a running swarm, with agents that sign what real ones will. Rules: swci-tasks.md."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from swci_world import A, B, Swarm
from task_agents import PlayedAgent, build_file, lines_of, play_agent, run_file, say, session_in, unit

from swarmlearning.contracts.task_records import RunnerState, WorkState
from swarmlearning.errors import ExitCode
from swarmlearning.reports.agents import AgentReport
from swarmlearning.reports.nodes import node_uuid
from swarmlearning.reports.runners import RunnerInfo, RunnerStatus
from swarmlearning.swci.running import Done
from swarmlearning.swci.session import Collected, Session
from swarmlearning.types import DEFAULT_RUNNER, NodeId, TrustDomain

MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


class World:
    """A session with a taskrunner of its own, a build task and a run task, both final."""

    def __init__(self, swarm: Swarm, session: Session, said: list[str]) -> None:
        self.swarm = swarm
        self.session = session
        self.said = said
        self.runner = swarm.fresh("runner")
        self.build = swarm.fresh("build")
        self.run = swarm.fresh("run")

    async def prepare(self) -> None:
        root = self.session.directory.root
        (root / "build.yaml").write_text(build_file(self.build))
        (root / "run.yaml").write_text(run_file(self.run, self.build))
        for line in (
            "CREATE TASK FROM build.yaml",
            f"FINALIZE TASK {self.build}",
            "CREATE TASK FROM run.yaml",
            f"FINALIZE TASK {self.run}",
            f"CREATE TASKRUNNER {self.runner}",
        ):
            assert not (await say(self.session, line)).failed, line
        self.said.clear()

    async def say(self, line: str) -> Done:
        return await say(self.session, line.format(runner=self.runner, build=self.build, run=self.run))

    async def lines(self, line: str) -> list[str]:
        done = await self.say(line)
        assert not done.failed, done.error
        return lines_of(done)

    async def status(self) -> dict[str, str]:
        pairs = [line.split(" : ", 1) for line in await self.lines("GET TASKRUNNER STATUS {runner}")]
        return {pair[0]: pair[1] for pair in pairs}


def in_world(swarm: Swarm, directory: Path, work: Callable[[World], Awaitable[None]]) -> None:
    async def main(session: Session, said: list[str]) -> None:
        world = World(swarm, session, said)
        await world.prepare()
        await work(world)

    session_in(swarm, directory, main)


def play(world: World, name: str = "swop1", domain: TrustDomain = A) -> AbstractAsyncContextManager[PlayedAgent]:
    return play_agent(world.swarm, world.runner, name, domain)


# --- taskrunners ----------------------------------------------------------------------------------------------------


def test_ci56_a_taskrunner_is_created_listed_and_told(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("runner")

    async def work(session: Session, said: list[str]) -> None:
        made = await say(session, f"create taskrunner {name}")
        assert lines_of(made) == [f"Taskrunner Created : {name}"]
        assert isinstance(made.answer, RunnerInfo)
        names = lines_of(await say(session, "LIST TASKRUNNERS"))
        assert {name, DEFAULT_RUNNER} <= set(names)
        assert names == sorted(names)
        async with play_agent(swarm, name, "swop2", B) as second, play_agent(swarm, name, "swop1") as first:
            await second.listen()
            await first.listen()
        assert lines_of(await say(session, f"GET TASKRUNNER INFO {name}")) == [
            f"TASKRUNNER : {name}",
            "ORGANISATION : a.example",
            f"CREATED_AT_BLOCK : {made.answer.created_height}",
            "TASK_STATE : IDLE",
            "TASKS_ASSIGNED : 0",
            "LISTENING_SWOPS : 2 (swop1@a.example, swop2@b.example)",
        ]
        assert (await say(session, f"CREATE TASKRUNNER {name}")).error == f"taskrunner {name} exists already"

    session_in(swarm, tmp_path, work)


def test_ci56_a_reset_takes_the_task_away(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        expected = [f"Taskrunner Reset : {world.runner}", "TASK_STATE : IDLE"]
        assert await world.lines("RESET TASKRUNNER {runner}") == expected
        await world.lines("ASSIGN TASK {build} TO {runner} WITH 1 PEERS")
        assert await world.lines("reset taskrunner {runner}") == expected
        assert (await world.status())["TASK_NAME"] == "Empty"

    in_world(swarm, tmp_path, work)


# --- assigning ------------------------------------------------------------------------------------------------------


def test_ci57_a_task_is_assigned_to_so_many_peers(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        done = await world.say("assign task {build} to {runner} with 2 peers")
        assert lines_of(done) == [f"Task Assigned : {world.build} , taskrunner : {world.runner}"]
        status = done.answer
        assert isinstance(status, RunnerStatus)
        assert (status.mode, status.wanted, status.number, status.state) == ("peers", 2, 1, RunnerState.WAITING)
        again = await world.say("ASSIGN TASK {build} TO {runner} WITH 1 PEERS")
        assert again.status is ExitCode.PEER
        assert again.error == (
            f"{world.runner} is WAITING, not IDLE: RESET it first, or name an agent as TARGET to join the task that it "
            "has"
        )

    in_world(swarm, tmp_path, work)


def test_ci57_a_task_is_assigned_to_all_agents_that_listen(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert (await world.say("ASSIGN TASK {build} TO {runner} WITH ALL PEERS")).error == (
            f"no agent listens to {world.runner}"
        )
        async with play(world) as first, play(world, "swop2", B) as second:
            await first.listen()
            await second.listen()
            status = (await world.say("ASSIGN TASK {build} TO {runner} WITH ALL PEERS")).answer
            assert (status.mode, status.wanted, status.wanted_type) == ("all", 2, "SWOP")

    in_world(swarm, tmp_path, work)


def test_ci57_one_agent_is_named_by_id_name_or_uuid(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async with play(world) as first:
            node = first.name.id
            for name in (node, "swop1@a.example", node_uuid(node), node_uuid(node).upper()):
                status = (await world.say("ASSIGN TASK {build} TO {runner} TARGET " + name)).answer
                assert (status.mode, status.state) == ("target", RunnerState.WAITING)
                assert f"has not taken it: {first.name.short}" in status.progress
                await world.lines("RESET TASKRUNNER {runner}")
            unknown = await world.say("ASSIGN TASK {build} TO {runner} TARGET swop1@a.exampl")
            assert "there is no agent (SWOP) swop1@a.exampl; did you mean swop1@a.example? There are: " in unknown.error

    in_world(swarm, tmp_path, work)


def test_ci57_a_failed_agent_is_named_again_and_the_task_completes(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async with play(world) as first:
            await first.listen()
            await world.lines("ASSIGN TASK {build} TO {runner} WITH 1 PEERS")
            await first.take()
            await first.report(WorkState.ERROR, "no disk")
            assert (await world.status())["TASK_STATE"] == "ERROR"
            await world.lines("ASSIGN TASK {build} TO {runner} TARGET swop1@a.example")
            await first.take()
            await first.report(WorkState.COMPLETE)
            assert (await world.status())["TASK_STATE"] == "COMPLETE"

    in_world(swarm, tmp_path, work)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ASSIGN TASK {build} TO {runner} WITH 0 PEERS", "<peers> 0: expected how many have to complete, at least 1"),
        (
            "ASSIGN TASK {build} TO {runner} WITH some PEERS",
            "<peers> 'some': expected a whole number; usage: ",
        ),
        ("ASSIGN TASK {build} TO {runner} WITH 257 PEERS", "expected 1 to 256 peers"),
        ("ASSIGN TASK {build} TO {runner} WITH 1", "expected PEERS, the line ends; usage: ASSIGN TASK"),
        ("ASSIGN TASK {build}x TO {runner} WITH 1 PEERS", "there is no task {build}x; did you mean {build}?"),
        ("ASSIGN TASK {build} TO {runner}x WITH 1 PEERS", "there is no taskrunner {runner}x; did you mean {runner}?"),
        ("ASSIGN TASK ROOTTASK TO {runner} WITH 1 PEERS", "ROOTTASK has nothing to carry out: assign another task"),
        (
            "ASSIGN TASK {build} TO {runner} TARGET ci-operator@a.example",
            "there is no agent (SWOP) ci-op",
        ),
        ("RESET TASKRUNNER nothing-like-it", "there is no taskrunner nothing-like-it; there are: "),
        (
            "GET TASKRUNNER PEER STATUS {runner} 0",
            "there is no agent 0 of {runner}: 0 have taken its task, numbered from 0",
        ),
        ("GET TASKRUNNER PEER STATUS {runner} who", "there is no agent (SWOP) who; there are: none"),
        ("GET TASKRUNNER PEER STATUS {runner}", "expected <peer>, the line ends; usage: GET TASKRUNNER PEER STATUS"),
    ],
)
def test_ci57_what_cannot_be_done_is_told_in_one_line(swarm: Swarm, tmp_path: Path, line: str, error: str) -> None:
    async def work(world: World) -> None:
        done = await world.say(line)
        assert error.format(build=world.build, runner=world.runner) in done.error

    in_world(swarm, tmp_path, work)


def test_ci57_a_task_that_is_not_final_is_not_assigned(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        name = swarm.fresh("unfinished")
        await world.lines(f"CREATE TASK RUN_SWARM {name} me ROOTTASK out")
        done = await world.say("ASSIGN TASK " + name + " TO {runner} WITH 1 PEERS")
        assert done.error == f"task {name} is not final: FINALIZE TASK {name} first"

    in_world(swarm, tmp_path, work)


# --- how far it is --------------------------------------------------------------------------------------------------


def test_ci58_a_taskrunner_without_a_task_is_empty(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert await world.lines("GET TASKRUNNER STATUS {runner}") == [
            "TASK_NAME : Empty",
            "PEER_TYPE : SWOP",
            "TASK_STATE : IDLE",
            "PROGRESS : nothing is assigned",
            "WANTED : -",
            "ACTIVE_PEERS : 0",
            "COMPLETED_PEERS : 0",
            "FAILED_PEERS : 0",
            "ASSIGNED_BY : -",
            "ASSIGNED_AT : -",
            "TAKEN_AT : -",
            "REPORTED_AT : -",
            "ENDED_AT : -",
        ]

    in_world(swarm, tmp_path, work)


def test_ci58_a_build_task_is_told_from_its_beginning_to_its_end(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        to_do = f"an operator of b.example decides, by APPROVE TASK {world.build} or DENY TASK {world.build}"
        asked = f"awaiting approval: swop2@b.example (for Dr. B) ({to_do})"
        async with play(world) as first, play(world, "swop2", B) as second:
            await first.listen()
            await world.lines("ASSIGN TASK {build} TO {runner} WITH 2 PEERS")
            status = await world.status()
            assert status["TASK_STATE"] == "WAITING"
            assert status["PROGRESS"] == f"{world.build}: 0 of 2 agents complete; has not taken it: swop1@a.example"
            assert status["ASSIGNED_BY"] == "ci-operator@a.example"
            await second.listen()
            await first.take()
            await second.take()
            await first.report(WorkState.COMPLETE, "Build Task Completed")
            await second.report(WorkState.AWAITING_APPROVAL, "for Dr. B")
            lines = await world.lines("GET TASKRUNNER STATUS {runner}")
            assert lines[:9] == [
                f"TASK_NAME : {world.build}",
                "PEER_TYPE : SWOP",
                "TASK_STATE : RUNNING",
                f"PROGRESS : {world.build}: 1 of 2 agents complete; {asked}",
                "WANTED : 2 SWOP",
                "ACTIVE_PEERS : 1",
                "COMPLETED_PEERS : 1",
                "FAILED_PEERS : 0",
                "ASSIGNED_BY : ci-operator@a.example",
            ]
            assert all(re.fullmatch(rf"(ASSIGNED|TAKEN|REPORTED)_AT : {MOMENT}", line) for line in lines[9:12])
            assert lines[12:] == ["ENDED_AT : -"]
            await second.report(WorkState.COMPLETE)
            status = await world.status()
            assert (status["TASK_STATE"], status["COMPLETED_PEERS"]) == ("COMPLETE", "2")
            assert re.fullmatch(MOMENT, status["ENDED_AT"])

    in_world(swarm, tmp_path, work)


def test_ci58_peers_of_an_agent_are_told_with_their_states(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async with play(world) as first, play(world, "swop2", B) as second:
            await first.listen()
            await second.listen()
            await world.lines("ASSIGN TASK {run} TO {runner} WITH 3 PEERS")
            await second.take(planned=2)
            await first.take(planned=1)
            units = [
                unit("spiffe://b.example/local/sl/sl1", WorkState.RUNNING, "Merged at sync id : 3"),
                unit("spiffe://b.example/local/sl/sl2", WorkState.COMPLETE),
            ]
            await second.report(WorkState.RUNNING, "Created containers to match profile : 2", units)
            node = second.name.id
            expected = [
                f"SWOP_UID : {node_uuid(node)}",
                "SWOP_NAME : swop2@b.example",
                "STATUS : RUNNING",
                "DESCRIPTION : Created containers to match profile : 2",
                "PEER_TYPE : SL",
                "PEERS : 2",
                "PEER_UID : spiffe://b.example/local/sl/sl1 , STATUS : RUNNING , DESCRIPTION : Merged at sync id : 3",
                "PEER_UID : spiffe://b.example/local/sl/sl2 , STATUS : COMPLETE",
            ]
            for peer in ("0", node_uuid(node), node, "swop2@b.example"):
                assert await world.lines("GET TASKRUNNER PEER STATUS {runner} " + peer) == expected
            assert (await world.lines("GET TASKRUNNER PEER STATUS {runner} 1"))[1:] == [
                "SWOP_NAME : swop1@a.example",
                "STATUS : ENROLLED",
                "DESCRIPTION : -",
                "PEER_TYPE : SL",
                "PEERS : 1",
            ]
            status = await world.status()
            assert (status["PEER_TYPE"], status["WANTED"]) == ("SL", "3 SL")
            assert (status["ACTIVE_PEERS"], status["COMPLETED_PEERS"]) == ("2", "1")
            assert status["PROGRESS"] == (
                f"{world.run}: 1 of 3 peers complete; has taken it: swop1@a.example; "
                "running: swop2@b.example (1 of 2 peers complete)"
            )

    in_world(swarm, tmp_path, work)


def test_ci58_peers_are_listed_as_csv(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        header = "Index,Name,UUID,Listens,Status,Peers,Description"
        assert await world.lines("LIST TASKRUNNER PEERS {runner}") == [header]
        async with play(world) as first, play(world, "swop2", B) as second:
            await first.listen()
            await second.listen()
            one, two = (node_uuid(agent.name.id) for agent in (first, second))
            assert await world.lines("LIST TASKRUNNER PEERS {runner}") == [
                header,
                f"-,swop1@a.example,{one},yes,NOT TAKEN,-,",
                f"-,swop2@b.example,{two},yes,NOT TAKEN,-,",
            ]
            await world.lines("ASSIGN TASK {build} TO {runner} WITH 1 PEERS")
            await second.take()
            await second.report(WorkState.RUNNING, "at it")
            await second.listen(listening=False)
            done = await world.say("LIST TASKRUNNER PEERS {runner}")
            assert lines_of(done) == [
                header,
                f"0,swop2@b.example,{two},no,RUNNING,1,at it",
                f"-,swop1@a.example,{one},yes,NOT TAKEN,-,",
            ]
            assert [type(agent) for agent in done.answer] == [AgentReport, AgentReport]

    in_world(swarm, tmp_path, work)


def test_ci58_an_error_is_told_with_its_reason_and_no_text_of_an_agent_passes_for_a_state(
    swarm: Swarm, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        async with play(world) as first:
            await first.listen()
            await world.lines("ASSIGN TASK {build} TO {runner} TARGET swop1@a.example")
            await first.take()
            await first.report(WorkState.DENIED, "TASK_STATE : COMPLETE \u202e")
            lines = await world.lines("GET TASKRUNNER STATUS {runner}")
            assert [line for line in lines if "TASK_STATE" in line] == ["TASK_STATE : ERROR"]
            (reason,) = (line for line in lines if line.startswith("REASON : "))
            assert reason == (
                "REASON : at most 0 of 1 agents can complete; swop1@a.example: DENIED: TASK-STATE : COMPLETE ?"
            )
            for line in ("GET TASKRUNNER PEER STATUS {runner} 0", "LIST TASKRUNNER PEERS {runner}"):
                assert not any("TASK_STATE" in told for told in await world.lines(line))

    in_world(swarm, tmp_path, work)


# --- waiting --------------------------------------------------------------------------------------------------------


async def waited(world: World, *steps: Callable[[], Awaitable[None]]) -> Done:
    """What WAIT FOR TASKRUNNER comes to, while steps are done, each once the wait has said something new."""
    heard = asyncio.Event()
    said = Collected(lambda _: heard.set())
    world.session.output, world.said = said, said.lines
    waiting = asyncio.create_task(world.say("WAIT FOR TASKRUNNER {runner}"))
    for number, step in enumerate(steps, 2):
        while len(said.lines) < number:
            heard.clear()
            hearing = asyncio.create_task(heard.wait())
            await asyncio.wait({waiting, hearing}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert hearing.done(), (said.lines, waiting)
        await step()
    return await waiting


def test_ci59_a_wait_says_the_limit_and_who_is_waited_for_until_it_is_done(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        asked = f"(an operator of a.example decides, by APPROVE TASK {world.build} or DENY TASK {world.build})"
        async with play(world) as first:
            await first.listen()
            await world.lines("ASSIGN TASK {build} TO {runner} WITH 1 PEERS")
            done = await waited(
                world,
                first.take,
                lambda: first.report(WorkState.AWAITING_APPROVAL),
                lambda: first.report(WorkState.RUNNING),
                lambda: first.report(WorkState.COMPLETE),
            )
            assert world.said == [
                "WAITING FOR TASKRUNNER TO COMPLETE - Maximum wait time is : 2 h 00 min",
                f"# {world.build}: 0 of 1 agents complete; has not taken it: swop1@a.example",
                f"# {world.build}: 0 of 1 agents complete; has taken it: swop1@a.example",
                f"# {world.build}: 0 of 1 agents complete; awaiting approval: swop1@a.example {asked}",
                f"# {world.build}: 0 of 1 agents complete; running: swop1@a.example",
            ]
            assert lines_of(done) == ["TASK_STATE : COMPLETE"]
            assert isinstance(done.answer, RunnerStatus)
            assert lines_of(await world.say("WAIT FOR TASKRUNNER {runner}")) == ["TASK_STATE : COMPLETE"]
            await world.lines("RESET TASKRUNNER {runner}")
            assert lines_of(await world.say("WAIT FOR TASKRUNNER {runner}")) == ["TASK_STATE : IDLE"]

    in_world(swarm, tmp_path, work)


def test_ci59_a_task_that_fails_makes_the_wait_fail_with_its_reason(swarm: Swarm, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async with play(world) as first:
            await first.listen()
            await world.lines("ASSIGN TASK {build} TO {runner} TARGET swop1@a.example")
            done = await waited(world, first.take, lambda: first.report(WorkState.ERROR, "no disk"))
            assert world.said[-1] == "TASK_STATE : ERROR"
            assert done.status is ExitCode.PEER
            assert done.error == (
                f"{world.build} on {world.runner} ended with ERROR: at most 0 of 1 agents can complete; "
                "swop1@a.example: ERROR: no disk"
            )

    in_world(swarm, tmp_path, work)


@pytest.mark.parametrize(
    ("task", "variable"),
    [
        ("run", "SWCI_RUN_TASK_MAX_WAIT_TIME"),
        ("build", "SWCI_GENERIC_TASK_MAX_WAIT_TIME"),
        ("build", "SWCI_TASK_MAX_WAIT_TIME"),
    ],
)
def test_ci59_after_the_limit_the_wait_fails_and_the_task_goes_on(
    swarm: Swarm, tmp_path: Path, task: str, variable: str
) -> None:
    async def work(world: World) -> None:
        await world.lines(f"SET CONTEXT ENV {variable} 0.002")
        await world.lines("ASSIGN TASK {" + task + "} TO {runner} WITH 1 PEERS")
        done = await world.say("WAIT FOR TASKRUNNER {runner}")
        name, what = (world.run, "peers") if task == "run" else (world.build, "agents")
        assert world.said == [
            "WAITING FOR TASKRUNNER TO COMPLETE - Maximum wait time is : 0 s",
            f"# {name}: 0 of 1 {what} complete; no agent listens to {world.runner}: it waits until one does",
            "WARNING - Maximum configured SWCI wait time is over",
        ]
        assert done.status is ExitCode.UNREACHABLE
        assert done.error.startswith(f"{world.runner} is not done after 0 s: {name}: 0 of 1 ")
        assert f"; the task goes on. {variable} is the limit in minutes" in done.error
        assert (await world.status())["TASK_STATE"] == "WAITING"

    in_world(swarm, tmp_path, work)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1000000"])
def test_ci59_a_limit_that_is_none_is_refused(
    swarm: Swarm, tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(world: World) -> None:
        refused = f"SWCI_GENERIC_TASK_MAX_WAIT_TIME '{value}': expected minutes, more than 0 and at most a year's"
        done = await world.say(f"SET CONTEXT ENV SWCI_GENERIC_TASK_MAX_WAIT_TIME {value}")
        assert done.error == refused
        monkeypatch.setenv("SWCI_GENERIC_TASK_MAX_WAIT_TIME", value)
        await world.lines("ASSIGN TASK {build} TO {runner} WITH 1 PEERS")
        done = await world.say("WAIT FOR TASKRUNNER {runner}")
        assert done.error == refused

    in_world(swarm, tmp_path, work)


def test_ci59_agents_of_both_organisations_carry_out_a_run_while_somebody_waits(swarm: Swarm, tmp_path: Path) -> None:
    async def carry_out(agent: PlayedAgent, planned: int) -> None:
        await agent.listen()
        await agent.take(planned)
        uids = [NodeId(f"spiffe://{agent.name.domain}/local/sl/sl{index}") for index in range(planned)]
        await agent.report(WorkState.RUNNING, "", [unit(uid, WorkState.RUNNING) for uid in uids])
        await agent.report(WorkState.COMPLETE, "", [unit(uid, WorkState.COMPLETE) for uid in uids])

    async def work(world: World) -> None:
        async with play(world) as first, play(world, "swop2", B) as second:
            await world.lines("ASSIGN TASK {run} TO {runner} WITH 3 PEERS")
            done = await waited(world, lambda: carry_out(first, 1), lambda: carry_out(second, 2))
            assert lines_of(done) == ["TASK_STATE : COMPLETE"]
            status = await world.status()
            assert (status["COMPLETED_PEERS"], status["FAILED_PEERS"]) == ("3", "0")

    in_world(swarm, tmp_path, work)
