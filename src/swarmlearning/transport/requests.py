"""One request in our own protocol: read it, ask the service, answer. Spec: docs/spec/transport.md.

Does not: accept connections or know TLS (`server`, `tls`), or judge who may ask at all (`answering`).
"""

import logging
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from swarmlearning.errors import Refused, SwarmError
from swarmlearning.transport.answering import Connection, read_body, send_response
from swarmlearning.transport.api import MAX_BODY_BYTES, Call, Caller, Frame, Service, Stream
from swarmlearning.transport.sending import Collected, Hangup, Outflow, Written
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

_HEADERS: Final = {"Server": "swarmlearning"}


class Requests:
    """Answers the requests of all connections of a server by asking a `Service`."""

    def __init__(self, service: Service, node: NodeId, *, request_s: float, stall_s: float) -> None:
        self.bytes_sent = 0
        self.bytes_received = 0
        self._service = service
        self._node = node
        self._request_s = request_s
        self._stall_s = stall_s

    async def refuse(self, request: web.BaseRequest, error: Refused) -> web.StreamResponse:
        """Tell that a request is refused before anything of it was read.

        Raises:
            Hangup: the client stalled or left.
        """
        return await self._refuse(request, error, close=True)

    async def answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        """Answer one request; what a handler raises is answered too, so that a connection outlives it.

        Raises:
            Hangup: the client stalled or left.
        """
        try:
            # 1. It is a request of ours, and its body is within the limits.
            method = _method_of(request)
            body = await self._read(request)
        except Refused as error:
            return await self.refuse(request, error)
        # 2. The service answers.
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
        more = ", send more as a stream"
        body = await read_body(request, self._node, most=MAX_BODY_BYTES, within_s=self._request_s, more=more)
        self.bytes_received += len(body)
        return body

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
                connection.recheck()  # streams may last: a revoked certificate ends them too
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
        await send_response(request, response, self._stall_s, close=close)
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
