"""Snapshots of the state (docs/spec/transactions.md): written beside the commits, restored whole or not."""

import logging
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_world import Chain, member, registration
from contracts_world import BIG, HOME, settings
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlearning.contracts.messages import CreateContract, Enrol
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError, VerificationError
from swarmlearning.ledger.boundary import Snapshot, Snapshots, Verdict
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.snapshot_format import CHUNK_BYTES, MAX_BYTES, Manifest, cut, parse_entries, write_entries
from swarmlearning.sn.snapshots import SnapshotStore
from swarmlearning.sn.state import StateStore
from swarmlearning.types import ContractName

Entries = dict[str, bytes]
SMALL: Entries = {"a": b"1", "b": b"", "org/ä": b"2", "org/z": b"3"}
LARGE: Entries = SMALL | {f"training/{n}": bytes([n]) * (3 << 20) for n in range(3)}
"""Three chunks, of which two values cross the borders."""


def state(path: Path | None, entries: Entries, height: int = 10) -> StateStore:
    store = StateStore(path)
    changes: dict[str, bytes | None] = {**entries}
    store.commit(height, changes)
    return store


def held(store: StateStore) -> Entries:
    return {key: store.get(key) or b"" for key in store.keys("")}


@pytest.fixture
def giver(tmp_path: Path) -> Iterator[SnapshotStore]:
    """A node with a snapshot of `LARGE` after block 10."""
    store = state(tmp_path / "giver.sqlite", LARGE)
    snapshots = SnapshotStore(store, tmp_path / "giver", every=10)
    snapshots.after_commit()
    snapshots.wait()
    yield snapshots
    snapshots.close()
    store.close()


class Taker:
    """A node that starts empty."""

    def __init__(self, directory: Path, store: StateStore | None = None) -> None:
        self.directory = directory / "taker"
        self.told: list[int] = []
        self.store = store or StateStore(directory / "taker.sqlite")
        self.snapshots = SnapshotStore(self.store, self.directory, restored=lambda: self.told.append(self.store.height))

    def take(self, giver: Snapshots, snapshot: Snapshot, app_hash: bytes) -> list[Verdict]:
        """Restore from `giver`; the answers, to the first that is not to go on."""
        answers = [self.snapshots.offer(snapshot, app_hash)]
        for chunk in range(snapshot.chunks):
            if answers[-1].answer != "accept":
                break
            data = giver.load(snapshot.height, snapshot.format, chunk)
            assert data is not None
            answers.append(self.snapshots.apply(chunk, data))
        return answers

    def holds_nothing(self) -> bool:
        return held(self.store) == {} and self.store.height == -1 and self.told == []


@pytest.fixture
def taker(tmp_path: Path) -> Iterator[Taker]:
    made = Taker(tmp_path)
    yield made
    made.snapshots.close()
    made.store.close()


# --- SS-1, SS-2: what a snapshot is ---------------------------------------------------------------------------------


def test_ss1_the_same_state_makes_the_same_snapshot_however_it_came_about(tmp_path: Path) -> None:
    one = state(tmp_path / "one.sqlite", LARGE)
    other = StateStore(None)
    changes: dict[str, bytes | None] = {**dict(reversed(LARGE.items())), "gone": b"x", "a": b"before"}
    other.commit(3, changes)
    other.commit(10, {"gone": None, "a": b"1"})
    found = []
    for name, store in (("one", one), ("other", other)):
        snapshots = SnapshotStore(store, tmp_path / name, every=1)
        snapshots.after_commit()
        snapshots.wait()
        found.append(snapshots.available())
        store.close()
    assert found[0] == found[1]
    assert [(s.height, s.chunks) for s in found[0]] == [(10, 3)]
    assert found[0][0].hash == sha256(found[0][0].metadata)


def test_ss2_chunks_are_of_four_mebibytes_and_their_hashes_stand_in_the_metadata(giver: SnapshotStore) -> None:
    (snapshot,) = giver.available()
    manifest = decode(snapshot.metadata, Manifest)
    chunks = [giver.load(10, 1, chunk) or b"" for chunk in range(snapshot.chunks)]
    assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK_BYTES] * 2
    assert sum(map(len, chunks)) == manifest.size
    assert tuple(map(sha256, chunks)) == manifest.chunks
    assert dict(parse_entries(chunks)) == LARGE


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.binary(max_size=20)), st.integers(1, 50))
def test_ss1_what_is_written_is_read(entries: Entries, size: int) -> None:
    ordered = sorted(entries.items(), key=lambda item: item[0].encode("utf-8", "surrogatepass"))
    if any(0xD800 <= ord(c) < 0xE000 for key in entries for c in key):
        return
    data = b"".join(write_entries(ordered))
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert list(parse_entries(chunks)) == ordered


