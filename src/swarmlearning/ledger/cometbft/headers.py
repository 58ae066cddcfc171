"""CometBFT's headers, commits and validators as records, hashed and signed exactly as v0.38 to v0.40 do it.

A header's hash is the Merkle root (RFC 6962) over its fields, each in protobuf; validators sign a canonical vote. What
is needed of protobuf is written out here, so that whoever verifies a proof needs no package for it.

Does not: decide whose signatures count (`proofs`). Sources: CometBFT's types/block.go, canonical.go, validator_set.go.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from swarmlearning.encoding import Record, merkle_root, sha256

ADDRESS_BYTES: Final = 20
PRECOMMIT: Final = 2
"""Type of the votes that commit a block."""

_VARINT, _FIXED64, _BYTES = 0, 1, 2

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
MaybeHash = Annotated[bytes, Meta(max_length=32)]
"""Empty where there is nothing to hash yet."""
Address = Annotated[bytes, Meta(min_length=ADDRESS_BYTES, max_length=ADDRESS_BYTES)]
"""Of a validator: the first 20 bytes of the SHA-256 of its key."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Instant(Record, frozen=True, kw_only=True):
    """A time, exact: it is hashed and signed."""

    seconds: Count
    """Since the epoch."""
    nanos: Annotated[int, Meta(ge=0, le=999_999_999)]

    @property
    def milliseconds(self) -> int:
        """Since the epoch, rounded down."""
        return self.seconds * 1000 + self.nanos // 1_000_000


class Parts(Record, frozen=True, kw_only=True):
    """How a block was cut for gossip: a part of its name."""

    total: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    hash: MaybeHash


class BlockId(Record, frozen=True, kw_only=True):
    """A block's name; all empty before the first."""

    hash: MaybeHash
    parts: Parts


class CometHeader(Record, frozen=True, kw_only=True):
    """A block's header. Hashes are of what the field's name says."""

    block_version: Count
    app_version: Count
    chain_id: Annotated[str, Meta(max_length=64)]
    height: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    time: Instant
    last_block: BlockId
    last_commit: MaybeHash
    data: MaybeHash
    """Merkle root over the SHA-256 of each transaction."""
    validators: Hash
    """Who vote on this block."""
    next_validators: Hash
    consensus: MaybeHash
    app: MaybeHash
    """The application's state after the block before."""
    last_results: MaybeHash
    evidence: MaybeHash
    proposer: Address


class Member(Record, frozen=True, kw_only=True):
    """A validator as a header's `validators` stands for it."""

    key: Hash
    """Ed25519 public key, 32 bytes."""
    power: Annotated[int, Meta(ge=1, le=2**60)]

    @property
    def address(self) -> bytes:
        """How votes name it."""
        return sha256(self.key)[:ADDRESS_BYTES]


class Vote(Record, frozen=True, kw_only=True):
    """A validator's signature under a block."""

    address: Address
    time: Instant
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Commit(Record, frozen=True, kw_only=True):
    """The votes that committed a block; its hash and height are the header's."""

    round: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    parts: Parts
    votes: Annotated[tuple[Vote, ...], Meta(max_length=4096)]
    """Those for the block, by address; CometBFT's others are left out."""


def hash_header(header: CometHeader) -> bytes:
    """The block's hash, 32 bytes."""
    return merkle_root(
        [
            _number(1, header.block_version) + _number(2, header.app_version),
            _text(1, header.chain_id.encode()),
            _number(1, header.height),
            _instant(header.time),
            _block_id(header.last_block),
            *(
                _text(1, field)
                for field in (
                    header.last_commit,
                    header.data,
                    header.validators,
                    header.next_validators,
                    header.consensus,
                    header.app,
                    header.last_results,
                    header.evidence,
                    header.proposer,
                )
            ),
        ]
    )


def hash_members(members: Sequence[Member]) -> bytes:
    """What a header says of its validators, 32 bytes; they are in CometBFT's order."""
    return merkle_root([_message(1, _text(1, member.key)) + _number(2, member.power) for member in members])


def order_members(members: Sequence[Member]) -> tuple[Member, ...]:
    """Validators in CometBFT's order: by power, the highest first, then by address."""
    return tuple(sorted(members, key=lambda member: (-member.power, member.address)))


def vote_bytes(header: CometHeader, block_hash: bytes, commit: Commit, vote: Vote) -> bytes:
    """What a vote signs: the canonical precommit, with its length before it."""
    block = BlockId(hash=block_hash, parts=commit.parts)
    body = (
        _number(1, PRECOMMIT)
        + _fixed(2, header.height)
        + _fixed(3, commit.round)
        + _message(4, _block_id(block))
        + _message(5, _instant(vote.time))
        + _text(6, header.chain_id.encode())
    )
    return _varint(len(body)) + body


def _block_id(block: BlockId) -> bytes:
    # The canonical form of a vote has the same fields and numbers.
    return _text(1, block.hash) + _message(2, _number(1, block.parts.total) + _text(2, block.parts.hash))


def _instant(time: Instant) -> bytes:
    return _number(1, time.seconds) + _number(2, time.nanos)


# --- protobuf: a field that is zero or empty is not written, a message that must be there always --------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _number(number: int, value: int) -> bytes:
    return _tag(number, _VARINT) + _varint(value) if value else b""


def _fixed(number: int, value: int) -> bytes:
    return _tag(number, _FIXED64) + value.to_bytes(8, "little") if value else b""


def _text(number: int, value: bytes) -> bytes:
    return _message(number, value) if value else b""


def _message(number: int, value: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(value)) + value
