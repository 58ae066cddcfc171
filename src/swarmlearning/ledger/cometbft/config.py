"""What an engine on CometBFT is started with, and its limits. Spec: docs/spec/ledger-cometbft.md."""

from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.ledger.cometbft.home import StateSync
from swarmlearning.types import Endpoint, NodeId, Validator

MAX_BLOCK_TXS: Final = 1024
"""Most transactions in a block; every node of a network must agree on it, so it is no setting."""

PEER_PORT: Final = 26656
"""CometBFT's usual port for its peers."""


class Attach(msgspec.Struct, frozen=True, kw_only=True):
    """A CometBFT that somebody else starts and stops, on this machine; none is started then."""

    abci: str
    """Where we listen for it: its `proxy_app`, `unix:///path` or `tcp://127.0.0.1:port`."""
    rpc: str
    """Its own RPC: `unix:///path` or `http://127.0.0.1:port`."""


class CometConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is, which network it serves, where its data lie, and limits."""

    network: str
    """The chain's id."""
    genesis: bytes
    """The network's genesis bytes; the engine only hashes them, the application reads them."""
    genesis_time_ms: int
    """When the network was founded, milliseconds since the epoch."""
    initial: tuple[Validator, ...]
    """Who votes from the first block on, by the genesis."""
    data_dir: Path
    """Holds the engine's file and, below `cometbft`, the child's home."""
    node: NodeId
    listen: Endpoint = Endpoint(host="0.0.0.0", port=PEER_PORT)  # noqa: S104 - other members must reach it
    """Where the child listens for its peers."""
    external: Endpoint | None = None
    """Where its peers reach it, if elsewhere."""
    binary: Path | None = None
    """The `cometbft` program; None: it is searched for."""
    attach: Attach | None = None
    introduced: tuple[Validator, ...] = ()
    """Who voted at the height `introduced_at`, as a join ticket says: peers besides the committed validators, until
    that height is committed here."""
    introduced_at: int = 0

    state_sync: StateSync | None = None
    """Where a child that has no block learns what a snapshot is verified by; None: all blocks are executed."""
    retain_blocks: int = 0
    """How many of the newest blocks the child keeps; 0: all."""
    watch_every_s: float = 2.0
    """How often the child is asked whether all is well."""
    dial_again_s: float = 10.0
    """How often the child is told to connect to members to whom it is not: it gives up by itself."""
    stalled_after_s: float = 15.0
    """No block for so long, though transactions wait, is a problem."""
    retry_min_s: float = 0.1
    retry_max_s: float = 2.0
    offer_again_s: float = 3.0
    """After so long without a block that holds it a transaction is offered once more: the child may have lost it."""

    def __post_init__(self) -> None:
        if not self.initial:
            raise ConfigurationError("the genesis names no validators: it was not made for the ledger on CometBFT")
        if self.retain_blocks < 0:
            raise ConfigurationError(f"retain_blocks: expected 0 (all) or more, got {self.retain_blocks}")
