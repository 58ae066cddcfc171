"""How fast a stream of 1 MiB frames is over TLS on loopback, beside a plain copy of memory.

Run: `python benchmarks/transport.py [--megabytes 2048]`. Server and client are processes of their own, as in use.
"""

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from swarmlearning.clock import system_clock
from swarmlearning.identity.authority import create_ca, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.transport.api import Address, Call, Caller, Frame, Stream
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.server import Server
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

FRAME_BYTES = 1 << 20
DOMAIN = TrustDomain("bench.example")
SERVER = NodeName(domain=DOMAIN, network="net", role=Role.SN, name="server")
CLIENT = NodeName(domain=DOMAIN, network="net", role=Role.SL, name="client")


class Source:
    """Serves as many frames as asked for."""

    @property
    def calls(self) -> Mapping[str, Call]:
        """None."""
        return {}

    @property
    def streams(self) -> Mapping[str, Stream]:
        """One."""
        return {"frames": self.frames}

    async def frames(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """`body` says how many."""
        del caller
        frame = memoryview(bytes(FRAME_BYTES))
        for _ in range(int(body)):
            yield frame


def trust_and_source(directory: Path, name: NodeName) -> tuple[TrustStore, PemSource]:
    """What a node needs, from the files that `main` made."""
    source = PemSource(
        directory / f"{name.name}.cert.pem", directory / f"{name.name}.key.pem", directory / f"{DOMAIN}.ca.pem"
    )
    issuers = source.load(system_clock()).issuers
    roles = (Role.SN, Role.SL)
    return TrustStore("net", system_clock, {DOMAIN: Trust(issuers=issuers, roles=roles)}), source


def serve(directory: Path, told: multiprocessing.connection.Connection) -> None:
    """Serve until the other end of `told` is closed."""

    async def main() -> None:
        server = Server(Source(), *trust_and_source(directory, SERVER))
        told.send(await server.start("127.0.0.1", 0))
        await asyncio.to_thread(told.poll, None)
        await server.stop()

    asyncio.run(main())


async def fetch(directory: Path, port: int, count: int) -> float:
    """Fetch `count` frames and return the seconds it took, connecting not included."""
    client = HttpClient(*trust_and_source(directory, CLIENT))
    server = Address(node=SERVER.id, endpoint=Endpoint(host="127.0.0.1", port=port))
    try:
        async for _ in client.stream(server, "frames", b"1", idle_s=10):
            pass
        start = time.perf_counter()
        async for frame in client.stream(server, "frames", str(count).encode(), idle_s=10):
            if frame.nbytes != FRAME_BYTES:
                raise SystemExit(f"a frame of {frame.nbytes} bytes")
        return time.perf_counter() - start
    finally:
        await client.close()


def copy(count: int) -> float:
    """Copy `count` frames from memory to memory and return the seconds it took."""
    whole = 256  # larger than caches are
    source, target = memoryview(bytearray(whole * FRAME_BYTES)), memoryview(bytearray(whole * FRAME_BYTES))
    target[:] = source  # touch every page
    start = time.perf_counter()
    for index in range(count):
        place = slice(index % whole * FRAME_BYTES, (index % whole + 1) * FRAME_BYTES)
        target[place] = source[place]
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048)
    count = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = create_ca(directory / "ca", DOMAIN, at_ms=system_clock())
        for node in (SERVER, CLIENT):
            issue_certificate(authority, node, [], directory, at_ms=system_clock())
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(directory, there))
        process.start()
        seconds = asyncio.run(fetch(directory, here.recv(), count))
        here.send(None)
        process.join()
    copied = copy(count)
    print(f"stream over TLS 1.3: {count / seconds:8.0f} MiB/s")
    print(f"copy of memory:      {count / copied:8.0f} MiB/s")
    print(f"ratio:               {copied / seconds:8.3f}")


if __name__ == "__main__":
    main()
