"""A replica's part: pull blocks from the sentinel, verify, execute, keep; forward transactions to it.

Pulling is a long poll: an idle network costs one request every `poll_wait_s`. A sentinel that does not answer, or
answers what does not verify, is asked again with growing waits. What its signature proves wrong stops this node.

Does not: order, or accept anything that the sentinel has not signed. Spec: docs/spec/ledger.md, section 4.
"""

import asyncio
import logging
import random
from typing import Any, Final

from swarmlearning.clock import WallClock
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import (
    Broken,
    ConfigurationError,
    ForkDetected,
    PeerError,
    Unreachable,
    VerificationError,
    WaitExpired,
)
from swarmlearning.ledger.boundary import Application, TxResult
from swarmlearning.ledger.embedded.backoff import Backoff
from swarmlearning.ledger.embedded.blocks import MAX_BLOCK_BYTES, Block, Evidence, execution_header, is_contradiction
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.forks import compare_header
from swarmlearning.ledger.embedded.verify import verify_link, verify_signed
from swarmlearning.ledger.embedded.waiting import Outcome
from swarmlearning.ledger.embedded.wire import (
    BLOCKS,
    MAX_WAIT_MS,
    SUBMIT,
    BlocksReply,
    BlocksRequest,
    SubmitReply,
    SubmitRequest,
)
from swarmlearning.transport.api import Client
from swarmlearning.types import Code

_LOG: Final = logging.getLogger("swarmlearning.ledger")

_CLOCK_RECHECK_S: Final = 5.0


