"""Raw Ed25519 keys that sign transactions and block headers.

Apart from the TLS key on purpose: TLS certificates rotate without a transaction. Which node a key belongs to is on
the ledger, not here. Spec: docs/spec/identity.md, section Signing keys.
"""

from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarmlearning.errors import IdentityError, VerificationError
from swarmlearning.identity.files import SECRET_MODE, make_directory, read_secret, write_file

PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class SigningKey:
    """An Ed25519 key pair (RFC 8032); `public` is the raw public key, 32 bytes."""

    public: bytes

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def create(cls) -> Self:
        """Draw a new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key from an unencrypted PKCS#8 PEM file.

        Raises:
            IdentityError: missing, accessible to everybody, or not an Ed25519 private key.
        """
        data = read_secret(path, "signing key")
        try:
            private = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IdentityError(f"signing key {path}: not an unencrypted PKCS#8 PEM private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise IdentityError(f"signing key {path}: expected an Ed25519 key, got {type(private).__name__}")
        return cls(private)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key at `path`; where there is none, create one (mode 0600), durable when this returns.

        Two processes that do so at once get the same key.

        Raises:
            IdentityError: as for `load`, or it cannot be written.
        """
        if path.exists():
            return cls.load(path)
        key = cls.create()
        make_directory(path.parent, mode=0o700)
        try:
            write_file(path, key.pem(), mode=SECRET_MODE)
        except IdentityError:
            if not path.exists():
                raise
            return cls.load(path)  # another process was faster: its key is the one on disk
        return key

    def pem(self) -> bytes:
        """The private key as PKCS#8 PEM; a secret."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, domain: bytes, data: bytes) -> bytes:
        """Sign `domain + data`, 64 bytes.

        `domain` says what kind of thing is signed and ends in a zero byte, so that no signature passes for another.
        """
        return self._private.sign(domain + data)


def verify_signature(public: bytes, domain: bytes, data: bytes, signature: bytes) -> None:
    """Verify that the holder of `public` (raw Ed25519, 32 bytes) signed `domain + data`.

    Raises:
        VerificationError: it did not, or key or signature are malformed.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        raise VerificationError(
            f"Ed25519 signature: expected a key of {PUBLIC_BYTES} and a signature of {SIGNATURE_BYTES} bytes, "
            f"got {len(public)} and {len(signature)}"
        )
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain + data)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(f"Ed25519 signature by key {public.hex()[:16]} does not hold") from error
