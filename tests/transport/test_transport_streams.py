"""Streams on their connection: what a server may send back, and what lies between (docs/spec/transport.md)."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, cast

import aiohttp
import pytest
from transport_world import CLIENT, HOST, SERVER, Talker, World, over_tls

from swarmlearning.errors import DecodeError, Refused, SwarmError, Unreachable
from swarmlearning.transport import server as server_module
from swarmlearning.transport.api import Address, Caller, Frame, Stream
from swarmlearning.transport.client import KEPT_CONNECTIONS, HttpClient
from swarmlearning.transport.server import Server, ServerLimits
from swarmlearning.transport.tls import Tls
from swarmlearning.transport.wire import OK, Failure, encode_failure
from swarmlearning.types import Endpoint

PLAIN = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def body_of(*frames: bytes, end: Failure = OK) -> bytes:
    return b"".join(len(f).to_bytes(4, "big") + f for f in frames) + bytes(4) + encode_failure(end)


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(f"{len(piece):X};a=b\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\nA: b\r\n\r\n"


def run(work: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(main())


def stream(client: HttpClient, to: Address, method: str, body: bytes = b"") -> AsyncGenerator[memoryview, None]:
    return cast("AsyncGenerator[memoryview, None]", client.stream(to, method, body, idle_s=10))


@contextlib.asynccontextmanager
async def answering(world: World, *pieces: bytes) -> AsyncIterator[Address]:
    """A node with a good certificate that answers each connection with `pieces`, each a record, and closes it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        writer.close()

    context = Tls(world.trust, world.source(SERVER), world.clock).server()
    server = await asyncio.start_server(answer, HOST, 0, ssl=context)
    try:
        yield Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=server.sockets[0].getsockname()[1]))
    finally:
        server.close()
        await server.wait_closed()


async def got_from(world: World, *pieces: bytes) -> list[bytes]:
    client = world.client()
    try:
        async with answering(world, *pieces) as to:
            return [bytes(frame) async for frame in client.stream(to, "count", b"", idle_s=10)]
    finally:
        await client.close()


# --- a short stream as a whole ----------------------------------------------------------------------------------


def test_x3_short_streams_share_a_connection(world: World) -> None:
    async def work() -> None:
        async with over_tls(world, Talker()) as (client, to):
            for _ in range(3):
                assert [bytes(f) async for f in client.stream(to, "count", b"2 5", idle_s=10, expect=1000)]
            assert await client.call(to, "echo", b"x", timeout_s=10) == b"x"
            assert isinstance(client, HttpClient)
            assert client._session is not None
            assert isinstance(client._session.connector, aiohttp.TCPConnector)
            assert sum(len(kept) for kept in client._session.connector._conns.values()) == 1

    run(work())


def test_x4_a_stream_that_is_too_long_for_a_whole_is_refused(world: World) -> None:
    async def work() -> None:
        async with over_tls(world, Talker()) as (client, to):
            with pytest.raises(Refused, match="does not fit into one reply") as refused:
                [f async for f in client.stream(to, "count", b"11 100000", idle_s=10, expect=1000)]
            assert refused.value.code == "too-large"

    run(work())


@pytest.mark.parametrize("cut", [1, 5, 9, 12])
def test_x5_a_whole_that_is_cut_off_is_never_mistaken_for_one_that_ended(world: World, cut: int) -> None:
    body = body_of(b"12345")

    async def work() -> None:
        client = world.client()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {cut}\r\n\r\n".encode()
        try:
            async with answering(world, head + body[:cut]) as to:
                with pytest.raises(DecodeError):
                    [f async for f in client.stream(to, "count", b"", idle_s=10, expect=1000)]
        finally:
            await client.close()

    run(work())


# --- what goes over the wire ------------------------------------------------------------------------------------


