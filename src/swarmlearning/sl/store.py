"""Final results on disk: written whole, synced, renamed; the last two of each contract are kept.

Files lie in the exchange directory, so that the ML program maps them; names come from hashes, never from outside. A
result is its `.meta` file, which appears last and names the `.bin` file: a process that dies half-way leaves none. The
chunks of a result are written where they belong as they come, and hashed as far as they are there: nothing is copied.

Does not: fetch or verify chunks (`fetching`).
"""

import contextlib
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError, VerificationError
from swarmlearning.parameters.chunks import CHUNK_BYTES
from swarmlearning.sl.results import OpenResult, Part, StoredResult, open_verified, remove_quietly
from swarmlearning.types import ContractName, NodeId

KEEP: Final = 2
"""Final results kept of each contract."""


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
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut.

    Raises:
        OSError: the disk is damaged.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
        self._kept: dict[ContractName, int] = {}
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
            chunks = open_verified(self.directory / Path(record.file).name, record)
        except (DecodeError, OSError, Broken):
            path.unlink(missing_ok=True)  # it is fetched again from whoever holds it
            return
        self._open[record.contract, record.run, record.round] = OpenResult(record, chunks)

    def get(self, contract: ContractName, run: int, round_: int) -> OpenResult | None:
        """A stored result, or None."""
        return self._open.get((contract, run, round_))

    def named(self, contract: ContractName, run: int, digest: bytes) -> OpenResult | None:
        """The stored result of a run with a SHA-256, or None."""
        known = list(self._open.items())
        return next((r for key, r in known if key[:2] == (contract, run) and r.record.sha256 == digest), None)

    def keep_past(self, contract: ContractName) -> None:
        """Keep one result more: to merge a round anew needs the two before it, also once its result is here."""
        self._kept[contract] = KEEP + 1

    def begin(self, contract: ContractName, run: int, round_: int, roots: tuple[bytes, ...], size: int) -> Part:
        """Make room for a result whose chunks will come.

        Args:
            contract: whose result.
            run: of the contract.
            round_: of the run.
            roots: of its shards.
            size: of the canonical buffer, bytes.

        Raises:
            Broken: the disk has no room.
        """
        record = StoredResult(contract=contract, run=run, round=round_, roots=roots, sha256=b"", size=size, file="")
        try:
            return Part(self.directory, self._prefix, record)
        except OSError as error:
            raise self._no_room(record, error) from error

    def finish(self, part: Part, expected: bytes = b"", leaves: Sequence[bytes] = (), whole: bytes = b"") -> OpenResult:
        """Keep a result that is there; when this returns it survives a power cut. Older ones beyond the last two go.

        Args:
            part: all its chunks have been written.
            expected: its SHA-256, if the ledger has it.
            leaves: of each shard, if they are known.
            whole: where the round's shards are of a difference, the root of the canonical buffer; `leaves` are its.

        Raises:
            VerificationError: the buffer is not the one that `expected` says; nothing is kept.
            Broken: the disk is full or damaged; nothing is promised then.
        """
        key = part.record.contract, part.record.run, part.record.round
        digest = part.digest()
        if expected and digest != expected:
            part.give_up()
            raise VerificationError(
                f"round {part.record.round} of {part.record.contract}: the ledger has the model "
                f"{expected.hex()[:16]}, its chunks give {digest.hex()[:16]}"
            )
        which = sha256("\x00".join(map(str, key)).encode())
        stem = f"{self._prefix}-{which.hex()[:24]}"
        # By content: another attempt's result never overwrites a file that somebody reads.
        record = replace(part.record, sha256=digest, file=f"{stem}-{digest.hex()[:16]}.bin", whole=whole)
        with self._lock:
            before = self._open.get(key)
            if before is not None and before.record == record:
                return before
            try:
                self._keep(part, record, self.directory / f"{stem}.meta")
            except OSError as error:
                raise self._no_room(record, error) from error
            result = self._open[key] = OpenResult(record, part.chunks, leaves)
            if before is not None and before.record.file != record.file:
                remove_quietly(self.directory / before.record.file)
            self._forget_old(record.contract, key)
            return result

    def save(
        self,
        contract: ContractName,
        run: int,
        round_: int,
        roots: tuple[bytes, ...],
        buffer: memoryview,
        expected: bytes = b"",
    ) -> OpenResult:
        """The same for a result that is in memory as a whole.

        Raises:
            VerificationError, Broken: see `finish`.
        """
        part = self.begin(contract, run, round_, roots, len(buffer))
        try:
            for index in range(part.total):
                part.chunks.write(index, buffer[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
            return self.finish(part, expected)
        finally:
            part.give_up()

    def _keep(self, part: Part, record: StoredResult, meta: Path) -> None:
        """Name both files, then sync them: what a power cut leaves between is found by its hash, and is no result.

        So a journalling file system writes its journal twice, and not four times.

        Raises:
            OSError: the disk is full or damaged; neither file is left.
        """
        data = self.directory / record.file
        written = meta.with_suffix(".part")
        # The small file first: where there is no room for it, the large one is still there for the next try.
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(encode(record))
            try:
                self._put(lambda: self._name(part.keep, data, part.chunks.descriptor))
                self._put(lambda: self._name(written.replace, meta, descriptor))
                if self._sync:
                    sync_directory(self.directory)
            except OSError:
                # What a failed sync was about may be neither on the disk nor in memory any more.
                part.give_up()
                remove_quietly(data)
                remove_quietly(meta)
                raise
        except OSError:
            remove_quietly(written)
            raise
        finally:
            os.close(descriptor)

    def _put(self, write: Callable[[], None]) -> None:
        """One of the two files of a result comes to its place."""
        write()

    def _name(self, rename: Callable[[Path], object], path: Path, descriptor: int) -> None:
        rename(path)
        if self._sync:
            os.fsync(descriptor)

    def _no_room(self, record: StoredResult, error: OSError) -> Broken:
        return Broken(
            f"cannot store round {record.round} of {record.contract} in {self.directory}: {error.strerror or error}; "
            "free space there"
        )

    def _forget_old(self, contract: ContractName, saved: tuple[ContractName, int, int]) -> None:
        """Older results than the last two go; never the one just saved: later ones may be of rounds that were void."""
        mine = sorted(key for key in self._open if key[0] == contract and key != saved)
        for key in mine[: 1 - self._kept.get(contract, KEEP)]:
            record = self._open.pop(key).record
            stem = record.file.rsplit("-", 1)[0]
            # The meta file first: without it the other is nothing. Whoever still reads it has it open.
            (self.directory / f"{stem}.meta").unlink(missing_ok=True)
            (self.directory / record.file).unlink(missing_ok=True)
