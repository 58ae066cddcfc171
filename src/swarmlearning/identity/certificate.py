"""An X.509 certificate as the few facts that verification rests on. Reads; judges nothing but the form.

All use of the parser is here, so that bytes from outside can raise nothing but `VerificationError`.
Spec: docs/spec/identity.md, section Certificates.
"""

import datetime as dt
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from swarmlearning.errors import VerificationError

PARSED: Final = 128
"""Certificates that are remembered as read."""

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
"""Largest certificate read, bytes (DER)."""

_LAST_MS: Final = 253_402_300_799_000
"""The end of the year 9999, the last time a certificate can name."""

_PARSER_ERRORS: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    InternalError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a certificate says; nothing of it is verified."""

    der: bytes
    subject: x509.Name
    issuer: x509.Name
    not_before_ms: int
    not_after_ms: int
    key: CertificatePublicKeyTypes
    key_type: str
    """For people, such as `ECDSA P-256`."""
    key_canonical: bytes
    """The key as named-curve, uncompressed SubjectPublicKeyInfo, DER."""
    is_ca: bool
    key_usage: x509.KeyUsage | None
    critical: frozenset[x509.ObjectIdentifier]
    """Extensions that whoever does not understand them must not ignore."""
    uris: tuple[str, ...]
    hosts: tuple[str, ...]
    """DNS names and IP addresses."""
    signed: bytes
    signature: bytes
    signature_oid: x509.ObjectIdentifier


@lru_cache(maxsize=PARSED)
def parse_certificate(der: bytes) -> Certificate:
    """Read a DER certificate. Those of open connections are looked at every second, so the last ones are remembered.

    Raises:
        VerificationError: too large, or not an X.509 version 3 certificate.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise VerificationError(f"certificate of {len(der)} bytes, at most {MAX_CERTIFICATE_BYTES} are accepted")
    try:
        return _read(x509.load_der_x509_certificate(der), der)
    except _PARSER_ERRORS as error:
        raise VerificationError(f"certificate cannot be read: {' '.join(str(error).split())[:200]}") from error


def fingerprint(der: bytes) -> bytes:
    """SHA-256 of a certificate, 32 bytes: what `openssl x509 -fingerprint -sha256` shows."""
    return hashlib.sha256(der).digest()


def show_time(ms: int) -> str:
    """A time as people read it in errors, UTC."""
    if not 0 <= ms <= _LAST_MS:
        return f"{ms} ms since 1970"
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def show_name(name: x509.Name) -> str:
    """A distinguished name for an error message: one line, bounded, printable."""
    text = "".join(c if c.isprintable() else "?" for c in name.rfc4514_string())
    return text if len(text) <= 120 else text[:117] + "..."


def _read(cert: x509.Certificate, der: bytes) -> Certificate:
    if cert.version is not x509.Version.v3:
        raise ValueError("expected X.509 version 3")
    is_ca, usage, uris, hosts = False, None, [], []
    critical = set()
    for extension in cert.extensions:
        if extension.critical:
            critical.add(extension.oid)
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            is_ca = value.ca
        elif isinstance(value, x509.KeyUsage):
            usage = value
        elif isinstance(value, x509.SubjectAlternativeName):
            uris = value.get_values_for_type(x509.UniformResourceIdentifier)
            hosts = [
                *value.get_values_for_type(x509.DNSName),
                *(str(ip) for ip in value.get_values_for_type(x509.IPAddress)),
            ]
    key = cert.public_key()
    return Certificate(
        der=der,
        subject=cert.subject,
        issuer=cert.issuer,
        not_before_ms=_milliseconds(cert.not_valid_before_utc),
        not_after_ms=_milliseconds(cert.not_valid_after_utc),
        key=key,
        key_type=_key_type(key),
        key_canonical=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        is_ca=is_ca,
        key_usage=usage,
        critical=frozenset(critical),
        uris=tuple(uris),
        hosts=tuple(hosts),
        signed=cert.tbs_certificate_bytes,
        signature=cert.signature,
        signature_oid=cert.signature_algorithm_oid,
    )


def _milliseconds(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1000


def _key_type(key: CertificatePublicKeyTypes) -> str:
    match key:
        case ec.EllipticCurvePublicKey():
            names = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
            return f"ECDSA {names.get(key.curve.name, key.curve.name)}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case _:
            return type(key).__name__.removesuffix("PublicKey")


# --- one certificate, one encoding ------------------------------------------------------------------------------

# AlgorithmIdentifiers, DER (RFC 5758, section 3.2, and RFC 8410, section 3): no parameters, not even NULL.
SIGNATURE_ALGORITHMS: Final = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: bytes.fromhex("300a06082a8648ce3d040302"),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: bytes.fromhex("300a06082a8648ce3d040303"),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: bytes.fromhex("300a06082a8648ce3d040304"),
    SignatureAlgorithmOID.ED25519: bytes.fromhex("300506032b6570"),
}
"""Algorithms that an authority may sign with."""


_ORDERS: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
)
"""Orders of P-256 and P-384, the curves an authority may use (SEC 2, sections 2.4.2 and 2.5.1)."""


def with_signature(certificate: Certificate, signature: bytes) -> bytes:
    """The same content under `signature`, DER; the one encoding in which we accept it.

    What stands outside the signed part (the algorithm's parameters, the count of unused bits) no signature protects.

    Raises:
        KeyError: the signature's algorithm is not among `SIGNATURE_ALGORITHMS`.
    """
    tail = SIGNATURE_ALGORITHMS[certificate.signature_oid] + _tagged(0x03, b"\x00" + signature)
    return _tagged(0x30, certificate.signed + tail)


def twin_signature(signature: bytes) -> bytes | None:
    """The other ECDSA signature of the same content by the same key: with (r, s) also (r, order - s) verifies.

    None where the signature is not a pair of integers in DER, as with Ed25519, which has no such twin.
    """
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return None
    # Two numbers that small come from P-384 with a chance of 2 to the power of -256.
    order = next((order for order in _ORDERS if r < order and 0 < s < order), None)
    return None if order is None else encode_dss_signature(r, order - s)


def _tagged(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value
