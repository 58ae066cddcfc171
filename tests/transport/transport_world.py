"""Two organisations with their authorities, a service to talk to, and both transports behind one face."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from swarmlearning.clock import system_clock
from swarmlearning.errors import Refused, VerificationError
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.transport.api import Address, Call, Caller, Client, Frame, Stream
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.transport.server import Server, ServerLimits
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

A = TrustDomain("a.example")
B = TrustDomain("b.example")
HOST = "127.0.0.1"


def node(domain: TrustDomain, role: Role = Role.SL, name: str = "one", network: str = "net") -> NodeName:
    return NodeName(domain=domain, network=network, role=role, name=name)


SERVER = node(A, Role.SN)
CLIENT = node(B)


class Clock:
    """The machine's clock, moved by `offset_ms`."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def __call__(self) -> int:
        return system_clock() + self.offset_ms


class World:
    """Authorities of A and B, an unknown one, and a trust store that knows A and B."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.authorities = {domain: create_ca(directory / domain, domain, at_ms=system_clock()) for domain in (A, B)}
        self.unknown = create_ca(directory / "unknown", A, at_ms=system_clock())
        self.trust = self.trust_store()

    def organisations(self, *revoked: bytes) -> dict[TrustDomain, Trust]:
        roles = (Role.SN, Role.SL)
        return {
            domain: Trust(issuers=(authority.certificate,), roles=roles, revoked=revoked)
            for domain, authority in self.authorities.items()
        }

    def trust_store(self) -> TrustStore:
        return TrustStore("net", self.clock, self.organisations())

    def own_view(self) -> TrustStore:
        """What a node believes that follows neither `trust` nor `clock`: both sides' checks are tested apart."""
        return TrustStore("net", system_clock, self.organisations())

    def source(self, name: NodeName, *, by: Authority | None = None, label: str = "") -> PemSource:
        """A certificate of `name` by its own organisation, or one that `by` made up."""
        authority = by or self.authorities[name.domain]
        directory = self.directory / f"{label}{name.domain}-{name.network}-{name.role}"
        # An authority of ours names only its own nodes; a dishonest one would not ask.
        forged = Authority(name.domain, authority.certificate, authority._key)
        issued = issue_certificate(forged, name, [], directory, at_ms=system_clock(), force=True)
        return PemSource(issued.certificate, issued.key, issued.issuer)

    def client(self, name: NodeName = CLIENT) -> HttpClient:
        return HttpClient(self.trust, self.source(name), clock=self.clock)

    @contextlib.asynccontextmanager
    async def serving(
        self, service: "Talker", *, limits: ServerLimits | None = None, source: PemSource | None = None
    ) -> AsyncIterator[tuple[Server, Address]]:
        server = Server(service, self.trust, source or self.source(SERVER), clock=self.clock, limits=limits or QUICK)
        port = await server.start(HOST, 0)
        try:
            yield server, Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=port))
        finally:
            await server.stop()


QUICK = ServerLimits(shutdown_s=0.2)


class Talker:
    """A service that does a bit of everything."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.never = asyncio.Event()
        self.produced = 0

    @property
    def calls(self) -> Mapping[str, Call]:
        return {
            "echo": self.echo,
            "who": self.who,
            "refuse": self.refuse,
            "doubt": self.doubt,
            "crash": self.crash,
            "wait": self.wait,
            "oversize": self.oversize,
        }

    @property
    def streams(self) -> Mapping[str, Stream]:
        return {
            "count": self.count,
            "reuse": self.reuse,
            "endless": self.endless,
            "refuse": self.refuse_between,
            "crash": self.crash_between,
            "wait": self.wait_between,
            "oversize": self.oversize_frame,
        }

    async def echo(self, caller: Caller, body: bytes) -> bytes:
        return body

    async def who(self, caller: Caller, body: bytes) -> bytes:
        return caller.node.encode()

    async def refuse(self, caller: Caller, body: bytes) -> bytes:
        raise Refused("not today", code="closed-on-mondays")

    async def doubt(self, caller: Caller, body: bytes) -> bytes:
        raise VerificationError("the hash does not hold")

    async def crash(self, caller: Caller, body: bytes) -> bytes:
        raise ZeroDivisionError("a secret detail")

    async def wait(self, caller: Caller, body: bytes) -> bytes:
        self.started.set()
        try:
            await self.never.wait()
        finally:
            self.ended.set()
        return b""

    async def oversize(self, caller: Caller, body: bytes) -> bytes:
        return bytes((1 << 20) + 1)

    async def count(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """`count size`: that many frames, each of `size` bytes of its index."""
        count, size = (int(part) for part in body.split())
        for index in range(count):
            yield bytes([index % 256]) * size

    async def reuse(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        buffer = bytearray(1000)
        for index in range(20):
            buffer[:] = bytes([index]) * len(buffer)
            yield memoryview(buffer)

    async def endless(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        try:
            while True:
                self.produced += 1
                yield bytes(1 << 20)
        finally:
            self.ended.set()

    async def refuse_between(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        yield b"first"
        raise Refused("no more", code="enough")

    async def crash_between(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        yield b"first"
        raise ZeroDivisionError("a secret detail")

    async def wait_between(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        try:
            yield b"first"
            self.started.set()
            await self.never.wait()
            yield b"never"
        finally:
            self.ended.set()

    async def oversize_frame(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        yield bytes((8 << 20) + 1)


def over_tls(world: World, service: Talker) -> AbstractAsyncContextManager[tuple[Client, Address]]:
    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[tuple[Client, Address]]:
        client = world.client()
        async with world.serving(service) as (_, address):
            try:
                yield client, address
            finally:
                await client.close()

    return connect()


def over_memory(world: World, service: Talker) -> AbstractAsyncContextManager[tuple[Client, Address]]:
    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[tuple[Client, Address]]:
        network = MemoryNetwork()
        address = Address(node=SERVER.id, endpoint=Endpoint(host="a", port=30304))
        network.serve(SERVER, address.endpoint, service)
        client = network.client(CLIENT)
        try:
            yield client, address
        finally:
            await client.close()
            network.stop(SERVER)

    return connect()
