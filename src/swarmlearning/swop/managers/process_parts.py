"""One half of a pair, as the agent sees it: started under a shim, looked at, asked to end. All of it is on disk.

    PAIR/<part>/spec.json     what the shim runs
    PAIR/<part>/lock          locked as long as the shim lives, however it ends
    PAIR/<part>/status.json   what became of it (`process_files.Status`)
    PAIR/<part>/stop          seconds between SIGTERM and SIGKILL

Whether something lives the lock says, which no other process can hold by accident; so a pid that was given away again
and a machine that was restarted are not taken for ours (SW-43). Spec: docs/spec/swop-process.md.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError, WaitExpired
from swarmlearning.swop.managers import process_shim
from swarmlearning.swop.managers.process_building import in_thread
from swarmlearning.swop.managers.process_kernel import read_boot_id, read_start, read_stat

START_S: Final = 60.0
"""How long a shim may take to start its program, on a machine that is busy."""

KILL_S: Final = 30.0
"""How long a program may take to be gone after SIGKILL."""

MARK: Final = "SWARM_SWOP_PART"
"""Environment variable by which what is left of a program is found when its shim was killed."""

_POLL_S: Final = 0.02


class ShimLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may use; None: no limit."""

    memory: int | None = None
    processes: int | None = None
    open_files: int | None = None
    cpus: float | None = None
    run_time_s: float | None = None


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A program to be run under a shim."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    log: str
    log_bytes: int
    limits: ShimLimits
    sandbox: tuple[str, ...] | None = None
    """Arguments of the sandbox's program, which are not shown on a command line; None: without."""
    sandbox_program: str = ""


class ShimSpec(Launch, frozen=True, kw_only=True):
    """What a shim is given."""

    token: str
    status: str
    stop: str


class Ident(msgspec.Struct, frozen=True, kw_only=True):
    """A process, for ever: since a boot."""

    pid: int
    start: int | None
    """Ticks since the boot."""


class ShimStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a shim says."""

    token: str
    boot: str
    shim: Ident
    program: Ident | None
    ended: bool
    exit_status: int | None
    detail: str
    log_lost: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Where half of a pair stands."""

    alive: bool
    """Whether its shim lives."""
    status: ShimStatus | None
    """None: not started, or not yet."""

    @property
    def lost(self) -> str:
        """Why its exit status is not known; empty if it is, or may still be."""
        if self.alive or self.status is None or self.status.ended:
            return ""
        if self.status.boot != read_boot_id():
            return "the machine was restarted while it ran"
        return "the process that supervised it was killed; how it ended is not known"


