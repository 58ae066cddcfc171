"""What an agent must still know after it was killed: a file an assignment, written before anything is started or said.

Files hold the environments of programs, and are the owner's alone. Logs lie beside them, in a directory an assignment:
they outlive resets, and the oldest go when there are too many. Spec: docs/spec/swop.md, SW-5.
"""

import contextlib
import enum
import logging
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.contracts.records import Peer
from swarmlearning.contracts.task_records import Evidence, TaskType, Unit, WorkState
from swarmlearning.errors import Broken, ConfigurationError, IdentityError
from swarmlearning.identity.files import SECRET_MODE, write_file
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.plan import Known
from swarmlearning.swop.policy import Limits
from swarmlearning.types import ContractName, RunnerName, TaskName

log = logging.getLogger("swarmlearning.swop")

KEPT: Final = 50
"""How many assignments that are over are kept, the newest, with their logs: of those that were allowed, and of the
others, which anybody can bring about as often as they like."""

MAX_ENTRY_BYTES: Final = 256 << 20
"""Largest file that is read: 64 pairs, each with all that a task can say, twice, and escaped, are less."""

_SLUG: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class Stage(enum.StrEnum):
    """How far a pair has been brought. Written before the step itself, which may be taken again."""

    PLANNED = "PLANNED"  # nothing has been started
    SL = "SL"  # its SL is being started
    ML = "ML"  # its program is being started, or runs
    CLOSING = "CLOSING"  # its program has ended well; its SL goes on for the others
    LINGERING = "LINGERING"  # it is complete; its SL may still give the last result to others
    ENDED = "ENDED"  # nothing of it runs any more; how it ended is in its unit


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's enrolment in a contract, as it was before its pair was started."""

    contract: ContractName
    run: int
    peer: Peer


class PairEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One pair, and how far it is."""

    idx: int
    """Of the profile's node."""
    pair: Pair | None
    """None: it could not be made; its unit says why."""
    unit: Unit
    """As it is to be reported."""
    stage: Stage = Stage.PLANNED
    sl_starts: int = 0
    """How often its SL was started."""
    ml_seen: bool = False
    """It was seen to run: it is never started again."""
    enrolled: tuple[Standing, ...] = ()
    """Where its SL was enrolled before it was started."""
    took_part: bool = False
    """Its SL has enrolled in a training since."""
    merged: bool = False
    """Its SL has contributed to a round since: its program has read data."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one assignment."""

    id: str
    """Name of its file and of the directory of its logs."""
    runner: RunnerName
    number: int
    task: TaskName
    kind: TaskType
    hash: bytes
    assigned_ms: int
    version: int
    """Of the runner's record in which it was last seen."""
    planned: int
    """Peers that it was taken with."""
    begun_ms: int
    """By this host's clock."""
    since_ms: int = 0
    """Block time at which we took it; 0: not known to be taken."""
    state: WorkState = WorkState.ENROLLED
    description: str = ""
    approved_by: str = ""
    limits: Limits = Limits()
    network: bool = False
    """Whether programs may use the network, by the decision."""
    urls: tuple[str, ...] | None = None
    """Beginnings of URLs from which it may download, by the decision; None: whatever the task names."""
    evidence: Evidence | None = None
    places: tuple[str, ...] = ()
    """Paths that the task itself names, so that whoever reads the ledger knows them."""
    pairs: tuple[PairEntry, ...] = ()
    """By idx."""
    ended_ms: int = 0
    """When all that we did had ended; 0 while it has not."""
    reported: bool = False
    """Whether the ledger has how it ended, or does not want to know any more."""
    leaving: str = ""
    """Why it is being cleaned up; empty while it is not."""
    cleaned: bool = False
    """Nothing of it is left on this host but its logs."""
    dropped: bool = False
    """What we did does not count any more: it was to be taken anew."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is to be done any more but to be cleaned up, or not even that."""
        return bool(self.ended_ms)

    @property
    def did_something(self) -> bool:
        """Whether it was ever allowed, so that there may be logs."""
        return bool(self.approved_by)

    @property
    def lingers(self) -> bool:
        """Whether an SL of it still serves others."""
        return any(item.stage is Stage.LINGERING for item in self.pairs)

    def known(self) -> Known:
        """What `plan` needs of it."""
        return Known(
            id=self.id,
            number=self.number,
            hash=self.hash,
            assigned_ms=self.assigned_ms,
            version=self.version,
            since_ms=self.since_ms,
            ended=self.is_over,
            cleaned=self.cleaned,
            dropped=self.dropped,
        )


