"""`GET /v1/events`: server-sent events (WHATWG HTML, section 9.2) from the hub to one client. Spec: CI-29."""

from collections import Counter
from typing import Final

import msgspec
from aiohttp import web

from swarmlearning.errors import ConfigurationError, Refused
from swarmlearning.swci.web.hub import Hub
from swarmlearning.swci.web.problems import WebRefusal
from swarmlearning.swci.web.wire import EVENT_NAMES, Changed, Ended, Event, Gap, Silent
from swarmlearning.transport.answering import Connection
from swarmlearning.transport.sending import within_stall
from swarmlearning.types import NodeId

KEEPALIVE_S: Final = 15.0
"""A comment at least this often, seconds."""

MAX_STREAMS: Final = 4
"""Of one caller at a time."""

RETRY_MS: Final = 3000
"""After which pause a browser's EventSource comes back."""

_MAX_ID_CHARS: Final = 18


class Events:
    """Serves the streams of events."""

    def __init__(self, hub: Hub, *, stall_s: float, keepalive_s: float = KEEPALIVE_S, most: int = MAX_STREAMS) -> None:
        self._hub = hub
        self._stall_s = stall_s
        self._keepalive_s = keepalive_s
        self._most = most
        self._streams: Counter[NodeId] = Counter()

    async def serve(
        self, request: web.BaseRequest, connection: Connection, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Tell one client what changes until it leaves, it may listen no more, or the service stops.

        Raises:
            WebRefusal: it has too many streams.
            ConfigurationError: its `Last-Event-ID` is none of ours.
            Hangup: it takes nothing, or left.
        """
        after = _last_event(request)
        caller = connection.peer.node
        if self._streams[caller] >= self._most:
            raise WebRefusal(429, "busy", f"{self._most} streams of events of yours are open; close one")
        self._streams[caller] += 1
        try:
            return await self._stream(request, connection, after, headers)
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]

    async def _stream(
        self, request: web.BaseRequest, connection: Connection, after: int | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        response.force_close()  # whoever has watched enough closes; a connection is not kept for that
        await response.prepare(request)
        await within_stall(response.write(b"retry: %d\n\n" % RETRY_MS), self._stall_s)
        with self._hub.listen(after) as listener:
            ended = False
            while not ended:
                events = await listener.take(self._keepalive_s)
                try:
                    connection.recheck()
                except Refused as error:
                    events = [Ended(reason=str(error))]
                ended = any(isinstance(event, Ended) for event in events)
                data = b"".join(map(encode_event, events)) or b":\n\n"
                await within_stall(response.write(data), self._stall_s)
        await within_stall(response.write_eof(), self._stall_s)
        return response


def encode_event(event: Event) -> bytes:
    """An event as it is sent."""
    height = b"id: %d\n" % event.height if isinstance(event, Changed | Gap | Silent) else b""
    name = EVENT_NAMES[type(event)].encode()
    return height + b"event: " + name + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _last_event(request: web.BaseRequest) -> int | None:
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return None
    if len(text) > _MAX_ID_CHARS or not text.isascii() or not text.isdigit():
        raise ConfigurationError(f"Last-Event-ID {text[:40]!r}: expected the id of an event, a whole number")
    return int(text)
