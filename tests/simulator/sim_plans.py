"""Schedules that a seed makes up: who trains, what goes wrong and when, and how it may end."""

import dataclasses
import random
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace
from sim_faults import Fault, Planned
from sim_programs import Program
from sim_swarm import SwarmSimulator

from swarmlearning.contracts.records import Adaptive, Settings, Target
from swarmlearning.ledger.embedded.crash import CrashPoint
from swarmlearning.parameters.wire import Wire
from swarmlearning.sl.methods import complete

NETWORK_FAULTS = (Fault.DROP, Fault.BREAK, Fault.DELAY, Fault.DUPLICATE, Fault.REORDER, Fault.CORRUPT)
"""After which everybody finishes."""

METHODS = ("mean", "mean", "geomedian", "multi_krum", "fedavgm")
"""What is trained with: every kind of what a method may need."""

WIRES: tuple[Wire, ...] = ("float32", "float32", "bf16", "fp16", "int8", "int8")
"""How parameters travel."""

LIMIT_S = 4_000.0
"""Virtual time after which a run has hung; longer than a program's patience."""

PATIENCE_S = 1_200.0
"""What programs put up with, seconds; longer than every fault that passes and every attempt."""


@dataclass(kw_only=True)
class Schedule:
    """A made-up run."""

    seed: int
    peers: int
    needed: int
    """`min_peers` of all."""
    settings: Settings
    programs: list[Program] = field(default_factory=list)
    faults: list[Planned] = field(default_factory=list)
    mortal: set[int] = field(default_factory=set)
    """Who may end badly: it dies for good, or lies."""
    size: int = 10
    durable: bool = False

    @property
    def starved(self) -> bool:
        """Whether so many may be lost that the others cannot go on: then they end with a stated error."""
        return self.peers - len(self.mortal) < self.needed

    def build(self, tmp: Path) -> SwarmSimulator:
        """The simulation of it."""
        return SwarmSimulator(
            self.seed,
            tmp,
            self.programs,
            settings=self.settings,
            faults=self.faults,
            size=self.size,
            durable=self.durable,
            limit_s=LIMIT_S,
        )


def make_up(seed: int, method: str = "") -> Schedule:
    """The schedule of a seed; with this merge method, or one that the seed makes up too."""
    rng = random.Random(seed)
    peers = rng.choice([2, 3, 3, 4, 4, 4, 5, 5, 7])
    schedule = Schedule(seed=seed, peers=peers, needed=peers, settings=_settings(rng))
    if peers > 2 and rng.random() < 0.7:
        schedule.needed = rng.randint(2, peers - 1)
    for spoil in rng.sample(_SPOILERS, rng.choice([0, 1, 1, 2, 2, 3])):
        spoil(rng, schedule)
    slow = rng.randrange(peers) if rng.random() < 0.25 else None
    pace_s = rng.choice([0.0, 0.5, 2.0])
    for index in range(peers):
        schedule.programs.append(
            Program(
                syncs=rng.randint(1, 6),
                pace_s=pace_s * rng.choice([3.0, 8.0]) if index == slow else pace_s,
                delay_s=rng.choice([0.0, 0.0, 1.0, 6.0]),
                min_peers=schedule.needed,
                weight=rng.randint(1, 5),
                restored=rng.random() < 0.2,
                goes=rng.random() < 0.2,
                figures=rng.random() < 0.7,
                patience_s=PATIENCE_S,
            )
        )
    schedule.size = rng.choice([10, 10, 20_000, 70_000])
    _choose_method(random.Random(f"method {seed}"), schedule, method)
    if peers > 2 and rng.random() < 0.15 and _is_quiet(schedule):
        at_s = rng.uniform(0.3, 8.0)
        schedule.faults.append(Planned(fault=Fault.HANDOVER, at_s=at_s, until_s=at_s + rng.choice([0.0, 30.0])))
        schedule.durable = True
    return schedule


