"""What a node answers other SN nodes about the ledger. Spec: docs/spec/ledger.md, section 5.

Does not: answer anyone who is no SN of this network, or serve a block that is not durable here.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Closed, ForkDetected, Refused, WaitExpired
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.wire import (
    BLOCKS,
    HANDOVERS,
    HEADER,
    MAX_REPLY_BLOCK_BYTES,
    NOT_SENTINEL,
    SUBMIT,
    BlocksReply,
    BlocksRequest,
    HandoversReply,
    HandoversRequest,
    HeaderReply,
    HeaderRequest,
    SubmitReply,
    SubmitRequest,
)
from swarmlearning.ledger.waiting import Outcome
from swarmlearning.transport.api import Call, Caller
from swarmlearning.types import NodeId, Role

MAX_WAITING: Final[Mapping[str, int]] = {BLOCKS: 8, SUBMIT: 512, HEADER: 8, HANDOVERS: 8}
"""Most requests of one node that this node works on at a time, by method."""

_SMALL_BYTES: Final = 256
_REPLY_BLOCKS: Final = 4096

Submit = Callable[[bytes, float], Awaitable[Outcome]]


class LedgerService:
    """The ledger's calls.

    Args:
        config: who and where.
        chain: what is served.
        submit: orders a transaction; None on a node that does not order.
    """

    def __init__(self, config: EmbeddedConfig, chain: Chain, submit: Submit | None) -> None:
        self._config = config
        self._chain = chain
        self._submit = submit
        self._busy: Counter[tuple[str, NodeId]] = Counter()

    @property
    def calls(self) -> Mapping[str, Call]:
        """Handlers by method."""
        return {
            BLOCKS: self._answer_blocks,
            SUBMIT: self._answer_submit,
            HEADER: self._answer_header,
            HANDOVERS: self._answer_handovers,
        }

    async def _answer_blocks(self, caller: Caller, body: bytes) -> bytes:
        with self._admitted(BLOCKS, caller):
            request = decode(body, BlocksRequest, limit=_SMALL_BYTES)
            self._chain.waiting.check_running()
            # Who asks for more than the next block learns at once that we are behind.
            if request.from_height == self._chain.height + 1 and request.wait_ms:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(request.wait_ms / 1000):
                        await self._chain.wait_height(self._chain.height)
            return encode(BlocksReply(height=self._chain.height, blocks=self._collect(request.from_height)))

    def _collect(self, from_height: int) -> tuple[bytes, ...]:
        blocks: list[bytes] = []
        size = 0
        for height in range(from_height, min(self._chain.height, from_height + _REPLY_BLOCKS) + 1):
            encoded = self._chain.read_encoded(height)
            if encoded is None:
                break
            size += len(encoded) + 5  # its length prefix
            if blocks and size > MAX_REPLY_BLOCK_BYTES:
                break
            blocks.append(encoded)
        return tuple(blocks)

    async def _answer_submit(self, caller: Caller, body: bytes) -> bytes:
        with self._admitted(SUBMIT, caller):
            if self._submit is None:
                sentinel = self._chain.reigns.current.sentinel
                raise Refused(
                    f"{self._config.node} does not order transactions; ask the sentinel {sentinel}", code=NOT_SENTINEL
                )
            request = decode(body, SubmitRequest, limit=self._config.max_tx_bytes + _SMALL_BYTES)
            try:
                height, result = await self._submit(request.tx, request.wait_ms / 1000)
            except WaitExpired:
                return encode(SubmitReply(height=0, result=None))
            return encode(SubmitReply(height=height, result=result))

    async def _answer_header(self, caller: Caller, body: bytes) -> bytes:
        with self._admitted(HEADER, caller):
            request = decode(body, HeaderRequest, limit=_SMALL_BYTES)
            halted = self._chain.waiting.halted
            # A node that stopped because of a fork goes on telling why.
            if halted is not None and not isinstance(halted, ForkDetected):
                raise halted
            block = self._chain.read(min(request.height, self._chain.height))
            evidence = self._chain.store.load_evidence() if halted is not None else None
            return encode(HeaderReply(header=None if block is None else block.signed_header, evidence=evidence))

    async def _answer_handovers(self, caller: Caller, body: bytes) -> bytes:
        with self._admitted(HANDOVERS, caller):
            request = decode(body, HandoversRequest, limit=_SMALL_BYTES)
            found: list[bytes] = []
            size = 0
            for epoch, signed in self._chain.reigning.handovers.items():
                if epoch <= request.above:
                    continue
                encoded = encode(signed)
                size += len(encoded) + 5  # its length prefix
                if found and size > MAX_REPLY_BLOCK_BYTES:
                    break
                found.append(encoded)
            return encode(HandoversReply(height=self._chain.height, handovers=tuple(found)))

    @contextlib.contextmanager
    def _admitted(self, method: str, caller: Caller) -> Iterator[None]:
        """Let a caller in if it is an SN of this network and has not too many requests here already."""
        if caller.name.role is not Role.SN or caller.name.network != self._config.network:
            raise Refused(
                f"{method}: only SN nodes of network {self._config.network} may ask; {caller.node} is none",
                code="not-allowed",
            )
        if not self._chain.is_open:
            raise Closed(f"{self._config.node} is starting or stopping; try again")
        key = (method, caller.node)
        if self._busy[key] >= MAX_WAITING[method]:
            raise Refused(f"{method}: {self._busy[key]} requests of {caller.node} wait here already", code="busy")
        self._busy[key] += 1
        try:
            yield
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]
