"""The blocks on disk: one SQLite file, one SQL transaction a block, fsynced before `append` returns.

WAL with `synchronous=FULL` costs one fsync a block (a rollback journal costs three) and loses nothing at a power cut.
The file is locked exclusively: a second process on the same data directory would be a second sentinel.

Does not: verify signatures or links (`chain`), or keep the application's state. Spec: docs/spec/ledger.md, section 2.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import Broken, ConfigurationError, DecodeError
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded.blocks import Block, Evidence, hash_header, hash_txs
from swarmlearning.ledger.embedded.handovers import SignedHandover, Voters
from swarmlearning.types import NodeId

FILE_NAME: Final = "ledger.sqlite"
"""The store's file within the data directory."""

APPLICATION_ID: Final = 0x53574C31
"""Marks the file as ours ("SWL1")."""

FORMAT: Final = 2
"""Raised when the tables change; 1 had no handovers, and gets their table."""

_MAX_RESULTS_BYTES: Final = 16 << 20

_HANDOVERS: Final = "CREATE TABLE handover (epoch INTEGER PRIMARY KEY, body BLOB NOT NULL, voters BLOB NOT NULL) STRICT"

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE block (
  height INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL, results BLOB NOT NULL
) STRICT;
CREATE TABLE tx (hash BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE evidence (height INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
{_HANDOVERS};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


class Voter(Record, frozen=True, kw_only=True):
    """One of the SNs that counted when a handover was verified."""

    node: NodeId
    key: bytes


class BlockStore:
    """The blocks of one network, by height; opens or creates the file.

    Args:
        directory: where the file lies, created if missing; None keeps everything in memory.
        genesis: the network's genesis bytes. A new store remembers them, an old one must hold the same.

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
        database = ":memory:" if directory is None else str(directory / FILE_NAME)
        with self._damage():
            self._height = 0
            self._db = sqlite3.connect(database, isolation_level=None, timeout=0)
        try:
            with self._damage():
                self._open(genesis)
        except BaseException:
            self._db.close()
            raise

    @property
    def height(self) -> int:
        """Height of the last stored block, 0 before the first."""
        return self._height

    @property
    def transactions(self) -> int:
        """How many different transactions the stored blocks hold."""
        with self._damage():
            return int(self._db.execute("SELECT count(*) FROM tx").fetchone()[0])

    def append(self, block: Block, results: Sequence[TxResult]) -> bytes:
        """Store the next block with its results, durably, and return it encoded.

        Raises:
            Broken: it is not the next one, or the disk failed.
        """
        height = block.header.height
        if height != self._height + 1:
            raise Broken(f"{self._path}: expected block {self._height + 1} next, got {height}")
        encoded = encode(block)
        row = (height, hash_header(block.header), encoded, encode(tuple(results)))
        with self._damage(), self._transaction():
            self._db.execute("INSERT INTO block VALUES (?, ?, ?, ?)", row)
            self._db.executemany(
                "INSERT OR IGNORE INTO tx VALUES (?, ?, ?)",
                [(sha256(tx), height, position) for position, tx in enumerate(block.txs)],
            )
        self._height = height
        return encoded

    def read(self, height: int) -> Block | None:
        """The block of `height`, None if there is none.

        Raises:
            Broken: what is stored there is damaged.
        """
        with self._damage():
            row = self._db.execute("SELECT hash, body FROM block WHERE height = ?", (height,)).fetchone()
        if row is None:
            return None
        try:
            block = decode(row[1], Block)
        except DecodeError as error:
            raise self._damaged(f"block {height} is damaged ({error})") from error
        if block.header.height != height or hash_header(block.header) != row[0]:
            raise self._damaged(f"block {height} is damaged (its header does not match its hash)")
        if hash_txs(block.txs) != block.header.txs_root:
            raise self._damaged(f"block {height} is damaged (its transactions do not match its header)")
        return block

    def find(self, tx_hash: bytes) -> tuple[int, TxResult] | None:
        """Height and result of the transaction with this SHA-256 among the stored blocks; None if it is in none.

        Raises:
            Broken: the stored results are damaged.
        """
        with self._damage():
            row = self._db.execute(
                "SELECT tx.height, position, results FROM tx JOIN block USING (height) WHERE tx.hash = ?", (tx_hash,)
            ).fetchone()
        if row is None:
            return None
        height, position, results = row
        try:
            return height, self._decode_results(height, results)[position]
        except IndexError as error:
            raise self._damaged(f"the results of block {height} are damaged ({error})") from error

    def read_results(self, height: int) -> tuple[TxResult, ...]:
        """The results of the transactions of block `height`, in order; none if there is no such block.

        Raises:
            Broken: what is stored there is damaged.
        """
        with self._damage():
            row = self._db.execute("SELECT results FROM block WHERE height = ?", (height,)).fetchone()
        return () if row is None else self._decode_results(height, row[0])

    def _decode_results(self, height: int, results: bytes) -> tuple[TxResult, ...]:
        try:
            return decode(results, tuple[TxResult, ...], limit=_MAX_RESULTS_BYTES)
        except DecodeError as error:
            raise self._damaged(f"the results of block {height} are damaged ({error})") from error

    def save_evidence(self, evidence: Evidence) -> None:
        """Keep proof that the sentinel lied, durably; the first proof for a height stays."""
        height = min(evidence.first.header.height, evidence.second.header.height)
        with self._damage(), self._transaction():
            self._db.execute("INSERT OR IGNORE INTO evidence VALUES (?, ?)", (height, encode(evidence)))

    def load_evidence(self) -> Evidence | None:
        """The kept proof for the lowest height, None if there is none.

        Raises:
            Broken: it is damaged.
        """
        with self._damage():
            row = self._db.execute("SELECT body FROM evidence ORDER BY height LIMIT 1").fetchone()
        try:
            return None if row is None else decode(row[0], Evidence)
        except DecodeError as error:
            raise self._damaged(f"the evidence of a fork is damaged ({error})") from error

    def save_handover(self, signed: SignedHandover, voters: Voters) -> None:
        """Keep a verified handover and the SNs whose majority it has, durably."""
        counted = tuple(Voter(node=node, key=voters[node]) for node in sorted(voters))
        row = (signed.handover.epoch, encode(signed), encode(counted))
        with self._damage(), self._transaction():
            self._db.execute("INSERT INTO handover VALUES (?, ?, ?)", row)

    def load_handovers(self) -> list[tuple[SignedHandover, Voters]]:
        """The kept handovers, by epoch, each with the SNs that counted.

        Raises:
            Broken: one is damaged.
        """
        with self._damage():
            rows = self._db.execute("SELECT body, voters FROM handover ORDER BY epoch").fetchall()
        try:
            return [
                (
                    decode(body, SignedHandover),
                    {voter.node: voter.key for voter in decode(voters, tuple[Voter, ...])},
                )
                for body, voters in rows
            ]
        except DecodeError as error:
            raise self._damaged(f"a handover is damaged ({error})") from error

    def set_meta(self, key: str, value: bytes) -> None:
        """Remember a value about the store itself, durably."""
        with self._damage(), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def get_meta(self, key: str) -> bytes | None:
        """What was remembered under `key`."""
        with self._damage():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        """Close the file; nothing that was appended is lost."""
        self._db.close()

    def _open(self, genesis: bytes) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        marks = tuple(self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if marks == (0, 0) and tables == 0:
            self._create(genesis)
        elif marks[0] != APPLICATION_ID:
            raise Broken(f"{self._path} is no ledger of ours: another program's file lies there; move it away")
        elif marks[1] == 1:
            with self._transaction():
                self._db.execute(_HANDOVERS)
                self._db.execute(f"PRAGMA user_version = {FORMAT}")
        elif marks[1] != FORMAT:
            raise Broken(f"{self._path} has format {marks[1]}, this release reads {FORMAT}: use the release it is from")
        # Takes the lock now rather than at the first block.
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("COMMIT")
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(str(found).replace("\n", " "))
        stored = self.get_meta("genesis")
        if stored != genesis:
            raise ConfigurationError(
                f"{self._path} began with genesis {sha256(stored or b'').hex()[:16]}, but this node was given "
                f"{sha256(genesis).hex()[:16]}: give the network's own genesis, or another data directory"
            )
        count, height = self._db.execute("SELECT count(*), coalesce(max(height), 0) FROM block").fetchone()
        if count != height:
            raise self._damaged(f"it holds {count} blocks up to height {height}: blocks are missing")
        self._height = int(height)

    def _create(self, genesis: bytes) -> None:
        try:
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT INTO meta VALUES ('genesis', ?)", (genesis,))
            self._db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

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
        return Broken(f"{self._path} cannot be used: {how}; copy another node's ledger (a replica may start empty)")
