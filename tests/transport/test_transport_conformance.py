"""What every transport promises, run over each of them (docs/spec/transport.md)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import cast

import pytest
from transport_world import CLIENT, A, Talker, World, node, over_memory, over_tls

from swarmlearning.errors import Broken, Closed, NotYetAvailable, Refused, Unreachable, VerificationError
from swarmlearning.transport.api import MAX_BODY_BYTES, MAX_FRAME_BYTES, Address, Client
from swarmlearning.types import Endpoint

Connect = Callable[[World, Talker], AbstractAsyncContextManager[tuple[Client, Address]]]


@pytest.fixture(params=[over_memory, over_tls], ids=["memory", "tls"])
def connect(request: pytest.FixtureRequest) -> Connect:
    return cast("Connect", request.param)


def talk(connect: Connect, world: World, conversation: Callable[[Client, Address, Talker], Awaitable[None]]) -> None:
    async def main() -> None:
        service = Talker()
        async with asyncio.timeout(20), connect(world, service) as (client, address):
            await conversation(client, address, service)

    asyncio.run(main())


async def frames_of(stream: AsyncIterator[memoryview]) -> list[bytes]:
    return [bytes(frame) async for frame in stream]


def hang_up(stream: AsyncIterator[memoryview]) -> aclosing[AsyncGenerator[memoryview, None]]:
    return aclosing(cast("AsyncGenerator[memoryview, None]", stream))


@pytest.mark.parametrize("size", [0, 1, 70_000, MAX_BODY_BYTES])
def test_x1_a_call_carries_request_and_reply_of_any_allowed_size(connect: Connect, world: World, size: int) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert await client.call(to, "echo", body, timeout_s=10) == body

    talk(connect, world, conversation)


def test_x2_the_handler_learns_the_verified_identity_of_its_caller(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        assert await client.call(to, "who", b"", timeout_s=10) == CLIENT.id.encode()

    talk(connect, world, conversation)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (300, 3), (40, 100_000), (2, MAX_FRAME_BYTES)])
def test_x3_a_stream_carries_frames_in_order_and_ends(connect: Connect, world: World, count: int, size: int) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        got = await frames_of(client.stream(to, "count", f"{count} {size}".encode(), idle_s=10))
        assert got == [bytes([index % 256]) * size for index in range(count)]

    talk(connect, world, conversation)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (300, 3), (10, 100_000)])
def test_x3_a_short_stream_may_come_as_a_whole(connect: Connect, world: World, count: int, size: int) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        got = await frames_of(client.stream(to, "count", f"{count} {size}".encode(), idle_s=10, expect=1000))
        assert got == [bytes([index % 256]) * size for index in range(count)]
        assert await frames_of(client.stream(to, "reuse", b"", idle_s=10, expect=1000))

    talk(connect, world, conversation)


def test_x5_a_stream_that_comes_as_a_whole_may_fail_too(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        stream = client.stream(to, "refuse", b"", idle_s=10, expect=1000)
        assert bytes(await anext(stream)) == b"first"
        with pytest.raises(Refused) as refused:
            await anext(stream)
        assert (str(refused.value), refused.value.code) == ("no more", "enough")

    talk(connect, world, conversation)


def test_x3_a_handler_may_reuse_its_buffer_between_frames(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        got = await frames_of(client.stream(to, "reuse", b"", idle_s=10))
        assert got == [bytes([index]) * 1000 for index in range(20)]

    talk(connect, world, conversation)


def test_x4_a_larger_body_is_refused_before_it_is_sent(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        with pytest.raises(Refused) as refused:
            await client.call(to, "echo", bytes(MAX_BODY_BYTES + 1), timeout_s=10)
        assert refused.value.code == "too-large"

    talk(connect, world, conversation)


def test_x4_a_handlers_oversize_reply_and_frame_are_its_own_bugs(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        with pytest.raises(Refused, match="1048577 bytes"):
            await client.call(to, "oversize", b"", timeout_s=10)
        with pytest.raises(Refused, match="8388609"):
            await frames_of(client.stream(to, "oversize", b"", idle_s=10))

    talk(connect, world, conversation)


def test_x5_a_handlers_refusal_arrives_with_its_message_and_code(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        with pytest.raises(Refused) as refused:
            await client.call(to, "refuse", b"", timeout_s=10)
        assert (str(refused.value), refused.value.code) == ("not today", "closed-on-mondays")

    talk(connect, world, conversation)


def test_x5_other_errors_arrive_as_refusals_with_their_class_as_code(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        with pytest.raises(Refused) as refused:
            await client.call(to, "doubt", b"", timeout_s=10)
        assert (str(refused.value), refused.value.code) == ("the hash does not hold", "VerificationError")

    talk(connect, world, conversation)


def test_x5_a_stream_may_fail_between_frames(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        stream = client.stream(to, "refuse", b"", idle_s=10)
        assert bytes(await anext(stream)) == b"first"
        with pytest.raises(Refused) as refused:
            await anext(stream)
        assert (str(refused.value), refused.value.code) == ("no more", "enough")

    talk(connect, world, conversation)


def test_x5_a_bug_in_a_handler_tells_the_client_nothing_and_is_logged(
    connect: Connect, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        for attempt in (
            client.call(to, "crash", b"", timeout_s=10),
            frames_of(client.stream(to, "crash", b"", idle_s=10)),
        ):
            caplog.clear()
            with pytest.raises(Refused) as refused:
                await cast("Awaitable[object]", attempt)
            assert refused.value.code == "internal"
            assert "secret" not in str(refused.value)
            assert [record.exc_info is not None for record in caplog.records] == [True]
        assert await client.call(to, "echo", b"alive", timeout_s=10) == b"alive"

    talk(connect, world, conversation)


def test_x5_an_unknown_method_is_refused_and_a_call_is_no_stream(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        for attempt in (
            client.call(to, "nothing", b"", timeout_s=10),
            client.call(to, "count", b"", timeout_s=10),
            frames_of(client.stream(to, "echo", b"", idle_s=10)),
        ):
            with pytest.raises(Refused) as refused:
                await cast("Awaitable[object]", attempt)
            assert refused.value.code == "unknown-method"
            # A frequent mistake is the other port of the right node.
            assert "the right port of that node (SN: P2P 30303, API 30304; SL: 30305)?" in str(refused.value)

    talk(connect, world, conversation)


def test_x6_a_call_ends_after_its_time_and_so_does_its_handler(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        await client.call(to, "echo", b"", timeout_s=10)  # connects
        with pytest.raises(Unreachable, match=r"no reply to wait within 0\.7 s"):
            await client.call(to, "wait", b"", timeout_s=0.7)
        await service.ended.wait()

    talk(connect, world, conversation)


def test_x6_a_silent_stream_ends_after_its_idle_time_and_so_does_its_handler(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        stream = client.stream(to, "wait", b"", idle_s=1)
        assert bytes(await anext(stream)) == b"first"
        with pytest.raises(Unreachable, match=r"no frame of wait within 1 s"):
            await anext(stream)
        await service.ended.wait()

    talk(connect, world, conversation)


def test_x6_hanging_up_ends_the_handler(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        async with hang_up(client.stream(to, "wait", b"", idle_s=10)) as stream:
            assert bytes(await anext(stream)) == b"first"
            await service.started.wait()
        await service.ended.wait()

    talk(connect, world, conversation)


def test_x6_a_stream_runs_no_further_ahead_than_its_client_takes(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        async with hang_up(client.stream(to, "endless", b"", idle_s=10)) as stream:
            for _ in range(3):
                await anext(stream)
            # An echo on another connection shows that the server had its chance to run on.
            for _ in range(20):
                await client.call(to, "echo", b"", timeout_s=10)
            ahead = service.produced - 3
        assert ahead < 30  # what the kernel's buffers hold, in frames of 1 MiB

    talk(connect, world, conversation)


def test_x9_a_server_that_is_another_node_gets_no_request(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        other = Address(node=node(A, name="other").id, endpoint=to.endpoint)
        with pytest.raises(VerificationError) as error:
            await client.call(other, "wait", b"", timeout_s=10)
        assert to.node in str(error.value)
        assert other.node in str(error.value)
        with pytest.raises(VerificationError):
            await frames_of(client.stream(other, "wait", b"", idle_s=10))
        assert not service.started.is_set()

    talk(connect, world, conversation)


def test_x9_nobody_at_the_address_is_unreachable_and_says_so(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        nobody = Address(node=to.node, endpoint=Endpoint(host=to.endpoint.host, port=1))
        with pytest.raises(Unreachable, match=r"refused.*running"):
            await client.call(nobody, "echo", b"", timeout_s=10)
        with pytest.raises(Unreachable, match=r"refused.*running"):
            await frames_of(client.stream(nobody, "count", b"1 1", idle_s=10))

    talk(connect, world, conversation)


def test_x9_an_endpoint_behind_an_sn_arrives_later(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        behind = Address(node=to.node, endpoint=Endpoint(host="a", port=1, via="spiffe://a.example/net/sn/gate"))
        with pytest.raises(NotYetAvailable, match="later release"):
            await client.call(behind, "echo", b"", timeout_s=10)

    talk(connect, world, conversation)


def test_a_malformed_method_name_is_our_own_bug(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        for method in ("", "Echo", "../echo", "a//b", "a" * 129, "e cho"):
            with pytest.raises(Broken):
                await client.call(to, method, b"", timeout_s=10)

    talk(connect, world, conversation)


def test_a_closed_client_says_so(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        await client.close()
        with pytest.raises(Closed):
            await client.call(to, "echo", b"", timeout_s=10)
        with pytest.raises(Closed):
            await frames_of(client.stream(to, "count", b"1 1", idle_s=10))

    talk(connect, world, conversation)


def test_many_requests_at_once_do_not_mix(connect: Connect, world: World) -> None:
    async def conversation(client: Client, to: Address, service: Talker) -> None:
        bodies = [str(index).encode() * 50 for index in range(30)]
        got = await asyncio.gather(*(client.call(to, "echo", body, timeout_s=10) for body in bodies))
        assert got == bodies

    talk(connect, world, conversation)
