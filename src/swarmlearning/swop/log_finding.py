"""Which logs an agent's data directory has, and which of them a name means. Spec: docs/spec/swop.md, SW-12.

Reads the journal as another process may be writing it; changes nothing.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from swarmlearning.contracts.task_records import ENDED, WorkState
from swarmlearning.errors import ConfigurationError, InvalidName, NotFound
from swarmlearning.swop.journal import Entry, PairEntry, Stage, read_entries
from swarmlearning.swop.making import LOG_NAME
from swarmlearning.types import NodeName

PartChoice = Literal["sl", "ml", "all"]


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One log."""

    title: str
    """For people: `ml of heart-0-1f…`, or `task build`."""
    path: str
    entry: str
    """Id of the journal's entry."""
    idx: int | None = None
    """Of the profile's node; None: it is a task's own."""


STOPPED: Final = "STOPPED"
"""What was under way when its taskrunner was reset."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to look at."""

    name: str
    """By which it is asked for."""
    node: str
    """`name@domain` of the SL; empty of a task's own log."""
    state: str
    """How far it is, or `STOPPED`: a reset stopped it."""
    assignment: str
    """`RUNNER:NUMBER`."""
    task: str
    bytes: int
    begun_ms: int


def load(data: Path) -> list[Entry]:
    """The journal's entries, the newest first.

    Raises:
        ConfigurationError: there is no agent's data.
    """
    if not (data / "journal").is_dir():
        raise ConfigurationError(f"{data} is no agent's data directory: name it by --data")
    return sorted(read_entries(data), key=lambda entry: entry.begun_ms, reverse=True)


def name_assignment(entry: Entry) -> str:
    """How people name an assignment."""
    return f"{entry.runner}:{entry.number}"


def _size(*paths: str) -> int:
    total = 0
    for path in paths:
        try:
            total += Path(path).stat().st_size
        except OSError:
            continue
    return total


def list_logs(data: Path, entries: Iterable[Entry]) -> list[LogLine]:
    """All that there is."""
    lines: list[LogLine] = []
    for entry in entries:
        task = LogLine(
            name=entry.task,
            node="",
            state=_state(entry, entry.state),
            assignment=name_assignment(entry),
            task=entry.task,
            bytes=_size(str(_task_log(data, entry))),
            begun_ms=entry.begun_ms,
        )
        for item in entry.pairs:
            line = replace(task, name=str(item.idx), state=_state(entry, item.unit.state), bytes=0)
            if item.pair is not None:
                size = _size(item.pair.sl_log, item.pair.ml_log)
                line = replace(line, name=item.pair.id, node=NodeName.parse(item.pair.uid).short, bytes=size)
            lines.append(line)
        if not entry.pairs:
            lines.append(task)
    return lines


def _state(entry: Entry, state: WorkState) -> str:
    return state.value if state in ENDED or not entry.cleaned else STOPPED


def _task_log(data: Path, entry: Entry) -> Path:
    return data / "logs" / entry.id / LOG_NAME


def _is_meant(entry: Entry, item: PairEntry, name: str) -> bool:
    if name in (str(item.idx), entry.task):
        return True
    if item.pair is None:
        return False
    try:
        sl = NodeName.parse(item.pair.uid)
    except InvalidName:
        return name == item.pair.id
    return name in (item.pair.id, sl.name, sl.short, sl.id)


def find_logs(data: Path, entries: Iterable[Entry], name: str, part: PartChoice, assignment: str | None) -> list[Log]:
    """The logs that a name means, of the newest assignment that has any, or of the one that is named.

    Args:
        data: the agent's data directory.
        entries: of its journal, the newest first.
        name: an SL's name, `name@domain` or node id; a node's idx; a pair's id; a task's name.
        part: of pairs, which half.
        assignment: `RUNNER:NUMBER`; None: the newest.

    Raises:
        NotFound: there are none.
    """
    known = list(entries)
    for entry in known:
        if assignment is not None and assignment != name_assignment(entry):
            continue
        found = [
            Log(title=f"{half} of {item.pair.id}", path=path, entry=entry.id, idx=item.idx)
            for item in entry.pairs
            if item.pair is not None and _is_meant(entry, item, name)
            for half, path in (("sl", item.pair.sl_log), ("ml", item.pair.ml_log))
            if part in (half, "all")
        ]
        if name == entry.task and not entry.pairs:
            found.append(Log(title=f"task {entry.task}", path=str(_task_log(data, entry)), entry=entry.id))
        if found:
            return found
    where = f" in assignment {assignment}" if assignment is not None else ""
    there = ", ".join(dict.fromkeys(line.node or line.name for line in list_logs(data, known))) or "none"
    raise NotFound(f"there are no logs of {name}{where}; there are: {there}")


def is_over(data: Path, log: Log) -> bool:
    """Whether nothing more will be written to a log."""
    entry = next((entry for entry in read_entries(data) if entry.id == log.entry), None)
    if entry is None or entry.is_over or entry.cleaned:
        return True
    return any(item.idx == log.idx and item.stage is Stage.ENDED for item in entry.pairs)
