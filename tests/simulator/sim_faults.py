"""What may go wrong in a simulation: a plan of faults, each of which counts how often it fired."""

import asyncio
import enum
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmlearning.contracts.messages import Message, Payload, Tx
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import DecodeError, Unreachable
from swarmlearning.sl.exchange import Advance
from swarmlearning.transport.api import Frame
from swarmlearning.types import NodeId


class Fault(enum.Enum):
    """Kinds of faults. The network's first, then nodes that die, then nodes that lie."""

    DROP = enum.auto()  # a request or a reply is lost; the client waits until its own limit
    BREAK = enum.auto()  # the connection breaks
    DELAY = enum.auto()  # a message takes much longer
    DUPLICATE = enum.auto()  # a call arrives twice
    REORDER = enum.auto()  # a call is overtaken by a later one
    CORRUPT = enum.auto()  # bytes of a frame change on the way
    PARTITION = enum.auto()  # two groups do not reach each other for a while
    SLOW_LINK = enum.auto()  # every frame that a node serves takes long
    CRASH_SL = enum.auto()  # an SL and its program die at its k-th transaction
    CRASH_SN = enum.auto()  # an SN dies at a time, and comes back
    DEAD_CONTRIBUTOR = enum.auto()  # an SL dies after its check-in stands
    DEAD_LEADER = enum.auto()  # an SL dies before it commits what it merged
    DEAD_LEADER_AFTER = enum.auto()  # an SL dies after its commit stands
    WRONG_MERGE = enum.auto()  # a leader commits something else than the merge of what was offered
    WRONG_DISTANCES = enum.auto()  # a leader or witness says that all contributors are equally far apart
    DEAD_MEASURER = enum.auto()  # an SL dies before it commits what it measured
    DEAD_MEASURER_AFTER = enum.auto()  # an SL dies once that stands, before it merges
    NAN = enum.auto()  # a contributor commits to NaN and serves it
    OTHER_BYTES = enum.auto()  # a contributor serves other bytes than it committed to
    NEVER_SERVES = enum.auto()  # a leader commits and does not serve the merged shard
    NEVER_STORES = enum.auto()  # a participant never says that it has stored
    SILENT_LEADER = enum.auto()  # a leader pulls nothing and commits nothing, but lives
    BROKEN_LINK = enum.auto()  # the SLs of two organisations do not reach each other, all others do
    CRASH_DISK = enum.auto()  # an SL dies at its k-th write to disk, before it or after it
    LOST_DISK = enum.auto()  # an SL dies at its k-th transaction and comes back with an empty disk
    CRASH_LEDGER = enum.auto()  # an SN dies at a numbered point of the commit path, and comes back
    RESTORED_SN = enum.auto()  # a following SN is put back to an older copy of its data
    HANDOVER = enum.auto()  # the sentinel is lost for good, and a majority of the SNs names another one
    CLOCK_SKEW = enum.auto()  # an SN's clock is wrong
    FAKE_PROGRESS = enum.auto()  # a leader does nothing and says that it makes progress
    LIES_TO_ONE = enum.auto()  # an SL serves wrong bytes to one peer only
    FALSE_ACCUSER = enum.auto()  # an SL reports and suspects everybody it can


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One planned fault."""

    fault: Fault
    node: int = 0
    """Whose organisation it is about."""
    chance: float = 1.0
    """Of each message, for faults of the network."""
    at_s: float = 0.0
    """When it begins."""
    until_s: float = 1e9
    """When it ends; CRASH_SN: when the node comes back."""
    point: int = 1
    """CRASH_SL, LOST_DISK: at which of its transactions. CRASH_DISK: of its writes. CRASH_LEDGER: at which of its
    blocks."""
    step: int = 1
    """CRASH_LEDGER: the numbered point (`ledger.embedded.crash.CrashPoint`)."""
    skew_s: float = 0.0
    """CLOCK_SKEW: how far the clock is ahead."""
    after: bool = False
    """CRASH_SL: whether the transaction is still delivered. CRASH_DISK: whether the write still happens."""
    restart_s: float | None = None
    """Nodes that die: after how long the SL and its program start again; None: never."""
    alone: bool = False
    """Nodes that die: the SL alone, while its program lives and waits for it."""
    moves: int = 0
    """Nodes that die: how much higher the port is where the SL is reached after its restart."""
    on: str = ""
    """CRASH_SL, LOST_DISK: `point` counts only transactions of this kind."""
    only: frozenset[int] = frozenset()
    """Faults of the network: only requests of these organisations, and what is served to them; empty: anybody's."""
    group: frozenset[int] = frozenset()
    """PARTITION: organisations on one side. BROKEN_LINK, LIES_TO_ONE: the other one."""


