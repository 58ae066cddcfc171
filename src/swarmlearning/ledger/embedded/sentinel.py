"""The sentinel's part: take transactions, put them into signed blocks, answer once they are durable.

A block is made as soon as anything is pending, from all that has arrived; there are no empty blocks. It waits a moment
for what the application expects to follow at once: one block for a wave of transactions costs less than one for each.
It is made from proposal to commit without giving way to other tasks, so that nobody sees a half-made one.

Before the first block the other SNs are asked, once and not for long, whether they hold blocks or a handover that this
node does not: a sentinel restored from an older copy, or replaced while it was away, would else fork the chain.

Does not: serve other nodes (`service`). Spec: docs/spec/ledger.md, section 3.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any

from swarmlearning.clock import WallClock
from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, WaitExpired
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import Application, Applied, Header, TxResult
from swarmlearning.ledger.embedded.blocks import Block, BlockHeader, hash_txs, sign_block
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.following import Following, Peers, choose_peers
from swarmlearning.ledger.embedded.mempool import Mempool
from swarmlearning.ledger.waiting import Outcome
from swarmlearning.transport.api import Client
from swarmlearning.types import Code


class Sentinel:
    """Orders transactions into blocks.

    Args:
        config: who and where.
        chain: where blocks go.
        app: judges transactions and chooses the next block's.
        key: signs block headers.
        client: asks other nodes, before the first block.
        clock: block time.
        rng: whom to ask.
        peers: the other SNs as they are known now.
    """

    def __init__(  # each is one seam that tests replace
        self,
        config: EmbeddedConfig,
        chain: Chain,
        app: Application,
        key: SigningKey,
        client: Client,
        clock: WallClock,
        rng: random.Random,
        peers: Peers,
    ) -> None:
        self._config = config
        self._chain = chain
        self._app = app
        self._key = key
        self._clock = clock
        self._rng = rng
        self._peers = peers
        self._following = Following(config, chain, app, client, clock, self._note)
        self._problem = ""
        self._pool = Mempool(config.max_pending_txs, config.max_pending_bytes)

    @property
    def problem(self) -> str:
        """What keeps this node from ordering, for people; empty while nothing does."""
        return self._problem

    def _note(self, problem: str) -> None:
        self._problem = problem

    async def submit(self, tx: bytes, timeout_s: float) -> Outcome:
        """See `LedgerView.submit`. The same bytes are ordered once: submitted again, they give the first outcome.

        Raises:
            WaitExpired: no block held it within `timeout_s` seconds.
            SwarmError: the engine halted.
        """
        self._chain.waiting.check_running()
        if len(tx) > self._config.max_tx_bytes:
            return 0, TxResult(
                code=Code.MALFORMED,
                log=f"transaction of {len(tx)} bytes: at most {self._config.max_tx_bytes} are accepted",
            )
        tx_hash = sha256(tx)
        known = self._chain.find(tx_hash)
        if known is not None:
            return known
        if tx_hash not in self._pool:
            result = self._app.check(tx)
            if result.code is not Code.OK:
                return 0, result
        try:
            async with asyncio.timeout(timeout_s):
                with self._chain.waiting.watching(tx_hash) as outcome:
                    while not outcome.done() and tx_hash not in self._pool:
                        if self._pool.has_room(len(tx)):
                            self._pool.add(tx_hash, tx)
                        else:
                            await self._wait_for_room(outcome)
                    return await outcome
        except TimeoutError as error:
            raise WaitExpired(
                f"no block held the transaction within {timeout_s:g} s: {len(self._pool)} transactions wait for one; "
                "it may still be ordered: look whether it was before you repeat it"
            ) from error

    async def _wait_for_room(self, outcome: asyncio.Future[Outcome]) -> None:
        """Wait until a transaction leaves, or there is nothing to wait for any more."""
        left = asyncio.ensure_future(self._pool.wait_left())
        either: set[asyncio.Future[Any]] = {left, outcome}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()

    async def run(self) -> None:
        """Make blocks until cancelled.

        Raises:
            ConfigurationError: a handover made another node the sentinel.
            Broken: the application or the disk failed.
            SwarmError: the engine halted.
        """
        await self._following.catch_up(choose_peers(self._config, self._peers, self._rng))
        self._note("")
        while True:
            await self._pool.wait_pending()
            # Whoever is ready to submit now joins this block.
            await asyncio.sleep(0)
            await self._gather()
            self._make_block()

    async def _gather(self) -> None:
        """L-3: wait a little for what belongs to the same block, while the application expects more of it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.gather_s):
                while len(self._pool) < self._config.max_block_txs and self._app.expects_more(self._offered()):
                    await self._pool.wait_more()

    def _offered(self) -> list[bytes]:
        return [tx for _, tx in self._pool.first(self._config.max_block_txs)]

    def _make_block(self) -> None:
        self._chain.waiting.check_running()
        if self._chain.reigns.current.sentinel != self._config.node:
            raise Broken(f"{self._config.node} was to order block {self._chain.height + 1}, which is no longer its own")
        offered = dict(self._pool.first(self._config.max_block_txs))
        chosen = self._choose(list(offered.values()))
        if chosen:
            tip_time_ms = self._chain.tip_time_ms
            header = Header(
                height=self._chain.height + 1,
                time_ms=max(self._clock(), tip_time_ms),
                previous_hash=self._chain.tip_hash,
                proposer=self._config.node,
            )
            # A signed block that correct replicas refuse would stop the network for good.
            reason = self._app.accept(header, chosen)
            if reason:
                raise Broken(f"block {header.height}: the application refuses what it proposed itself: {reason}")
            self._chain.extend(header, chosen, lambda applied: self._seal(header, chosen, applied))
        for tx in chosen:
            tx_hash = sha256(tx)
            self._pool.remove(tx_hash)
            offered.pop(tx_hash, None)
        self._review(offered, proposed_any=bool(chosen))

    def _choose(self, offered: Sequence[bytes]) -> list[bytes]:
        chosen = self._app.propose(offered, self._config.max_block_tx_bytes)
        size = sum(map(len, chosen))
        if size > self._config.max_block_tx_bytes or len(set(chosen)) != len(chosen) or not set(chosen) <= set(offered):
            raise Broken(
                f"the application proposed {len(chosen)} transactions of {size} bytes: expected some of those offered, "
                f"each once, at most {self._config.max_block_tx_bytes} bytes"
            )
        return chosen

    def _seal(self, header: Header, txs: Sequence[bytes], applied: Applied) -> Block:
        signed = BlockHeader(
            network=self._config.network,
            height=header.height,
            time_ms=header.time_ms,
            previous_hash=header.previous_hash,
            txs_root=hash_txs(txs),
            app_hash=applied.app_hash,
            proposer=header.proposer,
        )
        return sign_block(signed, txs, self._key)

    def _review(self, left_out: dict[bytes, bytes], *, proposed_any: bool) -> None:
        """Answer those left out that the new state refuses; if nothing was proposed, waiting longer cannot help any."""
        for tx_hash, tx in left_out.items():
            result = self._app.check(tx)
            if result.code is Code.OK and not proposed_any:
                result = TxResult(code=Code.CONFLICT, log="the application puts this transaction into no block")
            if result.code is not Code.OK:
                self._pool.remove(tx_hash)
                self._chain.waiting.tell(tx_hash, (0, result))
