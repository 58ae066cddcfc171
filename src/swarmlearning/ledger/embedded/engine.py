"""The embedded engine: one sentinel orders, every other node is a replica that verifies and executes.

Life: `start`, then `run` as a task for as long as the node lives, then `stop`. An engine that halted (a fork, another
outcome than the sentinel's, a damaged disk) says why to everyone who waits and does not come back; its calls go on
telling other nodes of a fork until `stop`.

Does not: decide that a sentinel be replaced (`succession`). Spec: docs/spec/ledger.md.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence

from swarmlearning.clock import WallClock
from swarmlearning.encoding import sha256
from swarmlearning.errors import (
    Broken,
    Closed,
    ConfigurationError,
    ForkDetected,
    Refused,
    SwarmError,
    VerificationError,
)
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import Application, LedgerProof, StoredBlock, TxResult
from swarmlearning.ledger.embedded.blocks import Block, hash_header
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.crash import Crash, never_crash
from swarmlearning.ledger.embedded.following import Following, Peers, choose_peers
from swarmlearning.ledger.embedded.forks import compare_headers
from swarmlearning.ledger.embedded.handovers import Handover
from swarmlearning.ledger.embedded.proofs import make_proof
from swarmlearning.ledger.embedded.replica import Locate, Replica
from swarmlearning.ledger.embedded.sentinel import Sentinel
from swarmlearning.ledger.embedded.service import LedgerService
from swarmlearning.ledger.embedded.verify import verify_link, verify_signed
from swarmlearning.transport.api import Address, Call, Client
from swarmlearning.types import NodeId


class EmbeddedLedger:
    """One node's ledger engine; a `LedgerView` and a `LedgerArchive`.

    Args:
        config: who and where.
        app: the application; driven by nobody else from `start` on.
        signing_key: signs block headers; the sentinel's only.
        client: asks other nodes.
        clock: this node's wall clock.
        rng: jitter of retries, and whom to compare with.
        peers: with whom `run` compares headers every `compare_every_s`, and who is asked when the sentinel is gone;
            None: nobody, and headers are compared only when `compare` is called.
        locate: finds out who listens where a replica looks for the sentinel; None: the one that the address names.
        crash: raises where a test wants the node to die.

    Raises:
        ConfigurationError: this node is to order but was given no key.
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
        locate: Locate | None = None,
        crash: Crash = never_crash,
    ) -> None:
        self._config = config
        self._client = client
        self._rng = rng
        self._peers = peers
        self._chain = Chain(config, app, crash)
        self._part: Sentinel | Replica
        self._key = signing_key
        known: Peers = peers or _nobody
        self._following = Following(config, self._chain, app, client, clock, lambda _: None)
        if config.sentinel_address is None:
            if signing_key is None:
                raise ConfigurationError(f"{config.node} is to order: give the signing key that it is registered with")
            self._part = Sentinel(config, self._chain, app, signing_key, client, clock, rng, known)
            self._service = LedgerService(config, self._chain, self._part.submit)
        else:
            find = locate or _always(config.sentinel_address)
            self._part = Replica(config, self._chain, app, client, clock, rng, known, find)
            self._service = LedgerService(config, self._chain, None)

    @property
    def height(self) -> int:
        """Height of the last block that is durable and executed here; 0 before the first."""
        return self._chain.height

    @property
    def sentinel(self) -> NodeId:
        """Who orders the next block, as far as this node knows."""
        return self._chain.reigns.current.sentinel

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
            ConfigurationError: the ledger's file is in use by another process, or of another genesis; or this node is
                to order and may not.
            Broken: the ledger's file is damaged or foreign, or does not belong to the application.
            DecodeError: the application refuses the genesis.
        """
        self._chain.open()
        if self._config.is_sentinel:
            try:
                self._check_may_order()
            except BaseException:
                self._chain.close()
                raise

    def _check_may_order(self) -> None:
        reign, node = self._chain.reigns.current, self._config.node
        if reign.sentinel != node:
            since = f"handover {reign.epoch}, after block {reign.after}" if reign.epoch else "the genesis"
            raise ConfigurationError(
                f"{node} follows the sentinel {reign.sentinel} ({since}): give --sentinel HOST:PORT of that SN"
            )
        if self._key is None or self._key.public != reign.key:
            raise ConfigurationError(
                f"{node} is the sentinel: give the signing key {reign.key.hex()[:16]} with which it was made so"
            )
        try:
            self._chain.reigning.check_promise(self._chain.height + 1)
        except VerificationError as error:
            raise ConfigurationError(f"{node} orders no more: {error}") from error

    async def run(self) -> None:
        """Order or follow, and compare with other nodes, until cancelled or stopped.

        Raises:
            ForkDetected: the sentinel signed two chains.
            ConfigurationError: this new node was given another genesis than the one the sentinel's chain began with; or
                a handover made another node the sentinel, or what this one holds void.
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
        if isinstance(self._part, Replica):
            await self._part.stop()

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

    async def lowest(self) -> int:
        """Height of the first block that is kept: of this engine all are."""
        return 1

    async def stored(self, height: int) -> StoredBlock | None:
        """See `LedgerArchive.stored`.

        Raises:
            Broken: it is damaged on disk.
            Closed: the engine was not started, or was stopped.
        """
        return self._chain.read_stored(height)

    async def prove(self, height: int) -> LedgerProof | None:
        """See `LedgerArchive.prove`.

        Raises:
            Broken, Closed: as for `stored`.
        """
        block = self._chain.read(height)
        if block is None:
            return None
        return LedgerProof(txs=block.txs, body=make_proof(block, self._handovers(), None))

    async def prove_tx(self, tx_hash: bytes) -> LedgerProof | None:
        """See `LedgerArchive.prove_tx`.

        Raises:
            Broken, Closed: as for `stored`.
        """
        found = self._chain.find(tx_hash)
        block = None if found is None else self._chain.read(found[0])
        if block is None:
            return None
        index = [sha256(tx) for tx in block.txs].index(tx_hash)
        return LedgerProof(txs=(block.txs[index],), body=make_proof(block, self._handovers(), index))

    def _handovers(self) -> list[Handover]:
        return [signed.handover for signed in self._chain.reigning.handovers.values()]

    async def block_hash(self, height: int) -> bytes:
        """Hash of a committed block, 32 bytes.

        Raises:
            Refused: there is none of that height.
            Broken: it is damaged on disk.
            Closed: the engine was not started, or was stopped.
        """
        block = self.block(height)
        if block is None:
            raise Refused(f"there is no block {height}", code="not-found")
        return hash_header(block.header)

    async def compare(self, peers: Sequence[Address]) -> None:
        """Compare signed headers with `peers`; those that do not answer are passed over.

        Raises:
            ForkDetected: the sentinel signed two chains. The evidence is kept, the engine has halted.
            ConfigurationError: a handover made another node the sentinel, or what this one holds void.
        """
        self._chain.waiting.check_running()
        await compare_headers(self._config, self._chain, self._client, self._following, peers)

    async def _compare_forever(self) -> None:
        if self._peers is None:
            return
        while True:
            # Spread over half the interval, so that nodes do not all ask at once.
            await asyncio.sleep(self._config.compare_every_s * (1 - self._rng.random() / 2))
            await self.compare(choose_peers(self._config, self._peers, self._rng))

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
            verify_signed(block, self._config.network, self._chain.reigns.at(height), height)
            verify_link(block, previous_hash, previous_time_ms)
            previous_hash, previous_time_ms = hash_header(block.header), block.header.time_ms
        return self.height


def _nobody() -> Sequence[Address]:
    return ()


def _always(address: Address) -> Locate:
    async def locate() -> Address:
        return address

    return locate
