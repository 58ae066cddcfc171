"""The SN process: the ledger engine with the contracts on it, one port for other SNs and one for its organisation."""

import logging
import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlearning.clock import system_clock
from swarmlearning.contracts import membership
from swarmlearning.contracts.messages import RegisterNode, registration_bytes
from swarmlearning.contracts.records import Genesis
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError, Refused, WaitExpired
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.ledger.boundary import Event, LedgerArchive
from swarmlearning.sn.application import SwarmApplication, decode_genesis
from swarmlearning.sn.client import sign_message
from swarmlearning.sn.engines import CometOptions, Engine, Parts, VotingLedger, open_cometbft, open_embedded
from swarmlearning.sn.levelling import until_level
from swarmlearning.sn.light import LightProxy
from swarmlearning.sn.presence import PresenceBook
from swarmlearning.sn.service import SnService
from swarmlearning.sn.snapshots import SnapshotStore
from swarmlearning.sn.state import Overlay, StateStore
from swarmlearning.sn.tickets import (
    Member,
    Ticket,
    catch_up,
    find_snapshot_hash,
    find_ticket,
    forget_ticket,
    sign_ticket,
)
from swarmlearning.transport.api import Address, Call, Stream
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.server import Server
from swarmlearning.types import Code, Endpoint, LedgerKind, NodeName, Role, TrustDomain

REGISTER_WAIT_S: Final = 120.0
"""How long a follower waits for the sentinel at start, seconds."""

SNAPSHOT_AGE: Final = 2
"""So many blocks must have come after a snapshot's: their headers say which state and which validators it had."""

_LOG: Final = logging.getLogger("swarmlearning.sn")


class SnConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an SN is started with."""

    data: Path
    genesis: Path
    sign_key: Path
    host: str
    api_port: int
    p2p_port: int
    sentinel: Endpoint | None
    """Peer-to-peer port of the sentinel, or of an SN that knows it; None on the sentinel itself, and where validators
    vote."""
    ledger: LedgerKind | None = None
    """The engine that the operator expects; None: whichever the genesis names."""
    cometbft: CometOptions = CometOptions()
    """Of a network on CometBFT."""


class _Calls:
    """A service of calls only."""

    def __init__(self, calls: dict[str, Call]) -> None:
        self.calls = calls
        self.streams: dict[str, Stream] = {}


class SnNode:
    """A running SN."""

    def __init__(self, config: SnConfig, identity: PemSource) -> None:
        """Load identity, genesis and state; nothing listens yet.

        Raises:
            IdentityError: the identity is missing, expired, or no SN's.
            ConfigurationError: the genesis is not this network's, or a file cannot be used.
            DecodeError: the genesis is malformed.
        """
        self.config = config
        self.credential = identity.load(system_clock())
        node = self.credential.node
        if node.role is not Role.SN:
            raise ConfigurationError(
                f"certificate {self.credential.certificate_path} is {node.role.value}'s; expected sn's"
            )
        try:
            data = config.genesis.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"genesis {config.genesis}: {error.strerror}") from error
        self.genesis: Genesis = decode_genesis(data)
        if node.network != self.genesis.network:
            raise ConfigurationError(
                f"{node.id} belongs to network {node.network}; the genesis is {self.genesis.network}'s"
            )
        config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = SigningKey.load_or_create(config.sign_key)
        organisations = {o.domain: Trust(issuers=o.issuers, roles=o.roles) for o in self.genesis.organisations}
        self._identity = identity
        self._trust = TrustStore(self.genesis.network, system_clock, organisations)
        self._client = HttpClient(self._trust, identity)
        state = StateStore(config.data / "state.sqlite", durable=config.cometbft.retain_blocks > 0)
        self.app = SwarmApplication(state, self._on_commit)
        parts = Parts(
            node=node,
            genesis=self.genesis,
            data=data,
            directory=config.data,
            key=self._key,
            app=self.app,
            client=self._client,
            trust=self._trust,
            identity=identity,
        )
        self._ticket = find_ticket(config.data, data)
        self._snapshots = self._open_snapshots()
        self._light = self._open_light()
        self.ledger = self._open_engine(parts)
        presence = PresenceBook(system_clock)
        self._service = SnService(
            node,
            self.app,
            self.ledger,
            system_clock,
            sentinel=lambda: self.ledger.sentinel,
            archive=self.ledger if isinstance(self.ledger, LedgerArchive) else None,
            ticket=self.make_ticket,
            light=self.ledger.ask_light if isinstance(self.ledger, VotingLedger) else None,
            away=lambda: self.ledger.away if isinstance(self.ledger, VotingLedger) else (),
            presence=presence,
        )
        self._api = Server(self._service, self._trust, identity)
        self._p2p = Server(_Calls(presence.noting(self.ledger.calls, asked=False)), self._trust, identity)

    def _open_snapshots(self) -> SnapshotStore | None:
        if self.genesis.ledger != "cometbft":
            return None
        every = self.config.cometbft.snapshot_every or sys.maxsize
        return SnapshotStore(self.app.store, self.config.data / "snapshots", every=every, restored=self._restored)

    def _open_light(self) -> LightProxy | None:
        """What our CometBFT verifies a snapshot by, where a ticket offers one to an SN that has executed nothing."""
        ticket, state = self._ticket, self.app.store
        if ticket is None or not ticket.snapshot or self.genesis.ledger != "cometbft":
            return None
        if state.height > 0 and state.height != state.begun_at:
            return None
        if NodeName.parse(ticket.sn).domain not in {o.domain for o in self.genesis.organisations}:
            _LOG.warning(
                "%s gave the ticket, whose certificates this SN cannot verify before it has the ledger: all blocks are "
                "executed; a founder's ticket would have spared that",
                ticket.sn,
            )
            return None
        return LightProxy(self._client, Address(node=ticket.sn, endpoint=ticket.api))

    def _open_engine(self, parts: Parts) -> Engine:
        """The engine that the genesis names.

        Raises:
            ConfigurationError: the options are the other engine's.
        """
        config, genesis = self.config, self.genesis
        if config.ledger not in (None, genesis.ledger):
            raise ConfigurationError(
                f"--ledger {config.ledger}: network {genesis.network} was founded with the ledger {genesis.ledger}; "
                "leave --ledger out, or give the founding file that you mean"
            )
        if genesis.ledger == "embedded":
            if replace(config.cometbft, binary=None) != CometOptions():
                raise ConfigurationError(
                    f"network {genesis.network} has the embedded ledger: it takes no option of CometBFT's"
                )
            return open_embedded(parts, config.sentinel)
        if config.sentinel is not None:
            raise ConfigurationError(
                f"network {genesis.network} runs on CometBFT, nobody is its sentinel: leave --sentinel out"
            )
        if not config.p2p_port:
            raise ConfigurationError("CometBFT needs a peer-to-peer port that others know, not 0")
        listen = Endpoint(host=config.host, port=config.p2p_port)
        light = "" if self._light is None else self._light.url
        return open_cometbft(parts, config.cometbft, listen, self._snapshots, self._ticket, light)

    @property
    def part(self) -> str:
        """What this SN is in the order, for people."""
        if self.genesis.ledger == "cometbft":
            return "validator"
        return "sentinel" if self.config.sentinel is None else "follower"

    def _on_commit(self, events: tuple[Event, ...]) -> None:
        """Membership may have changed: whom TLS believes follows the ledger."""
        if self._snapshots is not None:
            self._snapshots.after_commit()
        if any(event.kind == "membership" for event in events):
            self._refresh_trust()

    def _restored(self) -> None:
        """A snapshot's state stands in place of ours."""
        self._refresh_trust()
        self._service.restored()

    def _refresh_trust(self) -> None:
        members: dict[TrustDomain, Trust] = {}
        for organisation in membership.list_organisations(Overlay(self.app.store)):
            members[organisation.domain] = Trust(
                issuers=organisation.issuers, roles=organisation.roles, revoked=organisation.revoked
            )
        self._trust.update(members)

    async def make_ticket(self) -> bytes:
        """A join ticket as of the last block, signed with this SN's certificate key.

        Raises:
            Refused: there is no block yet.
            SwarmError: the engine cannot say that block's hash.
        """
        snapshot = 0 if self._snapshots is None else self._snapshots.newest(self.ledger.height - SNAPSHOT_AGE)
        snapshot_hash = await find_snapshot_hash(self.ledger, snapshot)
        height = self.ledger.height
        if height == 0:
            raise Refused("there is no block yet; ask again when the network runs", code="too-early")
        # All of one moment: nothing else runs before the engine is asked for the hash.
        members = tuple(
            Member(domain=organisation.domain, validator=organisation.validator)
            for organisation in membership.list_organisations(Overlay(self.app.store))
        )
        ticket = Ticket(
            network=self.genesis.network,
            genesis=sha256(encode(self.genesis)),
            ledger=self.genesis.ledger,
            made_ms=system_clock(),
            height=height,
            block_hash=await self.ledger.block_hash(height),
            sentinel=self.ledger.sentinel,
            members=members,
            sn=self.credential.node.id,
            api=self._api_endpoint,
            snapshot=snapshot if snapshot_hash else 0,
            snapshot_hash=snapshot_hash,
        )
        return sign_ticket(ticket, self.credential)

    async def start(self) -> dict[str, int]:
        """Open the ledger and listen; returns the ports by name.

        Raises:
            ConfigurationError: this SN was started to order, and is not the sentinel.
            AddressInUse: a port is taken.
            Broken: the ledger or the state is damaged.
        """
        if self._light is not None:
            await self._light.start()
        await self.ledger.start()
        self._refresh_trust()
        p2p = self.config.p2p_port
        if self.ledger.calls:
            p2p = await self._p2p.start(self.config.host, p2p)
        api = await self._api.start(self.config.host, self.config.api_port)
        self._endpoint = Endpoint(host=self.config.host, port=p2p)
        self._api_endpoint = Endpoint(host=self.config.host, port=api)
        return {"api": api, "p2p": p2p}

    async def register(self) -> None:
        """Register our own signing key and peer-to-peer endpoint, unless the ledger knows them; `run` must run.

        On CometBFT a member waits until the ledger goes on, however long that takes.
        Whoever joined with a ticket catches up first: before its admission its own state does not know it.

        Raises:
            WaitExpired: the sentinel did not answer, or this SN was no member or held no further block, in time.
            ForkDetected: the block that the ticket names is another one here.
            Refused: the ledger refused the registration.
        """
        if self._ticket is not None:
            await catch_up(self.ledger, self._ticket, REGISTER_WAIT_S, begun_at=lambda: self.app.store.begun_at)
            forget_ticket(self.config.data)
        node = self.credential.node.id
        if self.genesis.ledger == "cometbft":
            domain = self.credential.node.domain
            await until_level(self.ledger, lambda: self._is_member(domain), domain, REGISTER_WAIT_S)
        known = membership.load_node(Overlay(self.app.store), node)
        registered = membership.is_registered(known, self._key.public, self.credential.certificate_der)
        if known is not None and registered and known.endpoint == self._endpoint:
            return
        proof = self.credential.sign_proof(registration_bytes(self.genesis.network, node, self._key.public))
        message = RegisterNode(
            node=node, certificate=self.credential.certificate_der, proof=proof, endpoint=self._endpoint
        )
        tx = sign_message(self._key, self.genesis.network, message, self.ledger.height)
        _, result = await self.ledger.submit(tx, timeout_s=REGISTER_WAIT_S)
        if result.code is Code.EXPIRED:
            raise WaitExpired("the ledger ran ahead while this SN registered; start it again")
        if result.code is not Code.OK:
            raise Refused(f"registration of {self.credential.node.short}: {result.log}", code=result.code.name.lower())

    def _is_member(self, domain: TrustDomain) -> bool:
        return membership.load_organisation(Overlay(self.app.store), domain) is not None

    async def run(self) -> None:
        """Order or follow until cancelled.

        Raises:
            ForkDetected: the sentinel signed two chains.
            ConfigurationError: a handover made another SN the sentinel, or what this one holds void.
            Broken: the application or the disk failed.
        """
        await self.ledger.run()

    async def stop(self) -> None:
        """Stop serving and close the ledger."""
        await self._api.stop()
        await self._p2p.stop()
        await self.ledger.stop()
        if self._light is not None:
            await self._light.stop()
        if self._snapshots is not None:
            self._snapshots.close()
        await self._client.close()
        self.app.store.close()
