"""Taskrunners: create them, give them tasks, reset them. Spec: CI-56, CI-57.

How far their tasks are is told by `runner_progress`.
"""

from typing import Final, Literal

from swarmlearning.contracts.messages import AssignTask, CreateTaskrunner, ResetTaskrunner
from swarmlearning.contracts.task_records import RunnerState, TaskType
from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.nodes import find_agent
from swarmlearning.reports.runners import (
    RunnerInfo,
    RunnerStatus,
    describe_info,
    find_runner,
    report_info,
    report_status,
)
from swarmlearning.reports.tasks import find_task
from swarmlearning.swci.entries import Entry, Route, Shown, label_lines, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import AgentName, Command
from swarmlearning.types import DEFAULT_RUNNER, NodeId, NodeName, Role, RunnerName, TaskName


class NewRunner(Command, frozen=True, kw_only=True):
    """`CREATE TASKRUNNER`."""

    runner: RunnerName


class ListRunners(Command, frozen=True, kw_only=True):
    """`LIST TASKRUNNERS`."""


class GetRunnerInfo(Command, frozen=True, kw_only=True):
    """`GET TASKRUNNER INFO`."""

    runner: RunnerName


class ResetRunner(Command, frozen=True, kw_only=True):
    """`RESET TASKRUNNER`."""

    runner: RunnerName


class AssignToPeers(Command, frozen=True, kw_only=True):
    """`ASSIGN TASK … WITH n PEERS`."""

    task: TaskName
    runner: RunnerName
    peers: int


class AssignToAll(Command, frozen=True, kw_only=True):
    """`ASSIGN TASK … WITH ALL PEERS`."""

    task: TaskName
    runner: RunnerName


class AssignToTarget(Command, frozen=True, kw_only=True):
    """`ASSIGN TASK … TARGET`."""

    task: TaskName
    runner: RunnerName
    agent: AgentName


# --- taskrunners ----------------------------------------------------------------------------------------------------


async def create_runner(session: Session, command: NewRunner) -> RunnerInfo:
    """Create a taskrunner.

    Raises:
        Refused: there is one of that name, or the organisation has too many.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    await (await session.submitter()).require(CreateTaskrunner(runner=command.runner))
    return report_info(await find_runner(client, command.runner))


async def list_runners(session: Session, _command: ListRunners) -> tuple[RunnerInfo, ...]:
    """All taskrunners, by name.

    Raises:
        SwarmError: see `Session.sn`.
    """
    client = await session.sn()
    return tuple([report_info(await find_runner(client, name)) for name in await client.runners()])


async def get_runner_info(session: Session, command: GetRunnerInfo) -> RunnerInfo:
    """A taskrunner itself.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return report_info(await find_runner(await session.sn(), command.runner))


async def reset_runner(session: Session, command: ResetRunner) -> RunnerStatus:
    """Take a taskrunner's task away; its agents stop what they began.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        Refused: the ledger refused it: a task goes on that others assigned, or somebody assigned one meanwhile.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    before = await find_runner(client, command.runner)
    number = before.assignment.number if before.assignment else 0
    await (await session.submitter()).require(ResetTaskrunner(runner=command.runner, number=number))
    return report_status(await find_runner(client, command.runner))


# --- assigning ------------------------------------------------------------------------------------------------------


async def assign_to_peers(session: Session, command: AssignToPeers) -> RunnerStatus:
    """Have a task carried out; it is complete when so many peers (RUN_SWARM) or agents have completed it.

    Raises:
        NotFound: there is no such task or taskrunner.
        ConfigurationError: the task is not final, or the number is none.
        Refused: the ledger refused it: the taskrunner has a task, say.
        SwarmError: see `Session.submitter`.
    """
    if command.peers < 1:
        raise ConfigurationError(f"<peers> {command.peers}: expected how many have to complete, at least 1")
    return await _assign(session, command.task, command.runner, "peers", peers=command.peers)


async def assign_to_all(session: Session, command: AssignToAll) -> RunnerStatus:
    """Have a task carried out by all agents that listen to the taskrunner now.

    Raises:
        SwarmError: see `assign_to_peers`.
    """
    return await _assign(session, command.task, command.runner, "all")


async def assign_to_target(session: Session, command: AssignToTarget) -> RunnerStatus:
    """Have a task carried out by one agent; it may join the task that goes on, or do it again.

    Raises:
        NotFound: there is no such agent; see also `assign_to_peers`.
        SwarmError: see `assign_to_peers`.
    """
    directory = await (await session.sn()).directory()
    agents = [node.node for node in directory.nodes if NodeName.parse(node.node).role is Role.SWOP]
    return await _assign(session, command.task, command.runner, "target", target=find_agent(command.agent, agents))


async def _assign(
    session: Session,
    task: TaskName,
    runner: RunnerName,
    mode: Literal["peers", "all", "target"],
    peers: int = 0,
    target: NodeId = NodeId(""),  # noqa: B008  # a str
) -> RunnerStatus:
    client = await session.sn()
    whole = await find_task(client, task)
    await find_runner(client, runner)
    if whole.task.kind is TaskType.ROOT_TASK:
        raise ConfigurationError(f"{task} has nothing to carry out: assign another task")
    if not whole.task.is_final:
        raise ConfigurationError(f"task {task} is not final: FINALIZE TASK {task} first")
    message = AssignTask(runner=runner, task=task, hash=whole.task.hash, mode=mode, peers=peers, target=target)
    await (await session.submitter()).require(message)
    return report_status(await find_runner(client, runner))


# --- for people -----------------------------------------------------------------------------------------------------


def tell_state(state: RunnerState) -> str:
    """A taskrunner's state, as existing programs look for it."""
    return f"TASK_STATE : {state.value}"


