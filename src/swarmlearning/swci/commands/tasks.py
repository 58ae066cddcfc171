"""Tasks: create them, from files or line by line, finalize, delete, look at them. Spec: CI-53 to CI-55."""

import asyncio
from typing import Final, Literal

from swarmlearning.contracts.messages import AppendTask, CreateTask, DeleteTask, FinalizeTask
from swarmlearning.contracts.task_records import MAX_LINE, ROOT_TASK, hash_task
from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.tasks import (
    TaskBody,
    TaskInfo,
    TaskReport,
    describe_whole,
    find_task,
    report_body,
    report_task,
    report_whole,
)
from swarmlearning.swci.entries import Entry, Route, Shown, label_lines, make_entry
from swarmlearning.swci.running import ERROR
from swarmlearning.swci.session import Session
from swarmlearning.swci.task_writing import Registered, register_task
from swarmlearning.swci.values import Command, FileName, RawLine
from swarmlearning.tasks.bodies import read_body
from swarmlearning.tasks.definition import KIND_NAMES, read_definition
from swarmlearning.tasks.faults import Faulty
from swarmlearning.types import TaskName

_SUMMED_UP: Final = 3


class NewTask(Command, frozen=True, kw_only=True):
    """`CREATE TASK`."""

    kind: Literal["RUN_SWARM", "MAKE_USER_CONTAINER", "PULL_IMAGE", "MAKE_SWARM_USER_CONTENT", "BUILD_SWARM"]
    task: TaskName
    author: str
    prereq: TaskName
    outcome: str


class NewTaskFrom(Command, frozen=True, kw_only=True):
    """`CREATE TASK FROM`."""

    file: FileName


class AppendTaskBody(Command, frozen=True, kw_only=True):
    """`APPEND TASK BODY`."""

    task: TaskName
    index: int
    line: RawLine = RawLine("")


class Finalize(Command, frozen=True, kw_only=True):
    """`FINALIZE TASK`."""

    task: TaskName


class Delete(Command, frozen=True, kw_only=True):
    """`DELETE TASK`."""

    task: TaskName


class GetTaskInfo(Command, frozen=True, kw_only=True):
    """`GET TASK INFO`."""

    task: TaskName


class GetTaskBody(Command, frozen=True, kw_only=True):
    """`GET TASK BODY`."""

    task: TaskName


class ListTasks(Command, frozen=True, kw_only=True):
    """`LIST TASKS`."""


# --- writing --------------------------------------------------------------------------------------------------------


async def create_task(session: Session, command: NewTask) -> TaskReport:
    """Create a task without a body.

    Raises:
        Refused: the ledger refused it, and says why.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    message = CreateTask(
        task=command.task,
        kind=KIND_NAMES[command.kind],
        author=command.author,
        prereq=command.prereq,
        outcome=command.outcome,
    )
    await (await session.submitter()).require(message)
    return report_task((await find_task(client, command.task)).task)


async def create_task_from(session: Session, command: NewTaskFrom) -> Registered:
    """Create the task that a file defines, with its body; or go on where an attempt at that was interrupted.

    Raises:
        ConfigurationError: the file cannot be read, or defines no task; or there is another task of that name.
        Refused: the ledger refused it, and says why.
        SwarmError: see `Session.submitter`.
    """
    data = session.directory.read(command.file)
    # A large file takes a second, and others may be asking.
    definition = await asyncio.to_thread(read_definition, data, command.file)
    if isinstance(definition, Faulty):
        raise _refuse(session, definition)
    return await register_task(await session.sn(), await session.submitter(), definition)


async def append_task_body(session: Session, command: AppendTaskBody) -> TaskReport:
    """Write one line of a body, over the one of its number or after the last.

    Raises:
        ConfigurationError: no line has such a number, or the line is too long.
        Refused: the ledger refused it, and says why.
        SwarmError: see `Session.submitter`.
    """
    if command.index < 1:
        raise ConfigurationError(f"<index> {command.index}: expected the number of a line, from 1")
    if len(command.line) > MAX_LINE:
        raise ConfigurationError(f"<line> of {len(command.line)} characters; expected at most {MAX_LINE}")
    client = await session.sn()
    message = AppendTask(task=command.task, first=command.index, lines=(command.line,))
    await (await session.submitter()).require(message)
    return report_task((await find_task(client, command.task)).task)


async def finalize_task(session: Session, command: Finalize) -> TaskReport:
    """Make a task final: it can be assigned from now on, and never changed. Nothing is done if it is already.

    Raises:
        NotFound: there is no such task.
        ConfigurationError: its body is none of its type; the message names line and field.
        Refused: the ledger refused it, such as because somebody changed it meanwhile.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    whole = await find_task(client, command.task)
    if whole.task.is_final:
        return report_task(whole.task)
    body = await asyncio.to_thread(read_body, whole.task.kind, whole.body, command.task)
    if isinstance(body, Faulty):
        raise _refuse(session, body)
    message = FinalizeTask(task=command.task, hash=hash_task(whole.task, whole.body))
    await (await session.submitter()).require(message)
    return report_task((await find_task(client, command.task)).task)


async def delete_task(session: Session, command: Delete) -> TaskName:
    """Remove a task that is not final.

    Raises:
        NotFound: there is no such task.
        Refused: it is final, another organisation's, or a prerequisite.
        SwarmError: see `Session.submitter`.
    """
    await find_task(await session.sn(), command.task)
    await (await session.submitter()).require(DeleteTask(task=command.task))
    return command.task


