"""Brings one transaction into a block: offers it to the child, again where that may help, until it is committed here.

The child forgets what waits when it dies, drops what a full pool has no room for, and refuses what it has seen before;
none of this is an answer. It sends a transaction to each peer once, and one that just starts drops it: where too few
have it nothing goes on, so after a while without any block the child's pool is emptied and filled again.

Spec: docs/spec/ledger-cometbft.md, section 3.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any

from swarmlearning.encoding import sha256
from swarmlearning.errors import DecodeError, Refused, SwarmError, Unreachable, WaitExpired
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.cometbft.config import CometConfig
from swarmlearning.ledger.cometbft.driver import Driver
from swarmlearning.ledger.cometbft.pool import ENGINE
from swarmlearning.ledger.cometbft.rpc import CACHED, FULL, Broadcast, Rpc
from swarmlearning.ledger.cometbft.store import OrderedStore
from swarmlearning.ledger.waiting import Outcome, Waiting
from swarmlearning.types import Code


class Submitter:
    """Offers transactions to the child.

    Args:
        config: limits.
        driver: judges them first.
        store: knows those that are in a block.
        rpc: the child's.
        waiting: is told when one is committed here.
        problem: what keeps blocks from being made here, for people.
    """

    def __init__(
        self,
        config: CometConfig,
        driver: Driver,
        store: OrderedStore,
        rpc: Rpc,
        waiting: Waiting,
        problem: Callable[[], str],
    ) -> None:
        self._config = config
        self._driver = driver
        self._store = store
        self._rpc = rpc
        self._waiting = waiting
        self._problem = problem
        self._since: dict[object, float] = {}
        """When each wait that is not over began."""
        self._flushed_at = -math.inf

    @property
    def waiting_s(self) -> float:
        """For how many seconds the oldest transaction offered here has waited; 0 if none waits."""
        now = asyncio.get_running_loop().time()
        return now - min(self._since.values(), default=now)

    async def submit(self, tx: bytes, timeout_s: float) -> Outcome:
        """See `LedgerView.submit`.

        Raises:
            WaitExpired: no block that holds it was committed here within `timeout_s` seconds.
            SwarmError: the engine halted.
        """
        self._waiting.check_running()
        tx_hash = sha256(tx)
        known = self._store.find(tx_hash, upto=self._driver.height)
        if known is not None:
            return known
        result = self._driver.pool.judge(tx)
        if result.code is not Code.OK:
            return 0, result
        token, said = object(), ["it was not offered yet"]
        self._since[token] = asyncio.get_running_loop().time()
        try:
            with self._waiting.watching(tx_hash) as outcome:
                async with asyncio.timeout(timeout_s):
                    return await self._bring(tx, outcome, said)
        except TimeoutError as error:
            raise WaitExpired(
                f"no block held the transaction here within {timeout_s:g} s: {self._problem() or said[0]}; it may "
                "still be ordered: look whether it was before you repeat it"
            ) from error
        finally:
            del self._since[token]

    async def _bring(self, tx: bytes, outcome: asyncio.Future[Outcome], said: list[str]) -> Outcome:
        retry_s = self._config.retry_min_s
        while True:
            height, offering = self._driver.height, asyncio.ensure_future(self._offer(tx, said))
            try:
                either: set[asyncio.Future[Any]] = {outcome, offering}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                offering.cancel()
            if outcome.done():
                return outcome.result()
            answer = offering.result()
            if isinstance(answer, TxResult):
                return 0, answer
            await asyncio.wait({outcome}, timeout=self._config.offer_again_s if answer else retry_s)
            if outcome.done():
                return outcome.result()
            if answer and self._driver.height == height:
                await self._flush()
            retry_s = self._config.retry_min_s if answer else min(2 * retry_s, self._config.retry_max_s)

    async def _flush(self) -> None:
        """B-29: empty the child's pool, unless another transaction's wait has just done so."""
        now = asyncio.get_running_loop().time()
        if now - self._flushed_at < self._config.offer_again_s:
            return
        self._flushed_at = now
        with contextlib.suppress(SwarmError):  # a child that does not answer has nothing to forget
            await self._rpc.flush()

    async def _offer(self, tx: bytes, said: list[str]) -> bool | TxResult:
        """Offer it once: the application's refusal, or whether it waits for a block now."""
        try:
            answer = await self._rpc.broadcast(tx)
        except Refused as error:
            said[0] = "CometBFT has it, no block does" if error.code == CACHED else str(error)
            if error.code == FULL:
                said[0] = f"too many transactions wait for a block ({error})"
            return error.code == CACHED
        except (Unreachable, DecodeError) as error:
            said[0] = str(error)
            return False
        if answer.code == 0 or answer.codespace == ENGINE:
            said[0] = "it waits for a block"
            return True
        return TxResult(code=_code(answer), log=answer.log)


def _code(answer: Broadcast) -> Code:
    try:
        return Code(answer.code)
    except ValueError as error:
        raise DecodeError(f"CometBFT's CheckTx gave the code {answer.code}, which is none of ours") from error