def test_x3_any_http_tool_can_read_a_stream(world: World) -> None:
    async def check() -> None:
        async with world.serving(Talker()) as (_, to):
            context = Tls(world.trust, world.source(CLIENT), world.clock).client(SERVER.id)
            reader, writer = await asyncio.open_connection(HOST, to.endpoint.port, ssl=context)
            ask = b"POST /v1/count HTTP/1.1\r\nHost: a\r\nAccept: application/vnd.swarm.frames\r\nContent-Length: 3\r\n"
            expected = body_of(bytes(5), b"\x01" * 5, b"\x02" * 5)
            for _ in range(2):  # in chunks, and the connection is there for the next request
                writer.write(ask + b"\r\n3 5")
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"\r\nTransfer-Encoding: chunked" in head
                body = b""
                while size := int(await reader.readline(), 16):
                    body += await reader.readexactly(size)
                    assert await reader.readline() == b"\r\n"
                assert (await reader.readline(), body) == (b"\r\n", expected)
            writer.write(ask + b"Connection: close\r\n\r\n3 5")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert b"\r\nConnection: close" in head
            assert b"ransfer-Encoding" not in head
            assert body == expected
            writer.close()

    run(check())


async def count(client: HttpClient, to: Address, size: int, expect: int | None) -> int:
    """Have frames of a size streamed, and say how many connections are kept then."""
    asked = client.stream(to, "count", f"3 {size}".encode(), idle_s=10, expect=expect)
    assert [bytes(frame) async for frame in asked] == [bytes([index]) * size for index in range(3)]
    return len(client._kept.get(to, []))


def test_x3_middling_streams_leave_their_connection_to_the_next(world: World) -> None:
    async def work() -> None:
        async with over_tls(world, Talker()) as (client, to):
            assert isinstance(client, HttpClient)
            for _ in range(3):
                assert await count(client, to, 500_000, 1_500_000) == 1
            assert len(client._streams) == 1
            # Two at a time: each has its own; both stay.
            await asyncio.gather(*(count(client, to, 500_000, 1_500_000) for _ in range(2)))
            assert len(client._kept[to]) == 2
            # Of long ones, and where it is not known, the connection ends the body.
            assert await count(client, to, 5, 1 << 30) == 2
            assert await count(client, to, 5, None) == 2
            await asyncio.gather(*(count(client, to, 500_000, 1_500_000) for _ in range(9)))
            assert len(client._kept[to]) == KEPT_CONNECTIONS

    run(work())


def test_x3_a_stream_that_was_left_leaves_no_connection(world: World) -> None:
    async def work() -> None:
        async with over_tls(world, Talker()) as (client, to):
            assert isinstance(client, HttpClient)
            async with aclosing(
                cast(
                    "AsyncGenerator[memoryview, None]", client.stream(to, "count", b"9 70000", idle_s=9, expect=1 << 20)
                )
            ) as frames:
                await anext(frames)
            assert not client._kept.get(to)
            with pytest.raises(Refused):
                [f async for f in client.stream(to, "refuse", b"", idle_s=10, expect=1 << 20)]

    run(work())


def test_x3_a_kept_connection_that_its_server_has_closed_is_not_missed(world: World) -> None:
    async def work() -> None:
        talker = Talker()
        client = world.client()
        try:
            async with world.serving(talker) as (_, to):
                assert await count(client, to, 100_000, 1 << 20) == 1
            again = Server(talker, world.trust, world.source(SERVER), clock=world.clock)
            await again.start(HOST, to.endpoint.port)
            assert await count(client, to, 100_000, 1 << 20) == 1
            await again.stop()
        finally:
            await client.close()

    run(work())


def test_x8_a_kept_connection_is_not_used_once_its_server_does_not_count_any_more(world: World) -> None:
    async def work() -> None:
        async with over_tls(world, Talker()) as (client, to):
            assert isinstance(client, HttpClient)
            assert await count(client, to, 100_000, 1 << 20) == 1
            (kept,) = client._streams
            world.clock.offset_ms = 20 * 365 * 86_400_000
            with pytest.raises(SwarmError):
                await count(client, to, 100_000, 1 << 20)
            assert kept.transport is None

    run(work())


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_x3_a_proxy_may_pass_a_stream_on_in_chunks_or_with_a_length(world: World, size: int) -> None:
    frames = [bytes([index]) * (index * 37 % 300 + 1) for index in range(50)]
    body = body_of(*frames)

    async def check() -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        assert await got_from(world, interim + CHUNKED + in_chunks(body, size)) == frames
        measured = f"HTTP/1.1 200\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        assert await got_from(world, *(measured[at : at + size] for at in range(0, len(measured), size))) == frames

    run(check())


