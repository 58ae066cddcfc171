"""What may stand in the next block, and what none is ordered with. Spec: docs/spec/transactions.md, TX-18 and TX-19.

Decided by committed state and the block alone, without its time: every correct node says the same of a block, and who
proposes one leaves out exactly what the others would refuse.
"""

from typing import Final

from swarmlearning.contracts import membership
from swarmlearning.contracts.context import Rejected, State
from swarmlearning.contracts.messages import RegisterNode
from swarmlearning.contracts.records import BlockTime, Genesis
from swarmlearning.contracts.transition import admit, hopeful_times, identify, open_tx
from swarmlearning.types import Code, TrustDomain

MAX_IN_BLOCK: Final = 256
"""TX-19: most transactions of one organisation in a block."""

MAX_BYTES_IN_BLOCK: Final = 256 << 10
"""TX-19: most bytes that they have together: a quarter of what a block of CometBFT's holds. Four of the largest fit."""

_UNKNOWN_HASH: Final = bytes(32)


class BlockRules:
    """Takes the transactions of one block, in their order."""

    def __init__(self, state: State, genesis: Genesis, now: BlockTime, height: int) -> None:
        """Begin a block of `height` on committed `state`, whose time is `now`."""
        self._state = state
        self._genesis = genesis
        self._now = now
        self._height = height
        self._nonces: set[tuple[bytes, bytes]] = set()
        self._taken: dict[TrustDomain, tuple[int, int]] = {}
        """Of each organisation, how many and how many bytes."""

    def take(self, tx: bytes) -> None:
        """Let a transaction stand in the block.

        Raises:
            Rejected: no correct node accepts a block with it; the block is as before.
        """
        # 1. It is one, and its author signed it (TX-1 to TX-3).
        signed = open_tx(tx)
        # 2. For this network, not expired, not used before (TX-4 to TX-6), and once in this block.
        admit(self._state, self._genesis, signed, self._height)
        mark = (signed.signer, signed.payload.nonce)
        if mark in self._nonces:
            raise Rejected(Code.REPLAYED, "transaction: its nonce is used twice by this signer in one block")
        # 3. A member's registered node signed it, or it registers one by a certificate that verifies (TX-7, M-1).
        times = hopeful_times(signed.payload.message, self._now.time_ms, self._now.elapsed_ms)
        context = identify(self._state, signed, self._height, times, _UNKNOWN_HASH)
        message = signed.payload.message
        if isinstance(message, RegisterNode):
            membership.check_registration(self._state, context, message, signed.signer, self._genesis.network)
        # 4. Its organisation leaves room for others.
        domain = context.name.domain
        count, size = self._taken.get(domain, (0, 0))
        if count >= MAX_IN_BLOCK or size + len(tx) > MAX_BYTES_IN_BLOCK:
            raise Rejected(
                Code.BUSY,
                f"{domain} has {count} transactions of {size} bytes in this block, at most {MAX_IN_BLOCK} of "
                f"{MAX_BYTES_IN_BLOCK} bytes may stand there",
            )
        self._nonces.add(mark)
        self._taken[domain] = count + 1, size + len(tx)
