"""The in-memory twin of the network: same seam, limits and errors, no sockets, threads or wall-clock time.

All waiting goes through the event loop, so that a loop with virtual time runs it deterministically. `Faults` sees
every request and every piece that comes back, and may delay, lose, change or refuse it. Spec: docs/spec/transport.md.

Does not: check certificates (a client *is* the node it was made for), or emulate bandwidth.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any, Final, NoReturn, Protocol, TypeVar

from swarmlearning.errors import AddressInUse, Broken, Closed, SwarmError, Unreachable, VerificationError
from swarmlearning.transport.api import Address, Caller, Client, Frame, Service, Stream
from swarmlearning.transport.wire import (
    OK,
    Failure,
    check_frame,
    check_reply,
    check_request,
    failure_of,
    internal_failure,
    refusal,
    unknown_method,
)
from swarmlearning.types import Endpoint, NodeId, NodeName

T = TypeVar("T")

_LOG: Final = logging.getLogger("swarmlearning.transport")


class Faults(Protocol):
    """What may go wrong on the way. Both hooks may delay by awaiting, or raise `Unreachable`: the connection breaks."""

    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        """Return the body that `to` sees; None: the request is lost, and `frm` waits until its own limit."""
        ...

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        """Return what `to` sees of the piece that `frm`, the server, sends back; None: it and all later ones are lost.

        A call's reply is the piece with index 0. A lost reply does not undo what the server did.
        """
        ...


class NoFaults:
    """A network on which nothing goes wrong."""

    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        """Deliver the request as it is."""
        del frm, to, method
        return body

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        """Deliver the piece as it is."""
        del frm, to, method, index
        return frame


class _Host:
    """A serving node: its service and the tasks that handle its requests, which end with it."""

    def __init__(self, node: NodeName, service: Service) -> None:
        self.node = node
        self.service = service
        self.tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class MemoryNetwork:
    """Nodes that reach each other within one event loop.

    Attributes:
        failures: exceptions other than `SwarmError` that handlers raised. The client learns only that something
            failed, as over the network; a simulation must end with none here.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults: Faults = faults or NoFaults()
        self.failures: list[Exception] = []
        self._hosts: dict[Endpoint, _Host] = {}

    def client(self, node: NodeName) -> Client:
        """A client that asks as `node`."""
        return _MemoryClient(self, node)

    def serve(self, node: NodeName, endpoint: Endpoint, service: Service) -> None:
        """Serve `service` as `node` at `endpoint`, until `stop`.

        Raises:
            AddressInUse: another node serves there.
        """
        if endpoint in self._hosts:
            raise AddressInUse(f"{endpoint} is taken by {self._hosts[endpoint].node.id}; choose another port")
        self._hosts[endpoint] = _Host(node, service)

    def stop(self, node: NodeName) -> None:
        """Stop serving as `node` at once: its handlers are cancelled and its clients lose their connections."""
        for endpoint, host in list(self._hosts.items()):
            if host.node == node:
                del self._hosts[endpoint]
                for task in list(host.tasks):
                    task.cancel()

    async def deliver(self, frm: NodeName, to: Address, method: str, body: bytes) -> bytes | Failure:
        """Hand a call to `to` without passing `faults`, so that these can deliver a request twice.

        Raises:
            Unreachable: nobody serves there, or it stops before it has answered.
            VerificationError: another node serves there.
        """
        host = self.find(to)
        task = host.start(self._handle(host, frm, method, body))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()  # the client hung up: its handler ends, as on the network (nothing happens to a done task)
        if task.cancelled():
            raise _lost(to)
        outcome: bytes | Failure = task.result()
        return outcome

    def find(self, to: Address) -> _Host:
        """Who serves as `to`.

        Raises:
            Unreachable: nobody serves there.
            VerificationError: another node serves there.
        """
        host = self._hosts.get(to.endpoint)
        if host is None:
            raise Unreachable(f"{to.node} at {to.endpoint} refused the connection: is it running?")
        if host.node.id != to.node:
            raise VerificationError(f"expected {to.node} at {to.endpoint}, but {host.node.id} answers there")
        return host

    def produce(self, frm: NodeName, to: Address, method: str, body: bytes, pipe: "Pipe") -> asyncio.Task[None]:
        """Start the stream `method` of `to` into `pipe`; cancelling the task hangs up.

        Raises:
            Unreachable: nobody serves there.
            VerificationError: another node serves there.
        """
        host = self.find(to)
        task = host.start(self._produce(host, frm, method, body, pipe))
        # A task cancelled before it ran has not ended its pipe.
        task.add_done_callback(lambda _: pipe.end(None))
        return task

    async def _handle(self, host: _Host, frm: NodeName, method: str, body: bytes) -> bytes | Failure:
        try:
            handler = host.service.calls.get(method)
            if handler is None:
                raise unknown_method(host.node.id, method, "call")
            return check_reply(method, await handler(Caller(node=frm.id, name=frm), body))
        except SwarmError as error:
            return failure_of(error)
        except Exception as error:  # noqa: BLE001 - a task boundary: one handler's bug must not end the node
            return self._failed(host, method, error)

    async def _produce(self, host: _Host, frm: NodeName, method: str, body: bytes, pipe: "Pipe") -> None:
        frames: AsyncIterator[Frame] | None = None
        try:
            handler: Stream | None = host.service.streams.get(method)
            if handler is None:
                raise unknown_method(host.node.id, method, "stream")
            frames = handler(Caller(node=frm.id, name=frm), body)
            async for frame in frames:
                # A copy, because the handler may use its buffer again once it is resumed.
                await pipe.put(bytes(check_frame(method, frame)))
            pipe.end(OK)
        except SwarmError as error:
            pipe.end(failure_of(error))
        except Exception as error:  # noqa: BLE001 - a task boundary, as above
            pipe.end(self._failed(host, method, error))
        finally:
            pipe.end(None)
            aclose = getattr(frames, "aclose", None)
            if aclose is not None:
                await aclose()

    def _failed(self, host: _Host, method: str, error: Exception) -> Failure:
        _LOG.error("%s: %s failed", host.node.id, method, exc_info=error)
        self.failures.append(error)
        return internal_failure(host.node.id, method)


