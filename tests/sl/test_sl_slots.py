"""A small file that is overwritten in place and never loses the value before. Spec: docs/spec/round.md, R-21."""

import os
from pathlib import Path

import pytest

from swarmlearning.sl.slots import MAX_VALUE_BYTES, SLOT_BYTES, Slots


def written(path: Path, count: int) -> Slots:
    slots = Slots(path, sync=False)
    for number in range(1, count + 1):
        slots.write(b"value %d" % number)
    return slots


def test_r21_the_newest_value_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    assert (Slots(path, sync=True).number, path.exists()) == (0, False)
    for count in range(1, 6):
        written(path, count)
        again = Slots(path, sync=True)
        assert (again.number, again.value) == (count, b"value %d" % count)
        path.unlink()


def test_r21_values_are_numbered_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    written(path, 3)
    again = Slots(path, sync=False)
    again.write(b"more")
    assert Slots(path, sync=False).value == b"more"
    assert Slots(path, sync=False).number == 4


@pytest.mark.parametrize("cut", [0, 1, 31, 44, 50, 2043])
@pytest.mark.parametrize("count", [2, 3])
def test_r21_a_torn_write_leaves_the_value_before(tmp_path: Path, cut: int, count: int) -> None:
    path = tmp_path / "slots"
    written(path, count)
    before = path.read_bytes()
    slots = Slots(path, sync=False)
    slots.write(b"the one that is torn" * 100)
    after = path.read_bytes()
    at = (count + 1) % 2 * SLOT_BYTES
    torn = bytearray(before)
    torn[at : at + cut] = after[at : at + cut]
    path.write_bytes(torn)
    assert Slots(path, sync=False).value == b"value %d" % count


def test_r21_each_value_is_synced_once_and_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slots"
    slots = Slots(path, sync=True)
    slots.write(b"first")
    calls: list[str] = []

    def fail(_: int) -> None:
        calls.append("fdatasync")
        raise OSError("the disk failed")

    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda _: calls.append("fdatasync"))
    slots.write(b"second")
    assert calls == ["fdatasync"]
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="the disk failed"):
        slots.write(b"third")
    assert (slots.number, slots.value) == (2, b"second")


def test_r21_what_does_not_fit_is_refused_and_what_just_fits_is_not(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", sync=False)
    slots.write(b"x" * MAX_VALUE_BYTES)
    with pytest.raises(OSError, match="at most"):
        slots.write(b"x" * (MAX_VALUE_BYTES + 1))
    assert Slots(tmp_path / "slots", sync=False).value == b"x" * MAX_VALUE_BYTES


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 2 * SLOT_BYTES, bytes(2 * SLOT_BYTES)])
def test_r21_a_file_that_holds_no_value_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "slots"
    path.write_bytes(content)
    slots = Slots(path, sync=True)
    assert (slots.number, slots.value) == (0, b"")
    slots.write(b"first")
    assert Slots(path, sync=False).value == b"first"
    slots.remove()
    assert not path.exists()
