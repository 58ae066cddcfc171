"""Which ledger engine an SN runs: the embedded one or CometBFT, as the genesis says."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import msgspec

from swarmlearning.clock import system_clock
from swarmlearning.contracts import membership
from swarmlearning.contracts.records import Genesis
from swarmlearning.errors import Closed, ConfigurationError, VerificationError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import TrustStore
from swarmlearning.ledger.boundary import LedgerView, Snapshots
from swarmlearning.ledger.embedded import EmbeddedConfig, EmbeddedLedger
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.state import Overlay
from swarmlearning.sn.tickets import Ticket
from swarmlearning.transport.api import Address, Call, Client
from swarmlearning.transport.discover import discover
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain

if TYPE_CHECKING:
    from swarmlearning.ledger.cometbft.engine import CometLedger

LOCATE_S: Final = 10.0
"""How long a handshake with the sentinel may take, seconds."""


class Engine(LedgerView, Protocol):
    """What an SN starts, runs and stops."""

    @property
    def calls(self) -> Mapping[str, Call]:
        """What this node answers other SN nodes; empty where the engine has a network of its own."""
        ...

    @property
    def sentinel(self) -> NodeId:
        """Node id of the sentinel that orders; empty where validators vote."""
        ...

    async def block_hash(self, height: int) -> bytes:
        """Hash of a committed block, 32 bytes."""
        ...

    async def start(self) -> None:
        """Open what is on disk and bring the application level with it."""
        ...

    async def run(self) -> None:
        """Order or follow until cancelled."""
        ...

    async def stop(self) -> None:
        """Close; whoever waits gets `Closed`."""
        ...


@runtime_checkable
class VotingLedger(Protocol):
    """An engine whose order validators agree on."""

    @property
    def away(self) -> tuple[TrustDomain, ...]:
        """Members whose validator is not connected here."""
        ...

    async def ask_light(self, method: str, params: dict[str, str]) -> bytes:
        """What is known of a block, as JSON."""
        ...


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What an SN gives its engine."""

    node: NodeName
    genesis: Genesis
    data: bytes
    """The genesis's bytes."""
    directory: Path
    """The SN's data directory."""
    key: SigningKey
    app: SwarmApplication
    client: Client
    trust: TrustStore
    identity: PemSource


# --- embedded ---------------------------------------------------------------------------------------------------


def embedded_config(
    genesis: Genesis, data: bytes, directory: Path, node: NodeId, sentinel: Address | None
) -> EmbeddedConfig:
    """What the embedded engine of `node` is started with; `data` are the genesis's bytes.

    Raises:
        ConfigurationError: the network has no sentinel.
    """
    if genesis.ledger != "embedded":
        raise ConfigurationError(f"network {genesis.network} runs on {genesis.ledger}: no sentinel orders there")
    return EmbeddedConfig(
        network=genesis.network,
        genesis=data,
        data_dir=directory,
        node=node,
        sentinel=genesis.sentinel,
        sentinel_key=genesis.sentinel_key,
        sentinel_address=sentinel,
    )


def open_embedded(parts: Parts, sentinel: Endpoint | None) -> EmbeddedLedger:
    """The embedded engine.

    Args:
        parts: of this SN.
        sentinel: peer-to-peer port of the sentinel, or of an SN that knows it; None on the sentinel itself.

    Raises:
        ConfigurationError: the network has no sentinel.
    """
    genesis, node = parts.genesis, parts.node
    where = Address(node=genesis.sentinel, endpoint=sentinel) if sentinel is not None else None

    async def locate() -> Address:
        """Who listens where we were told to look: after a handover it may be another SN than before."""
        if sentinel is None:
            raise Closed("the sentinel looks for no other one")
        found = await discover(parts.trust, parts.identity, sentinel, timeout_s=LOCATE_S)
        if (found.role, found.network) != (Role.SN, genesis.network) or found == node:
            raise VerificationError(
                f"{sentinel} is {found.id}; expected another SN of network {genesis.network} at its peer-to-peer port"
            )
        return Address(node=found.id, endpoint=sentinel)

    def others() -> list[Address]:
        """Other SNs as registered, for comparing headers."""
        state = Overlay(parts.app.store)
        found: list[Address] = []
        for key in state.keys(membership.node_key(NodeId(""))):
            other = membership.load_node(state, NodeId(key.removeprefix("node/")))
            if other is None or other.endpoint is None or other.node == node.id:
                continue
            if NodeName.parse(other.node).role is Role.SN:
                found.append(Address(node=other.node, endpoint=other.endpoint))
        return found

    return EmbeddedLedger(
        embedded_config(genesis, parts.data, parts.directory, node.id, where),
        parts.app,
        parts.key if sentinel is None else None,
        parts.client,
        system_clock,
        random.Random(),
        peers=others,
        locate=locate,
    )


# --- CometBFT ---------------------------------------------------------------------------------------------------


class CometOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator says about CometBFT."""

    binary: Path | None = None
    """The program; None: `SWARM_COMETBFT`, else it is searched for."""
    abci: str = ""
    """Attach mode: where we listen for a CometBFT that somebody else starts; empty: we start one."""
    rpc: str = ""
    """Attach mode: its RPC."""
    retain_blocks: int = 0
    """How many of the newest blocks are kept; 0: all."""
    snapshot_every: int = 1_000
    """A snapshot of the state is kept after each so many-th block; 0: none."""


def open_cometbft(
    parts: Parts,
    options: CometOptions,
    listen: Endpoint,
    snapshots: Snapshots | None = None,
    ticket: Ticket | None = None,
    light: str = "",
) -> "CometLedger":
    """The engine on CometBFT.

    Args:
        parts: of this SN.
        options: of its operator.
        listen: where its peers reach it.
        snapshots: of the state, to be given and taken.
        ticket: who its peers are while it catches up.
        light: RPC address at which CometBFT asks what the ticket's snapshot is to be verified by; empty: it executes
            all blocks.

    Raises:
        ConfigurationError: protobuf is not installed, the network has a sentinel, or only one of `abci` and `rpc` is
            given.
    """
    genesis = parts.genesis
    if bool(options.abci) != bool(options.rpc):
        raise ConfigurationError("a CometBFT that runs elsewhere needs both: --cometbft-abci and --cometbft-rpc")
    # It brings protobuf, an extra, with it.
    from swarmlearning.ledger.cometbft.config import Attach, CometConfig
    from swarmlearning.ledger.cometbft.engine import CometLedger
    from swarmlearning.ledger.cometbft.home import StateSync

    sync = None
    if ticket is not None and light:
        # CometBFT wants two to compare; what both say is verified by the validators' signatures.
        sync = StateSync(servers=(light, light), height=ticket.snapshot, block_hash=ticket.snapshot_hash)
    attach = Attach(abci=options.abci, rpc=options.rpc) if options.abci else None
    members = (organisation.validator for organisation in genesis.organisations)
    config = CometConfig(
        network=genesis.network,
        genesis=parts.data,
        genesis_time_ms=genesis.created_ms,
        initial=tuple(member for member in members if member is not None),
        data_dir=parts.directory,
        node=parts.node.id,
        listen=listen,
        external=listen,
        binary=options.binary,
        attach=attach,
        retain_blocks=options.retain_blocks,
        state_sync=sync,
        introduced=() if ticket is None else tuple(ticket.validators.values()),
        introduced_at=0 if ticket is None else ticket.height,
    )
    return CometLedger(config, parts.app, snapshots=snapshots)
