"""Final results on disk: written whole, synced, renamed; the last two of each contract are kept.

Files lie in the exchange directory, so that the ML program maps them; names come from hashes, never from outside.
"""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Final

from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import DecodeError
from swarmlearning.parameters.chunks import CHUNK_BYTES, HASH_BYTES, chunk_count, chunk_length, merged_leaf
from swarmlearning.types import ContractName

KEEP: Final = 2
"""Final results kept of each contract."""


class StoredResult(Record, frozen=True, kw_only=True):
    """What is known of a result on disk."""

    contract: ContractName
    run: int
    round: int
    roots: tuple[bytes, ...]
    sha256: bytes
    size: int
    file: str
    """Plain file name in the directory."""


def scratch(directory: Path, size: int) -> memoryview:
    """Writable memory backed by an unlinked file, so that large models do not have to fit into RAM.

    Args:
        directory: where the file lies while it lives.
        size: bytes.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(max(1, size))
        return memoryview(mmap.mmap(file.fileno(), max(1, size)))[:size]


def map_readonly(path: Path, size: int) -> memoryview:
    """The bytes of a file without reading them into memory.

    Raises:
        OSError: the file is missing, or shorter than `size`.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise OSError(f"{path.name} has {os.fstat(file.fileno()).st_size} bytes, expected {size}")
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))


def leaves_of(buffer: memoryview) -> bytes:
    """`merged_leaf` of every chunk of a canonical buffer, in order."""
    size = len(buffer)
    return b"".join(
        merged_leaf(buffer[i * CHUNK_BYTES : i * CHUNK_BYTES + chunk_length(size, i)]) for i in range(chunk_count(size))
    )


def shard_leaves(leaves: bytes, shards: int, shard: int) -> bytes:
    """Of all chunks' leaves, those of one shard."""
    return b"".join(
        leaves[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(shard, len(leaves) // HASH_BYTES, shards)
    )


class OpenResult:
    """A stored result, mapped, with the leaves that serving it needs."""

    def __init__(self, record: StoredResult, buffer: memoryview) -> None:
        self.record = record
        self.buffer = buffer
        self._leaves: bytes | None = None

    def leaves(self, shard: int) -> bytes:
        """Leaves of one shard; computed once, when somebody first asks."""
        if self._leaves is None:
            self._leaves = leaves_of(self.buffer)
        return shard_leaves(self._leaves, len(self.record.roots), shard)


class ResultStore:
    """Results of all contracts of an SL."""

    def __init__(self, directory: Path, *, sync: bool = True) -> None:
        """Open the store and what an earlier process left in it.

        Args:
            directory: the exchange directory.
            sync: whether to fsync (the simulator does not).
        """
        self.directory = directory
        """Where the files lie."""
        self._sync = sync
        self._open: dict[tuple[ContractName, int, int], OpenResult] = {}
        for path in sorted(directory.glob("result-*.meta")):
            try:
                record = decode(path.read_bytes(), StoredResult)
                buffer = map_readonly(directory / Path(record.file).name, record.size)
            except (DecodeError, OSError):
                path.unlink(missing_ok=True)  # half written by a process that died: it was never promised
                continue
            self._open[record.contract, record.run, record.round] = OpenResult(record, buffer)

    def get(self, contract: ContractName, run: int, round_: int) -> OpenResult | None:
        """A stored result, or None."""
        return self._open.get((contract, run, round_))

    def save(
        self, contract: ContractName, run: int, round_: int, roots: tuple[bytes, ...], buffer: memoryview
    ) -> OpenResult:
        """Write a verified result; when this returns it survives a power cut. Older ones beyond the last two go.

        Raises:
            OSError: the disk is full or broken; nothing is promised then.
        """
        digest = sha256(buffer)
        stem = sha256(f"{contract}\x00{run}\x00{round_}".encode()).hex()[:24]
        data, meta = self.directory / f"result-{stem}.bin", self.directory / f"result-{stem}.meta"
        record = StoredResult(
            contract=contract,
            run=run,
            round=round_,
            roots=roots,
            sha256=digest,
            size=len(buffer),
            file=data.name,
        )
        self._write(data, buffer)
        self._write(meta, memoryview(encode(record)))
        result = OpenResult(record, map_readonly(data, len(buffer)))
        self._open[contract, run, round_] = result
        self._forget_old(contract)
        return result

    def _write(self, path: Path, data: memoryview) -> None:
        partial = path.with_suffix(path.suffix + ".part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if self._sync:
                os.fsync(file.fileno())
        partial.replace(path)
        if self._sync:
            folder = os.open(self.directory, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _forget_old(self, contract: ContractName) -> None:
        mine = sorted(key for key in self._open if key[0] == contract)
        for key in mine[:-KEEP]:
            result = self._open.pop(key)
            # The mapping stays valid for whoever still reads it.
            (self.directory / result.record.file).unlink(missing_ok=True)
            (self.directory / result.record.file).with_suffix(".meta").unlink(missing_ok=True)
