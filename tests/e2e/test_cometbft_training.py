"""Trainings over four real organisations whose validators vote: real processes, mutual TLS, real `cometbft`."""

import asyncio
from pathlib import Path

import pytest
from cometbft_hospitals import PEERS, hospitals
from cometbft_support import needs_cometbft

from swarmlearning.types import LedgerKind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_cometbft]


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
