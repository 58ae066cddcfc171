"""Chunks where they lie: in a file that is read and written at offsets, or in a program's mapped buffer.

A file's bytes pass through the system's page cache and never become this process's memory: what a round needs of that
is the frames and chunks in hand. Spec: docs/spec/exchange.md, E-9.

Does not: verify anything (`exchange`), or name files (`store`).
"""

import os
import tempfile
import weakref
from pathlib import Path
from typing import Protocol

from swarmlearning.errors import Broken
from swarmlearning.merge.chunks import ChunkSource
from swarmlearning.parameters import files
from swarmlearning.parameters.chunks import CHUNK_BYTES, Buffer, chunk_length


class Chunks(Protocol):
    """Chunks that can be read, by their index in the whole buffer. Any threads."""

    def read_into(self, index: int, into: memoryview) -> None:
        """Read a chunk into memory of exactly its length.

        Raises:
            Broken: the disk is damaged.
        """
        ...

    def source(self) -> ChunkSource:
        """What returns a chunk by its index, for one reader: valid until it is asked for the next one."""
        ...


class ChunkSink(Protocol):
    """Where verified chunks are put."""

    def write(self, index: int, chunk: Buffer) -> None:
        """Keep a chunk.

        Raises:
            Broken: the disk is full or damaged.
        """
        ...


class BufferChunks:
    """The chunks of a canonical buffer."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer

    def read_into(self, index: int, into: memoryview) -> None:
        """See `Chunks.read_into`."""
        into[:] = self._buffer[index * CHUNK_BYTES : index * CHUNK_BYTES + len(into)]

    def source(self) -> ChunkSource:
        """See `Chunks.source`; nothing is copied."""
        return lambda index: self._buffer[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


class ChunkFile:
    """Some chunks of a buffer in a file, one behind the other; all of them give the buffer as it is.

    The file is closed when nobody holds this object any more: whoever still reads reads on.
    """

    def __init__(self, descriptor: int, size: int, indices: range) -> None:
        """Take over an open file.

        Args:
            descriptor: closed with this object.
            size: of the whole buffer, bytes.
            indices: of the chunks that lie here.
        """
        self._descriptor = descriptor
        self._size = size
        self._indices = indices
        weakref.finalize(self, os.close, descriptor)

    @property
    def descriptor(self) -> int:
        """Of the file; valid as long as this object."""
        return self._descriptor

    def _place(self, index: int) -> int:
        if index not in self._indices:
            raise Broken(f"chunk {index} does not lie here; expected one of {self._indices}")
        return self._indices.index(index) * CHUNK_BYTES

    def write(self, index: int, chunk: Buffer) -> None:
        """See `ChunkSink.write`."""
        place = self._place(index)
        if len(chunk) != chunk_length(self._size, index):
            raise Broken(f"chunk {index} has {len(chunk)} bytes; expected {chunk_length(self._size, index)}")
        try:
            files.write_at(self._descriptor, chunk, place)
        except OSError as error:
            raise Broken(f"cannot write a chunk to the disk: {error.strerror}; free space there") from error

    def read_into(self, index: int, into: memoryview) -> None:
        """See `Chunks.read_into`."""
        read_at(self._descriptor, into, self._place(index))

    def source(self) -> ChunkSource:
        """See `Chunks.source`."""
        room = memoryview(bytearray(CHUNK_BYTES))

        def chunk(index: int) -> memoryview:
            into = room[: chunk_length(self._size, index)]
            self.read_into(index, into)
            return into

        return chunk


def read_at(descriptor: int, into: memoryview, place: int) -> None:
    """Fill `into` from a place of a file.

    Raises:
        Broken: the disk is damaged, or the file ends before.
    """
    try:
        got = files.read_at(descriptor, into, place)
    except OSError as error:
        raise Broken(f"cannot read what was written to the disk: {error.strerror}; check it") from error
    if got < len(into):
        missing = len(into) - got
        raise Broken(f"a file ends at byte {place + got}, {missing} before the end of what was written there")


def allocate(descriptor: int, length: int) -> None:
    """Reserve a file's room on the disk at once, so that a full disk is an error now, and not in the middle.

    Raises:
        OSError: the disk has no room.
    """
    if length and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, length)
    else:
        os.ftruncate(descriptor, length)


def scratch_descriptor(directory: Path, length: int) -> int:
    """An unlinked file with room for `length` bytes, open; the caller closes it.

    Raises:
        Broken: the disk has no room.
    """
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            allocate(file.fileno(), length)
            return os.dup(file.fileno())
    except OSError as error:
        raise Broken(f"no room for {length} bytes in {directory}: {error.strerror}; free space there") from error


def scratch(directory: Path, size: int, indices: range) -> ChunkFile:
    """An unlinked file for some chunks of a buffer of `size` bytes, allocated and compact: it is as long as they are.

    Raises:
        Broken: the disk has no room.
    """
    length = (len(indices) - 1) * CHUNK_BYTES + chunk_length(size, indices[-1]) if indices else 0
    return ChunkFile(scratch_descriptor(directory, length), size, indices)
