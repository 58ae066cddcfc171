"""Agents in this process, on a fake manager, against a real SN."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent_world import HostFiles
from fake_manager import FakeManager

from swarmlearning.swop.agent import Agent, lock_data
from swarmlearning.swop.host import Host, Paces, PolicyBook
from swarmlearning.swop.journal import Entry, Journal
from swarmlearning.swop.link import Link
from swarmlearning.swop.outcomes import Outcomes
from swarmlearning.swop.policy_file import load_policy
from swarmlearning.swop.profile_file import load_profile
from swarmlearning.types import Endpoint, Role

QUICK = Paces(ready_s=3.0, linger_s=1.0, presence_s=0.2, lost_s=1.0, reconsider_s=0.5)


@asynccontextmanager
async def preparing(
    files: HostFiles, manager: FakeManager, *, paces: Paces = QUICK, sn: Endpoint | None = None
) -> AsyncIterator[Host]:
    """What an agent works with; nothing runs yet."""
    sn = sn or files.swarm.sn(files.domain)
    profile = load_profile(files.profile)
    identity = files.swarm.identity(Role.SWOP, files.domain, files.name).source()
    link = Link(identity, sn)
    with lock_data(files.data):
        try:
            yield Host(
                data=files.data,
                link=link,
                journal=Journal(files.data),
                outcomes=Outcomes(files.data),
                manager=manager,
                profile=profile,
                policy=PolicyBook(Path(profile.policy) if profile.policy else None, load_policy),
                sn=sn,
                host_ip="127.0.0.1",
                paces=paces,
            )
        finally:
            await link.close()


@asynccontextmanager
async def acting(
    files: HostFiles,
    manager: FakeManager,
    *,
    paces: Paces = QUICK,
    sn: Endpoint | None = None,
    wait: bool = True,
) -> AsyncIterator[Host]:
    """An agent that runs for as long as the block; then it is gone as if killed: nothing is stopped.

    With `wait` the block begins when the ledger knows that it listens.
    """
    ready = asyncio.Event()
    async with preparing(files, manager, paces=paces, sn=sn) as host:
        running = asyncio.create_task(Agent(host).run(ready.set))
        waiting = asyncio.create_task(ready.wait())
        try:
            async with asyncio.timeout(30):
                if wait:
                    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            yield host
        finally:
            waiting.cancel()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def entries_of(host: Host) -> Sequence[Entry]:
    """What its journal has, as a new process would read it."""
    return Journal(host.data).entries()
