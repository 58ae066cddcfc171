"""Asks other nodes over HTTP/1.1 on TLS 1.3. Spec: docs/spec/transport.md.

Does not retry: whoever asks knows whether asking twice is safe.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from swarmlearning.clock import WallClock, system_clock
from swarmlearning.errors import Closed, DecodeError, Refused, SwarmError, VerificationError
from swarmlearning.identity.trust import TrustStore
from swarmlearning.transport.api import MAX_BODY_BYTES, Address
from swarmlearning.transport.explain import Stage, certificate_refused, explain
from swarmlearning.transport.http1 import MAX_LINE_BYTES, NotHttp
from swarmlearning.transport.receiving import Frames, Inflow
from swarmlearning.transport.tls import Source, Tls, peer_of
from swarmlearning.transport.wire import (
    ACCEPT_FRAMES,
    ACCEPT_REPLY,
    ACCEPT_WHOLE,
    CERTIFICATE,
    MAX_FAILURE_BYTES,
    MAX_WHOLE_BYTES,
    PATH,
    Failure,
    check_request,
    cut_frames,
    decode_failure,
    refusal,
)

T = TypeVar("T")

IDLE_S: Final = 15.0
"""An unused connection is closed after this long: well before the server does it, which could cross a request."""

WHOLE_BYTES: Final = 320 << 10
"""A stream that is expected to be no longer is asked for as a whole: as much as a frame."""

KEEP_BYTES: Final = 32 << 20
"""A stream that is expected to be no longer leaves its connection to the next one: a handshake takes the processor
about as long as 5 MB do, and that its bytes come in chunks as long as a hundredth of them."""

CLOSE: Final = "Connection: close\r\n"

KEPT_CONNECTIONS: Final = 4
"""Connections kept for streams to one server, at most."""

READ_BUFFER_BYTES: Final = 1 << 18
"""What aiohttp buffers of a reply before it stops reading."""

SHUTDOWN_S: Final = 2.0
"""How long a server may take to say goodbye after a stream."""

NEXT_ADDRESS_S: Final = 0.25
"""A host's next address is tried as well after this long (RFC 8305)."""


