"""The seam between nodes: what a server offers and what a client may ask, whatever carries it.

A *call* is one request and one reply. A *stream* is one request and a sequence of frames that ends. Every frame and
every body is bounded. The caller's identity has been verified before a handler sees the request, and the server's
before a client sends a byte of it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec

from swarmlearning.types import Endpoint, NodeId, NodeName

MAX_BODY_BYTES: Final = 1 << 20
"""Largest request body and largest reply to a call, bytes."""

MAX_FRAME_BYTES: Final = 8 << 20
"""Largest frame of a stream, bytes."""

Frame = bytes | bytearray | memoryview


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the identity in the client's certificate, verified against its own organisation's roots."""

    node: NodeId
    name: NodeName


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask and where: a server that proves another identity than `node` is refused."""

    node: NodeId
    endpoint: Endpoint


Call = Callable[[Caller, bytes], Awaitable[bytes]]
"""Handles one request. Raises `SwarmError`; the client gets it as `Refused` with the same message."""

Stream = Callable[[Caller, bytes], AsyncIterator[Frame]]
"""Handles one request for a stream. Raises `SwarmError` before or between frames."""


class Service(Protocol):
    """What a node serves: handlers by method name (`[a-z0-9/_-]+`)."""

    @property
    def calls(self) -> Mapping[str, Call]:
        """Request-reply methods."""
        ...

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Streaming methods."""
        ...


class Client(Protocol):
    """Asks other nodes, as one identity."""

    async def call(self, to: Address, method: str, body: bytes, *, timeout_s: float) -> bytes:
        """Send one request and return the reply.

        Raises:
            Unreachable: no connection, connection lost, or no reply within `timeout_s` seconds.
            VerificationError: the server did not prove to be `to.node`.
            Refused: the server's handler raised, or refuses us.
            DecodeError: what came back is not this protocol, or beyond its limits.
            NotYetAvailable: the address has a `via`.
            Closed: this client was closed.
        """
        ...

    def stream(
        self, to: Address, method: str, body: bytes, *, idle_s: float, expect: int | None = None
    ) -> AsyncIterator[memoryview]:
        """Send one request and yield the frames of its reply.

        A frame is valid until the next one is asked for. Close the iterator (`contextlib.aclosing`) to hang up.
        `expect` is how many bytes will come, about, where that is known: a short stream costs no handshake then. One of
        few hundred kilobytes comes in one reply, within `idle_s`.

        Raises:
            Unreachable: as for `call`, or no frame within `idle_s` seconds.
            VerificationError: the server did not prove to be `to.node`.
            Refused: the server's handler raised, or refuses us.
            DecodeError: what came back is not this protocol, or beyond its limits.
            NotYetAvailable: the address has a `via`.
            Closed: this client was closed.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
