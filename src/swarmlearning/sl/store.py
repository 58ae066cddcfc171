"""Final results on disk: written whole, synced, renamed; the last two of each contract are kept.

Files lie in the exchange directory, so that the ML program maps them; names come from hashes, never from outside. A
result is its `.meta` file, which appears last and names the `.bin` file: a process that dies half-way leaves none.
"""

import contextlib
import mmap
import os
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError, VerificationError
from swarmlearning.parameters.chunks import CHUNK_BYTES, HASH_BYTES, chunk_count, chunk_length, merged_leaf
from swarmlearning.types import ContractName, NodeId

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


def scratch(directory: Path, size: int, chunks: Iterable[int]) -> memoryview:
    """Writable memory backed by an unlinked file, so that large models do not have to fit into RAM.

    Args:
        directory: where the file lies while it lives.
        size: bytes.
        chunks: indices of those that will be written. They are allocated here: writing to a mapped file for which
            the disk has no room would kill the process.

    Raises:
        Broken: the disk has no room.
    """
    length = max(1, size)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.truncate(length)
            if hasattr(os, "posix_fallocate"):
                for index in chunks:
                    os.posix_fallocate(file.fileno(), index * CHUNK_BYTES, max(1, chunk_length(size, index)))
            return memoryview(mmap.mmap(file.fileno(), length))[:size]
    except OSError as error:
        raise Broken(f"no room for {size} bytes in {directory}: {error.strerror}; free space there") from error


def map_readonly(path: Path, size: int) -> memoryview:
    """The bytes of a file without reading them into memory.

    Raises:
        OSError: the file is missing, or has another size.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise OSError(f"{path.name} has {found} bytes, expected {size}")
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))


def write_durably(path: Path, data: memoryview, *, sync: bool) -> None:
    """Replace a file by `data`, mode 0600: whole or not at all, and with `sync` it survives a power cut.

    Raises:
        OSError: the disk is full or damaged; nothing is left half-written.
    """
    partial = path.with_name(path.name + ".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
    """Results of all contracts of an SL; one process, any threads."""

    def __init__(self, directory: Path, owner: NodeId, *, sync: bool = True) -> None:
        """Open the store and what an earlier process left in it; what that left half-done is removed.

        Args:
            directory: the exchange directory; several SLs may share it.
            owner: whose results.
            sync: whether to fsync (the simulator does not).
        """
        self.directory = directory
        """Where the files lie."""
        self._sync = sync
        self._prefix = f"result-{sha256(owner.encode()).hex()[:12]}"
        # A step that was cancelled goes on in its worker thread: two may save at a time.
        self._lock = threading.Lock()
        self._open: dict[tuple[ContractName, int, int], OpenResult] = {}
        for path in directory.glob(f"{self._prefix}-*.part"):
            path.unlink(missing_ok=True)
        for path in sorted(directory.glob(f"{self._prefix}-*.meta")):
            self._load(path)
        named = {result.record.file for result in self._open.values()}
        for path in directory.glob(f"{self._prefix}-*.bin"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        try:
            record = decode(path.read_bytes(), StoredResult)
            buffer = map_readonly(self.directory / Path(record.file).name, record.size)
            if sha256(buffer) != record.sha256:
                raise OSError(f"{record.file} is damaged")
        except (DecodeError, OSError):
            path.unlink(missing_ok=True)  # it is fetched again from whoever holds it
            return
        self._open[record.contract, record.run, record.round] = OpenResult(record, buffer)

    def get(self, contract: ContractName, run: int, round_: int) -> OpenResult | None:
        """A stored result, or None."""
        return self._open.get((contract, run, round_))

    def save(
        self,
        contract: ContractName,
        run: int,
        round_: int,
        roots: tuple[bytes, ...],
        buffer: memoryview,
        expected: bytes = b"",
    ) -> OpenResult:
        """Write a verified result; when this returns it survives a power cut. Older ones beyond the last two go.

        Args:
            contract: whose result.
            run: of the contract.
            round_: of the run.
            roots: of its shards.
            buffer: the canonical buffer.
            expected: its SHA-256, if the ledger has it.

        Raises:
            VerificationError: the buffer is not the one that `expected` says; nothing is written.
            Broken: the disk is full or damaged; nothing is promised then.
        """
        digest = sha256(buffer)
        if expected and digest != expected:
            raise VerificationError(
                f"round {round_} of {contract}: the ledger has the model {expected.hex()[:16]}, "
                f"its chunks give {digest.hex()[:16]}"
            )
        which = sha256(f"{contract}\x00{run}\x00{round_}".encode())
        stem = f"{self._prefix}-{which.hex()[:24]}"
        record = StoredResult(
            contract=contract,
            run=run,
            round=round_,
            roots=roots,
            sha256=digest,
            size=len(buffer),
            # By content: another attempt's result never overwrites a file that somebody reads.
            file=f"{stem}-{digest.hex()[:16]}.bin",
        )
        with self._lock:
            before = self._open.get((contract, run, round_))
            if before is not None and before.record == record:
                return before
            try:
                data = self.directory / record.file
                self._write(data, buffer)
                self._write(self.directory / f"{stem}.meta", memoryview(encode(record)))
                result = OpenResult(record, map_readonly(data, len(buffer)))
            except OSError as error:
                raise Broken(
                    f"cannot store round {round_} of {contract} in {self.directory}: {error.strerror or error}; "
                    "free space there"
                ) from error
            self._open[contract, run, round_] = result
            if before is not None and before.record.file != record.file:
                (self.directory / before.record.file).unlink(missing_ok=True)
            self._forget_old(contract, (contract, run, round_))
            return result

    def _write(self, path: Path, data: memoryview) -> None:
        write_durably(path, data, sync=self._sync)

    def _forget_old(self, contract: ContractName, saved: tuple[ContractName, int, int]) -> None:
        """Older results than the last two go; never the one just saved: later ones may be of rounds that were void."""
        mine = sorted(key for key in self._open if key[0] == contract and key != saved)
        for key in mine[: 1 - KEEP]:
            record = self._open.pop(key).record
            stem = record.file.rsplit("-", 1)[0]
            # The meta file first: without it the other is nothing. Its mapping stays valid for whoever still reads.
            (self.directory / f"{stem}.meta").unlink(missing_ok=True)
            (self.directory / record.file).unlink(missing_ok=True)
