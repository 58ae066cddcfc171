"""Attacks on the network transport, and everyday failures, over real sockets (docs/spec/transport.md)."""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, cast

import pytest
from transport_world import CLIENT, HOST, QUICK, SERVER, A, B, Talker, World, node

from swarmlearning.errors import (
    AddressInUse,
    ConfigurationError,
    DecodeError,
    Refused,
    SwarmError,
    Unreachable,
    VerificationError,
)
from swarmlearning.identity.authority import renew_certificate
from swarmlearning.identity.certificate import fingerprint
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.sending import Outflow
from swarmlearning.transport.server import Server, ServerLimits
from swarmlearning.transport.tls import Tls
from swarmlearning.transport.wire import Failure, encode_failure
from swarmlearning.types import Endpoint, Role

YEAR_MS = 366 * 24 * 3600 * 1000


def run(work: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(main())


async def fails(work: Awaitable[object]) -> SwarmError:
    with pytest.raises(SwarmError) as error:
        await work
    return error.value


async def echo(client: HttpClient, to: Address, body: bytes = b"alive") -> bytes:
    return await client.call(to, "echo", body, timeout_s=10)


async def lives(world: World, to: Address) -> None:
    """The server still serves a node that behaves."""
    client = world.client(node(B, name="good"))
    try:
        assert await echo(client, to) == b"alive"
    finally:
        await client.close()


async def send(to: Address, data: bytes, context: ssl.SSLContext | None) -> bytes:
    """Connect, send `data`, and return all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(to.endpoint.host, to.endpoint.port, ssl=context)
    answer = b""
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()
        while received := await reader.read(65536):
            answer += received
    writer.transport.abort()
    return answer


def own_context(world: World) -> ssl.SSLContext:
    """What an honest node connects with."""
    return Tls(world.trust, world.source(CLIENT), world.clock).client(SERVER.id)


def assert_quiet(caplog: pytest.LogCaptureFixture) -> None:
    assert [record.getMessage() for record in caplog.records if record.exc_info or record.levelno > logging.INFO] == []


# --- who may connect --------------------------------------------------------------------------------------------


def test_x7_a_client_without_certificate_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def attack() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with world.serving(service := Talker()) as (_, to):
            request = b"POST /v1/wait HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            assert await send(to, request, context) == b""
            assert not service.started.is_set()
            await lives(world, to)

    run(attack())
    assert_quiet(caplog)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("unknown authority", "certificate"),
        ("B names a node of A", "none of the 1 authorities of a.example"),
        ("role not held", "may not hold the role operator"),
        ("another network", "this is net"),
    ],
)
def test_x7_a_client_that_lies_about_who_it_is_is_refused_and_told_why(world: World, label: str, message: str) -> None:
    sources = {
        "unknown authority": lambda: world.source(node(A), by=world.unknown, label="lie"),
        "B names a node of A": lambda: world.source(node(A), by=world.authorities[B], label="lie"),
        "role not held": lambda: world.source(node(B, Role.OPERATOR)),
        "another network": lambda: world.source(node(B, network="other")),
    }

    async def attack() -> None:
        client = HttpClient(world.trust, sources[label](), clock=world.clock)
        async with world.serving(service := Talker()) as (_, to):
            error = await fails(client.call(to, "wait", b"", timeout_s=10))
            assert isinstance(error, Refused)
            assert error.code == "certificate"
            assert message in str(error)
            assert "SWARM_ID_CERT" in str(error)
            assert not service.started.is_set()
            await client.close()
            await lives(world, to)

    run(attack())


@pytest.mark.parametrize("by", ["unknown authority", "B"])
def test_x9_a_server_whose_certificate_its_organisation_did_not_issue_gets_no_request(world: World, by: str) -> None:
    async def attack() -> None:
        authority = world.unknown if by == "unknown authority" else world.authorities[B]
        client = world.client()
        async with world.serving(service := Talker(), source=world.source(SERVER, by=authority, label="lie")) as (
            _,
            to,
        ):
            error = await fails(client.call(to, "wait", b"", timeout_s=10))
            assert isinstance(error, VerificationError)
            assert not service.started.is_set()
        await client.close()

    run(attack())


def test_x7_tls_1_2_is_refused(world: World) -> None:
    async def attack() -> None:
        source = world.source(CLIENT)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(source.cert, source.key)
        async with world.serving(Talker()) as (_, to):
            _, writer = await asyncio.open_connection(HOST, to.endpoint.port, ssl=context)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"  # the same context is fine with 1.3
            writer.transport.abort()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await asyncio.open_connection(HOST, to.endpoint.port, ssl=context)
            await lives(world, to)

    run(attack())


def test_x7_no_session_can_be_resumed(world: World) -> None:
    async def attack() -> None:
        async with world.serving(Talker()) as (_, to):
            reader, writer = await asyncio.open_connection(HOST, to.endpoint.port, ssl=own_context(world))
            writer.write(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
            session = writer.get_extra_info("ssl_object").session
            assert session is None or not session.has_ticket
            writer.transport.abort()

    run(attack())


# --- what they may send -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_x4_garbage_on_the_port_closes_the_connection(
    world: World, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def attack() -> None:
        noise = random.Random(seed)
        async with world.serving(Talker()) as (_, to):
            for size in (1, 5, 100, 100_000):
                # Shut down for writing, as a short piece of garbage may be the beginning of a handshake.
                reader, writer = await asyncio.open_connection(HOST, to.endpoint.port)
                with contextlib.suppress(OSError):
                    writer.write(noise.randbytes(size))
                    writer.write_eof()
                    while await reader.read(65536):
                        pass
                writer.transport.abort()
            await lives(world, to)

    run(attack())
    assert_quiet(caplog)
    assert "refused a connection from 127.0.0.1" in caplog.text


def test_x7_there_is_no_plaintext_mode(world: World) -> None:
    async def attack() -> None:
        async with world.serving(Talker()) as (_, to):
            answer = await send(to, b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", None)
            assert b"HTTP" not in answer
            await lives(world, to)

    run(attack())


@pytest.mark.parametrize("seed", range(5))
def test_x4_garbage_inside_tls_closes_the_connection(world: World, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async def attack() -> None:
        async with world.serving(Talker()) as (_, to):
            answer = await send(to, random.Random(seed).randbytes(3000) + b"\r\n\r\n", own_context(world))
            assert answer == b"" or answer.startswith(b"HTTP/1.0 400")
            await lives(world, to)

    run(attack())
    assert_quiet(caplog)


@pytest.mark.parametrize(
    ("head", "answered"),
    [
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n", b"HTTP/1.1 413"),
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", b"HTTP/1.0 400"),
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nLong: " + b"x" * 5000 + b"\r\n\r\n", b"HTTP/1.0 400"),
        (b"POST /v1/" + b"e" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.0 400"),
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 50 + b"\r\n", b"HTTP/1.0 400"),
        (b"GET /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST /v2/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST /v1/../echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST /v1/nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
        # Within the limits: what the others differ from.
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200"),
    ],
    ids=["body", "length", "field", "path", "fields", "method", "version", "dots", "unknown", "good"],
)
def test_x4_requests_beyond_the_limits_get_a_status_and_no_handler(  # what answers as HTTP/1.0 is the parser
    world: World, head: bytes, answered: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def attack() -> None:
        async with world.serving(Talker()) as (server, to):
            answer = await send(to, head, own_context(world))
            assert answer.startswith(answered)
            assert server.bytes_received == 0
            await lives(world, to)

    run(attack())
    assert_quiet(caplog)


def test_x4_a_chunked_body_is_cut_off_at_the_limit(world: World) -> None:
    async def attack() -> None:
        async with world.serving(Talker()) as (server, to):
            chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
            head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = await send(to, head + chunk * 17, own_context(world))
            assert answer[9:12] == b"413"
            assert server.bytes_received == 0
            await lives(world, to)

    run(attack())


# --- what they may hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "sent", "tls"),
    [
        (ServerLimits(handshake_s=1), b"", False),
        (ServerLimits(handshake_s=1), b"\x16\x03\x01\x02", False),
        (ServerLimits(request_s=1), b"", True),
        (ServerLimits(request_s=1), b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nA:", True),
        (ServerLimits(request_s=1), b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf", True),
    ],
    ids=["silent", "half a handshake", "no request", "half a header", "half a body"],
)
def test_x6_a_connection_that_stalls_is_closed(world: World, limits: ServerLimits, sent: bytes, tls: bool) -> None:
    async def attack() -> None:
        async with world.serving(Talker(), limits=limits) as (_, to):
            assert await send(to, sent, own_context(world) if tls else None) == b""  # returns when it was closed
            await lives(world, to)

    run(attack())


def test_x6_an_idle_connection_is_closed_also_in_the_middle_of_its_next_header(world: World) -> None:
    async def attack() -> None:
        async with world.serving(Talker(), limits=ServerLimits(idle_s=1)) as (_, to):
            request = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
            answer = await send(to, request + request[:30], own_context(world))
            assert answer.count(b"HTTP/1.1 200") == 1

    run(attack())


def test_x6_a_client_that_takes_nothing_is_hung_up_on_and_costs_bounded_memory(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def attack() -> None:
        service, client = Talker(), world.client()
        async with world.serving(service, limits=ServerLimits(stall_s=0.7)) as (_, to):
            stream = cast("AsyncGenerator[memoryview, None]", client.stream(to, "endless", b"", idle_s=10))
            async with aclosing(stream):
                await anext(stream)
                await service.ended.wait()
                assert service.produced < 30
            await lives(world, to)
        await client.close()

    run(attack())
    assert_quiet(caplog)


def test_x6_further_connections_than_the_server_takes_are_closed(world: World) -> None:
    async def attack() -> None:
        async with world.serving(Talker(), limits=ServerLimits(connections=2, shutdown_s=0.2)) as (_, to):
            held = [await asyncio.open_connection(HOST, to.endpoint.port, ssl=own_context(world)) for _ in range(2)]
            late = world.client()
            assert isinstance(await fails(echo(late, to)), Unreachable)
            held[0][1].transport.abort()
            while True:  # until the server has noticed
                with contextlib.suppress(Unreachable):
                    assert await echo(late, to) == b"alive"
                    break
            held[1][1].transport.abort()
            await late.close()

    run(attack())


def test_x6_one_node_cannot_take_all_connections(world: World) -> None:
    async def attack() -> None:
        service, greedy, modest = Talker(), world.client(), world.client(node(B, name="good"))
        async with world.serving(service, limits=ServerLimits(connections_per_peer=1, shutdown_s=0.2)) as (_, to):
            waiting = asyncio.ensure_future(greedy.call(to, "wait", b"", timeout_s=10))
            await service.started.wait()
            error = await fails(echo(greedy, to))
            assert isinstance(error, Refused)
            assert error.code == "busy"
            assert await echo(modest, to) == b"alive"
            service.never.set()
            await waiting
            await greedy.close()
            await modest.close()

    run(attack())


def test_x6_a_client_that_hangs_up_on_a_busy_stream_ends_it(world: World) -> None:
    """Writes to a lost connection do not wait; a handler that does not either must not keep the node to itself."""

    async def attack() -> None:
        service, client = Talker(), world.client()
        async with world.serving(service) as (_, to):
            stream = cast("AsyncGenerator[memoryview, None]", client.stream(to, "endless", b"", idle_s=10))
            async with aclosing(stream):
                await anext(stream)
            await service.ended.wait()
            await lives(world, to)
        await client.close()

    run(attack())


def test_x5_a_client_that_left_in_the_middle_is_no_news(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has watched enough leaves; whether the server writes once more is a matter of timing, so it is forced."""
    caplog.set_level(logging.DEBUG, "swarmlearning.transport")

    def leave(outflow: Outflow) -> None:
        outflow._transport().abort()

    async def watch() -> None:
        client = world.client()
        async with world.serving(Talker()) as (_, to):
            with monkeypatch.context() as patch:
                patch.setattr(Outflow, "start", leave)
                with pytest.raises(Unreachable):
                    await anext(client.stream(to, "count", b"1 1", idle_s=10))
            await lives(world, to)
        await client.close()

    run(watch())
    said = [record for record in caplog.records if "it left before the answer was sent" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.DEBUG]


# --- how long a certificate counts ------------------------------------------------------------------------------


def test_x8_a_certificate_that_expires_while_connected_ends_the_connection(world: World) -> None:
    async def attack() -> None:
        client = HttpClient(world.own_view(), world.source(CLIENT))
        async with world.serving(Talker()) as (_, to):
            assert await echo(client, to) == b"alive"
            world.clock.offset_ms = 2 * YEAR_MS
            error = await fails(echo(client, to))
            assert isinstance(error, Refused)
            assert error.code == "certificate"
        await client.close()

    run(attack())


def test_x8_a_client_sends_nothing_more_to_a_server_whose_certificate_expired(world: World) -> None:
    async def attack() -> None:
        service, client = Talker(), world.client()
        server = Server(service, world.own_view(), world.source(SERVER), limits=QUICK)
        to = Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=await server.start(HOST, 0)))
        assert await echo(client, to) == b"alive"
        world.clock.offset_ms = 2 * YEAR_MS
        assert isinstance(await fails(client.call(to, "wait", b"", timeout_s=10)), VerificationError)
        assert not service.started.is_set()
        await client.close()
        await server.stop()

    run(attack())


