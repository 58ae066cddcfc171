"""Commitments: a Merkle root over fixed 64 KiB chunks of a canonical buffer, with salted leaves.

A chunk can be shown and verified alone; a leaf tells nothing about its chunk without the salt. All hashes are BLAKE3
in key-derivation mode, so that a leaf, a node and a root can never pass for one another.

Does not: say who may see which chunk (`sl`), merge them (`merge`). Spec: docs/spec/parameters.md, P-20 to P-29.
"""

import hmac
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from swarmlearning.encoding import Record
from swarmlearning.errors import Broken, VerificationError

Buffer = bytes | bytearray | memoryview

CHUNK_BYTES: Final = 65536
"""Length of every chunk but the last, which may be shorter."""

HASH_BYTES: Final = 32
SALT_BYTES: Final = 16
SECRET_BYTES: Final = 32

_LEAF: Final = blake3(derive_key_context="swarmlearning v1 salted leaf")
_PLAIN_LEAF: Final = blake3(derive_key_context="swarmlearning v1 merged leaf")
_NODE: Final = blake3(derive_key_context="swarmlearning v1 node")
_ROOT: Final = blake3(derive_key_context="swarmlearning v1 root of a commitment")
_SHARD_ROOT: Final = blake3(derive_key_context="swarmlearning v1 root of a merged shard")
_RESULT_ROOT: Final = blake3(derive_key_context="swarmlearning v1 root of a result")


class Commitment(Record, frozen=True, kw_only=True):
    """A promise to serve exactly these chunks. Holds no secret: whoever committed keeps it and derives the salts."""

    root: bytes
    """32 bytes; what goes on the ledger."""
    leaves: bytes
    """32 bytes a chunk, in order; what a leader asks for first."""
    size: int
    """Of the buffer, bytes."""


class ChunkVerifier:
    """Verifies chunks one by one, in any order, against leaves that were verified against a root."""

    def __init__(self, root: bytes, leaves: Buffer, size: int, *, shard: int = 0, shards: int = 0) -> None:
        """Verify `leaves` against `root`.

        Args:
            root: from the ledger, 32 bytes.
            leaves: as received: of a commitment, or of one shard of a merged result.
            size: of the whole buffer, bytes, as the manifest says.
            shard: which shard of a merged result the leaves are of.
            shards: how many shards the result has; 0 for a commitment, which has none.

        Raises:
            VerificationError: the leaves are not those that `root` stands for.
        """
        self._size = size
        self._leaves = bytes(leaves)
        self._salted = shards == 0
        self.chunks = shard_chunks(chunk_count(size), shards or 1, shard)
        if self._salted:
            verify_leaves(root, self._leaves, size)
        else:
            _check_length(self._leaves, len(self.chunks))
            if not hmac.compare_digest(merged_root(self._leaves, size, shard=shard, shards=shards), root):
                raise VerificationError(f"the leaves of merged shard {shard} do not give the root on the ledger")

    def verify(self, index: int, salt: Buffer | None, chunk: Buffer) -> None:
        """Verify one chunk.

        Args:
            index: of the chunk in the whole buffer.
            salt: 16 bytes as received with the chunk; None for a merged result.
            chunk: the bytes as received.

        Raises:
            VerificationError: wrong index, length, salt or bytes.
        """
        if index not in self.chunks:
            raise VerificationError(f"chunk {index} is not among the {len(self.chunks)} chunks of this shard")
        expected = chunk_length(self._size, index)
        if len(chunk) != expected:
            raise VerificationError(f"chunk {index} has {len(chunk)} bytes; expected {expected}")
        if self._salted:
            if salt is None or len(salt) != SALT_BYTES:
                got = "none" if salt is None else f"{len(salt)} bytes"
                raise VerificationError(f"chunk {index}: expected a salt of {SALT_BYTES} bytes, got {got}")
            found = leaf_hash(salt, chunk)
        else:
            if salt is not None:
                raise VerificationError(f"chunk {index} of a merged result came with a salt; it has none")
            found = merged_leaf(chunk)
        at = self.chunks.index(index) * HASH_BYTES
        if not hmac.compare_digest(found, self._leaves[at : at + HASH_BYTES]):
            raise VerificationError(
                f"chunk {index} does not match its leaf: not the bytes or the salt that were promised"
            )


