"""What the engine itself remembers: which transaction went into which block, with what result.

One SQLite file, one SQL transaction a block, fsynced before the application commits the block: so it is level with the
application or ahead of it, never behind. Blocks lie with CometBFT and can be executed again; writing one again changes
nothing, and must give what was written the first time.

Does not: hold blocks or state. Spec: docs/spec/ledger-cometbft.md, section 4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.file import Kind, LedgerFile
from swarmlearning.ledger.waiting import Outcome

FILE_NAME: Final = "ordered.sqlite"
"""The store's file within the data directory."""

REMEDY: Final = (
    "stop this node, remove the *.sqlite* files of its data directory (never what lies below cometbft: it records what "
    "was signed), and start it again: all blocks are executed anew; where old ones are not kept, see run-on-cometbft.md"
)
"""What to do where our files do not fit together. An old copy of the whole directory might make the key sign twice."""

_KIND: Final = Kind(
    name=FILE_NAME,
    application_id=0x53574C43,  # "SWLC"
    format=1,
    tables=(
        "CREATE TABLE block (height INTEGER PRIMARY KEY, app_hash BLOB NOT NULL) STRICT",
        "CREATE TABLE tx (hash BLOB PRIMARY KEY, height INTEGER NOT NULL, result BLOB NOT NULL) STRICT, WITHOUT ROWID",
    ),
    remedy=REMEDY,
)


class OrderedStore:
    """Heights and results of ordered transactions; opens or creates the file.

    Args:
        directory: where the file lies, created if missing; None keeps everything in memory.
        genesis: the network's genesis bytes. A new store remembers them, an old one must hold the same.

    Raises:
        ConfigurationError: the directory cannot be made; the file is in use by another process or of another genesis.
        Broken: the file is damaged or foreign.
    """

    def __init__(self, directory: Path | None, genesis: bytes) -> None:
        self._file = LedgerFile(_KIND, directory, genesis)
        self._db = self._file.db

    @property
    def height(self) -> int:
        """Height of the last block written, 0 before the first."""
        with self._file.damage():
            return int(self._db.execute("SELECT coalesce(max(height), 0) FROM block").fetchone()[0])

    @property
    def transactions(self) -> int:
        """How many different transactions have been ordered."""
        with self._file.damage():
            return int(self._db.execute("SELECT count(*) FROM tx").fetchone()[0])

    def write(self, height: int, app_hash: bytes, txs: Sequence[bytes], results: Sequence[TxResult]) -> None:
        """Remember a block durably; a transaction that was ordered before keeps its first height and result.

        Raises:
            Broken: the block was written before with another state, a block before it is missing, or the disk failed.
        """
        with self._file.damage(), self._file.transaction():
            before = self.app_hash(height)
            if before is not None and before != app_hash:
                raise Broken(
                    f"block {height} was executed again and gives state {app_hash.hex()[:16]}, the first time "
                    f"{before.hex()[:16]}: the application is not deterministic, or its state was damaged in between; "
                    f"{REMEDY}"
                )
            top = int(self._db.execute("SELECT coalesce(max(height), 0) FROM block").fetchone()[0])
            if height > top + 1:
                raise Broken(f"{self._file.path}: expected block {top + 1} next, got {height}")
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
        with self._file.damage(), self._file.transaction():
            self._db.execute("DELETE FROM tx")
            self._db.execute("DELETE FROM block WHERE height != ?", (keep,))
            self._db.execute("INSERT OR REPLACE INTO block VALUES (?, ?)", (height, app_hash))

    def app_hash(self, height: int) -> bytes | None:
        """The application's state after the block of `height`, None if it was not written."""
        with self._file.damage():
            row = self._db.execute("SELECT app_hash FROM block WHERE height = ?", (height,)).fetchone()
        return None if row is None else bytes(row[0])

    def find(self, tx_hash: bytes, *, upto: int) -> Outcome | None:
        """Height and result of the transaction with this SHA-256; None if no block up to `upto` holds it.

        What the application has not committed yet must not be told: this file may be ahead of it, and if the child has
        lost its newest blocks, too, they are decided anew.

        Raises:
            Broken: what is stored there is damaged.
        """
        with self._file.damage():
            row = self._db.execute(
                "SELECT height, result FROM tx WHERE hash = ? AND height <= ?", (tx_hash, upto)
            ).fetchone()
        if row is None:
            return None
        try:
            return int(row[0]), decode(row[1], TxResult)
        except DecodeError as error:
            raise self._file.damaged(f"the result of a transaction of block {row[0]} is damaged ({error})") from error

    def close(self) -> None:
        """Close the file; nothing that was written is lost."""
        self._file.close()
