"""The ABCI socket against whoever may connect to it (docs/spec/ledger-cometbft.md, section 1)."""

import asyncio
import contextlib
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cometbft_swarm import free_ports
from ledger_support import Died

from swarmlearning.errors import AddressInUse, Broken, ConfigurationError
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.framing import frame, read_frame
from swarmlearning.ledger.cometbft.server import MAX_CONNECTIONS, AbciServer

LIMIT_S = 10.0


class Served:
    """A server that echoes; `info` counts, a query fails as the test says."""

    def __init__(self, address: str) -> None:
        self.lives = 0
        self.answered: list[str] = []
        self.failures: list[BaseException] = []
        self.error: BaseException = Broken("the disk is gone")
        self.server = AbciServer(address, self._begin, self._answer, self.failures.append)

    def _begin(self) -> None:
        self.lives += 1

    def _answer(self, request: pb.Request) -> pb.Response:
        kind = str(request.WhichOneof("value"))
        self.answered.append(kind)
        if kind == "query":
            raise self.error
        if kind == "flush":
            return pb.Response(flush=pb.ResponseFlush())
        return pb.Response(echo=pb.ResponseEcho(message=request.echo.message))


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *requests: pb.Request) -> None:
        self.writer.write(b"".join(frame(request.SerializeToString()) for request in requests))

    async def receive(self) -> pb.Response | None:
        """The next answer, None if the connection ended."""
        try:
            data = await asyncio.wait_for(read_frame(self.reader), LIMIT_S)
        except ConnectionError:
            return None
        return None if data is None else pb.Response.FromString(data)


@contextlib.asynccontextmanager
async def served(control: Path) -> AsyncIterator[tuple[Served, Callable[[], Awaitable[Client]]]]:
    """A server on a Unix socket, and how to connect to it."""
    path = control / "abci" / "abci.sock"
    served = Served(f"unix://{path}")
    await served.server.start()
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_unix_connection(path)))
        return clients[-1]

    try:
        yield served, connect
    finally:
        for client in clients:
            client.writer.close()
        await served.server.stop()


def echo(message: str) -> pb.Request:
    return pb.Request(echo=pb.RequestEcho(message=message))


FLUSH = pb.Request(flush=pb.RequestFlush())


def test_b1_answers_come_in_the_order_of_the_requests_of_each_connection(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (it, connect):
            clients = [await connect() for _ in range(MAX_CONNECTIONS)]
            for number, client in enumerate(clients):
                client.send(*(echo(f"{number}.{i}") for i in range(50)), FLUSH)
            for number, client in enumerate(clients):
                for i in range(50):
                    answer = await client.receive()
                    assert answer is not None
                    assert answer.echo.message == f"{number}.{i}"
                last = await client.receive()
                assert last is not None
                assert last.WhichOneof("value") == "flush"
            assert it.lives == 1

    asyncio.run(work())


def test_b1_who_floods_one_connection_does_not_keep_the_others_waiting(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (it, connect):
            flooded, consensus = await connect(), await connect()
            for client in (flooded, consensus):
                client.send(echo("begin"))
                assert await client.receive() is not None
            flooded.send(*[FLUSH] * 5000)
            consensus.send(echo("block"))
            assert await consensus.receive() is not None
            assert it.answered.count("flush") < 1000

    asyncio.run(work())


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (frame(b"\xff\xff\xff"), "malformed"),
        (b"\xff" * 12, "length of more than"),
        (b"\xff\xff\xff\xff\x7f", "are accepted"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4, "malformed"),
    ],
)
def test_b2_garbage_is_answered_with_an_exception_and_ends_its_connection_alone(
    garbage: bytes, why: str, control: Path
) -> None:
    async def work() -> None:
        async with served(control) as (it, connect):
            bad, good = await connect(), await connect()
            bad.writer.write(garbage)
            answer = await bad.receive()
            assert answer is not None
            assert why in answer.exception.error
            assert await bad.receive() is None
            good.send(echo("well"))
            answer = await good.receive()
            assert answer is not None
            assert answer.echo.message == "well"
            assert not it.failures

    asyncio.run(work())


