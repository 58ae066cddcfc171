"""A sentinel's SN with the real engine and contracts on it, on one loop: for exports and proofs."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Self

from chain_world import (
    NETWORK,
    START_MS,
    authority,
    certificate,
    genesis_of,
    key_of,
    member,
    registration,
    sign_payload,
)

from swarmlearning.contracts.messages import AnyMessage, Payload
from swarmlearning.contracts.records import Genesis
from swarmlearning.encoding import encode
from swarmlearning.ledger.boundary import Header, TxResult
from swarmlearning.ledger.embedded import EmbeddedConfig, EmbeddedLedger
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.client import SnClient
from swarmlearning.sn.service import SnService
from swarmlearning.sn.state import StateStore
from swarmlearning.transport.api import Address
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, Endpoint, NodeName, Role

__all__ = ["HERE", "SN", "Registry", "authority", "certificate", "let_all_pass", "member", "registration"]

SN = member(0, Role.SN)
HERE = Address(node=SN.id, endpoint=Endpoint(host="sn", port=30304))


class Registry:
    """An SN of organisation 0 of a network that it orders alone."""

    def __init__(self, organisations: int = 2) -> None:
        self.genesis: Genesis = genesis_of(organisations)
        self.network = MemoryNetwork()
        self.app = SwarmApplication(StateStore(None))
        self.time_ms = START_MS
        data = encode(self.genesis)
        config = EmbeddedConfig(
            network=NETWORK,
            genesis=data,
            data_dir=None,
            node=SN.id,
            sentinel=SN.id,
            sentinel_key=self.genesis.sentinel_key,
        )
        self.ledger = EmbeddedLedger(
            config, self.app, key_of(SN), self.network.client(SN), self._clock, random.Random(0)
        )
        self._nonce = 0

    def _clock(self) -> int:
        self.time_ms += 1
        return self.time_ms

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, organisations: int = 2) -> AsyncIterator[Self]:
        """A running one."""
        registry = cls(organisations)
        await registry.ledger.start()
        service = SnService(SN, registry.app, registry.ledger, registry._clock, archive=registry.ledger)
        registry.network.serve(SN, HERE.endpoint, service)
        running = asyncio.ensure_future(registry.ledger.run())
        try:
            yield registry
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await registry.ledger.stop()

    def client(self, name: NodeName) -> SnClient:
        return SnClient(self.network.client(name), HERE)

    def sign(self, name: NodeName, message: AnyMessage, *, salt: str = "") -> bytes:
        self._nonce += 1
        payload = Payload(
            network=NETWORK, nonce=self._nonce.to_bytes(16, "big"), expires=self.ledger.height + 100, message=message
        )
        return sign_payload(key_of(name, salt), encode(payload))

    async def order(self, *txs: bytes) -> Sequence[tuple[int, TxResult]]:
        """Submit at once; so they come into few blocks."""
        return await asyncio.gather(*(self.ledger.submit(tx, timeout_s=20) for tx in txs))

    async def register(self, *names: NodeName) -> list[bytes]:
        txs = [self.sign(name, registration(name)) for name in names]
        assert all(result.code == 0 for _, result in await self.order(*txs))
        return txs


def let_all_pass(app: SwarmApplication) -> None:
    """From now on `app` lets everything into a block, as that of a dishonest sentinel might."""

    def check(tx: bytes) -> TxResult:  # as the boundary names it
        return TxResult(code=Code.OK)

    def propose(txs: Sequence[bytes], max_bytes: int) -> list[bytes]:  # as above
        return list(txs)

    def accept(header: Header, txs: Sequence[bytes]) -> str:  # as above
        return ""

    app.check, app.propose, app.accept = check, propose, accept  # type: ignore[method-assign]
