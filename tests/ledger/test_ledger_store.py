"""The block store on good and bad files (docs/spec/ledger.md: L-5, L-6)."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ledger_support import GENESIS, Forger

from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import Broken, ConfigurationError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded import Evidence
from swarmlearning.ledger.embedded.store import FILE_NAME, BlockStore
from swarmlearning.types import Code

OK = TxResult(code=Code.OK)


@pytest.fixture
def forger() -> Forger:
    forger = Forger(SigningKey.create())
    for i in range(5):
        forger.add([b"n=%d" % i, b"m=%d" % i])
    return forger


@pytest.fixture
def directory(tmp_path: Path, forger: Forger) -> Path:
    store = BlockStore(tmp_path, GENESIS)
    for block in forger.blocks:
        store.append(block, [OK, TxResult(code=Code.CONFLICT, log=str(block.header.height))])
    store.close()
    return tmp_path


def open_store(directory: Path, genesis: bytes = GENESIS) -> None:
    BlockStore(directory, genesis).close()


def test_blocks_and_results_come_back_as_they_were_stored(directory: Path, forger: Forger) -> None:
    with closing(BlockStore(directory, GENESIS)) as store:
        assert store.height == 5
        assert store.transactions == 10
        assert [store.read(h) for h in range(1, 6)] == forger.blocks
        assert store.read(6) is None
        assert store.find(sha256(b"m=3")) == (4, TxResult(code=Code.CONFLICT, log="4"))
        assert store.find(sha256(b"m=9")) is None


def test_every_commit_is_fsynced(directory: Path) -> None:
    with closing(BlockStore(directory, GENESIS)) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_only_the_next_block_is_stored(directory: Path, forger: Forger) -> None:
    with closing(BlockStore(directory, GENESIS)) as store:
        for height in (5, 7):
            with pytest.raises(Broken, match="expected block 6 next"):
                store.append(forger.block(height=height), [OK])
        assert store.height == 5


def test_a_block_is_stored_whole_or_not_at_all(directory: Path, forger: Forger) -> None:
    with closing(BlockStore(directory, GENESIS)) as store:
        store._db.execute("CREATE TRIGGER full BEFORE INSERT ON tx BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        with pytest.raises(Broken, match="disk full"):
            store.append(forger.block([b"x=1"]), [OK])
        assert store.read(6) is None
        store._db.execute("DROP TRIGGER full")
        store.append(forger.block([b"x=1"]), [OK])
        assert store.height == 6


def test_evidence_is_kept(directory: Path, forger: Forger) -> None:
    evidence = Evidence(first=forger.block([b"a=1"]).signed_header, second=forger.block([b"a=2"]).signed_header)
    with closing(BlockStore(directory, GENESIS)) as store:
        assert store.load_evidence() is None
        store.save_evidence(evidence)
    with closing(BlockStore(directory, GENESIS)) as store:
        assert store.load_evidence() == evidence


def test_a_second_process_on_the_same_directory_is_refused(directory: Path) -> None:
    with closing(BlockStore(directory, GENESIS)), pytest.raises(ConfigurationError, match="in use by another process"):
        open_store(directory)
    open_store(directory)


def test_another_genesis_is_refused_and_both_are_named(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{sha256(GENESIS).hex()[:16]}.*{sha256(b'other').hex()[:16]}"):
        open_store(directory, b"other")


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot hold the ledger"):
        open_store(tmp_path / "file" / "data")


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 400)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE photos (id INTEGER)")
        db.commit()


def _newer(path: Path) -> None:
    _sql(path, "PRAGMA user_version = 99")


def _gap(path: Path) -> None:
    _sql(path, "DELETE FROM block WHERE height = 3")


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_garbage, "cannot be used: file is not a database"),
        (_cut, "cannot be used"),
        (_overwritten, "cannot be used"),
        (_foreign, "no ledger of ours"),
        (_newer, "has format 99, this release reads 2"),
        (_gap, "blocks are missing"),
    ],
)
def test_a_damaged_or_foreign_file_gets_one_clear_line(
    damage: Callable[[Path], None], message: str, directory: Path
) -> None:
    damage(directory / FILE_NAME)
    with pytest.raises(Broken, match=message) as caught:
        open_store(directory)
    assert "\n" not in str(caught.value)
    assert FILE_NAME in str(caught.value)


@pytest.mark.parametrize("what", ["body", "header", "txs", "results", "evidence"])
def test_damage_within_a_stored_value_is_found_when_it_is_read(what: str, directory: Path, forger: Forger) -> None:
    with closing(BlockStore(directory, GENESIS)) as store:
        block = forger.blocks[1]
        evidence = Evidence(first=forger.block([b"a=1"]).signed_header, second=forger.block([b"a=2"]).signed_header)
        store.save_evidence(evidence)
        other = encode(forger.block(height=2)) if what == "header" else encode(block).replace(b"n=1", b"n=7")
        update = "UPDATE block SET body = ? WHERE height = 2"
        match what:
            case "body":
                store._db.execute(update, (b"\xc1",))
            case "header" | "txs":
                store._db.execute(update, (other,))
            case "results":
                store._db.execute("UPDATE block SET results = ? WHERE height = 2", (b"\x90",))
            case _:
                store._db.execute("UPDATE evidence SET body = x'00'")
        read: dict[str, Callable[[], object]] = {
            "results": lambda: store.find(sha256(b"n=1")),
            "evidence": store.load_evidence,
        }
        with pytest.raises(Broken, match="damaged"):
            read.get(what, lambda: store.read(2))()
