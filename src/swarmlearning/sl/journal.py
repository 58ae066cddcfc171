"""What an SL must still know after it was killed: two small files a training, written before the ledger is told.

One says who takes part and is replaced whole; how far the program has come changes with every sync and stands in the
other, which is overwritten in place (`slots`).

Which program took part in which run, how far it had come, whether it had finished; and of one that finished, the
parameters that it offers until all have (mode `snapshot`). Spec: docs/spec/round.md, R-18, R-21.
"""

import contextlib
import logging
import threading
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.records import Progress
from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError
from swarmlearning.sl.control import MAX_CONTROL_BYTES, Open
from swarmlearning.sl.slots import Slots
from swarmlearning.sl.store import map_readonly, write_durably
from swarmlearning.types import ContractName

log = logging.getLogger("swarmlearning.sl")

MAX_ENTRY_BYTES: Final = MAX_CONTROL_BYTES + (1 << 16)
"""Largest entry, bytes: an `Open` and little more."""


class Entry(Record, frozen=True, kw_only=True):
    """What is remembered of one training."""

    contract: ContractName
    run: int
    request: Open
    """With what its program opened."""
    progress: Progress = Progress()
    """The newest that it told of itself in this run."""
    finished: bool = False
    """Its program's training is over; the SL goes on for it."""
    snapshot: bytes = b""
    """SHA-256 of the parameters that it finished with; empty if they are not kept."""
    since: int = 0
    """Positions of a higher number are newer than this."""


class Position(Record, frozen=True, kw_only=True):
    """How far a program had come, later than its entry says."""

    run: int
    progress: Progress


class Journals:
    """The journals of all trainings of an SL, in its data directory; one process, any threads."""

    def __init__(self, directory: Path, *, sync: bool = True) -> None:
        """Open what an earlier process left; what is damaged is put aside.

        Args:
            directory: the SL's data directory.
            sync: whether to fsync (the simulator does not).
        """
        self._directory = directory
        self._sync = sync
        self._lock = threading.Lock()
        self._entries: dict[ContractName, Entry] = {}
        self._slots: dict[ContractName, Slots] = {}
        for path in [*directory.glob("journal-*.part"), *directory.glob("snapshot-*.part")]:
            path.unlink(missing_ok=True)
        for path in sorted(directory.glob("journal-*.bin")):
            self._load(path)
        named = {self._path("position", contract) for contract in self._entries}
        for path in directory.glob("position-*.bin"):
            if path not in named:
                path.unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        try:
            if path.stat().st_size > MAX_ENTRY_BYTES:
                raise DecodeError(f"{path.stat().st_size} bytes, at most {MAX_ENTRY_BYTES}")
            entry = decode(path.read_bytes(), Entry, limit=MAX_ENTRY_BYTES)
            if self._path("journal", entry.contract) != path:
                raise DecodeError(f"it is of {entry.contract!r}, which is kept in another file")
        except (DecodeError, OSError) as error:
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.replace(aside)
            log.warning("journal %s cannot be read and is now %s: %s", path, aside.name, error)
            return
        self._entries[entry.contract] = self._catch_up(entry)

    def _catch_up(self, entry: Entry) -> Entry:
        """An entry with the position that was written after it, if one was."""
        slots = self._positions(entry.contract)
        if slots.number <= entry.since:
            return entry
        try:
            position = decode(slots.value, Position)
        except DecodeError as error:
            log.warning("%s: the position in its journal cannot be read: %s", entry.contract, error)
            return entry
        return replace(entry, progress=position.progress) if position.run == entry.run else entry

    def _positions(self, contract: ContractName) -> Slots:
        if contract not in self._slots:
            self._slots[contract] = Slots(self._path("position", contract), sync=self._sync)
        return self._slots[contract]

    def _path(self, kind: str, contract: ContractName) -> Path:
        return self._directory / f"{kind}-{sha256(contract.encode()).hex()[:24]}.bin"

    def entries(self) -> tuple[Entry, ...]:
        """Of all trainings."""
        return tuple(self._entries.values())

    def get(self, contract: ContractName, run: int) -> Entry | None:
        """What is remembered of a run, if anything is."""
        entry = self._entries.get(contract)
        return entry if entry is not None and entry.run == run else None

    def begin(self, contract: ContractName, run: int, request: Open) -> None:
        """A program takes part in a run. What an earlier one of the same run had reached stays known.

        Raises:
            Broken: the disk is full or damaged.
        """
        before = self.get(contract, run)
        progress = before.progress if before is not None else Progress()
        since = self._positions(contract).number
        self._save(Entry(contract=contract, run=run, request=request, progress=progress, since=since))
        self._path("snapshot", contract).unlink(missing_ok=True)  # it trains again

    def advance(self, entry: Entry, progress: Progress) -> None:
        """Its program has come so far.

        Raises:
            Broken: the disk is full or damaged.
        """
        if entry.finished:  # it trains again
            self.begin(entry.contract, entry.run, entry.request)
        with self._lock:
            try:
                self._positions(entry.contract).write(encode(Position(run=entry.run, progress=progress)))
            except OSError as error:
                raise self._broken(self._path("position", entry.contract), error) from error
            current = self.get(entry.contract, entry.run)
            if current is not None:
                self._entries[entry.contract] = replace(current, progress=progress)

    def finish(self, entry: Entry, progress: Progress, own: memoryview | None) -> None:
        """Its program's training is over; `own` are the parameters to be offered until all have finished.

        Raises:
            Broken: the disk is full or damaged.
        """
        digest = b""
        if own is not None:
            self._write(self._path("snapshot", entry.contract), own)
            digest = sha256(own)
        self._save(
            Entry(
                contract=entry.contract,
                run=entry.run,
                request=entry.request,
                progress=progress,
                finished=True,
                snapshot=digest,
                since=self._positions(entry.contract).number,
            )
        )

    def snapshot(self, entry: Entry, size: int) -> memoryview | None:
        """The parameters that a program finished with, mapped; None where none are kept, or they are damaged."""
        if not entry.snapshot:
            return None
        path = self._path("snapshot", entry.contract)
        try:
            found = map_readonly(path, size)
            if sha256(found) != entry.snapshot:
                raise OSError(f"{path.name} is damaged")
        except OSError as error:
            log.warning("%s: the parameters it finished with are lost; it offers none: %s", entry.contract, error)
            return None
        return found

    def forget(self, contract: ContractName) -> None:
        """The training is complete, or over for us."""
        with self._lock:
            self._entries.pop(contract, None)
            slots = self._positions(contract)
            # The entry first: without it the other is nothing. A mapping stays valid.
            for kind in ("journal", "snapshot"):
                with contextlib.suppress(OSError):
                    self._path(kind, contract).unlink(missing_ok=True)
            slots.remove()
            del self._slots[contract]

    def _save(self, entry: Entry) -> None:
        self._write(self._path("journal", entry.contract), memoryview(encode(entry)))
        self._entries[entry.contract] = entry

    def _write(self, path: Path, data: memoryview) -> None:
        with self._lock:
            try:
                write_durably(path, data, sync=self._sync)
            except OSError as error:
                raise self._broken(path, error) from error

    def _broken(self, path: Path, error: OSError) -> Broken:
        return Broken(f"cannot write {path}: {error.strerror or error}; free space there")
