"""Between a verified connection and whoever answers its requests: does its certificate still count, is it one too many.

`Answers` is the seam: `requests` answers in our own protocol, other rooms may answer in theirs, with the same
guarantees. Does not: accept connections or know TLS (`server`, `tls`), or what is said. Spec: docs/spec/transport.md.
"""

import asyncio
import logging
from typing import Final, Protocol

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from swarmlearning.errors import Refused, VerificationError
from swarmlearning.transport.sending import Hangup, Left, within_stall
from swarmlearning.transport.tls import Peer
from swarmlearning.transport.wire import BUSY, CERTIFICATE, MALFORMED, TOO_LARGE
from swarmlearning.types import NodeId

_LOG: Final = logging.getLogger("swarmlearning.transport")

_READ_BYTES: Final = 64 * 1024

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection:
    """What the server knows of an open connection."""

    def __init__(self, peer: Peer, *, crowded: bool, first_request: asyncio.TimerHandle) -> None:
        self.peer = peer
        self.crowded = crowded
        """Its peer has more connections than it may."""
        self.first_request = first_request
        """Ends the connection unless a request arrives."""

    def recheck(self) -> None:
        """X-8: check that the certificate that opened the connection still counts.

        Raises:
            Refused: it does not, and the connection must be closed.
        """
        try:
            self.peer.recheck()
        except VerificationError as error:
            raise Refused(str(error), code=CERTIFICATE) from error


class Answers(Protocol):
    """Answers the requests of verified connections. An exception other than `Hangup` is a fault of its own."""

    async def answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        """Answer a request. Cancelled when the client hangs up. What takes long calls `connection.recheck`.

        Raises:
            Hangup: the client stalled or left.
        """
        ...

    async def refuse(self, request: web.BaseRequest, error: Refused) -> web.StreamResponse:
        """Tell that a request is refused before anything of it was read; the connection is closed afterwards.

        Raises:
            Hangup: the client stalled or left.
        """
        ...


class Gate:
    """Lets the requests of all connections of a server through to who answers them.

    Attributes:
        connections: the open ones.
    """

    def __init__(self, node: NodeId, answers: Answers) -> None:
        self.connections: dict[RequestHandler, Connection] = {}
        self._node = node
        self._answers = answers

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Have one request answered."""
        connection = self.connections.get(request.protocol)
        if connection is None:
            raise ConnectionResetError("the connection was lost before its request was read")
        connection.first_request.cancel()
        try:
            try:
                self._admit(connection)
            except Refused as error:
                return await self._answers.refuse(request, error)
            return await self._answers.answer(request, connection)
        except Hangup as reason:
            level = logging.DEBUG if isinstance(reason, Left) else logging.INFO
            _LOG.log(level, "hung up on %s: %s", connection.peer.node, reason)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError(str(reason)) from reason

    def _admit(self, connection: Connection) -> None:
        # 1. The certificate that opened the connection still counts.
        connection.recheck()
        # 2. Its node does not take more than its share.
        if connection.crowded:
            raise Refused(f"{self._node}: {connection.peer.node} has too many connections open", code=BUSY)


async def read_body(request: web.BaseRequest, node: NodeId, *, most: int, within_s: float, more: str = "") -> bytes:
    """X-4: a request's body, of at most `most` bytes, whatever its header says.

    Args:
        request: whose body is read.
        node: who reads it, for messages.
        most: limit, bytes.
        within_s: limit, seconds.
        more: what to do with a larger one, for the message.

    Raises:
        Refused: it is larger, or is not what the header says; nothing more can be read from the connection.
        Hangup: it did not arrive in time.
    """
    too_large = Refused(f"{node}: request body of more than {most} bytes{more}", code=TOO_LARGE)
    if (request.content_length or 0) > most:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            while piece := await request.content.read(_READ_BYTES):
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError as error:
        raise Hangup(f"its request did not arrive within {within_s:g} s") from error
    except RequestPayloadError as error:
        raise Refused(f"{node}: the request body is not what its header says", code=MALFORMED) from error
    return bytes(body)


async def send_response(
    request: web.BaseRequest, response: web.Response, stall_s: float, *, close: bool = False
) -> web.Response:
    """Send a whole response; with `close`, the connection ends with it.

    Raises:
        Hangup: the client does not take it within `stall_s` seconds, or left.
    """
    if close:
        response.force_close()
    await response.prepare(request)
    await within_stall(response.write_eof(), stall_s)
    return response