def _refuse(session: Session, faulty: Faulty) -> ConfigurationError:
    """CI-50: the error for a text with faults; where there are several, all of them are told before it."""
    lines = faulty.lines()
    if len(lines) == 1:
        return ConfigurationError(lines[0])
    for line in lines:
        # Existing clients know failures by how lines begin, and some look at the first one only.
        session.tell(ERROR + line)
    more = f"; and {len(faulty.faults) - _SUMMED_UP} more" if len(faulty.faults) > _SUMMED_UP else ""
    return ConfigurationError(f"{len(faulty.faults)} faults in {faulty.source}: {'; '.join(lines[:_SUMMED_UP])}{more}")


# --- looking --------------------------------------------------------------------------------------------------------


async def get_task_info(session: Session, command: GetTaskInfo) -> TaskInfo:
    """A task without its body, and which members approved or denied it.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return report_whole(await find_task(await session.sn(), command.task))


async def get_task_body(session: Session, command: GetTaskBody) -> TaskBody:
    """A task's body.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return report_body(await find_task(await session.sn(), command.task))


async def list_tasks(session: Session, _command: ListTasks) -> tuple[TaskReport, ...]:
    """All tasks, by name.

    Raises:
        SwarmError: see `Session.sn`.
    """
    return tuple(map(report_task, await (await session.sn()).tasks()))


# --- for people -----------------------------------------------------------------------------------------------------


def _show_registered(registered: Registered) -> Shown:
    lines = [
        "Task definition is valid",
        *(f"WARNING - {warning}" for warning in registered.warnings),
        f"Task Registered : {registered.task}",
    ]
    if registered.final:
        lines.append(f"Task Final : {registered.task} , it was there already and is the same")
    elif registered.resumed:
        lines.append(f"Task Resumed : {registered.task} , lines found : {registered.found}")
    if registered.batches:
        lines.append("Appending Task Body")
        lines += [f"batch start : {batch.first} , len : {batch.lines} Successful" for batch in registered.batches]
    return Shown(tuple(lines))


def _show_finalized(report: TaskReport) -> Shown:
    return Shown((f"Task Finalized : {report.task}", f"Task Hash : {report.hash}"))


def _show_task(info: TaskInfo) -> Shown:
    return Shown(label_lines(describe_whole(info)))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "CREATE TASK <kind> <task> <author> <prereq> <outcome>",
        NewTask,
        create_task,
        lambda report: Shown((f"Task Registered : {report.task}",)),
        topic="Tasks",
        help="Create a task without a body; APPEND TASK BODY writes it, line by line.",
        example=f"CREATE TASK MAKE_USER_CONTAINER build_task HeartTeam {ROOT_TASK} user-env-heart",
        route=Route("POST", "/tasks"),
        signs=True,
    ),
    make_entry(
        "CREATE TASK FROM <file>",
        NewTaskFrom,
        create_task_from,
        _show_registered,
        topic="Tasks",
        help="Create the task that a YAML file defines, with its body; given again, go on where that was broken off.",
        example="CREATE TASK FROM taskdefs/swarm_heart_task.yaml",
        route=Route("POST", "/tasks/from-file"),
        signs=True,
    ),
    make_entry(
        "APPEND TASK BODY <task> <index> [<line...>]",
        AppendTaskBody,
        append_task_body,
        lambda report: Shown((f"Task Body Lines : {report.lines}",)),
        topic="Tasks",
        help="Write a line of a task's body, over the one of that number (from 1) or after the last; all of it counts.",
        example="APPEND TASK BODY build_task 1 BuildType: INLINE",
        route=Route("POST", "/tasks/{task}/body"),
        signs=True,
    ),
    make_entry(
        "FINALIZE TASK <task>",
        Finalize,
        finalize_task,
        _show_finalized,
        topic="Tasks",
        help="Make a task final, if its body can be read: from then on it can be assigned, and nobody changes it.",
        example="FINALIZE TASK swarm_heart_task",
        route=Route("POST", "/tasks/{task}/finalize"),
        signs=True,
    ),
    make_entry(
        "DELETE TASK <task>",
        Delete,
        delete_task,
        lambda task: Shown((f"Task Deleted : {task}",)),
        topic="Tasks",
        help="Remove a task that is not final.",
        example="DELETE TASK swarm_heart_task",
        route=Route("DELETE", "/tasks/{task}"),
        signs=True,
    ),
    make_entry(
        "GET TASK INFO <task>",
        GetTaskInfo,
        get_task_info,
        _show_task,
        topic="Tasks",
        help="Tell a task's type, author, prerequisite, outcome, whose it is, its hash, and who approved or denied it.",
        example="GET TASK INFO swarm_heart_task",
        route=Route("GET", "/tasks/{task}"),
    ),
    make_entry(
        "GET TASK BODY <task>",
        GetTaskBody,
        get_task_body,
        lambda body: Shown(body.lines),
        topic="Tasks",
        help="Tell the lines of a task's body.",
        example="GET TASK BODY swarm_heart_task",
        route=Route("GET", "/tasks/{task}/body"),
    ),
    make_entry(
        "LIST TASKS",
        ListTasks,
        list_tasks,
        lambda reports: Shown(tuple(report.task for report in reports)),
        topic="Tasks",
        help="List the names of all tasks.",
        example="LIST TASKS",
        route=Route("GET", "/tasks"),
    ),
)
