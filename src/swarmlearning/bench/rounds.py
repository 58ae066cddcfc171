"""Measures rounds: a network of real processes over mutual TLS on this machine, and the floor in the same run."""

import asyncio
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.bench.floor import Floor
from swarmlearning.bench.peer import Figures, Task, peak_rss_kb
from swarmlearning.contracts.draw import count_shards
from swarmlearning.contracts.records import Settings, wanted_witnesses
from swarmlearning.errors import Broken
from swarmlearning.local.network import LocalNetwork, Site, program_environment
from swarmlearning.local.process import Command, Process
from swarmlearning.types import ContractName, LedgerKind, TrustDomain

WARM_UP: Final = 2
"""First rounds that are not counted: connections are opened and files made."""

FLOOR_ROUNDS: Final = 5

_PROGRAM: Final = "import sys; from swarmlearning.bench.peer import work; work(sys.argv[1])"

PHASES: Final = {
    "check_in": ("asked", "checked_in"),
    "close": ("checked_in", "closed"),
    "exchange": ("closed", "pulled"),
    "merge": ("pulled", "merged"),
    "commit": ("merged", "agreed"),
    "store": ("agreed", "stored"),
    "finality": ("stored", "final"),
}
"""Between which stages of a sync each lies; `adopt`, the rest, is the program's: writing and reading its file."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured."""

    peers: int
    organisations: int
    """Over which the peers are dealt; each has an SN of its own."""
    megabytes: float
    """Size of the model, 10^6 bytes."""
    rounds: int
    ledger: LedgerKind
    settings: Settings
    """With what follows from the merge method."""

    @property
    def size(self) -> int:
        """Of the model, bytes."""
        return round(self.megabytes * 1e6)

    @property
    def leaders(self) -> int:
        """How many peers merge in a round."""
        measured = self.settings.needs == "distances"
        return count_shards(self.settings.topology, self.size, self.peers, self.peers, measured=measured)


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    median: float
    min: float
    max: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What came out."""

    round_seconds: Spread
    """From the end of one round at the last peer to the end of the next."""
    first_round_seconds: float
    """From the first peer's handing over to the end at the last peer, connections and files being made."""
    phases: dict[str, float]
    """Medians over rounds and peers, seconds. Where a peer leads nothing it waits for those that do."""
    floor_seconds: float
    ratio: float
    """Median round divided by floor."""
    bytes_moved: int
    """Between SLs, in the median round; sent and received counted once."""
    peak_rss_mb: dict[str, float]
    """Of each process."""
    peers: int
    organisations: int
    megabytes: float
    merge: str
    topology: str
    shards: int
    wire: str
    witnesses: int
    ledger: LedgerKind


