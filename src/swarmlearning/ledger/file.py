"""The SQLite file of an engine: made or opened, locked, of one genesis, fsynced at every transaction.

WAL with `synchronous=FULL` costs one fsync a transaction (a rollback journal costs three) and loses nothing at a power
cut. The file is locked exclusively: a second process on the same data directory would be a second node of one name.

Does not: know what is in the tables, but for `meta`, which every schema has.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, ConfigurationError

META: Final = "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds, and how it is recognised."""

    name: str
    """The file's, within the data directory."""
    application_id: int
    """Marks the file as ours."""
    format: int
    """Raised when the tables change."""
    tables: tuple[str, ...]
    """What makes them, besides `META`; one statement each."""
    upgrades: Mapping[int, str] = {}
    """Format that an older release wrote, and the statement that makes it the present one."""
    remedy: str
    """What to do with a file that cannot be used, for people."""


class LedgerFile:
    """An open file; use `db` within `damage`, and write within `transaction` too.

    Args:
        kind: what it holds.
        directory: where it lies, created if missing; None keeps everything in memory.
        genesis: the network's genesis bytes. A new file remembers them, an old one must hold the same.

    Raises:
        ConfigurationError: the directory cannot be made; the file is in use by another process or of another genesis.
        Broken: the file is damaged or foreign.
    """

    def __init__(self, kind: Kind, directory: Path | None, genesis: bytes) -> None:
        self._kind = kind
        self.path = "the in-memory ledger" if directory is None else str(directory / kind.name)
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigurationError(f"{directory} cannot hold the ledger ({error}); name another one") from error
        with self.damage():
            self.db = sqlite3.connect(":memory:" if directory is None else self.path, isolation_level=None, timeout=0)
        try:
            with self.damage():
                self._open(genesis)
        except BaseException:
            self.db.close()
            raise

    def get_meta(self, key: str) -> bytes | None:
        """What was remembered under `key`.

        Raises:
            Broken: the disk failed.
        """
        with self.damage():
            row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_meta(self, key: str, value: bytes) -> None:
        """Remember a value about the file itself, durably.

        Raises:
            Broken: the disk failed.
        """
        with self.damage(), self.transaction():
            self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the file; nothing that was written is lost."""
        self.db.close()

    def _open(self, genesis: bytes) -> None:
        kind = self._kind
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        marks = tuple(self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        tables = self.db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if marks == (0, 0) and tables == 0:
            with self.transaction():
                for statement in (META, *kind.tables):
                    self.db.execute(statement)
                self.db.execute("INSERT INTO meta VALUES ('genesis', ?)", (genesis,))
                self.db.execute(f"PRAGMA application_id = {kind.application_id}")
                self.db.execute(f"PRAGMA user_version = {kind.format}")
        elif marks[0] != kind.application_id:
            raise Broken(f"{self.path} is no ledger of ours: another program's file lies there; move it away")
        elif marks[1] in kind.upgrades:
            with self.transaction():
                self.db.execute(kind.upgrades[marks[1]])
                self.db.execute(f"PRAGMA user_version = {kind.format}")
        elif marks[1] != kind.format:
            raise Broken(
                f"{self.path} has format {marks[1]}, this release reads {kind.format}: use the release it is from"
            )
        # Takes the lock now rather than at the first block.
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("COMMIT")
        found = self.db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self.damaged(str(found).replace("\n", " "))
        stored = self.get_meta("genesis")
        if stored != genesis:
            raise ConfigurationError(
                f"{self.path} began with genesis {sha256(stored or b'').hex()[:16]}, but this node was given "
                f"{sha256(genesis).hex()[:16]}: give the network's own genesis, or another data directory"
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything that is written within is written at once and durably, or not at all."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def damage(self) -> Iterator[None]:
        """Errors of SQLite become ours.

        Raises:
            ConfigurationError: another process has the file.
            Broken: the file is damaged, or the disk failed.
        """
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                # Only at the opening: from then on the lock is ours.
                raise ConfigurationError(
                    f"{self.path} is in use by another process: stop that one, or give this node its own directory"
                ) from error
            raise self.damaged(str(error)) from error

    def damaged(self, how: str) -> Broken:
        """The error for a file that cannot be used, saying what to do."""
        return Broken(f"{self.path} cannot be used: {how}; {self._kind.remedy}")
