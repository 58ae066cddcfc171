"""Whether a task may run here: asks until it is allowed or denied, and says meanwhile what is waited for.

The rules are `deciding`'s; here a task is read from the ledger, checked against the assignment, and asked about again
whenever something changed. Spec: docs/spec/swop.md, SW-4.
"""

import asyncio
import datetime as dt
from typing import assert_never

import msgspec

from swarmlearning.contracts.task_records import ROOT_TASK, Task, TaskType, hash_task
from swarmlearning.errors import Broken, ConfigurationError, TaskFailed
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.content.urls import show_url
from swarmlearning.swop.deciding import decide, find_approval
from swarmlearning.swop.host import Host
from swarmlearning.swop.journal import Entry
from swarmlearning.swop.outcomes import owner_of
from swarmlearning.swop.policy import Decision, Request, Verdict
from swarmlearning.swop.requesting import find_urls, make_request
from swarmlearning.tasks.bodies import Body, MakeContent, MakeUserContainer, PullImage, RunSwarm, parse_body
from swarmlearning.types import TaskName


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """The task of an assignment, verified and read."""

    task: Task
    body: Body
    request: Request
    """What is to be decided about."""
    prerequisite: Task | None = None
    """What makes the image that it runs in; None: it needs none."""


async def read_task(host: Host, entry: Entry) -> Assigned:
    """The task that an assignment names, as soon as the SN tells it; what is carried out is what has that hash.

    Raises:
        TaskFailed: it is another one, or cannot be read.
        PeerError: the SN refuses.
    """
    return await _read(host, entry.task, entry.hash, entry.kind)


async def read_prerequisite(host: Host, assigned: Assigned) -> Assigned:
    """SW-16: the task that makes what another one runs in.

    Who approved that one has approved this, unless they said otherwise; but neither a third organisation's, nor one
    that would see private data: of that the other task does not tell.

    Raises:
        As `read_task`.
    """
    first = assigned.prerequisite
    if first is None:
        raise Broken(f"{assigned.task.name} needs no other task")
    read = await _read(host, first.name, first.hash, first.kind)
    said = find_approval(assigned.request)
    if said is None or not said.granted or find_approval(read.request) is not None:
        return read
    if owner_of(read.task) != owner_of(assigned.task) or read.request.private_data:
        return read
    implied = msgspec.structs.replace(said, task=first.name, hash=first.hash)
    request = msgspec.structs.replace(read.request, approvals=(*read.request.approvals, implied))
    return msgspec.structs.replace(read, request=request)


async def _read(host: Host, name: TaskName, wanted: bytes, kind: TaskType) -> Assigned:
    whole = await host.link.insist(lambda client: client.task(name))
    if whole is None:
        raise TaskFailed(f"there is no task {name} on the ledger, which the taskrunner has")
    digest = hash_task(whole.task, whole.body)
    if digest != wanted or whole.task.hash != wanted or whole.task.kind is not kind:
        raise TaskFailed(
            f"the SN tells a task {name} with the hash {digest.hex()[:16]}…, the assignment names {wanted.hex()[:16]}…"
        )
    try:
        body = parse_body(whole.task.kind, whole.body, name)
    except ConfigurationError as error:
        raise TaskFailed(f"the task cannot be carried out: {error}") from error
    prerequisite = await _find_prerequisite(host, whole.task.prereq)
    # In a thread: it follows the paths that the task names, and whoever wrote it may name what hangs.
    request = await asyncio.to_thread(
        make_request,
        whole.task,
        body,
        prerequisite=prerequisite,
        profile=host.profile,
        isolated=host.manager.isolates,
        own=host.link.name.domain,
        approvals=whole.approvals,
        hidden=(str(host.data), *host.link.secrets),
    )
    return Assigned(task=whole.task, body=body, request=request, prerequisite=prerequisite)


async def _find_prerequisite(host: Host, prereq: TaskName) -> Task | None:
    if prereq == ROOT_TASK:
        return None
    whole = await host.link.insist(lambda client: client.task(prereq))
    if whole is None:
        raise TaskFailed(f"the prerequisite {prereq} is not on the ledger")
    return whole.task


def judge(host: Host, assigned: Assigned) -> Decision:
    """Whether it may run here now."""
    try:
        policy = host.policy.current()
    except ConfigurationError:
        # Why says the agent's log: it names this host's files and what stands in them.
        return Decision(verdict=Verdict.ASK, reason="the policy of this host cannot be read, its agent's log says why")
    now = dt.datetime.fromtimestamp(host.clock() / 1000).astimezone()
    return decide(policy, assigned.request, now)


def is_denied(assigned: Assigned) -> bool:
    """Whether our own organisation said last on the ledger that this task may not run on its hosts."""
    said = find_approval(assigned.request)
    return said is not None and not said.granted


def describe_work(assigned: Assigned) -> str:
    """What a task would do on a host, for whoever is to agree."""
    body, images = assigned.body, ", ".join(assigned.request.images)
    match body:
        case RunSwarm():
            mounts = [f"{mount.source} at {mount.target}" for mount in body.shared_content]
            parts = [f"it runs {body.entrypoint} {body.command}{f' in {images}' if images else ''}"]
            parts += [f"private data at {body.private_content}"] if body.private_content else []
            parts += [f"may write to {', '.join(mounts)}"] if mounts else []
            text = ", ".join(parts)
        case MakeUserContainer():
            text = f"it builds {assigned.task.outcome} from {images or 'nothing'}"
        case PullImage():
            text = f"it pulls {images}"
        case MakeContent():
            urls = ", ".join(map(show_url, find_urls(body)))
            text = f"it replaces the volume {assigned.task.outcome}, and downloads {urls or 'nothing'}"
        case _:
            assert_never(body)
    return make_printable(text)