def _choose_method(rng: random.Random, schedule: Schedule, method: str) -> None:
    """How it merges; where distances are measured, some of what goes wrong goes wrong with them."""
    method = method or rng.choice(METHODS)
    schedule.settings = complete(replace(schedule.settings, merge_method=method))
    if schedule.settings.needs != "history":
        wire = random.Random(f"wire {schedule.seed}").choice(WIRES)
        schedule.settings = replace(schedule.settings, wire=wire)
    if schedule.settings.needs != "distances":
        return
    deaths = {Fault.DEAD_LEADER: Fault.DEAD_MEASURER, Fault.DEAD_LEADER_AFTER: Fault.DEAD_MEASURER_AFTER}
    schedule.faults = [
        dataclasses.replace(planned, fault=deaths[planned.fault])
        if planned.fault in deaths and rng.random() < 0.6
        else planned
        for planned in schedule.faults
    ]
    if schedule.settings.witnesses and schedule.peers > 3 and not schedule.faults:
        liar = rng.randrange(schedule.peers)
        schedule.faults.append(Planned(fault=Fault.WRONG_DISTANCES, node=liar))


def _settings(rng: random.Random) -> Settings:
    return Settings(
        sync_frequency=4,
        checkin_mode=rng.choice(["snapshot", "inactive", "active"]),
        start=rng.choice(["draw", "merge"]),
        topology=rng.choice(["leader", "sharded"]),
        witnesses=rng.choice([0, 0, 1, 2]),
        grace_ms=rng.choice([500, 5_000]),
        lease_ms=rng.choice([1_000, 3_000]),
        round_max_ms=60_000,
        adaptive=Adaptive(shortest=2, longest=9) if rng.random() < 0.3 else None,
        target=Target(loss_micro=rng.choice([700_000, 400_000]), patience=rng.randint(1, 2))
        if rng.random() < 0.15
        else None,
    )


def _is_quiet(schedule: Schedule) -> bool:
    """Whether the SNs reach each other and live, so that their operators can agree on another sentinel."""
    loud = {*NETWORK_FAULTS, Fault.PARTITION, Fault.CRASH_SN, Fault.CRASH_LEDGER, Fault.RESTORED_SN, Fault.CLOCK_SKEW}
    return not any(planned.fault in loud for planned in schedule.faults)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _fresh(rng: random.Random, schedule: Schedule) -> int | None:
    """A peer that nothing has happened to, as long as enough honest ones stay: at least two."""
    free = [index for index in range(schedule.peers) if index not in schedule.mortal]
    return rng.choice(free) if len(free) > 2 else None


def _unreliable_network(rng: random.Random, schedule: Schedule) -> None:
    for fault in rng.sample(NETWORK_FAULTS, rng.choice([1, 2, 3])):
        schedule.faults.append(Planned(fault=fault, chance=rng.choice([0.005, 0.02]), until_s=200.0))


def _partition(rng: random.Random, schedule: Schedule) -> None:
    size = rng.randint(1, schedule.peers - 1)
    group = frozenset(rng.sample(range(schedule.peers), size))
    at_s = rng.uniform(0.2, 8.0)
    schedule.faults.append(
        Planned(fault=Fault.PARTITION, group=group, at_s=at_s, until_s=at_s + rng.choice([3.0, 20.0, 90.0]))
    )


def _broken_link(rng: random.Random, schedule: Schedule) -> None:
    if schedule.peers < 3:
        return
    one, other = rng.sample(range(schedule.peers), 2)
    until_s = rng.choice([15.0, 60.0])
    schedule.faults.append(
        Planned(fault=Fault.BROKEN_LINK, node=one, group=frozenset({other}), at_s=rng.uniform(0, 4), until_s=until_s)
    )


def _slow_link(rng: random.Random, schedule: Schedule) -> None:
    node = rng.randrange(schedule.peers)
    schedule.faults.append(Planned(fault=Fault.SLOW_LINK, node=node, until_s=rng.choice([20.0, 60.0])))