class HttpClient:
    """A `Client` as the identity of `source`. Belongs to the event loop it is first used on.

    Attributes:
        bytes_sent: bytes of request bodies sent, without headers and TLS.
        bytes_received: bytes of replies and frames received, without headers and TLS.
    """

    def __init__(self, trust: TrustStore, source: Source, *, clock: WallClock = system_clock) -> None:
        """Load the certificate.

        Raises:
            IdentityError: the certificate is missing, expired or does not match.
        """
        self.bytes_sent = 0
        self.bytes_received = 0
        self._tls = Tls(trust, source, clock)
        self._session: aiohttp.ClientSession | None = None
        self._streams: set[Inflow] = set()
        self._kept: dict[Address, list[tuple[Inflow, float]]] = {}
        """Connections of streams that are over, and since when."""
        self._closed = False

    async def call(self, to: Address, method: str, body: bytes, *, timeout_s: float) -> bytes:
        """See `Client.call`."""
        check_request(to, method, body)
        stage = Stage()
        return await self._within(timeout_s, to, f"reply to {method}", stage, self._call(to, method, body, stage))

    async def _call(self, to: Address, method: str, body: bytes, stage: Stage) -> bytes:
        response = await self._post(to, method, body, ACCEPT_REPLY, stage)
        try:
            reply = await _read(response, to, MAX_BODY_BYTES)
            self.bytes_received += len(reply)
            return reply
        finally:
            response.close()  # a reply read to its end has given its connection back already

    async def stream(
        self, to: Address, method: str, body: bytes, *, idle_s: float, expect: int | None = None
    ) -> AsyncIterator[memoryview]:
        """See `Client.stream`."""
        check_request(to, method, body)
        if self._closed:
            raise Closed("this client was closed")
        stage = Stage()
        if expect is not None and expect <= WHOLE_BYTES:
            asked = self._whole(to, method, body, stage)
            reply = await self._within(idle_s, to, f"reply to {method}", stage, asked)
            for part in cut_frames(reply, to.node):
                self.bytes_received += part.nbytes
                yield part
            return
        what = f"frame of {method}"
        keep = expect is not None and expect <= KEEP_BYTES
        inflow = await self._within(idle_s, to, what, stage, self._open(to, method, body, stage, keep=keep))
        try:
            frames = Frames(inflow, to.node)
            while True:
                frame = frames.ready()
                if frame is None:
                    frame = await self._within(idle_s, to, what, stage, frames.next())
                if frame is None:
                    break
                self.bytes_received += frame.nbytes
                yield frame
        except BaseException:  # whoever hangs up early is among them
            inflow.abort()
            raise
        if not inflow.rest_idle():
            inflow.close()
            return
        kept = self._kept.setdefault(to, [])
        kept.append((inflow, asyncio.get_running_loop().time()))
        for old, _ in kept[:-KEPT_CONNECTIONS]:
            old.close()
        del kept[:-KEPT_CONNECTIONS]

    async def _whole(self, to: Address, method: str, body: bytes, stage: Stage) -> bytes:
        response = await self._post(to, method, body, ACCEPT_WHOLE, stage)
        try:
            return await _read(response, to, MAX_WHOLE_BYTES)
        finally:
            response.close()

    async def close(self) -> None:
        """See `Client.close`."""
        self._closed = True
        streams = list(self._streams)
        for inflow in streams:
            inflow.abort()
        await asyncio.gather(*(inflow.lost for inflow in streams))
        if self._session is not None:
            await self._session.close()

    async def _open(self, to: Address, method: str, body: bytes, stage: Stage, *, keep: bool) -> Inflow:
        """Send a request for a stream, on a connection that serves nothing else meanwhile.

        With `keep` it may have served another before, and may serve another afterwards.
        """
        before = self._take_kept(to) if keep else None
        if before is not None:
            try:
                return await self._ask(before, to, method, body, stage, keep=True)
            except ConnectionError:
                before.abort()  # the server has closed it at the same moment, unheard
        return await self._ask(await self._connect(to, stage), to, method, body, stage, keep=keep)

    def _take_kept(self, to: Address) -> Inflow | None:
        """A connection that a stream before this one has left, and that may still be used."""
        self._tls.refresh()
        kept, now = self._kept.get(to, []), asyncio.get_running_loop().time()
        while kept:
            inflow, since = kept.pop()
            transport = inflow.transport
            if transport is None:
                continue
            peer, version = peer_of(transport.get_extra_info)
            try:
                peer.recheck()
            except VerificationError:
                version = -1
            if version == self._tls.version and now - since < IDLE_S:
                inflow.wake()
                return inflow
            inflow.close()
        return None

    async def _ask(self, inflow: Inflow, to: Address, method: str, body: bytes, stage: Stage, *, keep: bool) -> Inflow:
        authority = _authority(to)
        head = (
            f"POST {PATH}{method} HTTP/1.1\r\n"
            f"Host: {authority if authority.isascii() else authority.encode('idna').decode('ascii')}\r\n"
            f"Accept: {ACCEPT_FRAMES}\r\nContent-Length: {len(body)}\r\n"
            f"{'' if keep else CLOSE}\r\n"
        )
        try:
            inflow.send(head.encode("ascii") + body)
            response = await inflow.head()
            stage.answered = True
            self.bytes_sent += len(body)
            if response.status != 200:
                raise _refusal(to, await inflow.rest(MAX_FAILURE_BYTES), response.status)
        except BaseException:
            inflow.abort()
            raise
        return inflow

    async def _connect(self, to: Address, stage: Stage) -> Inflow:
        stage.connecting = True
        try:
            _, inflow = await asyncio.get_running_loop().create_connection(
                lambda: Inflow(self._streams),
                to.endpoint.host,
                to.endpoint.port,
                ssl=self._tls.client(to.node),
                ssl_shutdown_timeout=SHUTDOWN_S,
                happy_eyeballs_delay=NEXT_ADDRESS_S,
            )
        except UnicodeError as error:  # no name at all; but for that, the name service would say so
            raise socket.gaierror(socket.EAI_NONAME, "not a name") from error
        stage.connecting, stage.fresh = False, True
        return inflow

    async def _post(self, to: Address, method: str, body: bytes, accept: str, stage: Stage) -> aiohttp.ClientResponse:
        """Send a request, and return its response once that is known to be no refusal."""
        if self._closed:
            raise Closed("this client was closed")
        if self._session is None:
            self._session = _open_session(self._tls)
        response = await self._session.post(
            f"https://{_authority(to)}{PATH}{method}",
            data=body,
            headers={"Accept": accept},
            ssl=self._tls.client(to.node),
            allow_redirects=False,
            trace_request_ctx=stage,
        )
        stage.answered = True
        self.bytes_sent += len(body)
        if response.status == 200:
            return response
        try:
            failure = await _read(response, to, MAX_FAILURE_BYTES)
        finally:
            response.close()
        raise _refusal(to, failure, response.status)

    async def _within(self, limit_s: float, to: Address, what: str, stage: Stage, work: Awaitable[T]) -> T:
        """Await `work` for at most `limit_s` seconds, and say in our own words what went wrong."""
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except (aiohttp.ClientError, NotHttp, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            raise explain(error, to, what, limit_s, stage) from error


class _Connector(aiohttp.TCPConnector):
    """Hands out connections whose server was verified, and still is when a pooled one is used again."""

    def __init__(self, tls: Tls) -> None:
        super().__init__(
            limit=0,  # servers limit, per node and in all
            keepalive_timeout=IDLE_S,
            resolver=aiohttp.ThreadedResolver(),
            use_dns_cache=False,
        )
        self._tls = tls

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        """A connection for a request, from the pool or new."""
        self._tls.refresh()
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.transport is None:
                connection.close()
                continue
            peer, version = peer_of(connection.transport.get_extra_info)
            try:
                peer.recheck()
            except VerificationError:
                connection.close()  # a new handshake succeeds if the certificate was renewed, and says why if not
                continue
            if version == self._tls.version:
                return connection
            connection.close()  # made with a certificate of ours that was replaced since


def _open_session(tls: Tls) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(Stage.on_connecting)
    trace.on_connection_create_end.append(Stage.on_connected)
    return aiohttp.ClientSession(
        connector=_Connector(tls),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `_within` limits all of it
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        skip_auto_headers={"User-Agent", "Accept-Encoding", "Content-Type"},
        trace_configs=[trace],
    )


def _authority(to: Address) -> str:
    host = f"[{to.endpoint.host}]" if ":" in to.endpoint.host else to.endpoint.host
    return f"{host}:{to.endpoint.port}"


async def _read(response: aiohttp.ClientResponse, to: Address, limit: int) -> bytes:
    """The body of a response.

    Raises:
        DecodeError: it is larger than `limit` bytes.
    """
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        size += len(part)
        if size > limit:
            raise DecodeError(f"{to.node} at {to.endpoint} sent more than {limit} bytes; expected at most that")
        parts.append(part)
    return b"".join(parts)


def _refusal(to: Address, body: bytes, status: int) -> SwarmError:
    try:
        failure: Failure = decode_failure(body)
    except DecodeError as error:
        raise DecodeError(f"{to.node} at {to.endpoint} answered with status {status} and no reason") from error
    if failure.code != CERTIFICATE:
        return refusal(failure)
    reason = refusal(failure)
    return Refused(certificate_refused(to, str(reason)), code=CERTIFICATE)
