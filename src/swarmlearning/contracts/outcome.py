"""How an assignment ends: in which state its taskrunner is, by what its agents reported. Spec: tasks.md, W-9."""

from msgspec.structs import replace

from swarmlearning.contracts.context import Context
from swarmlearning.contracts.task_records import (
    ACTIVE,
    FAILED,
    MAX_AGENTS,
    MAX_PLANNED,
    MAX_UNITS,
    Agent,
    Assignment,
    RunnerState,
    Taskrunner,
    Unit,
    count_towards_wanted,
)
from swarmlearning.types import short_name


def planned_peers(runner: Taskrunner) -> int:
    """How many peers the agents have planned that have taken the task."""
    return sum(agent.planned for agent in runner.agents)


def settle(runner: Taskrunner, context: Context) -> Taskrunner:
    """W-9: what is not decided yet is decided as soon as it can be."""
    assignment = runner.assignment
    if assignment is None or runner.state not in ACTIVE:
        return runner
    counts = count_towards_wanted(runner)
    ended = replace(assignment, ended_ms=assignment.ended_ms or context.time_ms)
    if counts.completed >= assignment.wanted:
        return replace(runner, state=RunnerState.COMPLETE, assignment=ended)
    possible = counts.completed + counts.active + _outstanding(runner, assignment)
    if counts.failed and possible < assignment.wanted:
        reason = _explain(runner, assignment, possible)
        return replace(runner, state=RunnerState.ERROR, assignment=ended, reason=reason)
    state = RunnerState.RUNNING if runner.agents else RunnerState.WAITING
    return replace(runner, state=state, assignment=replace(assignment, ended_ms=0))


def _outstanding(runner: Taskrunner, assignment: Assignment) -> int:
    """W-9: how many peers or agents could still come, at most: who has yet to take it may plan as it likes."""
    may = {*(assignment.chosen or runner.listeners), *assignment.targets} - {agent.node for agent in runner.agents}
    agents = min(len(may), MAX_AGENTS - len(runner.agents))
    most = agents * MAX_UNITS if assignment.wants_peers else agents
    return max(0, min(most, MAX_PLANNED - planned_peers(runner)))


def _explain(runner: Taskrunner, assignment: Assignment, possible: int) -> str:
    """W-9: why it is in ERROR: by the last agent, in the order in which they took it, of which something failed."""
    found: list[tuple[Agent, Agent | Unit]] = []
    for agent in runner.agents:
        parts: tuple[Agent | Unit, ...] = (agent, *(agent.units if assignment.wants_peers else ()))
        found += [(agent, part) for part in parts if part.state in FAILED][:1]
    culprit, part = found[-1]
    what = "peers" if assignment.wants_peers else "agents"
    description = f": {part.description}" if part.description else ""
    failed = f"{short_name(culprit.node)}: {part.state.value}{description}"
    return f"at most {possible} of {assignment.wanted} {what} can complete; {failed}"
