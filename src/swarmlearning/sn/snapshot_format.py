"""What a snapshot of the state consists of: a manifest, and a stream of bytes cut into chunks.

The stream holds the state's keys and values in the order of the keys: the same bytes on every node with that state.

Does not: touch files (`snapshots`). Spec: docs/spec/transactions.md, Snapshots.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from msgspec import Meta

from swarmlearning.encoding import Record
from swarmlearning.errors import DecodeError

FORMAT: Final = 1

CHUNK_BYTES: Final = 4 << 20
"""Size of a chunk; the last one may be smaller."""

MAX_BYTES: Final = 1 << 30
"""Largest snapshot that is written or restored."""

MAX_KEY_BYTES: Final = 4096
MAX_VALUE_BYTES: Final = 16 << 20

_LENGTHS: Final = struct.Struct(">II")
"""Before each key and value: how long they are."""

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Manifest(Record, frozen=True, kw_only=True):
    """What a snapshot consists of; its hash names the snapshot."""

    format: int
    height: Annotated[int, Meta(ge=1)]
    app_hash: Hash
    size: Annotated[int, Meta(ge=1, le=MAX_BYTES)]
    """Of the stream, bytes."""
    chunks: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=MAX_BYTES // CHUNK_BYTES)]
    """SHA-256 of each."""

    def length(self, chunk: int) -> int:
        """Of a chunk, bytes."""
        return min(CHUNK_BYTES, self.size - chunk * CHUNK_BYTES)


def write_entries(entries: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Keys and values as a stream of bytes: before each pair the two lengths."""
    for key, value in entries:
        name = key.encode()
        yield _LENGTHS.pack(len(name), len(value))
        yield name
        yield value


def cut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of `CHUNK_BYTES`."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)


def parse_entries(chunks: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a stream.

    Raises:
        DecodeError: it is none, a length is beyond its limit, or a key does not come after the one before.
    """
    reader = _Reader(chunks)
    before = b""
    while (lengths := reader.take(_LENGTHS.size, at_end=True)) is not None:
        key_length, value_length = _LENGTHS.unpack(lengths)
        if not 0 < key_length <= MAX_KEY_BYTES or value_length > MAX_VALUE_BYTES:
            raise DecodeError(
                f"a key of {key_length} and a value of {value_length} bytes; expected 1-{MAX_KEY_BYTES} and at most "
                f"{MAX_VALUE_BYTES}"
            )
        key, value = reader.take(key_length), reader.take(value_length)
        if key is None or value is None or key <= before:
            raise DecodeError(f"key {(key or b'')[:80]!r} comes after {before[:80]!r}; expected each once, in order")
        before = key
        try:
            yield key.decode(), value
        except UnicodeDecodeError as error:
            raise DecodeError(f"key {key[:80]!r}: {error}") from error


class _Reader:
    """Bytes of chunks, taken piece by piece."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._waiting = bytearray()

    def take(self, count: int, *, at_end: bool = False) -> bytes | None:
        """The next `count` bytes; None where nothing is left, if it may end here."""
        while len(self._waiting) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                if at_end and not self._waiting:
                    return None
                raise DecodeError(f"the last chunk ends in the middle: {count} bytes were expected")
            self._waiting += chunk
        data = bytes(self._waiting[:count])
        del self._waiting[:count]
        return data
