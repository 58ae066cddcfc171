"""The chain of one node: its stored blocks and the application that executed them, kept in step.

The commit path, with its numbered crash points::

    1 before apply | app.apply | 2 after apply | store (fsync) | 3 after stored | app.commit | 4 after commit |
    the height is visible here and to followers | 5 before acknowledge | waiters are told

The blocks are what is durable; the state follows from them, so it is not fsynced a second time. After a crash at any
of the points the store is level with the application or exactly one block ahead, after a power cut a few blocks; they
are executed again, and each must give the state that it records. Nothing is acknowledged or served before it is stored.

It also knows who orders which block: the genesis's sentinel, and after a handover the one that a majority named.

Does not: decide what goes into a block (`sentinel`) or whether a block is genuine (`following`). Spec: section 3.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import Broken, Closed, ConfigurationError, ForkDetected, SwarmError, VerificationError
from swarmlearning.ledger.boundary import Application, Applied, Header, StoredBlock
from swarmlearning.ledger.embedded.blocks import (
    Block,
    Evidence,
    execution_header,
    hash_header,
    verify_header,
)
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.crash import Crash, CrashPoint
from swarmlearning.ledger.embedded.handovers import Reigns, SignedHandover
from swarmlearning.ledger.embedded.reigning import Reigning
from swarmlearning.ledger.embedded.store import BlockStore
from swarmlearning.ledger.waiting import Outcome, Waiting

_LOG: Final = logging.getLogger("swarmlearning.ledger")

RECENT: Final = 8
"""Blocks kept as they travel, beside the file."""

_APP_HASH: Final = "genesis_app_hash"


class Chain:
    """Stored blocks and executed state, in step.

    Attributes:
        waiting: everyone who waits for more blocks.
        reigning: who orders which block, and what this node promised about it.

    Args:
        config: who and where.
        app: the application; driven by nobody else.
        crash: called at each crash point; raises where a test wants the node to die.
    """

    def __init__(self, config: EmbeddedConfig, app: Application, crash: Crash) -> None:
        self._config = config
        self._app = app
        self._crash = crash
        self._store: BlockStore | None = None
        self._height = 0
        self._tip: Block | None = None
        self._recent: dict[int, bytes] = {}
        """The last blocks, encoded: every follower asks for each of them."""
        self.waiting = Waiting()
        self.reigning = Reigning(config, app, crash)

    # --- what stands ------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """Height of the last block that is stored and executed."""
        return self._height

    @property
    def tip(self) -> Block | None:
        """The last block."""
        return self._tip

    @property
    def genesis_hash(self) -> bytes:
        """What block 1 links to."""
        return sha256(self._config.genesis)

    @property
    def is_open(self) -> bool:
        """Whether there is a store to serve from."""
        return self._store is not None

    @property
    def reigns(self) -> Reigns:
        """Who orders which block."""
        return self.reigning.reigns

    @property
    def tip_hash(self) -> bytes:
        """What the next block links to."""
        return self.genesis_hash if self._tip is None else hash_header(self._tip.header)

    @property
    def tip_time_ms(self) -> int:
        """Time that the next block must not precede."""
        return 0 if self._tip is None else self._tip.header.time_ms

    @property
    def store(self) -> BlockStore:
        """The open store.

        Raises:
            Closed: not started, or stopped.
        """
        if self._store is None:
            raise self.waiting.halted or Closed("the ledger engine has not been started")
        return self._store

    def read(self, height: int) -> Block | None:
        """The committed block of `height`; None if there is none (yet).

        Raises:
            Closed: not started, or stopped.
            Broken: it is damaged on disk.
        """
        return self.store.read(height) if 1 <= height <= self._height else None

    def read_encoded(self, height: int) -> bytes | None:
        """The committed block of `height` as it travels; None if there is none (yet).

        Raises:
            Closed: not started, or stopped.
            Broken: it is damaged on disk.
        """
        if height in self._recent:
            return self._recent[height]
        block = self.read(height)
        return None if block is None else encode(block)

    def read_stored(self, height: int) -> StoredBlock | None:
        """The committed block of `height` with its results; None if there is none (yet).

        Raises:
            Closed: not started, or stopped.
            Broken: it is damaged on disk.
        """
        block = self.read(height)
        if block is None:
            return None
        header = block.header
        return StoredBlock(
            height=header.height,
            time_ms=header.time_ms,
            hash=hash_header(header),
            proposer=header.proposer,
            txs=block.txs,
            results=self.store.read_results(height),
        )

    def find(self, tx_hash: bytes) -> Outcome | None:
        """Where the transaction with this hash was committed and what came of it; None if it was not."""
        found = self.store.find(tx_hash)
        return found if found is not None and found[0] <= self._height else None

    # --- start and recovery -----------------------------------------------------------------------------------

    def open(self, *, despite_fork: bool = False) -> None:
        """Open the store and bring the application level with it.

        Args:
            despite_fork: do not mind evidence against the sentinel: it is to be replaced.

        Raises:
            ForkDetected: evidence against the sentinel was kept before.
            ConfigurationError: the store is in use by another process, or of another genesis.
            Broken: the store is damaged, or the application and it do not belong together.
        """
        self._store = BlockStore(self._config.data_dir, self._config.genesis)
        try:
            self.reigning.open(self._store)
            evidence = self._store.load_evidence()
            if evidence is not None and not despite_fork and not self.reigning.is_settled(evidence):
                raise fork_error(self._config, evidence)
            self._recover(self._store)
        except BaseException:
            self._store.close()
            self._store = None
            raise

    def _recover(self, store: BlockStore) -> None:
        info = self._app.info()
        first = store.get_meta(_APP_HASH)
        if not info.initialised:
            if info.height:
                raise Broken(f"the application stands at height {info.height} but says that it was never initialised")
            app_hash = self._app.init(self._config.genesis)
            info = self._app.info()
            if first is not None and app_hash != first:
                raise Broken("the application makes another state of the same genesis than before: another release?")
        if first is None:
            if info.height or store.height:
                raise Broken(
                    f"the application stands at height {info.height} but the ledger's file is new: "
                    "restore the ledger's file, or empty the application too"
                )
            # Level at height 0: either both are new, or the node died between the two writes.
            store.set_meta(_APP_HASH, info.app_hash)
            first = info.app_hash
        self._replay(store, info.height, first)
        self._height = store.height
        self._tip = store.read(store.height) if store.height else None
        if self._tip is not None:
            try:
                verify_header(self._tip.signed_header, self._config.network, self.reigns.at(self._height).key)
            except VerificationError as error:
                raise Broken(f"the stored ledger is not the one of this genesis: {error}") from error

    def _replay(self, store: BlockStore, app_height: int, first: bytes) -> None:
        behind = store.height - app_height
        if behind < 0:
            raise Broken(
                f"the application stands at height {app_height}, its ledger only at {store.height}: "
                "the ledger's file is older than the application's; restore both from one backup"
            )
        expected = first if app_height == 0 else self._stored(store, app_height).header.app_hash
        if self._app.info().app_hash != expected:
            raise Broken(f"the application's state at height {app_height} is not the one that its ledger records")
        if behind > 1:
            _LOG.warning("%s: executing the last %d blocks again", self._config.node, behind)
        self.reigning.check_voters(app_height)
        for height in range(app_height + 1, store.height + 1):
            block = self._stored(store, height)
            self._check_hash(block, self.execute(execution_header(block.header), block.txs))
            self._app.commit()
            self.reigning.check_voters(height)

    def _stored(self, store: BlockStore, height: int) -> Block:
        block = store.read(height)
        if block is None:
            raise Broken(f"block {height} is missing from the ledger's file")
        return block

    # --- the next block ---------------------------------------------------------------------------------------

    def execute(self, header: Header, txs: Sequence[bytes]) -> Applied:
        """Execute a block in memory.

        Raises:
            Broken: the application failed, which is a bug: a block that one node cannot execute, none can.
        """
        try:
            applied = self._app.apply(header, txs)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise Broken(f"the application failed at block {header.height} ({what}); this is a bug") from error
        if len(applied.results) != len(txs):
            raise Broken(f"block {header.height}: {len(applied.results)} results for {len(txs)} transactions")
        return applied

    def extend(self, header: Header, txs: Sequence[bytes], seal: Callable[[Applied], Block]) -> None:
        """Execute, store and commit the next block, then tell whoever waits for it.

        Args:
            header: of the next block.
            txs: its transactions.
            seal: makes or completes the block once its app hash is known; raises to refuse it.

        Raises:
            Broken: the application or the disk failed.
        """
        self._crash(CrashPoint.BEFORE_APPLY)
        applied = self.execute(header, txs)
        self._crash(CrashPoint.AFTER_APPLY)
        block = seal(applied)
        encoded = self.store.append(block, applied.results)
        self._crash(CrashPoint.AFTER_STORED)
        self._app.commit()
        self._crash(CrashPoint.AFTER_COMMIT)
        self._height, self._tip = header.height, block
        self._recent[header.height] = encoded
        self._recent.pop(header.height - RECENT, None)
        self.waiting.announce()
        self._crash(CrashPoint.BEFORE_ACKNOWLEDGE)
        for tx, result in zip(txs, applied.results, strict=True):
            self.waiting.tell(sha256(tx), (header.height, result))

    def adopt(self, block: Block) -> None:
        """Commit a block that another node made and whose header has been verified.

        Raises:
            Broken: executing it here gives another state than the sentinel signed.
        """

        def seal(applied: Applied) -> Block:
            self._check_hash(block, applied)
            return block

        self.extend(execution_header(block.header), block.txs, seal)

    def _check_hash(self, block: Block, applied: Applied) -> None:
        header = block.header
        if applied.app_hash != header.app_hash:
            raise Broken(
                f"block {header.height}: executing it here gives state {applied.app_hash.hex()[:16]}, the sentinel "
                f"signed {header.app_hash.hex()[:16]}; do all nodes run the same release? This node stops"
            )

    # --- heights and the end ----------------------------------------------------------------------------------

    async def wait_height(self, above: int) -> int:
        """Wait until the height exceeds `above`, and return it.

        Raises:
            SwarmError: the engine halted.
        """
        while self._height <= above:
            await self.waiting.next_news()
        return self._height

    def convict(self, evidence: Evidence) -> ForkDetected:
        """Keep proof that the sentinel lied, halt, and return the error to raise.

        Raises:
            VerificationError: it proves nothing.
        """
        self.reigning.verify_evidence(evidence)
        self.store.save_evidence(evidence)
        error = fork_error(self._config, evidence)
        self.end(error)
        return error

    def install(self, signed: SignedHandover) -> None:
        """Go by a handover after the block at which this node stands.

        Raises:
            VerificationError: it does not follow what is known, is not after our last block, or lacks signatures.
            Broken: the disk failed.
        """
        self.reigning.install(signed, self._height, self.tip_hash)
        self.waiting.announce()

    def compare_handover(self, signed: SignedHandover) -> None:
        """Compare another node's handover with what stands here, and stop where ours is void.

        Raises:
            ForkDetected: two of one epoch have a majority: some SN signed twice. The engine halts.
            ConfigurationError: a newer one ended our sentinel's reign elsewhere than where we stand.
        """
        try:
            self.reigning.check_rival(signed)
            self.reigning.check_void(signed, self._height)
        except (ForkDetected, ConfigurationError) as error:
            raise self.end(error) from error.__cause__

    def end(self, error: ForkDetected | ConfigurationError) -> SwarmError:
        """Halt at once, so that not one block more is ordered or adopted, and return the error to raise."""
        _LOG.critical("%s: %s", self._config.node, error)
        self.waiting.halt(error)
        return error

    def close(self) -> None:
        """Close the store; everyone who still waits gets `Closed`."""
        self.waiting.halt(Closed("the ledger engine was stopped"))
        if self._store is not None:
            self._store.close()
            self._store = None


def fork_error(config: EmbeddedConfig, evidence: Evidence) -> ForkDetected:
    """What everyone hears once the sentinel is convicted."""
    first, second = evidence.first.header, evidence.second.header
    return ForkDetected(
        f"sentinel {first.proposer} signed block {first.height} as {hash_header(first).hex()[:16]} and a "
        f"contradicting block {second.height} as {hash_header(second).hex()[:16]}: the network stops; the evidence is "
        f"kept in {'memory' if config.data_dir is None else config.data_dir}, agree on a new sentinel (swarm network "
        "handover)"
    )
