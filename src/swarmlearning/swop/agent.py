"""The agent: follows the ledger, takes what its taskrunners have, and looks after what it has taken.

What is to be done about a runner says `plan`; here it is done, one asyncio task an assignment. Nothing that runs
programs is a child of this process: whether it ends or is killed, they go on. Spec: docs/spec/swop.md, SW-1 to SW-5.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.messages import ListenToRunner, TakeTask
from swarmlearning.contracts.records import Training
from swarmlearning.contracts.task_records import ENDED, Assignment, Taskrunner, TaskType, WorkState
from swarmlearning.errors import ConfigurationError, PeerError, SwarmError, Unreachable
from swarmlearning.reports.status import make_printable
from swarmlearning.sn.api import Changes
from swarmlearning.sn.client import SnClient
from swarmlearning.swop.executing import Work
from swarmlearning.swop.host import Host
from swarmlearning.swop.journal import Entry, make_id
from swarmlearning.swop.plan import Action, Step, find_agent, plan
from swarmlearning.types import ContractName, NodeName, RunnerName

log = logging.getLogger("swarmlearning.swop")

TRAININGS_S: Final = 1.0
"""How often trainings are looked at that change all the time, seconds."""

RETIRE_S: Final = 3.0
"""How long an agent that ends tries to say so to a taskrunner, seconds."""

LOST: Final = (
    "this agent has no record of having taken it: its data directory was lost or replaced; name it as TARGET to have "
    "it take the task anew"
)


@contextlib.contextmanager
def lock_data(data: Path) -> Iterator[None]:
    """Keep a second agent out of a data directory.

    Raises:
        ConfigurationError: another one uses it, or it cannot be used.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
        descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"data directory {data} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"another agent uses the data directory {data}: end it first, or give this one a directory of its own"
            ) from error
        yield
    finally:
        os.close(descriptor)