class Place:
    """Where half of a pair is kept, whether it was started or not."""

    def __init__(self, directory: Path) -> None:
        """Know of it; nothing is made."""
        self.directory = directory
        self._spec = directory / "spec.json"
        self._lock = directory / "lock"
        self._status = directory / "status.json"
        self._stop = directory / "stop"

    def look(self) -> Found:
        """Where it stands."""
        # In this order: what was alive may end and say so in between, but not the other way round.
        alive = self._is_locked()
        try:
            status = msgspec.json.decode(self._status.read_bytes(), type=ShimStatus)
        except (OSError, msgspec.DecodeError):
            status = None
        if status is not None and not status.ended and not alive:
            _reap(status.shim.pid)
        return Found(alive=alive and not (status is not None and status.ended), status=status)

    def _is_locked(self) -> bool:
        try:
            lock = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        return False

    # --- starting ---------------------------------------------------------------------------------------------------

    async def start(self, prepare: Callable[[], Launch]) -> None:
        """Start it; nothing if it lives, or somebody is starting it.

        Args:
            prepare: makes what it needs and says what is to be run; called in a thread, by one that starts it alone.

        Raises:
            ConfigurationError: its files cannot be written, or the shim cannot be started; or `prepare` raises it.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self.directory} cannot be used: {error.strerror}") from error
        try:
            if not await self._take(lock):
                return
            await self._end_leftovers()
            self._status.unlink(missing_ok=True)
            launch = await in_thread(prepare)
            token = secrets.token_hex(16)
            spec = ShimSpec(
                **{
                    **msgspec.structs.asdict(launch),
                    "env": launch.env | {MARK: token},
                    "token": token,
                    "status": str(self._status),
                    "stop": str(self._stop),
                }
            )
            _write(self._spec, msgspec.json.encode(spec))
            _write(self._stop, f"{process_shim.DEFAULT_GRACE_S}".encode())
            said = await in_thread(_spawn, self._spec, lock)
        except OSError as error:
            raise ConfigurationError(f"{self.directory} cannot be used: {error.strerror}") from error
        finally:
            os.close(lock)
        if said != "ok":
            raise ConfigurationError(f"cannot start {launch.argv[0]!r}: {said or 'its supervisor said nothing'}")

    async def _take(self, lock: int) -> bool:
        """Lock; False if its shim lives. Somebody who only looks holds the lock for a moment, too."""
        deadline = time.monotonic() + 2
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                found = self.look()
                ended = found.status is not None and found.status.ended
                if (found.alive and found.status is not None) or (time.monotonic() > deadline and not ended):
                    return False
                if time.monotonic() > deadline + KILL_S:
                    raise ConfigurationError(f"{self._lock} is locked by another program: end it") from None
            await asyncio.sleep(_POLL_S)

    # --- ending -----------------------------------------------------------------------------------------------------

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, make it after `grace_s` seconds, and return when nothing of it is left.

        Raises:
            WaitExpired: it does not end, whatever is done.
            ConfigurationError: its files cannot be written.
        """
        if self._is_locked():
            with contextlib.suppress(OSError):  # a full disk: the default then
                _write(self._stop, f"{grace_s}".encode())
            if await self._wait_started() and not await self._signal_and_wait(signal.SIGTERM, grace_s + 1):
                await self._signal_and_wait(signal.SIGTERM, KILL_S)
            if self._is_locked():
                await self._signal_and_wait(signal.SIGKILL, KILL_S)
            if self._is_locked():
                raise WaitExpired(f"{self.directory}: the program did not end within {KILL_S:.0f} s of SIGKILL")
        await self._end_leftovers()

    async def _wait_started(self) -> bool:
        """Wait until its shim can be asked; False if it has ended before."""
        deadline = time.monotonic() + START_S
        while self._is_locked() and time.monotonic() < deadline:
            if self.look().status is not None:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    async def _signal_and_wait(self, number: signal.Signals, limit_s: float) -> bool:
        """Send its shim a signal; whether it ended within `limit_s`."""
        status = self.look().status
        if status is not None and status.boot == read_boot_id():
            signal_process(status.shim, number)
        deadline = time.monotonic() + limit_s
        while self._is_locked():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _end_leftovers(self) -> None:
        """Kill what is left of a program whose shim was killed, on this machine and since its last boot."""
        found = self.look()
        if found.status is None or not found.lost or found.status.boot != read_boot_id():
            return
        token = found.status.token
        deadline = time.monotonic() + KILL_S
        while left := await asyncio.to_thread(find_marked, token):
            if time.monotonic() > deadline:
                raise WaitExpired(f"processes {left} of {self.directory} did not end within {KILL_S:.0f} s of SIGKILL")
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(_POLL_S)

    def remove(self) -> None:
        """Remove its files; it has ended."""
        shutil.rmtree(self.directory, ignore_errors=True)


def signal_process(process: Ident, number: int) -> bool:
    """Send a signal to a process of this boot; False if it is gone, also where its pid was given away again."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The handle names one process for good: checked after it was opened, nothing can come in between.
        if process.start is None or read_start(process.pid) != process.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def find_marked(token: str) -> list[int]:
    """Processes that were started with this mark."""
    mark = f"{MARK}={token}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                environment = (path / "environ").read_bytes()
            except OSError:
                continue  # gone, or another user's
            if mark in environment.split(b"\0") and read_stat(int(path.name)) is not None:
                found.append(int(path.name))
    return found


def _spawn(spec: Path, lock: int) -> str:
    """Start a shim, which is not our child afterwards; what it says first."""
    program = [sys.executable, "-I", "-S", str(process_shim.__file__), str(spec), str(lock)]
    with subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
        start_new_session=True,
        cwd="/",
        env={},
    ) as starter:
        assert starter.stdout is not None
        if not select.select([starter.stdout], [], [], START_S)[0]:
            return f"its supervisor did not answer within {START_S:.0f} s"
        return starter.stdout.readline().decode(errors="replace").strip()


def _write(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(path.name + ".part")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(data)
    part.replace(path)


def _reap(pid: int) -> None:
    """Where we are the machine's first process (a container), a shim that was killed is our child in the end."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
