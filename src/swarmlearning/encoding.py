"""One way to bytes and back: msgpack for the ledger, the wire and disk; JSON for people; SHA-256 and Merkle roots.

Canonical: a payload is accepted only if encoding the decoded value gives the same bytes again, so that one message
has one encoding and a signature covers exactly the bytes that travel.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from swarmlearning.errors import DecodeError, InvalidName

T = TypeVar("T")

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Largest encoded message accepted from outside, bytes; arrays travel in frames of their own."""

_ENCODER: Final = msgspec.msgpack.Encoder(order="deterministic")
_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is signed, sent or stored: frozen, keyword-only, unknown fields refused."""


def encode(value: object) -> bytes:
    """Encode a record as canonical msgpack."""
    return _ENCODER.encode(value)


def decode(data: bytes | bytearray | memoryview, kind: type[T], *, limit: int = MAX_MESSAGE_BYTES) -> T:
    """Decode a record of type `kind` that came from outside.

    Raises:
        DecodeError: larger than `limit` bytes, malformed, of another type, with unknown fields, or not canonical.
    """
    name = getattr(kind, "__name__", str(kind))
    if len(data) > limit:
        raise DecodeError(f"{name}: {len(data)} bytes, at most {limit} are accepted")
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.msgpack.Decoder(kind)
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, InvalidName) as error:
        raise DecodeError(f"{name}: {error}") from error
    if _ENCODER.encode(value) != bytes(data):
        raise DecodeError(f"{name}: not in canonical form (one value must have one encoding)")
    return value


def to_json(value: object, *, indent: int = 2) -> bytes:
    """Encode a record as JSON for people; bytes become base64."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent)


def from_json(data: bytes, kind: type[T], what: str) -> T:
    """Decode a record of type `kind` from a JSON file that a person gave us; `what` names it in the error.

    Raises:
        DecodeError: malformed, or of another type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{what}: {error}") from error


def sha256(*parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 over the concatenation of `parts`, 32 bytes."""
    if len(parts) == 1:
        return hashlib.sha256(parts[0]).digest()
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Merkle tree hash of RFC 6962 section 2.1 over `leaves`, with SHA-256; 32 bytes.

    Leaves and inner nodes are hashed under different prefixes, so that no inner node can be passed off as a leaf.
    """
    if not leaves:
        return sha256(b"")
    level = [sha256(b"\x00", leaf) for leaf in leaves]
    while len(level) > 1:
        paired = [sha256(b"\x01", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]