class Agent:
    """A running agent."""

    def __init__(self, host: Host) -> None:
        """Prepare; nobody is asked, and nothing is started."""
        self._host = host
        self._me = host.link.name.id
        self._works: dict[str, Work] = {}
        """By id of their entries: what is to be worked at, or was since this process began."""
        self._running: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """What is cleaned up."""
        self._again: set[RunnerName] = set()
        """Runners that are to be looked at again, since something could not be asked or said."""
        self._contracts: set[ContractName] = set()
        """Trainings that have changed."""
        self._changed_all = False
        """Whether all may have."""
        self._changed = asyncio.Event()
        self._unseen = set(host.profile.runners)
        """Runners that have not been looked at yet."""
        self._told: dict[RunnerName, str] = {}
        self._strange: dict[tuple[RunnerName, int], tuple[float, int]] = {}
        """What the ledger says that we took, and the journal does not know: since when, and the last report then."""
        self._group: asyncio.TaskGroup
        self._ready: Callable[[], None] = lambda: None

    @property
    def name(self) -> NodeName:
        """Of this agent."""
        return self._host.link.name

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Work until cancelled; `ready` is called once the ledger knows that it listens.

        Raises:
            Broken: the journal cannot be written.
        """
        self._ready = ready
        async with asyncio.TaskGroup() as self._group:
            await self._resume()
            self._group.create_task(self._tick())
            self._group.create_task(self._follow_trainings())
            async with contextlib.aclosing(self._host.link.follow()) as notices:
                async for notice in notices:
                    await self._heed(notice)

    async def retire(self) -> None:
        """Once `run` was cancelled, say that nobody listens here any more; while something goes on, it stays so.

        What it does not say in time the next process has no need of: it listens, or says so again.
        """
        going = [entry for entry in self._host.journal.entries() if not (entry.is_over or entry.cleaned)]
        if going:
            peers = sum(item.unit.state not in ENDED for entry in going for item in entry.pairs)
            log.info("ends, and leaves %d peers running: a new agent with this data directory goes on with them", peers)
            return
        for runner in sorted(self._host.profile.runners):
            message = ListenToRunner(runner=runner, listening=False)
            with contextlib.suppress(SwarmError, TimeoutError):
                async with asyncio.timeout(RETIRE_S):
                    await self._host.link.say(lambda submitter, message=message: submitter.require(message))  # type: ignore[misc]

    # --- what an earlier process left -------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Go on with what the journal has, and remove what it does not know."""
        host = self._host
        await self._remove_forgotten()
        for entry in host.journal.entries():
            if entry.cleaned and (entry.reported or entry.dropped or not entry.since_ms):
                continue
            work = self._works[entry.id] = Work(host, entry)
            await work.adopt()
        for work in tuple(self._works.values()):
            entry = work.entry
            if entry.leaving or entry.dropped:
                self._abandon(work, entry.leaving or "it was to be taken anew")
            elif entry.since_ms and not (entry.is_over and entry.reported and not entry.lingers):
                log.info("%s %d %s: goes on", entry.runner, entry.number, entry.task)
                self._start(work)

    async def _remove_forgotten(self) -> None:
        if self._host.keep:
            return
        known = self._host.journal.pair_ids()
        for pair_id in await self._host.manager.find_pairs():
            if pair_id not in known:
                log.warning("removes the pair %s, of which the journal knows nothing", make_printable(pair_id))
                try:
                    await self._host.manager.remove_forgotten(pair_id)
                except (ConfigurationError, Unreachable) as error:
                    log.warning("%s cannot be removed: %s", make_printable(pair_id), make_printable(str(error)))

    # --- what it hears ----------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Signs of life, the policy's file, and what could not be done before."""
        seen = self._host.policy.version
        while True:
            await asyncio.sleep(self._host.paces.presence_s)
            await self._host.link.greet()
            self._host.policy.refresh()
            if seen != self._host.policy.version:
                seen = self._host.policy.version
                for work in self._works.values():
                    work.note_policy()
            if self._host.link.is_up:
                await self._look(tuple(self._again))

    async def _heed(self, notice: Changes) -> None:
        """Something changed on the ledger."""
        if notice.everything:
            await self._look(await self._find_runners())
            for work in self._works.values():
                work.note_policy()
        else:
            await self._look(set(notice.runners) & self._followed())
            for work in self._works.values():
                for task in notice.tasks:
                    work.note_task(task)
        if notice.everything or notice.contracts:
            self._contracts.update(notice.contracts)
            self._changed_all |= notice.everything
            self._changed.set()

    def _followed(self) -> set[RunnerName]:
        """Runners that we listen to, or have something of."""
        return {*self._host.profile.runners, *(work.entry.runner for work in self._works.values())}

    async def _find_runners(self) -> set[RunnerName]:
        """All that concern us: also those to which an earlier profile made us listen."""
        found = self._followed()

        async def ask(client: SnClient) -> None:
            for name in await client.runners():
                if name not in found:
                    runner = await client.runner(name)
                    if runner is not None and self._me in runner.listeners:
                        found.add(name)

        with contextlib.suppress(Unreachable, PeerError):
            await self._host.link.ask(ask)
        return found

    async def _follow_trainings(self) -> None:
        """Tell those that run a swarm of trainings that changed, each at most once a second."""
        while True:
            await self._changed.wait()
            everything, names = self._changed_all, tuple(self._contracts)
            self._changed.clear()
            self._changed_all = False
            self._contracts.clear()
            running = [work for work in self._works.values() if work.entry.kind is TaskType.RUN_SWARM]
            running = [work for work in running if not work.entry.is_over]
            if running:
                await self._tell_trainings(running, None if everything else names)
                await asyncio.sleep(TRAININGS_S)

    async def _tell_trainings(self, running: Iterable[Work], names: Iterable[ContractName] | None) -> None:
        async def ask(client: SnClient) -> list[Training | None]:
            return [await client.training(name) for name in (await client.contracts() if names is None else names)]

        with contextlib.suppress(Unreachable, PeerError):
            for training in await self._host.link.ask(ask):
                if training is not None:
                    for work in running:
                        work.note_training(training)

    # --- what it does -----------------------------------------------------------------------------------------------

    async def _look(self, names: Iterable[RunnerName]) -> None:
        """Look at these runners, and do what is to be done."""
        for name in sorted(names):
            self._again.discard(name)
            try:
                await self._look_at(name)
                self._unseen.discard(name)
            except SwarmError as error:
                if not isinstance(error, Unreachable | PeerError):
                    raise
                self._again.add(name)
                self._say_once(name, str(error))
        if not self._unseen:
            self._ready()

    def _say_once(self, name: RunnerName, text: str) -> None:
        if self._told.get(name) != text:
            self._told[name] = text
            log.warning("%s: %s", name, make_printable(text))

    async def _look_at(self, name: RunnerName) -> None:
        runner = await self._host.link.ask(lambda client: client.runner(name))
        if runner is None:
            if name in self._host.profile.runners:
                self._say_once(name, "there is no such taskrunner on the ledger; waits until it is created")
            return
        await self._listen(runner)
        entries = [entry for entry in self._host.journal.of_runner(name) if self._concerns(entry)]
        newest = {entry.id: self._works[entry.id].entry if entry.id in self._works else entry for entry in entries}
        planned = self._plan_peers(runner)
        actions = plan(runner, self._me, [entry.known() for entry in newest.values()], planned)
        for action in actions:
            await self._act(runner, action, None if action.known is None else newest[action.known.id])

    def _concerns(self, entry: Entry) -> bool:
        return not (entry.dropped and entry.cleaned)

    def _plan_peers(self, runner: Taskrunner) -> int:
        is_run = runner.assignment is not None and runner.assignment.kind is TaskType.RUN_SWARM
        return len(self._host.profile.nodes) if is_run else 1

    async def _listen(self, runner: Taskrunner) -> None:
        """SW-1: say that we listen to a runner of the profile, and to no other."""
        wanted = runner.name in self._host.profile.runners
        if (self._me in runner.listeners) == wanted:
            if wanted and runner.name not in self._told:
                self._told[runner.name] = ""
                log.info("listens to %s", runner.name)
            return
        message = ListenToRunner(runner=runner.name, listening=wanted)
        await self._host.link.say(lambda submitter: submitter.require(message))
        self._told[runner.name] = ""
        log.info("%s to %s", "listens" if wanted else "listens no more", runner.name)

    async def _act(self, runner: Taskrunner, action: Action, entry: Entry | None) -> None:
        assignment = runner.assignment
        match action.step:
            case Step.TAKE if assignment is not None:
                await self._take(runner, assignment, entry)
            case Step.WORK if entry is not None:
                self._work_at(runner, entry)
            case Step.LOST if assignment is not None:
                self._lose(runner, assignment, entry)
            case Step.ABANDON if entry is not None:
                self._abandon(self._works.setdefault(entry.id, Work(self._host, entry)), action.why)
            case Step.REDO if entry is not None:
                work = self._works.setdefault(entry.id, Work(self._host, entry))
                work.update(dropped=True)
                self._abandon(work, action.why)
                await self._look_at(runner.name)
            case _:
                pass

    async def _take(self, runner: Taskrunner, assignment: Assignment, entry: Entry | None) -> None:
        """Write it down, say that we take it, and look again."""
        planned = self._plan_peers(runner)
        if entry is None:
            entry = self._make_entry(runner, assignment, planned)
        entry = replace(entry, planned=planned, version=runner.version)
        self._host.journal.save(entry)
        self._works[entry.id] = Work(self._host, entry)
        message = TakeTask(runner=runner.name, number=assignment.number, planned=planned)
        await self._host.link.say(lambda submitter: submitter.require(message))
        log.info("%s %d: takes %s", runner.name, assignment.number, assignment.task)
        await self._look_at(runner.name)

    def _make_entry(self, runner: Taskrunner, assignment: Assignment, planned: int) -> Entry:
        return Entry(
            id=make_id(runner.name, assignment.number),
            runner=runner.name,
            number=assignment.number,
            task=assignment.task,
            kind=assignment.kind,
            hash=assignment.hash,
            assigned_ms=assignment.assigned_ms,
            version=runner.version,
            planned=planned,
            begun_ms=self._host.clock(),
        )

    def _work_at(self, runner: Taskrunner, entry: Entry) -> None:
        """It is ours: see that it is worked at."""
        work = self._works.setdefault(entry.id, Work(self._host, entry))
        work.note_runner(runner)
        if entry.id not in self._leaving and entry.id not in self._running:
            self._start(work)

    def _lose(self, runner: Taskrunner, assignment: Assignment, entry: Entry | None) -> None:
        """The ledger says that we took it, and we know nothing of that: say that it failed."""
        if entry is not None:
            work = self._works.setdefault(entry.id, Work(self._host, entry))
            work.update(dropped=True)
            self._abandon(work, "the ledger says that it was taken at another time")
        mine = find_agent(runner, self._me)
        if mine is None or not self._is_lost(runner.name, assignment, mine.reported_ms):
            return
        lost = replace(
            self._make_entry(runner, assignment, mine.planned),
            since_ms=mine.since_ms,
            state=WorkState.ERROR,
            description=LOST,
            ended_ms=self._host.clock(),
            cleaned=True,
        )
        self._host.journal.save(lost)
        log.error("%s %d %s: %s", lost.runner, lost.number, lost.task, LOST)
        self._works[lost.id] = Work(self._host, lost)
        self._start(self._works[lost.id])

    def _is_lost(self, name: RunnerName, assignment: Assignment, reported_ms: int) -> bool:
        """SW-2: whether nobody reports for us on what we know nothing of.

        Raises:
            ConfigurationError: somebody does.
        """
        key, now_s = (name, assignment.number), asyncio.get_running_loop().time()
        since_s, before_ms = self._strange.setdefault(key, (now_s, reported_ms))
        if before_ms != reported_ms:
            raise ConfigurationError(
                f"another agent is at work as {self._host.link.name.short}, with another data directory: it reports on "
                f"{assignment.task}, of which this one knows nothing; end one of them, or give it its own certificate"
            )
        if now_s - since_s >= self._host.paces.lost_s:
            self._strange.pop(key)
            return True
        self._say_once(
            name,
            f"the ledger says that we took {assignment.task}, of which {self._host.data} knows nothing; waits "
            f"{self._host.paces.lost_s:.0f} s for another agent of this name to report on it",
        )
        self._again.add(name)
        return False

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _start(self, work: Work) -> None:
        task = self._group.create_task(work.run())
        self._running[work.entry_id] = task
        task.add_done_callback(lambda _: self._running.pop(work.entry_id, None))

    def _abandon(self, work: Work, why: str) -> None:
        """Clean up after an assignment, unless that is being done."""
        entry_id = work.entry_id
        if entry_id in self._leaving or work.entry.cleaned:
            return

        async def leave() -> None:
            running = self._running.get(entry_id)
            if running is not None:
                running.cancel()
                await asyncio.wait({running})
            await work.abandon(why)
            self._works.pop(entry_id, None)
            self._again.add(work.entry.runner)

        task = self._group.create_task(leave())
        self._leaving[entry_id] = task
        task.add_done_callback(lambda _: self._leaving.pop(entry_id, None))