def shorten(text: str, most: int) -> str:
    """`text` as part of a file's name."""
    return _SLUG.sub("-", text)[:most].strip("-.") or "x"


def make_id(runner: RunnerName, number: int) -> str:
    """A name for a new entry, which no other has."""
    return f"{shorten(runner, 60)}-{number}-{secrets.token_hex(3)}"


class Journal:
    """The entries of an agent, in its data directory; one process."""

    def __init__(self, data: Path) -> None:
        """Open what an earlier process left; what is damaged is put aside.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        self._directory = data / "journal"
        self._logs = data / "logs"
        try:
            for directory in (data, self._directory, self._logs):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._directory.glob(".*"):  # left by a process that was killed while it wrote
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(f"data directory {data} cannot be used: {error.strerror}") from error
        self._entries = {entry.id: entry for entry in read_entries(data, put_aside=True)}

    def entries(self) -> tuple[Entry, ...]:
        """All, the oldest first."""
        return tuple(sorted(self._entries.values(), key=lambda entry: (entry.begun_ms, entry.id)))

    def of_runner(self, runner: RunnerName) -> list[Entry]:
        """Those of a runner's assignments, the oldest first."""
        return [entry for entry in self.entries() if entry.runner == runner]

    def get(self, entry_id: str) -> Entry | None:
        """An entry, unless it was removed."""
        return self._entries.get(entry_id)

    def save(self, entry: Entry) -> None:
        """Keep an entry; durable when this returns.

        Raises:
            Broken: the disk is full or damaged.
        """
        try:
            write_file(self._directory / f"{entry.id}.json", msgspec.json.encode(entry), mode=SECRET_MODE, force=True)
        except IdentityError as error:
            raise Broken(f"{error}; is the disk full?") from error
        self._entries[entry.id] = entry

    def logs_of(self, entry_id: str) -> Path:
        """The directory of an assignment's logs; made if it is not there."""
        path = self._logs / entry_id
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def remove(self, entry: Entry) -> None:
        """Forget an entry, with its logs."""
        # The file last: an entry without logs can be removed again, logs without an entry nobody would.
        shutil.rmtree(self._logs / entry.id, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self._directory / f"{entry.id}.json").unlink(missing_ok=True)
        self._entries.pop(entry.id, None)

    def prune(self) -> None:
        """Remove all but the newest `KEPT` of the entries that are over and cleaned up, with their logs.

        Those in which nothing was ever done, since nobody had agreed, count by themselves: they push out no logs.
        """
        over = [entry for entry in self.entries() if entry.is_over and entry.cleaned]
        for did in (True, False):
            for entry in [each for each in over if each.did_something is did][:-KEPT]:
                self.remove(entry)

    def pair_ids(self) -> set[str]:
        """Of all pairs of which something may be on this host."""
        entries = (entry for entry in self._entries.values() if not entry.cleaned)
        return {item.pair.id for entry in entries for item in entry.pairs if item.pair is not None}


def read_entries(data: Path, *, put_aside: bool = False) -> Iterator[Entry]:
    """The entries in an agent's data directory, also of one that runs; what cannot be read is left out.

    With `put_aside` it is renamed, too, with a line in the log.
    """
    for path in sorted((data / "journal").glob("*.json")):
        try:
            if path.stat().st_size > MAX_ENTRY_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes, at most {MAX_ENTRY_BYTES}")
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            if f"{entry.id}.json" != path.name:
                raise ValueError(f"it is {entry.id!r}, which is kept in another file")
        except (OSError, ValueError, RecursionError) as error:
            if put_aside:
                aside = path.with_suffix(".damaged")
                with contextlib.suppress(OSError):
                    path.replace(aside)
                log.warning("journal %s cannot be read and is now %s: %s", path, aside.name, error)
            continue
        yield entry
