"""What an embedded engine is started with, and its limits. Spec: docs/spec/ledger.md."""

from pathlib import Path

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.ledger.embedded.blocks import MAX_BLOCK_TX_BYTES, MAX_BLOCK_TXS, MAX_TX_BYTES
from swarmlearning.transport.api import Address
from swarmlearning.types import NodeId


class EmbeddedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is, which network it serves, where its data lie, and limits."""

    network: str
    genesis: bytes
    """The network's genesis bytes; the engine only hashes them, the application reads them."""
    data_dir: Path | None
    """Holds `ledger.sqlite`; None keeps the blocks in memory, for simulations."""
    node: NodeId
    sentinel: NodeId
    """The node that the genesis lets order; a handover may have named another one since."""
    sentinel_key: bytes
    """Ed25519 public key with which that node signs block headers, 32 bytes."""
    sentinel_address: Address | None = None
    """Where a replica finds the sentinel, or any SN that has its blocks; None: this node is to order."""

    max_block_tx_bytes: int = MAX_BLOCK_TX_BYTES
    max_block_txs: int = MAX_BLOCK_TXS
    max_tx_bytes: int = MAX_TX_BYTES
    max_pending_txs: int = 4096
    """Most transactions that wait for a block; further ones wait outside until their own limit."""
    max_pending_bytes: int = 16 << 20
    gather_s: float = 0.02
    """How long a block waits at most for transactions that the application expects to follow at once."""
    poll_wait_s: float = 20.0
    """How long the sentinel holds a replica's poll while there is no new block."""
    reply_margin_s: float = 10.0
    """How much longer than asked for a reply may take before its connection counts as lost."""
    retry_min_s: float = 0.1
    retry_max_s: float = 5.0
    max_ahead_ms: int = 5_000
    """A replica holds a block back while the block's time lies further ahead of its own clock."""
    compare_every_s: float = 30.0
    """How often this node compares signed headers with the other nodes."""
    ask_others_s: float = 3.0
    """How long other nodes are waited for that may hold more than this one: when a sentinel starts, and on a replica
    while its sentinel does not answer."""

    @property
    def is_sentinel(self) -> bool:
        """Whether this node is to order; that it may is found out when its ledger is opened."""
        return self.sentinel_address is None

    def __post_init__(self) -> None:
        if len(self.sentinel_key) != 32:
            raise ConfigurationError(f"sentinel_key: expected an Ed25519 key of 32 bytes, got {len(self.sentinel_key)}")
        if self.max_tx_bytes > MAX_TX_BYTES:
            raise ConfigurationError(f"max_tx_bytes: expected at most {MAX_TX_BYTES}, got {self.max_tx_bytes}")
        if not 0 < self.max_tx_bytes <= self.max_block_tx_bytes <= MAX_BLOCK_TX_BYTES:
            raise ConfigurationError(
                f"limits: expected 0 < max_tx_bytes <= max_block_tx_bytes <= {MAX_BLOCK_TX_BYTES}, "
                f"got {self.max_tx_bytes} and {self.max_block_tx_bytes}"
            )
        if not 0 < self.max_block_txs <= MAX_BLOCK_TXS:
            raise ConfigurationError(f"max_block_txs: expected 1-{MAX_BLOCK_TXS}, got {self.max_block_txs}")
        if self.max_pending_txs < 1 or self.max_pending_bytes < self.max_tx_bytes:
            raise ConfigurationError("max_pending_txs, max_pending_bytes: expected room for one transaction at least")
