"""Serves over HTTP/1.1 on TLS 1.3: a `Service` in our own protocol, or another one. Spec: docs/spec/transport.md.

Connections are accepted here rather than by asyncio, because limits must count from the first byte: a connection that
never finishes its handshake costs as much as one that does. What happens inside a connection is in `answering` and
`requests`.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from swarmlearning.clock import WallClock, system_clock
from swarmlearning.errors import AddressInUse, Broken, Closed, ConfigurationError, SwarmError
from swarmlearning.identity.trust import TrustStore
from swarmlearning.transport.answering import Answers, Connection, Gate
from swarmlearning.transport.api import Service
from swarmlearning.transport.requests import Requests
from swarmlearning.transport.tls import ACCEPTED, Source, Tls, peer_of
from swarmlearning.types import NodeId

_LOG: Final = logging.getLogger("swarmlearning.transport")

ACCEPT_RETRY_S: Final = 1.0
"""Pause after the system had no room for another connection (file descriptors, memory)."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What strangers and peers may use."""

    connections: int = 1024
    """Open at a time, handshakes included; further ones are closed at once."""
    connections_per_peer: int = 64
    """Open at a time by one node; on further ones every request is refused."""
    handshake_s: float = 10.0
    request_s: float = 30.0
    """For the first request's header, and for each request's body, to arrive."""
    idle_s: float = 75.0
    """Between requests on one connection, and for the next one's header to arrive."""
    stall_s: float = 120.0
    """For one reply or one frame to be taken by the client, and for what is left of it after the server has closed."""
    shutdown_s: float = 2.0
    """For requests that are being handled to end when the server stops."""
    header_bytes: int = 4096
    """Longest line of a request's header."""
    target_bytes: int = 4096
    """Longest first line of a request."""
    headers: int = 32


class _PeerErrors(logging.Filter):
    """What aiohttp says of requests that are no HTTP: the peer's fault, so one line and no traceback of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError):
            return False
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
            record.exc_info = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_HTTP_LOG: Final = logging.getLogger("swarmlearning.transport.http")
_HTTP_LOG.addFilter(_PeerErrors())


class Listener:
    """Accepts the connections of verified nodes, and has their requests answered. `start` once, `stop` once."""

    def __init__(self, tls: Tls, answers: Answers, limits: ServerLimits | None = None) -> None:
        self._limits = limits or ServerLimits()
        self._tls = tls
        self._gate = Gate(tls.node.id, answers)
        self._web: _Web | None = None
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._open: set[RequestHandler] = set()
        self._stopped = False

    @property
    def connections(self) -> int:
        """How many are open, their handshakes done."""
        return len(self._gate.connections)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port; 0 lets the system choose one.

        Raises:
            AddressInUse: the port is taken.
            ConfigurationError: `host` is no address of this machine, or the port may not be used.
            Closed: the server was started or stopped before.
        """
        if self._web is not None or self._stopped:
            raise Closed("this server was started before; make a new one")
        loop = asyncio.get_running_loop()
        self._web = _Web(self._gate, self._limits, self._open.discard)
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, address in dict.fromkeys((family, address) for family, *_, address in found):
                listener = _listen(family, (str(address[0]), port, *address[2:]))
                self._sockets.append(listener)
                # Every address of `host` listens on the port that the system chose for the first.
                port = int(listener.getsockname()[1])
        except OSError as error:
            for listener in self._sockets:
                listener.close()
            raise _cannot_listen(host, port, error) from error
        self._listeners = [loop.create_task(self._accept(listener)) for listener in self._sockets]
        return port

    async def stop(self) -> None:
        """Stop listening, let requests end for a moment, and close all connections."""
        self._stopped = True
        tasks = [*self._listeners, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._sockets:
            listener.close()
        if self._web is not None:
            self._web.pre_shutdown()
            await self._web.shutdown(self._limits.shutdown_s)
            await self._web.abandon()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError as error:
                # Neither a client that is gone already nor a lack of descriptors ends a server.
                _LOG.warning("cannot accept a connection: %s", error.strerror)
                if error.errno in _EXHAUSTED:
                    await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if len(self._open) >= self._limits.connections:
                _LOG.debug("%d connections are open, one more was closed", len(self._open))
                accepted.close()
                continue
            task = loop.create_task(self._shake_hands(accepted, str(address[0])))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, host: str) -> None:
        if self._web is None:
            raise Broken("a connection before the server was started")
        _keep_alive(accepted)
        protocol = self._web()
        self._open.add(protocol)
        ACCEPTED.set(accepted)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls.server(),
                ssl_handshake_timeout=self._limits.handshake_s,
                # What was written is still on its way when we close: a slow client may take its time for it.
                ssl_shutdown_timeout=self._limits.stall_s,
            )
        except OSError as error:
            # Garbage, a port scan, a stranger, an expired certificate: all of them are everyday.
            self._open.discard(protocol)
            reason = error.strerror if isinstance(error, ssl.SSLError) else str(error)
            _LOG.info("refused a connection from %s: %s", host, reason or type(error).__name__)
        except SwarmError as error:
            self._open.discard(protocol)
            accepted.close()
            _LOG.error("cannot serve: %s", error)
        except asyncio.CancelledError:
            self._open.discard(protocol)
            accepted.close()
            raise