def test_ss1_a_cut_stream_is_the_same_stream() -> None:
    pieces = [bytes([n]) * length for n, length in enumerate((1, CHUNK_BYTES - 1, 0, 3 * CHUNK_BYTES + 5, 7))]
    chunks = list(cut(pieces))
    assert b"".join(chunks) == b"".join(pieces)
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK_BYTES}
    assert 0 < len(chunks[-1]) <= CHUNK_BYTES
    assert list(cut([])) == []


# --- SS-3: when and how it is written -------------------------------------------------------------------------------


def test_ss3_a_snapshot_is_due_after_every_so_many_blocks_and_the_newest_two_stay(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "s.sqlite")
    snapshots = SnapshotStore(store, tmp_path / "s", every=5)
    for height in range(18):
        store.commit(height, {"height": b"%d" % height})
        snapshots.after_commit()
        snapshots.wait()
    assert [snapshot.height for snapshot in snapshots.available()] == [15, 10]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["000000000010", "000000000015"]
    assert snapshots.load(5, 1, 0) is None
    store.close()


def test_ss3_what_is_committed_meanwhile_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = state(tmp_path / "s.sqlite", SMALL, height=4)
    snapshots = SnapshotStore(store, tmp_path / "s", every=4)
    app_hash = store.root()
    go_on = threading.Event()
    write = SnapshotStore._write_chunks

    def held_up(self: SnapshotStore, directory: Path, chunks: Iterator[bytes]) -> tuple[list[bytes], int]:
        assert go_on.wait(20)
        return write(self, directory, chunks)

    monkeypatch.setattr(SnapshotStore, "_write_chunks", held_up)
    snapshots.after_commit()
    for height in range(5, 10):
        # Blocks are committed meanwhile, and the next due snapshot is left out.
        store.commit(height, {"a": b"later", "b": None, "new": b"%d" % height})
        snapshots.after_commit()
    assert snapshots.available() == []
    go_on.set()
    snapshots.wait()
    (snapshot,) = snapshots.available()
    assert snapshot.height == 4
    taker = Taker(tmp_path)
    assert [verdict.answer for verdict in taker.take(snapshots, snapshot, app_hash)] == ["accept", "accept"]
    assert held(taker.store) == SMALL
    store.close()
    taker.store.close()


def test_ss3_a_node_that_ends_gives_up_what_it_writes_and_a_new_one_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = state(tmp_path / "s.sqlite", LARGE)
    snapshots = SnapshotStore(store, tmp_path / "s", every=1)
    begun, ended = threading.Event(), snapshots._ended
    pieces = write_entries

    def slow(entries: Iterator[tuple[str, bytes]]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces(entries)):
            yield piece
            if number == 20:
                begun.set()
                assert ended.wait(20)

    monkeypatch.setattr("swarmlearning.sn.snapshots.write_entries", slow)
    snapshots.after_commit()
    assert begun.wait(20)
    assert [path.name[:14] for path in (tmp_path / "s").iterdir()] == [".000000000010."]
    snapshots.close()
    assert list((tmp_path / "s").iterdir()) == []
    # Killed, it cannot clear up; the next start does.
    (tmp_path / "s" / ".000000000010.12ab").mkdir()
    (tmp_path / "s" / ".000000000010.12ab" / "0000.chunk").write_bytes(b"half")
    assert SnapshotStore(store, tmp_path / "s").available() == []
    assert list((tmp_path / "s").iterdir()) == []
    store.close()


def test_ss3_a_full_disk_costs_the_snapshot_and_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    store = state(tmp_path / "s.sqlite", SMALL)
    snapshots = SnapshotStore(store, tmp_path / "s", every=1)
    monkeypatch.setattr("swarmlearning.sn.snapshots._write_file", full)
    with caplog.at_level(logging.WARNING):
        snapshots.after_commit()
        snapshots.wait()
    assert "no snapshot of block 10" in caplog.text
    assert "No space left" in caplog.text
    assert list((tmp_path / "s").iterdir()) == []
    store.close()


