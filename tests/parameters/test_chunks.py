"""Commitments, leaves and roots, and what a dishonest server could try (docs/spec/parameters.md, P-20 to P-29)."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.errors import Broken, VerificationError
from swarmlearning.parameters import chunks
from swarmlearning.parameters.chunks import CHUNK_BYTES, ChunkVerifier, commit, root_of, salt

SECRET = bytes(range(32))
BUFFER = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail" * 16
COMMITTED = commit(BUFFER, SECRET)


def part(index: int) -> bytes:
    return BUFFER[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def verifier() -> ChunkVerifier:
    return ChunkVerifier(COMMITTED.root, COMMITTED.leaves, len(BUFFER))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_golden_vectors_are_what_the_code_computes() -> None:
    here = Path(__file__).parent
    expected = json.loads((here / "golden" / "commitments.json").read_text())
    found = runpy.run_path(str(here / "make_golden.py"))["vectors"]()
    assert json.loads(json.dumps(found)) == expected


def test_p21_all_promised_chunks_verify_in_any_order() -> None:
    check = verifier()
    for index in (3, 0, 2, 1, 2):
        check.verify(index, salt(SECRET, index), part(index))


def test_p24_every_corrupted_byte_of_a_leaf_is_detected() -> None:
    for at in range(len(COMMITTED.leaves)):
        with pytest.raises(VerificationError, match="commitment on the ledger"):
            ChunkVerifier(COMMITTED.root, flipped(COMMITTED.leaves, at), len(BUFFER))
    for at in range(32):
        with pytest.raises(VerificationError, match="commitment on the ledger"):
            ChunkVerifier(flipped(COMMITTED.root, at), COMMITTED.leaves, len(BUFFER))


def test_p25_every_corrupted_byte_of_a_salt_or_chunk_is_detected() -> None:
    check = verifier()
    for at in range(16):
        with pytest.raises(VerificationError, match="chunk 3 does not match"):
            check.verify(3, flipped(salt(SECRET, 3), at), part(3))
    for at in range(64):  # the short last chunk, every byte
        with pytest.raises(VerificationError, match="chunk 3 does not match"):
            check.verify(3, salt(SECRET, 3), flipped(part(3), at))


@given(st.integers(0, 2), st.integers(0, CHUNK_BYTES - 1), st.integers(1, 255))
@settings(deadline=None, max_examples=200)
def test_p25_any_corrupted_byte_of_a_full_chunk_is_detected(index: int, at: int, mask: int) -> None:
    damaged = bytearray(part(index))
    damaged[at] ^= mask
    with pytest.raises(VerificationError, match="does not match"):
        verifier().verify(index, salt(SECRET, index), damaged)


def test_p25_a_chunk_in_the_place_of_another_is_refused() -> None:
    # Chunks 0 and 1 hold the same bytes: the salt still ties each to its place.
    assert part(0) == part(1)
    with pytest.raises(VerificationError):
        verifier().verify(0, salt(SECRET, 1), part(1))


def test_p25_lengths_indices_and_missing_salts_are_refused() -> None:
    check = verifier()
    own = salt(SECRET, 0)
    refused: list[tuple[int, bytes | None, bytes, str]] = [
        (-1, own, part(0), "chunk -1 is not among the 4"),
        (4, own, part(0), "chunk 4 is not among the 4"),
        (0, own, part(0)[:-1], "has 65535 bytes; expected 65536"),
        (0, own, part(0) + b"\0", "has 65537 bytes; expected 65536"),
        (0, own, b"", "has 0 bytes"),
        (0, None, part(0), "salt of 16 bytes, got none"),
        (0, own[:-1], part(0), "got 15 bytes"),
        (0, own + b"\0", part(0), "got 17 bytes"),
    ]
    for index, given_salt, chunk, message in refused:
        with pytest.raises(VerificationError, match=message):
            check.verify(index, given_salt, chunk)


def test_p25_bytes_cannot_move_between_chunk_and_salt() -> None:
    own = salt(SECRET, 3)
    with pytest.raises(VerificationError, match="63 bytes; expected 64"):
        verifier().verify(3, part(3)[-1:] + own, part(3)[:-1])


def test_p23_the_root_is_bound_to_size_and_number() -> None:
    assert root_of(COMMITTED.leaves, len(BUFFER)) == COMMITTED.root
    assert root_of(COMMITTED.leaves, len(BUFFER) - 1) != COMMITTED.root
    for leaves in (COMMITTED.leaves[:-32], COMMITTED.leaves + bytes(32), COMMITTED.leaves[:-1]):
        with pytest.raises(VerificationError, match="leaves of"):
            root_of(leaves, len(BUFFER))


def test_p22_an_inner_node_cannot_pass_for_a_leaf() -> None:
    inner = chunks._node(COMMITTED.leaves[:64]) + chunks._node(COMMITTED.leaves[64:])
    assert chunks._top(inner) == chunks._top(COMMITTED.leaves)  # only size and number stand in the way
    with pytest.raises(VerificationError):
        ChunkVerifier(COMMITTED.root, inner, 2 * CHUNK_BYTES)
    with pytest.raises(VerificationError):
        ChunkVerifier(COMMITTED.root, inner, len(BUFFER))


@given(st.integers(1, 40))
@settings(deadline=None)
def test_p22_the_tree_has_the_shape_of_rfc_6962(count: int) -> None:
    def by_definition(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        return chunks._node(by_definition(leaves[:split]) + by_definition(leaves[split:]))

    leaves = [bytes([k]) * 32 for k in range(count)]
    assert chunks._top(b"".join(leaves)) == by_definition(leaves)


def test_p20_salts_differ_by_index_and_secret_and_hide_equal_chunks() -> None:
    salts = {salt(secret, index) for secret in (SECRET, bytes(32)) for index in (0, 1, 256, 1 << 24)}
    assert len(salts) == 8
    assert COMMITTED.leaves[:32] != COMMITTED.leaves[32:64]  # of chunks with the same bytes
    assert commit(BUFFER, bytes(32)).root != COMMITTED.root
    with pytest.raises(Broken, match="secret of 31 bytes"):
        commit(BUFFER, bytes(31))


def test_p20_a_commitment_does_not_carry_its_secret() -> None:
    assert SECRET.hex() not in repr(COMMITTED)
    assert set(type(COMMITTED).__struct_fields__) == {"root", "leaves", "size"}


def test_p20_an_empty_buffer_has_a_commitment() -> None:
    empty = commit(b"", SECRET)
    assert empty.leaves == b""
    assert len(empty.root) == 32
    with pytest.raises(VerificationError, match="not among the 0 chunks"):
        ChunkVerifier(empty.root, b"", 0).verify(0, bytes(16), b"")


@given(st.integers(0, 200), st.integers(1, 17))
def test_p26_shards_deal_every_chunk_exactly_once(count: int, shards: int) -> None:
    dealt = [chunks.shard_chunks(count, shards, shard) for shard in range(shards)]
    assert sorted(index for part in dealt for index in part) == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_p26_a_shard_that_does_not_exist_is_refused() -> None:
    for shards, shard in ((0, 0), (2, 2), (2, -1)):
        with pytest.raises(Broken, match="does not exist"):
            chunks.shard_chunks(4, shards, shard)


def test_p27_merged_chunks_verify_against_their_shard_and_no_other() -> None:
    roots = []
    size = len(BUFFER)
    for shard in range(2):
        dealt = chunks.shard_chunks(4, 2, shard)
        leaves = b"".join(chunks.merged_leaf(part(index)) for index in dealt)
        roots.append(chunks.merged_root(leaves, size, shard=shard, shards=2))
        check = ChunkVerifier(roots[-1], leaves, size, shard=shard, shards=2)
        for index in range(4):
            if index in dealt:
                check.verify(index, None, part(index))
                with pytest.raises(VerificationError, match="came with a salt"):
                    check.verify(index, bytes(16), part(index))
                with pytest.raises(VerificationError, match="does not match"):
                    check.verify(index, None, flipped(part(index), 5))
            else:
                with pytest.raises(VerificationError, match="not among the 2 chunks"):
                    check.verify(index, None, part(index))
        for wrong in ({"shard": 1 - shard, "shards": 2}, {"shard": shard, "shards": 3}, {}):
            with pytest.raises(VerificationError):
                ChunkVerifier(roots[-1], leaves, size, **wrong)
        for at in range(len(leaves)):
            with pytest.raises(VerificationError, match=f"merged shard {shard}"):
                ChunkVerifier(roots[-1], flipped(leaves, at), size, shard=shard, shards=2)
    together = chunks.result_root(roots)
    assert together != chunks.result_root(roots[::-1])
    assert together != chunks.result_root(roots[:1])
    with pytest.raises(VerificationError, match="root of shard 1 has 0 bytes"):
        chunks.result_root([roots[0], b""])


def test_p27_the_roots_of_one_tree_differ_by_what_they_are_for() -> None:
    leaves = COMMITTED.leaves
    as_result = chunks.merged_root(leaves, len(BUFFER), shard=0, shards=1)
    assert len({COMMITTED.root, as_result, chunks.result_root([leaves[i : i + 32] for i in range(0, 128, 32)])}) == 3
    assert chunks.merged_leaf(part(0) + salt(SECRET, 0)) != chunks.leaf_hash(salt(SECRET, 0), part(0))
