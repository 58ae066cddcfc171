"""Proofs of the embedded engine: a transaction, its way to the header, and the sentinel's signature under that.

Whoever verifies has the genesis, which names the first sentinel. A handover is believed by its fingerprint: who was
registered at its tip, and so what a majority was, only the state of that block tells, which a verifier does not have.

Does not: find out whether the sentinel signed a second header for that height; two proofs that contradict each other
show that. Spec: docs/spec/proofs.md.
"""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from swarmlearning.encoding import Record, decode, encode
from swarmlearning.errors import VerificationError
from swarmlearning.ledger.embedded.blocks import Block, SignedHeader, hash_header, verify_header
from swarmlearning.ledger.embedded.handovers import Handover, Reign, Reigns
from swarmlearning.ledger.proofs import (
    MAX_PROOF_BYTES,
    Anchor,
    Content,
    Proven,
    Whole,
    prove_part,
    verify_content,
)


class EmbeddedProof(Record, frozen=True, kw_only=True):
    """What shows that a block holds transactions, to whoever has the genesis."""

    header: SignedHeader
    content: Content
    handovers: Annotated[tuple[Handover, ...], Meta(max_length=128)]
    """Those in force below the block, by epoch."""


def make_proof(block: Block, handovers: Iterable[Handover], index: int | None) -> bytes:
    """The proof of the transaction at `index` of `block`, or of the whole block.

    Args:
        block: a committed one.
        handovers: all in force, by epoch.
        index: of the transaction in the block; None: all of them.
    """
    return encode(
        EmbeddedProof(
            header=block.signed_header,
            content=Whole(txs=block.txs) if index is None else prove_part(block.txs, index),
            handovers=tuple(handover for handover in handovers if handover.height < block.header.height),
        )
    )


def verify_proof(data: bytes, anchor: Anchor) -> Proven:
    """Verify an encoded `EmbeddedProof` by the genesis alone.

    Raises:
        DecodeError: it is none.
        VerificationError: it does not hold; says what was expected.
    """
    proof = decode(data, EmbeddedProof, limit=MAX_PROOF_BYTES)
    header = proof.header.header
    # 1. who ordered at this height
    reigns = Reigns(Reign(epoch=0, after=0, sentinel=anchor.sentinel, key=anchor.sentinel_key))
    for handover in proof.handovers:
        _verify_handover(handover, reigns, header.height, anchor)
        reigns.add(handover)
    reign = reigns.current
    # 2. network, and the sentinel's signature
    verify_header(proof.header, anchor.network, reign.key)
    # 3. who made it
    if header.proposer != reign.sentinel:
        raise VerificationError(f"block {header.height} was made by {header.proposer}; expected {reign.sentinel}")
    # 4. the first block follows the genesis itself ...
    if header.height == 1 and header.previous_hash != anchor.genesis_hash:
        raise VerificationError(
            f"block 1 follows the genesis {header.previous_hash.hex()[:16]}, the one given is "
            f"{anchor.genesis_hash.hex()[:16]}"
        )
    # ... and the first one under a new sentinel the last one that counted before
    if reign.epoch and header.height == reign.after + 1:
        tip_hash = hash_header(proof.handovers[-1].tip.header)
        if header.previous_hash != tip_hash:
            raise VerificationError(
                f"block {header.height} follows {header.previous_hash.hex()[:16]}; handover {reign.epoch} was after "
                f"{tip_hash.hex()[:16]}"
            )
    # 5. the transactions are those of the header
    txs = verify_content(proof.content, header.txs_root)
    since = f" (handover {reign.epoch}, after block {reign.after})" if reign.epoch else ""
    return Proven(
        height=header.height,
        time_ms=header.time_ms,
        block_hash=hash_header(header),
        proposer=header.proposer,
        txs=txs,
        is_whole=isinstance(proof.content, Whole),
        vouchers=(f"the sentinel {reign.sentinel}{since}",),
    )


def _verify_handover(handover: Handover, reigns: Reigns, height: int, anchor: Anchor) -> None:
    number, current = handover.epoch, reigns.current
    # a. it is of this network, and comes after the one before and before the block
    if handover.network != anchor.network:
        raise VerificationError(f"handover {number} is of network {handover.network!r}; expected {anchor.network!r}")
    if number <= current.epoch or not current.after <= handover.height < height:
        raise VerificationError(
            f"handover {number} after block {handover.height} does not stand between handover {current.epoch} after "
            f"block {current.after} and block {height}"
        )
    # b. its tip is a block of whoever ordered then
    before = reigns.at(handover.height)
    verify_header(handover.tip, anchor.network, before.key)
    if handover.tip.header.proposer != before.sentinel:
        raise VerificationError(
            f"handover {number}: block {handover.height} was made by {handover.tip.header.proposer}; expected "
            f"{before.sentinel}"
        )
    # c. people say that it is the one
    if handover.fingerprint not in anchor.handovers:
        raise VerificationError(
            f"the block is after handover {number} to {handover.sentinel}, fingerprint {handover.fingerprint.hex()}: "
            "ask SN operators whom you trust whether that is theirs (swarm network handover show), and if it is give "
            "--handover with it"
        )