def test_ss3_a_machine_that_has_no_thread_left_costs_the_snapshot_and_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = state(tmp_path / "s.sqlite", SMALL)
    snapshots = SnapshotStore(store, tmp_path / "s", every=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", exhausted)
        snapshots.after_commit()
    assert "no snapshot of block 10: can't start new thread" in caplog.text
    snapshots.after_commit()
    snapshots.close()
    store.close()


# --- SS-4: giving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "format_", "chunk"), [(9, 1, 0), (10, 2, 0), (10, 1, 3), (10, 1, -1), (-1, 1, 0)])
def test_ss4_what_is_not_there_is_none(giver: SnapshotStore, height: int, format_: int, chunk: int) -> None:
    assert giver.load(height, format_, chunk) is None
    assert giver.load(10, 1, 0) is not None


def test_ss4_a_damaged_chunk_is_given_to_nobody(giver: SnapshotStore, tmp_path: Path) -> None:
    path = tmp_path / "giver" / "000000000010" / "0001.chunk"
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data)
    assert giver.load(10, 1, 1) is None
    assert giver.load(10, 1, 2) is not None
    path.write_bytes(bytes(CHUNK_BYTES + 1))
    assert giver.load(10, 1, 1) is None
    path.unlink()
    assert giver.load(10, 1, 1) is None
    (tmp_path / "giver" / "000000000010" / "manifest.msgpack").write_bytes(b"\xc1")
    assert giver.available() == []


# --- SS-5, SS-6: restoring ------------------------------------------------------------------------------------------


def test_ss5_a_new_node_has_the_state_once_the_last_chunk_has_come(giver: SnapshotStore, taker: Taker) -> None:
    (snapshot,) = giver.available()
    app_hash = decode(snapshot.metadata, Manifest).app_hash
    assert taker.snapshots.offer(snapshot, app_hash).answer == "accept"
    for chunk in (2, 0):
        assert taker.snapshots.apply(chunk, giver.load(10, 1, chunk) or b"").answer == "accept"
        assert taker.holds_nothing()
    # Again, in whatever order.
    assert taker.snapshots.apply(0, giver.load(10, 1, 0) or b"").answer == "accept"
    assert taker.holds_nothing()
    assert taker.snapshots.apply(1, giver.load(10, 1, 1) or b"").answer == "accept"
    assert held(taker.store) == LARGE
    assert (taker.store.height, taker.store.begun_at, taker.store.root(), taker.told) == (10, 10, app_hash, [10])
    assert list(taker.directory.iterdir()) == []
    # Its engine died before it had noted that, and offers it again.
    again = StateStore(taker.store._path)
    assert (again.height, again.begun_at) == (10, 10)
    again.close()
    assert {verdict.answer for verdict in taker.take(giver, snapshot, app_hash)} == {"accept"}
    # It goes on from there like any other node, and is the same after a restart.
    taker.store.commit(11, {"a": b"later"})
    fresh = StateStore(taker.store._path)
    assert (fresh.height, fresh.root()) == (11, taker.store.root())
    assert fresh.root() == state(None, LARGE | {"a": b"later"}).root()
    fresh.close()
    # What has executed blocks restores nothing.
    refused = taker.snapshots.offer(snapshot, app_hash)
    assert (refused.answer, refused.reason) == ("abort", "this node has executed 11 blocks already")


def test_ss5_the_application_goes_on_from_a_restored_state(tmp_path: Path) -> None:
    chain = Chain(2, tmp_path / "chain.sqlite")
    chain.register(member(0), member(1))
    contract = ContractName("a")
    chain.do(member(0), CreateContract(contract=contract))
    chain.do(
        member(1),
        Enrol(contract=contract, run=1, settings=settings(), manifest=BIG, min_peers=2, weight=1, endpoint=HOME),
    )
    snapshots = SnapshotStore(chain.app.store, tmp_path / "giver", every=1)
    snapshots.after_commit()
    snapshots.wait()
    (snapshot,) = snapshots.available()
    store = StateStore(None)
    app = SwarmApplication(store)
    app.init(chain.genesis)
    taker = Taker(tmp_path, store)
    assert taker.take(snapshots, snapshot, chain.app.info().app_hash)[-1] == Verdict(answer="accept")
    assert app.info() == chain.app.info()
    tx = chain.sign(member(0), registration(member(0), salt="new"), salt="new")
    header = chain.header()
    assert app.check(tx) == chain.app.check(tx)
    assert app.apply(header, [tx]) == chain.app.apply(header, [tx])
    app.commit()
    chain.app.commit()
    assert app.info() == chain.app.info()
    chain.app.store.close()


def changed(manifest: Manifest, **fields: object) -> Snapshot:
    """A snapshot that is true to metadata which say something else."""
    data = encode(replace(manifest, **fields))
    found = replace(manifest, **fields)
    return Snapshot(
        height=found.height, format=found.format, chunks=len(found.chunks), hash=sha256(data), metadata=data
    )


