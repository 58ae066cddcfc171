"""Join tickets: what a member tells an organisation that was admitted after the founding, signed by its SN.

The founding file does not name the newcomer, and may name validators that are long gone. The ticket names the present
ones, so that the newcomer knows whom to ask for the blocks that say the rest; and a recent block. It is only an
introduction: what the newcomer executes itself decides from the ticket's block on.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol

from swarmlearning.contracts.records import Genesis
from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import (
    ConfigurationError,
    DecodeError,
    ForkDetected,
    Refused,
    Unreachable,
    VerificationError,
    WaitExpired,
)
from swarmlearning.identity.files import PUBLIC_MODE, read_file, write_file
from swarmlearning.identity.source import Credential
from swarmlearning.identity.verify import verify_leaf, verify_proof
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

_LOG: Final = logging.getLogger("swarmlearning")
_RETRY_S: Final = 0.5

TICKET_DOMAIN: Final = b"swarmlearning join ticket v1\x00"
"""Prefix of what a ticket's signature covers, so that it can pass for nothing else."""

TICKET_HOURS: Final = 48
"""How long a ticket is good: as long as evidence against those whom it names is accepted."""

MAX_AHEAD_MS: Final = 5 * 60_000
"""A ticket of a later time than this is refused: one of the two clocks is wrong."""

TICKET_FILE: Final = "ticket.bin"
"""The ticket within an SN's data directory."""


class Member(Record, frozen=True, kw_only=True):
    """A member, as of the ticket's block."""

    domain: TrustDomain
    validator: Validator | None = None
    """None where a sentinel orders."""


class Ticket(Record, frozen=True, kw_only=True):
    """What an SN says of its network."""

    network: str
    genesis: bytes
    """SHA-256 of the founding file."""
    ledger: Literal["embedded", "cometbft"]
    made_ms: int
    """By the SN's clock, milliseconds since the epoch."""
    height: int
    block_hash: bytes
    """Of the block of that height as the engine counts it, 32 bytes."""
    sentinel: NodeId
    """Who orders; empty where validators do."""
    members: tuple[Member, ...]
    sn: NodeId
    """Who gives it."""
    api: Endpoint
    """Where that SN answers another member's."""
    snapshot: int = 0
    """Height of a snapshot of the state that the validators' nodes give away; 0: none."""
    snapshot_hash: bytes = b""
    """Hash of the block of that height; empty without one."""

    @property
    def validators(self) -> dict[TrustDomain, Validator]:
        """Who votes for each member."""
        return {member.domain: member.validator for member in self.members if member.validator is not None}


class SignedTicket(Record, frozen=True, kw_only=True):
    """A ticket as it is sent."""

    ticket: bytes
    certificate: bytes
    """Of the SN, DER."""
    signature: bytes
    """By the certificate's key over `TICKET_DOMAIN + ticket`."""


def sign_ticket(ticket: Ticket, credential: Credential) -> bytes:
    """A ticket, signed by an SN's certificate key, as bytes."""
    data = encode(ticket)
    signature = credential.sign_proof(TICKET_DOMAIN + data)
    return encode(SignedTicket(ticket=data, certificate=credential.certificate_der, signature=signature))


def decode_ticket(data: bytes) -> Ticket:
    """Read a signed ticket; nothing in it is verified.

    Raises:
        DecodeError: it is malformed.
    """
    ticket = decode(_open(data).ticket, Ticket)
    if len(ticket.genesis) != 32 or len(ticket.block_hash) != 32 or ticket.height < 1:
        raise DecodeError("join ticket: expected two hashes of 32 bytes and a height of 1 or more")
    if not 0 <= ticket.snapshot <= ticket.height or len(ticket.snapshot_hash) != (32 if ticket.snapshot else 0):
        raise DecodeError("join ticket: expected a snapshot of a block before, with its hash, or none")
    return ticket


def _open(data: bytes) -> SignedTicket:
    try:
        return decode(data, SignedTicket)
    except DecodeError as error:
        raise DecodeError(f"no join ticket as `swarm network ticket` writes it: {error}") from error


def verify_ticket(data: bytes, issuers: tuple[bytes, ...], founding: bytes, genesis: Genesis, now_ms: int) -> Ticket:
    """See that a member's SN made this ticket for this network, lately.

    Args:
        data: the signed ticket.
        issuers: CA certificates (DER) of the member, which the newcomer has from another channel.
        founding: the founding file's bytes.
        genesis: the same, decoded.
        now_ms: milliseconds since the epoch.

    Raises:
        DecodeError: it is malformed.
        VerificationError: it is not signed by an SN under one of these CAs, or is for another network, or too old.
    """
    # 1. The certificate is one that the trusted CA issued, of an SN in this network.
    signed = _open(data)
    try:
        signer = verify_leaf(signed.certificate, issuers, now_ms)
    except VerificationError as error:
        raise VerificationError(f"join ticket: {error}; expected the CA of the member who gave it") from error
    if signer.role is not Role.SN or signer.network != genesis.network:
        raise VerificationError(f"join ticket: signed by {signer.id}; expected an SN of the network {genesis.network}")
    # 2. Its key signed exactly these bytes.
    try:
        verify_proof(signed.certificate, TICKET_DOMAIN + signed.ticket, signed.signature)
    except VerificationError as error:
        raise VerificationError(f"join ticket: {error}; it was changed on its way, ask for it again") from error
    # 3. They speak of this network, and of the signer as a member.
    ticket = decode_ticket(data)
    if (ticket.network, ticket.ledger, ticket.genesis) != (genesis.network, genesis.ledger, sha256(founding)):
        raise VerificationError(
            f"join ticket: for the network {ticket.network} of fingerprint {ticket.genesis.hex()[:16]}..., expected "
            f"{genesis.network} of {sha256(founding).hex()[:16]}...; compare the founding files"
        )
    if signer.domain not in {member.domain for member in ticket.members}:
        raise VerificationError(f"join ticket: {signer.domain}, which signed it, is no member by its own word")
    if ticket.sn != signer.id:
        raise VerificationError(f"join ticket: signed by {signer.id}, but {ticket.sn} is named as who gave it")
    # 4. They are recent.
    if not now_ms - TICKET_HOURS * 3_600_000 <= ticket.made_ms <= now_ms + MAX_AHEAD_MS:
        hours = (now_ms - ticket.made_ms) / 3_600_000
        raise VerificationError(
            f"join ticket: made {hours:.1f} hours ago by this clock, expected 0 to {TICKET_HOURS}; ask for a new one"
        )
    return ticket