class Replica:
    """Follows the sentinel.

    Args:
        config: who and where.
        chain: where blocks go.
        app: accepts blocks.
        client: asks the sentinel.
        clock: this node's own.
        rng: jitter of retries.
    """

    def __init__(  # each is one seam that tests replace
        self,
        config: EmbeddedConfig,
        chain: Chain,
        app: Application,
        client: Client,
        clock: WallClock,
        rng: random.Random,
    ) -> None:
        if config.sentinel_address is None:
            raise ConfigurationError(f"{config.node} follows {config.sentinel}: give the sentinel's address")
        self._config = config
        self._chain = chain
        self._app = app
        self._client = client
        self._clock = clock
        self._rng = rng
        self._sentinel = config.sentinel_address
        self._problem = ""

    @property
    def problem(self) -> str:
        """What keeps this node from following the sentinel, for people; empty while nothing does."""
        return self._problem

    # --- following --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the sentinel until cancelled.

        Raises:
            ForkDetected: the sentinel signed two chains.
            ConfigurationError: the sentinel's chain began with another genesis than this node, which holds no block.
            Broken: a block that the sentinel signed cannot be executed here with the same outcome.
            SwarmError: the engine halted.
        """
        backoff = self._backoff()
        while True:
            self._chain.waiting.check_running()
            try:
                await self._pull()
            except ForkDetected:
                raise
            except (Unreachable, PeerError) as error:
                self._note(str(error))
                await asyncio.sleep(backoff.next_s())
            else:
                self._note("")
                backoff.reset()

    async def _pull(self) -> None:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        wait_s = self._config.poll_wait_s
        request = BlocksRequest(from_height=self._chain.height + 1, wait_ms=min(int(wait_s * 1000), MAX_WAIT_MS))
        raw = await self._client.call(
            self._sentinel, BLOCKS, encode(request), timeout_s=wait_s + self._config.reply_margin_s
        )
        reply = decode(raw, BlocksReply)
        if reply.height < self._chain.height:
            await self._examine_lost(reply.height)
        for encoded in reply.blocks:
            await self._follow(decode(encoded, Block, limit=MAX_BLOCK_BYTES))
        if not reply.blocks and loop.time() - asked_at < request.wait_ms / 2000:
            raise VerificationError("the sentinel answers a poll at once but sends no block; asking it less often")

    async def _follow(self, block: Block) -> None:
        header = block.header
        self._check_beginning(block)
        # Steps 1-4: network, signature, proposer, height
        verify_signed(block, self._config, self._chain.height + 1)
        # Step 5, first half: a signed block on top of another past than the one it signed for us is proof of a fork
        tip = self._chain.tip
        if tip is not None:
            evidence = Evidence(first=tip.signed_header, second=block.signed_header)
            if is_contradiction(evidence):
                raise self._chain.convict(evidence)
        # Steps 5-8: previous hash, time, limits, transactions
        verify_link(block, self._chain.tip_hash, self._chain.tip_time_ms)
        # 9. not ahead of our clock: which of the two clocks is wrong nobody knows, so wait rather than refuse
        await self._await_time(block)
        # 10. the application accepts it, from committed state and the block alone: what it refuses, all refuse
        reason = self._app.accept(execution_header(header), block.txs)
        if reason:
            raise Broken(
                f"block {header.height}, signed by the sentinel, is refused by the application: {reason}; "
                "do all nodes run the same release? This node stops"
            )
        # 11. executing it here gives the same state
        self._chain.adopt(block)
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
                f"{self._config.sentinel} began with {theirs.hex()[:16]}: get that network's founding file, delete "
                "this SN's data directory (it holds no block yet), and start again"
            )

    async def _await_time(self, block: Block) -> None:
        header = block.header
        while (ahead_ms := header.time_ms - self._clock() - self._config.max_ahead_ms) > 0:
            self._note(
                f"block {header.height} is {(ahead_ms + self._config.max_ahead_ms) / 1000:.1f} s ahead of this node's "
                f"clock, at most {self._config.max_ahead_ms / 1000:g} s are accepted: waiting; check both clocks"
            )
            await asyncio.sleep(min(ahead_ms / 1000, _CLOCK_RECHECK_S))

    async def _examine_lost(self, height: int) -> None:
        """The sentinel is behind us, who only have what it signed: it lost blocks, or went on from an older copy."""
        await compare_header(self._config, self._chain, self._client, self._sentinel)
        raise VerificationError(
            f"the sentinel stands at height {height} but has signed blocks up to {self._chain.height}: it has lost "
            "blocks; stop it and give it a copy of this node's ledger"
        )

    def _note(self, problem: str) -> None:
        if problem and problem != self._problem:
            _LOG.warning("%s: cannot follow the sentinel: %s", self._config.node, problem)
        elif self._problem and not problem:
            _LOG.info("%s: follows the sentinel again, at height %d", self._config.node, self._chain.height)
        self._problem = problem

    def _backoff(self) -> Backoff:
        return Backoff(self._config.retry_min_s, self._config.retry_max_s, self._rng)

    # --- forwarding -------------------------------------------------------------------------------------------

    async def submit(self, tx: bytes, timeout_s: float) -> Outcome:
        """See `LedgerView.submit`: forwards to the sentinel and waits until the block has arrived here.

        Raises:
            WaitExpired: it was not committed here within `timeout_s` seconds; says whether the sentinel answered.
            Refused: the sentinel refuses us.
            VerificationError: the sentinel names a block that does not hold the transaction.
            SwarmError: the engine halted.
        """
        self._chain.waiting.check_running()
        if len(tx) > self._config.max_tx_bytes:
            log = f"transaction of {len(tx)} bytes: at most {self._config.max_tx_bytes} are accepted"
            return 0, TxResult(code=Code.MALFORMED, log=log)
        why = ["the sentinel has not answered"]
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await self._forward(tx, limit, why)
        except TimeoutError as error:
            raise WaitExpired(
                f"the transaction was not committed here within {timeout_s:g} s: {why[0]}; "
                "it may still be ordered, submit the same bytes again to learn of it"
            ) from error

    async def _forward(self, tx: bytes, limit: asyncio.Timeout, why: list[str]) -> Outcome:
        tx_hash = sha256(tx)
        backoff = self._backoff()
        with self._chain.waiting.watching(tx_hash) as outcome:
            known = self._chain.find(tx_hash)
            if known is not None:
                return known
            while not outcome.done():
                try:
                    reply = await self._ask(tx, limit, outcome)
                except Unreachable as error:
                    why[0] = f"the sentinel {self._config.sentinel} does not answer ({error})"
                    await asyncio.wait({outcome}, timeout=backoff.next_s())
                    continue
                if reply is None or (reply.height == 0 and reply.result is None):
                    why[0] = f"the sentinel {self._config.sentinel} has not put it into a block yet"
                    await asyncio.wait({outcome}, timeout=backoff.next_s())
                    continue
                if reply.height == 0 and reply.result is not None:
                    return 0, reply.result
                why[0] = f"block {reply.height} holds it but has not arrived here ({self._problem or 'following'})"
                await self._chain.wait_height(reply.height - 1)
                known = self._chain.find(tx_hash)
                if known is None:
                    raise VerificationError(
                        f"the sentinel said that block {reply.height} holds the transaction; it does not"
                    )
                return known
            return outcome.result()

    async def _ask(self, tx: bytes, limit: asyncio.Timeout, outcome: asyncio.Future[Outcome]) -> SubmitReply | None:
        """The sentinel's reply; None if the block arrived first."""
        left_s = max(0.0, (limit.when() or 0.0) - asyncio.get_running_loop().time())
        wait_s = min(left_s, MAX_WAIT_MS / 1000)
        body = encode(SubmitRequest(tx=tx, wait_ms=int(wait_s * 1000)))
        timeout_s = wait_s + self._config.reply_margin_s
        call = asyncio.ensure_future(self._client.call(self._sentinel, SUBMIT, body, timeout_s=timeout_s))
        try:
            either: set[asyncio.Future[Any]] = {call, outcome}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return decode(call.result(), SubmitReply) if call.done() else None
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
