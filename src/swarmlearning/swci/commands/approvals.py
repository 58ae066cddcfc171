"""Approve a task for the own organisation's agents, or deny it. Spec: docs/spec/swci-tasks.md, CI-70."""

import asyncio
from typing import Final

import msgspec

from swarmlearning.contracts.messages import ApproveTask
from swarmlearning.contracts.task_records import hash_task
from swarmlearning.errors import ConfigurationError, NotFound, VerificationError
from swarmlearning.reports.approvals import ApprovalReport, describe_approval
from swarmlearning.reports.tasks import TaskReport, describe_creator, find_task, report_task, report_whole
from swarmlearning.swci.entries import Entry, Route, Shown, label_lines, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command
from swarmlearning.types import NodeName, TaskName


class Approve(Command, frozen=True, kw_only=True):
    """`APPROVE TASK`."""

    task: TaskName


class Deny(Command, frozen=True, kw_only=True):
    """`DENY TASK`."""

    task: TaskName


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What the own organisation's agents may carry out, or may not."""

    task: TaskReport
    approval: ApprovalReport
    """As it stands on the ledger."""


async def approve(session: Session, command: Approve) -> Decided:
    """Say that the own organisation's agents may carry out a task.

    Raises:
        NotFound: there is no such task.
        ConfigurationError: it is not final.
        VerificationError: the SN shows a body that is not the one of the task's hash.
        Refused: the ledger refused it, such as of ROOTTASK, which has nothing to carry out.
        SwarmError: see `Session.submitter`.
    """
    return await _decide(session, command.task, granted=True)


async def deny(session: Session, command: Deny) -> Decided:
    """Say that the own organisation's agents may not carry out a task.

    Raises:
        SwarmError: see `approve`.
    """
    return await _decide(session, command.task, granted=False)


async def _decide(session: Session, name: TaskName, *, granted: bool) -> Decided:
    client = await session.sn()
    whole = await find_task(client, name)
    if not whole.task.is_final:
        raise ConfigurationError(f"task {name} is not final and may still change: decide once it is")
    # A large body takes a moment, and others may be asking.
    digest = await asyncio.to_thread(hash_task, whole.task, whole.body)
    if digest != whole.task.hash:
        raise VerificationError(
            f"task {name} as the SN shows it has the hash {digest.hex()[:16]}…, on the ledger it has "
            f"{whole.task.hash.hex()[:16]}…: do not believe this SN"
        )
    await (await session.submitter()).require(ApproveTask(task=name, hash=digest, granted=granted))
    # An SN answers its own organisation only: whose it is we are.
    own = NodeName.parse(client.address.node).domain
    now = await find_task(client, name)
    for approval in report_whole(now).approvals:
        if approval.organisation == own:
            return Decided(task=report_task(now.task), approval=approval)
    raise NotFound(f"what {own} said of {name} is not on the ledger any more: is it still a member?")


# --- for people -----------------------------------------------------------------------------------------------------


def _show_decided(decided: Decided) -> Shown:
    task, approval = decided.task, decided.approval
    said = "Approved" if approval.granted else "Denied"
    return Shown(
        (
            f"Task {said} : {task.task}",
            *label_lines(
                [
                    ("TASK_TYPE", task.kind.value),
                    ("AUTHOR", task.author),
                    ("PREREQ", task.prereq),
                    ("CREATED_BY", describe_creator(task)),
                    ("HASH", task.hash),
                    describe_approval(approval),
                    ("COUNTS_FOR", f"all agents (SWOP) of {approval.organisation}, from now on"),
                ]
            ),
        )
    )


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "APPROVE TASK <task>",
        Approve,
        approve,
        _show_decided,
        topic="Tasks",
        help="Let all agents (SWOP) of the own organisation carry out a task on its hosts, from now on.",
        example="APPROVE TASK swarm_heart_task",
        route=Route("POST", "/tasks/{task}/approve"),
        signs=True,
    ),
    make_entry(
        "DENY TASK <task>",
        Deny,
        deny,
        _show_decided,
        topic="Tasks",
        help="Forbid all agents (SWOP) of the own organisation to carry out a task, from now on; the last word counts.",
        example="DENY TASK swarm_heart_task",
        route=Route("POST", "/tasks/{task}/deny"),
        signs=True,
    ),
)
