"""The engine on CometBFT: validators propose and vote; this node's child takes part, and drives the application.

Life: `start`, then `run` as a task for as long as the node lives, then `stop`. An engine that halted (another outcome
than the other validators', a damaged disk, an application that failed) says why to everyone who waits.

Does not: decide who votes (the application does), or order anything itself. Spec: docs/spec/ledger-cometbft.md.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, Closed, SwarmError
from swarmlearning.ledger.boundary import Application, LedgerProof, Snapshots, StoredBlock, TxResult
from swarmlearning.ledger.cometbft.archive import CometArchive
from swarmlearning.ledger.cometbft.child import Child
from swarmlearning.ledger.cometbft.config import CometConfig
from swarmlearning.ledger.cometbft.crash import Crash, never_crash
from swarmlearning.ledger.cometbft.home import HOME, check_home
from swarmlearning.ledger.cometbft.parts import Parts
from swarmlearning.ledger.cometbft.proofs import first_members
from swarmlearning.ledger.cometbft.store import REMEDY, OrderedStore
from swarmlearning.ledger.waiting import Outcome, Waiting
from swarmlearning.transport.api import Call
from swarmlearning.types import NodeId, TrustDomain

_LOG: Final = logging.getLogger("swarmlearning.ledger")


class CometLedger:
    """One node's ledger engine; a `LedgerView` and a `LedgerArchive`.

    Args:
        config: who and where.
        app: the application; driven by nobody else from `start` on.
        snapshots: gives, and takes, the application's state; None: all blocks are executed.
        crash: raises where a test wants the node to die.
    """

    def __init__(
        self, config: CometConfig, app: Application, *, snapshots: Snapshots | None = None, crash: Crash = never_crash
    ) -> None:
        self._config = config
        self._app = app
        self._snapshots = snapshots
        self._crash = crash
        self._waiting = Waiting()
        self._parts: Parts | None = None

    @property
    def height(self) -> int:
        """Height of the last block that is committed here; 0 before the first."""
        return self._app.info().height

    @property
    def sentinel(self) -> NodeId:
        """Nobody: validators vote."""
        return NodeId("")

    @property
    def transactions(self) -> int:
        """How many different transactions the ledger holds.

        Raises:
            Closed: not started, or stopped.
        """
        return self._opened().store.transactions

    @property
    def problem(self) -> str:
        """What keeps this node from taking part in the order, for people; empty while nothing does."""
        return "" if self._parts is None else self._parts.problem

    @property
    def away(self) -> tuple[TrustDomain, ...]:
        """Members whose validator is not connected here; blocks may be made all the same."""
        return () if self._parts is None else self._parts.watch.sight.away

    @property
    def child(self) -> Child | None:
        """The process that takes part in consensus; None before `start`, and where somebody else starts it."""
        return None if self._parts is None else self._parts.child

    @property
    def calls(self) -> Mapping[str, Call]:
        """What this node answers other SN nodes: nothing, CometBFT has its own channel."""
        return {}

    async def block_hash(self, height: int) -> bytes:
        """Hash of a committed block, 32 bytes.

        Raises:
            SwarmError: the child cannot be asked, or does not hold that block.
        """
        return await self._opened().rpc.block_hash(height)

    async def start(self) -> None:
        """Open the engine's file, initialise the application, and listen for the child, which `run` starts.

        Raises:
            ConfigurationError: there is no usable `cometbft`, its home is another network's, or the engine's file is
                in use by another process or of another genesis.
            Broken: the file is damaged or foreign, or does not belong to the application.
            DecodeError: the application refuses the genesis.
        """
        config = self._config
        # Before anything is written: what is begun with a wrong genesis could not be started with the right one.
        check_home(
            config.data_dir / HOME,
            chain_id=config.network,
            genesis_time_ms=config.genesis_time_ms,
            app_state=sha256(config.genesis),
            initial=config.initial,
        )
        async with contextlib.AsyncExitStack() as stack:
            store = OrderedStore(self._config.data_dir, self._config.genesis)
            stack.callback(store.close)
            self._bring_level(store)
            parts = Parts(self._config, self._app, store, self._waiting, self._crash, self._halt, self._snapshots)
            stack.push_async_callback(parts.stop)
            await parts.server.start()
            stack.pop_all()
        self._parts = parts

    def _bring_level(self, store: OrderedStore) -> None:
        """Initialise a new application; compare one that has committed blocks with our file."""
        info = self._app.info()
        if not info.initialised:
            if store.height:
                _LOG.warning(
                    "%s: the application has lost its state; its %d blocks are executed again",
                    self._config.node,
                    store.height,
                )
            self._app.init(self._config.genesis)
        elif info.height > store.height:
            raise Broken(
                f"the application stands at block {info.height}, {self._config.data_dir} knows of blocks up to "
                f"{store.height}: they are not of one copy; {REMEDY}"
            )
        elif info.height and store.app_hash(info.height) != info.app_hash:
            raise Broken(
                f"the application's state after block {info.height} is {info.app_hash.hex()[:16]}; "
                f"{self._config.data_dir} recorded {(store.app_hash(info.height) or b'').hex()[:16]}: they are not of "
                f"one copy; {REMEDY}"
            )

    async def run(self) -> None:
        """Take part until cancelled or stopped.

        Raises:
            ConfigurationError: the child was made for another network.
            Broken: the application, the disk or the child failed.
        """
        parts = self._opened()
        self._waiting.check_running()
        if parts.child is not None:
            await parts.child.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._waiting.end())
                group.create_task(parts.care())
                if parts.child is not None:
                    group.create_task(parts.child.run())
        except BaseExceptionGroup as group_error:
            reason = group_error.exceptions[0]
            self._halt(reason)
            halted = self._waiting.halted or reason
            if isinstance(reason, SwarmError) and isinstance(halted, Closed):
                return
            raise halted from reason

    def _halt(self, error: BaseException) -> None:
        if isinstance(error, SwarmError):
            self._waiting.halt(error)
        else:
            self._waiting.halt(Broken(f"the ledger engine failed: {type(error).__name__}: {error}"))

    async def stop(self) -> None:
        """End the child and close the file; whoever waits gets `Closed`. Call it once more and nothing happens."""
        self._waiting.halt(Closed("the ledger engine was stopped"))
        if self._parts is not None:
            parts, self._parts = self._parts, None
            await parts.stop()

    async def submit(self, tx: bytes, *, timeout_s: float) -> tuple[int, TxResult]:
        """See `LedgerView.submit`.

        The same bytes are ordered at most once: submitted again, they give the height and result of the first time.

        Raises:
            WaitExpired: not committed here within `timeout_s` seconds; says why. It may still be ordered.
            Broken: the engine has halted.
            Closed: the engine was not started, or was stopped.
        """
        self._waiting.check_running()
        return await self._opened().submitter.submit(tx, timeout_s)

    async def wait_height(self, above: int) -> int:
        """Wait until the committed height exceeds `above`, and return it.

        Raises:
            SwarmError: the engine halted; why.
        """
        self._waiting.check_running()
        while self.height <= above:
            await self._waiting.next_news()
        return self.height

    async def ask_light(self, method: str, params: dict[str, str]) -> bytes:
        """What the child answers a light client about a block, as JSON.

        Raises:
            Closed: the engine was not started, or was stopped.
            SwarmError: the child does not answer, or with an error.
        """
        return bytes(await self._opened().rpc.call(method, dict(params), msgspec.Raw))

    async def lowest(self) -> int:
        """Height of the first block that the child still keeps.

        Raises:
            SwarmError: the child does not answer as it should.
        """
        return await self._archive().lowest()

    async def stored(self, height: int) -> StoredBlock | None:
        """See `LedgerArchive.stored`.

        Raises:
            SwarmError: the child does not answer as it should.
        """
        return await self._archive().stored(height)

    async def prove(self, height: int) -> LedgerProof | None:
        """See `LedgerArchive.prove`.

        Raises:
            SwarmError: the child does not answer as it should, or not from the genesis on.
        """
        return await self._archive().prove(height)

    async def prove_tx(self, tx_hash: bytes) -> LedgerProof | None:
        """See `LedgerArchive.prove_tx`.

        Raises:
            SwarmError: as for `prove`.
        """
        return await self._archive().prove_tx(tx_hash)

    def _archive(self) -> CometArchive:
        parts, config = self._opened(), self._config
        first = first_members(config.initial)

        def find(tx_hash: bytes) -> Outcome | None:
            return parts.store.find(tx_hash, upto=self.height)

        return CometArchive(config.network, first, parts.rpc.call, lambda: self.height, find)

    def _opened(self) -> Parts:
        if self._parts is None:
            raise self._waiting.halted or Closed("the ledger engine has not been started")
        return self._parts