OTHER = "of another snapshot than it says"
OFFERS: dict[str, tuple[dict[str, object], dict[str, object], str, str]] = {
    "format": ({"format": 2}, {}, "reject_format", "format 2, this release knows 1"),
    "not decodable": ({}, {"metadata": b"\xc1"}, "reject", "Manifest"),
    "another height": ({}, {"height": 11}, "reject", OTHER),
    "another hash": ({}, {"hash": bytes(32)}, "reject", OTHER),
    "more chunks than named": ({}, {"chunks": 4}, "reject", OTHER),
    "another state": ({"app_hash": bytes(32)}, {}, "reject", "validators signed"),
    "larger than any": ({"size": MAX_BYTES + 1}, {}, "reject", "Manifest"),
    "no size": ({"size": 0}, {}, "reject", "Manifest"),
    "larger than its chunks": ({"size": MAX_BYTES}, {}, "reject", "bytes in 3 chunks"),
    "smaller than its chunks": ({"size": 1}, {}, "reject", "1 bytes in 3 chunks"),
    "chunks without end": ({"chunks": (bytes(32),) * 3000}, {}, "reject", "Manifest"),
    "no chunks": ({"chunks": ()}, {}, "reject", "Manifest"),
    "height 0": ({"height": 0}, {}, "reject", "Manifest"),
}
"""What the metadata say, what the snapshot says itself, and what becomes of it."""


@pytest.mark.parametrize("what", OFFERS)
def test_ss6_an_unsound_offer_is_refused_by_name_before_anything_comes(
    giver: SnapshotStore, taker: Taker, what: str
) -> None:
    (snapshot,) = giver.available()
    manifest = decode(snapshot.metadata, Manifest)
    inner, outer, answer, reason = OFFERS[what]
    verdict = taker.snapshots.offer(replace(changed(manifest, **inner), **outer), manifest.app_hash)
    assert verdict.answer == answer
    assert reason in verdict.reason
    assert "\n" not in verdict.reason
    assert taker.snapshots.apply(0, giver.load(10, 1, 0) or b"").answer == "abort"
    assert taker.holds_nothing()
    assert list(taker.directory.iterdir()) == []


def test_ss6_a_wrong_chunk_is_asked_for_again_and_harms_nothing(giver: SnapshotStore, taker: Taker) -> None:
    (snapshot,) = giver.available()
    app_hash = decode(snapshot.metadata, Manifest).app_hash
    chunks = [giver.load(10, 1, chunk) or b"" for chunk in range(3)]
    assert taker.snapshots.apply(0, chunks[0]).reason == "a chunk came, but no snapshot has been accepted"
    taker.snapshots.offer(snapshot, app_hash)
    for chunk, data, answer, reason in (
        (0, chunks[1], "retry", "chunk 0 is not the one that the snapshot's metadata name"),
        (0, chunks[0][:-1], "retry", f"chunk 0 has {CHUNK_BYTES - 1} bytes; expected {CHUNK_BYTES}"),
        (0, chunks[0] + b"x" * (9 << 20), "retry", "expected"),
        (2, b"", "retry", "chunk 2 has 0 bytes"),
        (3, chunks[0], "reject", "chunk 3: there are 3"),
        (-1, chunks[0], "reject", "chunk -1: there are 3"),
    ):
        verdict = taker.snapshots.apply(chunk, data)
        assert (verdict.answer, reason in verdict.reason) == (answer, True), verdict
        assert taker.holds_nothing()
    assert [taker.snapshots.apply(chunk, data).answer for chunk, data in enumerate(chunks)] == ["accept"] * 3
    assert held(taker.store) == LARGE


def forged(entries: list[tuple[str, bytes]] | bytes, app_hash: bytes) -> tuple[Snapshot, list[bytes]]:
    """What a dishonest node offers: whatever bytes it likes under metadata that fit them."""
    data = entries if isinstance(entries, bytes) else b"".join(write_entries(entries))
    chunks = list(cut([data]))
    manifest = Manifest(format=1, height=10, app_hash=app_hash, size=len(data), chunks=tuple(map(sha256, chunks)))
    return changed(manifest), chunks


