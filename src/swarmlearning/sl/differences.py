"""Where differences travel (T-50): offers are encoded, and what was merged is applied to the model before.

Spec: docs/spec/round.md, R-40 to R-44.

Does not: say what an encoding is (`parameters.wire`), or fetch (`fetching`).
"""

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from swarmlearning.errors import Broken
from swarmlearning.parameters.chunks import CHUNK_BYTES, Buffer, Commitment, leaf_hash, merged_leaf, root_of, salt
from swarmlearning.parameters.files import write_at
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.parameters.wire import ReadAt, apply_difference, encode_difference, residual_size
from swarmlearning.sl.chunkfile import ChunkFile, ChunkSink, read_at, scratch_descriptor
from swarmlearning.sl.results import Part


class Residual:
    """What a peer's last encoding has lost (P-44), in a file without a name: it goes with this object."""

    def __init__(self, directory: Path, size: int) -> None:
        """Make room for it.

        Raises:
            Broken: the disk has no room.
        """
        self._descriptor = scratch_descriptor(directory, size)
        self._end = 0
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, data: Buffer) -> None:
        """Write the next bytes.

        Raises:
            Broken: the disk is full or damaged.
        """
        try:
            write_at(self._descriptor, data, self._end)
        except OSError as error:
            raise Broken(f"cannot write a residual to the disk: {error.strerror}; free space there") from error
        self._end += len(data)

    def reader(self) -> ReadAt:
        """Read from it; for one reader."""
        return file_reader(self._descriptor)


def file_reader(descriptor: int) -> ReadAt:
    """Read from an open file, for one reader: what it returns is valid until it is asked again.

    It raises `Broken` if the disk is damaged or the file ends before.
    """
    room = memoryview(bytearray())

    def read(offset: int, length: int) -> memoryview:
        nonlocal room
        if len(room) < length:
            room = memoryview(bytearray(length))
        into = room[:length]
        read_at(descriptor, into, offset)
        return into

    return read


class Chunker:
    """Cuts bytes that come in order into chunks."""

    def __init__(self, into: ChunkSink, done: Callable[[int, memoryview], None]) -> None:
        """Cut.

        Args:
            into: takes each chunk.
            done: told of each chunk's index and bytes, once it has been taken.
        """
        self._into = into
        self._done = done
        self._room = memoryview(bytearray(CHUNK_BYTES))
        self._filled = 0
        self.count = 0
        """Chunks so far."""

    def feed(self, data: Buffer) -> None:
        """The next bytes.

        Raises:
            Broken: the disk is full or damaged.
        """
        rest = memoryview(data).cast("B")
        while len(rest):
            part = rest[: CHUNK_BYTES - self._filled]
            self._room[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            rest = rest[len(part) :]
            if self._filled == CHUNK_BYTES:
                self.end()

    def end(self) -> None:
        """There are no more bytes: the last chunk may be shorter.

        Raises:
            Broken: the disk is full or damaged.
        """
        if self._filled:
            chunk = self._room[: self._filled]
            self._into.write(self.count, chunk)
            self._done(self.count, chunk)
            self.count, self._filled = self.count + 1, 0


def encode_offer(
    manifest: Manifest,
    travels: Manifest,
    own: ReadAt,
    base: ReadAt,
    before: Residual | None,
    into: ChunkFile,
    after: Residual | None,
    secret: bytes,
) -> Commitment:
    """Encode what `own` adds to `base`, and commit to it.

    Args:
        manifest: of the model.
        travels: its wire manifest.
        own: the parameters to be offered.
        base: the model that they are a difference from.
        before: what the last encoding has left; None: nothing.
        into: takes the encoded chunks.
        after: takes what this one leaves; None: that is forgotten.
        secret: behind the salts, fresh.

    Raises:
        Broken: the disk is full or damaged.
    """
    leaves = bytearray()

    def note(index: int, chunk: memoryview) -> None:
        nonlocal leaves
        leaves += leaf_hash(salt(secret, index), chunk)

    chunker = Chunker(into, note)
    for step in encode_difference(manifest, travels, own, base, before.reader() if before is not None else None):
        chunker.feed(step.data)
        if after is not None:
            after.append(step.residual)
    chunker.end()
    return Commitment(root=root_of(leaves, travels.size), leaves=bytes(leaves), size=travels.size)


def new_residual(directory: Path, manifest: Manifest, travels: Manifest) -> Residual:
    """Room for what encoding a model leaves.

    Raises:
        Broken: the disk has no room.
    """
    return Residual(directory, residual_size(manifest, travels))


class Applying:
    """A merged difference on its way into a result's file, in small steps."""

    def __init__(self, manifest: Manifest, travels: Manifest, base: ChunkFile, merged: ChunkFile, part: Part) -> None:
        """Prepare.

        Args:
            manifest: of the model.
            travels: its wire manifest.
            base: the model that `merged` is a difference from, all of it.
            merged: the difference, all of it.
            part: takes the new model.
        """
        self._steps = apply_difference(manifest, travels, file_reader(base.descriptor), file_reader(merged.descriptor))
        self._part = part
        self._leaves = bytearray()
        self._chunker = Chunker(part.chunks, self._note)

    def _note(self, _index: int, chunk: memoryview) -> None:
        self._leaves += merged_leaf(chunk)

    @property
    def done(self) -> int:
        """Chunks of the new model so far."""
        return self._chunker.count

    @property
    def total(self) -> int:
        """How many there are."""
        return self._part.total

    @property
    def leaves(self) -> bytes:
        """Of the new model's chunks so far."""
        return bytes(self._leaves)

    def advance(self, upto: int) -> None:
        """Go on until at least `upto` chunks are there, and hashed.

        Raises:
            Broken: the disk is full or damaged.
        """
        while self.done < min(upto, self.total):
            step = next(self._steps, None)
            if step is None:
                self._chunker.end()
                if self.done < self.total:
                    raise Broken(f"a difference gave {self.done} of {self.total} chunks of the model")
            else:
                self._chunker.feed(step)
        self._part.advance(self.done)
