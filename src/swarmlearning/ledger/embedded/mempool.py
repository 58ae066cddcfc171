"""Transactions that wait for a block: in order of arrival, each once, bounded in number and bytes."""

import asyncio
from collections.abc import Sequence
from itertools import islice


class Mempool:
    """Pending transactions by their SHA-256."""

    def __init__(self, max_txs: int, max_bytes: int) -> None:
        self._max_txs = max_txs
        self._max_bytes = max_bytes
        self._pending: dict[bytes, bytes] = {}
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self._more = asyncio.Event()

    def __contains__(self, tx_hash: bytes) -> bool:
        return tx_hash in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def has_room(self, size: int) -> bool:
        """Whether a transaction of `size` bytes may enter now."""
        return len(self._pending) < self._max_txs and self._bytes + size <= self._max_bytes

    def add(self, tx_hash: bytes, tx: bytes) -> None:
        """Let a transaction wait for a block; the caller has seen that there is room."""
        if tx_hash not in self._pending:
            self._pending[tx_hash] = tx
            self._bytes += len(tx)
            self._arrived.set()
            self._more.set()
            self._more = asyncio.Event()

    def first(self, count: int) -> Sequence[tuple[bytes, bytes]]:
        """The oldest `count` transactions with their hashes."""
        return list(islice(self._pending.items(), count))

    def remove(self, tx_hash: bytes) -> None:
        """The transaction is in a block, or will be in none."""
        tx = self._pending.pop(tx_hash, None)
        if tx is not None:
            self._bytes -= len(tx)
            self._left.set()
            self._left = asyncio.Event()
        if not self._pending:
            self._arrived.clear()

    async def wait_pending(self) -> None:
        """Wait until a transaction waits for a block."""
        await self._arrived.wait()

    async def wait_more(self) -> None:
        """Wait until another transaction arrives."""
        await self._more.wait()

    async def wait_left(self) -> None:
        """Wait until a transaction leaves."""
        await self._left.wait()
