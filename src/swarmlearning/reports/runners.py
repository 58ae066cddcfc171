"""What people are told of taskrunners: records for programs, and their lines. Spec: swci-tasks.md, CI-56, CI-58.

What their agents are told of is in `agents`. Texts that others set are made printable here, once.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from swarmlearning.contracts.task_records import (
    ENDED,
    FAILED,
    Agent,
    RunnerState,
    Taskrunner,
    TaskType,
    WorkState,
    count_towards_wanted,
    count_work,
)
from swarmlearning.errors import NotFound
from swarmlearning.reports.approvals import explain_approval
from swarmlearning.reports.nodes import explain_missing
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import UNKNOWN, show_time
from swarmlearning.sn.client import SnClient
from swarmlearning.types import NodeId, NodeName, RunnerName, TaskName, TrustDomain, short_name

EMPTY: Final = "Empty"
"""The task's name where a taskrunner has none: as in the product we re-create."""

_MAX_NAMES: Final = 10

_STATE_WORD: Final = re.compile("TASK_STATE", re.IGNORECASE)


class RunnerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A taskrunner itself."""

    runner: RunnerName
    organisation: TrustDomain
    """Whose it is."""
    created_height: int
    state: RunnerState
    assignments: int
    """How many tasks it was given so far."""
    listeners: tuple[NodeId, ...]
    """Agents that take its tasks."""


class RunnerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The task that a taskrunner has, and how far it is; None where there is none."""

    runner: RunnerName
    task: TaskName | None
    kind: TaskType | None
    hash: str
    """The task's, hexadecimal; empty where there is none."""
    peer_type: Literal["SL", "SWOP"]
    """What is counted: pairs of SL and program, or agents."""
    state: RunnerState
    number: int | None
    """Of the assignment, from 1."""
    mode: Literal["peers", "all", "target"] | None
    wanted: int | None
    """How many have to complete."""
    wanted_type: Literal["SL", "SWOP"]
    """What `wanted` counts."""
    active: int
    completed: int
    failed: int
    assigner: NodeId
    """Empty where nothing is assigned."""
    caller: NodeId
    """On whose behalf it was assigned; empty where the assigner asked for it itself."""
    assigned_ms: int | None
    """Block times, milliseconds since the epoch."""
    taken_ms: int | None
    """When the first agent took it."""
    reported_ms: int | None
    """The newest report."""
    ended_ms: int | None
    reason: str
    """Why it is in ERROR; else empty."""
    progress: str
    """What it waits for and of whom, or how it ended, for people."""


async def find_runner(client: SnClient, name: RunnerName) -> Taskrunner:
    """The taskrunner of a name that a person gave.

    Raises:
        NotFound: there is none; the message names the nearest, and those that there are.
        Unreachable, VerificationError, Refused: see `SnClient.runner`.
    """
    runner = await client.runner(name)
    if runner is None:
        raise NotFound(explain_missing("taskrunner", name, await client.runners()))
    return runner


def tell_text(text: str) -> str:
    """CI-58: a text that another party set, printable, and never to be taken for a taskrunner's state.

    Programs look for `TASK_STATE` in any line of an answer.
    """
    return _STATE_WORD.sub(lambda found: found[0].replace("_", "-"), make_printable(text))


# --- a taskrunner ---------------------------------------------------------------------------------------------------


def report_info(runner: Taskrunner) -> RunnerInfo:
    """A taskrunner itself."""
    return RunnerInfo(
        runner=runner.name,
        organisation=runner.creator,
        created_height=runner.created_height,
        state=runner.state,
        assignments=runner.assignments,
        listeners=runner.listeners,
    )


def describe_info(info: RunnerInfo) -> list[tuple[str, str]]:
    """A taskrunner itself as labels and texts."""
    return [
        ("TASKRUNNER", info.runner),
        ("ORGANISATION", info.organisation),
        ("CREATED_AT_BLOCK", str(info.created_height)),
        ("TASK_STATE", info.state.value),
        ("TASKS_ASSIGNED", str(info.assignments)),
        ("LISTENING_SWOPS", f"{len(info.listeners)}{_in_brackets(info.listeners)}"),
    ]


def _in_brackets(nodes: Iterable[NodeId]) -> str:
    names = name_all(nodes)
    return f" ({names})" if names else ""


