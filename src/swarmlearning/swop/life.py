"""The life of one pair: SL, ready, program, end; and how that is written down and told. Spec: docs/spec/swop.md, SW-8.

Each stage is written to the journal before its step is taken, and every step may be taken again; so an agent that was
killed goes on here. Does not: decide whether a pair may be started, or report.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, assert_never

from msgspec.structs import replace

from swarmlearning.contracts.records import Training
from swarmlearning.contracts.task_records import ENDED, MAX_EXIT_STATUS, Evidence, WorkState
from swarmlearning.errors import Broken, PeerError, SwarmError, Unreachable
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.journal import PairEntry, Stage
from swarmlearning.swop.logfiles import hash_log, last_lines, secrets_of
from swarmlearning.swop.managers.boundary import Manager, Pair, PairStatus, Part, PartState, PartStatus
from swarmlearning.swop.pairs import is_loopback
from swarmlearning.swop.policy import ShareLog
from swarmlearning.swop.trainings import describe_progress, find_standings, has_joined, has_merged, is_done
from swarmlearning.types import ContractName

POLL_S: Final = 0.5
"""How often a pair is looked at, seconds."""

READY_S: Final = 60.0
"""How long an SL may take until programs can meet it, while our SN answers, seconds."""

GRACE_S: Final = 10.0
"""How long a program or an SL gets to end by itself, seconds."""

MAX_RESTARTS: Final = 3
"""How often an SL that died is started again."""

LINGER_S: Final = 45.0
"""This long after all trainings are complete an SL that has not ended by itself is stopped, seconds: longer than one
serves others at its end."""

ASK_S: Final = 5.0
"""How long the SN may take to say whether a failed program had taken part in a round, seconds."""


class Surroundings(Protocol):
    """What a pair's life needs of its assignment and of the agent."""

    manager: Manager
    ready_s: float
    linger_s: float

    @property
    def share_log(self) -> ShareLog:
        """When last lines of logs may go on the ledger, as the policy says now."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether the SN answers."""
        ...

    def read(self, idx: int) -> PairEntry:
        """A pair as the journal has it."""
        ...

    def write(self, item: PairEntry, *, durable: bool) -> None:
        """Change a pair in the journal, and have it reported; only words change where it need not be `durable`."""
        ...

    async def ask_trainings(self) -> list[Training]:
        """All trainings.

        Raises:
            Unreachable, PeerError: the SN does not say.
        """
        ...

    async def insist_on_trainings(self) -> list[Training]:
        """All trainings, as soon as the SN says.

        Raises:
            PeerError: it refuses for good.
        """
        ...