def commit(buffer: Buffer, secret: bytes) -> Commitment:
    """Commit to a canonical buffer.

    Args:
        buffer: the canonical buffer; read once.
        secret: 32 random bytes, fresh for every commitment.

    Raises:
        Broken: the secret has another length.
    """
    view = memoryview(buffer).cast("B")
    leaves = b"".join(
        leaf_hash(salt(secret, index), view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        for index in range(chunk_count(view.nbytes))
    )
    return Commitment(root=root_of(leaves, view.nbytes), leaves=leaves, size=view.nbytes)


def salt(secret: bytes, index: int) -> bytes:
    """The salt of chunk `index`, 16 bytes; without the secret, other chunks' salts do not tell it.

    Raises:
        Broken: the secret is not 32 bytes.
    """
    if len(secret) != SECRET_BYTES:
        raise Broken(f"secret of {len(secret)} bytes; expected {SECRET_BYTES}")
    return blake3(index.to_bytes(8, "little"), key=secret).digest(length=SALT_BYTES)


def leaf_hash(salt: Buffer, chunk: Buffer) -> bytes:
    """The leaf of a contributor's chunk, 32 bytes: hash of chunk and salt.

    The salt comes last so that the chunk is hashed in place at full speed; its length is fixed, so the two cannot be
    divided in another way.
    """
    hasher = _LEAF.copy()
    hasher.update(chunk)
    hasher.update(salt)
    return hasher.digest()


def merged_leaf(chunk: Buffer) -> bytes:
    """The leaf of a merged chunk, 32 bytes; without salt, because every enrolled peer has the result."""
    hasher = _PLAIN_LEAF.copy()
    hasher.update(chunk)
    return hasher.digest()


def root_of(leaves: Buffer, size: int) -> bytes:
    """The root of a commitment, 32 bytes: over all leaves, the size of the buffer and their number.

    Raises:
        VerificationError: the number of leaves does not fit the size.
    """
    _check_length(leaves, chunk_count(size))
    return _bound(_ROOT, leaves, size, chunk_count(size))


def verify_leaves(root: bytes, leaves: Buffer, size: int) -> None:
    """Check that `leaves` are those that a commitment's `root` stands for.

    Raises:
        VerificationError: they are not.
    """
    if not hmac.compare_digest(root_of(leaves, size), root):
        raise VerificationError("the leaves do not give the commitment on the ledger")


def merged_root(leaves: Buffer, size: int, *, shard: int, shards: int) -> bytes:
    """The root of one shard of a merged result, 32 bytes.

    Args:
        leaves: `merged_leaf` of the shard's chunks, in order.
        size: of the whole buffer, bytes.
        shard: which shard, from 0.
        shards: how many there are.

    Raises:
        VerificationError: the number of leaves does not fit the shard.
    """
    _check_length(leaves, len(shard_chunks(chunk_count(size), shards, shard)))
    return _bound(_SHARD_ROOT, leaves, size, shards, shard)


def result_root(roots: Sequence[bytes]) -> bytes:
    """The root of a whole result, 32 bytes: over the roots of its shards, in order.

    Raises:
        VerificationError: a root is not 32 bytes.
    """
    for shard, root in enumerate(roots):
        if len(root) != HASH_BYTES:
            raise VerificationError(f"root of shard {shard} has {len(root)} bytes; expected {HASH_BYTES}")
    return _bound(_RESULT_ROOT, b"".join(roots), len(roots))


def shard_chunks(chunks: int, shards: int, shard: int) -> range:
    """Which chunks shard `shard` of `shards` has: dealt round-robin.

    Raises:
        Broken: there is no such shard.
    """
    if shards < 1 or not 0 <= shard < shards:
        raise Broken(f"shard {shard} of {shards} does not exist")
    return range(shard, chunks, shards)


def chunk_count(size: int) -> int:
    """How many chunks a buffer of `size` bytes has."""
    return -(-size // CHUNK_BYTES)


def chunk_length(size: int, index: int) -> int:
    """Length in bytes of chunk `index` of a buffer of `size` bytes."""
    return min(CHUNK_BYTES, size - index * CHUNK_BYTES)


def _check_length(leaves: Buffer, count: int) -> None:
    if len(leaves) != count * HASH_BYTES:
        raise VerificationError(f"leaves of {len(leaves)} bytes; expected {count} x {HASH_BYTES}")


def _bound(kind: blake3, leaves: Buffer, *numbers: int) -> bytes:
    """Hash a tree's top together with the numbers that fix its shape, as 64-bit little-endian."""
    hasher = kind.copy()
    for number in numbers:
        hasher.update(number.to_bytes(8, "little"))
    hasher.update(_top(leaves))
    return hasher.digest()


def _top(leaves: Buffer) -> bytes:
    """The top of the tree, in the shape of RFC 6962 section 2.1; of no leaves, nothing."""
    level = bytes(leaves)
    pair = 2 * HASH_BYTES
    while len(level) > HASH_BYTES:
        # An odd one out goes up as it is: the shape of RFC 6962, level by level.
        whole = len(level) // pair * pair
        above = [_node(level[at : at + pair]) for at in range(0, whole, pair)]
        level = b"".join(above) + level[whole:]
    return level


def _node(children: bytes) -> bytes:
    hasher = _NODE.copy()
    hasher.update(children)
    return hasher.digest()