@dataclass(kw_only=True)
class Hooks:
    """What the simulator lets faults do."""

    index_of: Callable[[NodeId], int]
    now: Callable[[], float]
    crash_sl: Callable[["Planned", float], None]
    repeat: Callable[[NodeId, NodeId, str, bytes], None]
    spoil: Callable[[int], None]
    """Change the bytes that an SL has committed to."""


@dataclass(kw_only=True)
class SimFaults:
    """Carries out a plan on the in-memory network; every message takes a little, by the seed."""

    plan: tuple[Planned, ...]
    rng: random.Random
    hooks: Hooks | None = None
    fired: Counter[Fault] = field(default_factory=Counter)
    latency_s: tuple[float, float] = (0.001, 0.02)
    transactions: Counter[int] = field(default_factory=Counter)
    """How many each SL has sent."""
    kinds: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How many of each kind each SL has sent."""
    sent: list[tuple[int, Message]] = field(default_factory=list)
    """What each SL has told the ledger, in order."""
    died: list[Planned] = field(default_factory=list)
    """Nodes die once of each planned fault."""
    writes: Counter[int] = field(default_factory=Counter)
    """How many files each SL has written."""
    faked: int = 0
    passed: Counter[tuple[NodeId, NodeId]] = field(default_factory=Counter)

    def count(self, fault: Fault) -> None:
        """Note that a fault fired."""
        self.fired[fault] += 1

    def find(self, fault: Fault, node: int) -> Planned | None:
        """The planned fault of this kind about `node` that is on now."""
        now = self.hooks.now() if self.hooks else 0.0
        for planned in self.plan:
            if planned.fault is fault and planned.node == node and planned.at_s <= now < planned.until_s:
                return planned
        return None

    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        """See `transport.memory.Faults`."""
        await asyncio.sleep(self.rng.uniform(*self.latency_s))
        self._check_partition(frm, to)
        self._check_link(frm, to, method)
        for planned in self._network_faults(frm):
            if self.rng.random() >= planned.chance or method.startswith("watch"):
                continue
            match planned.fault:
                case Fault.DROP:
                    self.count(Fault.DROP)
                    return None
                case Fault.BREAK:
                    self.count(Fault.BREAK)
                    raise Unreachable("simulated: the connection broke")
                case Fault.DELAY:
                    self.count(Fault.DELAY)
                    await asyncio.sleep(self.rng.uniform(0.2, 2.0))
                case Fault.DUPLICATE if not method.startswith("exchange/") and self.hooks:
                    self.count(Fault.DUPLICATE)
                    self.hooks.repeat(frm, to, method, body)
                case Fault.REORDER:
                    before = self.passed[frm, to]
                    await asyncio.sleep(self.rng.uniform(0.05, 0.5))
                    self.fired[Fault.REORDER] += self.passed[frm, to] > before
        self.passed[frm, to] += 1
        if method == "tx":
            self._on_transaction(frm, message_of(body))
        self._on_exchange(to, method)
        return body

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        """See `transport.memory.Faults`."""
        await asyncio.sleep(self.rng.uniform(*self.latency_s))
        self._check_partition(frm, to)
        index_of = self.hooks.index_of(frm) if self.hooks else 0
        slow = self.find(Fault.SLOW_LINK, index_of)
        reader = self.hooks.index_of(to) if self.hooks else 0
        if slow and method.startswith("exchange/") and (not slow.only or reader in slow.only):
            self.count(Fault.SLOW_LINK)
            await asyncio.sleep(0.6)
        self._check_link(frm, to, method)
        frame = self._lie(frm, to, method, frame)
        for planned in self._network_faults(to):
            if self.rng.random() >= planned.chance or method.startswith("watch"):
                continue
            if planned.fault is Fault.DROP:
                self.count(Fault.DROP)
                return None
            if planned.fault is Fault.CORRUPT and method in ("exchange/chunks", "exchange/result"):
                self.count(Fault.CORRUPT)
                changed = bytearray(frame)
                changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
                return changed
        return frame

    def _network_faults(self, asker: NodeId) -> list[Planned]:
        now = self.hooks.now() if self.hooks else 0.0
        who = self.hooks.index_of(asker) if self.hooks else 0
        return [p for p in self.plan if p.at_s <= now < p.until_s and (not p.only or who in p.only)]

    def _check_partition(self, frm: NodeId, to: NodeId) -> None:
        if self.hooks is None:
            return
        sides = self.hooks.index_of(frm), self.hooks.index_of(to)
        for planned in self._network_faults(frm):
            if planned.fault is Fault.PARTITION and (sides[0] in planned.group) != (sides[1] in planned.group):
                self.count(Fault.PARTITION)
                raise Unreachable("simulated: the network is partitioned")

    def _check_link(self, frm: NodeId, to: NodeId, method: str) -> None:
        if self.hooks is None or not method.startswith("exchange/"):
            return
        ends = {self.hooks.index_of(frm), self.hooks.index_of(to)}
        for planned in self._network_faults(frm):
            if planned.fault is Fault.BROKEN_LINK and ends == {planned.node, *planned.group}:
                self.count(Fault.BROKEN_LINK)
                raise Unreachable("simulated: the link between these two is broken")

    def _lie(self, frm: NodeId, to: NodeId, method: str, frame: Frame) -> Frame:
        """What a dishonest server sends instead."""
        if self.hooks is None:
            return frame
        server = self.hooks.index_of(frm)
        if method == "exchange/progress" and self.find(Fault.FAKE_PROGRESS, server):
            self.count(Fault.FAKE_PROGRESS)
            self.faked += 1
            return encode(Advance(steps=self.faked))
        lie = self.find(Fault.LIES_TO_ONE, server)
        if lie and method in ("exchange/chunks", "exchange/result") and self.hooks.index_of(to) in lie.group:
            self.count(Fault.LIES_TO_ONE)
            changed = bytearray(frame)
            changed[len(changed) // 2] ^= 1
            return changed
        return frame

    def on_write(self, who: int, write: Callable[[], None]) -> None:
        """An SL writes a file.

        Raises:
            Unreachable: it died; whether before or after the write, the plan says.
        """
        self.writes[who] += 1
        planned = self.find(Fault.CRASH_DISK, who)
        if planned is None or self.writes[who] != planned.point or planned in self.died:
            write()
            return
        if planned.after:
            write()
        self._die(planned, after=False)

    def _on_transaction(self, frm: NodeId, message: Message) -> None:
        if self.hooks is None:
            return
        who = self.hooks.index_of(frm)
        self.transactions[who] += 1
        self.sent.append((who, message))
        kind = type(message).__name__
        self.kinds[who, kind] += 1
        for fault in (Fault.CRASH_SL, Fault.LOST_DISK):
            if p := self.find(fault, who):
                count = self.kinds[who, p.on] if kind == p.on else 0 if p.on else self.transactions[who]
                if count == p.point:
                    self._die(p, after=p.after)
        if kind == "CheckIn" and (p := self.find(Fault.DEAD_CONTRIBUTOR, who)):
            self._die(p, after=True)
        if kind == "CheckIn" and self.find(Fault.OTHER_BYTES, who):
            self.hooks.spoil(who)
        if kind == "Measure" and (p := self.find(Fault.DEAD_MEASURER, who)):
            self._die(p, after=False)
        if kind == "Measure" and (p := self.find(Fault.DEAD_MEASURER_AFTER, who)):
            self._die(p, after=True)
        if kind == "MergeCommit" and (p := self.find(Fault.DEAD_LEADER, who)):
            self._die(p, after=False)
        if kind == "MergeCommit" and (p := self.find(Fault.DEAD_LEADER_AFTER, who)):
            self._die(p, after=True)
        if kind == "Stored" and self.find(Fault.NEVER_STORES, who):
            self.count(Fault.NEVER_STORES)
            raise Unreachable("simulated: this node never says that it stored")
        if kind in ("Measure", "MergeCommit", "Unreachable") and self.find(Fault.SILENT_LEADER, who):
            self.count(Fault.SILENT_LEADER)
            raise Unreachable("simulated: this node does not lead")
        if kind in ("Measure", "MergeCommit", "Unreachable") and self.find(Fault.FAKE_PROGRESS, who):
            raise Unreachable("simulated: this node only says that it leads")

    def _die(self, planned: Planned, *, after: bool) -> None:
        if self.hooks is None or planned in self.died:
            return
        self.died.append(planned)
        self.count(planned.fault)
        if after:  # the message is on its way; the node dies before any answer
            self.hooks.crash_sl(planned, 0.2)
        else:
            self.hooks.crash_sl(planned, 0.0)
            raise Unreachable("simulated: the node died")

    def _on_exchange(self, to: NodeId, method: str) -> None:
        if self.hooks is None or method not in ("exchange/result", "exchange/progress"):
            return
        if method == "exchange/result" and self.find(Fault.NEVER_SERVES, self.hooks.index_of(to)):
            self.count(Fault.NEVER_SERVES)
            raise Unreachable("simulated: this node does not serve results")


def message_of(body: bytes) -> Message:
    """The message in a transaction.

    Raises:
        DecodeError: it is none.
    """
    try:
        return decode(decode(body, Tx).payload, Payload).message
    except DecodeError as error:
        raise AssertionError(f"a node sent what is no transaction: {error}") from error
