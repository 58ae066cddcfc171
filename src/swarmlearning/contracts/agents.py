"""What agents say of a taskrunner's task: who listens, takes it, reports. Spec: docs/spec/tasks.md, W-10 to W-14.

Pure: every function takes a taskrunner and gives back the next one; in which state that is says `outcome`.
"""

from collections.abc import Callable

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.limits import HASH_BYTES, clean_bytes, has_controls
from swarmlearning.contracts.messages import ListenToRunner, ReportTask, TakeTask
from swarmlearning.contracts.outcome import planned_peers
from swarmlearning.contracts.task_records import (
    ACTIVE,
    ENDED,
    FAILED,
    MAX_AGENTS,
    MAX_APPROVED_BY,
    MAX_DESCRIPTION,
    MAX_EXIT_STATUS,
    MAX_IMAGE,
    MAX_MANAGER,
    MAX_PLANNED,
    MAX_UID,
    MAX_UNITS,
    Agent,
    Assignment,
    Evidence,
    Taskrunner,
    TaskType,
    Unit,
    WorkState,
)
from swarmlearning.types import Code, NodeId, NodeName, TrustDomain


def listen(runner: Taskrunner, context: Context, message: ListenToRunner) -> Taskrunner:
    """W-10: an agent takes this runner's tasks from now on, or does no more.

    Raises:
        Rejected: too many listen.
    """
    others = {node for node in runner.listeners if node != context.sender}
    if not message.listening:
        return replace(runner, listeners=tuple(sorted(others)))
    if len(others) >= MAX_AGENTS:
        raise Rejected(Code.CONFLICT, f"{MAX_AGENTS} agents listen to {runner.name}, the most there can be")
    return replace(runner, listeners=tuple(sorted({*others, context.sender})))


def _require_assignment(runner: Taskrunner, number: int) -> Assignment:
    """W-11: what an agent says is of the assignment that the runner has."""
    assignment = runner.assignment
    if assignment is None or assignment.number != number:
        has = "has no task" if assignment is None else f"is at assignment {assignment.number}"
        raise Rejected(Code.STALE, f"assignment {number} of {runner.name} is over: it {has}")
    return assignment


def take(runner: Taskrunner, context: Context, message: TakeTask) -> Taskrunner:
    """W-11: an agent takes the task.

    Raises:
        Rejected: another assignment, not for this agent, taken before, decided, or too many peers.
    """
    assignment = _require_assignment(runner, message.number)
    named = context.sender in assignment.targets
    if any(agent.node == context.sender for agent in runner.agents):
        raise Rejected(Code.CONFLICT, f"{context.name.short} has taken {assignment.task} already")
    if not named and context.sender not in (assignment.chosen or runner.listeners):
        why = "was not chosen for it" if assignment.chosen else f"does not listen to {runner.name}"
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} cannot take {assignment.task}: it {why}")
    if not named and runner.state not in ACTIVE:
        raise Rejected(Code.CONFLICT, f"{runner.name} is {runner.state.value}: {assignment.task} is taken no more")
    most = MAX_UNITS if assignment.kind is TaskType.RUN_SWARM else 1
    if not 1 <= message.planned <= most:
        raise Rejected(
            Code.MALFORMED, f"{message.planned} peers planned for {assignment.kind.value}: expected 1 to {most}"
        )
    agents, planned = len(runner.agents), planned_peers(runner)
    if agents >= MAX_AGENTS or planned + message.planned > MAX_PLANNED:
        raise Rejected(
            Code.CONFLICT,
            f"{agents} agents have planned {planned} peers for {assignment.task}, {message.planned} more are too many: "
            f"at most {MAX_AGENTS} agents and {MAX_PLANNED} peers",
        )
    agent = Agent(
        node=context.sender,
        state=WorkState.ENROLLED,
        planned=message.planned,
        since_ms=context.time_ms,
        reported_ms=context.time_ms,
    )
    targets = tuple(node for node in assignment.targets if node != context.sender)
    return replace(runner, assignment=replace(assignment, targets=targets), agents=(*runner.agents, agent))


def report(runner: Taskrunner, context: Context, message: ReportTask) -> Taskrunner:
    """W-12: how far an agent and its peers are.

    Raises:
        Rejected: another assignment, not taken, ended before, or the peers contradict each other or what was reported.
    """
    assignment = _require_assignment(runner, message.number)
    before = next((agent for agent in runner.agents if agent.node == context.sender), None)
    if before is None:
        raise Rejected(Code.CONFLICT, f"{context.name.short} has not taken {assignment.task}, or is to take it again")
    if before.state in ENDED:
        raise Rejected(
            Code.CONFLICT,
            f"{context.name.short} has ended {assignment.task} already ({before.state.value}); named as TARGET it may "
            "take it again",
        )
    after = replace(
        before,
        state=message.state,
        description=_describe(message.description),
        units=_read_units(assignment, before, message),
        approved_by=clean_bytes(message.approved_by, MAX_APPROVED_BY),
        evidence=_read_evidence(message.evidence),
        reported_ms=context.time_ms,
    )
    return _replace_agents(runner, lambda agent: after if agent is before else agent)


