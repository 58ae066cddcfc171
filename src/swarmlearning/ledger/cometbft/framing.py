"""Messages on ABCI's socket: each protobuf message after its length as an unsigned varint.

Does not: know what the messages mean. Spec: docs/spec/ledger-cometbft.md, section 1.
"""

import asyncio
from typing import Final

from swarmlearning.errors import DecodeError

MAX_REQUEST_BYTES: Final = 16 << 20
"""Largest request that is read. A block has 1 MiB, a chunk of a snapshot at most 10 MiB."""

_MAX_VARINT_BYTES: Final = 5
"""Lengths below 2^35."""


def frame(message: bytes) -> bytes:
    """`message` with its length before it."""
    length, prefix = len(message), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message


async def read_frame(reader: asyncio.StreamReader, *, limit: int = MAX_REQUEST_BYTES) -> bytes | None:
    """The next message without its length; None if the connection ends before one begins.

    Raises:
        DecodeError: the length is malformed or above `limit`, or the connection ends within a message.
    """
    length = 0
    for position in range(_MAX_VARINT_BYTES):
        byte = await reader.read(1)
        if not byte:
            if position == 0:
                return None
            raise DecodeError("ABCI: the connection ended within a message's length")
        length |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            break
    else:
        raise DecodeError(f"ABCI: a message's length of more than {_MAX_VARINT_BYTES} bytes: not CometBFT's protocol")
    if length > limit:
        raise DecodeError(f"ABCI: a message of {length} bytes, at most {limit} are accepted")
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise DecodeError(f"ABCI: the connection ended after {len(error.partial)} of {length} bytes") from error
