"""APPROVE TASK and DENY TASK on a running swarm, and what is told of them. Rules: docs/spec/swci-tasks.md."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from swci_world import A, B, Swarm
from task_agents import build_file, lines_of, play_agent, say, session_in

from swarmlearning.contracts.task_records import Evidence, TaskType, WorkState
from swarmlearning.errors import ExitCode
from swarmlearning.reports.approvals import ApprovalReport
from swarmlearning.reports.tasks import TaskInfo
from swarmlearning.sn.api import WholeTask
from swarmlearning.sn.client import SnClient
from swarmlearning.swci.commands.approvals import Decided
from swarmlearning.swci.session import Session
from swarmlearning.types import Role, TaskName

MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


def final_task(swarm: Swarm, directory: Path, name: str) -> str:
    """Make a final task of organisation A; its hash."""
    (directory / "build.yaml").write_text(build_file(name))

    async def work(session: Session, said: list[str]) -> str:
        await say(session, "CREATE TASK FROM build.yaml")
        return lines_of(await say(session, f"FINALIZE TASK {name}"))[1].removeprefix("Task Hash : ")

    return session_in(swarm, directory, work)


def test_ci70_an_approval_shows_what_exactly_was_approved_and_for_whom(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("build")
    digest = final_task(swarm, tmp_path, name)
    swarm.say(f"DENY TASK {name}")  # another organisation's word is not ours

    async def work(session: Session, said: list[str]) -> None:
        done = await say(session, f"approve task {name}")
        lines = lines_of(done)
        assert lines[:6] == [
            f"Task Approved : {name}",
            "TASK_TYPE : MAKE_USER_CONTAINER",
            "AUTHOR : Heart-Team",
            "PREREQ : ROOTTASK",
            "CREATED_BY : ci-operator@a.example",
            f"HASH : {digest}",
        ]
        signed = rf"APPROVED_BY : b\.example , SIGNED_BY : ci-operator@b\.example , AT : {MOMENT}"
        assert re.fullmatch(signed, lines[6]), lines
        assert lines[7:] == ["COUNTS_FOR : all agents (SWOP) of b.example, from now on"]
        decided = done.answer
        assert isinstance(decided, Decided)
        assert (decided.task.kind, decided.task.hash) == (TaskType.MAKE_USER_CONTAINER, digest)
        assert (decided.approval.organisation, decided.approval.granted) == (B, True)
        denied = lines_of(await say(session, f"DENY TASK {name}"))
        assert denied[0] == f"Task Denied : {name}"
        assert denied[6].startswith("DENIED_BY : b.example , ")
        assert lines_of(await say(session, f"DENY TASK {name}"))[0] == denied[0], "again is no error"

    session_in(swarm, tmp_path, work, domain=B)


def test_ci55_a_task_is_told_with_what_every_organisation_said_of_it(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("build")
    final_task(swarm, tmp_path, name)
    before = swarm.say(f"GET TASK INFO {name}")[0]
    assert before is not None
    assert not any("ED_BY : b" in line or "APPROVED" in line for line in lines_of(before))
    swarm.say(f"DENY TASK {name}", domain=B)
    swarm.say(f"APPROVE TASK {name}")
    info = swarm.say(f"GET TASK INFO {name}", domain=B)[0]
    assert info is not None
    approved, denied = lines_of(info)[-2:]
    assert re.fullmatch(rf"APPROVED_BY : a\.example , SIGNED_BY : ci-operator@a\.example , AT : {MOMENT}", approved)
    assert re.fullmatch(rf"DENIED_BY : b\.example , SIGNED_BY : ci-operator@b\.example , AT : {MOMENT}", denied)
    assert isinstance(info.answer, TaskInfo)
    assert [(found.organisation, found.granted) for found in info.answer.approvals] == [(A, True), (B, False)]
    assert all(isinstance(found, ApprovalReport) and found.height > 0 for found in info.answer.approvals)


@pytest.mark.parametrize("verb", ["APPROVE", "DENY"])
def test_ci70_what_cannot_be_decided_is_told_in_one_line(swarm: Swarm, tmp_path: Path, verb: str) -> None:
    name = swarm.fresh("draft")

    async def work(session: Session, said: list[str]) -> None:
        await say(session, f"CREATE TASK PULL_IMAGE {name} me ROOTTASK image")
        draft = await say(session, f"{verb} TASK {name}")
        assert draft.error == f"task {name} is not final and may still change: decide once it is"
        root = await say(session, f"{verb} TASK ROOTTASK")
        assert root.error == "ROOTTASK has nothing to carry out: there is nothing to approve or deny"
        missing = await say(session, f"{verb} TASK {name}x")
        assert f"there is no task {name}x; did you mean {name}?" in missing.error

    session_in(swarm, tmp_path, work)


def test_ci70_only_operators_and_sns_decide(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("build")
    final_task(swarm, tmp_path, name)
    done = swarm.say(f"APPROVE TASK {name}", role=Role.SWOP)[0]
    assert done is not None
    assert "needs the role operator" in done.error


def test_ci70_a_body_that_is_not_the_hashs_is_not_approved(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SN that shows a harmless body would else have another one approved, under its true hash."""
    name = swarm.fresh("build")
    final_task(swarm, tmp_path, name)
    told = SnClient.task

    async def lie(client: SnClient, asked: TaskName) -> WholeTask | None:
        whole = await told(client, asked)
        return None if whole is None else replace(whole, body=("BuildType: INLINE", "BuildSteps:", "- 'FROM good'"))

    async def work(session: Session, said: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(SnClient, "task", lie)
            done = await say(session, f"APPROVE TASK {name}")
        assert done.status is ExitCode.PEER
        assert "do not believe this SN" in done.error
        info = (await say(session, f"GET TASK INFO {name}")).answer
        assert info.approvals == ()

    session_in(swarm, tmp_path, work)


def test_ci58_an_agent_asks_is_approved_and_proves_what_it_ran(swarm: Swarm, tmp_path: Path) -> None:
    name, runner = swarm.fresh("build"), swarm.fresh("runner")
    final_task(swarm, tmp_path, name)
    to_do = f"an operator of b.example decides, by APPROVE TASK {name} or DENY TASK {name}"
    ran = Evidence(manager="PROCESS with bubblewrap", image="sha256:7f", exit_status=0, log_hash=bytes(32))

    async def work(session: Session, said: list[str]) -> None:
        async def lines(line: str) -> list[str]:
            return lines_of(await say(session, line))

        await say(session, f"CREATE TASKRUNNER {runner}")
        async with play_agent(swarm, runner, "swop2", B) as agent:
            await agent.listen()
            await say(session, f"ASSIGN TASK {name} TO {runner} WITH 1 PEERS")
            await agent.take()
            await agent.report(WorkState.AWAITING_APPROVAL, "reads private data")
            progress = f"PROGRESS : {name}: 0 of 1 agents complete; awaiting approval: swop2@b.example "
            assert f"{progress}(reads private data) ({to_do})" in await lines(f"GET TASKRUNNER STATUS {runner}")
            assert (await lines(f"GET TASKRUNNER PEER STATUS {runner} 0"))[2:] == [
                "STATUS : AWAITING APPROVAL",
                "DESCRIPTION : reads private data",
                f"TO_DO : {to_do}",
            ]
            listed = await lines(f"LIST TASKRUNNER PEERS {runner}")
            assert listed[1].endswith(f",yes,AWAITING APPROVAL,1,reads private data; {to_do}")
            await agent.report(
                WorkState.COMPLETE, approved_by="spiffe://b.example/local/operator/ci-operator", evidence=ran
            )
            assert (await lines(f"GET TASKRUNNER PEER STATUS {runner} 0"))[2:] == [
                "STATUS : COMPLETE",
                "DESCRIPTION : -",
                "APPROVED_BY : spiffe://b.example/local/operator/ci-operator",
                f"RAN_BY : PROCESS with bubblewrap , IMAGE : sha256:7f , EXIT_STATUS : 0 , LOG_HASH : {'00' * 32}",
            ]

    session_in(swarm, tmp_path, work)
