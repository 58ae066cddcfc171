"""What the test knows of a training: the newest record as it changes, and afterwards the whole history, executed anew.

Does not take a program's or an SL's word for anything.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from matrix_network import FaultyNetwork, now_s

from swarmlearning.clock import system_clock
from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.records import Result, Training
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import PeerError, Unreachable
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.ledger.embedded.blocks import MAX_BLOCK_BYTES, Block, execution_header, verify_header
from swarmlearning.ledger.embedded.wire import BLOCKS, BlocksReply, BlocksRequest
from swarmlearning.local.genesis import load_genesis
from swarmlearning.local.network import NETWORK
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.client import SnClient
from swarmlearning.sn.state import StateStore
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.types import ContractName, Endpoint, NodeId, NodeName, Role

ASK_AGAIN_S = 0.05
CALL_S = 10.0


class Watch:
    """Follows one contract through the sentinel's API, also over the sentinel's death."""

    def __init__(self, sn: SnClient, contract: ContractName) -> None:
        self.contract = contract
        self.record: Training | None = None
        self.final_s: dict[int, float] = {}
        """When a round was first seen to be final (`now_s`)."""
        self.leaders: dict[int, tuple[NodeId, ...]] = {}
        """Of each round, who led its newest attempt."""
        self._sn = sn
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                records: AsyncIterator[Training] = self._sn.watch(self.contract, self.version)
                async for record in records:
                    await self._take(record)
            except (Unreachable, PeerError):
                await asyncio.sleep(ASK_AGAIN_S)

    @property
    def version(self) -> int:
        """Of the newest record."""
        return self.record.version if self.record else 0

    @property
    def final_round(self) -> int:
        """The newest final round; -1 before the first."""
        return self.record.last.round if self.record and self.record.last else -1

    async def _take(self, record: Training) -> None:
        known = self.record
        if known is not None and record.version <= known.version:
            return
        before = self.final_round
        self.record = record
        assert self.final_round >= before, f"the newest final round went back from {before} to {self.final_round}"
        if self.final_round > before:
            self.final_s[self.final_round] = now_s()
        if record.round is not None and record.round.merging:
            self.leaders[record.round.number] = record.round.leaders
        async with self._changed:
            self._changed.notify_all()

    async def settle(self) -> Training:
        """The record as the sentinel has it now."""
        record = await self._sn.training(self.contract)
        assert record is not None
        await self._take(record)
        assert self.record is not None
        return self.record

    async def until(self, what: str, holds: Callable[[Training], bool], limit_s: float) -> Training:
        """Wait for a record of which `holds` is true; told of each as soon as it is there."""

        def is_there() -> bool:
            return self.record is not None and holds(self.record)

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(is_there), limit_s)
            except TimeoutError:
                raise AssertionError(f"waited {limit_s:g} s for {what}; {self.explain()}") from None
        assert self.record is not None
        return self.record

    def explain(self) -> str:
        """Where the training stands, for people."""
        if self.record is None:
            return "the ledger has no such contract"
        number = self.record.round.number if self.record.round else "none"
        return f"newest final round {self.final_round}, open round {number}: {explain_wait(self.record)}"


async def wait_until(what: str, holds: Callable[[], bool], limit_s: float, explain: Callable[[], str]) -> None:
    """Wait for something that shows in files or processes and not on the ledger."""
    deadline = now_s() + limit_s
    while not holds():
        if now_s() > deadline:
            raise AssertionError(f"waited {limit_s:g} s for {what}; {explain()}")
        await asyncio.sleep(0.01)


class History:
    """The ledger from its first block on, every signature checked and every block executed by the test itself."""

    def __init__(self, network: FaultyNetwork) -> None:
        genesis = load_genesis(network.genesis)
        domain = network.sites[0].domain
        node = NodeName(domain=domain, network=NETWORK, role=Role.SN, name="historian")
        authority = Authority.load(network.workdir / domain / "ca")
        home = network.workdir / "historian"
        issued = issue_certificate(authority, node, ("127.0.0.1",), home, at_ms=system_clock(), days=1)
        trusts = {o.domain: Trust(issuers=o.issuers, roles=o.roles) for o in genesis.organisations}
        source = PemSource(issued.certificate, issued.key, issued.issuer)
        self._client = HttpClient(TrustStore(NETWORK, system_clock, trusts), source)
        endpoint = Endpoint(host="127.0.0.1", port=network.sns[0].p2p_port)
        self._sentinel = Address(node=network.sns[0].address.node, endpoint=endpoint)
        self._key = genesis.sentinel_key
        self._results: dict[tuple[ContractName, int, int], Result] = {}
        self._app = SwarmApplication(StateStore(home / "state.sqlite"))
        self._app.init(Path(network.genesis).read_bytes())

    async def results(self, contract: ContractName, run: int) -> dict[int, Result]:
        """All final results of a run of the contract, by round."""
        await self._catch_up()
        return {key[2]: result for key, result in self._results.items() if key[:2] == (contract, run)}

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _catch_up(self) -> None:
        while True:
            request = encode(BlocksRequest(from_height=self._app.info().height + 1, wait_ms=0))
            reply = decode(await self._client.call(self._sentinel, BLOCKS, request, timeout_s=CALL_S), BlocksReply)
            if not reply.blocks:
                return
            for encoded in reply.blocks:
                self._execute(decode(encoded, Block, limit=MAX_BLOCK_BYTES))

    def _execute(self, block: Block) -> None:
        verify_header(block.signed_header, NETWORK, self._key)
        applied = self._app.apply(execution_header(block.header), block.txs)
        assert applied.app_hash == block.header.app_hash, f"block {block.header.height} gives another state"
        self._app.commit()
        others = ("membership", "task", "taskrunner")
        for name in {event.subject for event in applied.events if event.kind not in others}:
            record = decode(self._app.query("training", name.encode()), Training)
            if record.last is not None:
                key = (record.name, record.run, record.last.round)
                known = self._results.setdefault(key, record.last)
                assert known == record.last, f"{name}: round {record.last.round} became final twice"