def test_x8_a_certificate_that_is_revoked_while_connected_ends_the_connection(world: World) -> None:
    async def attack() -> None:
        source = world.source(CLIENT)
        client = HttpClient(world.own_view(), source)
        async with world.serving(Talker()) as (_, to):
            assert await echo(client, to) == b"alive"
            world.trust.update(world.organisations(fingerprint(source.load(world.clock()).certificate_der)))
            for _ in range(2):  # on the open connection, and in a new handshake
                error = await fails(echo(client, to))
                assert isinstance(error, Refused)
                assert "was revoked by b.example" in str(error)
        await client.close()

    run(attack())


def test_x8_a_stream_ends_when_its_clients_certificate_is_revoked(world: World) -> None:
    async def attack() -> None:
        source, service = world.source(CLIENT), Talker()
        client = HttpClient(world.own_view(), source)
        async with world.serving(service) as (_, to):
            stream = client.stream(to, "endless", b"", idle_s=10)
            await anext(stream)
            world.trust.update(world.organisations(fingerprint(source.load(world.clock()).certificate_der)))
            with pytest.raises(Refused, match="was revoked by"):
                _ = [frame.nbytes async for frame in stream]
            assert service.ended.is_set()
        await client.close()

    run(attack())


def test_x8_an_expelled_organisation_cannot_connect_and_an_admitted_one_can(world: World) -> None:
    async def attack() -> None:
        client = HttpClient(world.own_view(), world.source(CLIENT))
        both = world.organisations()
        world.trust.update({A: both[A]})
        async with world.serving(Talker()) as (_, to):
            assert "certificate" in str(await fails(echo(client, to)))
            world.trust.update(both)
            assert await echo(client, to) == b"alive"
            world.trust.update({A: both[A]})
            assert "certificate" in str(await fails(echo(client, to)))
        await client.close()

    run(attack())


