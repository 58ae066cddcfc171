"""A whole application over real, signed transactions: certificates, keys and blocks, the same bytes on every run.

Ed25519 everywhere: its signatures depend on nothing but key and message.
"""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from swarmlearning.contracts.messages import (
    TX_DOMAIN,
    AnyMessage,
    Payload,
    RegisterNode,
    Tx,
    registration_bytes,
)
from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import encode, sha256
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import Applied, Header, Misbehaviour, TxResult
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.state import StateStore
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

NETWORK = "heart"
START_MS = 1_800_000_000_000
DAY_MS = 86_400_000


def private(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(seed.encode()))


def key_of(name: NodeName, salt: str = "") -> SigningKey:
    return SigningKey(private(f"signing {name.id} {salt}"))


def member(index: int, role: Role = Role.SL) -> NodeName:
    return NodeName(domain=TrustDomain(f"org{index}.example"), network=NETWORK, role=role, name=f"{role.value}{index}")


def certificate(name: NodeName, issuer: str, *, serial: int = 7, from_ms: int = START_MS, days: int = 100) -> bytes:
    """A leaf for `name`, issued by the authority of `issuer` (itself, if it is an authority's own domain)."""
    builder = (
        _builder(issuer, name.short, from_ms, days, serial)
        .public_key(private(f"tls {name.id}").public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.id)]),
            critical=False,
        )
    )
    return builder.sign(private(f"ca {issuer}"), None).public_bytes(Encoding.DER)


def authority(domain: str, *, serial: int = 1) -> bytes:
    builder = (
        _builder(domain, domain, START_MS - DAY_MS, 1000, serial)
        .public_key(private(f"ca {domain}").public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
    )
    return builder.sign(private(f"ca {domain}"), None).public_bytes(Encoding.DER)


def _builder(issuer: str, subject: str, from_ms: int, days: int, serial: int) -> x509.CertificateBuilder:
    start = dt.datetime.fromtimestamp(from_ms // 1000, dt.UTC)
    return (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
    )


def genesis_of(members: int, **changes: object) -> Genesis:
    domains = [member(i).domain for i in range(members)]
    fields: dict[str, object] = {
        "network": NETWORK,
        "version": 1,
        "created_ms": START_MS,
        "sentinel": member(0, Role.SN).id,
        "sentinel_key": key_of(member(0, Role.SN)).public,
        "organisations": tuple(Organisation(domain=d, issuers=(authority(d),)) for d in domains),
    }
    return Genesis(**{**fields, **changes})  # type: ignore[arg-type]  # a test may say anything


def validator_of(index: int, salt: str = "") -> Validator:
    """A validator for organisation `index`."""
    key = private(f"validator {index} {salt}").public_key().public_bytes_raw()
    peer = sha256(f"peer {index} {salt}".encode())[:20].hex()
    return Validator(key=key, peer=peer, endpoint=Endpoint(host=f"v{index}.example", port=26656))


def voting_genesis(members: int) -> Genesis:
    """A genesis of organisations whose validators order."""
    organisations = tuple(
        replace(o, validator=validator_of(i)) for i, o in enumerate(genesis_of(members).organisations)
    )
    return genesis_of(members, ledger="cometbft", sentinel="", sentinel_key=b"", organisations=organisations)


def registration(name: NodeName, leaf: bytes | None = None, *, salt: str = "", via: str = "") -> RegisterNode:
    key = key_of(name, salt)
    return RegisterNode(
        node=name.id,
        certificate=certificate(name, name.domain) if leaf is None else leaf,
        proof=private(f"tls {name.id}").sign(registration_bytes(NETWORK, name.id, key.public)),
        endpoint=Endpoint(host="127.0.0.1", port=30305, via=via),
    )


class Chain:
    """An application and the blocks it was given."""

    def __init__(self, organisations: int = 2, path: Path | None = None, *, voting: bool = False) -> None:
        self.genesis = encode(voting_genesis(organisations) if voting else genesis_of(organisations))
        self.app = SwarmApplication(StateStore(path))
        if not self.app.info().initialised:
            self.app.init(self.genesis)
        self.time_ms = START_MS
        self.nonce = 0
        self.blocks: list[tuple[Header, list[bytes], Applied]] = []

    @property
    def height(self) -> int:
        return self.app.info().height

    def sign(
        self,
        name: NodeName,
        message: AnyMessage,
        *,
        salt: str = "",
        expires: int | None = None,
        network: str = NETWORK,
        caller: str = "",
    ) -> bytes:
        self.nonce += 1
        expires = self.height + 100 if expires is None else expires
        nonce = self.nonce.to_bytes(16, "big")
        payload = Payload(network=network, nonce=nonce, expires=expires, message=message, caller=NodeId(caller))
        return sign_payload(key_of(name, salt), encode(payload))

    def header(self, step_ms: int = 1000) -> Header:
        previous = sha256(encode(self.blocks[-1][0])) if self.blocks else sha256(self.genesis)
        return Header(
            height=self.height + 1,
            time_ms=self.time_ms + step_ms,
            previous_hash=previous,
            proposer=member(0, Role.SN).id,
        )

    def apply(
        self, *txs: bytes, step_ms: int = 1000, misbehaviour: Sequence[Misbehaviour] = (), proposer: str = ""
    ) -> list[TxResult]:
        """One block, applied and committed, whatever is in it: also what no correct node would accept."""
        header = self.header(step_ms)
        if proposer:
            header = replace(header, proposer=proposer)
        applied = self.app.apply(header, txs, misbehaviour)
        self.app.commit()
        self.time_ms = header.time_ms
        self.blocks.append((header, list(txs), applied))
        return list(applied.results)

    def order(self, *txs: bytes, step_ms: int = 1000) -> list[TxResult]:
        """One block as correct nodes make it: proposed, accepted, applied, committed."""
        chosen = self.app.propose(txs, 1 << 20)
        assert self.app.accept(self.header(step_ms), chosen) == ""
        return self.apply(*chosen, step_ms=step_ms)

    def do(
        self, name: NodeName, message: AnyMessage, *, salt: str = "", step_ms: int = 1000, caller: str = ""
    ) -> TxResult:
        """One message in a block of its own."""
        return self.apply(self.sign(name, message, salt=salt, caller=caller), step_ms=step_ms)[0]

    def register(self, *names: NodeName) -> None:
        results = self.order(*(self.sign(name, registration(name)) for name in names))
        assert len(results) == len(names)
        assert all(result.code == 0 for result in results), results


def sign_payload(key: SigningKey, payload: bytes) -> bytes:
    return encode(Tx(payload=payload, signer=key.public, signature=key.sign(TX_DOMAIN, payload)))


def replay(genesis: bytes, blocks: Sequence[tuple[Header, list[bytes], Applied]]) -> SwarmApplication:
    """A second application that was given the same blocks, and must answer the same."""
    app = SwarmApplication(StateStore(None))
    app.init(genesis)
    for header, txs, applied in blocks:
        assert app.apply(header, txs) == applied
        app.commit()
    return app
