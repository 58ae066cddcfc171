"""What every ledger engine promises, whichever it is. Subclass `LedgerConformance` and say how to make a swarm.

The tests see an engine only as a `LedgerView`, and its order only through the application that it drives. An engine may
make blocks without transactions, of its own accord, but not for ever.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from swarmlearning.ledger.boundary import LedgerView
from swarmlearning.types import Code

LIMIT_S = 60.0


class Swarm(Protocol):
    """Nodes of one network, each with a `KvApplication`."""

    @property
    def size(self) -> int:
        """How many nodes."""
        ...

    def ledger(self, index: int) -> LedgerView:
        """The running engine of a node."""
        ...

    def log(self, index: int) -> list[bytes]:
        """The transactions that a node's application has committed, in order."""
        ...

    async def start(self, index: int) -> None:
        """Start a killed node again on what it has on disk."""
        ...

    async def kill(self, index: int) -> None:
        """End a node at once; only what is on disk stays."""
        ...


class LedgerConformance:
    """The promises."""

    spare = 2
    """The smallest network that goes on while its last node is away."""

    def swarm(self, size: int, directory: Path) -> AbstractAsyncContextManager[Swarm]:
        """A swarm of `size` running nodes that keep their data under `directory`."""
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one test."""
        asyncio.run(work)

    async def settle(self, swarm: Swarm) -> None:
        """Wait until every node is as far as the furthest."""
        top = max(swarm.ledger(i).height for i in range(swarm.size))
        for i in range(swarm.size):
            await asyncio.wait_for(swarm.ledger(i).wait_height(top - 1), LIMIT_S)

    @pytest.mark.parametrize("submitter", [0, 1])
    def test_order_of_one_submitter_is_kept(self, submitter: int, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(2, tmp_path) as swarm:
                txs = [b"n=%d" % i for i in range(10)]
                heights = [(await swarm.ledger(submitter).submit(tx, timeout_s=LIMIT_S))[0] for tx in txs]
                assert heights == sorted(heights)
                assert heights[0] >= 1
                assert swarm.log(submitter) == txs

        self.run(work())

    def test_results_and_order_are_the_same_everywhere(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(3, tmp_path) as swarm:
                txs = [b"%d=%d" % (i % 3, i) if i % 5 else b"!%d" % i for i in range(30)]
                first = await asyncio.gather(
                    *(swarm.ledger(i % 3).submit(tx, timeout_s=LIMIT_S) for i, tx in enumerate(txs))
                )
                assert [r.code for _, r in first] == [Code.OK if i % 5 else Code.CONFLICT for i in range(30)]
                await self.settle(swarm)
                assert sorted(swarm.log(0)) == sorted(tx for tx in txs if not tx.startswith(b"!"))
                assert swarm.log(1) == swarm.log(0)
                assert swarm.log(2) == swarm.log(0)
                again = await asyncio.gather(
                    *(swarm.ledger((i + 1) % 3).submit(tx, timeout_s=LIMIT_S) for i, tx in enumerate(txs))
                )
                assert again == first

        self.run(work())

    def test_submit_returns_only_once_the_block_is_committed_at_that_node(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(3, tmp_path) as swarm:
                for i in range(6):
                    tx = b"n=%d" % i
                    height, _ = await swarm.ledger(i % 3).submit(tx, timeout_s=LIMIT_S)
                    assert tx in swarm.log(i % 3)
                    assert swarm.ledger(i % 3).height >= height

        self.run(work())

    @pytest.mark.parametrize("submitter", [0, 1])
    def test_a_transaction_that_check_refuses_is_not_ordered(self, submitter: int, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(2, tmp_path) as swarm:
                height, result = await swarm.ledger(submitter).submit(b"nonsense", timeout_s=LIMIT_S)
                assert (height, result.code) == (0, Code.MALFORMED)
                height, _ = await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
                assert height >= 1
                assert swarm.log(0) == [b"a=1"]

        self.run(work())

    @pytest.mark.parametrize("node", [0, 1])
    def test_wait_height_wakes_when_a_block_is_committed(self, node: int, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(2, tmp_path) as swarm:
                before = swarm.ledger(node).height
                waiting = asyncio.ensure_future(swarm.ledger(node).wait_height(before))
                await asyncio.sleep(0.01)
                assert not waiting.done()
                height, _ = await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
                assert await asyncio.wait_for(waiting, LIMIT_S) == height == before + 1
                assert await swarm.ledger(node).wait_height(height - 1) >= height

        self.run(work())

    def test_everything_acknowledged_survives_the_death_of_all_nodes(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(2, tmp_path) as swarm:
                txs = [b"n=%d" % i for i in range(20)]
                for i, tx in enumerate(txs):
                    await swarm.ledger(i % 2).submit(tx, timeout_s=LIMIT_S)
                await self.settle(swarm)
                before = swarm.ledger(0).height
                for node in (0, 1):
                    await swarm.kill(node)
                for node in (0, 1):
                    await swarm.start(node)
                    assert swarm.ledger(node).height >= before
                    assert swarm.log(node) == txs
                await swarm.ledger(1).submit(b"after=1", timeout_s=LIMIT_S)
                assert swarm.log(1) == [*txs, b"after=1"]
                await self.settle(swarm)
                assert swarm.log(0) == [*txs, b"after=1"]

        self.run(work())

    def test_a_node_that_was_away_catches_up(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with self.swarm(self.spare, tmp_path) as swarm:
                last = self.spare - 1
                await swarm.ledger(last).submit(b"before=1", timeout_s=LIMIT_S)
                await swarm.kill(last)
                txs = [b"n=%d" % i for i in range(10)]
                for tx in txs:
                    await swarm.ledger(0).submit(tx, timeout_s=LIMIT_S)
                await swarm.start(last)
                await self.settle(swarm)
                assert swarm.log(last) == [b"before=1", *txs]

        self.run(work())
