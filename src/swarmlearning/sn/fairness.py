"""How many transactions of each organisation wait for a block here: one member cannot take the room of all others.

This node's own affair (TX-20): nothing in a block depends on it. Does not hold the transactions themselves.
"""

from collections.abc import Iterable
from typing import Final

from swarmlearning.encoding import sha256
from swarmlearning.types import TrustDomain

MAX_WAITING: Final = 1024
"""Most transactions of one organisation that wait for a block: a quarter of what the embedded ledger holds in all."""

FORGOTTEN_AFTER: Final = 64
"""Blocks after which one that was neither ordered nor judged again counts as gone: its engine has given it up."""


class WaitingBook:
    """Transactions that this node's engine was told to keep, by organisation and SHA-256.

    At most `MAX_WAITING` hashes for each member, whatever strangers send: only what a member signed is entered.
    """

    def __init__(self) -> None:
        self._entries: dict[TrustDomain, dict[bytes, int]] = {}

    def enter(self, domain: TrustDomain, tx: bytes, height: int) -> bool:
        """Whether a transaction may wait; it is then entered, or has its entry renewed.

        Args:
            domain: whose it is.
            tx: the transaction.
            height: last committed.
        """
        waiting = self._entries.setdefault(domain, {})
        digest = sha256(tx)
        if digest not in waiting and len(waiting) >= MAX_WAITING:
            return False
        waiting[digest] = height
        return True

    def leave(self, domain: TrustDomain, tx: bytes) -> None:
        """A transaction is refused after all."""
        self._entries.get(domain, {}).pop(sha256(tx), None)

    def settle(self, txs: Iterable[bytes], height: int) -> None:
        """A block with `txs` was committed at `height`; forget these, and what nobody has asked about for long."""
        ordered = {sha256(tx) for tx in txs}
        kept: dict[TrustDomain, dict[bytes, int]] = {}
        for domain, waiting in self._entries.items():
            left = {d: at for d, at in waiting.items() if d not in ordered and at >= height - FORGOTTEN_AFTER}
            if left:
                kept[domain] = left
        self._entries = kept