def test_x8_replaced_certificates_are_used_without_a_restart(world: World) -> None:
    async def attack() -> None:
        ours, theirs = world.source(CLIENT), world.source(SERVER)
        client = HttpClient(world.own_view(), ours)
        async with world.serving(Talker(), source=theirs) as (_, to):
            assert await echo(client, to) == b"alive"
            old = [fingerprint(source.load(world.clock()).certificate_der) for source in (ours, theirs)]
            for source, domain in ((ours, B), (theirs, A)):
                renew_certificate(world.authorities[domain], source.cert, at_ms=world.clock(), days=9, new_key=True)
            # Were an old certificate still shown, this would fail: the old ones are revoked now.
            world.trust.update(world.organisations(*old))
            assert await echo(client, to) == b"alive"
        await client.close()

    run(attack())


def test_x8_a_bad_replacement_is_reported_once_and_the_old_certificate_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def attack() -> None:
        source = world.source(SERVER)
        async with world.serving(Talker(), source=source) as (_, to):
            source.cert.write_text("half a file")
            for _ in range(3):
                await lives(world, to)

    run(attack())
    assert [record.getMessage().count("the old one stays in use") for record in caplog.records] == [1]


# --- servers that lie -------------------------------------------------------------------------------------------


OK_FRAMES = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def lying_server(world: World, answer: bytes, endless: bytes = b"") -> AsyncIterator[Address]:
    """A node with a good certificate that answers every connection with `answer`, and closes it.

    With `endless`, it goes on sending that until the client hangs up.
    """

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with contextlib.suppress(OSError):
            while endless:
                writer.write(endless)
                await writer.drain()
        writer.close()

    context = Tls(world.trust, world.source(SERVER), world.clock).server()
    server = await asyncio.start_server(lie, HOST, 0, ssl=context)
    try:
        yield Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=server.sockets[0].getsockname()[1]))
    finally:
        server.close()
        await server.wait_closed()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}".encode() + b"\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (OK_FRAMES + chunk(b"\x00\x80\x00\x01"), DecodeError),  # a frame of MAX_FRAME_BYTES + 1
        (OK_FRAMES + chunk(b"\x00\x00\x00\x09half"), Unreachable),
        (OK_FRAMES + chunk(b"\x00\x00\x00\x09half") + chunk(b""), Unreachable),
        (OK_FRAMES + chunk(b"\x00\x00\x00\x04full") + chunk(b""), Unreachable),
        (OK_FRAMES + chunk(b""), Unreachable),
        (OK_FRAMES + chunk(b"\x00\x00\x00\x00") + chunk(b""), DecodeError),
        (OK_FRAMES + chunk(b"\x00\x00\x00\x00" + bytes(20_000)) + chunk(b""), DecodeError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n\x00\x00\x00\x09half", Unreachable),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nsorry", DecodeError),
        (b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n", DecodeError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", DecodeError),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 9000 + b"\r\n\r\n", DecodeError),
        (b"", Unreachable),
    ],
    ids=range(13),
)
def test_x5_a_stream_that_breaks_the_protocol_is_never_mistaken_for_one_that_ended(
    world: World, answer: bytes, kind: type[SwarmError]
) -> None:
    async def attack() -> None:
        client = world.client()
        async with lying_server(world, answer) as to:
            with pytest.raises(kind):
                async for _ in client.stream(to, "count", b"", idle_s=10):
                    pass
        await client.close()

    run(attack())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + bytes(2_000_000), DecodeError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Unreachable),
        (OK_FRAMES + chunk(b"half"), Unreachable),
        (b"HTTP/1.1 422 No\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000), DecodeError),
    ],
    ids=range(4),
)
def test_x5_a_reply_that_breaks_the_protocol_is_no_reply(world: World, answer: bytes, kind: type[SwarmError]) -> None:
    async def attack() -> None:
        client = world.client()
        async with lying_server(world, answer) as to:
            assert type(await fails(echo(client, to))) is kind
        await client.close()

    run(attack())


