"""Faults on purpose, for `swarm rehearse`: an SL that is slow, deaf to one peer, or dead. Spec: docs/spec/control.md.

Only desks of contracts whose name begins with `rehearsal/` have drills (`prepare`); all others go past this module.
Only what passes between this SL, other SLs and the ledger about that one contract is touched, for a bounded time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from swarmlearning.contracts.messages import AnyMessage
from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.errors import PeerError, Refused, Unreachable
from swarmlearning.sl.control import Drill, Drilled
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.guarding import say_here
from swarmlearning.sl.plan import find_peer
from swarmlearning.sn.api import Submitted
from swarmlearning.sn.client import Submitter
from swarmlearning.transport.api import Address, Client
from swarmlearning.types import ContractName, NodeId, short_name

REHEARSAL: Final = "rehearsal/"
"""What the name of a contract begins with in which drills are carried out."""

MAX_DRILL_S: Final = 120
"""Longest drill, seconds."""

FRAMES_A_LEASE: Final = 4
"""So many frames an SL sends in a lease while it is slow: half of the silence that a puller puts up with."""

LOOK_S: Final = 0.1
"""How often somebody who is kept waiting looks whether the drill is over, seconds."""


def is_rehearsal(contract: ContractName) -> bool:
    """Whether drills are carried out in a contract."""
    return contract.startswith(REHEARSAL)


class Drills:
    """What is wrong on purpose with one SL in one contract; nothing, until it is armed."""

    def __init__(self, record: Callable[[], Training | None], lease_s: Callable[[], float]) -> None:
        """Nothing is wrong yet.

        Args:
            record: the newest record.
            lease_s: the silence after which somebody is suspected, seconds.
        """
        self._record = record
        self._lease_s = lease_s
        self._drill = Drill(kind="none")
        self._until_s = 0.0
        self._dead_in: int | None = None
        """The round in which we fell silent."""
        self.fired = 0
        """How often something was held back since the drill was armed."""

    def arm(self, drill: Drill) -> int:
        """Begin a drill, which ends the one before; returns how often that one held something back.

        A killed SL falls silent when the next round merges, and comes back once that round is final.
        """
        fired, self.fired = self.fired, 0
        self._drill, self._dead_in = drill, None
        self._until_s = asyncio.get_running_loop().time() + drill.seconds
        return fired

    def is_silent(self, peer: NodeId | None) -> bool:
        """Whether nothing passes between us and `peer` (None: the ledger) now."""
        kind = self._running()
        return kind == "kill" or (kind == "cut" and peer is not None and peer == self._drill.peer)

    def _running(self) -> str:
        """Which drill takes hold now."""
        kind = self._drill.kind
        if kind == "none" or asyncio.get_running_loop().time() >= self._until_s:
            return "none"
        return kind if kind != "kill" or self._is_dead() else "none"

    def _is_dead(self) -> bool:
        record = self._record()
        if record is None:
            return False
        if self._dead_in is None and record.phase is Phase.MERGING and record.round is not None:
            self._dead_in = record.round.number
        if self._dead_in is None:
            return False
        return record.phase is not Phase.COMPLETED and (record.last is None or record.last.round < self._dead_in)

    async def hold(self, caller: NodeId) -> None:
        """Before a caller is answered or sent a frame: keep it waiting while we are silent for it."""
        if self.is_silent(caller):
            self.fired += 1
        while self.is_silent(caller):  # noqa: ASYNC110  # it ends by the clock as well as by the record
            await asyncio.sleep(LOOK_S)

    async def pace(self, caller: NodeId) -> None:
        """Before a frame of parameters goes to a caller: as `hold`, and slowly while we are slow."""
        await self.hold(caller)
        if self._running() == "slow":
            self.fired += 1
            await asyncio.sleep(self._lease_s() / FRAMES_A_LEASE)

    async def require_answer(self, to: Address, wait_s: float) -> None:
        """Before we ask a peer: wait for an answer that does not come while we are silent for it.

        Raises:
            Unreachable: we were silent for `wait_s`.
        """
        if not self.is_silent(to.node):
            return
        self.fired += 1
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        while self.is_silent(to.node):
            if loop.time() >= deadline_s:
                raise Unreachable(f"{short_name(to.node)} at {to.endpoint} does not answer ({self._drill.kind} drill)")
            await asyncio.sleep(min(LOOK_S, wait_s))

    def require_ledger(self) -> None:
        """Before we say something to the ledger.

        Raises:
            Unreachable: this SL plays dead.
        """
        if self.is_silent(None):
            self.fired += 1
            raise Unreachable("this SL plays dead (kill drill)")


class DrilledClient:
    """A client whose links can be cut."""

    def __init__(self, client: Client, drills: Drills) -> None:
        """Ask through `client`."""
        self._client = client
        self._drills = drills

    async def call(self, to: Address, method: str, body: bytes, *, timeout_s: float) -> bytes:
        """See `Client.call`."""
        await self._drills.require_answer(to, timeout_s)
        return await self._client.call(to, method, body, timeout_s=timeout_s)

    async def stream(
        self, to: Address, method: str, body: bytes, *, idle_s: float, expect: int | None = None
    ) -> AsyncIterator[memoryview]:
        """See `Client.stream`."""
        await self._drills.require_answer(to, idle_s)
        frames = self._client.stream(to, method, body, idle_s=idle_s, expect=expect)
        async with contextlib.aclosing(frames):  # type: ignore[type-var]  # iterators of the seam have aclose
            async for frame in frames:
                await self._drills.require_answer(to, idle_s)
                yield frame

    async def close(self) -> None:
        """See `Client.close`; the other trainings' client is the same one, so nothing is closed."""


