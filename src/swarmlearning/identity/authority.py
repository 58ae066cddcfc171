"""A small certificate authority for pilots: one organisation, one key in a directory, leaves issued directly.

Does not keep a register of what it issued, and revokes nothing: revocation is on the ledger. An organisation with an
authority of its own uses that instead; the profile that nodes accept is in docs/spec/identity.md, section Certificates.
"""

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmlearning.errors import ConfigurationError, IdentityError, InvalidName, VerificationError
from swarmlearning.identity.certificate import fingerprint, parse_certificate, show_time
from swarmlearning.identity.files import (
    PUBLIC_MODE,
    SECRET_MODE,
    make_directory,
    read_secret,
    write_file,
)
from swarmlearning.identity.pem import read_certificates, to_pem
from swarmlearning.identity.verify import read_node, verify_issuer, verify_leaf
from swarmlearning.types import NodeName, TrustDomain, check_label

LEAF_DAYS: Final = 365
CA_DAYS: Final = 3650
MAX_HOSTS: Final = 32

BACKDATE: Final = dt.timedelta(minutes=5)
"""Certificates start this much in the past: the clocks of other institutions are not ours."""

CA_CERTIFICATE: Final = "ca.cert.pem"
CA_KEY: Final = "ca.key.pem"

LeafKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")


@dataclass(frozen=True, kw_only=True)
class Issued:
    """Where a node's new identity was written, and when it ends."""

    node: NodeName
    certificate: Path
    key: Path
    issuer: Path
    not_after_ms: int


