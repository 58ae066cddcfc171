"""Taskrunners: created, given a task, reset. Spec: docs/spec/tasks.md, W-6, W-7, W-13 and W-15.

What agents say of the task is in `agents`, and how it ends in `outcome`. Does not: time anything out. An agent that
fell silent is waited for; people reset the runner, or name another agent.
"""

from collections.abc import Iterable
from typing import Final, assert_never

from msgspec.structs import replace

from swarmlearning.contracts import agents, membership
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.messages import (
    AssignTask,
    CreateTaskrunner,
    ListenToRunner,
    ReportTask,
    ResetTaskrunner,
    RunnerMessage,
    TakeTask,
)
from swarmlearning.contracts.outcome import settle
from swarmlearning.contracts.task_records import (
    ACTIVE,
    MAX_AGENTS,
    MAX_PLANNED,
    MAX_RUNNERS,
    ROOT_TASK,
    Assignment,
    RunnerState,
    Task,
    Taskrunner,
)
from swarmlearning.contracts.tasks import require_task
from swarmlearning.encoding import encode
from swarmlearning.errors import InvalidName
from swarmlearning.types import (
    DEFAULT_RUNNER,
    Code,
    NodeId,
    NodeName,
    Role,
    RunnerName,
    TrustDomain,
    check_runner_name,
)

_KEY: Final = "runner/"


def runner_key(name: RunnerName) -> str:
    """State key of a taskrunner."""
    return f"{_KEY}{name}"


def load_runner(state: State, name: RunnerName) -> Taskrunner | None:
    """A taskrunner; None if there is none of that name."""
    return membership.load_record(state, runner_key(name), Taskrunner)


def list_runners(state: State) -> Iterable[RunnerName]:
    """Names of all taskrunners, in order."""
    return (RunnerName(key.removeprefix(_KEY)) for key in state.keys(_KEY))


def put_default_runner(state: State, creator: TrustDomain) -> None:
    """W-6: what is there from the beginning."""
    runner = Taskrunner(name=DEFAULT_RUNNER, creator=creator, created_height=0)
    state.put(runner_key(DEFAULT_RUNNER), encode(runner))


# --- messages -------------------------------------------------------------------------------------------------------


def change_runner(state: State, context: Context, message: RunnerMessage) -> Taskrunner:
    """W-6 to W-13: carry out what is said of a taskrunner, and return it.

    Raises:
        Rejected: another role, or the message cannot be carried out.
    """
    if isinstance(message, CreateTaskrunner):
        membership.require_role(context, Role.SN, Role.SWOP, Role.OPERATOR)
        return _create(state, context, message)
    agents_say = isinstance(message, ListenToRunner | TakeTask | ReportTask)
    membership.require_role(context, *((Role.SWOP,) if agents_say else (Role.SN, Role.OPERATOR)))
    before = load_runner(state, message.runner)
    if before is None:
        raise Rejected(Code.NOT_FOUND, f"there is no taskrunner {message.runner[:128]}")
    match message:
        case AssignTask():
            after = _assign(state, before, context, message)
        case ResetTaskrunner():
            after = _reset(state, before, context, message)
        case ListenToRunner():
            after = agents.listen(before, context, message)
        case TakeTask():
            after = agents.take(before, context, message)
        case ReportTask():
            after = agents.report(before, context, message)
        case _:
            assert_never(message)
    return _save(state, before, settle(after, context))


def _create(state: State, context: Context, message: CreateTaskrunner) -> Taskrunner:
    try:
        check_runner_name(message.runner)
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, str(error)) from error
    if load_runner(state, message.runner) is not None:
        raise Rejected(Code.CONFLICT, f"taskrunner {message.runner} exists already")
    membership.count_up(state, "taskrunners", context.name.domain, MAX_RUNNERS)
    created = Taskrunner(name=message.runner, creator=context.name.domain, created_height=context.height, version=1)
    state.put(runner_key(created.name), encode(created))
    return created


def _save(state: State, before: Taskrunner, after: Taskrunner) -> Taskrunner:
    if after == before:
        return before
    after = replace(after, version=before.version + 1)
    state.put(runner_key(after.name), encode(after))
    return after


# --- what operators say ---------------------------------------------------------------------------------------------


def _assign(state: State, runner: Taskrunner, context: Context, message: AssignTask) -> Taskrunner:
    """W-7: give a runner a task, or name one more agent for the one that it has."""
    task = require_task(state, message.task)
    if task.name == ROOT_TASK:
        raise Rejected(Code.CONFLICT, f"{ROOT_TASK} has nothing to carry out: assign another task")
    if not task.is_final:
        raise Rejected(Code.CONFLICT, f"{task.name} is not final: finalize it first")
    if task.hash != message.hash:
        raise Rejected(
            Code.CONFLICT,
            f"{task.name} has the hash {task.hash.hex()[:16]}…, the message names {message.hash.hex()[:16]}…",
        )
    fits = 1 <= message.peers <= MAX_PLANNED if message.mode == "peers" else message.peers == 0
    if not fits or (message.mode == "target") != bool(message.target):
        raise Rejected(
            Code.MALFORMED, f"expected 1 to {MAX_PLANNED} peers with mode peers, and a target with mode target alone"
        )
    if message.mode == "target":
        return _target(state, runner, context, task, message)
    if runner.state is not RunnerState.IDLE:
        raise Rejected(
            Code.CONFLICT,
            f"{runner.name} is {runner.state.value}, not {RunnerState.IDLE.value}: RESET it first, or name an agent as "
            "TARGET to join the task that it has",
        )
    if message.mode == "peers":
        return _begin(runner, context, task, message, wanted=message.peers)
    if not runner.listeners:
        raise Rejected(Code.CONFLICT, f"no agent listens to {runner.name}")
    return _begin(runner, context, task, message, wanted=len(runner.listeners), chosen=runner.listeners)


