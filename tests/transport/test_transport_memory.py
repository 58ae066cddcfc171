"""What the in-memory transport adds for the simulator: faults, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from transport_world import CLIENT, SERVER, Talker

from swarmlearning.errors import AddressInUse, Refused, Unreachable
from swarmlearning.transport.api import Address, Client, Frame
from swarmlearning.transport.memory import MemoryNetwork, NoFaults
from swarmlearning.types import Endpoint, NodeId

TO = Address(node=SERVER.id, endpoint=Endpoint(host="a", port=30304))


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing else is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]  # asyncio offers no other way to skip a wait
        scheduled = self._scheduled  # type: ignore[attr-defined]
        waits = [handle.when() for handle in scheduled if not handle.cancelled()]
        if not ready and waits:
            self.now = max(self.now, min(waits))
        super()._run_once()  # type: ignore[misc]


def simulate(
    faults: NoFaults, conversation: Callable[[Client, MemoryNetwork, Talker], Awaitable[None]]
) -> MemoryNetwork:
    async def main() -> MemoryNetwork:
        network, service = MemoryNetwork(faults), Talker()
        network.serve(SERVER, TO.endpoint, service)
        await conversation(network.client(CLIENT), network, service)
        network.stop(SERVER)
        return network

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class Delay(NoFaults):
    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        assert (frm, to) == (CLIENT.id, SERVER.id)
        await asyncio.sleep(100)
        return body

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        assert (frm, to) == (SERVER.id, CLIENT.id)
        await asyncio.sleep(1000)
        return frame


def test_delays_pass_in_virtual_time_each_way() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        assert await client.call(TO, "echo", b"x", timeout_s=5000) == b"x"
        assert now() == 1100
        with pytest.raises(Unreachable):
            await client.call(TO, "echo", b"x", timeout_s=1099)
        assert now() == 2199

    simulate(Delay(), conversation)


def test_an_idle_limit_counts_from_frame_to_frame() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        got = [bytes(frame) async for frame in client.stream(TO, "count", b"5 1", idle_s=1001)]
        assert (len(got), now()) == (5, 5100)

    simulate(Delay(), conversation)


class LoseRequests(NoFaults):
    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        return None


def test_a_lost_request_reaches_nobody_and_the_client_waits_out_its_limit() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        with pytest.raises(Unreachable, match="no reply to wait within 7 s"):
            await client.call(TO, "wait", b"", timeout_s=7)
        assert now() == 7
        assert not service.started.is_set()

    simulate(LoseRequests(), conversation)


def test_a_lost_reply_does_not_undo_what_the_server_did() -> None:
    class Count(Talker):
        served = 0

        async def echo(self, caller: object, body: bytes) -> bytes:
            self.served += 1
            return body

    async def main() -> int:
        network, service = MemoryNetwork(LoseFrames(0)), Count()
        network.serve(SERVER, TO.endpoint, service)
        with pytest.raises(Unreachable):
            await network.client(CLIENT).call(TO, "echo", b"", timeout_s=7)
        return service.served

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == 1


class LoseFrames(NoFaults):
    """Loses the piece with this index, and with it all later ones."""

    def __init__(self, index: int) -> None:
        self.index = index

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        return None if index == self.index else frame


def test_a_lost_frame_stalls_its_stream() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        stream = client.stream(TO, "count", b"9 1", idle_s=3)
        assert [bytes(await anext(stream)) for _ in range(2)] == [b"\x00", b"\x01"]
        with pytest.raises(Unreachable):
            await anext(stream)
        assert now() == 3

    simulate(LoseFrames(2), conversation)


class Partition(NoFaults):
    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        raise Unreachable("partitioned")


def test_a_partition_is_felt_at_once() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        with pytest.raises(Unreachable, match="partitioned"):
            await client.call(TO, "wait", b"", timeout_s=7)
        assert (now(), service.started.is_set()) == (0, False)

    simulate(Partition(), conversation)


class Corrupt(NoFaults):
    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        return body + b"?"

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        return bytes(frame) + b"!"


def test_corrupted_bytes_arrive_corrupted() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        assert await client.call(TO, "echo", b"x", timeout_s=1) == b"x?!"

    simulate(Corrupt(), conversation)


def test_a_request_can_be_delivered_twice() -> None:
    class Duplicate(NoFaults):
        network: MemoryNetwork

        def __init__(self) -> None:
            self.delivered: list[object] = []

        async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
            self.delivered.append(await self.network.deliver(CLIENT, TO, method, body))
            return body

    faults = Duplicate()

    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        faults.network = network
        assert await client.call(TO, "echo", b"x", timeout_s=1) == b"x"
        assert faults.delivered == [b"x"]

    simulate(faults, conversation)


def test_a_stopped_node_breaks_its_calls_and_streams_and_may_come_back() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        call = asyncio.ensure_future(client.call(TO, "wait", b"", timeout_s=100))
        stream = client.stream(TO, "wait", b"", idle_s=100)
        assert bytes(await anext(stream)) == b"first"
        await service.started.wait()
        network.stop(SERVER)
        with pytest.raises(Unreachable, match="broke"):
            await call
        with pytest.raises(Unreachable, match="broke"):
            await anext(stream)
        with pytest.raises(Unreachable, match="refused"):
            await client.call(TO, "echo", b"", timeout_s=1)
        network.serve(SERVER, TO.endpoint, service)
        assert await client.call(TO, "echo", b"back", timeout_s=1) == b"back"
        assert (now(), service.ended.is_set()) == (0, True)

    simulate(NoFaults(), conversation)


def test_an_address_serves_one_node_at_a_time() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        with pytest.raises(AddressInUse):
            network.serve(CLIENT, TO.endpoint, service)

    simulate(NoFaults(), conversation)


def test_a_simulation_can_ask_for_the_bugs_that_clients_are_not_told_of() -> None:
    async def conversation(client: Client, network: MemoryNetwork, service: Talker) -> None:
        with pytest.raises(Refused):
            await client.call(TO, "crash", b"", timeout_s=1)
        with pytest.raises(Refused):
            assert [bytes(frame) async for frame in client.stream(TO, "crash", b"", idle_s=1)]

    network = simulate(NoFaults(), conversation)
    assert [type(error) for error in network.failures] == [ZeroDivisionError, ZeroDivisionError]
