"""Identities for simulations: the same names always have the same keys and certificates, so that a seed decides all."""

import datetime as dt
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sim_loop import START_MS

from swarmlearning.contracts import transition
from swarmlearning.encoding import sha256
from swarmlearning.identity.signing import SigningKey, verify_signature
from swarmlearning.ledger.embedded import blocks
from swarmlearning.types import NodeId, NodeName, Role, TrustDomain

NETWORK = "simulated"

# Every node of a simulation verifies what all others have verified: once is enough for one process. What does not hold
# raises, and that is not kept.
for _module in (transition, blocks):
    vars(_module)["verify_signature"] = lru_cache(maxsize=4096)(verify_signature)

_DAY_MS = 86_400_000


def node_name(index: int, role: Role) -> NodeName:
    """The node of a role in organisation `index`; ids sort by index."""
    return NodeName(domain=TrustDomain(f"org{index:02}.example"), network=NETWORK, role=role, name=role.value)


def sl_id(index: int) -> NodeId:
    """The SL of organisation `index`."""
    return node_name(index, Role.SL).id


def signing_key(name: NodeName) -> SigningKey:
    """With which a node signs transactions or blocks."""
    return SigningKey(_private("signing", name.id))


def _private(*parts: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256("\x00".join(parts).encode()))


@lru_cache
def authority(domain: TrustDomain) -> bytes:
    """The CA certificate of an organisation, DER."""
    return _sign(domain, _private("ca", domain), f"spiffe://{domain}", subject=f"CA of {domain}", ca=True)


@lru_cache
def certificate(node: NodeId) -> bytes:
    """The TLS certificate of a node, DER: the simulated network does without, the ledger does not."""
    domain = NodeName.parse(node).domain
    return _sign(domain, _private("tls", node), node, subject="node", ca=False)


def proof(node: NodeId, data: bytes) -> bytes:
    """Signature by the certificate's key."""
    return _private("tls", node).sign(data)


def _sign(domain: TrustDomain, key: Ed25519PrivateKey, uri: str, *, subject: str, ca: bool) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {domain}")]))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(sha256(uri.encode())[:15], "big") + 1)
        .not_valid_before(_time(START_MS - _DAY_MS))
        .not_valid_after(_time(START_MS + 30 * _DAY_MS))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, False, False, False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    )
    return builder.sign(_private("ca", domain), None).public_bytes(Encoding.DER)


def _time(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms // 1000, dt.UTC)
