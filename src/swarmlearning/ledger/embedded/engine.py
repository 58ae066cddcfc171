"""The embedded engine: one sentinel orders, every other node is a replica that verifies and executes.

Life: `start`, then `run` as a task for as long as the node lives, then `stop`. An engine that halted (a fork, another
outcome than the sentinel's, a damaged disk) says why to everyone who waits and does not come back; its calls go on
telling other nodes of a fork until `stop`.

Does not: choose or replace a sentinel. Spec: docs/spec/ledger.md.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from swarmlearning.clock import WallClock
from swarmlearning.errors import Broken, Closed, ConfigurationError, ForkDetected, SwarmError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import Application, TxResult
from swarmlearning.ledger.embedded.blocks import Block, hash_header
from swarmlearning.ledger.embedded.chain import Chain, Crash, never_crash
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.forks import compare_headers
from swarmlearning.ledger.embedded.replica import Replica
from swarmlearning.ledger.embedded.sentinel import Sentinel
from swarmlearning.ledger.embedded.service import LedgerService
from swarmlearning.ledger.embedded.verify import verify_link, verify_signed
from swarmlearning.transport.api import Address, Call, Client

Peers = Callable[[], Sequence[Address]]
"""The other SN nodes as they are known now."""

_MAX_COMPARED = 16
"""Most nodes compared with at a time; with more, a random choice."""


class EmbeddedLedger:
    """One node's ledger engine; a `LedgerView`.

    Args:
        config: who and where.
        app: the application; driven by nobody else from `start` on.
        signing_key: signs block headers; the sentinel's only.
        client: asks other nodes.
        clock: this node's wall clock.
        rng: jitter of retries, and whom to compare with.
        peers: with whom `run` compares headers every `compare_every_s`; None: only when `compare` is called.
        crash: raises where a test wants the node to die.

    Raises:
        ConfigurationError: the key and the configuration do not fit each other.
    """

    def __init__(
        self,
        config: EmbeddedConfig,
        app: Application,
        signing_key: SigningKey | None,
        client: Client,
        clock: WallClock,
        rng: random.Random,
        *,
        peers: Peers | None = None,
        crash: Crash = never_crash,
    ) -> None:
        self._config = config
        self._client = client
        self._rng = rng
        self._peers = peers
        self._chain = Chain(config, app, crash)
        self._part: Sentinel | Replica
        if config.is_sentinel:
            if signing_key is None or signing_key.public != config.sentinel_key:
                raise ConfigurationError(f"{config.node} is the sentinel: give the signing key that the genesis names")
            self._part = Sentinel(config, self._chain, app, signing_key, clock)
            self._service = LedgerService(config, self._chain, self._part.submit)
        else:
            self._part = Replica(config, self._chain, app, client, clock, rng)
            self._service = LedgerService(config, self._chain, None)

    @property
    def height(self) -> int:
        """Height of the last block that is durable and executed here; 0 before the first."""
        return self._chain.height

    @property
    def transactions(self) -> int:
        """How many different transactions the ledger holds."""
        return self._chain.store.transactions

    @property
    def problem(self) -> str:
        """What keeps this node from following the sentinel, for people; empty while nothing does."""
        return self._part.problem

    @property
    def calls(self) -> Mapping[str, Call]:
        """What this node answers other SN nodes; to be served from `start` to `stop`."""
        return self._service.calls

    async def start(self) -> None:
        """Open the ledger, recover from a crash, and bring the application level with it.

        Raises:
            ForkDetected: the sentinel was convicted before.
            ConfigurationError: the ledger's file is in use by another process, or of another genesis.
            Broken: the ledger's file is damaged or foreign, or does not belong to the application.
            DecodeError: the application refuses the genesis.
        """
        self._chain.open()

    async def run(self) -> None:
        """Order or follow, and compare with other nodes, until cancelled or stopped.

        Raises:
            ForkDetected: the sentinel signed two chains.
            ConfigurationError: this new node was given another genesis than the one the sentinel's chain began with.
            Broken: the application or the disk failed, or a block has another outcome here.
        """
        self._chain.waiting.check_running()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._part.run())
                group.create_task(self._chain.waiting.end())
                group.create_task(self._compare_forever())
        except BaseExceptionGroup as group_error:
            error = self._end_with(group_error)
            if not isinstance(error, Closed):
                raise error from error.__cause__

    def _end_with(self, group_error: BaseExceptionGroup[BaseException]) -> BaseException:
        """Halt for the one reason that counts among those with which the parts ended."""
        reasons: Sequence[BaseException] = group_error.exceptions
        reason = next((e for e in reasons if isinstance(e, ForkDetected)), reasons[0])
        if not isinstance(reason, SwarmError):
            self._chain.waiting.halt(Broken(f"the ledger engine failed: {type(reason).__name__}: {reason}"))
            return reason
        self._chain.waiting.halt(reason)
        return self._chain.waiting.halted or reason

    async def stop(self) -> None:
        """Close the ledger; whoever waits gets `Closed`. Call it once more and nothing happens."""
        self._chain.close()

    async def submit(self, tx: bytes, *, timeout_s: float) -> tuple[int, TxResult]:
        """See `LedgerView.submit`.

        The same bytes are ordered at most once: submitted again, they give the height and result of the first time.

        Raises:
            WaitExpired: not committed here within `timeout_s` seconds; says why. It may still be ordered.
            Refused: the sentinel refuses this node.
            ForkDetected: the engine has halted because the sentinel lied.
            Broken: the engine has halted.
            Closed: the engine was stopped.
        """
        return await self._part.submit(tx, timeout_s)

    async def wait_height(self, above: int) -> int:
        """Wait until the committed height exceeds `above`, and return it.

        Raises:
            SwarmError: the engine halted; why.
        """
        return await self._chain.wait_height(above)

    def block(self, height: int) -> Block | None:
        """The committed block of `height`, None if there is none.

        Raises:
            Broken: it is damaged on disk.
            Closed: the engine was not started, or was stopped.
        """
        return self._chain.read(height)

    async def compare(self, peers: Sequence[Address]) -> None:
        """Compare signed headers with `peers`; those that do not answer are passed over.

        Raises:
            ForkDetected: the sentinel signed two chains. The evidence is kept, the engine has halted.
        """
        self._chain.waiting.check_running()
        await compare_headers(self._config, self._chain, self._client, peers)

    async def _compare_forever(self) -> None:
        if self._peers is None:
            return
        while True:
            # Spread over half the interval, so that nodes do not all ask at once.
            await asyncio.sleep(self._config.compare_every_s * (1 - self._rng.random() / 2))
            peers = [peer for peer in self._peers() if peer.node != self._config.node]
            await self.compare(self._rng.sample(peers, min(len(peers), _MAX_COMPARED)))

    def verify(self) -> int:
        """Verify every stored block anew (hashes, links, times, signatures) and return how many there are.

        Raises:
            VerificationError: one does not hold; says which.
            Broken: one is damaged on disk.
        """
        previous_hash, previous_time_ms = self._chain.genesis_hash, 0
        for height in range(1, self.height + 1):
            block = self._chain.read(height)
            if block is None:
                raise Broken(f"block {height} is missing from the ledger's file")
            verify_signed(block, self._config, height)
            verify_link(block, previous_hash, previous_time_ms)
            previous_hash, previous_time_ms = hash_header(block.header), block.header.time_ms
        return self.height
