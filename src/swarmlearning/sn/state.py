"""The application's state: keys and values in SQLite, under a Merkle root over hashed buckets. Spec: transactions.md.

The root covers the whole state; only buckets that a block touches are hashed again. One SQL transaction a block. It
survives the death of the process; a power cut may take the last blocks' with it, each whole, for the file is fsynced
now and then only: the ledger has those blocks, durably, and executes them again. Where it has not (blocks that are
dropped, or that a snapshot stands for) the state is fsynced too.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, VerificationError

BUCKETS: Final = 1024
"""Number of buckets; part of the state root's definition."""

KNOWN: Final = 4096
"""Most values that are remembered; most are small, and a training's record has a few kilobytes."""

KNOWN_BYTES: Final = 64 << 20
"""Most bytes that they have together, about: tasks' bodies are large."""

KNOWN_KEY: Final = 512
"""Longest key whose value is remembered: none that is there is as long, but whoever asks may name any."""

_EMPTY: Final = sha256(b"")

Tree = list[list[bytes]]
"""A Merkle tree (RFC 6962 section 2.1, SHA-256) over the buckets, level by level from the leaves to the root."""


def bucket_of(key: str) -> int:
    """The bucket a key is hashed into."""
    return int.from_bytes(sha256(key.encode())[:2], "big") % BUCKETS


_BUCKETS_IN_USE: Final = "SELECT DISTINCT bucket FROM state"
_ENTRIES: Final = "SELECT key, value FROM state ORDER BY key"
_UPSERT: Final = "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def _by_bucket(changes: dict[str, bytes | None]) -> dict[int, dict[str, bytes | None]]:
    found: dict[int, dict[str, bytes | None]] = {}
    for key, value in changes.items():
        found.setdefault(bucket_of(key), {})[key] = value
    return found