def test_x5_a_stream_that_does_not_stop_after_its_end_is_hung_up_on(world: World) -> None:
    async def attack() -> None:
        client = world.client()
        async with lying_server(world, OK_FRAMES + chunk(bytes(4)), endless=chunk(bytes(9000))) as to:
            with pytest.raises(DecodeError, match="after the end"):
                async for _ in client.stream(to, "count", b"", idle_s=3):
                    pass
        await client.close()

    run(attack())


def test_x5_a_reason_from_a_stranger_is_shown_as_one_short_line(world: World) -> None:
    async def attack() -> None:
        client = world.client()
        failure = encode_failure(Failure(kind="Refused", code="\x1b[2J", message="two\nlines \x1b[31m" + "x" * 9000))
        head = f"HTTP/1.1 422 No\r\nContent-Length: {len(failure)}\r\n\r\n".encode()
        async with lying_server(world, head + failure) as to:
            error = await fails(echo(client, to))
            assert isinstance(error, Refused)
            assert error.code == "refused"
            assert str(error).isprintable()
            assert len(str(error)) <= 2000
        await client.close()

    run(attack())


# --- everyday failures ------------------------------------------------------------------------------------------


def test_x9_a_server_that_does_not_shake_hands_is_given_up_on(world: World) -> None:
    async def attack() -> None:
        client = world.client()
        with socket.create_server((HOST, 0)) as silent:
            to = Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=silent.getsockname()[1]))
            with pytest.raises(Unreachable, match=r"no connection within 0\.3 s"):
                await client.call(to, "echo", b"", timeout_s=0.3)
        await client.close()

    run(attack())


