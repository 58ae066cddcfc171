"""How many transactions of each organisation wait for a block here: one member cannot take the room of all others.

This node's own affair (TX-20): nothing in a block depends on it. Does not hold the transactions themselves.
"""

from collections.abc import Iterable
from typing import Final

from swarmlearning.encoding import sha256
from swarmlearning.types import TrustDomain

MAX_WAITING: Final = 1024
"""Most transactions of one organisation that wait for a block: a quarter of what the embedded ledger holds in all."""

MAX_WAITING_BYTES: Final = 8 << 20
"""Most bytes that they have together: an eighth of what CometBFT keeps of all."""

FORGOTTEN_AFTER: Final = 64
"""Blocks after which one that was neither ordered nor judged again counts as gone: its engine has given it up."""


class _Waiting:
    """What waits of one organisation."""

    def __init__(self) -> None:
        self.entries: dict[bytes, tuple[int, int]] = {}
        """SHA-256 of each to the last height at which it was asked about, and its size."""
        self.size = 0

    def put(self, digest: bytes, height: int, size: int) -> None:
        self.remove(digest)
        self.entries[digest] = height, size
        self.size += size

    def remove(self, digest: bytes) -> None:
        self.size -= self.entries.pop(digest, (0, 0))[1]


class WaitingBook:
    """Transactions that this node's engine was told to keep, by organisation and SHA-256.

    At most `MAX_WAITING` hashes for each member, whatever strangers send: only what a member signed is entered.
    """

    def __init__(self) -> None:
        self._waiting: dict[TrustDomain, _Waiting] = {}

    def enter(self, domain: TrustDomain, tx: bytes, height: int) -> bool:
        """Whether a transaction may wait; it is then entered, or has its entry renewed.

        Args:
            domain: whose it is.
            tx: the transaction.
            height: last committed.
        """
        waiting = self._waiting.setdefault(domain, _Waiting())
        digest = sha256(tx)
        full = len(waiting.entries) >= MAX_WAITING or waiting.size + len(tx) > MAX_WAITING_BYTES
        if full and digest not in waiting.entries:
            return False
        waiting.put(digest, height, len(tx))
        return True

    def leave(self, domain: TrustDomain, tx: bytes) -> None:
        """A transaction is refused after all."""
        if domain in self._waiting:
            self._waiting[domain].remove(sha256(tx))

    def settle(self, txs: Iterable[bytes], height: int) -> None:
        """A block with `txs` was committed at `height`; forget these, and what nobody has asked about for long."""
        ordered = {sha256(tx) for tx in txs}
        for domain, waiting in list(self._waiting.items()):
            for digest, (at, _) in list(waiting.entries.items()):
                if digest in ordered or at < height - FORGOTTEN_AFTER:
                    waiting.remove(digest)
            if not waiting.entries:
                del self._waiting[domain]