def _show_assigned(status: RunnerStatus) -> Shown:
    return Shown((f"Task Assigned : {status.task} , taskrunner : {status.runner}",))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "CREATE TASKRUNNER <runner>",
        NewRunner,
        create_runner,
        lambda info: Shown((f"Taskrunner Created : {info.runner}",)),
        topic="Taskrunners",
        help="Create a taskrunner; agents (SWOP) whose profile names it take its tasks.",
        example="CREATE TASKRUNNER heart_runner",
        route=Route("POST", "/taskrunners"),
        signs=True,
    ),
    make_entry(
        "LIST TASKRUNNERS",
        ListRunners,
        list_runners,
        lambda infos: Shown(tuple(info.runner for info in infos)),
        topic="Taskrunners",
        help="List the names of all taskrunners.",
        example="LIST TASKRUNNERS",
        route=Route("GET", "/taskrunners"),
    ),
    make_entry(
        "GET TASKRUNNER INFO <runner>",
        GetRunnerInfo,
        get_runner_info,
        lambda info: Shown(label_lines(describe_info(info))),
        topic="Taskrunners",
        help="Tell whose a taskrunner is, its state, and which agents listen to it.",
        example=f"GET TASKRUNNER INFO {DEFAULT_RUNNER}",
        route=Route("GET", "/taskrunners/{runner}"),
    ),
    make_entry(
        "RESET TASKRUNNER <runner>",
        ResetRunner,
        reset_runner,
        lambda status: Shown((f"Taskrunner Reset : {status.runner}", tell_state(status.state))),
        topic="Taskrunners",
        help="Take a taskrunner's task away, so that it can be given another; its agents stop what they began for it.",
        example=f"RESET TASKRUNNER {DEFAULT_RUNNER}",
        route=Route("POST", "/taskrunners/{runner}/reset"),
        signs=True,
    ),
    make_entry(
        "ASSIGN TASK <task> TO <runner> WITH <peers> PEERS",
        AssignToPeers,
        assign_to_peers,
        _show_assigned,
        topic="Taskrunners",
        help="Have a task carried out: it is complete when so many peers (RUN_SWARM) or agents have completed it.",
        example=f"ASSIGN TASK swarm_heart_task TO {DEFAULT_RUNNER} WITH 2 PEERS",
        route=Route("POST", "/taskrunners/{runner}/assign"),
        signs=True,
    ),
    make_entry(
        "ASSIGN TASK <task> TO <runner> WITH ALL PEERS",
        AssignToAll,
        assign_to_all,
        _show_assigned,
        topic="Taskrunners",
        help="Have a task carried out by all agents that listen to the taskrunner now.",
        example=f"ASSIGN TASK swarm_heart_task TO {DEFAULT_RUNNER} WITH ALL PEERS",
        route=Route("POST", "/taskrunners/{runner}/assign-all"),
        signs=True,
    ),
    make_entry(
        "ASSIGN TASK <task> TO <runner> TARGET <agent>",
        AssignToTarget,
        assign_to_target,
        _show_assigned,
        topic="Taskrunners",
        help="Have a task carried out by one agent, by name or UUID; it joins the task that goes on, or does it again.",
        example=f"ASSIGN TASK swarm_heart_task TO {DEFAULT_RUNNER} TARGET swop1@hospital-a.example",
        route=Route("POST", "/taskrunners/{runner}/assign-target"),
        signs=True,
    ),
)