class Server(Listener):
    """One node's server of a `Service`.

    Attributes:
        requests: answers; its `bytes_sent` and `bytes_received` count bodies and frames.
    """

    def __init__(
        self,
        service: Service,
        trust: TrustStore,
        source: Source,
        *,
        clock: WallClock = system_clock,
        limits: ServerLimits | None = None,
    ) -> None:
        """Load the certificate.

        Raises:
            IdentityError: the certificate is missing, expired or does not match.
        """
        limits = limits or ServerLimits()
        tls = Tls(trust, source, clock)
        self.requests = Requests(service, tls.node.id, request_s=limits.request_s, stall_s=limits.stall_s)
        super().__init__(tls, self.requests, limits)

    @property
    def bytes_sent(self) -> int:
        """Bytes of replies and frames sent, without headers and TLS."""
        return self.requests.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes of request bodies received, without headers and TLS."""
        return self.requests.bytes_received


class _Web(web.Server):
    """aiohttp's server, told who each connection's peer is."""

    def __init__(self, gate: Gate, limits: ServerLimits, lost: Callable[[RequestHandler], None]) -> None:
        super().__init__(
            gate.handle,
            handler_cancellation=True,  # who hangs up needs no answer
            keepalive_timeout=limits.idle_s,
            tcp_keepalive=False,  # set on the socket, with times
            logger=_HTTP_LOG,
            access_log=None,
            max_line_size=limits.target_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers,
            lingering_time=1.0,  # so that a refusal arrives although its request was not read to the end
            auto_decompress=False,
        )
        self._gate = gate
        self._limits = limits
        self._lost = lost
        self._transports: dict[RequestHandler, tuple[asyncio.Transport, TransportSocket]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._peers: Counter[NodeId] = Counter()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """A handshake was completed."""
        super().connection_made(handler, transport)
        peer, _ = peer_of(transport.get_extra_info)
        self._transports[handler] = (transport, transport.get_extra_info("socket"))
        self._empty.clear()
        self._peers[peer.node] += 1
        crowded = self._peers[peer.node] > self._limits.connections_per_peer
        timer = asyncio.get_running_loop().call_later(self._limits.request_s, transport.abort)
        self._gate.connections[handler] = Connection(peer, crowded=crowded, first_request=timer)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """A connection ended."""
        super().connection_lost(handler, exc)
        self._transports.pop(handler, None)
        if not self._transports:
            self._empty.set()
        connection = self._gate.connections.pop(handler, None)
        if connection is not None:
            connection.first_request.cancel()
            self._peers[connection.peer.node] -= 1
            if not self._peers[connection.peer.node]:
                del self._peers[connection.peer.node]
        self._lost(handler)

    async def abandon(self) -> None:
        """Drop the connections whose peers do not say goodbye, and wait until the last is gone."""
        for transport, connected in list(self._transports.values()):
            transport.abort()
            # Of one that was closed twice, as aiohttp does, asyncio's abort does nothing: its peer would be waited for.
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        await self._empty.wait()


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> AddressInUse | ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"port {port} on {host} is taken by another program; stop it or choose another port")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(f"cannot listen on {host!r}: it is no address of this machine ({error.strerror})")
    return ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}")


def _keep_alive(accepted: socket.socket) -> None:
    """Notice within a minute that a silent peer is gone, its power or its network lost."""
    with contextlib.suppress(OSError, AttributeError):  # the options' names are Linux's
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
