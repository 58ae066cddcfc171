"""Tasks: created, written line by line, finalized, deleted. Spec: docs/spec/tasks.md, W-1 to W-5.

A task's body stands in the state beside its record, so that records stay small. Does not: carry out anything, or say
whether a body makes sense; which words it may hold is for those who write and read it.
"""

import re
from collections.abc import Iterable
from typing import Final, assert_never

from msgspec.structs import replace

from swarmlearning.contracts import membership
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.messages import AppendTask, CreateTask, DeleteTask, FinalizeTask, TaskMessage
from swarmlearning.contracts.task_records import (
    MAX_BODIES_BYTES,
    MAX_FIELD,
    MAX_LINE,
    MAX_LINES,
    MAX_TASK_BYTES,
    MAX_TASKS,
    ROOT_TASK,
    Task,
    TaskType,
    hash_task,
    make_root_task,
)
from swarmlearning.encoding import Record, encode
from swarmlearning.errors import InvalidName
from swarmlearning.types import Code, NodeName, Role, TaskName, TrustDomain, check_task_name

_UNFIT: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""W-3: control characters but the tab, ends of line, and what makes a text read otherwise than it stands there."""

_BEFORE_A_RUN: Final = frozenset({TaskType.ROOT_TASK, TaskType.MAKE_USER_CONTAINER, TaskType.PULL_IMAGE})
"""W-2: what leaves behind something that a swarm can run in, or is nothing."""

_KEY: Final = "task/"

Body = tuple[str, ...]


def task_key(name: TaskName) -> str:
    """State key of a task."""
    return f"{_KEY}{name}"


def body_key(name: TaskName) -> str:
    """State key of a task's body."""
    return f"body/{name}"


def load_task(state: State, name: TaskName) -> Task | None:
    """A task without its body; None if there is none of that name."""
    return membership.load_record(state, task_key(name), Task)


def load_body(state: State, name: TaskName) -> Body:
    """The lines of a task; none if there is no such task."""
    return membership.load_record(state, body_key(name), Body) or ()


def list_tasks(state: State, after: TaskName) -> Iterable[Task]:
    """Tasks in the order of their names, those after `after`."""
    for key in state.keys(_KEY):
        name = TaskName(key.removeprefix(_KEY))
        task = load_task(state, name) if name > after else None
        if task is not None:
            yield task


def put_root_task(state: State) -> None:
    """W-1: what is there from the beginning."""
    state.put(task_key(ROOT_TASK), encode(make_root_task()))


class _Stock(Record, frozen=True, kw_only=True):
    """W-5: what an organisation has of tasks."""

    unfinished: int = 0
    final: int = 0
    size: int = 0
    """Bytes of all bodies."""


def _stock_key(domain: TrustDomain) -> str:
    return f"count/tasks/{domain}"


def _load_stock(state: State, domain: TrustDomain) -> _Stock:
    return membership.load_record(state, _stock_key(domain), _Stock) or _Stock()


def _save_stock(state: State, domain: TrustDomain, stock: _Stock) -> None:
    if max(stock.unfinished, stock.final) > MAX_TASKS:
        kind = "unfinished" if stock.unfinished > MAX_TASKS else "final"
        raise Rejected(Code.CONFLICT, f"{domain} has {MAX_TASKS} {kind} tasks on the ledger, the most there can be")
    if stock.size > MAX_BODIES_BYTES:
        raise Rejected(
            Code.CONFLICT, f"the tasks of {domain} would have {stock.size} bytes, at most {MAX_BODIES_BYTES} in all"
        )
    state.put(_stock_key(domain), encode(stock))


def _needed_key(name: TaskName) -> str:
    """State key of how many tasks name `name` as their prerequisite; only kept while it is not final."""
    return f"needed/{name}"


# --- messages -------------------------------------------------------------------------------------------------------


