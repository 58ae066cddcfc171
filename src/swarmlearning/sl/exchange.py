"""What SLs say to each other: who asks for which chunks, and how they travel. Spec: docs/spec/exchange.md.

A chunk stream begins with the leaves (32 bytes a chunk; of the whole commitment, or of one merged shard) and goes on
with groups of chunks in order, each contributor's chunk behind its 16-byte salt. A puller verifies the leaves against
the root on the ledger first and every chunk against its leaf as it comes: bytes that do not verify count as not served.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from swarmlearning.encoding import Record, encode
from swarmlearning.errors import NonFinite, VerificationError
from swarmlearning.parameters.chunks import (
    CHUNK_BYTES,
    HASH_BYTES,
    SALT_BYTES,
    ChunkVerifier,
    chunk_count,
    chunk_length,
    shard_chunks,
)
from swarmlearning.parameters.manifest import Manifest, find_nonfinite
from swarmlearning.sl.chunkfile import Chunks, ChunkSink
from swarmlearning.transport.api import Address, Client
from swarmlearning.types import ContractName

STREAM_CHUNKS: Final = "exchange/chunks"
STREAM_RESULT: Final = "exchange/result"
CALL_MANIFEST: Final = "exchange/manifest"
CALL_PROGRESS: Final = "exchange/progress"
CALL_ABOUT: Final = "exchange/about"

GROUP: Final = 4
"""Chunks in a frame: about 256 KiB. Silence is counted by frames, so that a frame must fit through the slowest link
within half a lease: with the default lease, 50 KB/s."""

LEAVES_FRAME: Final = 256 << 10
"""Bytes of leaves in a frame."""

STEP_CHUNKS: Final = 256
"""Chunks merged in one step of progress: 16 MiB."""


class ChunkRequest(Record, frozen=True, kw_only=True):
    """A leader or witness of `shard` asks a contributor for its chunks, from the `start`-th of the shard on."""

    contract: ContractName
    run: int
    round: int
    attempt: int
    shard: int
    start: int


class ResultRequest(Record, frozen=True, kw_only=True):
    """A peer asks for a merged shard, from its `start`-th chunk on."""

    contract: ContractName
    run: int
    round: int
    shard: int
    start: int
    whole: bool = False
    """Of a round whose shards are of a difference: the new model instead, as shard 0 of 1 (T-51)."""


class ManifestRequest(Record, frozen=True, kw_only=True):
    """A peer whose model differs asks what the contract's looks like (names and shapes, no parameters)."""

    contract: ContractName


class ProgressRequest(Record, frozen=True, kw_only=True):
    """A waiting peer asks how far somebody is with a shard that it merges; shard -1: with storing the result."""

    contract: ContractName
    run: int
    round: int
    shard: int


class Advance(Record, frozen=True, kw_only=True):
    """A number that grows while work is done, and not when it is done again."""

    steps: int


class About(Record, frozen=True, kw_only=True):
    """What an SL tells whoever looks for faults (E-10)."""

    version: str
    """Of swarmlearning."""
    clock_ms: int
    """This SL's own clock when it answered, milliseconds since the epoch."""


class Shard(Record, frozen=True, kw_only=True):
    """Which part of which buffer: `shard` of `shards` of `size` bytes."""

    size: int
    shards: int
    shard: int

    @property
    def indices(self) -> range:
        """Chunk indices of the shard."""
        return shard_chunks(chunk_count(self.size), self.shards, self.shard)


