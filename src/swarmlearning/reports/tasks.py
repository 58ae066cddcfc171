"""What people are told of tasks: records for programs, and their lines. Spec: docs/spec/swci-tasks.md, CI-54, CI-55.

Author and outcome, which others set, are made printable here; a body stands in its record as on the ledger.
"""

import msgspec

from swarmlearning.contracts.task_records import Task, TaskType, hash_task
from swarmlearning.errors import NotFound
from swarmlearning.reports.approvals import ApprovalReport, describe_approval, report_approval
from swarmlearning.reports.nodes import explain_missing
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import UNKNOWN
from swarmlearning.sn.api import WholeTask
from swarmlearning.sn.client import SnClient
from swarmlearning.types import NodeId, NodeName, TaskName, TrustDomain, short_name


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """A task without its body."""

    task: TaskName
    kind: TaskType
    author: str
    prereq: TaskName
    outcome: str
    organisation: TrustDomain
    """Whose it is; empty of ROOTTASK, which is nobody's."""
    creator: NodeId
    """Who signed it; empty of ROOTTASK."""
    caller: NodeId
    """On whose behalf; empty where the creator asked for it itself."""
    final: bool
    """It can be changed no more, and be assigned."""
    lines: int
    """Of its body."""
    hash: str
    """SHA-256, hexadecimal, over all that a host carries out; empty while it is not final."""
    created_height: int
    finalized_height: int | None


class TaskInfo(TaskReport, frozen=True, kw_only=True):
    """A task without its body, and what the members said of it."""

    approvals: tuple[ApprovalReport, ...]
    """By organisation; who is missing has neither approved nor denied it."""


class TaskBody(msgspec.Struct, frozen=True, kw_only=True):
    """A task's body."""

    task: TaskName
    kind: TaskType
    final: bool
    hash: str
    """What `FINALIZE TASK` signs of the task as it stands here, hexadecimal."""
    lines: tuple[str, ...]
    """As they stand on the ledger."""


def report_task(task: Task) -> TaskReport:
    """A task without its body."""
    return TaskReport(
        task=task.name,
        kind=task.kind,
        author=make_printable(task.author),
        prereq=task.prereq,
        outcome=make_printable(task.outcome),
        organisation=NodeName.parse(task.creator).domain if task.creator else TrustDomain(""),
        creator=task.creator,
        caller=task.caller,
        final=task.is_final,
        lines=task.lines,
        hash=task.hash.hex(),
        created_height=task.created_height,
        finalized_height=task.finalized_height if task.is_final else None,
    )


def report_whole(whole: WholeTask) -> TaskInfo:
    """A task without its body, and what the members said of it."""
    task = msgspec.structs.asdict(report_task(whole.task))
    return TaskInfo(**task, approvals=tuple(map(report_approval, whole.approvals)))


def report_body(whole: WholeTask) -> TaskBody:
    """A task's body."""
    return TaskBody(
        task=whole.task.name,
        kind=whole.task.kind,
        final=whole.task.is_final,
        hash=hash_task(whole.task, whole.body).hex(),
        lines=whole.body,
    )


def describe_task(report: TaskReport) -> list[tuple[str, str]]:
    """A task as labels and texts."""
    state = f"final since block {report.finalized_height}" if report.final else "not final"
    return [
        ("TASK_NAME", report.task),
        ("TASK_TYPE", report.kind.value),
        ("AUTHOR", report.author),
        ("PREREQ", report.prereq),
        ("OUTCOME", report.outcome),
        ("FINALIZED", state),
        ("HASH", report.hash or UNKNOWN),
        ("BODY_LINES", str(report.lines)),
        ("CREATED_BY", describe_creator(report)),
        ("CREATED_AT_BLOCK", str(report.created_height)),
    ]


def describe_whole(info: TaskInfo) -> list[tuple[str, str]]:
    """The same, and then who approved or denied it."""
    return [*describe_task(info), *map(describe_approval, info.approvals)]


def describe_creator(report: TaskReport) -> str:
    """Who signed a task's creation, and for whom."""
    if not report.creator:
        return "the network"
    return short_name(report.creator) + (f" for {short_name(report.caller)}" if report.caller else "")


async def find_task(client: SnClient, name: TaskName) -> WholeTask:
    """The task of a name that a person gave, with its body.

    Raises:
        NotFound: there is none; the message names the nearest, and those that there are.
        Unreachable, VerificationError, Refused: see `SnClient.task`.
    """
    whole = await client.task(name)
    if whole is None:
        raise NotFound(explain_missing("task", name, [task.name for task in await client.tasks()]))
    return whole