_DEADLY = (
    Fault.DEAD_CONTRIBUTOR,
    Fault.DEAD_LEADER,
    Fault.DEAD_LEADER_AFTER,
    Fault.CRASH_SL,
    Fault.CRASH_DISK,
    Fault.LOST_DISK,
)


def _death(rng: random.Random, schedule: Schedule) -> None:
    """An SL dies, with its program or alone, and comes back or does not."""
    victim = _fresh(rng, schedule)
    restart_s = rng.choice([None, 2.0, 10.0, 60.0])
    if victim is None and restart_s is None:
        return
    victim = rng.randrange(schedule.peers) if victim is None else victim
    fault = rng.choice(_DEADLY)
    schedule.faults.append(
        Planned(
            fault=fault,
            node=victim,
            point=rng.randint(2, 14),
            after=rng.random() < 0.5,
            alone=restart_s is not None and rng.random() < 0.5,
            restart_s=restart_s,
        )
    )
    # A program that starts anew comes late, perhaps after the others are done, or finds nobody to go on with.
    schedule.mortal.add(victim)


def _ledger_trouble(rng: random.Random, schedule: Schedule) -> None:
    schedule.durable = True
    node = rng.randrange(schedule.peers)
    at_s = rng.uniform(0.5, 6.0)
    kind = rng.choice([Fault.CRASH_SN, Fault.CRASH_LEDGER, Fault.RESTORED_SN])
    if kind is Fault.CRASH_SN:
        schedule.faults.append(Planned(fault=kind, node=node, at_s=at_s, until_s=at_s + rng.choice([2.0, 15.0])))
    elif kind is Fault.CRASH_LEDGER:
        step = rng.choice(list(CrashPoint))
        schedule.faults.append(
            Planned(fault=kind, node=node, step=step, point=rng.randint(3, 40), restart_s=rng.choice([1.0, 10.0]))
        )
    else:
        follower = rng.randrange(1, schedule.peers)
        schedule.faults.append(Planned(fault=kind, node=follower, at_s=at_s, until_s=at_s + rng.uniform(1.0, 10.0)))


def _wrong_clock(rng: random.Random, schedule: Schedule) -> None:
    skew_s = rng.choice([-300.0, -4.0, 4.0]) if rng.random() < 0.5 else rng.uniform(-5.5, 5.5)
    node = rng.randrange(schedule.peers)
    if skew_s < -100.0:
        node = 0  # a follower five minutes behind would hold every block back for five minutes
    schedule.faults.append(Planned(fault=Fault.CLOCK_SKEW, node=node, skew_s=skew_s))


_DISHONEST = (
    Fault.FALSE_ACCUSER,
    Fault.FAKE_PROGRESS,
    Fault.LIES_TO_ONE,
    Fault.SILENT_LEADER,
    Fault.NEVER_SERVES,
    Fault.NEVER_STORES,
    Fault.NAN,
    Fault.OTHER_BYTES,
)


def _dishonest(rng: random.Random, schedule: Schedule) -> None:
    """At most f = floor((n - 1) / 3) peers do not do their part."""
    for _ in range(rng.randint(1, max(1, (schedule.peers - 1) // 3))):
        liar = _fresh(rng, schedule)
        if liar is None or len(schedule.mortal) + 1 > (schedule.peers - 1) // 3:
            return
        fault = rng.choice(_DISHONEST)
        others = [index for index in range(schedule.peers) if index != liar]
        schedule.faults.append(Planned(fault=fault, node=liar, group=frozenset({rng.choice(others)})))
        schedule.mortal.add(liar)


_SPOILERS = (
    _unreliable_network,
    _partition,
    _broken_link,
    _slow_link,
    _death,
    _death,
    _ledger_trouble,
    _wrong_clock,
    _dishonest,
)
