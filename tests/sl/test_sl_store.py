"""Results on disk: whole or not at all. Spec: docs/spec/round.md, R-12, R-15."""

import os
import threading
from pathlib import Path

import pytest
from sl_world import CONTRACT, model, node

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, VerificationError
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, merged_root, shard_chunks
from swarmlearning.sl.chunkfile import scratch
from swarmlearning.sl.results import leaves_of, shard_leaves
from swarmlearning.sl.store import ResultStore, map_readonly
from swarmlearning.types import NodeId

ROOTS = (b"r" * 32,)
OWNER = node(0)


def open_store(tmp_path: Path, owner: NodeId = OWNER) -> ResultStore:
    return ResultStore(tmp_path, owner, sync=True)


def names(tmp_path: Path) -> set[str]:
    return {path.suffix for path in tmp_path.iterdir()}


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    _, buffer = model()
    saved = open_store(tmp_path).save(CONTRACT, 1, 4, ROOTS, buffer, sha256(buffer))
    found = open_store(tmp_path).get(CONTRACT, 1, 4)
    assert found is not None
    assert found.record == saved.record
    assert bytes(found.buffer) == bytes(buffer)
    assert (tmp_path / found.record.file).stat().st_mode & 0o777 == 0o600


@pytest.mark.timeout(20)
def test_a_pipe_in_a_results_place_does_not_stop_the_node(tmp_path: Path) -> None:
    """The attack: the program writes to that directory, too, and whoever opens a pipe waits for a writer."""
    _, buffer = model()
    record = open_store(tmp_path).save(CONTRACT, 1, 4, ROOTS, buffer, sha256(buffer)).record
    (tmp_path / record.file).unlink()
    os.mkfifo(tmp_path / record.file)
    assert open_store(tmp_path).get(CONTRACT, 1, 4) is None


def test_another_model_than_the_ledgers_is_not_written(tmp_path: Path) -> None:
    _, buffer = model()
    with pytest.raises(VerificationError, match="the ledger has the model 7878"):
        open_store(tmp_path).save(CONTRACT, 1, 4, ROOTS, buffer, b"x" * 32)
    assert list(tmp_path.iterdir()) == []


class Died(BaseException):
    """The process died."""


