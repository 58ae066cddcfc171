"""The processes of one measured system: who belongs to it, how much memory they hold, and their end.

A system's processes may start sessions of their own and outlive their parents, so neither a process group nor the tree
of parents finds them all. Each inherits a random token in its environment; whoever has it, the descendants of those,
and whoever was seen as one of them belongs to the family. Nobody else is ever sent a signal.

Memory: the sum is PSS (a page that k processes share counts 1/k for each), sampled; the largest process is the highest
VmHWM, the kernel's own high-water mark of resident memory, read at each sample.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

VARIABLE = "BENCH_PEERS_FAMILY"
SAMPLE_S = 0.1
SAMPLING_SHARE = 0.05
"""Reading PSS walks page tables: sampling may take this share of a core, and waits longer where it would take more."""


@dataclass
class Peak:
    """The most memory seen, in MB (10^6 bytes)."""

    sum_mb: float = 0.0
    largest_mb: float = 0.0
    largest_name: str = ""
    processes: int = 0


def _read(path: Path) -> bytes:
    """The file, or nothing where the process is gone or not ours."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


class Family:
    """The processes of one measured system, by the token in their environment."""

    def __init__(self, token: str) -> None:
        self._mark = f"{VARIABLE}={token}".encode()
        self._known: dict[int, bytes] = {}
        """When each member started: a number may be given to another process later."""
        self._looking = threading.Lock()

    def find_members(self) -> set[int]:
        """Ids of all living members: who has the token, who was seen as one before, and the descendants of those."""
        with self._looking:
            return self._find_members()

    def _find_members(self) -> set[int]:
        started: dict[int, bytes] = {}
        children: dict[int, list[int]] = {}
        members = set()
        for folder in Path("/proc").iterdir():
            # After the name, which may hold anything: state, parent, … and as the 20th the start.
            stat = _read(folder / "stat").rpartition(b")")[2].split() if folder.name.isdigit() else []
            if len(stat) < 20 or stat[0] in (b"Z", b"X") or int(folder.name) == os.getpid():
                continue
            pid = int(folder.name)
            started[pid] = stat[19]
            children.setdefault(int(stat[1]), []).append(pid)
            if self._known.get(pid) == stat[19] or self._mark in _read(folder / "environ").split(b"\0"):
                members.add(pid)
        waiting = list(members)
        while waiting:
            found = [child for child in children.get(waiting.pop(), []) if child not in members]
            members.update(found)
            waiting += found
        self._known = {pid: started[pid] for pid in members}
        return members

    def end(self, grace_s: float = 5.0) -> int:
        """End every process of the family: SIGTERM, and SIGKILL after the grace; how many there were.

        Raises:
            RuntimeError: somebody is alive 10 s after SIGKILL.
        """
        first = self.find_members()
        for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            end = time.monotonic() + limit_s
            signalled: set[int] = set()
            while members := self.find_members():
                for pid in members - signalled:
                    signalled.add(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
            else:
                return len(first)
        raise RuntimeError(f"these processes would not end: {sorted(self.find_members())}")


def _field_mb(text: bytes, name: bytes) -> float:
    """A `Name:  123 kB` line of a /proc file."""
    for line in text.splitlines():
        if line.startswith(name + b":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _read_command(pid: int) -> list[str]:
    """Program and arguments of a process; empty if it is gone."""
    return [word.decode(errors="replace") for word in _read(Path(f"/proc/{pid}/cmdline")).split(b"\0") if word]


def _describe(words: list[str]) -> str:
    """A short name of a process: its program, or what an interpreter runs."""
    names = [Path(word).name for word in words if not word.startswith("-")]
    return next((name for name in names if not name.startswith("python")), "?")


@dataclass
class Watch:
    """Samples the memory of a family in a thread until it is stopped.

    `ignored`: whoever has one of these texts in its command line is not counted.
    """

    family: Family
    ignored: tuple[str, ...] = ()
    peak: Peak = field(default_factory=Peak)

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        self._thread.join()

    def sample(self) -> None:
        """Look once."""
        commands = {pid: _read_command(pid) for pid in self.family.find_members()}
        counted = [pid for pid, words in commands.items() if not any(text in " ".join(words) for text in self.ignored)]
        total = 0.0
        for pid in counted:
            folder = Path(f"/proc/{pid}")
            total += _field_mb(_read(folder / "smaps_rollup"), b"Pss")
            highest = _field_mb(_read(folder / "status"), b"VmHWM")
            if highest > self.peak.largest_mb:
                self.peak.largest_mb, self.peak.largest_name = highest, _describe(commands[pid])
        self.peak.sum_mb = max(self.peak.sum_mb, total)
        self.peak.processes = max(self.peak.processes, len(counted))

    def _sample_until_stopped(self) -> None:
        pause = SAMPLE_S
        while not self._stopped.wait(pause):
            begun = time.thread_time()
            self.sample()
            pause = max(SAMPLE_S, (time.thread_time() - begun) / SAMPLING_SHARE)
