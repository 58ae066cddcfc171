"""How far a taskrunner's task is, by whom, and waiting for it. Spec: docs/spec/swci-tasks.md, CI-58 and CI-59."""

from typing import Final

from swarmlearning.contracts.task_records import ACTIVE, RunnerState, TaskType
from swarmlearning.errors import Refused, WaitExpired
from swarmlearning.reports.agents import (
    PEER_COLUMNS,
    AgentReport,
    agent_cells,
    describe_agent,
    find_peer,
    report_agents,
)
from swarmlearning.reports.runner_wait import begin_wait
from swarmlearning.reports.runners import RunnerStatus, describe_status, find_runner, report_status
from swarmlearning.reports.view import show_seconds
from swarmlearning.swci.commands.runners import tell_state
from swarmlearning.swci.entries import Entry, Grid, Route, Shown, label_lines, make_entry
from swarmlearning.swci.limits import DEFAULT_MINUTES, RUN_LIMIT, wait_limit
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command
from swarmlearning.types import DEFAULT_RUNNER, RunnerName

_OVER: Final = "WARNING - Maximum configured SWCI wait time is over"


class GetRunnerStatus(Command, frozen=True, kw_only=True):
    """`GET TASKRUNNER STATUS`."""

    runner: RunnerName


class GetPeerStatus(Command, frozen=True, kw_only=True):
    """`GET TASKRUNNER PEER STATUS`."""

    runner: RunnerName
    peer: str


class ListRunnerPeers(Command, frozen=True, kw_only=True):
    """`LIST TASKRUNNER PEERS`."""

    runner: RunnerName


class WaitForRunner(Command, frozen=True, kw_only=True):
    """`WAIT FOR TASKRUNNER`."""

    runner: RunnerName


# --- its task -------------------------------------------------------------------------------------------------------


async def get_runner_status(session: Session, command: GetRunnerStatus) -> RunnerStatus:
    """The task that a taskrunner has, and how far it is.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return report_status(await find_runner(await session.sn(), command.runner))


# --- its agents -----------------------------------------------------------------------------------------------------


async def get_peer_status(session: Session, command: GetPeerStatus) -> AgentReport:
    """How far one agent is.

    Raises:
        NotFound: there is no such taskrunner or agent.
        SwarmError: see `Session.sn`.
    """
    return find_peer(await find_runner(await session.sn(), command.runner), command.peer)


async def list_runner_peers(session: Session, command: ListRunnerPeers) -> tuple[AgentReport, ...]:
    """The agents of a taskrunner: who has taken its task, in that order, then who may or listens.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return report_agents(await find_runner(await session.sn(), command.runner))


# --- waiting --------------------------------------------------------------------------------------------------------


async def wait_for_runner(session: Session, command: WaitForRunner) -> RunnerStatus:
    """CI-59: wait until a taskrunner's task is done, and say whom it waits for.

    Raises:
        NotFound: there is no such taskrunner.
        ConfigurationError: the limit is none.
        WaitExpired: it goes on after the limit.
        Refused: the task failed, or the taskrunner was reset meanwhile.
        SwarmError: see `Session.sn`.
    """
    wait = await begin_wait(await session.sn(), command.runner, session.tell)
    assignment = wait.runner.assignment
    is_run = assignment is not None and assignment.kind is TaskType.RUN_SWARM
    limit_s, variable = wait_limit(session.variable, is_run=is_run)
    if wait.runner.state in ACTIVE:
        session.tell(f"WAITING FOR TASKRUNNER TO COMPLETE - Maximum wait time is : {show_seconds(round(limit_s))}")
    try:
        return report_status(await wait.until_done(limit_s))
    except WaitExpired as error:
        session.tell(_OVER)
        raise WaitExpired(f"{error}; the task goes on. {variable} is the limit in minutes") from error
    except Refused:
        if wait.runner.state is RunnerState.ERROR:
            session.tell(tell_state(wait.runner.state))
        raise


# --- for people ---


def _show_peers(agents: tuple[AgentReport, ...]) -> Shown:
    return Shown(grid=Grid(PEER_COLUMNS, tuple(map(agent_cells, agents)), ("UUID", "Listens")))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "GET TASKRUNNER STATUS <runner>",
        GetRunnerStatus,
        get_runner_status,
        lambda status: Shown(label_lines(describe_status(status))),
        topic="Taskrunners",
        help="Tell a taskrunner's task, its state, how many peers are at it, have completed or failed, and since when.",
        example=f"GET TASKRUNNER STATUS {DEFAULT_RUNNER}",
        route=Route("GET", "/taskrunners/{runner}/status"),
    ),
    make_entry(
        "GET TASKRUNNER PEER STATUS <runner> <peer>",
        GetPeerStatus,
        get_peer_status,
        lambda agent: Shown(label_lines(describe_agent(agent))),
        topic="Taskrunners",
        help="Tell how far one agent and its peers are, by its number from 0, its UUID or its name.",
        example=f"GET TASKRUNNER PEER STATUS {DEFAULT_RUNNER} 0",
        route=Route("GET", "/taskrunners/{runner}/peers/{peer}"),
    ),
    make_entry(
        "LIST TASKRUNNER PEERS <runner>",
        ListRunnerPeers,
        list_runner_peers,
        _show_peers,
        topic="Taskrunners",
        help="List a taskrunner's agents: who has taken its task, in that order, then who may take it or listens.",
        example=f"LIST TASKRUNNER PEERS {DEFAULT_RUNNER}",
        route=Route("GET", "/taskrunners/{runner}/peers"),
    ),
    make_entry(
        "WAIT FOR TASKRUNNER <runner>",
        WaitForRunner,
        wait_for_runner,
        lambda status: Shown((tell_state(status.state),)),
        topic="Taskrunners",
        help=f"Wait until its task is done, and say for whom: {DEFAULT_MINUTES} minutes, or as {RUN_LIMIT} says.",
        example=f"WAIT FOR TASKRUNNER {DEFAULT_RUNNER}",
        waits=True,
    ),
)
