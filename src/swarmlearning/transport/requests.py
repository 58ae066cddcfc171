"""One request on a verified connection: check, read, ask the service, answer. Spec: docs/spec/transport.md.

Does not: accept connections or know TLS (`server`, `tls`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from swarmlearning.errors import Refused, SwarmError, VerificationError
from swarmlearning.transport.api import MAX_BODY_BYTES, Call, Caller, Frame, Service, Stream
from swarmlearning.transport.sending import Collected, Hangup, Left, Outflow, Written, within_stall
from swarmlearning.transport.tls import Peer
from swarmlearning.transport.wire import (
    ACCEPT_FRAMES,
    ACCEPT_WHOLE,
    BUSY,
    CERTIFICATE,
    INTERNAL,
    MALFORMED,
    OK,
    PATH,
    TOO_LARGE,
    UNKNOWN_METHOD,
    Failure,
    check_frame,
    check_reply,
    encode_failure,
    failure_of,
    internal_failure,
    is_method,
    unknown_method,
)
from swarmlearning.types import NodeId

_LOG: Final = logging.getLogger("swarmlearning.transport")

_STATUS: Final = {
    MALFORMED: 400,
    CERTIFICATE: 403,
    UNKNOWN_METHOD: 404,
    TOO_LARGE: 413,
    BUSY: 429,
    INTERNAL: 500,
}
_HANDLER_REFUSED: Final = 422
_READ_BYTES: Final = 64 * 1024

_HEADERS: Final = {"Server": "swarmlearning"}


class Connection:
    """What the server knows of an open connection."""

    def __init__(self, peer: Peer, *, crowded: bool, first_request: asyncio.TimerHandle) -> None:
        self.peer = peer
        self.crowded = crowded
        """Its peer has more connections than it may."""
        self.first_request = first_request
        """Ends the connection unless a request arrives."""


class Requests:
    """Handles the requests of all connections of a server."""

    def __init__(self, service: Service, node: NodeId, *, request_s: float, stall_s: float) -> None:
        self.connections: dict[RequestHandler, Connection] = {}
        self.bytes_sent = 0
        self.bytes_received = 0
        self._service = service
        self._node = node
        self._request_s = request_s
        self._stall_s = stall_s

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; what a handler raises is answered too, so that a connection outlives it."""
        connection = self.connections.get(request.protocol)
        if connection is None:
            raise ConnectionResetError("the connection was lost before its request was read")
        connection.first_request.cancel()
        try:
            return await self._answer(request, connection)
        except Hangup as reason:
            level = logging.DEBUG if isinstance(reason, Left) else logging.INFO
            _LOG.log(level, "hung up on %s: %s", connection.peer.node, reason)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError(str(reason)) from reason

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        try:
            # 1. The certificate that opened the connection still counts.
            _recheck(connection)
            # 2. Its node does not take more than its share.
            if connection.crowded:
                raise Refused(f"{self._node}: {connection.peer.node} has too many connections open", code=BUSY)
            # 3. It is a request of ours, and its body is within the limits.
            method = _method_of(request)
            body = await self._read(request)
        except Refused as error:
            return await self._refuse(request, error, close=True)
        # 4. The service answers.
        caller = Caller(node=connection.peer.node, name=connection.peer.name)
        accepted = request.headers.get("Accept")
        wants_frames = accepted in (ACCEPT_FRAMES, ACCEPT_WHOLE)
        stream = self._service.streams.get(method) if wants_frames else None
        call = self._service.calls.get(method) if not wants_frames else None
        if stream is not None:
            flow = Outflow(request, stall_s=self._stall_s) if accepted == ACCEPT_FRAMES else Collected()
            end = await self._stream(flow, connection, method, stream, caller, body)
            await flow.end(end)
            if isinstance(flow, Collected):
                return await self._send(request, 200, bytes(flow.body), close=end.code == CERTIFICATE)
            return Written(request)
        if call is not None:
            return await self._call(request, method, call, caller, body)
        return await self._refuse(request, unknown_method(self._node, method, "stream" if wants_frames else "call"))

    async def _read(self, request: web.BaseRequest) -> bytes:
        too_large = Refused(
            f"{self._node}: request body of more than {MAX_BODY_BYTES} bytes, send more as a stream", code=TOO_LARGE
        )
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._request_s):
                while piece := await request.content.read(_READ_BYTES):
                    body += piece
                    if len(body) > MAX_BODY_BYTES:
                        raise too_large
        except TimeoutError as error:
            raise Hangup(f"its request did not arrive within {self._request_s:g} s") from error
        except RequestPayloadError as error:
            raise Refused(f"{self._node}: the request body is not what its header says", code=MALFORMED) from error
        self.bytes_received += len(body)
        return bytes(body)

    async def _call(
        self, request: web.BaseRequest, method: str, call: Call, caller: Caller, body: bytes
    ) -> web.StreamResponse:
        try:
            reply = check_reply(method, await call(caller, body))
        except SwarmError as error:
            return await self._refuse(request, error)
        except Exception as error:  # noqa: BLE001 - a task boundary: one handler's bug must not end the node
            return await self._send(request, 500, encode_failure(self._failed(method, error)))
        return await self._send(request, 200, reply)

    async def _stream(
        self,
        flow: Outflow | Collected,
        connection: Connection,
        method: str,
        stream: Stream,
        caller: Caller,
        body: bytes,
    ) -> Failure:
        """Send a stream's frames, and return how it ended."""
        flow.start()
        frames: AsyncIterator[Frame] | None = None
        end = OK
        try:
            frames = stream(caller, body)
            async for frame in frames:
                _recheck(connection)  # streams may last: a revoked certificate ends them too
                view = check_frame(method, frame)
                await flow.frame(view)
                self.bytes_sent += view.nbytes
        except Hangup:
            raise
        except SwarmError as error:
            end = failure_of(error)
        except Exception as error:  # noqa: BLE001 - a task boundary, as above
            end = self._failed(method, error)
        finally:
            await self._close(method, frames)
        return end

    async def _close(self, method: str, frames: AsyncIterator[Frame] | None) -> None:
        aclose = getattr(frames, "aclose", None)
        if aclose is None:
            return
        try:
            await aclose()
        except SwarmError as error:
            _LOG.info("%s ended with: %s", method, error)
        except Exception as error:  # noqa: BLE001 - a task boundary, as above
            self._failed(method, error)

    async def _refuse(self, request: web.BaseRequest, error: SwarmError, *, close: bool = False) -> web.StreamResponse:
        failure = failure_of(error)
        status = _STATUS.get(failure.code, _HANDLER_REFUSED)
        return await self._send(request, status, encode_failure(failure), close=close)

    async def _send(
        self, request: web.BaseRequest, status: int, body: bytes, *, close: bool = False
    ) -> web.StreamResponse:
        response = web.Response(status=status, body=body, headers=_HEADERS)
        if close:
            response.force_close()
        await response.prepare(request)
        await within_stall(response.write_eof(), self._stall_s)
        self.bytes_sent += len(body)
        return response

    def _failed(self, method: str, error: Exception) -> Failure:
        _LOG.error("%s: %s failed", self._node, method, exc_info=error)
        return internal_failure(self._node, method)


def _method_of(request: web.BaseRequest) -> str:
    """The method that a request asks for.

    Raises:
        Refused: it is no request of this protocol.
    """
    method = request.raw_path.removeprefix(PATH)
    if request.method != "POST" or not request.raw_path.startswith(PATH) or not is_method(method):
        raise Refused(f"expected POST {PATH}<method>; do both run the same release?", code=MALFORMED)
    return method


def _recheck(connection: Connection) -> None:
    """Check that the certificate that opened the connection still counts.

    Raises:
        Refused: it does not, and the connection must be closed.
    """
    try:
        connection.peer.recheck()
    except VerificationError as error:
        raise Refused(str(error), code=CERTIFICATE) from error