class Pipe:
    """Carries frames from a handler to a client; the handler runs at most one frame ahead."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[bytes | Failure | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)
        self._ended = False

    async def put(self, frame: bytes) -> None:
        """Hand over a frame; waits until the one before it has been taken."""
        await self._room.acquire()
        self._items.put_nowait(frame)

    def end(self, how: Failure | None) -> None:
        """The last item: how the handler ended, None if its node stopped. Only the first end counts."""
        if not self._ended:
            self._ended = True
            self._items.put_nowait(how)

    async def get(self) -> bytes | Failure | None:
        """Wait for the next item."""
        item = await self._items.get()
        self._room.release()
        return item


class _MemoryClient:
    """A `Client` on a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, node: NodeName) -> None:
        self._network = network
        self._node = node
        self._closed = False

    async def call(self, to: Address, method: str, body: bytes, *, timeout_s: float) -> bytes:
        """See `Client.call`."""
        self._check(to, method, body)
        return await _within(timeout_s, to, f"reply to {method}", self._call(to, method, body))

    async def _call(self, to: Address, method: str, body: bytes) -> bytes:
        self._network.find(to)
        sent = await self._network.faults.on_request(self._node.id, to.node, method, body)
        if sent is None:
            await _forever()
        outcome = await self._network.deliver(self._node, to, method, sent)
        if isinstance(outcome, Failure):
            raise refusal(outcome)
        reply = await self._network.faults.on_frame(to.node, self._node.id, method, 0, outcome)
        if reply is None:
            await _forever()
        return bytes(reply)

    async def stream(
        self, to: Address, method: str, body: bytes, *, idle_s: float, expect: int | None = None
    ) -> AsyncIterator[memoryview]:
        """See `Client.stream`."""
        del expect  # there are no connections to be saved
        self._check(to, method, body)
        pipe = Pipe()
        what = f"frame of {method}"
        task = await _within(idle_s, to, what, self._open(to, method, body, pipe))
        try:
            index = 0
            while (frame := await _within(idle_s, to, what, self._next(to, method, index, pipe))) is not None:
                yield memoryview(frame)
                index += 1
        finally:
            task.cancel()

    async def _open(self, to: Address, method: str, body: bytes, pipe: Pipe) -> asyncio.Task[None]:
        self._network.find(to)
        sent = await self._network.faults.on_request(self._node.id, to.node, method, body)
        if sent is None:
            await _forever()
        return self._network.produce(self._node, to, method, sent, pipe)

    async def _next(self, to: Address, method: str, index: int, pipe: Pipe) -> Frame | None:
        item = await pipe.get()
        if item is None:
            raise _lost(to)
        if isinstance(item, Failure):
            if item == OK:
                return None
            raise refusal(item)
        frame = await self._network.faults.on_frame(to.node, self._node.id, method, index, item)
        if frame is None:
            await _forever()
        return frame

    async def close(self) -> None:
        """See `Client.close`."""
        self._closed = True

    def _check(self, to: Address, method: str, body: bytes) -> None:
        if self._closed:
            raise Closed("this client was closed")
        check_request(to, method, body)


async def _within(limit_s: float, to: Address, what: str, work: Awaitable[T]) -> T:
    """Await `work` for at most `limit_s` seconds of the loop's time."""
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise Unreachable(f"{to.node} at {to.endpoint}: no {what} within {limit_s:g} s") from error


async def _forever() -> NoReturn:
    """Wait for what was lost; the caller's limit ends it."""
    await asyncio.get_running_loop().create_future()
    raise Broken("a lost message arrived")


def _lost(to: Address) -> Unreachable:
    return Unreachable(f"{to.node} at {to.endpoint}: the connection broke")