def change_task(state: State, context: Context, message: TaskMessage) -> Task:
    """W-2 to W-5: carry out what is said of a task, and return it; as it was, where it is deleted.

    Raises:
        Rejected: another role or organisation, or the message cannot be carried out.
    """
    membership.require_role(context, Role.SN, Role.OPERATOR)
    match message:
        case CreateTask():
            return _create(state, context, message)
        case AppendTask():
            return _append(state, context, message)
        case FinalizeTask():
            return _finalize(state, context, message)
        case DeleteTask():
            return _delete(state, context, message)
        case _:
            assert_never(message)


def require_task(state: State, name: TaskName) -> Task:
    """A task.

    Raises:
        Rejected: there is none of that name.
    """
    task = load_task(state, name)
    if task is None:
        raise Rejected(Code.NOT_FOUND, f"there is no task {name[:128]}")
    return task


def _create(state: State, context: Context, message: CreateTask) -> Task:
    """W-2: a task without a body."""
    try:
        check_task_name(message.task)
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, str(error)) from error
    if message.kind is TaskType.ROOT_TASK:
        raise Rejected(Code.MALFORMED, f"type of {message.task}: {ROOT_TASK} alone is {TaskType.ROOT_TASK.value}")
    for what, text in (("author", message.author), ("outcome", message.outcome)):
        if len(text) > MAX_FIELD or "\t" in text or _UNFIT.search(text):
            raise Rejected(
                Code.MALFORMED, f"{what} of {message.task}: expected at most {MAX_FIELD} printable characters"
            )
    if load_task(state, message.task) is not None:
        raise Rejected(Code.CONFLICT, f"task {message.task} exists already")
    _check_prerequisite(state, context, message)
    domain = context.name.domain
    stock = _load_stock(state, domain)
    _save_stock(state, domain, replace(stock, unfinished=stock.unfinished + 1))
    task = Task(
        name=message.task,
        kind=message.kind,
        author=message.author,
        prereq=message.prereq,
        outcome=message.outcome,
        creator=context.sender,
        created_height=context.height,
        caller=context.caller,
    )
    _save_task(state, task)
    return task


def _check_prerequisite(state: State, context: Context, message: CreateTask) -> None:
    """W-2: it is there, and stays there; remember who needs it."""
    prereq = require_task(state, message.prereq)
    if message.kind is TaskType.RUN_SWARM and prereq.kind not in _BEFORE_A_RUN:
        raise Rejected(
            Code.MALFORMED,
            f"{message.task} runs a swarm, its prerequisite {prereq.name} is {prereq.kind.value}: expected "
            f"{TaskType.MAKE_USER_CONTAINER.value}, {TaskType.PULL_IMAGE.value} or {ROOT_TASK}",
        )
    if prereq.is_final:
        return
    if _owner(prereq) != context.name.domain:
        raise Rejected(
            Code.CONFLICT, f"{prereq.name} is not final: until it is, only {_owner(prereq)}, whose it is, builds on it"
        )
    key = _needed_key(prereq.name)
    state.put(key, encode((membership.load_record(state, key, int) or 0) + 1))


