"""Our own identity, from PEM files: loaded, checked before it is used, and watched for replacement.

Does not renew anything. Spec: docs/spec/identity.md, section Own identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from swarmlearning.errors import IdentityError, VerificationError
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.identity.files import read_secret
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.verify import MAX_ISSUERS, verify_leaf
from swarmlearning.types import NodeName

CERT_VARIABLE: Final = "SWARM_ID_CERT"
KEY_VARIABLE: Final = "SWARM_ID_KEY"
CACERT_VARIABLE: Final = "SWARM_ID_CACERT"
CAPATH_VARIABLE: Final = "SWARM_ID_CAPATH"

_MAX_DIRECTORY: Final = 256
_SUFFIXES: Final = frozenset({".pem", ".crt", ".cer"})

TlsKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, kw_only=True)
class Credential:
    """An identity that was found in order: certificate, key and own issuers belong together."""

    node: NodeName
    certificate_der: bytes
    certificate_path: Path
    key_path: Path
    issuers: tuple[bytes, ...]
    """CA certificates (DER) of our *own* organisation; others are learnt from the ledger."""
    not_after_ms: int
    _key: TlsKey = field(repr=False, compare=False)

    def sign_proof(self, data: bytes) -> bytes:
        """Sign `data` with the TLS key, for `verify_proof`. `data` begins with a domain of its own."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


class PemSource:
    """Where our certificate, key and CA certificates lie.

    `cacert` is a file with our own organisation's CA certificates. `capath` is a directory of CA certificates, others'
    too; without `cacert` those in it which issued our certificate are taken for our own.
    """

    def __init__(self, cert: Path, key: Path, cacert: Path | None = None, capath: Path | None = None) -> None:
        if cacert is None and capath is None:
            raise IdentityError(
                f"own CA certificate: expected --cacert or --capath ({CACERT_VARIABLE}, {CAPATH_VARIABLE})"
            )
        self.cert = cert
        self.key = key
        self.cacert = cacert
        self.capath = capath
        self._seen: tuple[object, ...] | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Take the paths from `SWARM_ID_CERT`, `SWARM_ID_KEY`, `SWARM_ID_CACERT`, `SWARM_ID_CAPATH`.

        Raises:
            IdentityError: certificate, key, or both kinds of CA certificates are not set.
        """
        return cls.from_paths(
            *(environ.get(v) for v in (CERT_VARIABLE, KEY_VARIABLE, CACERT_VARIABLE, CAPATH_VARIABLE))
        )

    @classmethod
    def from_paths(cls, cert: str | None, key: str | None, cacert: str | None, capath: str | None) -> Self:
        """Take the paths as the user gave them; None and "" stand for "not given".

        Raises:
            IdentityError: certificate, key, or both kinds of CA certificates are not given.
        """
        missing = [
            name
            for name, given in (
                (f"--cert ({CERT_VARIABLE})", cert),
                (f"--key ({KEY_VARIABLE})", key),
                (f"--cacert or --capath ({CACERT_VARIABLE}, {CAPATH_VARIABLE})", cacert or capath),
            )
            if not given
        ]
        if missing or not cert or not key:
            raise IdentityError(
                f"own identity: {', '.join(missing)} not given; name the PEM files of this node "
                f"(make them with `swarm cert issue`)"
            )
        return cls(Path(cert), Path(key), Path(cacert) if cacert else None, Path(capath) if capath else None)

    def load(self, at_ms: int) -> Credential:
        """Read the files and verify that they are one identity, valid at `at_ms`.

        Raises:
            IdentityError: a file is missing or malformed, the key is not the certificate's, the certificate is not
                valid now (with dates), is not issued by our own CA, or names no node.
        """
        # Before reading: a file replaced in between is then seen as changed.
        seen = self._state()
        leaf = read_certificates(self.cert, "certificate")[0]
        key = _load_key(self.key)
        issuers = self._issuers(leaf, at_ms)
        try:
            node = verify_leaf(leaf, issuers, at_ms)
            facts = parse_certificate(leaf)
        except VerificationError as error:
            raise IdentityError(f"{self.cert}: {error}") from error
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if public != facts.key_canonical:
            raise IdentityError(
                f"key {self.key} is not the key of certificate {self.cert}; give the pair issued together"
            )
        self._seen = seen
        return Credential(
            node=node,
            certificate_der=leaf,
            certificate_path=self.cert,
            key_path=self.key,
            issuers=issuers,
            not_after_ms=facts.not_after_ms,
            _key=key,
        )

    def changed(self) -> bool:
        """Whether a file was replaced since the last successful `load`; true before the first."""
        return self._seen is None or self._state() != self._seen

    def _state(self) -> tuple[object, ...]:
        paths = [self.cert, self.key, *([self.cacert] if self.cacert else []), *([self.capath] if self.capath else [])]
        return tuple(_stamp(path) for path in paths)

    def _issuers(self, leaf: bytes, at_ms: int) -> tuple[bytes, ...]:
        if self.cacert is not None:
            return read_certificates(self.cacert, "CA certificate")
        found = _read_directory(self.capath) if self.capath is not None else ()
        # Never the whole directory: it holds other organisations' CAs, which must not count as ours.
        own = tuple(der for der in found if _is_issuer(der, leaf, at_ms))
        return own or found[:MAX_ISSUERS]  # none will do; the error says what was tried


def _is_issuer(authority: bytes, leaf: bytes, at_ms: int) -> bool:
    try:
        verify_leaf(leaf, [authority], at_ms)
    except VerificationError:
        return False
    return True


def _read_directory(directory: Path) -> tuple[bytes, ...]:
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
    except OSError as error:
        raise IdentityError(f"CA directory {directory}: cannot be read ({error.strerror}); check --capath") from error
    if not 0 < len(files) <= _MAX_DIRECTORY:
        raise IdentityError(
            f"CA directory {directory}: {len(files)} files ending in .pem, .crt or .cer, expected 1-{_MAX_DIRECTORY}"
        )
    return tuple(dict.fromkeys(der for path in files for der in read_certificates(path, "CA certificate")))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _load_key(path: Path) -> TlsKey:
    data = read_secret(path, "key")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"key {path}: not an unencrypted private key in PEM form") from error
    if not isinstance(key, TlsKey):
        raise IdentityError(f"key {path}: expected ECDSA P-256 or Ed25519, got {type(key).__name__}")
    return key
