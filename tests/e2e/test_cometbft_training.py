"""Trainings over four real organisations whose validators vote: real processes, mutual TLS, real `cometbft`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from matrix_network import FaultyNetwork, Program
from matrix_program import Job
from matrix_watch import Watch, wait_until

from swarmlearning.contracts.records import Settings, Training
from swarmlearning.errors import ConfigurationError
from swarmlearning.ledger.cometbft.binary import find_binary
from swarmlearning.local.network import prepare_workdir
from swarmlearning.types import ContractName, LedgerKind


def _missing() -> str:
    try:
        find_binary()
    except ConfigurationError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(_missing()), reason=_missing()),
]

PEERS = 4
LIMIT_S = 60.0


def _tail(program: Program) -> str:
    return program.output.read_text()[-500:]


class Hospitals:
    """A network, a program at each hospital, and a watch over their training."""

    def __init__(self, network: FaultyNetwork, watch: Watch, programs: list[Program]) -> None:
        self.network = network
        self.watch = watch
        self.programs = programs

    def allow(self, upto: int, last: int = 1_000_000) -> None:
        for program in self.programs:
            program.allow(upto=upto, last=last)

    async def until_final(self, round_: int) -> Training:
        return await self.watch.until(
            f"round {round_} to be final", lambda _: self.watch.final_round >= round_, LIMIT_S
        )

    async def until_ended(self) -> set[str]:
        """The models that the programs ended with."""
        for program in self.programs:
            explain = partial(_tail, program)
            await wait_until(f"{program.name} to end", program.has_ended, LIMIT_S, explain)
            assert program.status == 0, program.output.read_text()
        return {program.said("final")[-1].sha256 for program in self.programs}


@asynccontextmanager
async def hospitals(folder: Path, ledger: LedgerKind, min_peers: int) -> AsyncIterator[Hospitals]:
    settings = Settings(
        sync_frequency=1, start="merge", grace_ms=1_000, lease_ms=2_000, checkin_mode="inactive", topology="leader"
    )
    async with FaultyNetwork(PEERS, prepare_workdir(folder), ledger) as network, network.open_client() as sn:
        programs = [
            Program(
                network,
                Job(
                    contract=ContractName("heart"),
                    settings=settings,
                    min_peers=min_peers,
                    index=index,
                    megabytes=1,
                    pace=str(network.workdir / f"{index}.pace"),
                    log=str(network.workdir / f"{index}.jsonl"),
                    life=0,
                ),
            )
            for index in range(PEERS)
        ]
        watch = Watch(sn, ContractName("heart"))
        watching = asyncio.create_task(watch.run())
        try:
            for program in programs:
                await program.start()
            yield Hospitals(network, watch, programs)
        finally:
            watching.cancel()
            for program in programs:
                await program.kill()


def test_both_engines_end_with_the_same_model(tmp_path: Path) -> None:
    async def train(ledger: LedgerKind) -> set[str]:
        async with hospitals(tmp_path / ledger, ledger, PEERS) as run:
            run.allow(upto=3, last=3)
            models = await run.until_ended()
            record = await run.watch.settle()
            assert record.last is not None
            assert models == {record.last.sha256.hex()}
            return models

    assert asyncio.run(train("cometbft")) == asyncio.run(train("embedded"))


def test_a_training_survives_the_loss_of_a_validator_which_then_comes_back(tmp_path: Path) -> None:
    async def train() -> None:
        async with hospitals(tmp_path / "c", "cometbft", PEERS - 1) as run:
            run.allow(upto=1)
            await run.until_final(1)
            lost = run.network.name_of("sn", 3)
            await run.network.kill(lost)
            run.allow(upto=3)
            record = await run.until_final(3)
            assert record.last is not None
            assert len(record.last.contributors) >= PEERS - 1
            await run.network.start_again(lost)
            run.allow(upto=6, last=6)
            models = await run.until_ended()
            record = await run.watch.settle()
            assert record.last is not None
            assert models == {record.last.sha256.hex()}

    asyncio.run(train())
