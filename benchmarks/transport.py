"""What a stream costs over TLS 1.3 on loopback, beside bare connections of asyncio and of blocking sockets.

Run: `python benchmarks/transport.py [--megabytes 1024] [--frame-kib 256]`. Sender and receiver are processes of their
own, as in use. The seconds of processor time per gigabyte say more than the rate, if others use the machine too.
"""

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import blake3

from swarmlearning.clock import system_clock
from swarmlearning.identity.authority import create_ca, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.transport.api import Address, Call, Caller, Frame, Stream
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.server import Server
from swarmlearning.transport.tls import Tls
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

DOMAIN = TrustDomain("bench.example")
SERVER = NodeName(domain=DOMAIN, network="net", role=Role.SN, name="server")
CLIENT = NodeName(domain=DOMAIN, network="net", role=Role.SL, name="client")
HOST = "127.0.0.1"
PIECE_BYTES = 256 * 1024
SMALL_FRAMES = 50_000

Told = multiprocessing.connection.Connection
Cost = tuple[float, float]
"""Seconds of processor time, and seconds on the clock."""


class Meter:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._cpu, self._clock = time.process_time(), time.perf_counter()

    def read(self) -> Cost:
        """What was used since."""
        return time.process_time() - self._cpu, time.perf_counter() - self._clock


