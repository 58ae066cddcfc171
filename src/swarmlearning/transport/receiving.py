"""The client's end of a stream: a connection whose bytes go straight into the frames. Spec: docs/spec/transport.md.

A frame is decrypted into the buffer in which it is handed out. Reading stops while nobody waits for more, so that a
slow consumer slows the server, and nothing piles up here. Does not know TLS or addresses (`client`).
"""

import asyncio
from typing import Final

from swarmlearning.errors import Broken, DecodeError
from swarmlearning.transport.api import MAX_FRAME_BYTES
from swarmlearning.transport.http1 import Framing, Head, NotHttp, framing, parse_head
from swarmlearning.transport.wire import FRAME_PREFIX, MAX_FAILURE_BYTES, OK, decode_failure, frame_too_large, refusal

READ_BYTES: Final = 64 * 1024
"""Frames that are smaller are read together, up to this many bytes."""


class BodyEnded(ConnectionError):
    """The body of a response ended before it was complete."""


class Inflow(asyncio.BufferedProtocol):
    """A connection that reads as much as was asked for, and little more."""

    def __init__(self, connections: "set[Inflow]") -> None:
        """It is in `connections` for as long as it is open."""
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self.lost: Final[asyncio.Future[None]] = self._loop.create_future()
        """Done when the connection is gone."""
        self._transport: asyncio.Transport | None = None
        self._framing: Framing | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._start = 0
        """Where in the buffer the bytes begin that were not taken yet."""
        self._filled = 0
        self._limit = READ_BYTES
        """How far the buffer may be filled for now."""
        self._wanted = 1
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._ended = False
        self._idle = False
        """It waits for its next request."""
        self._error: Exception | None = None
        """Why nothing more will come, if that is not the end of the body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server is verified."""
        if not isinstance(transport, asyncio.Transport):
            raise Broken(f"expected a transport of asyncio's, got {type(transport).__name__}")
        self._transport = transport
        self._connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what arrives. Never empty: reading pauses before the buffer is full."""
        del sizehint
        return self._buffer[self._filled : self._limit]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes arrived."""
        if self._idle:
            self.abort()  # nobody has asked for anything
            return
        if self._framing is not None:
            try:
                nbytes = self._framing.take(self._buffer[self._filled : self._filled + nbytes])
            except NotHttp as error:
                self._end(error)
                self.abort()
                return
        self._filled += nbytes
        if self._framing is not None and self._framing.ended:
            self._end(None)
        elif self._filled - self._start >= self._wanted:
            self._pause()
            self._wake()

    def eof_received(self) -> None:
        """The server has closed its side."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(exc)
        self._connections.discard(self)
        if not self.lost.done():
            self.lost.set_result(None)

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection, for as long as it may be written to."""
        return None if self._transport is None or self._transport.is_closing() else self._transport

    def rest_idle(self) -> bool:
        """Keep the connection for another request; whether that is possible. From now on it is closed if it speaks."""
        body = self._framing
        if self.transport is None or body is None or body.until_close or not body.ended or self._error is not None:
            return False
        self._idle, self._start, self._filled, self._limit = True, 0, 0, READ_BYTES
        self._resume()
        return True

    def wake(self) -> None:
        """Be ready for another request."""
        self._idle, self._framing, self._ended = False, None, False

    def send(self, *parts: bytes) -> None:
        """Send a request.

        Raises:
            ConnectionError: there is no connection any more.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was lost before the request was sent")
        self._transport.writelines(parts)

    async def head(self) -> Head:
        """Wait for the head of the response. What follows it is its body.

        Raises:
            NotHttp: there is none.
            OSError: the connection broke.
        """
        while True:
            there = self._buffer[self._start : self._filled]
            parsed = parse_head(bytes(there))
            if parsed is None:
                await self.fill(len(there) + 1)
                continue
            head, size = parsed
            self._start += size
            if head.status >= 200:
                break  # others only announce another response
        body = framing(head)
        self._filled = self._start + body.take(self._buffer[self._start : self._filled])
        self._framing = body
        if body.ended:
            self._end(None)
        return head

    def take(self, size: int) -> memoryview | None:
        """The next `size` bytes if they have arrived, valid until `fill`; None if they have not."""
        end = self._start + size
        if end > self._filled:
            return None
        taken = self._buffer[self._start : end]
        self._start = end
        return taken

    async def fill(self, size: int) -> None:
        """Wait until `size` bytes have arrived. Bytes taken before are not valid any more.

        Raises:
            NotHttp: what arrived is no body.
            OSError: the connection broke, or the body ended before.
        """
        if self._filled - self._start >= size:
            return
        if not self._ended:
            self._make_room(size)
            self._waiter = self._loop.create_future()
            self._resume()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._filled - self._start < size:
            raise self._error or self._how_it_ended()

    async def rest(self, limit: int) -> bytes:
        """Wait for the end of the body and return what is left of it.

        Raises:
            DecodeError: it is more than `limit` bytes.
            NotHttp: what arrived is no body.
            OSError: the connection broke.
        """
        try:
            await self.fill(limit + 1)
        except BodyEnded:
            return bytes(self._buffer[self._start : self._filled])
        raise DecodeError(f"more than {limit} bytes; expected at most that")

    def close(self) -> None:
        """End, and say goodbye to the server."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    def _how_it_ended(self) -> ConnectionError:
        body = self._framing
        if body is None or body.until_close or body.ended:
            return BodyEnded("the response ended before it was complete")
        return ConnectionResetError("the connection was closed in the middle of the body")

    def _make_room(self, size: int) -> None:
        """Let the buffer take `size` bytes, and the prefix of the frame after them, which saves a turn of the loop."""
        there = self._filled - self._start
        room = max(size + FRAME_PREFIX.size, READ_BYTES)
        buffer = self._buffer if len(self._buffer) >= room else memoryview(bytearray(room))
        if there or buffer is not self._buffer:
            buffer[:there] = self._buffer[self._start : self._filled]
        self._buffer, self._start, self._filled = buffer, 0, there
        self._limit, self._wanted = room, size

    def _pause(self) -> None:
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._pause()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Frames:
    """Cuts the body of a response into frames."""

    def __init__(self, inflow: Inflow, server: str) -> None:
        self._inflow = inflow
        self._server = server
        self._size: int | None = None
        """Of the next frame, once that is known; 0: the end follows."""

    def ready(self) -> memoryview | None:
        """The next frame if it has arrived, valid until the one after it is asked for; None if it has not.

        Raises:
            DecodeError: the frame is too large.
        """
        if self._size is None:
            prefix = self._inflow.take(FRAME_PREFIX.size)
            if prefix is None:
                return None
            (size,) = FRAME_PREFIX.unpack(prefix)
            if size > MAX_FRAME_BYTES:
                raise frame_too_large(self._server, size)
            self._size = size
        if not self._size:
            return None
        frame = self._inflow.take(self._size)
        if frame is not None:
            self._size = None
        return frame

    async def next(self) -> memoryview | None:
        """Wait for the next frame, valid until the one after it is asked for; None after the last.

        Raises:
            DecodeError: this is no stream of frames, or a frame is too large.
            Refused: the handler failed.
            NotHttp: this is no body of a response.
            OSError: the connection broke, or the body ended, before the end marker.
        """
        while (frame := self.ready()) is None:
            if self._size == 0:
                await self._finish()
                return None
            await self._inflow.fill(self._size or FRAME_PREFIX.size)
        return frame

    async def _finish(self) -> None:
        try:
            rest = await self._inflow.rest(MAX_FAILURE_BYTES)
        except DecodeError as error:
            raise DecodeError(f"{self._server} sent bytes after the end of a stream") from error
        end = decode_failure(rest)
        if end != OK:
            raise refusal(end)
