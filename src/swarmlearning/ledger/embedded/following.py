"""Taking over what another SN holds, each thing verified: handovers, then the blocks that they let somebody order.

Whoever sends them need not be trusted, nor be the sentinel. A replica does this all the time; a sentinel once, before
it orders, in case it lost blocks or was replaced while it was away.

Does not: choose whom to ask (`replica`, `sentinel`). Spec: docs/spec/ledger.md, sections 4 and 6.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from swarmlearning.clock import WallClock
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, ConfigurationError, PeerError, Refused, Unreachable, VerificationError
from swarmlearning.ledger.boundary import Application
from swarmlearning.ledger.embedded.blocks import MAX_BLOCK_BYTES, Block, Evidence, execution_header, is_contradiction
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.handovers import MAX_HANDOVER_BYTES, SignedHandover, is_tip
from swarmlearning.ledger.embedded.verify import verify_link, verify_signed
from swarmlearning.ledger.embedded.wire import (
    BLOCKS,
    HANDOVERS,
    MAX_WAIT_MS,
    BlocksReply,
    BlocksRequest,
    HandoversReply,
    HandoversRequest,
)
from swarmlearning.transport.api import Address, Client

_LOG: Final = logging.getLogger("swarmlearning.ledger")

_CLOCK_RECHECK_S: Final = 5.0

UNKNOWN_METHOD: Final = "unknown-method"

MAX_COMPARED: Final = 16
"""Most nodes asked at a time; with more, a random choice."""

Peers = Callable[[], Sequence[Address]]
"""The other SN nodes as they are known now."""


def choose_peers(config: EmbeddedConfig, peers: Peers, rng: random.Random) -> Sequence[Address]:
    """The other nodes to ask now."""
    others = [peer for peer in peers() if peer.node != config.node]
    return rng.sample(others, min(len(others), MAX_COMPARED))


class Following:
    """Asks other SNs for handovers and blocks, and takes over those that hold.

    Args:
        config: who and where.
        chain: where they go.
        app: accepts blocks.
        client: asks.
        clock: this node's own.
        note: told what keeps this node from going on, for people.
    """

    def __init__(  # each is one seam that tests replace
        self,
        config: EmbeddedConfig,
        chain: Chain,
        app: Application,
        client: Client,
        clock: WallClock,
        note: Callable[[str], None],
    ) -> None:
        self._config = config
        self._chain = chain
        self._app = app
        self._client = client
        self._clock = clock
        self._note = note
        self._ahead: dict[int, SignedHandover] = {}
        """Handovers after blocks that have yet to come, by epoch; not verified."""

    @property
    def is_behind_a_handover(self) -> bool:
        """Whether there was a handover after blocks that have yet to come."""
        return bool(self._ahead)

    # --- handovers --------------------------------------------------------------------------------------------

    async def learn(self, peer: Address, timeout_s: float, *, is_source: bool = True) -> int:
        """Ask a node which handovers it knows, and return its height.

        Args:
            peer: the node.
            timeout_s: how long to wait for its answer.
            is_source: blocks are pulled from it too; what it says of later blocks is kept until they have come.

        Raises:
            Unreachable, Refused, DecodeError: it does not answer, refuses us, or answers nonsense.
            VerificationError: a handover after our last block does not hold.
            ConfigurationError: a handover ended our sentinel's reign elsewhere, or this node's own.
            ForkDetected: two handovers of one epoch have a majority.
        """
        return self._take(await self._ask_handovers(peer, timeout_s), keep=is_source)

    async def _ask_handovers(self, peer: Address, timeout_s: float) -> HandoversReply:
        # The current one too: another of the same epoch would be a fork.
        request = HandoversRequest(above=max(0, self._chain.reigns.current.epoch - 1))
        try:
            raw = await self._client.call(peer, HANDOVERS, encode(request), timeout_s=timeout_s)
        except Refused as error:
            if error.code != UNKNOWN_METHOD:
                raise
            return HandoversReply(height=0, handovers=())  # an earlier release, which knows of none
        return decode(raw, HandoversReply)

    def _take(self, reply: HandoversReply, *, keep: bool) -> int:
        if keep:
            self._ahead.clear()
        for encoded in reply.handovers:
            self._consider(decode(encoded, SignedHandover, limit=MAX_HANDOVER_BYTES), keep=keep)
        return reply.height

    def _consider(self, signed: SignedHandover, *, keep: bool) -> None:
        handover, height = signed.handover, self._chain.height
        if handover.epoch <= self._chain.reigns.current.epoch:
            self._chain.compare_handover(signed)
        elif handover.height == height and is_tip(handover, self._chain.tip_hash):
            self._install(signed)
        elif handover.height <= height or self._config.is_sentinel:
            self._chain.compare_handover(signed)
        elif keep:
            self._ahead[handover.epoch] = signed

    def _install(self, signed: SignedHandover) -> None:
        self._chain.install(signed)
        if self._config.is_sentinel:
            raise self._chain.end(self._chain.reigning.deposed(signed.handover, void=False))

    def _settle(self) -> None:
        """Go by the handovers that are due after our last block."""
        for epoch in sorted(self._ahead):
            if self._ahead[epoch].handover.height <= self._chain.height:
                self._consider(self._ahead.pop(epoch), keep=False)

    # --- blocks -----------------------------------------------------------------------------------------------

    async def fetch(self, peer: Address, wait_s: float) -> BlocksReply:
        """Ask a node for the blocks after our last one, which it waits for so long, and adopt them.

        Raises:
            Unreachable, Refused, DecodeError: it does not answer, refuses us, or answers nonsense.
            VerificationError: a block does not hold.
            ConfigurationError: as for `learn`; or its chain began with another genesis, and this node holds no block.
            ForkDetected: the sentinel signed two chains.
            Broken: a block that the sentinel signed cannot be executed here with the same outcome.
        """
        wait_ms = min(int(wait_s * 1000), MAX_WAIT_MS)
        request = BlocksRequest(from_height=self._chain.height + 1, wait_ms=wait_ms)
        timeout_s = wait_s + self._config.reply_margin_s
        raw = await self._client.call(peer, BLOCKS, encode(request), timeout_s=timeout_s)
        reply = decode(raw, BlocksReply)
        for encoded in reply.blocks:
            await self._follow(decode(encoded, Block, limit=MAX_BLOCK_BYTES))
        return reply

    async def _follow(self, block: Block) -> None:
        header = block.header
        height = self._chain.height + 1
        self._check_beginning(block)
        self._settle()
        # Steps 1-4: network, signature, proposer, height; by the reign that the height falls into
        reign = self._chain.reigns.at(height)
        verify_signed(block, self._config.network, reign, height)
        # Step 5, first half: a signed block on top of another past than the one it signed for us is proof of a fork
        tip = self._chain.tip
        if tip is not None:
            evidence = Evidence(first=tip.signed_header, second=block.signed_header)
            if is_contradiction(evidence):
                raise self._chain.convict(evidence)
        # Steps 5-8: previous hash, time, limits, transactions
        verify_link(block, self._chain.tip_hash, self._chain.tip_time_ms)
        # What this node signed away it does not take, whoever sends it
        self._chain.reigning.check_promise(height)
        # 9. not ahead of our clock: which of the two clocks is wrong nobody knows, so wait rather than refuse
        await self._await_time(block)
        if self._chain.reigns.at(height) is not reign:
            raise VerificationError(f"block {height} of {reign.sentinel} came too late: a handover ended its reign")
        # 10. the application accepts it, from committed state and the block alone: what it refuses, all refuse
        reason = self._app.accept(execution_header(header), block.txs)
        if reason:
            raise Broken(
                f"block {header.height}, signed by the sentinel, is refused by the application: {reason}; "
                "do all nodes run the same release? This node stops"
            )
        # 11. executing it here gives the same state
        self._chain.adopt(block)
        self._settle()
        await asyncio.sleep(0)  # a long catch-up leaves room for others

    def _check_beginning(self, block: Block) -> None:
        """Stop a node that was given another network's genesis: it would be refused block 1 for ever.

        The signature is not asked for: another genesis may name another key. So only a node that holds no block yet
        ends here, where a lying sentinel gains nothing that silence would not; TLS keeps everybody else out.
        """
        theirs = block.header.previous_hash
        if self._chain.height == 0 and block.header.height == 1 and theirs != self._chain.genesis_hash:
            raise ConfigurationError(
                f"{self._config.node} was given the genesis {self._chain.genesis_hash.hex()[:16]}, but the chain of "
                f"{block.header.proposer[:512]} began with {theirs.hex()[:16]}: get that network's founding file, "
                "delete this SN's data directory (it holds no block yet), and start again"
            )

    async def _await_time(self, block: Block) -> None:
        header = block.header
        while (ahead_ms := header.time_ms - self._clock() - self._config.max_ahead_ms) > 0:
            self._note(
                f"block {header.height} is {(ahead_ms + self._config.max_ahead_ms) / 1000:.1f} s ahead of this node's "
                f"clock, at most {self._config.max_ahead_ms / 1000:g} s are accepted: waiting; check both clocks"
            )
            await asyncio.sleep(min(ahead_ms / 1000, _CLOCK_RECHECK_S))

    # --- whoever has more -------------------------------------------------------------------------------------

    async def catch_up(self, peers: Sequence[Address]) -> None:
        """Take over what any of `peers` holds beyond us; who does not answer in `ask_others_s` is passed over.

        Raises:
            ConfigurationError, ForkDetected, Broken: as for `fetch`.
        """
        limit_s = self._config.ask_others_s
        asked = [(peer, asyncio.ensure_future(self._ask_handovers(peer, limit_s))) for peer in peers]
        try:
            for peer, answer in asked:
                try:
                    height = self._take(await answer, keep=True)
                    while height > self._chain.height and (await self.fetch(peer, 0.0)).blocks:
                        pass
                except (Unreachable, PeerError) as error:
                    self._chain.waiting.check_running()  # a fork has halted the engine
                    _LOG.info("%s learns nothing from %s: %s", self._config.node, peer.node, error)
        finally:
            for _, answer in asked:
                answer.cancel()
            await asyncio.gather(*(answer for _, answer in asked), return_exceptions=True)
