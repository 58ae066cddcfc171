"""ABCI's socket protocol: CometBFT connects four times (consensus, mempool, query, snapshots) and sends requests.

Each connection's requests are answered in order; as every answer is made in one go on the event loop, no two calls of
any connections overlap. One client process at a time: a new life of the child begins when it comes to an idle server.

What is malformed is answered with an exception, and its connection closed. An error in an answer ends everything: no
connection is answered any more, and whoever runs the engine is told.

Does not: know what the calls mean (`driver`). Spec: docs/spec/ledger-cometbft.md, section 1.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError as ProtobufError

from swarmlearning.errors import AddressInUse, ConfigurationError, DecodeError, SwarmError
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.framing import frame, read_frame
from swarmlearning.ledger.cometbft.rpc import is_loopback
from swarmlearning.types import MAX_SOCKET_PATH

_LOG: Final = logging.getLogger("swarmlearning.ledger")

MAX_CONNECTIONS: Final = 4
"""What one CometBFT opens."""

_BUFFER_BYTES: Final = 1 << 20
_LEAVE_S: Final = 2.0
"""How long a new client waits for the old one's connections to be seen closed."""

_CREDENTIALS: Final = struct.Struct("3i")

Answer = Callable[[pb.Request], pb.Response]


class AbciServer:
    """Serves one CometBFT.

    Args:
        address: `unix:///path` or `tcp://127.0.0.1:port`; the Unix socket's directory is made, for its owner alone.
        begin: called when a client connects to an idle server.
        answer: makes an answer; what it raises, other than `DecodeError`, ends the engine.
        failed: told of such an error.

    Raises:
        ConfigurationError: the address is none of these, too long, or not on this machine.
    """

    def __init__(
        self, address: str, begin: Callable[[], None], answer: Answer, failed: Callable[[BaseException], None]
    ) -> None:
        parts = urlsplit(address)
        self._address = address
        self._path: Path | None = None
        self._endpoint = ("", 0)
        if parts.scheme == "unix" and parts.path:
            self._path = Path(parts.netloc + parts.path)
            if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
                raise ConfigurationError(
                    f"socket path {self._path} is longer than {MAX_SOCKET_PATH} bytes: choose a shorter one"
                )
        elif parts.scheme == "tcp" and is_loopback(parts.hostname) and parts.port:
            self._endpoint = (str(parts.hostname), parts.port)
        else:
            raise ConfigurationError(
                f"ABCI address {address!r}: expected unix:///path or tcp://127.0.0.1:port (ABCI has no access control, "
                "and must not be reachable from elsewhere)"
            )
        self._begin = begin
        self._answer = answer
        self._failed = failed
        self._dead = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._client = 0
        """Process id of who is connected; 0 where nobody is, or it cannot be known."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressInUse: the port is taken.
            ConfigurationError: the socket cannot be made.
        """
        try:
            if self._path is not None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.parent.chmod(0o700)
                self._path.unlink(missing_ok=True)
                self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_BUFFER_BYTES)
            else:
                host, port = self._endpoint
                self._server = await asyncio.start_server(self._serve, host, port, limit=_BUFFER_BYTES)
        except OSError as error:
            if self._path is None:
                raise AddressInUse(f"{self._address} is taken ({error.strerror}); name another ABCI address") from error
            raise ConfigurationError(f"{self._path} cannot be a socket ({error.strerror})") from error

    async def stop(self) -> None:
        """Close all connections, and listen no more."""
        self._dead = True
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve_client(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the child died, or we stop
        except DecodeError as error:
            _LOG.warning("%s: %s", self._address, error)
            await self._say(writer, str(error))
        except BaseException as error:  # noqa: BLE001 - the boundary of a task: whoever runs the engine must know
            if isinstance(error, Exception):
                await self._say(writer, str(error) if isinstance(error, SwarmError) else "the application failed")
            self._die(error)
        finally:
            self._tasks.discard(task)
            self._leave(writer)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self._admit(writer):
            return
        while not self._dead:
            data = await read_frame(reader)
            if data is None or self._dead:
                return
            try:
                request = pb.Request.FromString(data)
            except ProtobufError as error:
                raise DecodeError(f"ABCI: a request of {len(data)} bytes is malformed ({error})") from error
            response = self._answer(request)
            writer.write(frame(response.SerializeToString()))
            await writer.drain()
            # Else thousands of transactions that a member floods us with, read in one go, are all checked before any
            # call of consensus, or anybody else on this event loop, has its turn: neither line above need suspend.
            await asyncio.sleep(0)

    async def _admit(self, writer: asyncio.StreamWriter) -> bool:
        """Whether to serve this connection: one of the client that is connected, or of a new one if none is."""
        client = _process(writer)
        if self._writers and client != self._client:
            # The kernel has closed a dead child's connections before another one starts; we may not have seen it yet.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _LEAVE_S)
        if self._dead or (self._writers and (client != self._client or len(self._writers) >= MAX_CONNECTIONS)):
            raise DecodeError(f"ABCI: process {client or '?'} may not connect: a CometBFT is connected already")
        if not self._writers:
            self._client = client
            self._begin()
        self._writers.add(writer)
        self._idle.clear()
        return True

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()
        if not self._writers:
            self._idle.set()

    def _die(self, error: BaseException) -> None:
        """Answer nobody any more."""
        self._dead = True
        for writer in self._writers:
            writer.transport.abort()
        self._failed(error)

    async def _say(self, writer: asyncio.StreamWriter, text: str) -> None:
        with contextlib.suppress(OSError):
            writer.write(frame(pb.Response(exception=pb.ResponseException(error=text)).SerializeToString()))
            await writer.drain()


def _process(writer: asyncio.StreamWriter) -> int:
    """Process id of who connected over a Unix socket; 0 elsewhere."""
    connection = writer.get_extra_info("socket")
    if connection.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return 0
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[0])