class DrilledSubmitter(Submitter):
    """A submitter of an SL that can play dead."""

    def __init__(self, submitter: Submitter, drills: Drills) -> None:
        """Submit through `submitter`, which keeps key and counters: the base has nothing of its own here."""
        self._submitter = submitter
        self._drills = drills

    @property
    def public(self) -> bytes:
        """See `Submitter.public`."""
        return self._submitter.public

    def sign(self, message: AnyMessage) -> bytes:
        """See `Submitter.sign`."""
        return self._submitter.sign(message)

    async def send(self, message: AnyMessage) -> Submitted:
        """See `Submitter.send`.

        Raises:
            Unreachable: this SL plays dead.
        """
        self._drills.require_ledger()
        return await self._submitter.send(message)

    async def prepare(self, message: AnyMessage) -> bytes:
        """See `Submitter.prepare`.

        Raises:
            Unreachable: this SL plays dead.
        """
        self._drills.require_ledger()
        return await self._submitter.prepare(message)

    async def repeat(self, tx: bytes) -> Submitted:
        """See `Submitter.repeat`.

        Raises:
            Unreachable: this SL plays dead.
        """
        self._drills.require_ledger()
        return await self._submitter.repeat(tx)


def prepare(desk: Desk) -> None:
    """C-19: let a rehearsal's desk carry out drills; any other desk stays as it is."""
    if is_rehearsal(desk.contract):
        drills = Drills(lambda: desk.training, lambda: desk.lease_s)
        desk.client = DrilledClient(desk.client, drills)
        desk.submitter = DrilledSubmitter(desk.submitter, drills)
        desk.drills = drills


async def carry_out(desk: Desk, request: Drill) -> Drilled:
    """C-19 to C-21: do what a program asked for.

    Raises:
        Refused: this is no rehearsal, or nothing that can be drilled.
    """
    drills = desk.drills
    if not isinstance(drills, Drills):
        raise Refused(f"drills are for contracts whose name begins with {REHEARSAL}; this one is {desk.contract}")
    _check(desk, request)
    fired = drills.arm(request)
    if request.kind == "none":
        await _come_back(desk)
    else:
        whom = f", {short_name(request.peer)}" if request.peer else ""
        log.warning("%s: drill: %s%s, for %d s at most", desk.contract, request.kind, whom, request.seconds)
    last = desk.training.last if desk.training is not None else None
    return Drilled(fired=fired, last=last)


def _check(desk: Desk, request: Drill) -> None:
    if not 0 <= request.seconds <= MAX_DRILL_S:
        raise Refused(f"a drill of {request.seconds} s; expected at most {MAX_DRILL_S} s")
    if (request.kind == "cut") != bool(request.peer):
        raise Refused(f"drill {request.kind} with peer {request.peer[:80]!r}: expected one for cut, and only for cut")
    if request.peer and (request.peer == desk.node or find_peer(desk.record, request.peer) is None):
        raise Refused(f"drill cut: {request.peer[:80]!r} is no other peer that is enrolled in {desk.contract}")


async def _come_back(desk: Desk) -> None:
    """C-21: who was paused while it played dead says that it is there again, so that the next round waits for it."""
    peer = find_peer(desk.record, desk.node)
    if peer is not None and peer.state is PeerState.PAUSED:
        with contextlib.suppress(Unreachable, PeerError):  # its check-in says so too
            await say_here(desk)