def pull_steps(shard: Shard, *, salted: bool) -> int:
    """How many steps pulling a shard takes: a step is a frame of leaves or of chunks that came for the first time."""
    leaves = (chunk_count(shard.size) if salted else len(shard.indices)) * HASH_BYTES
    return -(-leaves // LEAVES_FRAME) + -(-len(shard.indices) // GROUP)


def merge_steps(shard: Shard, contributors: int) -> int:
    """R-10: how many steps merging a shard takes at most; more than that is no progress."""
    return contributors * pull_steps(shard, salted=True) + -(-len(shard.indices) // STEP_CHUNKS)


def store_steps(size: int, shards: int) -> int:
    """R-10: how many steps fetching all merged shards takes at most."""
    return sum(pull_steps(Shard(size=size, shards=shards, shard=shard), salted=False) for shard in range(shards))


def apply_steps(size: int) -> int:
    """R-10: how many steps applying a merged difference to a model of `size` bytes takes at most."""
    return -(-chunk_count(size) // STEP_CHUNKS)


def send_frames(
    shard: Shard,
    leaves: bytes,
    chunks: Chunks,
    start: int,
    salt_of: Callable[[int], bytes] | None,
) -> Iterator[memoryview]:
    """The frames of a chunk stream; each is valid until the next one is asked for.

    Args:
        shard: what is asked for.
        leaves: of the whole commitment, or of the merged shard.
        chunks: where they lie.
        start: position in the shard's chunks to begin with.
        salt_of: salt of a chunk index; None for merged results.
    """
    shown = memoryview(leaves)
    for at in range(0, len(leaves), LEAVES_FRAME):
        yield shown[at : at + LEAVES_FRAME]
    indices = shard.indices[start:]
    # Always the same memory: fresh memory costs more than what is copied into it.
    room = memoryview(bytearray(min(GROUP, len(indices)) * (SALT_BYTES + CHUNK_BYTES)))
    for at in range(0, len(indices), GROUP):
        end = 0
        for index in indices[at : at + GROUP]:
            if salt_of is not None:
                room[end : end + SALT_BYTES] = salt_of(index)
                end += SALT_BYTES
            length = chunk_length(shard.size, index)
            chunks.read_into(index, room[end : end + length])
            end += length
        yield room[:end]


class Pull:
    """Chunks of one shard from one source, verified as they come, kept across attempts and sources.

    `done` is how many of the shard's chunks have been verified and written, in order; another pull of the same root
    goes on from there, whoever serves it.
    """

    def __init__(self, manifest: Manifest, shard: Shard, root: bytes, into: ChunkSink, *, salted: bool) -> None:
        """Prepare to put the chunks of `shard` under `root` into `into`.

        Args:
            manifest: of what travels.
            shard: of a buffer laid out by it.
            root: that the ledger has.
            into: where verified chunks are put.
            salted: whether they are a contributor's, and not merged ones.
        """
        self._manifest = manifest
        self._shard = shard
        self._root = root
        self._into = into
        self._salted = salted
        self._leaf_frames = 0
        self.leaves = b""
        """Verified against the root; empty before."""
        self.done = 0

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self.done == len(self._shard.indices)

    @property
    def steps(self) -> int:
        """How far it is; never falls: what comes once more counts once."""
        return self._leaf_frames + -(-self.done // GROUP)

    async def run(
        self,
        client: Client,
        source: Address,
        method: str,
        request: Record,
        *,
        idle_s: float,
        step: Callable[[int], None],
    ) -> None:
        """Pull what is missing from `source`.

        Args:
            client: asks.
            source: whom.
            method: `STREAM_CHUNKS` or `STREAM_RESULT`.
            request: whose `start` is `done`.
            idle_s: longest silence, seconds.
            step: called with the number of bytes whenever some arrived.

        Raises:
            Unreachable, Refused: see `transport.api.Client.stream`.
            VerificationError: bytes that do not verify.
            NonFinite: a chunk holds NaN or infinity; the message names the tensor.
            Broken: the disk is full or damaged.
        """
        if self.complete:
            return
        frames = client.stream(source, method, encode(request), idle_s=idle_s, expect=self._left())
        async with contextlib.aclosing(frames):  # type: ignore[type-var]  # iterators of the seam have aclose
            verifier = await self._read_leaves(frames, step)
            async for frame in frames:
                self._take(verifier, frame)
                step(len(frame))
        if not self.complete:
            raise VerificationError(f"{source.node} served {self.done} of {len(self._shard.indices)} chunks")

    def _left(self) -> int:
        """Bytes that are still to come."""
        indices = self._shard.indices[self.done :]
        last = chunk_length(self._shard.size, indices[-1])
        chunks = (len(indices) - 1) * CHUNK_BYTES + last + (len(indices) * SALT_BYTES if self._salted else 0)
        return chunks + self._leaf_bytes

    @property
    def _leaf_bytes(self) -> int:
        return (chunk_count(self._shard.size) if self._salted else len(self._shard.indices)) * HASH_BYTES

    async def _read_leaves(self, frames: AsyncIterator[memoryview], step: Callable[[int], None]) -> ChunkVerifier:
        expected = self._leaf_bytes
        leaves = bytearray()
        while len(leaves) < expected:
            frame = await anext(frames, None)
            if frame is None or len(leaves) + len(frame) > expected:
                raise VerificationError(f"expected {expected} bytes of leaves, got {len(leaves)} and a wrong frame")
            leaves += frame
            self._leaf_frames = max(self._leaf_frames, -(-len(leaves) // LEAVES_FRAME))
            step(len(frame))
        if self._salted:
            verifier = ChunkVerifier(self._root, leaves, self._shard.size)
        else:
            of = {"shard": self._shard.shard, "shards": self._shard.shards}
            verifier = ChunkVerifier(self._root, leaves, self._shard.size, **of)
        self.leaves = bytes(leaves)
        return verifier

    def is_of(self, shard: Shard, root: bytes) -> bool:
        """Whether it pulls that shard of that root."""
        return (self._shard, self._root) == (shard, root)

    def elsewhere(self, chunks: Chunks, into: ChunkSink) -> "Pull":
        """The same pull into another place; what it has of it, in `chunks`, is copied there.

        Raises:
            Broken: the disk is full or damaged.
        """
        twin = Pull(self._manifest, self._shard, self._root, into, salted=self._salted)
        twin._leaf_frames, twin.leaves, done = self._leaf_frames, self.leaves, self.done
        chunk = chunks.source()
        for index in self._shard.indices[:done]:
            into.write(index, chunk(index))
        twin.done = done
        return twin

    def _take(self, verifier: ChunkVerifier, frame: memoryview) -> None:
        """Verify and write one group of chunks."""
        at = 0
        salt_bytes = SALT_BYTES if self._salted else 0
        indices = self._shard.indices
        while at < len(frame):
            if self.complete:
                raise VerificationError("more chunks than were asked for")
            index = indices[self.done]
            length = chunk_length(self._shard.size, index)
            salt = frame[at : at + salt_bytes] if self._salted else None
            chunk = frame[at + salt_bytes : at + salt_bytes + length]
            verifier.verify(index, salt, chunk)
            bad = find_nonfinite(self._manifest, chunk, offset=index * CHUNK_BYTES)
            if bad is not None:
                raise NonFinite(f"tensor {bad} holds NaN or infinity")
            self._into.write(index, chunk)
            self.done += 1
            at += salt_bytes + length
