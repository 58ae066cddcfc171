"""What a transition may know besides state and message, and how it says no."""

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from swarmlearning.types import Code, NodeId, NodeName

MAX_LOG: Final = 1000
"""Longest log of a refused message, characters."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The block and the sender, all of it agreed upon."""

    height: int
    time_ms: int
    """Block time, milliseconds since the epoch: certificates are judged by it."""
    elapsed_ms: int
    """`BlockTime.elapsed_ms` at this block: deadlines are judged by it."""
    previous_hash: bytes
    """Hash of the previous block: draws start from it."""
    sentinel: NodeId = NodeId("")
    """Who orders this block; empty where validators do, and while nobody knows yet (TX-9)."""
    sender: NodeId
    name: NodeName
    """`sender`, parsed."""
    caller: NodeId = NodeId("")
    """On whose behalf, as the sender claims; empty for itself."""


class Rejected(Exception):
    """The message cannot be carried out; nothing changes. Becomes the transaction's result code and log."""

    def __init__(self, code: Code, log: str) -> None:
        # TX-15: the log may quote what a stranger sent: one line, and short.
        self.log = "".join("?" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in log[:MAX_LOG])
        self.code = code
        super().__init__(self.log)


class State(Protocol):
    """Key-value state as transitions see it; writes go to an overlay that the caller keeps or discards."""

    def get(self, key: str) -> bytes | None:
        """Value under `key`, or None."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Set `key`."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key` if it is there."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, in order."""
        ...
