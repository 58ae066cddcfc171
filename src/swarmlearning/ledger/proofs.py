"""What any engine's proof is made of, and what comes out of one that holds. Spec: docs/spec/proofs.md.

A proof says that a transaction is in a block of this network, to somebody who has the network's genesis and nothing
else: no connection, no ledger. Both engines' headers carry the Merkle root (RFC 6962) over the SHA-256 of each
transaction. Who vouches for the header differs: see `embedded.proofs` and `cometbft.proofs`.

Does not: know what a transaction means (`sn.proofs`).
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from swarmlearning.encoding import Record, merkle_root, sha256
from swarmlearning.errors import VerificationError
from swarmlearning.types import NodeId, TrustDomain, Validator

MAX_PROOF_BYTES: Final = 6 << 20
"""Largest encoded proof, bytes: a whole block with all that vouches for it."""

MAX_DEPTH: Final = 32
"""Most steps from a transaction to the root."""

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A SHA-256 or a Merkle root."""


class Step(Record, frozen=True, kw_only=True):
    """One step from a leaf of the Merkle tree to its root: the neighbour, and on which side it stands."""

    left: bool
    neighbour: Hash


class Part(Record, frozen=True, kw_only=True, tag="part"):
    """One transaction of a block, and the way from it to the block's transaction root.

    The sides stand for the place: unlike a number of transactions, which the root does not tell, they cannot be
    changed without changing the root.
    """

    tx: bytes
    path: Annotated[tuple[Step, ...], Meta(max_length=MAX_DEPTH)]


class Whole(Record, frozen=True, kw_only=True, tag="whole"):
    """All transactions of a block."""

    txs: tuple[bytes, ...]


Content = Part | Whole
"""What of a block is to be proven."""


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """What the verifier trusts: what the genesis says, and what it was told by people."""

    network: str
    genesis_hash: bytes
    sentinel: NodeId
    """Embedded engine: who orders at first; else empty."""
    sentinel_key: bytes
    validators: tuple[tuple[TrustDomain, Validator], ...] = ()
    """CometBFT engine: who votes at first."""
    handovers: frozenset[bytes] = frozenset()
    """Fingerprints of the handovers that are believed (embedded engine)."""


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof that holds says."""

    height: int
    time_ms: int
    """Block time, milliseconds since the epoch."""
    block_hash: bytes
    proposer: str
    """Who made the block: a node id, or a validator's address in hexadecimal digits."""
    txs: tuple[bytes, ...]
    is_whole: bool
    """Whether `txs` are all that the block holds."""
    vouchers: tuple[str, ...]
    """Who signed the block, for people, each a line."""


def prove_part(txs: Sequence[bytes], index: int) -> Part:
    """The transaction at `index` of a block's `txs`, with its way to the root.

    Raises:
        IndexError: there is none.
    """
    tx = txs[index]
    level = [sha256(b"\x00", sha256(one)) for one in txs]
    path: list[Step] = []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(Step(left=beside < index, neighbour=level[beside]))
        # An odd one out goes up as it is.
        paired = [sha256(b"\x01", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [*paired, level[-1]] if len(level) % 2 else paired
        index //= 2
    return Part(tx=tx, path=tuple(path))


def verify_content(content: Content, root: bytes) -> tuple[bytes, ...]:
    """The transactions that `content` shows to be under a block's transaction `root`.

    Raises:
        VerificationError: they are not.
    """
    match content:
        case Part():
            node = sha256(b"\x00", sha256(content.tx))
            for step in content.path:
                pair = (step.neighbour, node) if step.left else (node, step.neighbour)
                node = sha256(b"\x01", *pair)
            txs: tuple[bytes, ...] = (content.tx,)
        case Whole():
            node, txs = merkle_root([sha256(tx) for tx in content.txs]), content.txs
    if node != root:
        raise VerificationError(
            f"the transactions lead to the root {node.hex()[:16]}; the block's header has {root.hex()[:16]}"
        )
    return txs