def name_all(nodes: Iterable[NodeId]) -> str:
    """`name@domain` of nodes, the first ones if they are many."""
    names = [short_name(node) for node in nodes]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def report_status(runner: Taskrunner) -> RunnerStatus:
    """The task that a taskrunner has, and how far it is."""
    assignment, counts = runner.assignment, count_work(runner)
    is_run = assignment is not None and assignment.kind is TaskType.RUN_SWARM
    return RunnerStatus(
        runner=runner.name,
        task=assignment.task if assignment else None,
        kind=assignment.kind if assignment else None,
        hash=assignment.hash.hex() if assignment else "",
        peer_type="SL" if is_run else "SWOP",
        state=runner.state,
        number=assignment.number if assignment else None,
        mode=assignment.mode if assignment else None,
        wanted=assignment.wanted if assignment else None,
        wanted_type="SL" if assignment and assignment.wants_peers else "SWOP",
        active=counts.active,
        completed=counts.completed,
        failed=counts.failed,
        assigner=assignment.assigner if assignment else NodeId(""),
        caller=assignment.caller if assignment else NodeId(""),
        assigned_ms=assignment.assigned_ms if assignment else None,
        taken_ms=min((agent.since_ms for agent in runner.agents), default=None),
        reported_ms=max((agent.reported_ms for agent in runner.agents), default=None),
        ended_ms=(assignment.ended_ms or None) if assignment else None,
        reason=tell_text(runner.reason),
        progress=explain_runner(runner),
    )


def describe_status(status: RunnerStatus) -> list[tuple[str, str]]:
    """A taskrunner's task as labels and texts."""
    pairs = [
        ("TASK_NAME", status.task or EMPTY),
        ("PEER_TYPE", status.peer_type),
        ("TASK_STATE", status.state.value),
    ]
    if status.reason:
        pairs.append(("REASON", status.reason))
    wanted = UNKNOWN if status.wanted is None else f"{status.wanted} {status.wanted_type}"
    return [
        *pairs,
        ("PROGRESS", status.progress),
        ("WANTED", wanted),
        ("ACTIVE_PEERS", str(status.active)),
        ("COMPLETED_PEERS", str(status.completed)),
        ("FAILED_PEERS", str(status.failed)),
        ("ASSIGNED_BY", _describe_assigner(status)),
        ("ASSIGNED_AT", _show_moment(status.assigned_ms)),
        ("TAKEN_AT", _show_moment(status.taken_ms)),
        ("REPORTED_AT", _show_moment(status.reported_ms)),
        ("ENDED_AT", _show_moment(status.ended_ms)),
    ]


def _describe_assigner(status: RunnerStatus) -> str:
    if not status.assigner:
        return UNKNOWN
    return short_name(status.assigner) + (f" for {short_name(status.caller)}" if status.caller else "")


def _show_moment(time_ms: int | None) -> str:
    return UNKNOWN if time_ms is None else show_time(time_ms)


def explain_runner(runner: Taskrunner) -> str:
    """What a taskrunner waits for and of whom, or how its task ended, in a line."""
    assignment = runner.assignment
    if assignment is None:
        return "nothing is assigned"
    counts = count_towards_wanted(runner)
    what = "peers" if assignment.wants_peers else "agents"
    parts = [f"{counts.completed} of {assignment.wanted} {what} complete"]
    by_state: dict[WorkState, list[str]] = {}
    for agent in runner.agents:
        by_state.setdefault(agent.state, []).append(_name_agent(agent))
    for state, label in _LABELS.items():
        if state in by_state:
            parts.append(f"{label}: {_limit(by_state[state])}")
        if state in by_state and state is WorkState.AWAITING_APPROVAL:
            asked = [NodeName.parse(agent.node).domain for agent in runner.agents if agent.state is state]
            parts[-1] += f" ({explain_approval(assignment.task, asked)})"
    taken = {agent.node for agent in runner.agents}
    missing = sorted({*(assignment.chosen or runner.listeners), *assignment.targets} - taken)
    if runner.state in (RunnerState.WAITING, RunnerState.RUNNING):
        if missing:
            parts.append(f"has not taken it: {name_all(missing)}")
        elif not runner.agents:
            parts.append(f"no agent listens to {runner.name}: it waits until one does")
        elif all(agent.state in ENDED for agent in runner.agents):
            parts.append(f"it waits until another agent listens to {runner.name}")
    return f"{assignment.task}: {'; '.join(parts)}"


_LABELS: Final = {
    WorkState.AWAITING_APPROVAL: "awaiting approval",
    WorkState.ENROLLED: "has taken it",
    WorkState.RUNNING: "running",
    WorkState.ERROR: "failed",
    WorkState.DENIED: "denied",
}


def _name_agent(agent: Agent) -> str:
    """An agent, how far its peers are, and what it says where something is amiss."""
    ended = sum(unit.state is WorkState.COMPLETE for unit in agent.units)
    failed = sum(unit.state in FAILED for unit in agent.units)
    notes = []
    if agent.units:
        notes.append(f"{ended} of {agent.planned} peers complete" + (f", {failed} failed" if failed else ""))
    if agent.description and agent.state is not WorkState.RUNNING:
        notes.append(tell_text(agent.description))
    return short_name(agent.node) + (f" ({'; '.join(notes)})" if notes else "")


def _limit(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