async def measure(plan: Plan, workdir: Path, tell: Callable[[str], None]) -> Measured:
    """Start a network, train, and measure.

    Args:
        plan: what is to be measured.
        workdir: an empty directory.
        tell: is given a line about what is being done.

    Raises:
        Unreachable, WaitExpired: a node does not start.
        Broken: a program failed.
    """
    each, more = divmod(plan.peers, plan.organisations)
    sites = [Site(domain=TrustDomain(f"org-{k}.example"), sls=each + (k < more)) for k in range(plan.organisations)]
    tell(f"starting {plan.organisations} SNs and {plan.peers} SLs")
    async with LocalNetwork(sites, workdir, ledger=plan.ledger, say=tell) as network:
        tell(f"{WARM_UP} + {plan.rounds} rounds of {plan.megabytes:g} MB")
        figures = await _train(plan, network)
        memory = {f"program {k}": f.peak_rss_kb / 1000 for k, f in enumerate(figures)}
        memory |= {f"SL {k}": peak_rss_kb(sl.process.pid) / 1000 for k, sl in enumerate(network.sls)}
        memory |= {f"SN {k}": peak_rss_kb(sn.process.pid) / 1000 for k, sn in enumerate(network.sns)}
    tell("the floor: the same bytes over plain TLS sockets")
    moved = _bytes_moved(figures)
    floor = await asyncio.to_thread(_measure_floor, plan, workdir, sites, moved)
    ends = [max(f.answered_s[k] for f in figures) for k in range(WARM_UP + plan.rounds)]
    rounds = [after - before for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    median = statistics.median(rounds)
    return Measured(
        round_seconds=Spread(median=median, min=min(rounds), max=max(rounds)),
        first_round_seconds=ends[0] - min(f.asked_s[0] for f in figures),
        phases=_phases(figures),
        floor_seconds=floor,
        ratio=median / floor,
        bytes_moved=moved,
        peak_rss_mb={name: round(value, 1) for name, value in memory.items()},
        peers=plan.peers,
        organisations=plan.organisations,
        megabytes=plan.megabytes,
        merge=plan.settings.merge_method,
        topology=plan.settings.topology,
        shards=plan.leaders,
        wire=plan.settings.wire,
        witnesses=wanted_witnesses(plan.settings),
        ledger=plan.ledger,
    )


async def _train(plan: Plan, network: LocalNetwork) -> list[Figures]:
    programs: list[Process] = []
    for index, sl in enumerate(network.sls):
        task = Task(
            index=index,
            peers=plan.peers,
            size=plan.size,
            rounds=WARM_UP + plan.rounds,
            contract=ContractName("bench"),
            settings=plan.settings,
        )
        command = Command(
            name=f"program {index}",
            argv=(sys.executable, "-P", "-c", _PROGRAM, msgspec.json.encode(task).decode()),
            env=program_environment(os.environ, sl, index, plan.peers),
            log=network.logs / f"program-{index}.log",
        )
        programs.append(await Process.start(command, network.reaper))
    try:
        statuses = await asyncio.gather(*(program.wait() for program in programs))
    finally:
        await asyncio.gather(*(program.stop(3.0) for program in programs))
    for program, status in zip(programs, statuses, strict=True):
        if status:
            raise Broken(f"{program.name} failed: {(program.tail() or ['it said nothing'])[-1]}")
    return [msgspec.json.decode(program.log.read_bytes().splitlines()[-1], type=Figures) for program in programs]


def _phases(figures: Sequence[Figures]) -> dict[str, float]:
    rounds = [
        (timings, answered - asked)
        for f in figures
        for timings, asked, answered in zip(
            f.timings_ms[WARM_UP:], f.asked_s[WARM_UP:], f.answered_s[WARM_UP:], strict=True
        )
    ]
    phases: dict[str, float] = {}
    for name, (begin, end) in PHASES.items():
        spans = [(t[end] - t[begin]) / 1000 for t, _ in rounds if begin in t and end in t]
        phases[name] = statistics.median(spans) if spans else 0.0
    phases["adopt"] = statistics.median(whole - t["final"] / 1000 for t, whole in rounds)
    return phases


def _bytes_moved(figures: Sequence[Figures]) -> int:
    rounds = range(WARM_UP, len(figures[0].bytes_sent))
    return round(statistics.median(sum(f.bytes_sent[k] - f.bytes_sent[k - 1] for f in figures) for k in rounds))


def _measure_floor(plan: Plan, workdir: Path, sites: Sequence[Site], moved: int) -> float:
    """Median seconds of the floor for as many bytes, with the certificates of the network that has just run."""
    # Every peer's part but a leader's own goes to its leader, and every merged part to all but its leader.
    size = moved // (2 * (plan.peers - 1)) // 4 * 4
    authorities = workdir / "authorities.pem"
    authorities.write_text("".join((workdir / s.domain / "ca" / "ca.cert.pem").read_text() for s in sites))
    pki = [(workdir / site.domain / "pki", number) for site in sites for number in range(site.sls)]
    identities = [(path / f"sl-{number}.cert.pem", path / f"sl-{number}.key.pem") for path, number in pki]
    with Floor(size, plan.leaders, identities, authorities) as floor:
        floor.measure()  # fresh memory costs more than what is measured
        return statistics.median(floor.measure() for _ in range(FLOOR_ROUNDS))
