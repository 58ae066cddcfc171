"""One assignment from its taking to its end: permission, work, report; and its cleaning up.

What a RUN_SWARM does is in `swarm_run`, what the other types do in `making`. Spec: docs/spec/swop.md, SW-4 to SW-11.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from swarmlearning.contracts.records import Training
from swarmlearning.contracts.task_records import ENDED, FAILED, Taskrunner, TaskType, WorkState
from swarmlearning.errors import Broken, ConfigurationError, PeerError, SwarmError, TaskFailed, Unreachable
from swarmlearning.reports.approvals import explain_approval
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.host import Host
from swarmlearning.swop.journal import Entry, Stage
from swarmlearning.swop.life import remove_pair
from swarmlearning.swop.making import Made, make
from swarmlearning.swop.permission import Assigned, describe_work, is_denied, judge, read_prerequisite, read_task
from swarmlearning.swop.policy import Decision, Verdict
from swarmlearning.swop.reporting import Reporter
from swarmlearning.swop.swarm_run import SwarmRun
from swarmlearning.swop.telling import find_paths
from swarmlearning.types import TaskName

log = logging.getLogger("swarmlearning.swop")

REMOVE_TRIES: Final = 5
"""How often the removal of a pair is tried before it is left to the next start of the agent."""

_TRY_AGAIN_S: Final = 2.0


class Denied(Exception):
    """Our institution does not let the task run; says why."""


class Work:
    """One assignment that this agent has taken."""

    def __init__(self, host: Host, entry: Entry) -> None:
        """Go on with an entry of the journal; nothing is done yet."""
        self.host = host
        self.entry_id = entry.id
        self._entry = entry
        self._news = asyncio.Event()
        self._reporter = Reporter(host.link, lambda: self._entry, host.private)
        self._run: SwarmRun | None = None
        self._needed: TaskName | None = None
        """The task that has to be carried out before."""

    # --- what is known of it ----------------------------------------------------------------------------------------

    @property
    def entry(self) -> Entry:
        """The newest."""
        return self._entry

    def update(self, *, durable: bool = True, **changes: Any) -> None:  # noqa: ANN401  # fields of Entry
        """Change the entry; only words change where it need not be durable."""
        self._entry = replace(self._entry, **changes)
        if durable:
            self.host.journal.save(self._entry)
        self._reporter.changed()

    def tell(self, text: str, state: WorkState | None = None) -> None:
        """Say something new of the assignment as a whole."""
        state = self._entry.state if state is None else state
        if (text, state) != (self._entry.description, self._entry.state):
            self._log(f"{state.value}: {text}")
            self.update(durable=state is not self._entry.state, description=text, state=state)

    def _log(self, text: str) -> None:
        log.info("%s %d %s: %s", self._entry.runner, self._entry.number, self._entry.task, make_printable(text))

    def note_runner(self, runner: Taskrunner) -> None:
        """The ledger's newest record of the runner, in which the assignment is ours."""
        mine = next((agent for agent in runner.agents if agent.node == self.host.link.name.id), None)
        if mine is not None and (self._entry.since_ms, self._entry.version) != (mine.since_ms, runner.version):
            durable = self._entry.since_ms != mine.since_ms
            self._entry = replace(self._entry, since_ms=mine.since_ms, version=runner.version)
            if durable:
                self.host.journal.save(self._entry)

    def note_task(self, name: TaskName) -> None:
        """Something was said of a task: perhaps that it is approved."""
        if name in (self._entry.task, self._needed):
            self._news.set()

    def note_policy(self) -> None:
        """The policy was changed, or anything may have been."""
        self._news.set()

    def note_training(self, training: Training) -> None:
        """A training changed."""
        if self._run is not None:
            self._run.note_training(training)

    async def adopt(self) -> None:
        """After the agent was restarted: what runs has its nodes, and its logs go on."""
        if self._entry.cleaned:
            return
        for item in self._entry.pairs:
            if item.pair is not None:
                await self.host.manager.adopt(item.pair)
        live = [item for item in self._entry.pairs if item.pair is not None and item.stage is not Stage.ENDED]
        self.host.nodes.claim([item.idx for item in live], self._entry.id, self._entry.runner)

    # --- its life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry it out, and report until the ledger has how it ended.

        Raises:
            Broken: the journal cannot be written.
        """
        reporting = asyncio.create_task(self._reporter.run())
        try:
            if not self._entry.is_over:
                await self._work()
            if not self._entry.reported:
                await reporting
                self.update(reported=True)
            if self._entry.lingers:
                self._run = self._run or SwarmRun(self)
                await self._run.linger()
            await self.host.nodes.free_of(self._entry.id)
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _work(self) -> None:
        """Carry it out; a task's boundary."""
        try:
            state, text = await (self._run_swarm() if self._entry.kind is TaskType.RUN_SWARM else self._make())
        except Denied as denied:
            state, text = WorkState.DENIED, str(denied)
        except Broken:
            raise
        except SwarmError as error:
            state, text = WorkState.ERROR, str(error)
        except Exception as error:  # others' work goes on, and the swarm is told
            log.exception("%s %d: a fault of ours", self._entry.runner, self._entry.number)
            state, text = WorkState.ERROR, f"a fault of the agent: {type(error).__name__}"
        if state in FAILED:
            await self._stop_pairs(remove=False)
        self._end(state, text)

    async def _make(self) -> tuple[WorkState, str]:
        """Carry out a task that leaves something for later ones."""
        await self._read_first()
        assigned = await self._wait_for_permission()
        self.tell("begins", WorkState.RUNNING)
        made: Made = await self._unless_denied(make(self, assigned))
        self._entry = replace(self._entry, evidence=made.evidence)
        return WorkState.ERROR if made.failed else WorkState.COMPLETE, made.text

    async def _run_swarm(self) -> tuple[WorkState, str]:
        """Run the pairs; those that an earlier process of the agent has planned it had been allowed to."""
        run = self._run = SwarmRun(self)
        if not self._entry.pairs:
            await self._begin_swarm(run)
        result: tuple[WorkState, str] = await self._unless_denied(run.perform())
        return result

    async def _begin_swarm(self, run: SwarmRun) -> None:
        """Wait until it may run here, its nodes are free, and it still may."""
        run.check_volumes(await self._read_first())
        while True:
            await self._make_image(run, await self._wait_for_permission())
            await run.take_nodes()
            try:
                # Decided again right before anything is started: it may have been long.
                assigned = await read_task(self.host, self._entry)
                decision = judge(self.host, assigned)
                if decision.verdict is Verdict.ALLOW:
                    self._grant(decision)
                    await run.prepare(assigned)
                    return
            except BaseException:
                await run.free_nodes()
                raise
            await run.free_nodes()

    async def _make_image(self, run: SwarmRun, assigned: Assigned) -> None:
        """SW-16: have what the programs run in made, if the task's prerequisite has not made it here yet."""
        if assigned.prerequisite is None or await run.has_image(assigned):
            return
        self._needed = assigned.prerequisite.name

        async def read() -> Assigned:
            return await read_prerequisite(self.host, await read_task(self.host, self._entry))

        first = await self._wait_for_permission(read, f"needs {self._needed} first: ")
        self.tell(f"carries out {self._needed} first, which it needs", WorkState.RUNNING)
        made: Made = await self._unless_denied(make(self, first), read)
        if made.failed:
            raise TaskFailed(f"{self._needed}, which it needs: {made.text}")

    async def _read_first(self) -> Assigned:
        """The task, for the first time: what it names itself may be told."""
        assigned = await read_task(self.host, self._entry)
        self.update(places=find_paths(msgspec.json.encode(assigned.body).decode()))
        return assigned

    async def _wait_for_permission(
        self, read: Callable[[], Awaitable[Assigned]] | None = None, why: str = ""
    ) -> Assigned:
        """The task, or what `read` gives, as soon as it may run here; `why` says what it is for.

        Raises:
            Denied: it may not.
        """
        while True:
            # Before it is read: what is said meanwhile is news, to whoever watches for a denial, too.
            self._news.clear()
            assigned = await (read_task(self.host, self._entry) if read is None else read())
            decision = judge(self.host, assigned)
            match decision.verdict:
                case Verdict.DENY:
                    raise Denied(f"{why}{decision.reason}")
                case Verdict.ALLOW:
                    self._log(f"{why}allowed by {decision.approved_by}: {decision.reason}")
                    self._grant(decision)
                    return assigned
                case Verdict.ASK:
                    if self._entry.state is not WorkState.AWAITING_APPROVAL:
                        self._log(explain_approval(assigned.task.name, [self.host.link.name.domain]))
                    self.tell(f"{why}{decision.reason}; {describe_work(assigned)}", WorkState.AWAITING_APPROVAL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.host.paces.reconsider_s):
                    await self._news.wait()

    def _grant(self, decision: Decision) -> None:
        """Write down what it may, by the newest decision."""
        self.update(
            approved_by=decision.approved_by,
            limits=decision.limits,
            network=decision.network,
            urls=decision.urls,
        )

    async def _unless_denied(self, work: Awaitable[Any], read: Callable[[], Awaitable[Assigned]] | None = None) -> Any:  # noqa: ANN401  # what `work` gives
        """What `work` gives; cancelled if our institution denies the task, or what `read` gives, meanwhile.

        Raises:
            Denied: it does.
        """
        working = asyncio.ensure_future(work)
        watching = asyncio.create_task(self._watch_for_denial(read))
        try:
            done, _ = await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if working in done:
                return working.result()
            watching.result()
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)
        raise Denied("its institution denied it while it ran")

    async def _watch_for_denial(self, read: Callable[[], Awaitable[Assigned]] | None) -> None:
        """Until our organisation has said on the ledger that the task, or what `read` gives, may not run."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                if is_denied(await read_task(self.host, self._entry)):
                    return
                if read is not None and is_denied(await read()):
                    return
            except PeerError as error:
                # What was allowed goes on: nobody has denied it.
                self._log(f"cannot be read again: {error}")

    def _end(self, state: WorkState, text: str) -> None:
        """All that we did has ended."""
        text = make_printable(text)
        self._log(f"{state.value}: {text}")
        pairs = self._entry.pairs
        if state in FAILED:
            pairs = tuple(
                item if item.unit.state in ENDED else replace(item, unit=replace(item.unit, state=state))
                for item in pairs
            )
        self.update(state=state, description=text, pairs=pairs, ended_ms=self.host.clock())

    # --- its cleaning up --------------------------------------------------------------------------------------------

    async def abandon(self, why: str) -> None:
        """Stop and remove all that is left of it on this host, after `run` was cancelled; its logs stay."""
        if not self._entry.since_ms and not self._entry.pairs:
            # It was never taken, so nothing was done.
            self.host.journal.remove(self._entry)
            return
        self._log(f"is cleaned up: {why}")
        try:
            self.update(leaving=why)
        except Broken as error:
            # A full disk, perhaps by what is to be removed. All of this may be done twice, so that it need not be known
            # beforehand; afterwards there has to be room.
            log.warning("%s is cleaned up although that cannot be written down: %s", self.entry_id, error)
        await self._stop_pairs(remove=True)
        await self.host.nodes.free_of(self._entry.id)
        changes: dict[str, Any] = {"cleaned": True}
        if not self._entry.is_over:
            changes |= {"ended_ms": self.host.clock(), "state": WorkState.ERROR, "description": why}
        self.update(**changes)
        self.host.journal.prune()

    async def _stop_pairs(self, *, remove: bool) -> None:
        """Stop all pairs at once, and remove them."""
        await asyncio.gather(*(self._stop_pair(item.idx, remove) for item in self._entry.pairs))

    async def _stop_pair(self, idx: int, remove: bool) -> None:
        item = next(item for item in self._entry.pairs if item.idx == idx)
        if item.pair is None or (item.stage in (Stage.LINGERING, Stage.ENDED) and not remove):
            return
        for number in range(1, REMOVE_TRIES + 1):
            try:
                await remove_pair(self.host.manager, item.pair, remove=remove)
                break
            except Broken:
                raise
            except Exception as error:  # whatever a manager or its engine does, the agent's other work goes on
                if not isinstance(error, ConfigurationError | Unreachable):
                    log.exception("%s: a fault of ours", item.pair.id)
                again = "tried again" if number < REMOVE_TRIES else "left to the agent's next start"
                log.warning("%s cannot be removed, %s: %s", item.pair.id, again, make_printable(str(error)))
            await asyncio.sleep(_TRY_AGAIN_S)
        items = (replace(other, stage=Stage.ENDED) if other.idx == idx else other for other in self._entry.pairs)
        self.update(durable=False, pairs=tuple(items))  # the end of it all is written down, in one