class Source:
    """Serves as many frames as asked for, and tells what that cost."""

    def __init__(self, told: Told) -> None:
        self._told = told

    @property
    def calls(self) -> Mapping[str, Call]:
        """None."""
        return {}

    @property
    def streams(self) -> Mapping[str, Stream]:
        """One."""
        return {"frames": self.frames}

    async def frames(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """`body` says how many, and of which size."""
        del caller
        count, size = (int(part) for part in body.split())
        frame = memoryview(bytes(size))
        meter = Meter()
        for _ in range(count):
            yield frame
        self._told.send(meter.read())


def trust_and_source(directory: Path, name: NodeName) -> tuple[TrustStore, PemSource]:
    """What a node needs, from the files that `main` made."""
    source = PemSource(
        directory / f"{name.name}.cert.pem", directory / f"{name.name}.key.pem", directory / f"{DOMAIN}.ca.pem"
    )
    issuers = source.load(system_clock()).issuers
    roles = (Role.SN, Role.SL)
    return TrustStore("net", system_clock, {DOMAIN: Trust(issuers=issuers, roles=roles)}), source


def serve(directory: Path, told: Told) -> None:
    """Serve streams until the other end of `told` says so."""

    async def main() -> None:
        server = Server(Source(told), *trust_and_source(directory, SERVER))
        told.send(await server.start(HOST, 0))
        await asyncio.to_thread(told.poll, None)
        await server.stop()

    asyncio.run(main())


def serve_asyncio(directory: Path, told: Told, size: int) -> None:
    """Send `size` bytes over one connection of asyncio's."""

    async def main() -> None:
        piece = memoryview(bytes(PIECE_BYTES))
        done = asyncio.Event()

        async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            meter = Meter()
            for _index in range(size // PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
            told.send(meter.read())
            writer.close()
            await writer.wait_closed()
            done.set()

        tls = Tls(*trust_and_source(directory, SERVER), system_clock)
        server = await asyncio.start_server(send, HOST, 0, ssl=tls.server())
        told.send(server.sockets[0].getsockname()[1])
        await done.wait()
        server.close()

    asyncio.run(main())


def serve_blocking(directory: Path, told: Told, size: int) -> None:
    """Send `size` bytes over one blocking connection."""
    context = Tls(*trust_and_source(directory, SERVER), system_clock).context(server_side=True)
    piece = memoryview(bytes(PIECE_BYTES))
    with socket.create_server((HOST, 0)) as listener:
        told.send(listener.getsockname()[1])
        accepted, _ = listener.accept()
        with context.wrap_socket(accepted, server_side=True) as connection:
            meter = Meter()
            for _index in range(size // PIECE_BYTES):
                connection.sendall(piece)
            told.send(meter.read())


async def fetch(client: HttpClient, port: int, count: int, frame_bytes: int, *, hashing: bool = False) -> Cost:
    """Fetch `count` frames."""
    server = Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=port))
    meter = Meter()
    async for frame in client.stream(server, "frames", f"{count} {frame_bytes}".encode(), idle_s=10):
        if frame.nbytes != frame_bytes:
            raise SystemExit(f"a frame of {frame.nbytes} bytes")
        if hashing:
            blake3.blake3(frame).digest()
    return meter.read()


class Sink(asyncio.BufferedProtocol):
    """Reads and forgets."""

    def __init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.size = 0
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        del sizehint
        return self._buffer[self.size % PIECE_BYTES :]

    def buffer_updated(self, nbytes: int) -> None:
        """Forget."""
        self.size += nbytes

    def connection_lost(self, exc: Exception | None) -> None:
        """That was all."""
        del exc
        if not self.done.done():
            self.done.set_result(None)


async def fetch_asyncio(directory: Path, port: int, size: int) -> Cost:
    """Receive `size` bytes over one connection of asyncio's."""
    tls = Tls(*trust_and_source(directory, CLIENT), system_clock)
    meter = Meter()
    _, sink = await asyncio.get_running_loop().create_connection(Sink, HOST, port, ssl=tls.client(SERVER.id))
    await sink.done
    if sink.size != size:
        raise SystemExit(f"received {sink.size} bytes of {size}")
    return meter.read()


def fetch_blocking(directory: Path, port: int, size: int) -> Cost:
    """Receive `size` bytes over one blocking connection."""
    context = Tls(*trust_and_source(directory, CLIENT), system_clock).context(server_side=False)
    buffer, received = memoryview(bytearray(PIECE_BYTES)), 0
    meter = Meter()
    with socket.create_connection((HOST, port)) as plain, context.wrap_socket(plain) as connection:
        while received < size:
            got = connection.recv_into(buffer[received % PIECE_BYTES :])
            if not got:
                raise SystemExit(f"received {received} bytes of {size}")
            received += got
        return meter.read()


def start(target: Callable[..., None], *args: object) -> tuple[Told, multiprocessing.process.BaseProcess]:
    """Start a sender in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(args[0], there, *args[1:]))
    process.start()
    return here, process


def show(label: str, size: int, sent: Cost, received: Cost) -> float:
    """Print a line, and return the processor time of both sides per gigabyte."""
    gigabytes = size / 1e9
    sender, receiver = sent[0] / gigabytes, received[0] / gigabytes
    rate = size / received[1] / (1 << 20)
    print(f"{label:34} {sender:8.2f} {receiver:8.2f} {sender + receiver:8.2f} {rate:12.0f}", flush=True)
    return sender + receiver


def measure_streams(directory: Path, size: int, frame_bytes: int) -> float:
    """Our streams: plain, with a consumer that hashes, and of small frames."""

    async def main() -> float:
        client = HttpClient(*trust_and_source(directory, CLIENT))
        here, process = start(serve, directory)
        port = here.recv()
        try:
            await fetch(client, port, 1, frame_bytes)
            here.recv()
            count = size // frame_bytes
            received = await fetch(client, port, count, frame_bytes)
            cost = show(f"stream, frames of {frame_bytes >> 10} KiB", size, here.recv(), received)
            received = await fetch(client, port, count, frame_bytes, hashing=True)
            show("  and a consumer that hashes", size, here.recv(), received)
            received = await fetch(client, port, SMALL_FRAMES, 100)
            cpu = here.recv()[0], received[0]
            print(f"{'  microseconds a frame of 100 B':34}", *(f"{part / SMALL_FRAMES * 1e6:8.1f}" for part in cpu))
            return cost
        finally:
            here.send(None)
            process.join()
            await client.close()

    return asyncio.run(main())


def measure_bare(directory: Path, size: int, label: str) -> float:
    """A bare connection."""
    here, process = start(serve_asyncio if label == "asyncio" else serve_blocking, directory, size)
    port = here.recv()
    if label == "asyncio":
        received = asyncio.run(fetch_asyncio(directory, port, size))
    else:
        received = fetch_blocking(directory, port, size)
    cost = show(f"bare connection, {label}", size, here.recv(), received)
    process.join()
    return cost


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--frame-kib", type=int, default=256)
    arguments = parser.parse_args()
    size, frame_bytes = arguments.megabytes << 20, arguments.frame_kib << 10
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = create_ca(directory / "ca", DOMAIN, at_ms=system_clock())
        for node in (SERVER, CLIENT):
            issue_certificate(authority, node, [], directory, at_ms=system_clock())
        print(f"{'CPU seconds per GB':34} {'sender':>8} {'receiver':>8} {'both':>8} {'MiB/s':>12}")
        measure_bare(directory, size, "blocking sockets")
        bare = measure_bare(directory, size, "asyncio")
        ours = measure_streams(directory, size, frame_bytes)
    print(f"a stream costs {ours / bare:.2f} of a bare connection of asyncio's")


if __name__ == "__main__":
    main()