def _append(state: State, context: Context, message: AppendTask) -> Task:
    """W-3: lines over those that are there, and after them."""
    task = _require_own_unfinished(state, context, message.task)
    if not message.lines:
        raise Rejected(Code.MALFORMED, f"no lines to append to {task.name}: expected one at least")
    if not 1 <= message.first <= task.lines + 1:
        raise Rejected(
            Code.MALFORMED, f"line {message.first} of {task.name}: expected 1 to {task.lines + 1}, it has {task.lines}"
        )
    for number, line in enumerate(message.lines, message.first):
        if len(line) > MAX_LINE:
            raise Rejected(
                Code.MALFORMED, f"line {number} of {task.name} has {len(line)} characters, at most {MAX_LINE}"
            )
        unfit = _UNFIT.search(line)
        if unfit:
            raise Rejected(
                Code.MALFORMED,
                f"line {number} of {task.name} has the character U+{ord(unfit[0]):04X}: expected no control characters "
                "but tabs, and none that ends a line or turns its direction",
            )
    before = load_body(state, task.name)
    after = (*before[: message.first - 1], *message.lines, *before[message.first - 1 + len(message.lines) :])
    size = _size_of(after)
    if len(after) > MAX_LINES or size > MAX_TASK_BYTES:
        raise Rejected(
            Code.CONFLICT,
            f"{task.name} would have {len(after)} lines of {size} bytes, at most {MAX_LINES} of {MAX_TASK_BYTES}",
        )
    stock = _load_stock(state, context.name.domain)
    _save_stock(state, context.name.domain, replace(stock, size=stock.size + size - _size_of(before)))
    state.put(body_key(task.name), encode(after))
    return _save_task(state, replace(task, lines=len(after)))


def _finalize(state: State, context: Context, message: FinalizeTask) -> Task:
    """W-4: from now on it stands as it is."""
    task = _require_own_unfinished(state, context, message.task)
    if not task.lines:
        raise Rejected(Code.CONFLICT, f"{task.name} has no body: append its lines first")
    if not require_task(state, task.prereq).is_final:
        raise Rejected(Code.CONFLICT, f"{task.prereq}, prerequisite of {task.name}, is not final: finalize it first")
    digest = hash_task(task, load_body(state, task.name))
    if digest != message.hash:
        raise Rejected(
            Code.CONFLICT,
            f"{task.name} has the hash {digest.hex()[:16]}…, the message names {message.hash.hex()[:16]}…: look at it "
            "again, somebody changed it",
        )
    domain = context.name.domain
    stock = _load_stock(state, domain)
    _save_stock(state, domain, replace(stock, unfinished=stock.unfinished - 1, final=stock.final + 1))
    # Nothing final is deleted: who needs it need not be counted any more, nor what it needs itself.
    state.delete(_needed_key(task.name))
    return _save_task(state, replace(task, hash=digest, finalized_height=context.height))


def _delete(state: State, context: Context, message: DeleteTask) -> Task:
    """W-4: as if it had not been."""
    task = _require_own_unfinished(state, context, message.task)
    needed = membership.load_record(state, _needed_key(task.name), int) or 0
    if needed:
        raise Rejected(
            Code.CONFLICT, f"{task.name} is the prerequisite of {needed} other tasks: delete or finalize these first"
        )
    domain = context.name.domain
    stock = _load_stock(state, domain)
    size = _size_of(load_body(state, task.name))
    _save_stock(state, domain, replace(stock, unfinished=stock.unfinished - 1, size=stock.size - size))
    key = _needed_key(task.prereq)
    others = membership.load_record(state, key, int) or 0
    if others > 1:
        state.put(key, encode(others - 1))
    else:
        state.delete(key)
    state.delete(body_key(task.name))
    state.delete(task_key(task.name))
    return task


def _owner(task: Task) -> TrustDomain:
    """Whose a task other than ROOT_TASK is."""
    return NodeName.parse(task.creator).domain


def _require_own_unfinished(state: State, context: Context, name: TaskName) -> Task:
    """W-3, W-4: a task changes until it is final, and by its creator's organisation."""
    task = require_task(state, name)
    if task.is_final:
        raise Rejected(Code.CONFLICT, f"{task.name} is final: it can be neither changed nor deleted")
    if _owner(task) != context.name.domain:
        raise Rejected(Code.NOT_ALLOWED, f"task {task.name} is {_owner(task)}'s, not {context.name.domain}'s")
    return task


def _save_task(state: State, task: Task) -> Task:
    state.put(task_key(task.name), encode(task))
    return task


def _size_of(body: Body) -> int:
    """Bytes of a body, with an end of line each."""
    return sum(len(line.encode()) + 1 for line in body)