LENGTHS = struct.Struct(">II")
FORGERIES: dict[str, tuple[list[tuple[str, bytes]] | bytes, str]] = {
    "a value": (sorted((SMALL | {"a": b"2"}).items()), "the state has the root"),
    "a key more": (sorted((SMALL | {"c": b""}).items()), "the state has the root"),
    "a key less": (sorted(SMALL.items())[1:], "the state has the root"),
    "another order": (sorted(SMALL.items(), reverse=True), "expected each once, in order"),
    "a key twice": ([("a", b"1"), ("a", b"1"), *sorted(SMALL.items())[1:]], "expected each once, in order"),
    "a key of no bytes": (LENGTHS.pack(0, 1) + b"x", "a key of 0"),
    "a key too long": (LENGTHS.pack(5000, 1) + b"x" * 5001, "a key of 5000"),
    "a value of four gigabytes": (LENGTHS.pack(1, 2**32 - 1) + b"ab", "a value of 4294967295"),
    "an end in the middle": (LENGTHS.pack(1, 5) + b"abc", "ends in the middle"),
    "an end in the lengths": (b"\x00\x00", "ends in the middle"),
    "no text": (LENGTHS.pack(1, 0) + b"\xff", "key b'\\xff'"),
}


@pytest.mark.parametrize("what", FORGERIES)
@pytest.mark.parametrize("where", ["file", "memory"])
def test_ss6_a_state_with_another_root_is_not_kept(tmp_path: Path, what: str, where: str) -> None:
    entries, reason = FORGERIES[what]
    app_hash = state(None, SMALL).root()
    before: Entries = {"meta/genesis": b"ours"}
    store = state(tmp_path / "t.sqlite" if where == "file" else None, before, height=0)
    root = store.root()
    taker = Taker(tmp_path, store)
    snapshot, chunks = forged(entries, app_hash)
    assert taker.snapshots.offer(snapshot, app_hash).answer == "accept"
    verdict = taker.snapshots.apply(0, chunks[0])
    assert (verdict.answer, reason in verdict.reason) == ("reject", True), verdict
    assert "\n" not in verdict.reason
    assert (held(store), store.height, store.root(), taker.told) == (before, 0, root, [])
    assert list(taker.directory.iterdir()) == []
    # The next one may be right.
    right, chunks = forged(sorted(SMALL.items()), app_hash)
    taker.snapshots.offer(right, app_hash)
    assert taker.snapshots.apply(0, chunks[0]).answer == "accept"
    assert held(store) == SMALL
    store.close()


def test_ss5_a_restored_state_survives_a_power_cut(taker: Taker, tmp_path: Path) -> None:
    """Until SQLite fsyncs its log, at a checkpoint, only what is in the file itself is sure to be there."""
    app_hash = state(None, SMALL).root()
    snapshot, chunks = forged(sorted(SMALL.items()), app_hash)
    taker.snapshots.offer(snapshot, app_hash)
    assert taker.snapshots.apply(0, chunks[0]).answer == "accept"
    shutil.copy(tmp_path / "taker.sqlite", tmp_path / "after.sqlite")
    after = StateStore(tmp_path / "after.sqlite")
    assert (after.height, after.root()) == (10, app_hash)
    after.close()


def test_ss6_another_offer_ends_the_one_before(giver: SnapshotStore, taker: Taker) -> None:
    (snapshot,) = giver.available()
    app_hash = decode(snapshot.metadata, Manifest).app_hash
    taker.snapshots.offer(snapshot, app_hash)
    taker.snapshots.apply(0, giver.load(10, 1, 0) or b"")
    taker.snapshots.offer(snapshot, app_hash)
    assert list((taker.directory / ".incoming").iterdir()) == []
    taker.snapshots.apply(1, giver.load(10, 1, 1) or b"")
    assert taker.snapshots.apply(2, giver.load(10, 1, 2) or b"").answer == "accept"
    assert taker.holds_nothing(), "chunk 0 of the first time does not count"


def test_ss5_a_disk_that_fails_while_the_state_is_replaced_changes_nothing(tmp_path: Path) -> None:
    store = state(tmp_path / "t.sqlite", SMALL, height=0)
    root = store.root()

    def failing() -> Iterator[tuple[str, bytes]]:
        yield "x", b"1"
        raise Broken("a chunk cannot be read")

    with pytest.raises(Broken):
        store.replace(10, failing(), bytes(32))
    assert (held(store), store.height, store.root()) == (SMALL, 0, root)
    with pytest.raises(VerificationError, match="twice"):
        store.replace(10, [("x", b"1"), ("x", b"2")], bytes(32))
    assert (held(store), store.height, store.root()) == (SMALL, 0, root)
    store.commit(1, {"a": b"2"})
    assert store.root() == state(None, SMALL | {"a": b"2"}).root()
    store.close()


def test_ss3_a_state_that_cannot_be_read_makes_no_snapshot(tmp_path: Path) -> None:
    store = state(tmp_path / "s.sqlite", SMALL)
    shutil.move(tmp_path / "s.sqlite", tmp_path / "elsewhere")
    with pytest.raises(Broken):
        store.view()
    store.close()
    with pytest.raises(DecodeError):
        list(parse_entries([b"\x00"]))
