"""Blocks: what a signature covers, and what convicts a sentinel (docs/spec/ledger.md: L-1, L-2, L-18)."""

import msgspec
import pytest
from ledger_support import NETWORK, Forger, sn

from swarmlearning.encoding import decode, encode, merkle_root, sha256
from swarmlearning.errors import DecodeError, VerificationError
from swarmlearning.identity.signing import SigningKey, verify_signature
from swarmlearning.ledger.embedded import Block, Evidence
from swarmlearning.ledger.embedded.blocks import (
    HEADER_DOMAIN,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TX_BYTES,
    MAX_BLOCK_TXS,
    hash_header,
    hash_txs,
    is_contradiction,
    sign_block,
    verify_evidence,
    verify_header,
)
from swarmlearning.ledger.embedded.wire import MAX_REPLY_BLOCK_BYTES, BlocksReply
from swarmlearning.transport.api import MAX_BODY_BYTES


@pytest.fixture
def forger() -> Forger:
    return Forger(SigningKey.create())


def test_a_header_commits_to_transactions_in_order_and_is_signed_under_its_own_domain(forger: Forger) -> None:
    block = forger.add([b"a=1", b"b=2"])
    assert block.header.txs_root == merkle_root([sha256(b"a=1"), sha256(b"b=2")])
    assert hash_txs([b"b=2", b"a=1"]) != block.header.txs_root
    assert hash_header(block.header) == sha256(encode(block.header))
    verify_signature(forger.key.public, HEADER_DOMAIN, encode(block.header), block.signature)
    with pytest.raises(VerificationError):
        verify_signature(forger.key.public, b"swarmlearning transaction v1\x00", encode(block.header), block.signature)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 9),
        ("time_ms", 0),
        ("previous_hash", bytes(32)),
        ("txs_root", bytes(32)),
        ("app_hash", bytes(32)),
        ("proposer", sn(1).id),
    ],
)
def test_no_field_of_a_header_can_be_changed_after_signing(field: str, value: object, forger: Forger) -> None:
    signed = forger.add().signed_header
    verify_header(signed, NETWORK, forger.key.public)
    forged = msgspec.structs.replace(signed, header=msgspec.structs.replace(signed.header, **{field: value}))
    with pytest.raises(VerificationError, match="signature does not hold"):
        verify_header(forged, NETWORK, forger.key.public)


def test_a_header_of_another_network_or_key_does_not_verify(forger: Forger) -> None:
    signed = forger.add().signed_header
    with pytest.raises(VerificationError, match="expected 'other'"):
        verify_header(signed, "other", forger.key.public)
    with pytest.raises(VerificationError, match="signature does not hold"):
        verify_header(signed, NETWORK, SigningKey.create().public)


@pytest.mark.parametrize(("field", "value"), [("height", 0), ("previous_hash", b"short"), ("time_ms", -1)])
def test_a_block_with_an_impossible_header_is_not_decoded(field: str, value: object, forger: Forger) -> None:
    block = forger.add()
    impossible = msgspec.structs.replace(block, header=msgspec.structs.replace(block.header, **{field: value}))
    with pytest.raises(DecodeError):
        decode(encode(impossible), Block)


def test_the_largest_block_fits_into_one_reply(forger: Forger) -> None:
    size = MAX_BLOCK_TX_BYTES // MAX_BLOCK_TXS
    block = forger.block([bytes(size)] * MAX_BLOCK_TXS)
    header = msgspec.structs.replace(block.header, network="n" * 64, height=2**62, time_ms=2**62, proposer="p" * 512)
    encoded = encode(sign_block(header, block.txs, forger.key))
    assert len(encoded) <= MAX_BLOCK_BYTES <= MAX_REPLY_BLOCK_BYTES
    assert len(encode(BlocksReply(height=1, blocks=(encoded,)))) <= MAX_BODY_BYTES


def test_two_headers_of_one_height_convict(forger: Forger) -> None:
    evidence = Evidence(first=forger.block([b"a=1"]).signed_header, second=forger.block([b"a=2"]).signed_header)
    verify_evidence(evidence, NETWORK, forger.key.public)


def test_two_neighbours_that_do_not_link_convict(forger: Forger) -> None:
    other = forger.block([b"a=2"])
    forger.add([b"a=1"])
    second = forger.add()
    assert not is_contradiction(Evidence(first=forger.blocks[0].signed_header, second=second.signed_header))
    assert is_contradiction(Evidence(first=other.signed_header, second=second.signed_header))
    assert is_contradiction(Evidence(first=second.signed_header, second=other.signed_header))


def test_nobody_is_convicted_by_the_same_header_twice_or_by_headers_far_apart(forger: Forger) -> None:
    for _ in range(3):
        forger.add()
    first, _, third = (block.signed_header for block in forger.blocks)
    for second in (first, third):
        with pytest.raises(VerificationError, match="do not contradict"):
            verify_evidence(Evidence(first=first, second=second), NETWORK, forger.key.public)


def test_evidence_forged_with_another_key_convicts_nobody(forger: Forger) -> None:
    forged = Forger(SigningKey.create()).block([b"a=2"]).signed_header
    real = forger.block([b"a=1"]).signed_header
    for evidence in (Evidence(first=real, second=forged), Evidence(first=forged, second=real)):
        with pytest.raises(VerificationError, match="signature does not hold"):
            verify_evidence(evidence, NETWORK, forger.key.public)