def _begin(
    runner: Taskrunner,
    context: Context,
    task: Task,
    message: AssignTask,
    *,
    wanted: int,
    chosen: tuple[NodeId, ...] = (),
    targets: tuple[NodeId, ...] = (),
) -> Taskrunner:
    assignment = Assignment(
        number=runner.assignments + 1,
        task=task.name,
        kind=task.kind,
        hash=task.hash,
        mode=message.mode,
        wanted=wanted,
        chosen=chosen,
        targets=targets,
        assigner=context.sender,
        caller=context.caller,
        assigned_ms=context.time_ms,
    )
    return replace(
        runner, state=RunnerState.WAITING, assignments=assignment.number, assignment=assignment, agents=(), reason=""
    )


def _target(state: State, runner: Taskrunner, context: Context, task: Task, message: AssignTask) -> Taskrunner:
    """W-15: one agent, which may listen or not yet, takes the task, or takes it again."""
    target = message.target
    if membership.load_node(state, target) is None:
        raise Rejected(Code.NOT_FOUND, f"{target[:256]} is no registered node")
    if NodeName.parse(target).role is not Role.SWOP:
        raise Rejected(Code.CONFLICT, f"{target} takes no tasks: expected a node with the role {Role.SWOP.value}")
    assignment = runner.assignment
    if assignment is None:
        return _begin(runner, context, task, message, wanted=1, chosen=(target,), targets=(target,))
    if assignment.task != task.name:
        raise Rejected(
            Code.CONFLICT,
            f"{runner.name} has the task {assignment.task}, not {task.name}: an agent joins the task that is there, or "
            "RESET the taskrunner first",
        )
    # What an agent has reported is dropped: of what is under way only who may stop it may say so.
    _require_say(state, runner, assignment, context, "names agents for it")
    others = tuple(agent for agent in runner.agents if agent.node != target)
    targets = _sorted(assignment.targets, target)
    if len(others) + len(targets) > MAX_AGENTS:
        raise Rejected(Code.CONFLICT, f"{runner.name} has {MAX_AGENTS} agents at its task, the most there can be")
    chosen = _sorted(assignment.chosen, target) if assignment.chosen else ()
    # Decided anew: what it could not be any more it can be with this agent.
    reopened = replace(assignment, chosen=chosen, targets=targets)
    return replace(runner, state=RunnerState.WAITING, assignment=reopened, agents=others, reason="")


def _sorted(nodes: Iterable[NodeId], another: NodeId) -> tuple[NodeId, ...]:
    return tuple(sorted({*nodes, another}))


def _reset(state: State, runner: Taskrunner, context: Context, message: ResetTaskrunner) -> Taskrunner:
    """W-13: nothing is assigned any more."""
    assignment = runner.assignment
    number = 0 if assignment is None else assignment.number
    if message.number != number:
        raise Rejected(
            Code.STALE, f"assignment {message.number} of {runner.name}: it has {number or 'none'}; look at it again"
        )
    if assignment is None:
        return runner
    _require_say(state, runner, assignment, context, "resets it")
    return replace(runner, state=RunnerState.IDLE, assignment=None, agents=(), reason="")


def _require_say(state: State, runner: Taskrunner, assignment: Assignment, context: Context, what: str) -> None:
    """W-13, W-15: what is under way is its assigner's, or the runner's organisation's, to stop or to change.

    Where both have left the network it would go on for good, and the runner be lost: then it is anybody's.
    """
    concerned = {runner.creator, NodeName.parse(assignment.assigner).domain}
    allowed = {domain for domain in concerned if membership.load_organisation(state, domain) is not None}
    if runner.state in ACTIVE and allowed and context.name.domain not in allowed:
        raise Rejected(
            Code.NOT_ALLOWED,
            f"{runner.name} is {runner.state.value}: until that is over only {' or '.join(sorted(allowed))} {what}",
        )


# --- who goes -------------------------------------------------------------------------------------------------------


def go_on_without(state: State, context: Context, domain: TrustDomain, reason: str) -> None:
    """W-14: in every taskrunner, without the agents of an organisation."""
    for name in list(list_runners(state)):
        before = load_runner(state, name)
        if before is not None:
            _save(state, before, settle(agents.leave_out(before, context, domain, reason), context))
