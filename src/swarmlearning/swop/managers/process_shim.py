"""Runs one half of a pair and outlives the agent: limits, log, the end of everything it started, exit status on disk.

A program of its own, started by file name with `-I -S` and two arguments; it imports nothing but the standard library
and two modules beside it. It leaves whoever started it at once (a session of its own, a child of init), so that the
agent may be killed and replaced; should it be killed itself, the kernel ends what it runs. The first argument is a JSON
file (`process_parts.ShimSpec`), the second the number of an open file on which whoever started it holds a lock, which
from now on lasts as long as this program. The first line that it prints is `ok`, or why it cannot start.

SIGTERM asks the program to end, and makes it after as many seconds as the file `stop` says; a second one makes it at
once. Processes that the program leaves behind are ended with it, also those in sessions of their own: the kernel hands
them to this program. Memory is limited for each process by RLIMIT_DATA, and for all together by looking. Not by
RLIMIT_AS: interpreters, CUDA and thread pools reserve many times the addresses that they ever use.

Spec: docs/spec/swop-process.md.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":  # with -I nothing of ours is found; last, so that no name of the standard library is taken
    sys.path.append(__file__.rsplit("/", 4)[0])

from swarmlearning.swop.managers.process_files import Log, Status
from swarmlearning.swop.managers.process_kernel import (
    count_memory,
    count_of_user,
    count_oom_kills,
    count_tasks,
    find_children,
    find_descendants,
    read_start,
    read_stat,
    read_text,
)

WATCH_S: Final = 0.5
"""How often memory and processes are counted."""

LEFTOVER_S: Final = 1.0
"""How long helpers of an ended program get to end by themselves before they are made to."""

CLEAR_S: Final = 20.0
"""How long killed processes may take to be gone."""

DEFAULT_GRACE_S: Final = 30.0
"""Between SIGTERM and SIGKILL, where nobody says otherwise."""

LIMIT_GRACE_S: Final = 10.0
"""The same, after a program ran for too long."""

TIMED_OUT: Final = 124
"""Exit status of a program that ran for too long, as `timeout` has it."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


# --- starting -------------------------------------------------------------------------------------------------------


