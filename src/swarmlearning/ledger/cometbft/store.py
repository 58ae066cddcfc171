"""What the engine itself remembers: which transaction went into which block, with what result.

One SQLite file, one SQL transaction a block, fsynced before the application commits the block: so it is level with the
application or ahead of it, never behind. Blocks lie with CometBFT and can be executed again; writing one again changes
nothing, and must give what was written the first time.

Does not: hold blocks or state. Spec: docs/spec/ledger-cometbft.md, section 4.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken, ConfigurationError, DecodeError
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.waiting import Outcome

FILE_NAME: Final = "ordered.sqlite"
"""The store's file within the data directory."""

APPLICATION_ID: Final = 0x53574C43
"""Marks the file as ours ("SWLC")."""

FORMAT: Final = 1
"""Raised when the tables change."""

REMEDY: Final = (
    "stop this node, remove the *.sqlite* files of its data directory (never what lies below cometbft: it records what "
    "was signed), and start it again: all blocks are executed anew; where old ones are not kept, see run-on-cometbft.md"
)
"""What to do where our files do not fit together. An old copy of the whole directory might make the key sign twice."""

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE block (height INTEGER PRIMARY KEY, app_hash BLOB NOT NULL) STRICT;
CREATE TABLE tx (hash BLOB PRIMARY KEY, height INTEGER NOT NULL, result BLOB NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


class OrderedStore:
    """Heights and results of ordered transactions; opens or creates the file.

    Args:
        directory: where the file lies, created if missing; None keeps everything in memory.
        genesis: the network's genesis bytes. A new store remembers their hash, an old one must hold the same.

    Raises:
        ConfigurationError: the directory cannot be made; the file is in use by another process or of another genesis.
        Broken: the file is damaged or foreign.
    """

    def __init__(self, directory: Path | None, genesis: bytes) -> None:
        self._path = "the in-memory ledger" if directory is None else str(directory / FILE_NAME)
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigurationError(f"{directory} cannot hold the ledger ({error}); name another one") from error
        with self._damage():
            self._db = sqlite3.connect(
                ":memory:" if directory is None else str(directory / FILE_NAME), isolation_level=None, timeout=0
            )
        try:
            with self._damage():
                self._open(sha256(genesis))
        except BaseException:
            self._db.close()
            raise

    @property
    def height(self) -> int:
        """Height of the last block written, 0 before the first."""
        with self._damage():
            return int(self._db.execute("SELECT coalesce(max(height), 0) FROM block").fetchone()[0])

    @property
    def transactions(self) -> int:
        """How many different transactions have been ordered."""
        with self._damage():
            return int(self._db.execute("SELECT count(*) FROM tx").fetchone()[0])

    def write(self, height: int, app_hash: bytes, txs: Sequence[bytes], results: Sequence[TxResult]) -> None:
        """Remember a block durably; a transaction that was ordered before keeps its first height and result.

        Raises:
            Broken: the block was written before with another state, a block before it is missing, or the disk failed.
        """
        with self._damage(), self._transaction():
            before = self.app_hash(height)
            if before is not None and before != app_hash:
                raise Broken(
                    f"block {height} was executed again and gives state {app_hash.hex()[:16]}, the first time "
                    f"{before.hex()[:16]}: the application is not deterministic, or its state was damaged in between; "
                    f"{REMEDY}"
                )
            top = int(self._db.execute("SELECT coalesce(max(height), 0) FROM block").fetchone()[0])
            if height > top + 1:
                raise Broken(f"{self._path}: expected block {top + 1} next, got {height}")
            self._db.execute("INSERT OR IGNORE INTO block VALUES (?, ?)", (height, app_hash))
            self._db.executemany(
                "INSERT OR IGNORE INTO tx VALUES (?, ?, ?)",
                [(sha256(tx), height, encode(result)) for tx, result in zip(txs, results, strict=True)],
            )

    def begin_at(self, height: int, app_hash: bytes, *, keep: int = 0) -> None:
        """Begin with the block of `height`, whose state comes from a snapshot; what was there is forgotten.

        Args:
            height: of the snapshot.
            app_hash: the application's after that block.
            keep: where the application stands until it has that state: this block is not forgotten.

        Raises:
            Broken: the disk failed.
        """
        with self._damage(), self._transaction():
            self._db.execute("DELETE FROM tx")
            self._db.execute("DELETE FROM block WHERE height != ?", (keep,))
            self._db.execute("INSERT OR REPLACE INTO block VALUES (?, ?)", (height, app_hash))

    def app_hash(self, height: int) -> bytes | None:
        """The application's state after the block of `height`, None if it was not written."""
        with self._damage():
            row = self._db.execute("SELECT app_hash FROM block WHERE height = ?", (height,)).fetchone()
        return None if row is None else bytes(row[0])

    def find(self, tx_hash: bytes, *, upto: int) -> Outcome | None:
        """Height and result of the transaction with this SHA-256; None if no block up to `upto` holds it.

        What the application has not committed yet must not be told: this file may be ahead of it, and if the child has
        lost its newest blocks, too, they are decided anew.

        Raises:
            Broken: what is stored there is damaged.
        """
        with self._damage():
            row = self._db.execute(
                "SELECT height, result FROM tx WHERE hash = ? AND height <= ?", (tx_hash, upto)
            ).fetchone()
        if row is None:
            return None
        try:
            return int(row[0]), decode(row[1], TxResult)
        except DecodeError as error:
            raise self._damaged(f"the result of a transaction of block {row[0]} is damaged ({error})") from error

    def close(self) -> None:
        """Close the file; nothing that was written is lost."""
        self._db.close()

    def _open(self, genesis_hash: bytes) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        marks = tuple(self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if marks == (0, 0) and tables == 0:
            try:
                self._db.executescript(_SCHEMA)
                self._db.execute("INSERT INTO meta VALUES ('genesis', ?)", (genesis_hash,))
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        elif marks[0] != APPLICATION_ID:
            raise Broken(f"{self._path} is no ledger of ours: another program's file lies there; move it away")
        elif marks[1] != FORMAT:
            raise Broken(f"{self._path} has format {marks[1]}, this release reads {FORMAT}: use the release it is from")
        # Takes the lock now rather than at the first block.
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("COMMIT")
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(str(found).replace("\n", " "))
        stored = self._db.execute("SELECT value FROM meta WHERE key = 'genesis'").fetchone()[0]
        if stored != genesis_hash:
            raise ConfigurationError(
                f"{self._path} began with genesis {stored.hex()[:16]}, but this node was given "
                f"{genesis_hash.hex()[:16]}: give the network's own genesis, or another data directory"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                # Only at the opening: from then on the lock is ours.
                raise ConfigurationError(
                    f"{self._path} is in use by another process: stop that one, or give this node its own directory"
                ) from error
            raise self._damaged(str(error)) from error

    def _damaged(self, how: str) -> Broken:
        return Broken(f"{self._path} cannot be used: {how}; {REMEDY}")