@pytest.mark.parametrize("seed", range(4))
def test_x3_frames_of_all_sizes_arrive_whatever_the_pieces_are(world: World, seed: int) -> None:
    noise = random.Random(seed)
    sizes = [noise.choice([1, 5, 4000, 65_530, 65_536, 65_537, 300_000]) for _ in range(30)]
    frames = [noise.randbytes(size) for size in sizes]
    whole = PLAIN + body_of(*frames) if seed % 2 else CHUNKED + in_chunks(body_of(*frames), 9000)
    pieces, at = [], 0
    while at < len(whole):
        pieces.append(whole[at : (at := at + noise.choice([1, 50, 16_384, 70_000]))])

    async def check() -> None:
        assert await got_from(world, *pieces) == frames

    run(check())


def test_x3_a_line_that_cuts_tcp_at_every_byte_changes_nothing(world: World) -> None:
    async def check() -> None:
        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while received := await reader.read(1000):
                    for at in range(len(received)):
                        writer.write(received[at : at + 1])
                        await writer.drain()
                        await asyncio.sleep(0)
            writer.close()

        async with world.serving(Talker()) as (_, to):

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                upstream_reader, upstream = await asyncio.open_connection(HOST, to.endpoint.port)
                await asyncio.gather(pass_on(reader, upstream), pass_on(upstream_reader, writer))

            proxy = await asyncio.start_server(accept, HOST, 0)
            port = proxy.sockets[0].getsockname()[1]
            client = world.client()
            through = Address(node=to.node, endpoint=Endpoint(host=HOST, port=port))
            got = [bytes(frame) async for frame in client.stream(through, "count", b"9 700", idle_s=10)]
            assert got == [bytes([index]) * 700 for index in range(9)]
            await client.close()
            proxy.close()
            await proxy.wait_closed()

    run(check())


# --- servers that lie or break ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 33 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 4094 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + (b"A: " + b"a" * 4000 + b"\r\n") * 5,
        CHUNKED + b"ten\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"4\n",
        CHUNKED + b"4\r\n\0\0\0\1X\r\n",
        CHUNKED + b"1" * 300,
        CHUNKED + b"123456789\r\n",
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 40,
        CHUNKED + b"0\r\nno trailer\r\n",
        CHUNKED + b"0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nmore",
    ],
    ids=range(28),
)
def test_x4_a_response_that_is_no_http_or_beyond_its_limits_is_refused(world: World, head: bytes) -> None:
    async def attack() -> None:
        with pytest.raises(DecodeError, match="does not speak our protocol"):
            await got_from(world, head)

    run(attack())


def test_x4_a_response_at_its_limits_is_read(world: World) -> None:
    lines = b"A: " + b"a" * 4093 + b"\r\n" + b"A: b\r\n" * 30 + b"Content-Encoding: identity\r\n"

    async def check() -> None:
        assert await got_from(world, b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + body_of(b"frame")) == [b"frame"]

    run(check())


@pytest.mark.parametrize("answer", [PLAIN + body_of(b"full"), CHUNKED + in_chunks(body_of(b"full"), 3)])
def test_x3_a_stream_that_is_cut_off_anywhere_fails(world: World, answer: bytes) -> None:
    async def attack() -> None:
        for cut in range(0, len(answer), 3):
            with pytest.raises((Unreachable, DecodeError)):
                await got_from(world, answer[:cut])
        assert await got_from(world, answer) == [b"full"]

    run(attack())


@pytest.mark.parametrize("size", [(8 << 20) + 1, 0xFFFFFFFF])
def test_x4_a_huge_frame_is_refused_before_room_is_made_for_it(world: World, size: int) -> None:
    async def attack() -> None:
        with pytest.raises(DecodeError, match=f"a frame of {size} bytes"):
            await got_from(world, PLAIN + size.to_bytes(4, "big"))

    run(attack())


