"""The tasks that leave something on this host for later ones: images and volumes. Spec: docs/spec/swop.md, SW-11."""

import asyncio
import shutil
from pathlib import Path
from typing import Final, Protocol, assert_never

import msgspec

from swarmlearning.contracts.task_records import MAX_EXIT_STATUS, Evidence, Task, WorkState
from swarmlearning.errors import Broken, TaskFailed
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.content.names import volume_names
from swarmlearning.swop.content.preparing import prepare_content
from swarmlearning.swop.host import Host
from swarmlearning.swop.journal import Entry
from swarmlearning.swop.logfiles import hash_log, last_lines
from swarmlearning.swop.managers.boundary import Tell
from swarmlearning.swop.matching import covers_url
from swarmlearning.swop.permission import Assigned
from swarmlearning.swop.policy import ShareLog
from swarmlearning.tasks.bodies import MakeContent, MakeUserContainer, PullImage, RunSwarm

LOG_NAME: Final = "task.log"
"""Of what a task that is no RUN_SWARM prints."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended."""

    failed: bool
    text: str
    evidence: Evidence


class Assignment(Protocol):
    """What is needed of the assignment (`executing.Work`)."""

    host: Host

    @property
    def entry(self) -> Entry:
        """As the journal has it."""
        ...

    def tell(self, text: str, state: WorkState | None = None) -> None:
        """Say something new of it."""
        ...


async def make(work: Assignment, assigned: Assigned) -> Made:
    """Build, pull or fetch what a task says.

    Raises:
        ConfigurationError, Unreachable: see `Manager`.
    """
    host, entry = work.host, work.entry
    path = host.journal.logs_of(entry.id) / LOG_NAME
    status: int | None = None
    image = ""

    def tell(text: str) -> None:
        work.tell(make_printable(text), WorkState.RUNNING)

    failed, text = False, f"{assigned.task.outcome} is on this host"
    try:
        async with host.slots:
            image = await _make(host, entry, assigned, str(path), tell)
    except TaskFailed as error:
        failed, text, status = True, str(error), error.exit_status
        if host.policy.share_log is not ShareLog.NEVER:
            # None of it has seen private data.
            lines = await asyncio.to_thread(last_lines, path)
            text += f": {lines}" if lines else ""
    evidence = Evidence(
        manager=host.manager.describe(),
        image=image,
        exit_status=status if status is not None and 0 <= status <= MAX_EXIT_STATUS else None,
        log_hash=await asyncio.to_thread(hash_log, path),
    )
    return Made(failed=failed, text=text, evidence=evidence)


async def _make(host: Host, entry: Entry, assigned: Assigned, path: str, tell: Tell) -> str:
    """Digest of the image, where it makes one."""
    task = assigned.task
    match assigned.body:
        case MakeContent() as body:
            await _fill(host, entry, task, body, Path(path), tell)
            return ""
        case MakeUserContainer() | PullImage() as body:
            foreign = await host.manager.is_foreign(task.outcome)
            host.outcomes.claim("image", task.outcome, task, there=foreign)
            if isinstance(body, PullImage):
                digest = await host.manager.pull_image(task.outcome, body, path, tell)
            else:
                context = [body.build_context] if body.build_context is not None else []
                host.outcomes.check_volumes(context, task, host.link.name.domain)
                digest = await host.manager.build_image(task.outcome, body, path, entry.limits, tell)
            host.outcomes.made("image", task.outcome, task, digest)
            return digest
        case RunSwarm():
            raise Broken(f"{assigned.task.name} makes nothing, it runs")
        case _:
            assert_never(assigned.body)


async def _fill(host: Host, entry: Entry, task: Task, body: MakeContent, log: Path, tell: Tell) -> None:
    """Download and unpack once, for one volume or for one of each node."""
    volumes = volume_names(body, task.outcome, [node.idx for node in host.profile.nodes])
    for volume in volumes:
        host.outcomes.claim("volume", volume, task, there=await host.manager.has_volume(volume))
    urls = entry.urls

    def allow(url: str) -> bool:
        return urls is None or covers_url(urls, url)

    scratch = host.data / "content" / entry.id
    await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
    content = scratch / "content"
    content.mkdir(mode=0o700, parents=True)
    try:
        await prepare_content(body, content, entry.limits, allow, tell, log)
        for number, volume in enumerate(volumes):
            source = content
            if number < len(volumes) - 1:
                # What is handed over may be moved.
                source = scratch / f"copy-{number}"
                await asyncio.to_thread(shutil.copytree, content, source, symlinks=True)
            tell(f"fills the volume {volume}")
            await host.manager.fill_volume(volume, str(source))
            host.outcomes.made("volume", volume, task)
    except OSError as error:
        raise TaskFailed(f"{scratch} cannot be used: {error.strerror}") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
