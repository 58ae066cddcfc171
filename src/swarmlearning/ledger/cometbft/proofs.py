"""Proofs of the engine on CometBFT: a transaction, its way to the header, and validators' signatures under that.

Whoever verifies has the genesis, which names the first validators. From there they follow a chain of *links*: headers
with their commits, as few as it takes, each signed by more than two thirds of those who are known, and by more than two
thirds of its own validators, who then are known. That is safe while of none of these sets a third or more lies.

Does not: need protobuf, or ask anybody (`archive` makes proofs). Spec: docs/spec/proofs.md.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from msgspec import Meta

from swarmlearning.encoding import Record, decode
from swarmlearning.errors import VerificationError
from swarmlearning.identity.signing import verify_signature
from swarmlearning.ledger.cometbft.headers import (
    CometHeader,
    Commit,
    Member,
    hash_header,
    hash_members,
    order_members,
    vote_bytes,
)
from swarmlearning.ledger.cometbft.home import POWER
from swarmlearning.ledger.proofs import MAX_PROOF_BYTES, Anchor, Content, Proven, Whole, verify_content
from swarmlearning.types import Validator

MAX_MEMBERS: Final = 1024
MAX_LINKS: Final = 1024

Members = Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Link(Record, frozen=True, kw_only=True):
    """A header that validators signed, and who they are."""

    header: CometHeader
    commit: Commit
    members: Members
    """Who vote on this block, in CometBFT's order."""
    next_members: Members = ()
    """Who vote on the next one, where the next link could not be followed else; empty: not told."""


class CometProof(Record, frozen=True, kw_only=True):
    """What shows that a block holds transactions, to whoever has the genesis."""

    links: Annotated[tuple[Link, ...], Meta(min_length=1, max_length=MAX_LINKS)]
    """By height; the last one is the block itself."""
    content: Content


def first_members(validators: Iterable[Validator]) -> tuple[Member, ...]:
    """The validators that a genesis names, in CometBFT's order."""
    return order_members([Member(key=validator.key, power=POWER) for validator in validators])


def verify_proof(data: bytes, anchor: Anchor) -> Proven:
    """Verify an encoded `CometProof` by the genesis alone.

    Raises:
        DecodeError: it is none.
        VerificationError: it does not hold; says what was expected.
    """
    proof = decode(data, CometProof, limit=MAX_PROOF_BYTES)
    known, height = first_members(validator for _, validator in anchor.validators), 0
    for link in proof.links:
        verify_link(link, known, height, anchor.network)
        known, height = link.next_members or link.members, link.header.height
    last = proof.links[-1]
    if last.next_members:
        raise VerificationError(f"block {height} is the last link, but tells who vote on the next one")
    txs = verify_content(proof.content, last.header.data)
    names = {validator.address: domain for domain, validator in anchor.validators}
    return Proven(
        height=height,
        time_ms=last.header.time.milliseconds,
        block_hash=hash_header(last.header),
        proposer=_name(last.header.proposer, names),
        txs=txs,
        is_whole=isinstance(proof.content, Whole),
        vouchers=(_describe(last, names),),
    )


def verify_link(link: Link, known: tuple[Member, ...], above: int, network: str) -> None:
    """Follow a link, from the validators that are known.

    Args:
        link: to be verified.
        known: whose signatures count.
        above: height of the link before; 0 for the first.
        network: the chain's id.

    Raises:
        VerificationError: it cannot be followed.
    """
    header = link.header
    where = f"block {header.height}"
    # 1. network, height
    if header.chain_id != network:
        raise VerificationError(f"{where} is of network {header.chain_id!r}; expected {network!r}")
    if header.height <= above:
        raise VerificationError(f"{where} comes after block {above}")
    # 2. the validators are those of the header
    if hash_members(link.members) != header.validators:
        raise VerificationError(f"{where}: the validators told of are not those of its header")
    if link.next_members and hash_members(link.next_members) != header.next_validators:
        raise VerificationError(f"{where}: the next validators told of are not those of its header")
    # 3. every vote is one of theirs, and holds
    signers = _verify_votes(link)
    # 4. more than two thirds of them, and of those who were known
    for members, whose in ((link.members, "its own validators"), (known, "the validators known before")):
        has, of = weigh(members, signers)
        if 3 * has <= 2 * of:
            raise VerificationError(f"{where} is signed by {has} of the voting power {of} of {whose}; expected more "
                                    "than two thirds")  # fmt: skip


def _verify_votes(link: Link) -> set[bytes]:
    """Keys of who signed; each signature that is there must hold."""
    header = link.header
    where, block_hash = f"block {header.height}", hash_header(header)
    keys = {member.address: member.key for member in link.members}
    addresses = [vote.address for vote in link.commit.votes]
    if addresses != sorted(set(addresses)):
        raise VerificationError(f"{where}: its votes are not in the order of addresses, each once")
    for vote in link.commit.votes:
        key = keys.get(vote.address)
        if key is None:
            raise VerificationError(f"{where}: {vote.address.hex()} votes, but is no validator of this block")
        try:
            verify_signature(key, b"", vote_bytes(header, block_hash, link.commit, vote), vote.signature)
        except VerificationError as error:
            raise VerificationError(
                f"{where}: the signature of validator {vote.address.hex()} does not hold"
            ) from error
    return {keys[address] for address in addresses}


def weigh(members: Iterable[Member], signers: set[bytes]) -> tuple[int, int]:
    """Voting power of those of `members` who signed, and of all."""
    powers = [(member.power, member.key in signers) for member in members]
    return sum(power for power, signed in powers if signed), sum(power for power, _ in powers)


def _name(address: bytes, names: Mapping[bytes, str]) -> str:
    return f"{names[address]} ({address.hex()})" if address in names else address.hex()


def _describe(link: Link, names: Mapping[bytes, str]) -> str:
    who = ", ".join(names.get(vote.address, vote.address.hex()) for vote in link.commit.votes)
    return f"{len(link.commit.votes)} of {len(link.members)} validators: {who}"
