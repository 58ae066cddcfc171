"""The server's end of a stream: frames go straight to their connection. Spec: docs/spec/transport.md.

One write a frame, or a piece of a large one, and no wait unless the connection is full. Does not know services
(`requests`).
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from swarmlearning.errors import Refused
from swarmlearning.transport.api import MAX_BODY_BYTES
from swarmlearning.transport.wire import ACCEPT_FRAMES, FRAME_PREFIX, TOO_LARGE, Failure, encode_failure

PIECE_BYTES: Final = 256 * 1024
"""Frames are encrypted in pieces of about this size, which stay in the caches on their way to the socket."""

_RECORD_BYTES: Final = 16 * 1024
"""What TLS encrypts at a time. A prefix travels in one record with the beginning of its frame."""

_HIGH_WATER_BYTES: Final = 256 * 1024
"""Encrypted bytes that may wait for the socket before the handler does."""

_FRAME_COST_BYTES: Final = 4 * 1024
"""What a small frame counts as, when the next turn of others is reckoned."""

_HEAD: Final = f"HTTP/1.1 200 OK\r\nServer: swarmlearning\r\nContent-Type: {ACCEPT_FRAMES}\r\n".encode("ascii")
_UNTIL_CLOSE: Final = b"Connection: close\r\n\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNK_END: Final = b"\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


class Hangup(Exception):
    """The client stalled or left; there is nobody to answer."""


class Left(Hangup):
    """The client left by itself, as whoever has watched enough does: nothing is wrong."""


async def within_stall(writing: Awaitable[None], stall_s: float) -> None:
    """Await that a client takes what was written.

    Raises:
        Hangup: it did not within `stall_s` seconds.
        Left: it is gone.
    """
    try:
        async with asyncio.timeout(stall_s):
            await writing
    except TimeoutError as error:
        raise Hangup(f"it took nothing for {stall_s:g} s") from error
    except ConnectionError as error:
        raise _left() from error


class Outflow:
    """The response to a request for a stream, written to the connection itself: aiohttp would write more often.

    Where the client keeps the connection for its next stream, each frame is a chunk (RFC 9112, 7.1). Else the
    connection ends the body, which costs the client one move of each byte less.
    """

    def __init__(self, request: web.BaseRequest, *, stall_s: float) -> None:
        self._request = request
        self._kept = bool(request.keep_alive)
        self._stall_s = stall_s
        self._since_turn = 0
        """Bytes written since other tasks had their turn."""

    def start(self) -> None:
        """Send the head of the response.

        Raises:
            Left: the client is gone.
        """
        transport = self._transport()
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        transport.write(_HEAD + (_CHUNKED if self._kept else _UNTIL_CLOSE))

    async def frame(self, frame: memoryview) -> None:
        """Send a frame; its memory may be used again afterwards.

        Returns when it has nearly left: a slow client slows its handler, and nothing piles up (X-6).

        Raises:
            Hangup: the client takes nothing, or is gone.
        """
        start = _RECORD_BYTES - FRAME_PREFIX.size
        first = b"".join(
            (self._open_chunk(FRAME_PREFIX.size + frame.nbytes), FRAME_PREFIX.pack(frame.nbytes), frame[:start])
        )
        while True:
            # What would be left for a further piece of less than half its size goes with this one.
            left = frame.nbytes - start
            end = frame.nbytes if left <= PIECE_BYTES + PIECE_BYTES // 2 else start + PIECE_BYTES
            parts: list[bytes | memoryview] = [first] if first else []
            if left > 0:
                parts.append(frame[start:end])
            if self._kept and end >= frame.nbytes:
                parts.append(_CHUNK_END)
            self._transport().writelines(parts)
            first = b""
            await self._taken(max(end - start, _FRAME_COST_BYTES))
            start = end
            if start >= frame.nbytes:
                return

    async def end(self, how: Failure) -> None:
        """Send how the stream ended.

        Raises:
            Hangup: the client takes nothing, or is gone.
        """
        last = FRAME_PREFIX.pack(0) + encode_failure(how)
        self._transport().write(self._open_chunk(len(last)) + last + (_CHUNK_END + _LAST_CHUNK if self._kept else b""))
        await self._taken(0)

    def _open_chunk(self, size: int) -> bytes:
        return b"%x\r\n" % size if self._kept else b""

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise _left()
        return transport

    async def _taken(self, written: int) -> None:
        self._since_turn += written
        if self._request.protocol.writing_paused:
            self._since_turn = 0
            await within_stall(self._drained(), self._stall_s)
        elif self._since_turn >= PIECE_BYTES:
            # Nobody else runs in between otherwise, and it would never be known that the connection was lost.
            self._since_turn = 0
            await asyncio.sleep(0)

    async def _drained(self) -> None:
        writer: AbstractStreamWriter = self._request.writer
        await writer.drain()


class Collected:
    """All frames of a short stream, to be sent as one reply. The same doors as `Outflow`."""

    def __init__(self) -> None:
        self.body = bytearray()
        """What was sent so far."""

    def start(self) -> None:
        """Nothing goes out yet."""

    async def frame(self, frame: memoryview) -> None:
        """Keep a frame.

        Raises:
            Refused: they are too many for one reply.
        """
        if len(self.body) + FRAME_PREFIX.size + frame.nbytes > MAX_BODY_BYTES:
            raise Refused(
                f"the stream has more than {MAX_BODY_BYTES} bytes and does not fit into one reply", code=TOO_LARGE
            )
        self.body += FRAME_PREFIX.pack(frame.nbytes)
        self.body += frame

    async def end(self, how: Failure) -> None:
        """Say how the stream ended."""
        self.body += FRAME_PREFIX.pack(0) + encode_failure(how)


class Written(web.StreamResponse):
    """Tells aiohttp that a response was written already, and whether the connection ends with it."""

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__()
        self._keep_alive = bool(request.keep_alive)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is to be written."""
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is to be written."""
        del data


def _left() -> Left:
    return Left("it left before the answer was sent")