def save_ticket(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a signed ticket; over another file only with `force`.

    Raises:
        IdentityError: it exists and `force` is not given, or it cannot be written.
    """
    write_file(path, data, mode=PUBLIC_MODE, force=force)


def find_ticket(directory: Path, founding: bytes) -> Ticket | None:
    """The ticket that `swarm network join` verified and put into an SN's data directory, None if there is none.

    Raises:
        ConfigurationError: what lies there is none, or another network's.
        IdentityError: it cannot be read.
    """
    path = directory / TICKET_FILE
    if not path.exists():
        return None
    try:
        ticket = decode_ticket(read_file(path, "join ticket"))
    except DecodeError as error:
        raise ConfigurationError(f"{path}: {error}; join again with a new ticket (swarm network join)") from error
    if ticket.genesis != sha256(founding):
        raise ConfigurationError(f"{path} is for another network than the founding file; remove it, or join again")
    return ticket


def forget_ticket(directory: Path) -> None:
    """Remove the ticket from an SN's data directory: it has served.

    Raises:
        ConfigurationError: it cannot be removed.
    """
    try:
        (directory / TICKET_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{directory / TICKET_FILE} cannot be removed: {error.strerror}") from error


class Follower(Protocol):
    """What is needed of an engine that catches up."""

    @property
    def height(self) -> int:
        """Of the last block that is committed here."""
        ...

    @property
    def problem(self) -> str:
        """What keeps it from following, for people."""
        ...

    async def wait_height(self, above: int) -> int:
        """Wait until the height exceeds `above`, and return it."""
        ...

    async def block_hash(self, height: int) -> bytes:
        """Hash of a committed block, 32 bytes."""
        ...


async def catch_up(
    ledger: Follower, ticket: Ticket, limit_s: float, *, begun_at: Callable[[], int] = lambda: 0
) -> None:
    """A-12: wait until the ticket's block is committed here, and see that it is the one that the member meant.

    Where the state was restored from a newer snapshot that block is not kept here; the engine has verified the
    snapshot by what the ticket names.

    Args:
        ledger: catches up.
        ticket: names the block.
        limit_s: how long to wait for a further block.
        begun_at: height of the snapshot from which the state was restored; 0 if it was not.

    Raises:
        WaitExpired: no further block came for `limit_s` seconds, or that block's hash cannot be asked for.
        ForkDetected: it is another block.
        SwarmError: the engine halted.
    """
    if ledger.height < ticket.height:
        _LOG.info("catching up to block %d, which the join ticket names", ticket.height)
    while (height := ledger.height) < ticket.height:
        try:
            await asyncio.wait_for(ledger.wait_height(height), limit_s)
        except TimeoutError as error:
            raise WaitExpired(
                f"at block {height} of {ticket.height} that the join ticket names, and no further one for "
                f"{limit_s:.0f} s: {ledger.problem or 'nobody sends it'}"
            ) from error
    try:
        found = await _hash_of(ledger, ticket.height, limit_s)
    except Refused:
        if ticket.height < begun_at():
            return
        raise
    if found != ticket.block_hash:
        raise ForkDetected(
            f"block {ticket.height} is {found.hex()[:16]} here, the join ticket says {ticket.block_hash.hex()[:16]}: "
            "somebody shows this SN another history; ask the member who gave the ticket"
        )


async def _hash_of(ledger: Follower, height: int, limit_s: float) -> bytes:
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while True:
        try:
            return await ledger.block_hash(height)
        except Unreachable as error:
            if asyncio.get_running_loop().time() >= deadline_s:
                raise WaitExpired(f"the hash of block {height}, to compare it with the ticket's: {error}") from error
            await asyncio.sleep(_RETRY_S)


async def find_snapshot_hash(ledger: Follower, height: int) -> bytes:
    """Hash of the block of which there is a snapshot, for a ticket; empty for `height` 0, or if it is not kept.

    Raises:
        SwarmError: the engine cannot say.
    """
    if height == 0:
        return b""
    try:
        return await ledger.block_hash(height)
    except Refused as error:
        # With it are gone blocks after it, which a newcomer would need.
        _LOG.warning(
            "the join ticket names no snapshot: the block of the newest one, %d, is not kept (%s); keep more than "
            "twice as many blocks (--keep-blocks) as there are from one snapshot to the next (--snapshot-every)",
            height,
            error,
        )
        return b""


def describe_ticket(ticket: Ticket) -> str:
    """One line for people."""
    sentinel = f"sentinel {NodeName.parse(ticket.sentinel).short}" if ticket.sentinel else ""
    who = sentinel or f"{len(ticket.validators)} validators"
    shown = f"{ticket.network}, block {ticket.height}, {len(ticket.members)} members, {who}"
    return f"{shown}, snapshot of block {ticket.snapshot}, {ticket.snapshot_hash.hex()}" if ticket.snapshot else shown
