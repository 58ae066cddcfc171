"""Chunks in files, read and written at offsets. Spec: docs/spec/exchange.md, E-9."""

import gc
import os
from pathlib import Path

import pytest

from swarmlearning.errors import Broken
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, shard_chunks
from swarmlearning.sl.chunkfile import BufferChunks, read_at, scratch

SIZE = 4 * CHUNK_BYTES + 64
BUFFER = memoryview(os.urandom(SIZE))


def chunk(index: int) -> memoryview:
    return BUFFER[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_shards_scratch_is_as_long_as_its_chunks_and_has_no_name(tmp_path: Path, shards: int) -> None:
    """E-9: allocated, compact, unlinked; any order of writing."""
    for shard in range(shards):
        indices = shard_chunks(chunk_count(SIZE), shards, shard)
        file = scratch(tmp_path, SIZE, indices)
        length = sum(len(chunk(index)) for index in indices)
        assert os.fstat(file.descriptor).st_size == length
        assert list(tmp_path.iterdir()) == []
        for index in reversed(indices):
            file.write(index, chunk(index))
        assert os.fstat(file.descriptor).st_size == length
        source = file.source()
        for index in indices:
            assert bytes(source(index)) == bytes(chunk(index))


def test_scratch_of_a_model_without_parameters_is_empty(tmp_path: Path) -> None:
    assert os.fstat(scratch(tmp_path, 0, range(0)).descriptor).st_size == 0


def test_a_chunk_that_does_not_lie_there_is_neither_written_nor_read(tmp_path: Path) -> None:
    file = scratch(tmp_path, SIZE, range(1, 5, 2))
    with pytest.raises(Broken, match="chunk 2 does not lie here"):
        file.write(2, chunk(2))
    with pytest.raises(Broken, match="chunk 0 does not lie here"):
        file.source()(0)
    with pytest.raises(Broken, match="chunk 3 has 64 bytes; expected 65536"):
        file.write(3, chunk(4))


def test_readers_do_not_share_memory(tmp_path: Path) -> None:
    """One serves while another merges."""
    file = scratch(tmp_path, SIZE, range(5))
    for index in range(5):
        file.write(index, chunk(index))
    one, other = file.source(), file.source()
    first = one(0)
    other(1)
    assert bytes(first) == bytes(chunk(0))


def test_a_file_is_closed_when_nobody_holds_it_any_more(tmp_path: Path) -> None:
    file = scratch(tmp_path, SIZE, range(5))
    descriptor, source = file.descriptor, file.source()
    del file
    gc.collect()
    source(0)  # whoever reads holds it
    del source
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_write_that_the_disk_takes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, pwrite = scratch(tmp_path, SIZE, range(5)), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda where, data, place: pwrite(where, data[:1000], place))
    file.write(0, chunk(0))
    assert bytes(file.source()(0)) == bytes(chunk(0))


def test_a_disk_that_fails_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = scratch(tmp_path, SIZE, range(5))

    def fails(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(Broken, match="cannot write a chunk to the disk: No space left on device; free space there"):
        file.write(0, chunk(0))
    with pytest.raises(Broken, match="ends at byte 262208, 16 before the end"):
        read_at(file.descriptor, memoryview(bytearray(16)), SIZE)


def test_a_buffers_chunks_are_its_own_memory() -> None:
    chunks, into = BufferChunks(BUFFER), memoryview(bytearray(64))
    chunks.read_into(4, into)
    assert into == chunk(4)
    assert chunks.source()(1) == chunk(1)