def set_limits(limits: dict[str, Any], tasks_now: int) -> None:
    """Limit this process and its children. No core files: they would hold private data."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = [(resource.RLIMIT_NOFILE, limits["open_files"]), (resource.RLIMIT_DATA, limits["memory"])]
    if limits["processes"] is not None:
        # Counts all of this user's on the machine, and is not applied to root: `Shim.watch` counts exactly.
        wanted.append((resource.RLIMIT_NPROC, limits["processes"] + tasks_now))
    for what, most in wanted:
        if most is not None:
            hard = resource.getrlimit(what)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (most, most))
    if limits["cpus"] is not None:
        cpus = sorted(os.sched_getaffinity(0))
        count = min(len(cpus), max(1, -(-int(limits["cpus"] * 1000) // 1000)))
        first = int.from_bytes(os.urandom(2), "big") % len(cpus)
        os.sched_setaffinity(0, {cpus[(first + number) % len(cpus)] for number in range(count)})


def start_program(spec: dict[str, Any], output: int, status_to: int | None) -> tuple[int, str]:
    """Start the program in a group of its own; return its pid and, if it cannot be started, why."""
    argv, environment = list(spec["argv"]), dict(spec["env"])
    kept = [fd for fd in (status_to,) if fd is not None]
    if spec["sandbox"] is not None:
        # By a file, not on the command line: everybody on the machine may read that, and values may be secrets. And
        # not by the environment: with LD_PRELOAD a task would reach the sandbox's own program, outside of it.
        arguments = os.memfd_create("sandbox")
        os.write(arguments, b"".join(os.fsencode(word) + b"\0" for word in spec["sandbox"]))
        os.lseek(arguments, 0, os.SEEK_SET)
        kept.append(arguments)
        argv = [spec["sandbox_program"], "--args", str(arguments), "--json-status-fd", str(status_to), "--", *argv]
        environment = {}
    tasks_now = count_of_user() if spec["limits"]["processes"] is not None and os.getuid() else 0
    prctl = ctypes.CDLL(None).prctl
    telling, saying = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() != parent:
                os._exit(1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            for target in (1, 2):
                os.dup2(output, target)
            for descriptor in kept:
                os.set_inheritable(descriptor, True)
            set_limits(spec["limits"], tasks_now)
            os.chdir(spec["cwd"])
            os.execvpe(argv[0], argv, environment)  # noqa: S606  # no shell: that is what we want
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            os.write(saying, f"cannot start {argv[0]!r}: {reason}".encode(errors="replace"))
        finally:
            os._exit(127)
    os.close(saying)
    for descriptor in (output, *kept):
        os.close(descriptor)
    with os.fdopen(telling, encoding="utf-8", errors="replace") as file:
        return pid, file.read()


# --- the life of the program ----------------------------------------------------------------------------------------


class Shim:
    """Looks after one program from its start to its end."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Prepare; nothing runs yet."""
        self._spec = spec
        self._limits = spec["limits"]
        self._log = Log(spec["log"], spec["log_bytes"])
        self._status = Status(spec["status"], spec["token"])
        self._wake, waking = os.pipe()
        for end in (self._wake, waking):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._program = 0
        self._code: int | None = None
        self._asked = 0
        self._kill_at: float | None = None
        self._reason = ""
        self._timed_out = False

    def run(self, ready: Callable[[], None]) -> None:
        """Start the program, call `ready` when its status can be read, and look after it until its end is on disk."""
        self._status.write()
        out, output = os.pipe()
        status_from, status_to = os.pipe() if self._spec["sandbox"] is not None else (None, None)
        kills = count_oom_kills()
        self._program, refused = start_program(self._spec, output, status_to)
        self._status.write(program={"pid": self._program, "start": read_start(self._program)})
        ready()
        os.set_blocking(out, False)
        self._follow(out)
        self._clear()
        self._drain(out)
        told = self._read_sandbox(status_from)
        code, detail = self._judge(refused, told, killed=count_oom_kills() > kills)
        if detail:
            self._log.write(f"\n[{detail}]\n".encode()[: self._log.chunk])
        asked = self._asked

        def is_stopped() -> bool:
            self._listen()
            return self._asked > asked

        self._status.end(is_stopped, exit_status=code, detail=detail, log_lost=self._log.lost)

    def _follow(self, out: int) -> None:
        """Copy its output, look at its limits and listen to signals until it has ended."""
        poll = select.poll()
        poll.register(out, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        limit = self._limits["run_time_s"]
        late = time.monotonic() + limit if limit is not None else None
        look_at = time.monotonic() + WATCH_S
        while self._code is None:
            due = min(at for at in (late, self._kill_at, look_at) if at is not None)
            for descriptor, _ in poll.poll(max(0, (due - time.monotonic()) * 1000)):
                if descriptor == self._wake:
                    self._listen()
                elif not self._copy(out):
                    poll.unregister(out)
            self._reap()
            now = time.monotonic()
            if late is not None and now >= late and self._code is None:
                late, self._timed_out = None, True
                self._reason = f"stopped after {show_duration(limit)}, the policy's run_time"
                self._ask(LIMIT_GRACE_S)
            if self._kill_at is not None and now >= self._kill_at:
                self._make()
            if now >= look_at:
                look_at = now + WATCH_S
                self._watch()

    def _copy(self, out: int) -> bool:
        """Copy what there is; whether more may come."""
        try:
            data = os.read(out, self._log.chunk)
        except BlockingIOError:
            return True
        self._log.write(data)
        return bool(data)

    def _drain(self, out: int) -> None:
        deadline = time.monotonic() + LEFTOVER_S
        poll = select.poll()
        poll.register(out, select.POLLIN)
        while time.monotonic() < deadline and poll.poll(0) and self._copy(out):
            pass

    def _listen(self) -> None:
        """Act upon signals."""
        try:
            numbers = os.read(self._wake, 512)
        except BlockingIOError:
            return
        for _ in range(numbers.count(signal.SIGTERM)):
            self._asked += 1
            if self._code is not None:
                continue
            if self._asked > 1:
                self._make()
            else:
                try:
                    grace_s = float(read_text(self._spec["stop"]) or DEFAULT_GRACE_S)
                except ValueError:
                    grace_s = DEFAULT_GRACE_S
                self._ask(grace_s)

    def _reap(self) -> None:
        """Collect what has ended: the program, and what it left to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._program:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code

    def _ask(self, grace_s: float) -> None:
        """Send SIGTERM to the program's group; in a sandbox, to the group within."""
        self._kill_at = time.monotonic() + grace_s
        group = self._program
        if self._spec["sandbox"] is not None:
            # The sandbox's program outside, its init inside, and then the first that was started there.
            inner = [program for init in find_children(self._program)[:1] for program in sorted(find_children(init))]
            fields = read_stat(inner[0]) if inner else None
            if fields is None:
                self._make()
                return
            group = int(fields[2])
        _signal(os.killpg, group, signal.SIGTERM)

    def _make(self) -> None:
        """End everything, whatever it does about it: a sandbox ends with its program, others one by one."""
        self._kill_at = None
        if self._code is None:
            _signal(os.killpg, self._program, signal.SIGKILL)
        for pid in find_descendants(os.getpid()):
            _signal(os.kill, pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Make it end if it uses more than it may."""
        memory, processes = self._limits["memory"], self._limits["processes"]
        if (memory is None and processes is None) or self._reason:
            return
        pids = find_descendants(os.getpid())
        if processes is not None and (count := count_tasks(pids)) > processes:
            self._reason = f"stopped: {count} processes and threads, the policy allows {processes}"
        elif memory is not None and (used := count_memory(pids, memory)) > memory:
            self._reason = f"stopped: {show_bytes(used)} of memory in use, the policy allows {show_bytes(memory)}"
        if self._reason:
            self._make()

    def _clear(self) -> None:
        """End what the program left behind, which the kernel made our child."""
        for number, wait_s in ((signal.SIGTERM, LEFTOVER_S), (signal.SIGKILL, CLEAR_S)):
            deadline = time.monotonic() + wait_s
            told: set[int] = set()
            while left := find_descendants(os.getpid()):
                if time.monotonic() > deadline:
                    break
                for pid in left:
                    if pid not in told or number == signal.SIGKILL:
                        _signal(os.kill, pid, number)
                        told.add(pid)
                time.sleep(0.01)
                self._reap()

    def _read_sandbox(self, status_from: int | None) -> str:
        """What the sandbox says of itself: one JSON document a line, the last one with `exit-code`."""
        if status_from is None:
            return ""
        os.set_blocking(status_from, False)
        try:
            return os.read(status_from, 65536).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def _judge(self, refused: str, told: str, *, killed: bool) -> tuple[int | None, str]:
        """Exit status and what to say about it."""
        if refused:
            return self._code, refused
        if self._timed_out:
            return TIMED_OUT, self._reason
        if self._reason:
            return self._code, self._reason
        if self._code == 128 + signal.SIGKILL and killed and not self._asked:
            return self._code, "killed by the kernel, which had no memory left"
        if self._spec["sandbox"] is not None and '"exit-code"' not in told and not self._asked:
            return self._code, "the sandbox could not be made, or has no such program in it; the log says why"
        return self._code, ""


def _signal(send: Callable[[int, int], None], target: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(target, number)


def show_bytes(count: int) -> str:
    """`1.5 GiB`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def show_duration(seconds: float) -> str:
    """`12 h`, `90 s`: in the largest unit that gives a whole number."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"


def main() -> None:
    """Leave whoever started us, and run what SPEC says."""
    os.set_inheritable(int(sys.argv[2]), False)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    nothing = os.open(os.devnull, os.O_RDWR)
    said = False

    def say(text: str) -> None:
        nonlocal said
        said = True
        with contextlib.suppress(OSError):  # whoever started us may be gone; we go on
            os.write(1, text.encode(errors="replace") + b"\n")
        for target in (0, 1, 2):
            os.dup2(nothing, target)

    try:
        spec = json.loads(Path(sys.argv[1]).read_bytes())
        Shim(spec).run(lambda: say("ok"))
    except (OSError, ValueError, KeyError) as error:
        if not said:
            say(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