def test_x9_a_port_that_speaks_something_else_is_named(world: World) -> None:
    async def attack() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            await reader.read(1)
            writer.close()

        client = world.client()
        server = await asyncio.start_server(greet, HOST, 0)
        to = Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=server.sockets[0].getsockname()[1]))
        with pytest.raises(Unreachable, match="is it a swarm node's port"):
            await echo(client, to)
        await client.close()
        server.close()
        await server.wait_closed()

    run(attack())


def test_x9_an_unknown_host_name_is_named(world: World) -> None:
    async def attack() -> None:
        client = world.client()
        to = Address(node=SERVER.id, endpoint=Endpoint(host="sn.a.invalid", port=30304))
        with pytest.raises(Unreachable, match=r"sn\.a\.invalid is not known here"):
            await echo(client, to)
        await client.close()

    run(attack())


def test_a_taken_port_is_named_and_a_foreign_address_too(world: World) -> None:
    async def attack() -> None:
        async with world.serving(Talker()) as (_, to):
            second = Server(Talker(), world.trust, world.source(SERVER), limits=QUICK)
            with pytest.raises(AddressInUse, match=f"port {to.endpoint.port} on 127.0.0.1 is taken"):
                await second.start(HOST, to.endpoint.port)
            third = Server(Talker(), world.trust, world.source(SERVER), limits=QUICK)
            with pytest.raises(ConfigurationError, match="no address of this machine"):
                await third.start("192.0.2.1", 0)
            await lives(world, to)

    run(attack())