class _Failed(Exception):
    """The pair cannot go on; says why."""

    def __init__(self, text: str, part: Part | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.part = part
        """Whose last lines explain it."""


class PairLife:
    """One pair of an assignment."""

    def __init__(self, around: Surroundings, idx: int) -> None:
        """Know the pair of the profile's node `idx`; nothing is started yet."""
        self._around = around
        self._idx = idx
        self._manager = around.manager
        self._trainings: dict[ContractName, Training] = {}
        self._news = asyncio.Event()
        self._exit_status: int | None = None
        self._running_since_s: float | None = None

    @property
    def _item(self) -> PairEntry:
        return self._around.read(self._idx)

    @property
    def _pair(self) -> Pair:
        pair = self._item.pair
        if pair is None:
            raise Broken(f"node {self._idx}: its pair could not be made, and is started all the same")
        return pair

    def _update(self, **changes: Any) -> None:  # noqa: ANN401  # fields of PairEntry
        self._around.write(replace(self._item, **changes), durable=True)

    def _tell(self, text: str, state: WorkState = WorkState.RUNNING) -> None:
        """Say something new of it."""
        unit = self._item.unit
        if (unit.description, unit.state) != (text, state):
            after = replace(unit, description=text, state=state)
            self._around.write(replace(self._item, unit=after), durable=state is not unit.state)

    async def run(self) -> None:
        """Bring it to its end, however that is."""
        try:
            if self._item.stage is Stage.LINGERING:
                return
            if self._item.unit.state in ENDED:
                # It had failed, and was not stopped yet.
                await self._stop()
                self._update(unit=replace(self._item.unit, evidence=await self._make_evidence()), stage=Stage.ENDED)
            while self._item.stage not in (Stage.LINGERING, Stage.ENDED):
                await self._step(self._item.stage)
        except _Failed as failed:
            await self._fail(failed)
        except Broken:
            raise
        except SwarmError as error:
            await self._fail(_Failed(make_printable(str(error))))

    async def _step(self, stage: Stage) -> None:
        match stage:
            case Stage.PLANNED:
                self._tell("asks where its SL is enrolled", WorkState.ENROLLED)
                before = find_standings(await self._around.insist_on_trainings(), self._pair.uid)
                self._update(stage=Stage.SL, enrolled=before, sl_starts=1)
            case Stage.SL:
                await self._start_sl("starts its SL")
                self._update(stage=Stage.ML)
            case Stage.ML:
                await self._watch()
            case Stage.CLOSING:
                await self._close()
            case Stage.LINGERING | Stage.ENDED:
                pass
            case _:
                assert_never(stage)

    # --- the SL -----------------------------------------------------------------------------------------------------

    async def _start_sl(self, text: str) -> None:
        """Start the SL unless it runs, and wait until programs can meet it."""
        self._tell(text)
        await self._insist(lambda: self._manager.start_sl(self._pair))
        waited_s = 0.0
        while True:
            status = (await self._look()).sl
            if status.state is PartState.RUNNING:
                return
            if status.state in (PartState.EXITED, PartState.ABSENT):
                raise _Failed(f"its SL ended before it was ready{_how(status)}", Part.SL)
            if waited_s >= self._around.ready_s:
                raise _Failed(f"its SL was not ready within {self._around.ready_s:.0f} s", Part.SL)
            self._tell("waits until its SL is ready" + ("" if self._around.is_up else ": its SN is away"))
            await asyncio.sleep(POLL_S)
            # An SL waits for the SN, as long as that is away.
            waited_s += POLL_S if self._around.is_up else 0.0

    async def _restart_sl(self, status: PartStatus) -> None:
        """An SL that is needed has ended: start it again, and it goes on by its own journal."""
        if status.state is PartState.EXITED and status.exit_status == 0:
            # It believed that all was over: the program begins another training, perhaps.
            await self._start_sl("starts its SL again, which had ended")
            return
        starts = self._item.sl_starts
        if starts > MAX_RESTARTS:
            raise _Failed(f"its SL died {starts} times{_how(status)}", Part.SL)
        self._update(sl_starts=starts + 1)
        await self._start_sl(f"starts its SL again, which had died{_how(status)}")

    # --- the program ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Start the program unless it was, and look after both until it ends."""
        while True:
            status = await self._look()
            if status.ml.state is PartState.EXITED:
                return self._note_exit(status.ml)
            if status.sl.state in (PartState.EXITED, PartState.ABSENT):
                await self._restart_sl(status.sl)
                continue
            if status.ml.state is PartState.ABSENT:
                await self._start_ml(status)
                continue
            if not self._item.ml_seen:
                self._update(ml_seen=True)
            self._check_time()
            self._tell(self._describe() or "its program runs, and has joined no training yet")
            await self._pause()

    async def _start_ml(self, status: PairStatus) -> None:
        if self._item.ml_seen:
            raise _Failed("its program is gone: somebody removed it from this host")
        if status.sl.state is PartState.STARTING:
            await self._start_sl("waits until its SL is ready")
        self._tell("starts its program")
        await self._insist(lambda: self._manager.start_ml(self._pair))

    def _check_time(self) -> None:
        """Managers end a program in time by themselves; here is seen to it that none is forgotten.

        Not by the time of day, which jumps: from when this process first saw it run.
        """
        limit_s, now_s = self._pair.limits.run_time_s, asyncio.get_running_loop().time()
        if self._running_since_s is None:
            self._running_since_s = now_s
        if limit_s is not None and now_s - self._running_since_s > limit_s:
            raise _Failed(f"its program ran longer than the {limit_s:g} s that it may by the policy", Part.ML)

    def _note_exit(self, status: PartStatus) -> None:
        """The program has ended."""
        self._exit_status = status.exit_status
        if status.exit_status == 0:
            self._update(stage=Stage.CLOSING)
            return
        if status.exit_status is None:
            raise _Failed(f"its program was lost: {make_printable(status.detail) or 'how it ended is not known'}")
        raise _Failed(f"its program ended{_how(status)}", Part.ML)

    async def _close(self) -> None:
        """The program has ended well: its SL goes on until all peers are done."""
        self._exit_status = 0
        self._tell(self._describe() or "its program has ended; asks what it took part in")
        if is_loopback(self._pair.ml_environment):
            await self._stop()
            await self._complete("trained alone, as SWARM_LOOPBACK says", Stage.ENDED)
            return
        for training in await self._around.insist_on_trainings():
            self._learn(training)
        if not self._item.took_part:
            raise _Failed(
                "the program ended with status 0 but took part in no training; does it use SwarmCallback, and does it "
                "call it? Its log is on its host",
                Part.ML,
            )
        while not self._is_over():
            status = (await self._look()).sl
            if status.state in (PartState.EXITED, PartState.ABSENT):
                if status.exit_status == 0:
                    break
                await self._restart_sl(status)
                continue
            self._tell(self._describe() or "its program has ended; its SL goes on for the others")
            await self._pause()
        await self._complete("complete", Stage.LINGERING)

    def _is_over(self) -> bool:
        """Whether, by the ledger, its SL has nothing more to do."""
        uid = self._pair.uid
        joined = [t for t in self._trainings.values() if has_joined(t, uid, self._item.enrolled)]
        return bool(joined) and all(is_done(training, uid) for training in joined)

    # --- its ends ---------------------------------------------------------------------------------------------------

    async def _complete(self, text: str, stage: Stage) -> None:
        unit = replace(
            self._item.unit, state=WorkState.COMPLETE, description=text, evidence=await self._make_evidence()
        )
        self._update(unit=unit, stage=stage)

    async def linger(self) -> None:
        """Until its SL has ended by itself, which serves the others for a while; too long, and it is stopped."""
        if self._item.stage is not Stage.LINGERING:
            return
        waited_s = 0.0
        while (await self._look()).sl.state in (PartState.STARTING, PartState.RUNNING):
            if waited_s >= self._around.linger_s:
                break
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
        await self._stop()
        self._update(stage=Stage.ENDED)

    async def _fail(self, failed: _Failed) -> None:
        """Say it at once, as far as its institution lets us; then stop what is left, and say what there is to prove."""
        text = failed.text
        if failed.part is not None:
            lines = await self._share_lines(failed.part)
            text += f": {lines}" if lines else ""
        self._tell(text, WorkState.ERROR)
        await self._stop()
        self._update(unit=replace(self._item.unit, evidence=await self._make_evidence()), stage=Stage.ENDED)

    async def _share_lines(self, part: Part) -> str:
        """The last lines of a log, where they may be told; what an SL prints are our own words, without data."""
        masked = False
        if part is Part.SL:
            path = self._pair.sl_log
        else:
            path = self._pair.ml_log
            share = self._around.share_log
            if share is ShareLog.NEVER or (share is ShareLog.STARTUP and await self._has_read_data()):
                return ""
            masked = share is ShareLog.STARTUP and self._pair.body.private_content is not None
        node = self._pair.node
        hidden = secrets_of(node.program_environment, node.sl_environment, self._pair.sl_environment)
        return await asyncio.to_thread(last_lines, Path(path), hidden, masked=masked)

    async def _has_read_data(self) -> bool:
        """Whether its program has contributed to a round; where that is not known it is taken to have."""
        try:
            async with asyncio.timeout(ASK_S):
                for training in await self._around.ask_trainings():
                    self._learn(training)
        except (TimeoutError, Unreachable, PeerError):
            return True
        return self._item.merged

    async def _make_evidence(self) -> Evidence:
        status = self._exit_status
        return Evidence(
            manager=self._manager.describe(),
            image=self._pair.image_id,
            exit_status=status if status is not None and 0 <= status <= MAX_EXIT_STATUS else None,
            log_hash=await asyncio.to_thread(hash_log, Path(self._pair.ml_log)),
        )

    async def _stop(self) -> None:
        """Stop what runs, the program first."""
        for part in (Part.ML, Part.SL):
            await self._insist(lambda part=part: self._manager.stop(self._pair, part, GRACE_S))  # type: ignore[misc]

    # --- what it hears ----------------------------------------------------------------------------------------------

    def note_training(self, training: Training) -> None:
        """A training changed on the ledger; perhaps it is one of ours."""
        if self._item.pair is not None and self._item.stage in (Stage.SL, Stage.ML, Stage.CLOSING):
            self._learn(training)
            self._news.set()

    def _learn(self, training: Training) -> None:
        item, uid = self._item, self._pair.uid
        if not has_joined(training, uid, item.enrolled):
            self._trainings.pop(training.name, None)
            return
        # The newest last: it is what is told of.
        self._trainings.pop(training.name, None)
        self._trainings[training.name] = training
        merged = item.merged or has_merged(training, uid, item.enrolled)
        if not item.took_part or merged != item.merged:
            self._update(took_part=True, merged=merged)

    def _describe(self) -> str:
        """How the newest training goes that is not over, else the newest."""
        uid = self._pair.uid
        known = sorted(self._trainings.values(), key=lambda training: not is_done(training, uid))
        return describe_progress(known[-1], uid) if known else ""

    async def _pause(self) -> None:
        """Until it is to be looked at again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._news.wait()
        self._news.clear()

    async def _look(self) -> PairStatus:
        found: list[PairStatus] = []

        async def look() -> None:
            found.append(await self._manager.look(self._pair))

        await self._insist(look)
        return found[-1]

    async def _insist(self, act: Callable[[], Any]) -> None:
        """Have the manager do something, as soon as its engine answers."""
        while True:
            try:
                await act()
                return
            except Unreachable as error:
                unit = self._item.unit
                if unit.state not in ENDED:
                    self._tell(f"waits for {self._manager.describe()}: {make_printable(str(error))}", unit.state)
            await asyncio.sleep(1.0)


def _how(status: PartStatus) -> str:
    """How half of a pair ended, for the end of a sentence."""
    known = "" if status.exit_status is None else f" with status {status.exit_status}"
    return f"{known} ({make_printable(status.detail)})" if status.detail else known


async def remove_pair(manager: Manager, pair: Pair, *, remove: bool = True) -> None:
    """Stop a pair, the program first, and remove it; its logs stay.

    Raises:
        ConfigurationError, Unreachable: see `Manager`.
    """
    await manager.stop(pair, Part.ML, GRACE_S)
    await manager.stop(pair, Part.SL, GRACE_S)
    if remove:
        await manager.remove(pair)
