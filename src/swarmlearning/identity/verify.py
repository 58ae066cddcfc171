"""Does this certificate name that node? A pure answer from bytes, a list of issuers and a time.

The ledger gives it in every replica, so it must be the same on every machine and in every release. Therefore step by
step, and not by `cryptography.x509.verification`, whose policy (which extensions must be there, which keys are
allowed) differs between its releases and follows the public web's rules. There are no chains: an organisation lists
the authorities that issue its leaf certificates directly.

Does not know which organisation may name whom (`trust`). Spec: docs/spec/identity.md, section Verification.
"""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from swarmlearning.errors import InvalidName, VerificationError
from swarmlearning.identity.certificate import (
    SIGNATURE_ALGORITHMS,
    Certificate,
    fingerprint,
    parse_certificate,
    show_name,
    show_time,
    twin_signature,
    with_signature,
)
from swarmlearning.types import NodeName

__all__ = [
    "fingerprint",
    "fingerprints",
    "is_revoked",
    "read_node",
    "read_not_after",
    "verify_issuer",
    "verify_leaf",
    "verify_proof",
]

MAX_ISSUERS: Final = 16
"""Most authorities an organisation may list."""

_MAX_SIGNATURE_BYTES: Final = 256

# Every critical extension that is not among these refuses the certificate (RFC 5280, section 4.2). Name constraints
# are missing on purpose: they are not evaluated, so an authority under them cannot be one of ours.
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
_ECDSA_HASHES: Final[dict[x509.ObjectIdentifier, hashes.HashAlgorithm]] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: hashes.SHA512(),
}


def verify_leaf(der: bytes, issuers: Sequence[bytes], at_ms: int) -> NodeName:
    """Verify a node's certificate and return whom it names.

    Args:
        der: the certificate.
        issuers: DER certificates of the authorities that may have issued it, each of them directly.
        at_ms: when it must be valid, milliseconds since the epoch.

    Raises:
        VerificationError: a step fails; the message says which.
    """
    # 1. It is a version 3 certificate of bounded size, in the one encoding a fingerprint can stand for (I-1, I-7).
    leaf = parse_certificate(der)
    _verify_encoding(leaf)
    # 2. It names exactly one node (I-2).
    node = _node_of(leaf)
    # 3. It is no authority (I-3).
    usage = leaf.key_usage
    if leaf.is_ca or (usage is not None and (usage.key_cert_sign or usage.crl_sign)):
        raise VerificationError(f"certificate of {node.id}: it is a CA certificate, expected that of a node")
    if usage is not None and not usage.digital_signature:
        raise VerificationError(f"certificate of {node.id}: its key usage lacks digitalSignature")
    # 4. Its key is of a kind we use, and no extension of it is ignored that must not be (I-4, I-6).
    if leaf.key_type not in {"ECDSA P-256", "Ed25519"}:
        raise VerificationError(f"certificate of {node.id}: key {leaf.key_type}, expected ECDSA P-256 or Ed25519")
    _verify_form(leaf, f"certificate of {node.id}")
    # 5. It is valid at that time (I-5).
    _verify_period(leaf, at_ms, f"certificate of {node.id}")
    # 6. One of the authorities, valid at that time, signed it (I-8).
    _verify_issued(leaf, issuers, at_ms, node)
    return node


def verify_issuer(der: bytes) -> None:
    """Verify that an authority can be listed by an organisation, whenever it is valid.

    Raises:
        VerificationError: not a CA certificate, or of a kind that `verify_leaf` would never accept.
    """
    _verify_authority(parse_certificate(der))


def verify_proof(der: bytes, data: bytes, signature: bytes) -> None:
    """Verify that the holder of a certificate's key signed `data` (ECDSA P-256 with SHA-256, or Ed25519).

    Does not verify the certificate.

    Raises:
        VerificationError: it did not, or the certificate cannot be read or holds another kind of key.
    """
    certificate = parse_certificate(der)
    if certificate.key_type not in {"ECDSA P-256", "Ed25519"}:
        raise VerificationError(f"proof by a key of type {certificate.key_type}, expected ECDSA P-256 or Ed25519")
    if len(signature) > _MAX_SIGNATURE_BYTES or not _is_signed(certificate, hashes.SHA256(), signature, data):
        raise VerificationError(f"proof by certificate {fingerprint(der).hex()[:16]}: the signature does not hold")


def fingerprints(der: bytes) -> tuple[bytes, ...]:
    """The SHA-256 of a certificate that `verify_leaf` accepted, and of its twin: equally valid, made without the CA.

    Revoking one of them must revoke both, or the holder of a revoked certificate turns it into the other (I-12).

    Raises:
        VerificationError: the certificate cannot be read.
    """
    certificate = parse_certificate(der)
    twin = twin_signature(certificate.signature)
    if twin is None or certificate.signature_oid not in SIGNATURE_ALGORITHMS:
        return (fingerprint(der),)
    return fingerprint(der), fingerprint(with_signature(certificate, twin))


def is_revoked(der: bytes, revoked: Sequence[bytes]) -> bool:
    """Whether a certificate that `verify_leaf` accepted is among `revoked` (SHA-256 fingerprints), in either guise.

    Raises:
        VerificationError: the certificate cannot be read.
    """
    return bool(revoked) and not set(revoked).isdisjoint(fingerprints(der))


