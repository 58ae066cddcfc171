"""Whether a task may run here: asks until it is allowed or denied, and says meanwhile what is waited for.

The rules are `deciding`'s; here a task is read from the ledger, checked against the assignment, and asked about again
whenever something changed. Spec: docs/spec/swop.md, SW-4.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlearning.contracts.task_records import ROOT_TASK, Approval, Task, hash_task
from swarmlearning.errors import ConfigurationError, TaskFailed
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.host import Host
from swarmlearning.swop.journal import Entry
from swarmlearning.swop.policy import Decision, Request, Verdict
from swarmlearning.tasks.bodies import Body, MakeUserContainer, PullImage, RunSwarm, parse_body
from swarmlearning.types import TaskName

_FROM: Final = "FROM"


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """The task of an assignment, verified and read."""

    task: Task
    body: Body
    approvals: tuple[Approval, ...]
    images: tuple[str, ...]
    """What it runs in, is built from, or pulls."""


async def read_task(host: Host, entry: Entry) -> Assigned:
    """The task that an assignment names, as soon as the SN tells it; what is carried out is what has that hash.

    Raises:
        TaskFailed: it is another one, or cannot be read.
        PeerError: the SN refuses.
    """
    whole = await host.link.insist(lambda client: client.task(entry.task))
    if whole is None:
        raise TaskFailed(f"there is no task {entry.task} on the ledger, which the taskrunner has")
    digest = hash_task(whole.task, whole.body)
    if digest != entry.hash or whole.task.hash != entry.hash or whole.task.kind is not entry.kind:
        raise TaskFailed(
            f"the SN tells a task {entry.task} with the hash {digest.hex()[:16]}…, the assignment names "
            f"{entry.hash.hex()[:16]}…"
        )
    try:
        body = parse_body(whole.task.kind, whole.body, entry.task)
    except ConfigurationError as error:
        raise TaskFailed(f"the task cannot be carried out: {error}") from error
    images = await _find_images(host, whole.task, body)
    return Assigned(task=whole.task, body=body, approvals=whole.approvals, images=images)


async def _find_images(host: Host, task: Task, body: Body) -> tuple[str, ...]:
    match body:
        case RunSwarm():
            tag = await find_outcome(host, task.prereq)
            return (tag,) if tag else ()
        case MakeUserContainer():
            return tuple(dict.fromkeys(_named_images(body.build_steps)))
        case PullImage():
            return (f"{body.registry}/{body.repository}:{body.tag}",)
        case _:
            return ()


def _named_images(steps: tuple[str, ...]) -> Iterator[str]:
    """What lines of a Dockerfile take from elsewhere: FROM, and COPY --from."""
    for line in (line for step in steps for line in step.splitlines()):
        words = line.split()
        options = [word for word in words[1:] if word.startswith("--")]
        others = [word for word in words[1:] if not word.startswith("--")]
        if words and words[0].upper() == _FROM and others:
            yield others[0]
        yield from (word.partition("=")[2] for word in options if word.startswith("--from="))


async def find_outcome(host: Host, prereq: TaskName) -> str:
    """The outcome of a prerequisite: an image's tag; empty if it is ROOTTASK.

    Raises:
        TaskFailed: it is not on the ledger.
    """
    if prereq == ROOT_TASK:
        return ""
    whole = await host.link.insist(lambda client: client.task(prereq))
    if whole is None:
        raise TaskFailed(f"the prerequisite {prereq} is not on the ledger")
    return whole.task.outcome


def make_request(host: Host, assigned: Assigned) -> Request:
    """What is to be decided about."""
    body = assigned.body
    private = isinstance(body, RunSwarm) and body.private_content is not None
    return Request(
        task=assigned.task,
        body=body,
        images=assigned.images,
        private_data=private and any(node.private_data is not None for node in host.profile.nodes),
        isolated=host.manager.isolates,
        own=host.link.name.domain,
        approvals=assigned.approvals,
    )


def decide(host: Host, assigned: Assigned) -> Decision:
    """Whether it may run here now."""
    try:
        policy = host.policy.current()
    except ConfigurationError as error:
        return Decision(verdict=Verdict.ASK, reason=f"the policy of this host cannot be read: {error}")
    now = dt.datetime.fromtimestamp(host.clock() / 1000).astimezone()
    return host.decide(policy, make_request(host, assigned), now)


def is_denied(host: Host, assigned: Assigned) -> bool:
    """Whether our own organisation said on the ledger that this task may not run on its hosts."""
    own = [a for a in assigned.approvals if a.domain == host.link.name.domain and a.hash == assigned.task.hash]
    return any(not approval.granted for approval in own)


def describe_work(assigned: Assigned) -> str:
    """What a task would do on a host, for whoever is to agree."""
    body = assigned.body
    image = f" in {', '.join(assigned.images)}" if assigned.images else ""
    match body:
        case RunSwarm():
            data = f", private data at {body.private_content}" if body.private_content else ""
            text = f"it runs {body.entrypoint} {body.command}{image}{data}"
        case MakeUserContainer():
            text = f"it builds {assigned.task.outcome} from {', '.join(assigned.images) or 'an image'}"
        case PullImage():
            text = f"it pulls {', '.join(assigned.images)}"
        case _:
            text = f"it fills the volume {assigned.task.outcome}"
    return make_printable(text)


def describe_question(assigned: Assigned, decision: Decision) -> str:
    """What is waited for, and what is to be done about it."""
    name = assigned.task.name
    return f"{decision.reason}; APPROVE TASK {name} or DENY TASK {name}; {describe_work(assigned)}"