class Authority:
    """An organisation's CA, loaded from its directory; `certificate` is DER."""

    domain: TrustDomain
    certificate: bytes

    def __init__(self, domain: TrustDomain, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        self.domain = domain
        self.certificate = certificate
        self._key = key

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Load what `create_ca` wrote.

        Raises:
            IdentityError: a file is missing, not a CA of ours, or key and certificate do not belong together.
        """
        path = directory / CA_CERTIFICATE
        der = read_certificates(path, "CA certificate")[0]
        try:
            verify_issuer(der)
        except VerificationError as error:
            raise IdentityError(f"{path}: {error}") from error
        uris = parse_certificate(der).uris
        if len(uris) != 1 or not uris[0].startswith("spiffe://"):
            raise IdentityError(f"{path}: names no organisation; expected a CA made by `swarm ca init`")
        try:
            domain = TrustDomain(check_label("trust domain", uris[0].removeprefix("spiffe://")))
        except InvalidName as error:
            raise IdentityError(f"{path}: {error}") from error
        key = _load_key(directory / CA_KEY)
        authority = cls(domain, der, key)
        if _canonical(key.public_key()) != parse_certificate(der).key_canonical:
            raise IdentityError(f"{directory / CA_KEY}: is not the key of {path}; restore the pair from your backup")
        return authority

    def sign_leaf(self, node: NodeName, key: LeafKey, hosts: Sequence[str], at_ms: int, days: int = LEAF_DAYS) -> bytes:
        """Issue a certificate (DER) that binds `key` to `node`; it ends with the CA's at the latest.

        Raises:
            InvalidName: a host is neither a DNS name nor an IP address, or there are too many.
            IdentityError: the node is another organisation's, or the CA itself has ended.
        """
        if node.domain != self.domain:
            raise IdentityError(f"{node.id}: the CA of {self.domain} cannot name nodes of {node.domain}")
        ca = x509.load_der_x509_certificate(self.certificate)
        start = _time(at_ms) - BACKDATE
        end = min(_time(at_ms) + dt.timedelta(days=_check_days(days)), ca.not_valid_after_utc)
        if end <= _time(at_ms):
            raise IdentityError(
                f"the CA of {self.domain} ended on {show_time(int(end.timestamp() * 1000))}; "
                f"make a new one (`swarm ca init`)"
            )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(node.id), *_host_names(hosts)]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(_distinguished(node.name, node.domain), ca.subject, key, max(start, ca.not_valid_before_utc), end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def create_ca(directory: Path, organisation: str, *, at_ms: int, days: int = CA_DAYS, force: bool = False) -> Authority:
    """Make an organisation's CA: `ca.cert.pem`, to be shown to everybody, and `ca.key.pem`, to be shown to nobody.

    Raises:
        InvalidName: the organisation is not a trust domain.
        IdentityError: there is a CA already and `force` is not given, or it cannot be written.
    """
    domain = TrustDomain(check_label("organisation", organisation))
    key = ec.generate_private_key(ec.SECP256R1())
    name = _distinguished("Swarm CA", domain)
    start, end = _time(at_ms) - BACKDATE, _time(at_ms) + dt.timedelta(days=_check_days(days))
    builder = (
        _builder(name, name, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    der = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    make_directory(directory, mode=0o700)
    _refuse_existing([directory / CA_CERTIFICATE, directory / CA_KEY], force=force)
    write_file(directory / CA_KEY, _private_pem(key), mode=SECRET_MODE, force=force)
    write_file(directory / CA_CERTIFICATE, to_pem(der), mode=PUBLIC_MODE, force=force)
    return Authority(domain, der, key)


def issue_certificate(
    authority: Authority,
    node: NodeName,
    hosts: Sequence[str],
    directory: Path,
    *,
    at_ms: int,
    days: int = LEAF_DAYS,
    force: bool = False,
) -> Issued:
    """Make a key and a certificate for a node: `NAME.key.pem`, `NAME.cert.pem`, and beside them `DOMAIN.ca.pem`.

    Raises:
        InvalidName: a host is malformed.
        IdentityError: files exist and `force` is not given, the CA has ended, or they cannot be written.
    """
    issued = _place(directory / f"{node.name}.cert.pem", node)
    key = ec.generate_private_key(ec.SECP256R1())
    der = authority.sign_leaf(node, key.public_key(), hosts, at_ms, days)
    make_directory(directory)
    _refuse_existing([issued.certificate, issued.key], force=force)
    _write_issuer(issued.issuer, authority, force=force)
    # The certificate last: where it is, the rest is.
    write_file(issued.key, _private_pem(key), mode=SECRET_MODE, force=force)
    write_file(issued.certificate, to_pem(der), mode=PUBLIC_MODE, force=force)
    return _dated(issued, der)


def renew_certificate(
    authority: Authority, path: Path, *, at_ms: int, days: int = LEAF_DAYS, new_key: bool = False
) -> Issued:
    """Replace a certificate by one with the same names and a new end, also after it has expired.

    The key stays, unless `new_key` asks for another, which then replaces `NAME.key.pem` beside the certificate.

    Raises:
        IdentityError: the certificate cannot be read, this CA did not issue it, or the new one cannot be written.
    """
    old = read_certificates(path, "certificate")[0]
    try:
        facts = parse_certificate(old)
        # At its own last moment: an expired certificate is what people renew most.
        node = verify_leaf(old, [authority.certificate], min(at_ms, facts.not_after_ms))
    except VerificationError as error:
        raise IdentityError(f"{path}: cannot be renewed by the CA of {authority.domain}: {error}") from error
    issued = _place(path, read_node(old))
    key = facts.key
    if not isinstance(key, LeafKey):  # verify_leaf accepts no other
        raise IdentityError(f"{path}: key {facts.key_type} cannot be renewed")
    if new_key:
        private = ec.generate_private_key(ec.SECP256R1())
        key = private.public_key()
    der = authority.sign_leaf(node, key, facts.hosts, at_ms, days)
    if new_key:
        # A reader between these two writes sees a key that does not match, and keeps what it has loaded.
        write_file(issued.key, _private_pem(private), mode=SECRET_MODE, force=True)
    write_file(path, to_pem(der), mode=PUBLIC_MODE, force=True)
    return _dated(issued, der)


# --- parts ------------------------------------------------------------------------------------------------------


def _builder(
    subject: x509.Name, issuer: x509.Name, key: LeafKey, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _distinguished(name: str, domain: TrustDomain) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _host_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    if len(hosts) > MAX_HOSTS:
        raise InvalidName(f"{len(hosts)} hosts, at most {MAX_HOSTS} fit in a certificate")
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise InvalidName(
                    f"host {host[:80]!r}: expected a DNS name (no wildcard, no port) or an IP address"
                ) from None
            names.append(x509.DNSName(host))
    return names


def _check_days(days: int) -> int:
    if not 1 <= days <= 36_500:
        raise ConfigurationError(f"validity of {days} days: expected 1-36500")
    return days


def _time(at_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_ms // 1000, dt.UTC)


def _place(certificate: Path, node: NodeName) -> Issued:
    stem = certificate.name.removesuffix(".cert.pem").removesuffix(".pem")
    return Issued(
        node=node,
        certificate=certificate,
        key=certificate.with_name(f"{stem}.key.pem"),
        issuer=certificate.with_name(f"{node.domain}.ca.pem"),
        not_after_ms=0,
    )


def _dated(issued: Issued, der: bytes) -> Issued:
    return Issued(
        node=issued.node,
        certificate=issued.certificate,
        key=issued.key,
        issuer=issued.issuer,
        not_after_ms=parse_certificate(der).not_after_ms,
    )


def _refuse_existing(paths: Sequence[Path], *, force: bool) -> None:
    # Before the first write, so that a refusal leaves nothing half done.
    for path in paths:
        if path.exists() and not force:
            raise IdentityError(f"{path} exists; choose another place, or overwrite it with --force")


def _write_issuer(path: Path, authority: Authority, *, force: bool) -> None:
    if path.exists() and not force:
        known = {fingerprint(der) for der in read_certificates(path, "CA certificate")}
        if fingerprint(authority.certificate) in known:
            return
    write_file(path, to_pem(authority.certificate), mode=PUBLIC_MODE, force=force)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    data = read_secret(path, "CA key")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"CA key {path}: not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"CA key {path}: expected an ECDSA key, got {type(key).__name__}")
    return key


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _canonical(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