def test_a_stopped_server_breaks_what_is_under_way_and_frees_its_port(world: World) -> None:
    async def attack() -> None:
        service, client = Talker(), world.client()
        server = Server(service, world.trust, world.source(SERVER), limits=QUICK)
        port = await server.start(HOST, 0)
        to = Address(node=SERVER.id, endpoint=Endpoint(host=HOST, port=port))
        call = asyncio.ensure_future(client.call(to, "wait", b"", timeout_s=10))
        await service.started.wait()
        await server.stop()
        assert service.ended.is_set()
        assert isinstance(await fails(call), Unreachable)
        assert isinstance(await fails(echo(client, to)), Unreachable)
        again = Server(service, world.trust, world.source(SERVER), limits=QUICK)
        assert await again.start(HOST, port) == port
        assert await echo(client, to) == b"alive"
        await client.close()
        await again.stop()

    run(attack())


def test_x6_a_stopped_server_does_not_wait_for_those_whom_it_has_refused(world: World) -> None:
    """A client that stays, and says no goodbye, after its connection was closed by the server."""

    async def attack() -> None:
        server = Server(Talker(), world.trust, world.source(SERVER), clock=world.clock, limits=QUICK)
        port = await server.start(HOST, 0)
        raw = await asyncio.to_thread(socket.create_connection, (HOST, port))
        tls = Tls(world.trust, world.source(CLIENT), world.clock).client(SERVER.id)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        talk = tls.wrap_bio(incoming, outgoing)

        def move(step: Callable[[], object]) -> object:
            while True:
                try:
                    done = step()
                    raw.sendall(outgoing.read())
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
                else:
                    return done

        with raw:
            await asyncio.to_thread(move, talk.do_handshake)
            await asyncio.to_thread(move, lambda: talk.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
            answer = await asyncio.to_thread(move, lambda: talk.read(65536))
            assert cast("bytes", answer).startswith(b"HTTP/1.1 400")
            async with asyncio.timeout(10):
                await server.stop()

    run(attack())


def test_both_ends_count_the_bytes_of_bodies_and_frames(world: World) -> None:
    async def attack() -> None:
        client = world.client()
        async with world.serving(Talker()) as (server, to):
            await echo(client, to, bytes(1000))
            async for _ in client.stream(to, "count", b"3 500", idle_s=10):
                pass
            assert (client.bytes_sent, client.bytes_received) == (1005, 2500)
            assert (server.bytes_received, server.bytes_sent) == (1005, 2500)
        await client.close()

    run(attack())
