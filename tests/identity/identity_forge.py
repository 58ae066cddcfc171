"""Certificates that an honest authority would not make, for tests of those who read them."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from swarmlearning.types import NodeName, Role, TrustDomain

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
NODE = NodeName(domain=TrustDomain("a.example"), network="heart", role=Role.SN, name="sn1")


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(kw_only=True)
class Forge:
    """An authority without scruples."""

    name: str = "CA of a.example"
    key: PrivateKey = field(default_factory=new_key)
    from_ms: int = NOW_MS - 10 * DAY_MS
    to_ms: int = NOW_MS + 10 * DAY_MS
    ca: bool = True
    extra: Sequence[x509.Extension[x509.ExtensionType]] = ()

    def __post_init__(self) -> None:
        self.der = self.sign(
            self.key,
            (f"spiffe://{self.name.split()[-1]}",),
            subject=self.name,
            ca=self.ca,
            from_ms=self.from_ms,
            to_ms=self.to_ms,
            extra=self.extra,
            usage="ca" if self.ca else "leaf",
        )

    def sign(
        self,
        key: PrivateKey | None = None,
        uris: Sequence[str] = (NODE.id,),
        *,
        subject: str = "node",
        ca: bool = False,
        usage: str = "leaf",
        from_ms: int = NOW_MS - DAY_MS,
        to_ms: int = NOW_MS + DAY_MS,
        extra: Sequence[x509.Extension[x509.ExtensionType]] = (),
        algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SHA224 | None = None,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key((key or new_key()).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(from_ms))
            .not_valid_after(_time(to_ms))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage != "none":
            builder = builder.add_extension(
                x509.KeyUsage(usage == "leaf", False, False, False, False, usage == "ca", False, False, False),
                critical=True,
            )
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension in extra:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        signs_with_hash = not isinstance(self.key, ed25519.Ed25519PrivateKey)
        certificate = builder.sign(self.key, (algorithm or hashes.SHA256()) if signs_with_hash else None)
        return certificate.public_bytes(Encoding.DER)


def critical(oid: str) -> x509.Extension[x509.ExtensionType]:
    identifier = x509.ObjectIdentifier(oid)
    return x509.Extension(identifier, True, x509.UnrecognizedExtension(identifier, b"\x05\x00"))


def tagged(tag: int, value: bytes) -> bytes:
    """One DER element of less than 64 KiB."""
    size = len(value)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + value


def content_of(der: bytes) -> bytes:
    """What one DER element holds."""
    return der[2 + (der[1] & 0x7F) :] if der[1] & 0x80 else der[2:]


def _time(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms // 1000, dt.UTC)
