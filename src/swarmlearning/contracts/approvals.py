"""Approvals: what an organisation says of a task that its agents are to carry out. Spec: docs/spec/tasks.md, W-16.

The ledger records it, for the organisation's agents and for whoever must prove it later. Does not: keep an agent from
anything; whether an institution's policy asks for an approval its own agent knows.
"""

from collections.abc import Iterable
from typing import Final

from swarmlearning.contracts import membership
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.messages import ApproveTask
from swarmlearning.contracts.task_records import MAX_APPROVALS, ROOT_TASK, Approval, Task
from swarmlearning.contracts.tasks import require_task
from swarmlearning.encoding import encode
from swarmlearning.types import Code, Role, TaskName, TrustDomain

_COUNTED: Final = "approvals"


def approval_key(domain: TrustDomain, task: TaskName) -> str:
    """State key of what an organisation said of a task; the organisation first, whose name has no `/`."""
    return f"approval/{domain}/{task}"


def load_approval(state: State, domain: TrustDomain, task: TaskName) -> Approval | None:
    """What an organisation said of a task; None if it said nothing."""
    return membership.load_record(state, approval_key(domain, task), Approval)


def list_approvals(state: State, task: TaskName) -> Iterable[Approval]:
    """What the members said of a task, by trust domain."""
    prefix = membership.organisation_key(TrustDomain(""))
    for key in state.keys(prefix):
        found = load_approval(state, TrustDomain(key.removeprefix(prefix)), task)
        if found is not None:
            yield found


def approve_task(state: State, context: Context, message: ApproveTask) -> Task:
    """W-16: remember what the sender's organisation says of a task, and return the task.

    Raises:
        Rejected: another role, no such task or not final, another hash, or too many approvals.
    """
    membership.require_role(context, Role.SN, Role.OPERATOR)
    task = require_task(state, message.task)
    if task.name == ROOT_TASK:
        raise Rejected(Code.CONFLICT, f"{ROOT_TASK} has nothing to carry out: there is nothing to approve or deny")
    if not task.is_final:
        raise Rejected(Code.CONFLICT, f"{task.name} is not final and may still change: it can be approved once it is")
    if task.hash != message.hash:
        raise Rejected(
            Code.CONFLICT,
            f"{task.name} has the hash {task.hash.hex()[:16]}…, the message names {message.hash.hex()[:16]}…: look at "
            "it again",
        )
    domain = context.name.domain
    if load_approval(state, domain, task.name) is None:
        membership.count_up(state, _COUNTED, domain, MAX_APPROVALS)
    approval = Approval(
        task=task.name,
        domain=domain,
        hash=task.hash,
        granted=message.granted,
        by=context.sender,
        caller=context.caller,
        height=context.height,
        time_ms=context.time_ms,
    )
    state.put(approval_key(domain, task.name), encode(approval))
    return task


def forget_approvals(state: State, domain: TrustDomain) -> None:
    """W-16: an organisation is no member any more. Admitted again, it says anew what its agents may do."""
    for key in list(state.keys(approval_key(domain, TaskName("")))):
        state.delete(key)
    state.delete(f"count/{_COUNTED}/{domain}")