def _grow_tree(leaves: int) -> Tree:
    """The tree over `leaves` empty buckets; a power of two."""
    tree = [[sha256(b"\x00", _EMPTY)] * leaves]
    while len(tree[-1]) > 1:
        below = tree[-1]
        tree.append([sha256(b"\x01", below[0], below[1])] * (len(below) // 2))
    return tree


def _rehash(tree: Tree, buckets: dict[int, bytes]) -> dict[tuple[int, int], bytes]:
    """The nodes of the tree, by (level, index), that change when these buckets' hashes do; the tree stays as it is."""
    changed = {index: sha256(b"\x00" + bucket) for index, bucket in buckets.items()}
    nodes = {(0, index): node for index, node in changed.items()}
    for level, below in enumerate(tree[:-1]):
        above: dict[int, bytes] = {}
        for index in changed:
            left = index & ~1
            if left // 2 not in above:
                pair = changed.get(left, below[left]) + changed.get(left + 1, below[left + 1])
                above[left // 2] = sha256(b"\x01" + pair)
        nodes.update(((level + 1, index), node) for index, node in above.items())
        changed = above
    return nodes


class StateStore:
    """Committed state, in a file or in memory."""

    def __init__(self, path: Path | None, *, durable: bool = False) -> None:
        """Open or create the state.

        Args:
            path: the SQLite file; None keeps everything in memory (simulator).
            durable: whether each block survives a power cut: a ledger that drops blocks could not give them again.

        Raises:
            Broken: the file is damaged, or is no state file.
        """
        self._path = path
        try:
            self._db = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value BLOB, bucket INT)")
            self._db.execute("CREATE INDEX IF NOT EXISTS by_bucket ON state (bucket, key)")
            self._db.execute("CREATE TABLE IF NOT EXISTS committed (id INT PRIMARY KEY CHECK (id = 0), height INT)")
            self._db.execute("INSERT OR IGNORE INTO committed VALUES (0, -1)")
            self._height = int(self._db.execute("SELECT height FROM committed").fetchone()[0])
            self._begun_at = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            self._known: dict[str, bytes | None] = {}
            """Values that were read or committed last."""
            self._known_bytes = 0
            """What they have together, at most: one that another replaced counts until all are forgotten."""
            self._computed: tuple[dict[str, bytes | None], dict[tuple[int, int], bytes]] | None = None
            """Changes that a root was asked for, and what they make of the tree."""
            self._tree = _grow_tree(BUCKETS)
            self._adopt(self._nodes({row[0]: {} for row in self._db.execute(_BUCKETS_IN_USE).fetchall()}))
        except sqlite3.DatabaseError as error:
            raise Broken(
                f"state {path}: {error}; move the file away and restart, it is rebuilt from the blocks"
            ) from error

    @property
    def height(self) -> int:
        """Height of the last committed block; -1 before `init`."""
        return self._height

    @property
    def begun_at(self) -> int:
        """Height of the block whose state was put in place of an empty one; 0: all blocks were executed."""
        return self._begun_at

    def get(self, key: str) -> bytes | None:
        """Committed value under `key`, or None."""
        if key in self._known:
            return self._known[key]
        row = self._db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        value = None if row is None else bytes(row[0])
        if len(key) <= KNOWN_KEY:
            self._remember({key: value})
        return value

    def _remember(self, values: dict[str, bytes | None]) -> None:
        size = sum(len(value) for value in values.values() if value is not None)
        if len(self._known) + len(values) > KNOWN or self._known_bytes + size > KNOWN_BYTES:
            self._known.clear()
            self._known_bytes = 0
        self._known.update(values)
        self._known_bytes += size

    def keys(self, prefix: str) -> Iterator[str]:
        """Committed keys that start with `prefix`, in order."""
        end = prefix + "\U0010ffff"
        for row in self._db.execute("SELECT key FROM state WHERE key >= ? AND key < ? ORDER BY key", (prefix, end)):
            yield str(row[0])

    def root(self, changes: dict[str, bytes | None] | None = None) -> bytes:
        """TX-11: state root, 32 bytes, as it would be with `changes` (None deletes)."""
        if not changes:
            return self._tree[-1][0]
        nodes = self._nodes(_by_bucket(changes))
        self._computed = dict(changes), nodes
        return nodes[len(self._tree) - 1, 0]

    def _nodes(self, changed: dict[int, dict[str, bytes | None]]) -> dict[tuple[int, int], bytes]:
        return _rehash(self._tree, {bucket: self._hash_bucket(bucket, changes) for bucket, changes in changed.items()})

    def _adopt(self, nodes: dict[tuple[int, int], bytes]) -> None:
        for (level, index), node in nodes.items():
            self._tree[level][index] = node

    def _hash_bucket(self, bucket: int, changed: dict[str, bytes | None]) -> bytes:
        rows = self._db.execute("SELECT key, value FROM state WHERE bucket = ?", (bucket,))
        entries: dict[str, bytes | None] = {str(key): bytes(value) for key, value in rows}
        entries.update(changed)
        parts = []
        for key in sorted(entries):
            value = entries[key]
            if value is not None:
                parts.append(sha256(key.encode()) + sha256(value))
        return sha256(*parts) if parts else _EMPTY

    def commit(self, height: int, changes: dict[str, bytes | None]) -> None:
        """TX-12: write `changes` (None deletes) and `height`, at once or not at all.

        Raises:
            Broken: the disk is full or damaged; nothing was changed.
        """
        gone = [(key,) for key, value in changes.items() if value is None]
        kept = [(key, value, bucket_of(key)) for key, value in changes.items() if value is not None]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("DELETE FROM state WHERE key = ?", gone)
                self._db.executemany(_UPSERT, kept)
                self._db.execute("UPDATE committed SET height = ?", (height,))
        except sqlite3.Error as error:
            raise Broken(f"state, height {height}: {error}; free space on the disk, or replace it") from error
        # The root of these very changes was asked for before they were committed: their hashes are known.
        computed, self._computed = self._computed, None
        if computed is not None and computed[0] == changes:
            self._adopt(computed[1])
        else:
            self._adopt(self._nodes({bucket: {} for bucket in _by_bucket(changes)}))
        self._height = height
        self._remember(changes)

    def view(self) -> "StateView":
        """The state as it is now, whatever is committed later; another thread may read it.

        Raises:
            Broken: the file cannot be read.
        """
        try:
            return StateView(self._db if self._path is None else self._path)
        except sqlite3.Error as error:
            raise Broken(f"state {self._path}: {error}") from error

    def replace(self, height: int, entries: Iterable[tuple[str, bytes]], root: bytes) -> None:
        """Put the state after block `height` in place of this one, at once or not at all; durable.

        Args:
            height: of the block after which it is.
            entries: all keys and values; what their iterator raises changes nothing and is raised here.
            root: the state root that they must have, 32 bytes.

        Raises:
            VerificationError: they have another root, or a key twice.
            Broken: the disk is full or damaged; nothing was changed.
        """
        before = self._tree
        rows = ((key, value, bucket_of(key)) for key, value in entries)
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("DELETE FROM state")
                self._db.executemany("INSERT INTO state VALUES (?, ?, ?)", rows)
                self._db.execute("UPDATE committed SET height = ?", (height,))
                self._db.execute(f"PRAGMA user_version = {height:d}")
                self._tree = _grow_tree(BUCKETS)
                self._adopt(self._nodes({row[0]: {} for row in self._db.execute(_BUCKETS_IN_USE).fetchall()}))
                if self.root() != root:
                    found = self.root().hex()[:16]
                    raise VerificationError(f"the state has the root {found}; expected {root.hex()[:16]}")
        except sqlite3.IntegrityError as error:
            self._tree = before
            raise VerificationError(f"a key is there twice ({error})") from error
        except sqlite3.Error as error:
            self._tree = before
            raise Broken(f"state, height {height}: {error}; free space on the disk, or replace it") from error
        except BaseException:
            self._tree = before
            raise
        self._height = self._begun_at = height
        self._known, self._known_bytes, self._computed = {}, 0, None
        try:
            # No block that led to it is here to be executed again after a power cut.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise Broken(f"state, height {height}: {error}; free space on the disk, or replace it") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class StateView:
    """The committed state of one moment. A context manager; close it soon, it keeps the file's log from shrinking."""

    def __init__(self, source: "Path | sqlite3.Connection") -> None:
        """Of a state's file, or copied from a state in memory, which is the other thread's."""
        self._entries: list[tuple[str, bytes]] | None = None
        self._db: sqlite3.Connection | None = None
        if isinstance(source, Path):
            uri = f"file:{quote(str(source.absolute()))}?mode=ro"
            self._db = db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            # The first read after this fixes what all later ones see.
            db.execute("BEGIN")
        else:
            db = source
            self._entries = [(str(key), bytes(value)) for key, value in db.execute(_ENTRIES)]
        self.height = int(db.execute("SELECT height FROM committed").fetchone()[0])
        """Of the block after which it is."""

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """All keys with their values, in the order of the keys' bytes.

        Raises:
            Broken: the file cannot be read.
        """
        if self._entries is not None:
            yield from self._entries
        elif self._db is not None:
            try:
                for key, value in self._db.execute(_ENTRIES):
                    yield str(key), bytes(value)
            except sqlite3.Error as error:
                raise Broken(f"the state cannot be read: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no more."""
        if self._db is not None:
            self._db.close()


class Overlay:
    """Writes on top of a store that nobody sees until they are committed; may be stacked."""

    def __init__(self, below: "StateStore | Overlay") -> None:
        self._below = below
        self.changes: dict[str, bytes | None] = {}

    def get(self, key: str) -> bytes | None:
        """Value under `key`, with the overlay's writes."""
        return self.changes[key] if key in self.changes else self._below.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Set `key`."""
        self.changes[key] = value

    def delete(self, key: str) -> None:
        """Remove `key`."""
        self.changes[key] = None

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, in order, with the overlay's writes."""
        below = set(self._below.keys(prefix))
        for key, value in self.changes.items():
            if key.startswith(prefix):
                if value is None:
                    below.discard(key)
                else:
                    below.add(key)
        yield from sorted(below)

    def fold(self) -> None:
        """Move the writes into the overlay below."""
        if isinstance(self._below, Overlay):
            self._below.changes.update(self.changes)
            self.changes = {}
