"""Blocks of the embedded engine: records, hashes, signatures, and what proves that a sentinel lied.

Does not: store, order or execute anything. Spec: docs/spec/ledger.md, section 1.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from swarmlearning.encoding import Record, encode, merkle_root, sha256
from swarmlearning.errors import VerificationError
from swarmlearning.identity.signing import SigningKey, verify_signature
from swarmlearning.ledger.boundary import Header

HEADER_DOMAIN: Final = b"swarmlearning block header v1\x00"
"""Prefix of what a block's signature covers, so that it can pass for nothing else."""

MAX_BLOCK_TX_BYTES: Final = 880 * 1024
"""Most transaction bytes in one block: a whole block must fit into one reply of `ledger/blocks`."""

MAX_BLOCK_TXS: Final = 1024
"""Most transactions in one block."""

MAX_BLOCK_BYTES: Final = 900 * 1024
"""Largest encoded block, bytes: transactions, their framing and the header."""

MAX_TX_BYTES: Final = 64 * 1024
"""Largest transaction, bytes."""


Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A SHA-256 or a Merkle root."""

Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
"""An Ed25519 signature."""


class BlockHeader(Record, frozen=True, kw_only=True):
    """What a sentinel signs: the block's place in the chain, its transactions and the state they lead to."""

    network: Annotated[str, Meta(max_length=64)]
    height: Annotated[int, Meta(ge=1, le=2**62)]
    """From 1, without gaps."""
    time_ms: Annotated[int, Meta(ge=0, le=2**62)]
    """Milliseconds since the epoch; never less than the previous block's."""
    previous_hash: Hash
    """Hash of the previous header; of the genesis bytes for height 1. 32 bytes."""
    txs_root: Hash
    """Merkle root over the SHA-256 of each transaction, 32 bytes."""
    app_hash: Hash
    """Merkle root over the application's state *after* this block, 32 bytes."""
    proposer: Annotated[str, Meta(max_length=512)]
    """Node id of the sentinel."""


class SignedHeader(Record, frozen=True, kw_only=True):
    """A header and the sentinel's signature over it."""

    header: BlockHeader
    signature: Signature
    """Ed25519 over `HEADER_DOMAIN + encode(header)`, 64 bytes."""


class Block(Record, frozen=True, kw_only=True):
    """A header, its transactions, and the sentinel's signature over the header."""

    header: BlockHeader
    txs: tuple[bytes, ...]
    signature: Signature

    @property
    def signed_header(self) -> SignedHeader:
        """The block without its transactions."""
        return SignedHeader(header=self.header, signature=self.signature)


class Evidence(Record, frozen=True, kw_only=True):
    """Two headers, both signed by the sentinel, that cannot stand in one chain."""

    first: SignedHeader
    second: SignedHeader


def hash_header(header: BlockHeader) -> bytes:
    """The block's hash: SHA-256 of its encoded header, 32 bytes."""
    return sha256(encode(header))


def hash_txs(txs: Sequence[bytes]) -> bytes:
    """The Merkle root that a header carries for `txs`, 32 bytes."""
    return merkle_root([sha256(tx) for tx in txs])


def sign_block(header: BlockHeader, txs: Sequence[bytes], key: SigningKey) -> Block:
    """Seal a block. Store it before anybody sees it: a second one for its height would be a fork."""
    return Block(header=header, txs=tuple(txs), signature=key.sign(HEADER_DOMAIN, encode(header)))


def verify_header(signed: SignedHeader, network: str, key: bytes) -> None:
    """Check that the sentinel of `network`, which signs with `key`, signed this header.

    Raises:
        VerificationError: it is of another network, or the signature does not hold.
    """
    header = signed.header
    if header.network != network:
        raise VerificationError(f"block {header.height} is of network {header.network[:80]!r}; expected {network!r}")
    try:
        verify_signature(key, HEADER_DOMAIN, encode(header), signed.signature)
    except VerificationError as error:
        raise VerificationError(
            f"block {header.height}: the sentinel's signature does not hold; is the genesis the sentinel's?"
        ) from error


def is_contradiction(evidence: Evidence) -> bool:
    """Whether the two headers cannot stand in one chain: two of one height, or two neighbours that do not link."""
    low, high = evidence.first.header, evidence.second.header
    if low.height > high.height:
        low, high = high, low
    if low.height == high.height:
        return hash_header(low) != hash_header(high)
    return low.height + 1 == high.height and high.previous_hash != hash_header(low)


def verify_evidence(evidence: Evidence, network: str, key: bytes) -> None:
    """Check that `evidence` convicts the sentinel of `network`; whoever brings it need not be trusted.

    Raises:
        VerificationError: a signature does not hold, or both headers can stand in one chain.
    """
    verify_header(evidence.first, network, key)
    verify_header(evidence.second, network, key)
    if not is_contradiction(evidence):
        heights = f"{evidence.first.header.height} and {evidence.second.header.height}"
        raise VerificationError(f"headers {heights} do not contradict each other: no evidence of a fork")


def execution_header(header: BlockHeader) -> Header:
    """What the application may know of a block."""
    return Header(
        height=header.height,
        time_ms=header.time_ms,
        previous_hash=header.previous_hash,
        proposer=header.proposer,
    )
