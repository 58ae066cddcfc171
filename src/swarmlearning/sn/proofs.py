"""Proofs as they travel and lie in files: an engine's proof, and who signed. Spec: docs/spec/proofs.md.

Verified offline, by the genesis: which block a transaction is in is the engine's to show; what it says and who signed
it follows from its own bytes, and from the registration of its signer's key, which is proven like any transaction.

Does not: say whether a transaction was carried out, which a header does not tell, or whether it may have been revoked.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.messages import AnyMessage, RegisterNode, registration_bytes
from swarmlearning.contracts.records import Genesis
from swarmlearning.contracts.transition import Signed, open_tx
from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import InvalidName, VerificationError
from swarmlearning.identity.verify import verify_leaf, verify_proof
from swarmlearning.ledger.embedded import proofs as embedded
from swarmlearning.ledger.proofs import MAX_PROOF_BYTES, Anchor, Proven
from swarmlearning.types import NodeId, NodeName

MAX_REGISTRATIONS: Final = 256
"""Most registrations that come with a proof."""

MAX_FILE_BYTES: Final = MAX_PROOF_BYTES + (1 << 20)
"""Largest proof file, bytes."""


class ProofFile(Record, frozen=True, kw_only=True, tag="swarm ledger proof v1"):
    """What `swarm ledger proof` writes."""

    ledger: Literal["embedded", "cometbft"]
    """By which engine's rules the proofs hold."""
    proof: bytes
    """As that engine encodes it."""
    registrations: Annotated[tuple[bytes, ...], Meta(max_length=MAX_REGISTRATIONS)]
    """Proofs of the registrations of the keys that signed, as far as they are known."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A proven registration of a signing key."""

    node: NodeId
    height: int
    """Of its block."""
    is_certified: bool
    """Whether an authority that the genesis names certified node and key; else it is what the registration says."""


class ProvenTx(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that is proven to be in a block."""

    hash: bytes
    signer: bytes
    """The key with which it is signed."""
    message: AnyMessage
    caller: NodeId
    """On whose behalf, as the signer claims; empty for itself."""
    registration: Registration | None
    """Whose key that is; None: not proven."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof file that holds says."""

    block: Proven
    txs: tuple[ProvenTx, ...]


def registered_key(tx: bytes) -> bytes | None:
    """The signing key that a well-formed transaction registers; None if it registers none."""
    try:
        signed = open_tx(tx)
    except Rejected:
        return None
    return signed.signer if isinstance(signed.payload.message, RegisterNode) else None


def anchor_of(genesis: Genesis, handovers: Sequence[bytes] = ()) -> Anchor:
    """What a verifier trusts who has a genesis, and was told fingerprints of `handovers`."""
    return Anchor(
        network=genesis.network,
        genesis_hash=sha256(encode(genesis)),
        sentinel=genesis.sentinel,
        sentinel_key=genesis.sentinel_key,
        validators=tuple((o.domain, o.validator) for o in genesis.organisations if o.validator is not None),
        handovers=frozenset(handovers),
    )


def verify_file(data: bytes, genesis: Genesis, handovers: Sequence[bytes] = ()) -> Verified:
    """Verify a proof file by the genesis alone.

    Args:
        data: the file's bytes.
        genesis: of the network.
        handovers: fingerprints of handovers of the sentinel that the verifier believes.

    Raises:
        DecodeError: it is no such file.
        VerificationError: it does not hold; says what was expected.
    """
    file = decode(data, ProofFile, limit=MAX_FILE_BYTES)
    if file.ledger != genesis.ledger:
        raise VerificationError(f"the proof is of the ledger {file.ledger!r}, the genesis names {genesis.ledger!r}")
    anchor = anchor_of(genesis, handovers)
    verify = _verifier(file.ledger)
    block = verify(file.proof, anchor)
    signers = {_open(tx, genesis).signer for tx in block.txs}
    registrations: dict[bytes, Registration] = {}
    for proof in file.registrations:
        proven = verify(proof, anchor)
        for tx in proven.txs:
            key = registered_key(tx)
            if key not in signers or key in registrations:
                raise VerificationError("the file holds a transaction that registers nobody who signed what it proves")
            registrations[key] = _read_registration(tx, proven, genesis)
    for tx in block.txs:
        key = registered_key(tx)
        if key is not None:
            registrations.setdefault(key, _read_registration(tx, block, genesis))
    return Verified(block=block, txs=tuple(_read_tx(tx, genesis, registrations) for tx in block.txs))


def _verifier(ledger: Literal["embedded", "cometbft"]) -> Callable[[bytes, Anchor], Proven]:
    if ledger == "embedded":
        return embedded.verify_proof
    # Only where it is needed: the room of that engine needs a package that others can do without.
    from swarmlearning.ledger.cometbft import proofs as cometbft

    return cometbft.verify_proof


def _open(tx: bytes, genesis: Genesis) -> Signed:
    """A transaction of this network, and who signed it."""
    try:
        signed = open_tx(tx)
    except Rejected as rejected:
        raise VerificationError(rejected.log) from rejected
    if signed.payload.network != genesis.network:
        raise VerificationError(
            f"the transaction is for network {signed.payload.network!r}; expected {genesis.network!r}"
        )
    return signed


def _read_tx(tx: bytes, genesis: Genesis, registrations: Mapping[bytes, Registration]) -> ProvenTx:
    signed = _open(tx, genesis)
    return ProvenTx(
        hash=sha256(tx),
        signer=signed.signer,
        message=signed.payload.message,
        caller=signed.payload.caller,
        registration=registrations.get(signed.signer),
    )


def _read_registration(tx: bytes, block: Proven, genesis: Genesis) -> Registration:
    """Whose key a proven registration binds: M-1 and M-2 by the genesis, which knows of no revocation."""
    signed = _open(tx, genesis)
    message = signed.payload.message
    if not isinstance(message, RegisterNode):
        raise VerificationError(f"transaction {sha256(tx).hex()[:16]} registers no key")
    return Registration(
        node=message.node, height=block.height, is_certified=_is_certified(message, signed.signer, block, genesis)
    )


def _is_certified(message: RegisterNode, signer: bytes, block: Proven, genesis: Genesis) -> bool:
    try:
        domain = NodeName.parse(message.node).domain
        issuers = next((o.issuers for o in genesis.organisations if o.domain == domain), ())
        certified = verify_leaf(message.certificate, issuers, block.time_ms)
        verify_proof(message.certificate, registration_bytes(genesis.network, message.node, signer), message.proof)
    except (VerificationError, InvalidName):
        return False
    return certified.id == message.node
