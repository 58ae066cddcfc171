"""PEM files of certificates, to DER and back. Judges nothing but the form."""

import base64
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from swarmlearning.errors import IdentityError
from swarmlearning.identity.files import read_file

MAX_CERTIFICATES: Final = 64
"""Most certificates in one file."""


def read_certificates(path: Path, what: str) -> tuple[bytes, ...]:
    """Read the certificates (DER) in a PEM file, at least one, in order; `what` names the file in errors.

    Raises:
        IdentityError: missing, unreadable, or no PEM certificates.
    """
    data = read_file(path, what)
    try:
        found = tuple(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(data))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise IdentityError(
            f"{what} {path}: expected certificates in PEM form (-----BEGIN CERTIFICATE-----)"
        ) from error
    if len(found) > MAX_CERTIFICATES:
        raise IdentityError(f"{what} {path}: {len(found)} certificates, at most {MAX_CERTIFICATES} are accepted")
    return found


def to_pem(der: bytes) -> bytes:
    """A certificate as PEM (RFC 7468)."""
    text = base64.b64encode(der)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])