def _read_units(assignment: Assignment, before: Agent, message: ReportTask) -> tuple[Unit, ...]:
    """W-12: an agent's peers as they are to be remembered."""
    units = tuple(
        replace(unit, description=_describe(unit.description), evidence=_read_evidence(unit.evidence))
        for unit in message.units
    )
    uids = [unit.uid for unit in units]
    if assignment.kind is TaskType.RUN_SWARM and message.evidence is not None:
        raise Rejected(Code.MALFORMED, f"{assignment.kind.value} is run by peers: expected evidence with each of them")
    if assignment.kind is not TaskType.RUN_SWARM:
        if units:
            raise Rejected(Code.MALFORMED, f"{assignment.kind.value} has no peers: expected a report without")
        return ()
    if uids != sorted(set(uids)) or len(uids) > before.planned:
        raise Rejected(Code.MALFORMED, f"peers of a report: expected each once, by uid, at most {before.planned}")
    for uid in uids:
        if not 1 <= len(uid) <= MAX_UID or has_controls(uid):
            raise Rejected(Code.MALFORMED, f"uid of a peer: expected 1 to {MAX_UID} printable characters")
    states = {unit.uid: unit.state for unit in units}
    for unit in before.units:
        if unit.state in ENDED and states.get(unit.uid) is not unit.state:
            raise Rejected(Code.CONFLICT, f"peer {unit.uid} has ended already ({unit.state.value}): it stays so")
    if message.state is WorkState.COMPLETE:
        if [*states.values()] != [WorkState.COMPLETE] * before.planned:
            raise Rejected(
                Code.MALFORMED,
                f"{message.state.value}: expected all {before.planned} planned peers named, and complete",
            )
        return units
    return _end_units(units, message.state) if message.state in FAILED else units


def _describe(text: str) -> str:
    """W-12: a description as it is to be remembered."""
    return clean_bytes(text, MAX_DESCRIPTION)


def _read_evidence(said: Evidence | None) -> Evidence | None:
    """W-17: what ran, as it is to be remembered."""
    if said is None:
        return None
    if said.exit_status is not None and not 0 <= said.exit_status <= MAX_EXIT_STATUS:
        raise Rejected(
            Code.MALFORMED, f"exit status {said.exit_status}: expected 0 to {MAX_EXIT_STATUS}, or none where none was"
        )
    if len(said.log_hash) not in (0, HASH_BYTES):
        raise Rejected(
            Code.MALFORMED, f"hash of a log of {len(said.log_hash)} bytes: expected {HASH_BYTES}, or none without a log"
        )
    return replace(said, manager=clean_bytes(said.manager, MAX_MANAGER), image=clean_bytes(said.image, MAX_IMAGE))


def _end_units(units: tuple[Unit, ...], how: WorkState) -> tuple[Unit, ...]:
    """What an agent that has failed had not ended ends as it did."""
    return tuple(unit if unit.state in ENDED else replace(unit, state=how) for unit in units)


def _replace_agents(runner: Taskrunner, change: Callable[[Agent], Agent]) -> Taskrunner:
    return replace(runner, agents=tuple(change(agent) for agent in runner.agents))


def leave_out(runner: Taskrunner, context: Context, domain: TrustDomain, reason: str) -> Taskrunner:
    """W-14: an organisation's agents listen no more, and what they have taken or were to take has failed."""

    def leaves(node: NodeId) -> bool:
        return NodeName.parse(node).domain == domain

    def fail(agent: Agent) -> Agent:
        if not leaves(agent.node) or agent.state in ENDED:
            return agent
        units = _end_units(agent.units, WorkState.ERROR)
        description = _describe(reason)
        return replace(agent, state=WorkState.ERROR, description=description, units=units, reported_ms=context.time_ms)

    kept = replace(runner, listeners=tuple(node for node in runner.listeners if not leaves(node)))
    assignment = kept.assignment
    if assignment is None:
        return kept
    taken = {agent.node for agent in kept.agents}
    never = sorted(node for node in {*assignment.chosen, *assignment.targets} - taken if leaves(node))
    absent = tuple(
        Agent(
            node=node,
            state=WorkState.ERROR,
            description=_describe(reason),
            planned=1,
            since_ms=context.time_ms,
            reported_ms=context.time_ms,
        )
        for node in never[: MAX_AGENTS - len(taken)]
    )
    targets = tuple(node for node in assignment.targets if not leaves(node))
    kept = replace(_replace_agents(kept, fail), assignment=replace(assignment, targets=targets))
    return replace(kept, agents=(*kept.agents, *absent))
