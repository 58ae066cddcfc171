"""What Linux says of processes: /proc, without anything but the standard library, for `process_shim` too."""

import os
from pathlib import Path


def read_boot_id() -> str:
    """Of the running kernel: another one after each boot."""
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, from the state on; None if there is no such process, or a zombie."""
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return None if not fields or fields[0] in "ZX" else fields


def read_start(pid: int) -> int | None:
    """When a process started, in ticks since the boot: with the pid it names the process. None if there is none."""
    fields = read_stat(pid)
    return int(fields[19]) if fields else None


def find_children(pid: int) -> list[int]:
    """Direct children of a process, of all its threads, zombies too."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    return [int(child) for thread in threads for child in read_text(thread / "children").split()]


def find_descendants(pid: int) -> list[int]:
    """Children, their children and so on; what begins meanwhile may be missing."""
    found: list[int] = []
    waiting = find_children(pid)
    while waiting:
        child = waiting.pop()
        found.append(child)
        waiting += find_children(child)
    return found


def count_tasks(pids: list[int]) -> int:
    """Processes and threads, as the kernel counts them for RLIMIT_NPROC."""
    return sum(int(fields[17]) for fields in map(read_stat, pids) if fields)


def count_memory(pids: list[int], most: int) -> int:
    """Bytes of private and shared memory in use; exact only if it may be more than `most`.

    What a process shares with its forks counts once: that is asked only when the simple sum is too large, for it costs
    a walk over all pages.
    """
    simple = sum(_sum_fields(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:")) for pid in pids)
    if simple <= most:
        return simple
    exact = sum(_sum_fields(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for pid in pids)
    return exact or simple


def _sum_fields(path: str, names: tuple[str, ...]) -> int:
    return sum(int(line.split()[1]) << 10 for line in read_text(path).splitlines() if line.startswith(names))


def count_of_user() -> int:
    """Processes and threads of this user on the whole machine."""
    pids = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if path.stat().st_uid == os.getuid():
                    pids.append(int(path.name))
            except OSError:
                continue
    return count_tasks(pids)


def read_text(path: str | Path) -> str:
    """What a file says; nothing if it cannot be read: its process has ended meanwhile."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def count_oom_kills() -> int:
    """How many processes the kernel killed for lack of memory since the boot; 0 where it does not say."""
    for line in read_text("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
