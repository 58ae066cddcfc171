"""What an SL still knows after it was killed. Spec: docs/spec/round.md, R-21."""

import logging
import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from sl_world import CONTRACT, SETTINGS, model

from swarmlearning.contracts.records import Progress
from swarmlearning.encoding import encode
from swarmlearning.errors import Broken
from swarmlearning.sl import journal as journal_module
from swarmlearning.sl.control import CONTROL_VERSION, Open
from swarmlearning.sl.journal import Entry, Journals
from swarmlearning.types import ContractName

MANIFEST, OWN = model()
OPEN = Open(
    version=CONTROL_VERSION,
    program="train.py",
    contract=CONTRACT,
    settings=SETTINGS,
    min_peers=2,
    weight=1,
    restored=False,
    manifest=encode(MANIFEST),
    file="own",
)
FAR = Progress(epoch=7, batch=70)


def entry_of(journals: Journals, run: int = 1) -> Entry:
    found = journals.get(CONTRACT, run)
    assert found is not None
    return found


def finished(directory: Path) -> Journals:
    journals = Journals(directory)
    journals.begin(CONTRACT, 1, OPEN)
    journals.finish(entry_of(journals), FAR, OWN)
    return journals


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)
    journals.advance(entry_of(journals), FAR)
    assert Journals(tmp_path).entries() == (Entry(contract=CONTRACT, run=1, request=OPEN, progress=FAR),)
    assert entry_of(finished(tmp_path)).finished
    again = Journals(tmp_path)
    assert again.entries() == finished(tmp_path).entries()
    found = again.snapshot(entry_of(again), MANIFEST.size)
    assert found is not None
    assert bytes(found) == bytes(OWN)


def test_only_our_user_may_read_it(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)
    journals.advance(entry_of(journals), FAR)
    journals.finish(entry_of(journals), FAR, OWN)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600, 0o600, 0o600]


def test_a_position_counts_only_for_its_own_run_and_only_if_it_is_newer_than_the_entry(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)
    journals.advance(entry_of(journals), Progress(epoch=1, batch=1))
    journals.finish(entry_of(journals), FAR, None)
    assert entry_of(Journals(tmp_path)).progress == FAR
    journals.begin(CONTRACT, 2, OPEN)
    assert entry_of(Journals(tmp_path), 2).progress == Progress()
    journals.advance(entry_of(journals, 2), Progress(epoch=2, batch=2))
    again = Journals(tmp_path)
    assert entry_of(again, 2).progress == Progress(epoch=2, batch=2)
    again.begin(CONTRACT, 2, OPEN)
    again.advance(entry_of(again, 2), FAR)
    assert entry_of(Journals(tmp_path), 2).progress == FAR


def test_a_position_of_a_run_that_was_reset_does_not_count_for_the_new_one(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)
    old = entry_of(journals)
    journals.begin(CONTRACT, 2, OPEN)
    journals.advance(old, FAR)
    assert entry_of(journals, 2).progress == entry_of(Journals(tmp_path), 2).progress == Progress()


def test_a_position_without_its_entry_is_removed(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)
    journals.advance(entry_of(journals), FAR)
    (path,) = tmp_path.glob("journal-*.bin")
    path.unlink()
    assert Journals(tmp_path).entries() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_at_a_position_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(Broken, match="No space left on device; free space there"):
        journals.advance(entry_of(journals), FAR)
    assert entry_of(journals).progress == Progress()


def test_the_next_program_of_a_run_keeps_the_position_and_that_of_another_does_not(tmp_path: Path) -> None:
    """C-18."""
    journals = finished(tmp_path)
    journals.begin(CONTRACT, 1, replace(OPEN, file="other"))
    entry = entry_of(journals)
    assert (entry.progress, entry.finished, entry.request.file) == (FAR, False, "other")
    assert journals.snapshot(entry, MANIFEST.size) is None
    assert not list(tmp_path.glob("snapshot-*"))  # it trains again
    journals.begin(CONTRACT, 2, OPEN)
    assert entry_of(journals, 2).progress == Progress()
    assert journals.get(CONTRACT, 1) is None


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    journals = finished(tmp_path)
    journals.forget(CONTRACT)
    journals.forget(CONTRACT)
    assert journals.entries() == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "huge", "of another contract"])
def test_a_damaged_journal_is_put_aside_with_one_line(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path)
    (path,) = tmp_path.glob("journal-*.bin")
    data = path.read_bytes()
    match damage:
        case "flipped":
            path.write_bytes(b"\x00" + data[1:])
        case "short":
            path.write_bytes(data[:-1])
        case "empty":
            path.write_bytes(b"")
        case "huge":
            monkeypatch.setattr(journal_module, "MAX_ENTRY_BYTES", len(data) - 1)
        case _:
            path.write_bytes(data.replace(b"heart", b"other"))
    with caplog.at_level(logging.WARNING, "swarmlearning.sl"):
        journals = Journals(tmp_path)
    assert journals.entries() == ()
    assert len(caplog.records) == 1
    assert "cannot be read and is now journal-" in caplog.text
    assert path.with_suffix(".damaged").exists()
    assert not path.exists()
    Journals(tmp_path)
    assert len(caplog.records) == 1


def test_a_damaged_snapshot_is_not_offered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journals = finished(tmp_path)
    (path,) = tmp_path.glob("snapshot-*.bin")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert journals.snapshot(entry_of(journals), MANIFEST.size) is None
    path.write_bytes(data[:-1])
    assert journals.snapshot(entry_of(journals), MANIFEST.size) is None
    path.unlink()
    assert journals.snapshot(entry_of(journals), MANIFEST.size) is None
    assert caplog.text.count("the parameters it finished with are lost") == 3


class Died(BaseException):
    """The process died."""


@pytest.mark.parametrize("point", range(1, 7))
def test_a_death_at_any_point_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """Points: each fsync and rename of the snapshot, then of the journal that names it."""
    journals = Journals(tmp_path)
    journals.begin(CONTRACT, 1, OPEN)
    before = entry_of(journals)
    calls = 0

    def die_at_point() -> None:
        nonlocal calls
        calls += 1
        if calls == point:
            raise Died

    rename, fsync = Path.replace, os.fsync

    def renaming(self: Path, target: Path) -> Path:
        die_at_point()
        return rename(self, target)

    def syncing(descriptor: int) -> None:
        die_at_point()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", renaming)
        patch.setattr(os, "fsync", syncing)
        with pytest.raises(Died):
            journals.finish(before, FAR, OWN)
    after = Journals(tmp_path)
    entry = entry_of(after)
    assert entry == before or (entry.finished and after.snapshot(entry, MANIFEST.size) is not None)
    assert entry.finished is (point == 6)
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(Broken, match="No space left on device; free space there"):
        Journals(tmp_path).begin(CONTRACT, 1, OPEN)
    assert list(tmp_path.iterdir()) == []


def test_trainings_do_not_touch_each_others_journals(tmp_path: Path) -> None:
    journals = finished(tmp_path)
    lung = ContractName("lung/stats")
    journals.begin(lung, 3, replace(OPEN, contract=lung))
    journals.forget(CONTRACT)
    assert [entry.contract for entry in Journals(tmp_path).entries()] == [lung]
