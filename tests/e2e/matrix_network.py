"""Real nodes and programs that a test kills, freezes and starts again. Each organisation has one SN and one SL.

A node that starts again has the data directory and the ports that it had, as a service manager would start it.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import matrix_program
import msgspec
from matrix_program import Job, Line, Pace

from swarmlearning.identity.authority import Issued
from swarmlearning.local.network import LocalNetwork, Site, node_environment, program_environment
from swarmlearning.local.process import Command, Process
from swarmlearning.local.reaper import signal_group
from swarmlearning.types import LedgerKind, NodeId, TrustDomain

Kind = Literal["sn", "sl"]

PORT_OPTIONS = {"--sn-api-port": "api", "--sn-p2p-port": "p2p", "--sl-fs-port": "sl"}
"""Options that are given the port of the node's first life when it starts again."""

STOP_S = 5.0
UNBOUND = 1_000_000


class _Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a node was started."""

    issued: Issued
    arguments: tuple[object, ...]
    rank: int


class FaultyNetwork(LocalNetwork):
    """A network whose nodes can be started again."""

    def __init__(self, peers: int, workdir: Path, ledger: LedgerKind = "embedded", sls: int = 1) -> None:
        sites = [Site(domain=TrustDomain(f"{name}.example"), sls=sls) for name in "abcdefgh"[:peers]]
        super().__init__(sites, workdir, ledger=ledger)
        self.sn_options: tuple[object, ...] = ()
        """Further options of the SNs that are started from now on."""
        self._recipes: dict[str, _Recipe] = {}
        self._processes: dict[str, Process] = {}
        self._frozen: set[str] = set()

    async def _start_node(
        self, issued: Issued, arguments: Sequence[object], *, rank: int
    ) -> tuple[Process, Mapping[str, int]]:
        if arguments[0] == "sn":
            arguments = [*arguments, *self.sn_options]
        process, ports = await super()._start_node(issued, arguments, rank=rank)
        fixed = list(arguments)
        for option, port in PORT_OPTIONS.items():
            if option in fixed:
                fixed[fixed.index(option) + 1] = ports[port]
        self._recipes[process.name] = _Recipe(issued=issued, arguments=tuple(fixed), rank=rank)
        self._processes[process.name] = process
        return process, ports

    def name_of(self, kind: Kind, index: int) -> str:
        """A node's name in logs, such as `sn.a.example`."""
        return f"{'sn' if kind == 'sn' else 'sl-0'}.{self.sites[index].domain}"

    def index_of(self, node: NodeId) -> int:
        """Which site a node belongs to."""
        return [sl.node for sl in self.sls].index(node)

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self._signal(name, signal.SIGSTOP)
        self._frozen.add(name)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self._signal(name, signal.SIGCONT)
        self._frozen.discard(name)

    def is_up(self, name: str) -> bool:
        """Whether the node runs and is not frozen."""
        return self._processes[name].status is None and name not in self._frozen

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(name, signal.SIGKILL)
        self._frozen.discard(name)
        await self._processes[name].wait()

    async def start_again(self, name: str) -> None:
        """Start a dead node with what it has on disk, and wait until it is ready."""
        assert self._processes[name].status is not None, f"{name} still runs"
        recipe = self._recipes[name]
        issued = recipe.issued
        (self.workdir / issued.node.domain / issued.node.name).with_suffix(".ready").unlink()
        await self._start_node(issued, recipe.arguments, rank=recipe.rank)

    async def heal(self) -> None:
        """Whatever is frozen is ended, and whatever is down is started again; SNs first."""
        for name in list(self._frozen):
            await self.kill(name)
        down = [name for name, process in self._processes.items() if process.status is not None]
        for kind in ("sn", "sl"):
            async with asyncio.TaskGroup() as group:
                for name in (name for name in down if name.startswith(kind)):
                    group.create_task(self.start_again(name))

    async def stop(self) -> None:
        """End everything; frozen nodes could not end by themselves."""
        for name in self._frozen:
            self._signal(name, signal.SIGKILL)
        await super().stop()

    def _signal(self, name: str, number: int) -> None:
        assert signal_group(self._processes[name].pid, number), f"{name} is not there any more"


class Program:
    """One peer's ML program: its lives, what it is allowed, and what it says."""

    def __init__(self, network: FaultyNetwork, job: Job) -> None:
        self._network = network
        self._job = job
        self._process: Process | None = None
        self._life = -1
        self._lines: list[Line] = []
        self._read = 0
        self._frozen = False
        self._pace = Pace(upto=-1, last=UNBOUND)
        self.index = job.index
        self.name = f"program {job.index} of {job.contract}"
        self._log, self._pace_file = Path(job.log), Path(job.pace)
        self.output = self._log.with_suffix(".out")
        """Its standard output and error."""

    @property
    def is_started(self) -> bool:
        """Whether it has ever been started."""
        return self._process is not None

    @property
    def status(self) -> int | None:
        """Exit status of its newest life; None while it runs."""
        assert self._process is not None
        return self._process.status

    def has_ended(self) -> bool:
        """Whether its newest life is over."""
        return self.status is not None

    async def start(self) -> None:
        """Start it, once more if it has lived before."""
        self._life += 1
        self.allow()
        job = msgspec.structs.replace(self._job, life=self._life)
        path = self._log.with_suffix(f".{self._life}.job")
        path.write_bytes(msgspec.json.encode(job))
        peers = len(self._network.sls)
        environment = program_environment(os.environ, self._network.sls[self.index], self.index, peers)
        # Its own folder is on the path, where modules of this test lie; the nodes run without it.
        command = Command(
            name=self.name,
            argv=(sys.executable, matrix_program.__file__, str(path)),
            env=node_environment(os.environ) | environment,
            log=self.output,
        )
        self._process = await Process.start(command, self._network.reaper)

    def allow(self, *, upto: int | None = None, last: int | None = None) -> None:
        """Say how far it may go; what is not named stays as it was."""
        self._pace = Pace(
            upto=self._pace.upto if upto is None else upto, last=self._pace.last if last is None else last
        )
        partial = self._pace_file.with_suffix(".part")
        partial.write_bytes(msgspec.json.encode(self._pace))
        partial.replace(self._pace_file)

    def lines(self) -> list[Line]:
        """What it has said so far, in all its lives."""
        with suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(self._read)
            # A line is one write, so only the newest can be there in part.
            *whole, _ = file.read().split(b"\n")
            self._read += sum(len(line) + 1 for line in whole)
            self._lines += [msgspec.json.decode(line, type=Line) for line in whole]
        return self._lines

    def said(self, kind: str, *, round_: int | None = None) -> list[Line]:
        """What its newest life has said of a kind, or of a kind and a round."""
        return [
            line
            for line in self.lines()
            if line.life == self._life and line.kind == kind and round_ in (None, line.round)
        ]

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self._frozen = False

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone; one that has ended already stays as it is."""
        if self._process is not None and self.status is None:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        self._frozen = False

    def _signal(self, number: int) -> None:
        assert self._process is not None
        assert signal_group(self._process.pid, number), f"{self.name} is not there any more"


def now_s() -> float:
    """The clock of `Line.at_s`."""
    return time.monotonic()
