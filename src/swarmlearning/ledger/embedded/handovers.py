"""Handovers: who orders from which block on, and what proves that a majority of the SNs wanted it so.

A handover names the last block that counts and the node that orders from the next one on. SNs sign it; with the
signatures of more than half of those that were registered at that block it holds, and whoever stands at that block can
verify it. Epoch 0 is the genesis's sentinel; the handover of the highest epoch wins.

Does not: store anything (`store`), remember what this node signed (`promise`), or know the operators' steps
(`succession`). Spec: docs/spec/ledger.md, section 6.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from swarmlearning.encoding import Record, encode, sha256
from swarmlearning.errors import VerificationError
from swarmlearning.identity.signing import SigningKey, verify_signature
from swarmlearning.ledger.embedded.blocks import Hash, Signature, SignedHeader, hash_header
from swarmlearning.types import NodeId

HANDOVER_DOMAIN: Final = b"swarmlearning sentinel handover v1\x00"
"""Prefix of what an SN signs, so that it can pass for nothing else."""

MAX_EPOCH: Final = 2**31
MAX_HANDOVER_BYTES: Final = 512 * 1024
"""Largest encoded handover with its signatures, bytes."""

Voters = Mapping[NodeId, bytes]
"""The SNs that count at a block, with their Ed25519 keys."""


class Handover(Record, frozen=True, kw_only=True):
    """What the SNs sign: after this block, this node orders."""

    network: Annotated[str, Meta(max_length=64)]
    epoch: Annotated[int, Meta(ge=1, le=MAX_EPOCH)]
    """Number of the reign that begins; a higher one wins."""
    tip: SignedHeader
    """The last block that counts, as its sentinel signed it."""
    sentinel: Annotated[str, Meta(max_length=512)]
    """Node id of who orders from the next block on."""
    key: Hash
    """Ed25519 public key with which it signs blocks: the one it is registered with at the tip, 32 bytes."""

    @property
    def height(self) -> int:
        """Height of the last block that counts."""
        return self.tip.header.height

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of what is signed, 32 bytes: for the telephone."""
        return sha256(encode(self))


class Approval(Record, frozen=True, kw_only=True):
    """One SN's signature under a handover."""

    node: Annotated[str, Meta(max_length=512)]
    signature: Signature
    """Ed25519 over `HANDOVER_DOMAIN + encode(handover)`, 64 bytes."""


class SignedHandover(Record, frozen=True, kw_only=True):
    """A handover and the signatures it has so far, by node id."""

    handover: Handover
    approvals: Annotated[tuple[Approval, ...], Meta(max_length=4096)]


class Reign(msgspec.Struct, frozen=True, kw_only=True):
    """Who orders the blocks above a height."""

    epoch: int
    after: int
    """It orders from block `after + 1` on."""
    sentinel: NodeId
    key: bytes


class Reigns:
    """Who orders which block, from the genesis on."""

    def __init__(self, first: Reign) -> None:
        self._reigns = [first]

    @property
    def current(self) -> Reign:
        """Who orders the next block."""
        return self._reigns[-1]

    def at(self, height: int) -> Reign:
        """Who ordered, or is to order, block `height` (1 or more)."""
        return next(reign for reign in reversed(self._reigns) if reign.after < height)

    def add(self, handover: Handover) -> None:
        """A verified handover of a higher epoch than the current one."""
        self._reigns.append(
            Reign(
                epoch=handover.epoch,
                after=handover.height,
                sentinel=NodeId(handover.sentinel),
                key=handover.key,
            )
        )


def approve(handover: Handover, node: NodeId, key: SigningKey) -> Approval:
    """Sign a handover. Persist the promise first: this node must never sign another one of that epoch."""
    return Approval(node=node, signature=key.sign(HANDOVER_DOMAIN, encode(handover)))


def merge_approvals(handover: Handover, approvals: Iterable[Approval]) -> SignedHandover:
    """A handover with each node's signature once, by node id."""
    found = {approval.node: approval for approval in approvals}
    return SignedHandover(handover=handover, approvals=tuple(found[node] for node in sorted(found)))


def signers_of(signed: SignedHandover, voters: Voters) -> list[NodeId]:
    """The voters whose signature is there and holds; what else is there does not count."""
    body = encode(signed.handover)
    found: set[NodeId] = set()
    for approval in signed.approvals:
        node = NodeId(approval.node)
        key = voters.get(node)
        if key is None or node in found:
            continue
        try:
            verify_signature(key, HANDOVER_DOMAIN, body, approval.signature)
        except VerificationError:
            continue
        found.add(node)
    return sorted(found)


def is_majority(count: int, voters: int) -> bool:
    """Whether `count` of `voters` are more than half of them, the lost sentinel counted in."""
    return 2 * count > voters


def verify_successor(handover: Handover, voters: Voters) -> None:
    """Check that the new sentinel is registered, with the key that the handover gives it.

    Raises:
        VerificationError: it is not.
    """
    if voters.get(NodeId(handover.sentinel)) != handover.key:
        raise VerificationError(
            f"handover {handover.epoch}: {handover.sentinel} is not registered at block {handover.height} with the key "
            f"{handover.key.hex()[:16]} that the handover gives it"
        )


def verify_handover(signed: SignedHandover, network: str, voters: Voters) -> None:
    """Check that more than half of `voters`, the SNs registered at its tip, signed this handover of `network`.

    The caller checks that the tip is the block it holds.

    Raises:
        VerificationError: they did not; says what is missing.
    """
    handover = signed.handover
    # 1. network
    if not handover.network == handover.tip.header.network == network:
        raise VerificationError(
            f"handover {handover.epoch} is of network {handover.network[:80]!r}; expected {network!r}"
        )
    # 2. the new sentinel
    verify_successor(handover, voters)
    # 3. more than half
    signers = signers_of(signed, voters)
    if not is_majority(len(signers), len(voters)):
        raise VerificationError(
            f"handover {handover.epoch} to {handover.sentinel} is signed by {len(signers)} of the {len(voters)} SNs "
            f"registered at block {handover.height}; expected at least {len(voters) // 2 + 1}"
        )


def is_tip(handover: Handover, block_hash: bytes) -> bool:
    """Whether the block with this hash is the handover's last."""
    return hash_header(handover.tip.header) == block_hash
