"""Four hospitals that train over a ledger of either engine, for tests that tell the story of such a training."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from matrix_network import FaultyNetwork, Program
from matrix_program import Job
from matrix_watch import Watch, wait_until

from swarmlearning.contracts.records import Settings, Training
from swarmlearning.local.network import prepare_workdir
from swarmlearning.sn.api import Status
from swarmlearning.types import ContractName, LedgerKind

CONTRACT = ContractName("heart")
PEERS = 4
LIMIT_S = 60.0


def _tail(program: Program) -> str:
    return program.output.read_text()[-500:]


class Hospitals:
    """A network, a program at each hospital, and a watch over their training."""

    def __init__(self, network: FaultyNetwork, watch: Watch, settings: Settings, min_peers: int) -> None:
        self.network = network
        self.watch = watch
        self._settings = settings
        self._min_peers = min_peers
        self.programs: list[Program] = []

    def add_program(self, index: int) -> None:
        """Plan the program beside an SL."""
        folder = self.network.workdir
        job = Job(
            contract=CONTRACT,
            settings=self._settings,
            min_peers=self._min_peers,
            index=index,
            megabytes=1,
            pace=str(folder / f"{index}.pace"),
            log=str(folder / f"{index}.jsonl"),
            life=0,
        )
        self.programs.append(Program(self.network, job))

    def allow(self, upto: int, last: int = 1_000_000) -> None:
        for program in self.programs:
            program.allow(upto=upto, last=last)

    async def until_final(self, round_: int) -> Training:
        return await self.watch.until(
            f"round {round_} to be final", lambda _: self.watch.final_round >= round_, LIMIT_S
        )

    async def status(self) -> Status:
        """What the first hospital's SN says."""
        async with self.network.open_client() as sn:
            return await sn.status()

    async def until_ended(self, but: frozenset[int] | set[int] = frozenset()) -> set[str]:
        """The models that the programs ended with, all `but` some."""
        chosen = [program for program in self.programs if program.index not in but]
        for program in chosen:
            explain = partial(_tail, program)
            await wait_until(f"{program.name} to end", program.has_ended, LIMIT_S, explain)
            assert program.status == 0, program.output.read_text()
        return {program.said("final")[-1].sha256 for program in chosen}


@asynccontextmanager
async def hospitals(folder: Path, ledger: LedgerKind, min_peers: int) -> AsyncIterator[Hospitals]:
    settings = Settings(
        sync_frequency=1, start="merge", grace_ms=1_000, lease_ms=2_000, checkin_mode="inactive", topology="leader"
    )
    async with FaultyNetwork(PEERS, prepare_workdir(folder), ledger) as network, network.open_client() as sn:
        watch = Watch(sn, CONTRACT)
        run = Hospitals(network, watch, settings, min_peers)
        watching = asyncio.create_task(watch.run())
        try:
            for index in range(PEERS):
                run.add_program(index)
                await run.programs[index].start()
            yield run
        finally:
            watching.cancel()
            for program in run.programs:
                await program.kill()
