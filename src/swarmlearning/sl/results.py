"""A result of a round on disk: being written, or open. Spec: docs/spec/round.md, R-12.

The chunks of a result are written where they belong as they come, and hashed as far as they are there.

Does not: name files or keep count of them (`store`), or fetch and verify chunks (`fetching`).
"""

import contextlib
import hashlib
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from swarmlearning.encoding import Record
from swarmlearning.parameters.chunks import CHUNK_BYTES, HASH_BYTES, chunk_count, merged_leaf
from swarmlearning.sl.chunkfile import ChunkFile, allocate, read_at
from swarmlearning.types import ContractName

_READ_BYTES: Final = 256 << 10
"""Read and hashed at a time."""


class StoredResult(Record, frozen=True, kw_only=True):
    """What is known of a result on disk."""

    contract: ContractName
    run: int
    round: int
    roots: tuple[bytes, ...]
    sha256: bytes
    size: int
    file: str
    """Plain file name in the directory."""
    whole: bytes = b""
    """Where `roots` are of a difference, the root of the canonical buffer as one shard; else empty."""


def leaves_of(buffer: memoryview) -> bytes:
    """`merged_leaf` of every chunk of a canonical buffer, in order."""
    return b"".join(merged_leaf(buffer[at : at + CHUNK_BYTES]) for at in range(0, len(buffer), CHUNK_BYTES))


def shard_leaves(leaves: bytes, shards: int, shard: int) -> bytes:
    """Of all chunks' leaves, those of one shard."""
    return b"".join(
        leaves[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(shard, len(leaves) // HASH_BYTES, shards)
    )


class OpenResult:
    """A stored result, open: it can be read after it has gone from the directory."""

    def __init__(self, record: StoredResult, chunks: ChunkFile, leaves: Sequence[bytes] = ()) -> None:
        """Serve a file of ours.

        Args:
            record: what is known of it.
            chunks: its file.
            leaves: of each shard, if they are known; else they are computed when somebody first asks.
        """
        self.record = record
        self.chunks = chunks
        self._leaves = tuple(leaves)
        self._buffer: memoryview | None = None

    @property
    def buffer(self) -> memoryview:
        """The whole, mapped: what is touched of it counts as memory of this process. `chunks` does not."""
        if self._buffer is None:
            size = self.record.size
            mapped = mmap.mmap(self.chunks.descriptor, size, access=mmap.ACCESS_READ) if size else b""
            self._buffer = memoryview(mapped)
        return self._buffer

    def leaves(self, shard: int) -> bytes:
        """Leaves of one shard; of the whole, where the round's shards are of a difference."""
        shards = 1 if self.record.whole else len(self.record.roots)
        if not self._leaves:
            chunk = self.chunks.source()
            whole = b"".join(merged_leaf(chunk(index)) for index in range(chunk_count(self.record.size)))
            self._leaves = tuple(shard_leaves(whole, shards, number) for number in range(shards))
        return self._leaves[shard]


def open_verified(path: Path, record: StoredResult) -> ChunkFile:
    """A result's file, found to be what its record says.

    Raises:
        OSError, Broken: it is missing, or not that.
    """
    # Without blocking: a program can put a pipe in the file's place, which would stop the whole node.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    chunks = ChunkFile(descriptor, record.size, range(chunk_count(record.size)))
    found = os.fstat(descriptor).st_size
    if found != record.size:
        raise OSError(f"{path.name} has {found} bytes, expected {record.size}")
    digest = hashlib.sha256()
    chunk = chunks.source()
    for index in range(chunk_count(record.size)):
        digest.update(chunk(index))
    if digest.digest() != record.sha256:
        raise OSError(f"{path.name} is damaged")
    return chunks


class Part:
    """A result on its way to disk, in a file that goes with this object unless it is finished."""

    def __init__(self, directory: Path, prefix: str, record: StoredResult) -> None:
        """Make room for a result.

        Args:
            directory: where it will lie.
            prefix: of the file's name.
            record: what is known of it already.

        Raises:
            OSError: the disk has no room.
        """
        self.record = record
        descriptor, name = tempfile.mkstemp(prefix=f"{prefix}-", suffix=".part", dir=directory)
        self.path = Path(name)
        self.chunks = ChunkFile(descriptor, record.size, range(chunk_count(record.size)))
        """Takes verified chunks."""
        self._remove = weakref.finalize(self, remove_quietly, self.path)
        self._sha256 = hashlib.sha256()
        self._room = memoryview(bytearray(min(_READ_BYTES, max(1, record.size))))
        self._hashed = 0
        self._lock = threading.Lock()
        try:
            allocate(descriptor, record.size)
        except OSError:
            self._remove()
            raise

    @property
    def done(self) -> int:
        """How many chunks, from the first on, are hashed."""
        return chunk_count(self._hashed)

    @property
    def total(self) -> int:
        """How many there are."""
        return chunk_count(self.record.size)

    @property
    def is_there(self) -> bool:
        """Whether the file is still this object's: neither finished nor given up."""
        return self._remove.alive

    def advance(self, upto: int) -> None:
        """Hash the first `upto` chunks, all of which have been written.

        Raises:
            Broken: the disk is damaged.
        """
        # A step that was cancelled goes on in its worker thread, and the next one comes here too.
        with self._lock:
            end = min(upto * CHUNK_BYTES, self.record.size)
            while self._hashed < end:
                into = self._room[: min(len(self._room), end - self._hashed)]
                read_at(self.chunks.descriptor, into, self._hashed)
                self._sha256.update(into)
                self._hashed += len(into)

    def digest(self) -> bytes:
        """SHA-256 of the whole.

        Raises:
            Broken: the disk is damaged.
        """
        self.advance(self.total)
        return self._sha256.digest()

    def keep(self, path: Path) -> None:
        """Give the file its name; it stays from now on."""
        self.path.replace(path)
        self._remove.detach()

    def give_up(self) -> None:
        """Remove the file now, unless it has its name."""
        self._remove()


def remove_quietly(path: Path) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
