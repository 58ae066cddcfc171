"""When this SN last heard of each node, by its own clock. In memory; begins anew with the process.

Does not: ask anybody, or say that a node which nothing was heard of is down.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Final

import msgspec

from swarmlearning.clock import WallClock
from swarmlearning.sn.application import Committed
from swarmlearning.transport.api import Call, Caller, Frame, Stream
from swarmlearning.types import NodeId

MAX_HEARD: Final = 8192
"""Most nodes that are remembered, those heard of last: an authority may name any number."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a node."""

    at_ms: int = 0
    """When it was last heard of; 0: never."""
    asked: bool = False
    """Whether it has asked this SN's API."""


class PresenceBook:
    """Remembers who asked and who signed."""

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self._heard: dict[NodeId, Heard] = {}

    def of(self, node: NodeId) -> Heard:
        """What is known of a node."""
        return self._heard.get(node, Heard())

    def note_request(self, node: NodeId, *, asked: bool) -> None:
        """A request of a node's came, whose certificate was verified: at the API (`asked`), or on the ledger's port."""
        known = self._heard.pop(node, Heard())
        self._heard[node] = Heard(at_ms=self._clock(), asked=asked or known.asked)
        if len(self._heard) > MAX_HEARD:
            del self._heard[next(iter(self._heard))]

    def note_block(self, block: Committed) -> None:
        """Transactions of nodes are in a block: each was alive when that was made, which may be long ago."""
        at_ms = min(block.time_ms, self._clock())
        for node in sorted(block.senders):
            known = self._heard.pop(node, Heard())
            self._heard[node] = Heard(at_ms=max(known.at_ms, at_ms), asked=known.asked)
            if len(self._heard) > MAX_HEARD:
                del self._heard[next(iter(self._heard))]

    def noting(self, calls: Mapping[str, Call], *, asked: bool) -> dict[str, Call]:
        """The same calls, each of which is noted when it comes."""
        return {method: self._noting(call, asked) for method, call in calls.items()}

    def _noting(self, call: Call, asked: bool) -> Call:
        async def noted(caller: Caller, body: bytes) -> bytes:
            self.note_request(caller.node, asked=asked)
            return await call(caller, body)

        return noted

    def noting_streams(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """The same streams of the API; a node is heard of when it begins one."""
        return {method: self._noting_stream(stream) for method, stream in streams.items()}

    def _noting_stream(self, stream: Stream) -> Stream:
        def noted(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
            self.note_request(caller.node, asked=True)
            return stream(caller, body)

        return noted