def test_b3_another_process_is_refused_while_one_is_connected(control: Path) -> None:
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(10)\n"
        "sys.stdout.buffer.write(s.recv(1000))"
    )

    async def work() -> None:
        async with served(control) as (it, connect):
            client = await connect()
            client.send(echo("first"))
            await client.receive()
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, str(control / "abci" / "abci.sock"), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await asyncio.wait_for(other.communicate(), LIMIT_S)
            assert b"may not connect: a CometBFT is connected already" in said
            client.send(echo("still"))
            answer = await client.receive()
            assert answer is not None
            assert answer.echo.message == "still"
            assert it.lives == 1

    asyncio.run(work())


def test_b3_a_fifth_connection_is_refused(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (_, connect):
            clients = [await connect() for _ in range(MAX_CONNECTIONS)]
            for client in clients:
                client.send(echo("hello"))
                await client.receive()
            answer = await (await connect()).receive()
            assert answer is not None
            assert "may not connect" in answer.exception.error

    asyncio.run(work())


def test_b3_a_new_life_begins_when_a_client_comes_to_an_idle_server(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (it, connect):
            for life in (1, 2):
                client = await connect()
                client.send(echo("hello"))
                await client.receive()
                assert it.lives == life
                client.writer.close()
                await client.writer.wait_closed()
                await asyncio.wait_for(it.server._idle.wait(), LIMIT_S)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Broken("the disk is gone"), "the disk is gone"),
        (ZeroDivisionError("a secret of the application"), "the application failed"),
        (Died("killed"), None),
    ],
)
def test_b6_after_a_failure_nobody_is_answered_any_more(error: BaseException, said: str | None, control: Path) -> None:
    async def work() -> None:
        async with served(control) as (it, connect):
            it.error = error
            first, other = await connect(), await connect()
            other.send(echo("before"))
            await other.receive()
            first.send(pb.Request(query=pb.RequestQuery(path="x")), echo("after"))
            answer = await first.receive()
            assert (answer.exception.error if answer is not None else None) == said
            assert await first.receive() is None
            assert await other.receive() is None
            assert it.failures == [error]
            assert it.answered == ["echo", "query"]

    asyncio.run(work())


def test_b3_the_socket_is_its_owners_alone(control: Path) -> None:
    async def work() -> None:
        (control / "abci").mkdir(mode=0o755)
        async with served(control):
            assert stat.S_IMODE((control / "abci").stat().st_mode) == 0o700
        assert not (control / "abci" / "abci.sock").exists()

    asyncio.run(work())


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:26658", "tcp://192.0.2.1:26658", "tcp://127.0.0.1", "http://127.0.0.1:1", "unix://", "abci.sock"],
)
def test_b3_an_address_that_others_could_reach_or_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="must not be reachable from elsewhere"):
        Served(address)


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="choose a shorter one"):
        Served(f"unix:///tmp/{'x' * 100}")


def test_a_port_that_is_taken_is_said_to_be() -> None:
    async def work() -> None:
        [port] = free_ports(1)
        first, second = Served(f"tcp://127.0.0.1:{port}"), Served(f"tcp://127.0.0.1:{port}")
        await first.server.start()
        try:
            with pytest.raises(AddressInUse, match="name another ABCI address"):
                await second.server.start()
        finally:
            await first.server.stop()
            await second.server.stop()

    asyncio.run(work())


def test_a_socket_that_a_killed_process_left_does_not_stop_the_next(control: Path) -> None:
    async def work() -> None:
        async with served(control):
            # As if it had not been closed: only its file is there.
            (control / "abci" / "abci.sock").rename(control / "kept")
        (control / "kept").rename(control / "abci" / "abci.sock")
        async with served(control) as (_, connect):
            client = await connect()
            client.send(echo("hello"))
            assert await client.receive() is not None

    asyncio.run(work())
