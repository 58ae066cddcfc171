"""Commands for tasks through sessions on a running swarm, line by line. Rules: docs/spec/swci-tasks.md."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swci_world import A, B, Swarm
from task_agents import build_file, lines_of, run_file, say, session_in

from swarmlearning.contracts.messages import MAX_TX_BYTES, AnyMessage, AppendTask
from swarmlearning.encoding import encode
from swarmlearning.errors import ExitCode, Unreachable
from swarmlearning.local.network import NETWORK
from swarmlearning.reports.tasks import TaskBody, TaskReport
from swarmlearning.sn.api import WholeTask
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.swci.running import Done
from swarmlearning.swci.session import Session
from swarmlearning.swci.task_writing import BATCH_BYTES, Batch, Registered, register_task, split_batches
from swarmlearning.tasks.definition import Definition, read_definition
from swarmlearning.types import NodeName, Role, TaskName


def read(text: str) -> Definition:
    found = read_definition(text.encode(), "test")
    assert isinstance(found, Definition)
    return found


# --- CREATE TASK FROM -----------------------------------------------------------------------------------------------


def test_ci53_a_file_becomes_a_task_in_the_products_lines(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("build")
    (tmp_path / "build.yaml").write_text(build_file(name, steps=["FROM scratch", "  COPY a b"]))

    async def work(session: Session, said: list[str]) -> None:
        made = await say(session, "create task from build.yaml")
        assert lines_of(made) == [
            "Task definition is valid",
            f"Task Registered : {name}",
            "Appending Task Body",
            "batch start : 1 , len : 4 Successful",
        ]
        assert made.answer == Registered(
            task=TaskName(name),
            lines=4,
            batches=(Batch(first=1, lines=4),),
            found=0,
            resumed=False,
            final=False,
            warnings=(),
        )
        body = await say(session, f"GET TASK BODY {name}")
        assert lines_of(body) == ["BuildType: INLINE", "BuildSteps:", "- 'FROM scratch'", "- '  COPY a b'"]

    session_in(swarm, tmp_path, work)


def test_ci53_a_large_body_goes_up_in_several_transactions(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("large")
    steps = [f"RUN step {number} {'x' * 200}" for number in range(600)]
    text = build_file(name, steps=steps)
    (tmp_path / "large.yaml").write_text(text)

    async def work(session: Session, said: list[str]) -> None:
        told = lines_of(await say(session, "CREATE TASK FROM large.yaml"))
        batches = [re.fullmatch(r"batch start : (\d+) , len : (\d+) Successful", line) for line in told[3:]]
        assert len(batches) > 2
        first = 1
        for batch in batches:
            assert batch is not None
            assert int(batch[1]) == first
            first += int(batch[2])
        assert first == 603
        assert lines_of(await say(session, f"GET TASK BODY {name}")) == list(read(text).lines)

    session_in(swarm, tmp_path, work)


@given(st.lists(st.integers(min_value=0, max_value=4096), max_size=60), st.integers(min_value=0, max_value=60))
def test_ci53_every_batch_fits_into_a_transaction_and_none_is_lost(lengths: list[int], start: int) -> None:
    lines = tuple("\U0001f600" * length for length in lengths)
    start = min(start, len(lines))
    joined: list[str] = list(lines[:start])
    for first, part in split_batches(lines, start):
        assert first == len(joined) + 1
        assert part
        message = AppendTask(task=TaskName("x" * 128), first=first, lines=part)
        assert len(encode(message)) <= BATCH_BYTES + 1024 < MAX_TX_BYTES - 4096
        joined += part
    assert tuple(joined) == lines


class DyingSubmitter(Submitter):
    """Submits through another one, and hears no answer after so many messages."""

    def __init__(self, other: Submitter, answers: int) -> None:
        self.other = other
        self.answers = answers

    async def require(self, message: AnyMessage) -> int:
        height = await self.other.require(message)
        if self.answers == 0:
            raise Unreachable("127.0.0.1:1: connection lost")
        self.answers -= 1
        return height


@pytest.mark.parametrize(("answers", "known", "found"), [(0, 0, 0), (1, 0, 250), (2, 250, 500), (3, 500, 602)])
def test_ci53_an_attempt_that_was_broken_off_is_taken_up_where_it_ended(
    swarm: Swarm, tmp_path: Path, answers: int, known: int, found: int
) -> None:
    name = swarm.fresh("broken-off")
    text = build_file(name, steps=[f"RUN step {number} {'x' * 200}" for number in range(600)])
    (tmp_path / "task.yaml").write_text(text)
    definition = read(text)

    async def work(session: Session, said: list[str]) -> None:
        client = await session.sn()
        dying = DyingSubmitter(await session.submitter(), answers)
        with pytest.raises(Unreachable) as raised:
            await register_task(client, dying, definition)
        how_far = re.search(
            rf"; (\d+) of 602 lines of {name} are known to be on the ledger: give the same", str(raised)
        )
        there = await client.task(definition.name)
        assert how_far is not None
        assert there is not None
        # What it did not hear of may have happened: it is one transaction ahead at most.
        assert (int(how_far[1]) == 0) == (known == 0)
        assert int(how_far[1]) <= there.task.lines
        assert (there.task.lines == 0) == (found == 0)
        lines = lines_of(await say(session, "CREATE TASK FROM task.yaml"))
        assert lines[1:3] == [f"Task Registered : {name}", f"Task Resumed : {name} , lines found : {there.task.lines}"]
        if there.task.lines < 602:
            assert lines[3] == "Appending Task Body"
            assert lines[4].startswith(f"batch start : {there.task.lines + 1} , len : ")
        else:
            assert len(lines) == 3
        again = await client.task(definition.name)
        assert again is not None
        assert again.body == definition.lines

    session_in(swarm, tmp_path, work)


def test_ci53_a_script_that_creates_a_task_can_be_run_again(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("again")
    (tmp_path / "task.yaml").write_text(build_file(name))

    async def work(session: Session, said: list[str]) -> None:
        first = [await say(session, line) for line in ("CREATE TASK FROM task.yaml", f"FINALIZE TASK {name}")]
        second = [await say(session, line) for line in ("CREATE TASK FROM task.yaml", f"FINALIZE TASK {name}")]
        assert not any(done.failed for done in (*first, *second))
        assert lines_of(second[0]) == [
            "Task definition is valid",
            f"Task Registered : {name}",
            f"Task Final : {name} , it was there already and is the same",
        ]
        assert second[1].answer == first[1].answer

    session_in(swarm, tmp_path, work)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"outcome": "other"}, "is on the ledger already with the outcome 'image', the file has 'other'"),
        ({"steps": ["FROM other"]}, "is on the ledger already with another body, from its line 3 on"),
        ({"steps": ["FROM scratch", "RUN more"]}, "is final with 3 lines, the file makes 4"),
    ],
)
@pytest.mark.parametrize("final", [False, True])
def test_ci53_another_task_of_that_name_is_never_written_over(
    swarm: Swarm, tmp_path: Path, final: bool, change: dict[str, str], expected: str
) -> None:
    name = swarm.fresh("other")
    (tmp_path / "first.yaml").write_text(build_file(name))
    (tmp_path / "other.yaml").write_text(build_file(name, **change))

    async def work(session: Session, said: list[str]) -> None:
        await say(session, "CREATE TASK FROM first.yaml")
        if final:
            await say(session, f"FINALIZE TASK {name}")
        before = await say(session, f"GET TASK BODY {name}")
        done = await say(session, "CREATE TASK FROM other.yaml")
        if "is final" in expected and not final:
            assert not done.failed  # it is the beginning of the other
            return
        assert done.status is ExitCode.CONFIGURATION
        assert expected in done.error
        assert done.error.endswith(
            ": choose another name" if final else f": DELETE TASK {name} first, or choose another name"
        )
        assert (await say(session, f"GET TASK BODY {name}")).answer == before.answer

    session_in(swarm, tmp_path, work)


def test_ci53_a_name_of_another_organisation_is_taken(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("theirs")
    (tmp_path / "task.yaml").write_text(build_file(name))
    (tmp_path / "root.yaml").write_text(build_file("ROOTTASK"))

    async def work(session: Session, said: list[str]) -> Done:
        return await say(session, "CREATE TASK FROM task.yaml")

    async def root(session: Session, said: list[str]) -> Done:
        return await say(session, "CREATE TASK FROM root.yaml")

    assert not session_in(swarm, tmp_path, work, domain=B).failed
    done = session_in(swarm, tmp_path, work, domain=A)
    assert done.error == f"there is a task {name} already, b.example's: choose another name"
    assert "there is a task ROOTTASK already, the network's" in session_in(swarm, tmp_path, root).error


def test_ci50_faults_of_a_file_are_told_a_line_each(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("faulty")
    text = build_file(name)
    (tmp_path / "one.yaml").write_text(text.replace("INLINE", "REMOTE"))
    several = text.replace("INLINE", "REMOTE").replace("Author", "Autor").replace("Name", "name")
    (tmp_path / "several.yaml").write_text(several)

    async def work(session: Session, said: list[str]) -> None:
        done = await say(session, "CREATE TASK FROM one.yaml")
        assert done.error == "one.yaml line 7, Body.BuildType: expected INLINE, got 'REMOTE'"
        assert done.status is ExitCode.CONFIGURATION
        assert said == []
        done = await say(session, "CREATE TASK FROM several.yaml")
        unknown = "unknown field; expected Name, TaskType, Author, Prereq, Outcome, Body; did you mean"
        assert said == [
            f"ERROR several.yaml line 1, name: {unknown} Name?",
            "ERROR several.yaml line 1, Name: expected a value, it is missing",
            "ERROR several.yaml line 1, Author: expected a value, it is missing",
            f"ERROR several.yaml line 3, Autor: {unknown} Author?",
            "ERROR several.yaml line 7, Body.BuildType: expected INLINE, got 'REMOTE'",
        ]
        first = "; ".join(line.removeprefix("ERROR ") for line in said[:3])
        assert done.error == f"5 faults in several.yaml: {first}; and 2 more"
        assert (await say(session, f"GET TASK INFO {name}")).failed

    session_in(swarm, tmp_path, work)


def test_ci53_a_password_that_everybody_would_read_is_warned_of(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("pull")
    header = f"Name: {name}\nTaskType: PULL_IMAGE\nAuthor: a\nPrereq:\nOutcome: o\n"
    body = "Body: {Tag: 1.0, RepoName: r, OrgAndReg: o, Auth: {Username: u, Password: p}}\n"
    (tmp_path / "pull.yaml").write_text(header + body)

    async def work(session: Session, said: list[str]) -> list[str]:
        return lines_of(await say(session, "CREATE TASK FROM pull.yaml"))

    told = session_in(swarm, tmp_path, work)
    assert told[1].startswith("WARNING - Body.Auth.Password will stand on the ledger, where every member reads it")
    assert told[2] == f"Task Registered : {name}"


# --- line by line ---------------------------------------------------------------------------------------------------


def test_ci54_a_task_is_written_line_by_line_and_finalized(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("by-hand")

    async def work(session: Session, said: list[str]) -> None:
        made = await say(session, f'CREATE TASK build_swarm {name} "Heart Team" ROOTTASK my-image')
        assert lines_of(made) == [f"Task Registered : {name}"]
        body = ["BuildType: REMOTE", "BuildSteps: # with a comment", "  - FROM scratch", "  - 'RUN \"x\"  # y'", ""]
        for index, line in enumerate(body, 1):
            told = await say(session, f"append task body {name} {index} {line}")
            assert lines_of(told) == [f"Task Body Lines : {index}"]
        assert lines_of(await say(session, f"GET TASK BODY {name}")) == body
        refused = await say(session, f"FINALIZE TASK {name}")
        assert refused.error == f"{name} line 1, Body.BuildType: expected INLINE, got 'REMOTE'"
        assert lines_of(await say(session, f"APPEND TASK BODY {name} 1 BuildType: INLINE")) == ["Task Body Lines : 5"]
        assert (await say(session, f"GET TASK BODY {name}")).answer.lines[:2] == ("BuildType: INLINE", body[1])
        final = await say(session, f"FINALIZE TASK {name}")
        report = final.answer
        assert isinstance(report, TaskReport)
        assert lines_of(final) == [f"Task Finalized : {name}", f"Task Hash : {report.hash}"]
        assert re.fullmatch("[0-9a-f]{64}", report.hash)
        body_report = (await say(session, f"GET TASK BODY {name}")).answer
        assert isinstance(body_report, TaskBody)
        assert body_report.hash == report.hash
        for line in (f"APPEND TASK BODY {name} 1 x", f"DELETE TASK {name}"):
            assert (await say(session, line)).error == f"{name} is final: it can be neither changed nor deleted"

    session_in(swarm, tmp_path, work)


def test_ci54_a_line_longer_than_the_products_is_taken(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("long")

    async def work(session: Session, said: list[str]) -> None:
        await say(session, f"CREATE TASK RUN_SWARM {name} me ROOTTASK out")
        line = f"Command: {'x' * 3000}"
        assert not (await say(session, f"APPEND TASK BODY {name} 1 {line}")).failed
        assert lines_of(await say(session, f"GET TASK BODY {name}")) == [line]
        done = await say(session, f"APPEND TASK BODY {name} 2 {'x' * 4097}")
        assert done.error == "<line> of 4097 characters; expected at most 4096"

    session_in(swarm, tmp_path, work)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("APPEND TASK BODY {task} 0 x", "<index> 0: expected the number of a line, from 1"),
        ("APPEND TASK BODY {task} 3 x", "line 3 of {task}: expected 1 to 1, it has 0"),
        (
            "APPEND TASK BODY {task} one x",
            "<index> 'one': expected a whole number; usage: APPEND TASK BODY <task>",
        ),
        ("FINALIZE TASK {task}", "{task} line 1, Body: the body is empty"),
        ("FINALIZE TASK {task}x", "there is no task {task}x; did you mean {task}? There are: "),
        ("DELETE TASK nothing-like-it", "there is no task nothing-like-it; there are: "),
        ("GET TASK BODY {task}.", "there is no task {task}.; did you mean {task}?"),
        ("CREATE TASK ROOT_TASK x y ROOTTASK z", "<kind> 'ROOT_TASK': expected one of RUN_SWARM, MAKE_USER_CONTAINER"),
        ("CREATE TASK RUN_SWARM {task} y ROOTTASK z", "task {task} exists already"),
        ("CREATE TASK RUN_SWARM x y nothing-like-it z", "there is no task nothing-like-it"),
        (
            "CREATE TASK FROM",
            "expected <task> or <file>, the line ends; usage: CREATE TASK <kind> <task> <author>",
        ),
        ("CREATE TASK FROM nothing.yaml", "nothing.yaml is no file below "),
    ],
)
def test_ci54_what_cannot_be_done_is_told_in_one_line(swarm: Swarm, tmp_path: Path, line: str, error: str) -> None:
    task = swarm.fresh("wrong")

    async def work(session: Session, said: list[str]) -> Done:
        await say(session, f"CREATE TASK MAKE_USER_CONTAINER {task} me ROOTTASK out")
        return await say(session, line.format(task=task))

    done = session_in(swarm, tmp_path, work)
    assert error.format(task=task) in done.error


def test_ci54_a_task_that_is_not_final_is_deleted(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("deleted")
    (tmp_path / "task.yaml").write_text(build_file(name))

    async def work(session: Session, said: list[str]) -> None:
        await say(session, "CREATE TASK FROM task.yaml")
        assert lines_of(await say(session, f"DELETE TASK {name}")) == [f"Task Deleted : {name}"]
        assert name not in lines_of(await say(session, "LIST TASKS"))
        assert not (await say(session, "CREATE TASK FROM task.yaml")).failed

    session_in(swarm, tmp_path, work)


def test_ci54_who_may_not_sign_is_told_which_role_is_needed(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(build_file(swarm.fresh("auditor")))

    async def work(session: Session, said: list[str]) -> Done:
        return await say(session, "CREATE TASK FROM task.yaml")

    done = session_in(swarm, tmp_path, work, role=Role.AUDITOR)
    assert "has the role auditor; this needs the role operator" in done.error


def test_ci54_what_somebody_changed_meanwhile_is_not_finalized(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("changed")
    (tmp_path / "task.yaml").write_text(build_file(name))

    class Between(SnClient):
        """Shows the task as it was before another operator changed it."""

        def __init__(self, other: SnClient, change: Callable[[], Awaitable[object]]) -> None:
            self.__dict__ = other.__dict__
            self.change = change

        async def task(self, name: TaskName) -> WholeTask | None:
            whole = await SnClient.task(self, name)
            await self.change()
            return whole

    async def work(session: Session, said: list[str]) -> None:
        await say(session, "CREATE TASK FROM task.yaml")
        client, submitter = await session.sn(), await session.submitter()
        changing = AppendTask(task=TaskName(name), first=3, lines=("- FROM elsewhere",))
        session._client = Between(client, lambda: submitter.require(changing))
        done = await say(session, f"FINALIZE TASK {name}")
        assert done.status is ExitCode.PEER
        assert "look at it again, somebody changed it" in done.error

    session_in(swarm, tmp_path, work)


# --- looking --------------------------------------------------------------------------------------------------------


def test_ci55_a_task_is_told_in_labelled_lines(swarm: Swarm, tmp_path: Path) -> None:
    build, run = swarm.fresh("build"), swarm.fresh("run")
    (tmp_path / "build.yaml").write_text(build_file(build))
    (tmp_path / "run.yaml").write_text(run_file(run, build))

    async def work(session: Session, said: list[str]) -> None:
        for line in ("CREATE TASK FROM build.yaml", f"FINALIZE TASK {build}", "CREATE TASK FROM run.yaml"):
            assert not (await say(session, line)).failed
        info = await say(session, f"get task info {run}")
        report = info.answer
        assert isinstance(report, TaskReport)
        assert (report.final, report.hash, report.finalized_height, report.organisation) == (False, "", None, A)
        assert lines_of(info) == [
            f"TASK_NAME : {run}",
            "TASK_TYPE : RUN_SWARM",
            "AUTHOR : Heart-Team",
            f"PREREQ : {build}",
            f"OUTCOME : {run}",
            "FINALIZED : not final",
            "HASH : -",
            "BODY_LINES : 4",
            "CREATED_BY : ci-operator@a.example",
            f"CREATED_AT_BLOCK : {report.created_height}",
        ]
        final = (await say(session, f"FINALIZE TASK {run}")).answer
        told = lines_of(await say(session, f"GET TASK INFO {run}"))
        assert told[5:7] == [f"FINALIZED : final since block {final.finalized_height}", f"HASH : {final.hash}"]

    session_in(swarm, tmp_path, work)


def test_ci55_all_tasks_are_listed_by_name(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("listed")

    async def work(session: Session, said: list[str]) -> None:
        await say(session, f"CREATE TASK RUN_SWARM {name} me ROOTTASK out")
        done = await say(session, "LIST TASKS")
        names = lines_of(done)
        assert {name, "ROOTTASK"} <= set(names)
        assert names == sorted(names)
        root = next(report for report in done.answer if report.task == "ROOTTASK")
        assert (root.organisation, root.creator, root.final, root.lines) == ("", "", True, 0)
        told = lines_of(await say(session, "GET TASK INFO ROOTTASK"))
        assert "CREATED_BY : the network" in told
        assert "TASK_TYPE : ROOT_TASK" in told

    session_in(swarm, tmp_path, work)


def test_ci55_on_whose_behalf_a_task_was_created_is_told(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("behalf")

    async def work(session: Session, said: list[str]) -> None:
        async with swarm.submitter(name="carol"):
            session.caller = NodeName(domain=A, network=NETWORK, role=Role.OPERATOR, name="carol").id
        await say(session, f"CREATE TASK RUN_SWARM {name} me ROOTTASK out")
        told = lines_of(await say(session, f"GET TASK INFO {name}"))
        assert "CREATED_BY : ci-operator@a.example for carol@a.example" in told

    session_in(swarm, tmp_path, work)


def test_ci55_what_is_shown_of_a_body_is_what_is_on_the_ledger(swarm: Swarm, tmp_path: Path) -> None:
    name = swarm.fresh("shown")
    lines = ["Command: TASK_STATE\t: COMPLETE", "# zero\u200bwidth", "ERROR in a body"]

    async def work(session: Session, said: list[str]) -> None:
        await say(session, f"CREATE TASK RUN_SWARM {name} me ROOTTASK out")
        message = AppendTask(task=TaskName(name), first=1, lines=tuple(lines))
        await (await session.submitter()).require(message)
        body = await say(session, f"GET TASK BODY {name}")
        assert lines_of(body) == [lines[0], "# zero?width", lines[2]]
        assert body.answer.lines == tuple(lines)

    session_in(swarm, tmp_path, work)
