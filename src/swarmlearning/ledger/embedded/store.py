"""The blocks on disk: one SQLite file, one SQL transaction a block, fsynced before `append` returns.

Does not: verify signatures or links (`chain`), or keep the application's state. Spec: docs/spec/ledger.md, section 2.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded.blocks import Block, Evidence, hash_header, hash_txs
from swarmlearning.ledger.embedded.handovers import SignedHandover, Voters
from swarmlearning.ledger.file import Kind, LedgerFile
from swarmlearning.types import NodeId

FILE_NAME: Final = "ledger.sqlite"
"""The store's file within the data directory."""

_MAX_RESULTS_BYTES: Final = 16 << 20

_HANDOVERS: Final = "CREATE TABLE handover (epoch INTEGER PRIMARY KEY, body BLOB NOT NULL, voters BLOB NOT NULL) STRICT"

_BLOCKS: Final = """CREATE TABLE block (
  height INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL, results BLOB NOT NULL
) STRICT"""
_TXS: Final = """CREATE TABLE tx (
  hash BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL
) STRICT, WITHOUT ROWID"""

_KIND: Final = Kind(
    name=FILE_NAME,
    application_id=0x53574C31,  # "SWL1"
    format=2,
    tables=(
        _BLOCKS,
        _TXS,
        "CREATE TABLE evidence (height INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
        _HANDOVERS,
    ),
    upgrades={1: _HANDOVERS},
    remedy="copy another node's ledger (a replica may start empty)",
)


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
        self._file = LedgerFile(_KIND, directory, genesis)
        self._db = self._file.db
        try:
            self._height = self._count_blocks()
        except BaseException:
            self._file.close()
            raise

    @property
    def height(self) -> int:
        """Height of the last stored block, 0 before the first."""
        return self._height

    @property
    def transactions(self) -> int:
        """How many different transactions the stored blocks hold."""
        with self._file.damage():
            return int(self._db.execute("SELECT count(*) FROM tx").fetchone()[0])

    def append(self, block: Block, results: Sequence[TxResult]) -> bytes:
        """Store the next block with its results, durably, and return it encoded.

        Raises:
            Broken: it is not the next one, or the disk failed.
        """
        height = block.header.height
        if height != self._height + 1:
            raise Broken(f"{self._file.path}: expected block {self._height + 1} next, got {height}")
        encoded = encode(block)
        row = (height, hash_header(block.header), encoded, encode(tuple(results)))
        with self._file.damage(), self._file.transaction():
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
        with self._file.damage():
            row = self._db.execute("SELECT hash, body FROM block WHERE height = ?", (height,)).fetchone()
        if row is None:
            return None
        try:
            block = decode(row[1], Block)
        except DecodeError as error:
            raise self._file.damaged(f"block {height} is damaged ({error})") from error
        if block.header.height != height or hash_header(block.header) != row[0]:
            raise self._file.damaged(f"block {height} is damaged (its header does not match its hash)")
        if hash_txs(block.txs) != block.header.txs_root:
            raise self._file.damaged(f"block {height} is damaged (its transactions do not match its header)")
        return block

    def find(self, tx_hash: bytes) -> tuple[int, TxResult] | None:
        """Height and result of the transaction with this SHA-256 among the stored blocks; None if it is in none.

        Raises:
            Broken: the stored results are damaged.
        """
        with self._file.damage():
            row = self._db.execute(
                "SELECT tx.height, position, results FROM tx JOIN block USING (height) WHERE tx.hash = ?", (tx_hash,)
            ).fetchone()
        if row is None:
            return None
        height, position, results = row
        try:
            return height, self._decode_results(height, results)[position]
        except IndexError as error:
            raise self._file.damaged(f"the results of block {height} are damaged ({error})") from error

    def read_results(self, height: int) -> tuple[TxResult, ...]:
        """The results of the transactions of block `height`, in order; none if there is no such block.

        Raises:
            Broken: what is stored there is damaged.
        """
        with self._file.damage():
            row = self._db.execute("SELECT results FROM block WHERE height = ?", (height,)).fetchone()
        return () if row is None else self._decode_results(height, row[0])

    def _decode_results(self, height: int, results: bytes) -> tuple[TxResult, ...]:
        try:
            return decode(results, tuple[TxResult, ...], limit=_MAX_RESULTS_BYTES)
        except DecodeError as error:
            raise self._file.damaged(f"the results of block {height} are damaged ({error})") from error

    def save_evidence(self, evidence: Evidence) -> None:
        """Keep proof that the sentinel lied, durably; the first proof for a height stays."""
        height = min(evidence.first.header.height, evidence.second.header.height)
        with self._file.damage(), self._file.transaction():
            self._db.execute("INSERT OR IGNORE INTO evidence VALUES (?, ?)", (height, encode(evidence)))

    def load_evidence(self) -> Evidence | None:
        """The kept proof for the lowest height, None if there is none.

        Raises:
            Broken: it is damaged.
        """
        with self._file.damage():
            row = self._db.execute("SELECT body FROM evidence ORDER BY height LIMIT 1").fetchone()
        try:
            return None if row is None else decode(row[0], Evidence)
        except DecodeError as error:
            raise self._file.damaged(f"the evidence of a fork is damaged ({error})") from error

    def save_handover(self, signed: SignedHandover, voters: Voters) -> None:
        """Keep a verified handover and the SNs whose majority it has, durably."""
        counted = tuple(Voter(node=node, key=voters[node]) for node in sorted(voters))
        row = (signed.handover.epoch, encode(signed), encode(counted))
        with self._file.damage(), self._file.transaction():
            self._db.execute("INSERT INTO handover VALUES (?, ?, ?)", row)

    def load_handovers(self) -> list[tuple[SignedHandover, Voters]]:
        """The kept handovers, by epoch, each with the SNs that counted.

        Raises:
            Broken: one is damaged.
        """
        with self._file.damage():
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
            raise self._file.damaged(f"a handover is damaged ({error})") from error

    def set_meta(self, key: str, value: bytes) -> None:
        """Remember a value about the store itself, durably."""
        self._file.set_meta(key, value)

    def get_meta(self, key: str) -> bytes | None:
        """What was remembered under `key`."""
        return self._file.get_meta(key)

    def close(self) -> None:
        """Close the file; nothing that was appended is lost."""
        self._file.close()

    def _count_blocks(self) -> int:
        with self._file.damage():
            count, height = self._db.execute("SELECT count(*), coalesce(max(height), 0) FROM block").fetchone()
        if count != height:
            raise self._file.damaged(f"it holds {count} blocks up to height {height}: blocks are missing")
        return int(height)
