"""A network's founding file, `genesis.bin`: who the first organisations are and which node orders transactions.

All founders start from the same bytes; they compare the fingerprint (SHA-256) over another channel. Does not start
anything. Spec: docs/spec/membership.md, section Genesis.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import ConfigurationError, DecodeError, IdentityError, VerificationError
from swarmlearning.identity.certificate import parse_certificate, show_name, show_time
from swarmlearning.identity.files import PUBLIC_MODE, read_file, write_file
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.verify import MAX_ISSUERS, fingerprint, read_node, verify_issuer, verify_leaf
from swarmlearning.types import NodeId, Role, TrustDomain, check_label

GENESIS_VERSION: Final = 1
"""Version of the rules (`transition`) that a new network starts with."""


def create_genesis(
    *,
    network: str,
    organisations: Mapping[TrustDomain, Sequence[bytes]],
    sentinel_certificate: bytes,
    sentinel_key: bytes,
    now_ms: int,
) -> Genesis:
    """Found a network.

    Args:
        network: its name, a part of every identity.
        organisations: for each trust domain the CA certificates (DER) that issue its nodes' certificates.
        sentinel_certificate: of the SN that orders transactions, DER.
        sentinel_key: raw Ed25519 public key with which the sentinel signs blocks, 32 bytes.
        now_ms: milliseconds since the epoch.

    Raises:
        ConfigurationError: no organisation; one without or with too many CAs; a CA of two organisations; the sentinel
            is no SN of one of them.
        InvalidName: a name is malformed.
        VerificationError: a certificate does not verify now.
    """
    verify_founders(network, organisations)
    sentinel = _verify_sentinel(network, organisations, sentinel_certificate, now_ms)
    return Genesis(
        network=network,
        version=GENESIS_VERSION,
        created_ms=now_ms,
        sentinel=sentinel,
        sentinel_key=sentinel_key,
        organisations=tuple(
            Organisation(domain=domain, issuers=tuple(sorted(set(organisations[domain]))))
            for domain in sorted(organisations)
        ),
    )


def verify_founders(network: str, organisations: Mapping[TrustDomain, Sequence[bytes]]) -> None:
    """See that these organisations, with these CA certificates (DER), can found a network of that name.

    Raises:
        ConfigurationError: no organisation; one without or with too many CAs; a CA of two organisations.
        InvalidName: a name is malformed.
        VerificationError: a certificate is no CA's.
    """
    check_label("network name", network)
    if not organisations:
        raise ConfigurationError("a network needs at least one organisation: --organisation DOMAIN=CA.pem")
    owners: dict[bytes, TrustDomain] = {}
    for domain, issuers in organisations.items():
        check_label("trust domain", domain)
        if not 1 <= len(set(issuers)) <= MAX_ISSUERS:
            raise ConfigurationError(f"{domain}: {len(set(issuers))} CA certificates, expected 1-{MAX_ISSUERS}")
        for issuer in issuers:
            verify_issuer(issuer)
            # One CA for two organisations would let each name the other's nodes.
            if owners.setdefault(issuer, domain) != domain:
                raise ConfigurationError(f"{domain} and {owners[issuer]} list the same CA; each needs its own")


def _verify_sentinel(
    network: str, organisations: Mapping[TrustDomain, Sequence[bytes]], certificate: bytes, now_ms: int
) -> NodeId:
    claimed = read_node(certificate)
    if claimed.domain not in organisations:
        raise ConfigurationError(f"the sentinel {claimed.id} belongs to none of: {', '.join(sorted(organisations))}")
    node = verify_leaf(certificate, organisations[claimed.domain], now_ms)
    if node.role is not Role.SN:
        raise ConfigurationError(f"the sentinel's certificate is for the role {node.role}, expected {Role.SN}")
    if node.network != network:
        raise ConfigurationError(
            f"the sentinel's certificate is for the network {node.network!r}, expected {network!r}"
        )
    return node.id


def genesis_fingerprint(genesis: Genesis) -> bytes:
    """SHA-256 of the founding file, 32 bytes: what the founders compare."""
    return sha256(encode(genesis))


def save_genesis(path: Path, genesis: Genesis, *, force: bool = False) -> None:
    """Write the founding file; over another one only with `force`.

    Raises:
        IdentityError: it exists and `force` is not given, or it cannot be written.
    """
    write_file(path, encode(genesis), mode=PUBLIC_MODE, force=force)


def load_genesis(path: Path) -> Genesis:
    """Read a founding file.

    Raises:
        ConfigurationError: it cannot be read, or is no founding file.
    """
    data = read_file(path, "genesis")
    try:
        return decode(data, Genesis)
    except DecodeError as error:
        raise ConfigurationError(f"{path} is not a genesis as `swarm network create` writes it ({error})") from error


# --- what founders hand in ---------------------------------------------------------------------------------------


def read_public_key(path: Path) -> bytes:
    """The raw Ed25519 public key (32 bytes) in a PEM file.

    Raises:
        IdentityError: it cannot be read or holds something else.
    """
    data = read_file(path, "public key")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"public key {path}: not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError(f"public key {path}: expected an Ed25519 key, got {type(key).__name__}")
    return key.public_bytes_raw()


def parse_organisations(entries: Sequence[str]) -> dict[TrustDomain, tuple[bytes, ...]]:
    """Read `DOMAIN=CA.pem` entries; a domain given twice has both files' CAs.

    Raises:
        ConfigurationError: an entry is malformed.
        IdentityError: a file cannot be read or holds no certificate.
    """
    found: dict[TrustDomain, tuple[bytes, ...]] = {}
    for entry in entries:
        domain, separator, path = entry.partition("=")
        if not domain or not separator or not path:
            raise ConfigurationError(
                f"organisation {entry!r}: expected DOMAIN=CA.pem, such as cleveland.example=ca.pem"
            )
        name = TrustDomain(check_label("trust domain", domain))
        found[name] = found.get(name, ()) + read_certificates(Path(path), f"CA certificate of {domain}")
    return found


def tolerated(validators: int) -> int:
    """How many of so many equal validators may be faulty, dishonest or away: fewer than a third."""
    return (validators - 1) // 3


def describe_tolerance(validators: int) -> str:
    """What so many validators withstand, for people."""
    most = tolerated(validators)
    if not most:
        return f"{validators}, none of which may fail or cheat"
    return f"{validators}, of which {most} may fail or cheat"


def describe_genesis(genesis: Genesis) -> str:
    """The founding file for people."""
    created = dt.datetime.fromtimestamp(genesis.created_ms / 1000, dt.UTC)
    lines = [
        f"network      {genesis.network} (rules version {genesis.version})",
        f"fingerprint  {genesis_fingerprint(genesis).hex()}",
        f"created      {created:%Y-%m-%d %H:%M:%S} UTC",
        f"ledger       {genesis.ledger}",
    ]
    if genesis.ledger == "embedded":
        lines.append(f"sentinel     {genesis.sentinel}")
        lines.append(f"             signs blocks with {genesis.sentinel_key.hex()}")
    else:
        lines.append(f"validators   {describe_tolerance(len(genesis.organisations))}")
    lines.append(f"organisations ({len(genesis.organisations)})")
    for organisation in genesis.organisations:
        lines.append(f"  {organisation.domain}  roles {', '.join(organisation.roles)}")
        lines += [f"    CA {fingerprint(issuer).hex()}  {_subject(issuer)}" for issuer in organisation.issuers]
        if (validator := organisation.validator) is not None:
            lines.append(f"    votes with {validator.key.hex()}")
            lines.append(f"    reached at {validator.endpoint}, peer {validator.peer}")
    return "\n".join(lines)


def _subject(issuer: bytes) -> str:
    try:
        certificate = parse_certificate(issuer)
    except VerificationError:
        return "(cannot be read)"
    return f"{show_name(certificate.subject)}, valid to {show_time(certificate.not_after_ms)}"
