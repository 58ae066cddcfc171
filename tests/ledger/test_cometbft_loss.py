"""Four validators of which one is frozen, cut off, or has lost its disk: the others go on, and it comes back (B-30)."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, eventually

from swarmlearning.ledger.cometbft.driver import Driver
from swarmlearning.ledger.cometbft.home import HOME
from swarmlearning.ledger.cometbft.store import FILE_NAME

pytestmark = needs_cometbft

LOST = 3
REST = (0, 1, 2)


async def order(swarm: CometSwarm, *txs: bytes) -> None:
    for i, tx in enumerate(txs):
        await swarm.ledger(i % 3).submit(tx, timeout_s=LIMIT_S)


async def until_level(swarm: CometSwarm) -> None:
    """Wait until the lost one has what the others have, and is asked for its vote once more."""
    await swarm.until(LOST, swarm.ledger(0).height)
    await eventually(lambda: swarm.log(LOST) == swarm.log(0), "it has all transactions")
    tx = b"back=%d" % len(swarm.log(0))
    await swarm.ledger(LOST).submit(tx, timeout_s=LIMIT_S)
    await swarm.settle()
    assert [swarm.log(index)[-1] for index in range(4)] == [tx] * 4


def test_b30_a_validator_that_was_frozen_catches_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(4, tmp_path) as swarm:
            child = swarm.ledger(LOST).child
            assert child is not None
            assert child.pid is not None
            os.kill(child.pid, signal.SIGSTOP)
            await order(swarm, *(b"n=%d" % i for i in range(9)))
            assert len(swarm.log(LOST)) < 9
            os.kill(child.pid, signal.SIGCONT)
            await until_level(swarm)

    asyncio.run(work())


def test_b30_a_validator_that_is_cut_off_orders_nothing_alone_and_catches_up_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off: set[str] = set()
    """Its peer id, while nobody talks to it and it to nobody."""

    def allowed(driver: Driver) -> frozenset[str]:
        home = driver._config.data_dir.name
        found = frozenset(member.peer for member in driver.members)
        return (found if home != f"n{LOST}" else frozenset()) - cut_off if cut_off else found

    monkeypatch.setattr(Driver, "allowed_peers", property(allowed))

    async def work() -> None:
        async with CometSwarm(4, tmp_path) as swarm:
            await order(swarm, b"before=1")
            await swarm.settle()
            cut_off.add(swarm.nodes[LOST].validator.peer)
            await eventually(lambda: "1 of 4 validators" in swarm.ledger(LOST).problem, "it is alone")
            height = swarm.ledger(LOST).height
            alone = asyncio.ensure_future(swarm.ledger(LOST).submit(b"alone=1", timeout_s=LIMIT_S))
            await order(swarm, *(b"n=%d" % i for i in range(6)))
            assert (swarm.ledger(LOST).height, alone.done()) == (height, False)
            cut_off.clear()
            # What it was given meanwhile is ordered after all, once.
            assert (await alone)[0] > height
            await until_level(swarm)
            assert swarm.log(0).count(b"alone=1") == 1

    asyncio.run(work())


def test_b30_a_validator_that_starts_with_an_empty_disk_executes_everything_anew(tmp_path: Path) -> None:
    """Its keys are kept, with the record of what they signed: without it they must not be used again."""

    async def work() -> None:
        async with CometSwarm(4, tmp_path) as swarm:
            await order(swarm, *(b"n=%d" % i for i in range(6)))
            await swarm.kill(LOST)
            directory = swarm.nodes[LOST].directory
            for path in [*directory.glob(f"{FILE_NAME}*"), directory / "app.msgpack"]:
                path.unlink()
            for path in (directory / HOME / "data").iterdir():
                if path.name != "priv_validator_state.json":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            await order(swarm, b"meanwhile=1")
            await swarm.start(LOST)
            assert swarm.ledger(LOST).height == 0
            await until_level(swarm)

    asyncio.run(work())