def test_x5_a_failure_at_the_end_arrives_after_all_frames(world: World) -> None:
    async def check() -> None:
        client = world.client()
        body = body_of(b"first", end=Failure(kind="Refused", code="enough", message="no more"))
        async with answering(world, PLAIN + body) as to:
            frames = stream(client, to, "count")
            assert bytes(await anext(frames)) == b"first"
            with pytest.raises(Refused, match="no more"):
                await anext(frames)
        await client.close()

    run(check())


# --- who is slow, and who leaves --------------------------------------------------------------------------------


class Farewell(Talker):
    """Sends much, and ends as soon as that is nearly taken."""

    @property
    def streams(self) -> Mapping[str, Stream]:
        return {"much": self.much}

    async def much(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        for _ in range(int(body)):
            yield bytes(1 << 20)
        self.ended.set()


def test_x6_a_slow_client_gets_the_end_although_the_server_has_closed_long_ago(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(accepted: socket.socket) -> None:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)  # so that much waits in the server itself

    monkeypatch.setattr(server_module, "_keep_alive", narrow)

    async def check() -> None:
        service, client, count = Farewell(), world.client(), 6
        async with world.serving(service, limits=ServerLimits(shutdown_s=0.1)) as (_, to):
            got, waited = 0, False
            async with aclosing(stream(client, to, "much", str(count).encode())) as frames:
                async for frame in frames:
                    got += frame.nbytes
                    (inflow,) = client._streams
                    transport = cast("asyncio.Transport", inflow._transport)
                    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
                    if got == (count - 2) << 20:
                        waited = True
                        await asyncio.sleep(0.5)  # several times `shutdown_s`, which must not count
                    if got == (count - 1) << 20:
                        await asyncio.sleep(0.5)
            assert waited
            assert got == count << 20
        await client.close()

    run(check())


def test_x6_a_cancelled_consumer_frees_its_connection(world: World) -> None:
    async def check() -> None:
        service, client = Talker(), world.client()
        async with world.serving(service) as (server, to):

            async def consume() -> None:
                async for _ in client.stream(to, "wait", b"", idle_s=10):
                    first.set()

            first = asyncio.Event()
            consumer = asyncio.create_task(consume())
            await first.wait()
            await service.started.wait()
            assert len(client._streams) == server.connections == 1
            (inflow,) = client._streams
            consumer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await consumer
            await inflow.lost
            await service.ended.wait()
            assert not client._streams
            while server.connections:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0)
        await client.close()

    run(check())


def test_x6_what_a_client_does_not_take_is_not_read(world: World) -> None:
    async def check() -> None:
        service, client = Talker(), world.client()
        async with world.serving(service) as (_, to), aclosing(stream(client, to, "endless")) as frames:
            await anext(frames)
            (inflow,) = client._streams
            filled = inflow._filled
            for _ in range(20):
                await client.call(to, "echo", b"", timeout_s=10)
            assert inflow._filled == filled
            assert len(inflow._buffer) <= (1 << 20) + 64 * 1024
            assert cast("Any", inflow._transport).get_read_buffer_size() <= 1 << 20
        await client.close()

    run(check())


def test_a_closed_client_breaks_its_streams(world: World) -> None:
    async def check() -> None:
        service, client = Talker(), world.client()
        async with world.serving(service) as (_, to):
            frames = stream(client, to, "wait")
            await anext(frames)
            await client.close()
            with pytest.raises(SwarmError) as error:
                await anext(frames)
            assert isinstance(error.value, Unreachable)
            await service.ended.wait()

    run(check())


def test_x9_a_stream_to_a_name_that_is_none_says_so(world: World) -> None:
    async def check() -> None:
        client = world.client()
        for host in ("sn.a.invalid", "a" * 70 + ".example"):
            to = Address(node=SERVER.id, endpoint=Endpoint(host=host, port=1))
            with pytest.raises(Unreachable, match="is not known here"):
                await anext(stream(client, to, "count"))
        await client.close()

    run(check())
