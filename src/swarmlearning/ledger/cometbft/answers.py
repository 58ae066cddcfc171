"""What CometBFT's RPC answers about blocks, as far as proofs and exports need it, turned into our own records.

Does not: ask (`rpc`), or verify (`proofs`).
"""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlearning.errors import DecodeError
from swarmlearning.ledger.cometbft.headers import BlockId, CometHeader, Commit, Instant, Member, Parts, Vote

FOR_THE_BLOCK: Final = 2
"""`block_id_flag` of a vote for the block that was committed."""

ED25519: Final = "tendermint/PubKeyEd25519"

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


class _Parts(msgspec.Struct, frozen=True):
    total: int
    hash: str


class _BlockId(msgspec.Struct, frozen=True):
    hash: str
    parts: _Parts


class _Version(msgspec.Struct, frozen=True):
    block: str
    app: str = "0"


class _Header(msgspec.Struct, frozen=True):
    version: _Version
    chain_id: str
    height: str
    time: str
    last_block_id: _BlockId
    last_commit_hash: str
    data_hash: str
    validators_hash: str
    next_validators_hash: str
    consensus_hash: str
    app_hash: str
    last_results_hash: str
    evidence_hash: str
    proposer_address: str


class _Signature(msgspec.Struct, frozen=True):
    block_id_flag: int
    validator_address: str
    timestamp: str
    signature: bytes | None


class _Commit(msgspec.Struct, frozen=True):
    height: str
    round: int
    block_id: _BlockId
    signatures: list[_Signature]


class _Signed(msgspec.Struct, frozen=True):
    header: _Header
    commit: _Commit


class CommitAnswer(msgspec.Struct, frozen=True):
    """Of `commit`."""

    signed_header: _Signed


class _Key(msgspec.Struct, frozen=True):
    type: str
    value: bytes


class _Validator(msgspec.Struct, frozen=True):
    pub_key: _Key
    voting_power: str


class ValidatorsAnswer(msgspec.Struct, frozen=True):
    """A page of `validators`."""

    validators: list[_Validator]
    total: str


class _Data(msgspec.Struct, frozen=True):
    txs: list[bytes] | None


class _Block(msgspec.Struct, frozen=True):
    header: _Header
    data: _Data


class BlockAnswer(msgspec.Struct, frozen=True):
    """Of `block`."""

    block_id: _BlockId
    block: _Block | None

    @property
    def txs(self) -> tuple[bytes, ...]:
        """The block's transactions, in order."""
        return tuple((self.block.data.txs if self.block is not None else None) or ())


class _SyncInfo(msgspec.Struct, frozen=True):
    earliest_block_height: str
    latest_block_height: str


class RangeAnswer(msgspec.Struct, frozen=True):
    """Of `status`: which blocks are kept."""

    sync_info: _SyncInfo


def read_header(told: _Header) -> CometHeader:
    """A header.

    Raises:
        DecodeError: something in it is not of its form.
    """
    try:
        header = CometHeader(
            block_version=int(told.version.block),
            app_version=int(told.version.app),
            chain_id=told.chain_id,
            height=int(told.height),
            time=read_time(told.time),
            last_block=BlockId(hash=bytes.fromhex(told.last_block_id.hash), parts=_parts(told.last_block_id.parts)),
            last_commit=bytes.fromhex(told.last_commit_hash),
            data=bytes.fromhex(told.data_hash),
            validators=bytes.fromhex(told.validators_hash),
            next_validators=bytes.fromhex(told.next_validators_hash),
            consensus=bytes.fromhex(told.consensus_hash),
            app=bytes.fromhex(told.app_hash),
            last_results=bytes.fromhex(told.last_results_hash),
            evidence=bytes.fromhex(told.evidence_hash),
            proposer=bytes.fromhex(told.proposer_address),
        )
    except ValueError as error:
        raise DecodeError(f"CometBFT's header of block {told.height[:20]}: {error}") from error
    return header


def read_commit(told: _Commit) -> Commit:
    """A commit: of its votes, those for the block.

    Raises:
        DecodeError: something in it is not of its form.
    """
    try:
        votes = [
            Vote(
                address=bytes.fromhex(one.validator_address),
                time=read_time(one.timestamp),
                signature=one.signature or b"",
            )
            for one in told.signatures
            if one.block_id_flag == FOR_THE_BLOCK
        ]
        votes.sort(key=lambda vote: vote.address)
        return Commit(round=told.round, parts=_parts(told.block_id.parts), votes=tuple(votes))
    except ValueError as error:
        raise DecodeError(f"CometBFT's commit of block {told.height[:20]}: {error}") from error


def read_members(told: Sequence[_Validator]) -> tuple[Member, ...]:
    """Validators, in the order in which they are told.

    Raises:
        DecodeError: one votes with another kind of key than Ed25519.
    """
    for one in told:
        if one.pub_key.type != ED25519:
            raise DecodeError(
                f"CometBFT tells of a validator with a key of type {one.pub_key.type}; expected {ED25519}"
            )
    try:
        return tuple(Member(key=one.pub_key.value, power=int(one.voting_power)) for one in told)
    except ValueError as error:
        raise DecodeError(f"CometBFT's validators: {error}") from error


def read_time(text: str) -> Instant:
    """A time with up to nine digits of a second's fraction.

    Raises:
        ValueError: it is none, or before 1970.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"time {text[:40]!r}: expected YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ")
    whole = dt.datetime.fromisoformat(found[1]).replace(tzinfo=dt.UTC)
    seconds = (whole - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(seconds=1)
    if seconds < 0:
        raise ValueError(f"time {text[:40]!r} is before 1970")
    return Instant(seconds=seconds, nanos=int((found[2] or "").ljust(9, "0")))


def _parts(told: _Parts) -> Parts:
    return Parts(total=told.total, hash=bytes.fromhex(told.hash))