def read_node(der: bytes) -> NodeName:
    """Whom a certificate claims to name; not verified.

    Raises:
        VerificationError: it cannot be read, or does not name exactly one node.
    """
    return _node_of(parse_certificate(der))


def read_not_after(der: bytes) -> int:
    """When a certificate ends, milliseconds since the epoch.

    Raises:
        VerificationError: it cannot be read.
    """
    return parse_certificate(der).not_after_ms


# --- steps ------------------------------------------------------------------------------------------------------


def _node_of(certificate: Certificate) -> NodeName:
    if len(certificate.uris) != 1:
        raise VerificationError(
            f"certificate: expected exactly one URI in its subject alternative name, the node's identity; "
            f"got {len(certificate.uris)}"
        )
    try:
        return NodeName.parse(certificate.uris[0])
    except InvalidName as error:
        raise VerificationError(f"certificate: {error}") from error


def _verify_encoding(leaf: Certificate) -> None:
    if leaf.signature_oid not in SIGNATURE_ALGORITHMS:
        raise VerificationError(
            f"certificate: signature algorithm {leaf.signature_oid.dotted_string}, "
            f"expected ECDSA with SHA-256, SHA-384 or SHA-512, or Ed25519"
        )
    if with_signature(leaf, leaf.signature) != leaf.der or SIGNATURE_ALGORITHMS[leaf.signature_oid] not in leaf.signed:
        raise VerificationError("certificate: its signature is not in canonical DER form; issue it again")


def _verify_form(certificate: Certificate, what: str) -> None:
    # A key has one encoding: what a library makes of compressed points or explicit curves differs between releases.
    if certificate.key_canonical not in certificate.signed:
        raise VerificationError(f"{what}: its key is not a named curve with an uncompressed point; make a new key")
    strange = sorted(oid.dotted_string for oid in certificate.critical - _UNDERSTOOD)
    if strange:
        raise VerificationError(f"{what}: critical extension {strange[0]} is not understood, so it cannot be accepted")


def _verify_period(certificate: Certificate, at_ms: int, what: str) -> None:
    if at_ms < certificate.not_before_ms:
        raise VerificationError(
            f"{what}: not valid before {show_time(certificate.not_before_ms)}, "
            f"it is {show_time(at_ms)}; check the clocks"
        )
    if at_ms > certificate.not_after_ms:
        raise VerificationError(
            f"{what}: expired on {show_time(certificate.not_after_ms)}, it is {show_time(at_ms)}; renew it"
        )


def _verify_authority(authority: Certificate) -> None:
    what = f"CA certificate {show_name(authority.subject)}"
    usage = authority.key_usage
    if not authority.is_ca or (usage is not None and not usage.key_cert_sign):
        raise VerificationError(f"{what}: it may not issue certificates (no CA, or key usage lacks keyCertSign)")
    if authority.key_type not in {"ECDSA P-256", "ECDSA P-384", "Ed25519"}:
        raise VerificationError(f"{what}: key {authority.key_type}, expected ECDSA P-256, ECDSA P-384 or Ed25519")
    _verify_form(authority, what)


def _verify_issued(leaf: Certificate, issuers: Sequence[bytes], at_ms: int, node: NodeName) -> None:
    if len(issuers) > MAX_ISSUERS:
        raise VerificationError(f"{len(issuers)} authorities of {node.domain}, at most {MAX_ISSUERS} are accepted")
    # An authority's successor may bear the same name, so each that does is tried; the last reason is reported.
    reason = VerificationError(
        f"certificate of {node.id}: issued by {show_name(leaf.issuer)}, which is none of the {len(issuers)} "
        f"authorities of {node.domain}"
    )
    for der in issuers:
        try:
            authority = parse_certificate(der)
            if authority.subject != leaf.issuer:
                continue
            _verify_authority(authority)
            _verify_period(authority, at_ms, f"CA certificate {show_name(authority.subject)}")
            _verify_signed_by(leaf, authority, node)
        except VerificationError as error:
            reason = error
        else:
            return
    raise reason


def _verify_signed_by(leaf: Certificate, authority: Certificate, node: NodeName) -> None:
    algorithm = _ECDSA_HASHES.get(leaf.signature_oid)
    named_right = (algorithm is None) == isinstance(authority.key, ed25519.Ed25519PublicKey)
    if not named_right or not _is_signed(authority, algorithm, leaf.signature, leaf.signed):
        raise VerificationError(
            f"certificate of {node.id}: the signature by {show_name(authority.subject)} does not hold"
        )


def _is_signed(by: Certificate, algorithm: hashes.HashAlgorithm | None, signature: bytes, data: bytes) -> bool:
    """Whether `by`'s key signed `data`; `algorithm` is for ECDSA."""
    try:
        match by.key:
            case ec.EllipticCurvePublicKey() if algorithm is not None:
                by.key.verify(signature, data, ec.ECDSA(algorithm))
            case ed25519.Ed25519PublicKey():
                by.key.verify(signature, data)
            case _:
                return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
