"""What a replica checks of a block before it executes it, step by step. Spec: docs/spec/ledger.md, section 4.

Does not: wait for a block's time, ask the application, or execute (`replica`).
"""

from swarmlearning.errors import VerificationError
from swarmlearning.ledger.embedded.blocks import (
    MAX_BLOCK_TX_BYTES,
    MAX_BLOCK_TXS,
    MAX_TX_BYTES,
    Block,
    hash_txs,
    verify_header,
)
from swarmlearning.ledger.embedded.handovers import Reign


def verify_signed(block: Block, network: str, reign: Reign, height: int) -> None:
    """Check that the sentinel of `reign` signed this block as block `height` of this network.

    Raises:
        VerificationError: it did not; the message says what differs.
    """
    header = block.header
    # 1. network, and 2. the sentinel's signature: after these, what is wrong is the sentinel's doing
    verify_header(block.signed_header, network, reign.key)
    # 3. who made it
    if header.proposer != reign.sentinel:
        raise VerificationError(f"block {header.height} was made by {header.proposer}; expected {reign.sentinel}")
    # 4. height
    if header.height != height:
        raise VerificationError(f"expected block {height}, got block {header.height}")


def verify_link(block: Block, previous_hash: bytes, previous_time_ms: int) -> None:
    """Check that a block goes on from the previous one, and holds the transactions that its header says, within limits.

    Raises:
        VerificationError: it does not.
    """
    header = block.header
    # 5. previous hash
    if header.previous_hash != previous_hash:
        previous = f"block {header.height - 1}" if header.height > 1 else "this network's genesis"
        raise VerificationError(
            f"block {header.height} follows {header.previous_hash.hex()[:16]}; {previous} is {previous_hash.hex()[:16]}"
        )
    # 6. time does not go backwards
    if header.time_ms < previous_time_ms:
        raise VerificationError(
            f"block {header.height} is of {header.time_ms} ms, before the previous block's {previous_time_ms} ms"
        )
    # 7. limits
    sizes = [len(tx) for tx in block.txs]
    if not 0 < len(sizes) <= MAX_BLOCK_TXS or max(sizes) > MAX_TX_BYTES or sum(sizes) > MAX_BLOCK_TX_BYTES:
        raise VerificationError(
            f"block {header.height} holds {len(sizes)} transactions of {sum(sizes)} bytes; expected 1-{MAX_BLOCK_TXS}, "
            f"each at most {MAX_TX_BYTES} bytes, {MAX_BLOCK_TX_BYTES} in all"
        )
    # 8. the transactions are those of the header
    if hash_txs(block.txs) != header.txs_root:
        raise VerificationError(f"block {header.height}: its transactions do not match its header")
