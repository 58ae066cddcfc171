"""A replica's part: pull blocks from the sentinel, verify, execute, keep; forward transactions to it.

Pulling is a long poll: an idle network costs one request every `poll_wait_s`. A sentinel that does not answer, or
answers what does not verify, is asked again with growing waits; meanwhile the other SNs are asked for what they hold,
so that all have the same when operators replace a lost sentinel. What its signature proves wrong stops this node.

Does not: order, or accept anything that the sentinel has not signed. Spec: docs/spec/ledger.md, section 4.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from swarmlearning.clock import WallClock
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import ForkDetected, PeerError, Refused, Unreachable, VerificationError, WaitExpired
from swarmlearning.ledger.backoff import Backoff
from swarmlearning.ledger.boundary import Application, TxResult
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.following import Following, Peers, choose_peers
from swarmlearning.ledger.embedded.forks import compare_header
from swarmlearning.ledger.embedded.wire import MAX_WAIT_MS, NOT_SENTINEL, SUBMIT, SubmitReply, SubmitRequest
from swarmlearning.ledger.waiting import Outcome
from swarmlearning.transport.api import Address, Client
from swarmlearning.transport.carrying import Carrier
from swarmlearning.types import Code

_LOG: Final = logging.getLogger("swarmlearning.ledger")

Locate = Callable[[], Awaitable[Address]]
"""Finds out who listens where a replica was told to look for its sentinel. Raises as `Client.call` does."""


class Replica:
    """Follows the sentinel.

    Args:
        config: who and where.
        chain: where blocks go.
        app: accepts blocks.
        client: asks the sentinel.
        clock: this node's own.
        rng: jitter of retries, and whom to ask.
        peers: the other SNs as they are known now.
        locate: finds out who listens where this node was told to look for the sentinel.
    """

    def __init__(  # each is one seam that tests replace
        self,
        config: EmbeddedConfig,
        chain: Chain,
        app: Application,
        client: Client,
        clock: WallClock,
        rng: random.Random,
        peers: Peers,
        locate: Locate,
    ) -> None:
        self._config = config
        self._chain = chain
        self._client = client
        self._rng = rng
        self._peers = peers
        self._locate = locate
        self._following = Following(config, chain, app, client, clock, self._note)
        self._source: Address | None = None
        """Whom blocks are pulled from: the sentinel, unless only another SN is within reach."""
        self._is_lost = True
        """Whether the source is to be looked for anew."""
        self._others_at = 0.0
        self._problem = ""
        self._carrier = Carrier()

    async def stop(self) -> None:
        """End what is under way."""
        await self._carrier.close()

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
                if self._is_lost or self._source is None:
                    self._source = await self._find_source()
                await self._pull(self._source)
                # Another SN than the sentinel is good enough for now only.
                self._is_lost = self._source.node != self._chain.reigns.current.sentinel
            except ForkDetected:
                raise
            except (Unreachable, PeerError) as error:
                self._is_lost = True
                self._note(str(error))
                await self._ask_others()
                await asyncio.sleep(backoff.next_s())
            else:
                self._note(self._say_who_is_missing(self._source))
                backoff.reset()

    def _say_who_is_missing(self, source: Address) -> str:
        sentinel = self._chain.reigns.current.sentinel
        if sentinel == source.node or self._following.is_behind_a_handover:
            return ""
        if sentinel != self._config.node:
            return f"the sentinel {sentinel} is not within reach; blocks come from {source.node}"
        return (
            "this SN is itself the sentinel, for all that it and the SN that it follows know: either start it without "
            "--sentinel, or give the address of an SN that knows of a handover"
        )

    async def _find_source(self) -> Address:
        """Whom to pull from, once asked for the handovers it knows: the sentinel, or whoever is where we were told."""
        source: Address | None = None
        try:
            source = await self._locate()
            await self._following.learn(source, self._config.reply_margin_s)
        except Unreachable:
            if self._registered_sentinel() is None:
                raise
        registered = self._registered_sentinel()
        if registered is not None and (source is None or source.node != registered.node):
            try:
                await self._following.learn(registered, self._config.reply_margin_s)
            except (Unreachable, PeerError):
                if source is None:
                    raise
            else:
                return registered
        if source is None:
            raise Unreachable(f"the sentinel {self._chain.reigns.current.sentinel} is not within reach")
        return source

    def _registered_sentinel(self) -> Address | None:
        """Where the sentinel is by its own registration, if that is elsewhere than where we were told."""
        told, sentinel = self._config.sentinel_address, self._chain.reigns.current.sentinel
        if sentinel == self._config.node:
            return None  # it was, and has not learnt yet who is now
        return next((peer for peer in self._peers() if peer.node == sentinel and peer != told), None)

    def _sentinel_address(self) -> Address:
        sentinel = self._chain.reigns.current.sentinel
        if self._following.is_behind_a_handover:
            raise Unreachable("this node is catching up, and another SN orders since")
        # Who has asked nobody yet may not know who orders.
        if self._source is not None and sentinel != self._config.node:
            if self._source.node == sentinel:
                return self._source
            for address in self._peers():
                if address.node == sentinel:
                    return address
        told = self._config.sentinel_address
        raise Unreachable(self._problem or f"it is being looked for at {told.endpoint if told else 'no address'}")

    async def _ask_others(self) -> None:
        """Take over what other SNs hold, and learn of a handover from them; not too often."""
        now = asyncio.get_running_loop().time()
        if now < self._others_at:
            return
        self._others_at = now + self._config.retry_max_s
        await self._following.catch_up(choose_peers(self._config, self._peers, self._rng))

    async def _pull(self, source: Address) -> None:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        wait_s = self._config.poll_wait_s
        reply = await self._following.fetch(source, wait_s)
        if reply.height < self._chain.height:
            await self._examine_lost(source, reply.height)
        if not reply.blocks and loop.time() - asked_at < min(wait_s * 1000, MAX_WAIT_MS) / 2000:
            raise VerificationError("the sentinel answers a poll at once but sends no block; asking it less often")

    async def _examine_lost(self, source: Address, height: int) -> None:
        """The sentinel is behind us, who only have what it signed: it lost blocks, or went on from an older copy."""
        await compare_header(self._config, self._chain, self._client, source)
        if source.node != self._chain.reigns.current.sentinel:
            raise VerificationError(
                f"{source.node} stands at height {height}, this node at {self._chain.height}; the sentinel "
                f"{self._chain.reigns.current.sentinel} is not within reach"
            )
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
        why = [f"the sentinel {self._chain.reigns.current.sentinel} has not answered"]
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await self._forward(tx, limit, why)
        except TimeoutError as error:
            raise WaitExpired(
                f"the transaction was not committed here within {timeout_s:g} s: {why[0]}; "
                "it may still be ordered: look whether it was before you repeat it"
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
                    why[0] = f"the sentinel {self._chain.reigns.current.sentinel} does not answer ({error})"
                    await asyncio.wait({outcome}, timeout=backoff.next_s())
                    continue
                except Refused as error:
                    if error.code != NOT_SENTINEL:
                        raise
                    why[0] = str(error)  # there was a handover of which one of us has not learnt yet
                    await asyncio.wait({outcome}, timeout=backoff.next_s())
                    continue
                if reply is None or (reply.height == 0 and reply.result is None):
                    why[0] = f"the sentinel {self._chain.reigns.current.sentinel} has not put it into a block yet"
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
        sentinel = self._sentinel_address()
        left_s = max(0.0, (limit.when() or 0.0) - asyncio.get_running_loop().time())
        wait_s = min(left_s, MAX_WAIT_MS / 1000)
        body = encode(SubmitRequest(tx=tx, wait_ms=int(wait_s * 1000)))
        timeout_s = wait_s + self._config.reply_margin_s
        # The block is often here before the answer is: hanging up then would cost the next call a handshake.
        call = self._carrier.begin(self._client.call(sentinel, SUBMIT, body, timeout_s=timeout_s))
        either: set[asyncio.Future[Any]] = {call, outcome}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return decode(call.result(), SubmitReply) if call.done() and not outcome.done() else None
