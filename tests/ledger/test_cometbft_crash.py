"""A node on CometBFT may die between any two calls, and within them (docs/spec/ledger-cometbft.md, section 4)."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, VotingApplication, eventually
from ledger_support import KvApplication

from swarmlearning.errors import Broken, SwarmError
from swarmlearning.ledger.cometbft.crash import CrashPoint
from swarmlearning.ledger.cometbft.store import FILE_NAME

pytestmark = needs_cometbft

AT_START = {CrashPoint.BEFORE_INFO, CrashPoint.BEFORE_INIT_CHAIN, CrashPoint.AFTER_INIT_CHAIN}


async def die_at(swarm: CometSwarm, index: int, point: CrashPoint) -> None:
    """Let a running node die at a point of the next blocks."""
    node = swarm.nodes[index]
    node.crash.point = point
    number = 0
    while node.crash.fired is not point:
        # Who proposes changes from block to block.
        tx = b"%s.%d=1" % (point.name.encode(), number)
        number += 1
        submitting = asyncio.ensure_future(swarm.ledger(index).submit(tx, timeout_s=LIMIT_S))
        await asyncio.wait({submitting})
        assert isinstance(submitting.exception(), SwarmError | None)
    assert node.task is not None
    with pytest.raises(Broken, match="the ledger engine failed: Died"):
        await asyncio.wait_for(node.task, LIMIT_S)
    node.task = None
    await node.kill()


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([CrashPoint.AFTER_APPLY, CrashPoint.AFTER_STORED, CrashPoint.AFTER_COMMIT], id="most-telling"),
        pytest.param([point for point in CrashPoint if point not in AT_START], id="all", marks=pytest.mark.slow),
    ],
)
def test_b16_a_node_that_dies_at_any_point_recovers_with_the_same_state(
    chosen: list[CrashPoint], tmp_path: Path
) -> None:
    async def work() -> None:
        async with CometSwarm(2, tmp_path) as swarm:
            for point in chosen:
                await die_at(swarm, 1, point)
                on_disk = KvApplication(tmp_path / "n1" / "app.msgpack").info().height
                await swarm.start(1)
                assert swarm.ledger(1).height == on_disk
                # Both must vote; so the block that was cut short is there, once, with its first result.
                tx = b"%s.0=1" % point.name.encode()
                height, result = await swarm.ledger(1).submit(tx, timeout_s=LIMIT_S)
                assert result.log == f"at {height}"
                assert swarm.log(1).count(tx) == 1
            await swarm.settle()
            assert swarm.log(0) == swarm.log(1)
            assert swarm.nodes[0].app.info() == swarm.nodes[1].app.info()

    asyncio.run(work())


def test_b16_a_node_that_dies_while_its_chain_begins_begins_it_once_more(tmp_path: Path) -> None:
    async def work() -> None:
        swarm = CometSwarm(1, tmp_path)
        node = swarm.nodes[0]
        inits = 0
        for point in sorted(AT_START):
            node.crash.point = point
            await swarm.start(0)
            inits += node.app.calls.count("init")
            assert node.task is not None
            with pytest.raises(Broken, match="the ledger engine failed: Died"):
                await asyncio.wait_for(node.task, LIMIT_S)
            assert node.crash.fired is point
            node.task = None
            await node.kill()
        async with swarm:
            assert (await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S))[0] == 2
            assert (inits, node.app.calls.count("init")) == (1, 0)

    asyncio.run(work())


def test_b18_blocks_that_the_application_lost_are_executed_again(tmp_path: Path) -> None:
    """A power cut, or a copy that is too old: the application goes on from wherever it stands."""

    async def work() -> None:
        state, kept = tmp_path / "n1" / "app.msgpack", tmp_path / "kept"
        async with CometSwarm(2, tmp_path) as swarm:
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            await swarm.settle()
            await swarm.kill(1)
            shutil.copy(state, kept)
            for wanted in (kept, None):
                await swarm.start(1)
                for i in range(4):
                    await swarm.ledger(0).submit(b"%s.%d=1" % (str(wanted).encode(), i), timeout_s=LIMIT_S)
                await swarm.settle()
                await swarm.kill(1)
                state.unlink()
                if wanted is not None:
                    shutil.copy(wanted, state)
            await swarm.start(1)
            assert swarm.ledger(1).height < 3
            await swarm.ledger(1).submit(b"b=1", timeout_s=LIMIT_S)
            await swarm.settle()
            assert swarm.nodes[0].app.info() == swarm.nodes[1].app.info()
            assert swarm.log(1) == swarm.log(0)
            assert len(swarm.log(1)) == 10

    asyncio.run(work())


def test_b19_a_block_with_another_outcome_than_the_first_time_stops_the_node(tmp_path: Path) -> None:
    class Salted(VotingApplication):
        def __init__(self, path: Path | None = None) -> None:
            super().__init__(path)
            self.salt = b"salt"

    async def work() -> None:
        async with CometSwarm(1, tmp_path) as swarm:
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            await swarm.kill(0)
            (tmp_path / "n0" / "app.msgpack").unlink()
            swarm.make_app = Salted
            await swarm.start(0)
            task = swarm.nodes[0].task
            assert task is not None
            with pytest.raises(Broken, match="block 1 was executed again and gives state"):
                await asyncio.wait_for(task, LIMIT_S)
            with pytest.raises(Broken, match="block 1 was executed again"):
                await swarm.ledger(0).wait_height(1)

    asyncio.run(work())


def test_b17_a_file_that_is_behind_the_application_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        file, kept = tmp_path / "n0" / FILE_NAME, tmp_path / "kept"
        async with CometSwarm(1, tmp_path) as swarm:
            await swarm.kill(0)
            shutil.copy(file, kept)
            await swarm.start(0)
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            await swarm.kill(0)
            shutil.copy(kept, file)
            with pytest.raises(
                Broken,
                match=r"knows of blocks up to [0-9]: they are not of one copy; stop this node, remove the .*sqlite",
            ):
                await swarm.start(0)

    asyncio.run(work())


def test_b20_a_killed_child_is_started_again_and_what_waited_is_ordered(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(2, tmp_path) as swarm:
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            child = swarm.ledger(0).child
            assert child is not None
            first = child.pid
            assert first
            os.kill(first, signal.SIGKILL)
            # Nobody has it but we: the pool of a child does not outlive it.
            height, _ = await swarm.ledger(0).submit(b"b=1", timeout_s=LIMIT_S)
            assert height > 1
            assert child.pid != first
            assert len(swarm.nodes[0].recorder.lives) == 2
            await eventually(lambda: not swarm.ledger(0).problem, "all is well again")

    asyncio.run(work())