@pytest.mark.parametrize("point", range(1, 6))
def test_a_death_at_any_point_of_a_save_leaves_no_half_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """Points: before and after each rename, and each fsync; the earlier attempt's result of the round stays."""
    _, old = model(fill=1.0)
    _, new = model(fill=2.0)
    first = open_store(tmp_path).save(CONTRACT, 1, 4, ROOTS, old)
    dying = open_store(tmp_path)
    calls = 0

    def die_at_point() -> None:
        nonlocal calls
        calls += 1
        if calls == point:
            raise Died

    replace, fsync = Path.replace, os.fsync

    def replacing(self: Path, target: Path) -> Path:
        die_at_point()
        return replace(self, target)

    def syncing(descriptor: int) -> None:
        die_at_point()
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", replacing)
    monkeypatch.setattr(os, "fsync", syncing)
    with pytest.raises(Died):
        dying.save(CONTRACT, 1, 4, (b"n" * 32,), new)
    monkeypatch.undo()
    after = open_store(tmp_path).get(CONTRACT, 1, 4)
    assert calls == point
    assert after is not None
    expected = {first.record.sha256: old, sha256(new): new}
    assert bytes(after.buffer) == bytes(expected[after.record.sha256])
    assert sha256(after.buffer) == after.record.sha256
    assert {path.suffix for path in tmp_path.iterdir()} == {".bin", ".meta"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_result_is_not_served(tmp_path: Path) -> None:
    _, buffer = model()
    saved = open_store(tmp_path).save(CONTRACT, 1, 4, ROOTS, buffer)
    path = tmp_path / saved.record.file
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert open_store(tmp_path).get(CONTRACT, 1, 4) is None
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_result_is_not_served(tmp_path: Path) -> None:
    _, buffer = model()
    saved = open_store(tmp_path).save(CONTRACT, 1, 4, ROOTS, buffer)
    with (tmp_path / saved.record.file).open("r+b") as file:
        file.truncate(100)
    assert open_store(tmp_path).get(CONTRACT, 1, 4) is None


def test_a_meta_file_cannot_name_a_file_outside(tmp_path: Path) -> None:
    _, buffer = model()
    inner = tmp_path / "exchange"
    inner.mkdir()
    saved = open_store(inner).save(CONTRACT, 1, 4, ROOTS, buffer)
    (tmp_path / saved.record.file).write_bytes(buffer)
    (inner / saved.record.file).unlink()
    meta = next(inner.glob("*.meta"))
    name = saved.record.file.encode()
    meta.write_bytes(meta.read_bytes().replace(name, b"../" + name[:-3]))
    assert open_store(inner).get(CONTRACT, 1, 4) is None


def test_the_last_two_results_of_a_contract_are_kept(tmp_path: Path) -> None:
    opened = open_store(tmp_path)
    held = []
    for round_ in range(5):
        _, buffer = model(fill=float(round_))
        held.append(opened.save(CONTRACT, 1, round_, ROOTS, buffer))
    assert [opened.get(CONTRACT, 1, round_) is not None for round_ in range(5)] == [False, False, False, True, True]
    assert len(list(tmp_path.iterdir())) == 4
    # Whoever still reads an older one reads on, and may map it only now.
    assert bytes(held[0].chunks.source()(0)) == bytes(model(fill=0.0)[1][:CHUNK_BYTES])
    assert sha256(held[0].buffer) == held[0].record.sha256


def test_a_final_result_fetched_after_later_rounds_came_to_nothing_is_kept(tmp_path: Path) -> None:
    """R-19: or it would be fetched for ever."""
    _, buffer = model()
    store = open_store(tmp_path)
    for round_ in (3, 4, 2):
        store.save(CONTRACT, 1, round_, ROOTS, buffer)
    assert [store.get(CONTRACT, 1, round_) is not None for round_ in (2, 3, 4)] == [True, False, True]
    assert open_store(tmp_path).get(CONTRACT, 1, 2) is not None


def test_sls_that_share_a_directory_do_not_touch_each_others_results(tmp_path: Path) -> None:
    _, mine = model(fill=1.0)
    _, theirs = model(fill=2.0)
    open_store(tmp_path, node(0)).save(CONTRACT, 1, 0, ROOTS, mine)
    open_store(tmp_path, node(1)).save(CONTRACT, 1, 0, ROOTS, theirs)
    for owner, buffer in ((node(0), mine), (node(1), theirs)):
        found = open_store(tmp_path, owner).get(CONTRACT, 1, 0)
        assert found is not None
        assert bytes(found.buffer) == bytes(buffer)


def test_two_threads_that_save_one_result_do_not_spoil_it(tmp_path: Path) -> None:
    """A cancelled step goes on in its thread while the next one saves the same."""
    _, buffer = model()
    opened = open_store(tmp_path)
    saved: list[bytes] = []

    def save() -> None:
        saved.append(bytes(opened.save(CONTRACT, 1, 0, ROOTS, buffer).buffer))

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert saved == [bytes(buffer)] * 4
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_an_error_and_not_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-9."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(Broken, match="No space left on device; free space there"):
        scratch(tmp_path, 1000, range(1))
    with pytest.raises(Broken, match="No space left on device; free space there"):
        open_store(tmp_path).begin(CONTRACT, 1, 0, ROOTS, 1000)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", no_room)
    _, buffer = model()
    with pytest.raises(Broken, match="cannot store round 0 of heart"):
        open_store(tmp_path).save(CONTRACT, 1, 0, ROOTS, buffer)
    assert list(tmp_path.iterdir()) == []


def test_mapping_demands_the_exact_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert bytes(map_readonly(path, 5)) == b"12345"
    for size in (4, 6):
        with pytest.raises(OSError, match="has 5 bytes"):
            map_readonly(path, size)


def test_leaves_of_shards_give_their_roots(tmp_path: Path) -> None:
    _, buffer = model()
    opened = open_store(tmp_path).save(CONTRACT, 1, 0, (b"a" * 32, b"b" * 32), buffer)
    everything = leaves_of(buffer)
    chunks = chunk_count(len(buffer))
    for shard in range(2):
        assert opened.leaves(shard) == shard_leaves(everything, 2, shard)
        assert len(opened.leaves(shard)) == 32 * len(shard_chunks(chunks, 2, shard))
        merged_root(opened.leaves(shard), len(buffer), shard=shard, shards=2)  # has the right length


def test_a_result_is_put_together_in_any_order_and_hashed_as_far_as_it_is_there(tmp_path: Path) -> None:
    """R-12: nothing but the one file, which counts once it is whole."""
    _, buffer = model()
    opened = open_store(tmp_path)
    part = opened.begin(CONTRACT, 1, 0, ROOTS, len(buffer))
    for index in (1, 0, 4, 2, 3):
        part.chunks.write(index, buffer[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        if index == 0:
            part.advance(2)
            assert part.done == 2
    assert names(tmp_path) == {".part"}
    assert opened.get(CONTRACT, 1, 0) is None
    stored = opened.finish(part, sha256(buffer))
    assert names(tmp_path) == {".bin", ".meta"}
    assert bytes(stored.buffer) == bytes(buffer)
    assert (tmp_path / stored.record.file).read_bytes() == bytes(buffer)


def test_a_part_that_is_given_up_leaves_no_file(tmp_path: Path) -> None:
    opened = open_store(tmp_path)
    part = opened.begin(CONTRACT, 1, 0, ROOTS, 1000)
    assert names(tmp_path) == {".part"}
    del part
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_of_a_result_is_removed(tmp_path: Path) -> None:
    part = open_store(tmp_path).begin(CONTRACT, 1, 0, ROOTS, 1000)
    assert names(tmp_path) == {".part"}
    open_store(tmp_path)
    assert list(tmp_path.iterdir()) == []
    part.give_up()


def test_where_there_is_no_room_for_the_record_the_chunks_stay_for_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-12: a full disk does not make a peer fetch the whole model again."""
    _, buffer = model()
    opened = open_store(tmp_path)
    part = opened.begin(CONTRACT, 1, 0, ROOTS, len(buffer))
    for index in range(part.total):
        part.chunks.write(index, buffer[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(Broken, match="No space left on device; free space there"):
        opened.finish(part)
    monkeypatch.undo()
    assert part.is_there
    assert opened.finish(part).record.sha256 == sha256(buffer)
    assert names(tmp_path) == {".bin", ".meta"}
