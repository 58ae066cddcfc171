"""The `cometbft` process: started, watched, started again when it dies, and never left behind.

It ends with this process even if that is killed: the kernel sees to it (`bound`), and besides CometBFT ends itself
when its connection to the application breaks. Does not write its home (`home`) nor talk to it.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import stat
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from swarmlearning.errors import AddressInUse, Broken, Closed, ConfigurationError, SwarmError
from swarmlearning.ledger.cometbft import bound

_LOG: Final = logging.getLogger("swarmlearning.ledger")

MAX_LOG_BYTES: Final = 4 << 20
"""A log file that has grown so far is put aside, over the one put aside before."""

_KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "TMPDIR", "TZ", "GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GODEBUG")
"""CometBFT takes any setting from `CMT_...` and its home from `CMTHOME`: an open RPC port, say. None gets through."""

_FATAL: Final = re.compile(r"panic:|fatal error:|ERROR:|Error:")
"""What it ends with; parts that are still being closed may say something after it."""

_TELLING: Final = re.compile(r"E\[(?!.*module=p2p)")
"""What speaks of an error of its own; that a peer cannot be reached ends nobody."""

_CONTROLS: Final = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x1f\x7f-\x9f]")
_LINE_BYTES: Final = 8192
_REST_S: Final = 1.0
_SHOWN_CHARACTERS: Final = 300


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for what."""

    first_wait_s: float = 0.5
    """After the first death; doubles with each further one."""
    last_wait_s: float = 30.0
    steady_s: float = 60.0
    """Who lived so long begins anew with the first wait."""
    max_deaths: int = 6
    """So many deaths in a row, none of them after `steady_s`, and it is given up."""
    stop_s: float = 10.0
    """Between SIGTERM and SIGKILL."""


class Child:
    """One `cometbft start`, kept running: `start`, then `run` beside everything else, and `stop`."""

    def __init__(
        self, binary: Path, home: Path, log: Path, *, patience: Patience | None = None, python: str = sys.executable
    ) -> None:
        """Know what to start; `log` is appended to, and bounded."""
        self.problem = ""
        """Why it does not run, for people; empty while it does."""
        self.restarts = 0
        """How often it was started again, on purpose or not."""
        self._argv = (str(binary), "start", "--home", str(home))
        self._home = home
        self._log = _BoundedLog(log)
        self._python = python
        self._patience = patience or Patience()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the process; it is not ready yet when this returns.

        Raises:
            ConfigurationError: it cannot be started, or its log cannot be written.
            Closed: it was stopped for good.
        """
        async with self._changing:
            await self._spawn()

    async def run(self) -> None:
        """See that it runs: start it again, after growing waits, whenever it dies. Returns when it is stopped.

        Raises:
            AddressInUse: it dies again and again, because its port is taken.
            Broken: it dies again and again; with the last telling line of its log.
        """
        deaths = 0
        loop = asyncio.get_running_loop()
        while not self._closed:
            self._changed.clear()
            process, since = self._process, loop.time()
            if process is None:
                raise Broken("the cometbft process was to be watched before it was started: a bug")
            status = await process.wait()
            async with self._changing:
                if self._closed or process is not self._process:
                    deaths = 0  # stopped or started again on purpose
                    continue
                await self._read_rest()
            deaths = 1 if loop.time() - since >= self._patience.steady_s else deaths + 1
            self.problem = f"cometbft ended with status {_shown(status)} ({self._log.telling})"
            if deaths >= self._patience.max_deaths:
                raise self._given_up(deaths)
            wait_s = min(self._patience.first_wait_s * 2 ** (deaths - 1), self._patience.last_wait_s)
            _LOG.warning("%s; it is started again in %.1f s", self.problem, wait_s)
            await self._start_again(process, wait_s)

    async def restart(self, why: str) -> None:
        """Stop it and start it again, with what `home` says now; `why` is for the log.

        Raises:
            Broken: it does not end.
            ConfigurationError: it cannot be started.
            Closed: it was stopped for good.
        """
        async with self._changing:
            _LOG.info("cometbft is started again: %s", why)
            await self._end()
            await self._spawn()
            self.restarts += 1
            self._changed.set()

    async def stop(self) -> None:
        """End it for good: asked to, and after a while made to. Harmless where none runs.

        Raises:
            Broken: it does not end.
        """
        self._closed = True
        self._changed.set()
        async with self._changing:
            await self._end()
            self._log.close()

    # --- within -----------------------------------------------------------------------------------------------

    async def _spawn(self) -> None:
        if self._closed:
            raise Closed("the cometbft process was stopped; it is not started again")
        _remove_stale_socket(self._home)
        self._log.open()
        # -I -S: nothing of the user's is imported by the few lines that bind it to us.
        argv = (self._python, "-I", "-S", str(Path(bound.__file__)), str(os.getpid()), *self._argv)
        # A pipe of our own, not asyncio's: with theirs, some releases tell of the end of a process only after the
        # pipe's, and who else holds that is not for us to say.
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=_environment(os.environ),
                cwd=self._home,
                start_new_session=True,  # Ctrl-C at a terminal is for us: we end it in order
            )
        except BaseException as error:
            os.close(reading)
            if isinstance(error, OSError):
                raise ConfigurationError(f"cannot start {self._argv[0]} in {self._home}: {error.strerror}") from error
            raise
        finally:
            os.close(writing)
        self._reading = asyncio.create_task(_copy(reading, self._log.write), name="log of cometbft")
        self.problem = ""

    async def _start_again(self, died: asyncio.subprocess.Process, wait_s: float) -> None:
        """After `wait_s` seconds, unless it is stopped or started by somebody else meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), wait_s)
        async with self._changing:
            if not self._closed and self._process is died:
                await self._spawn()
                self.restarts += 1

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), self._patience.stop_s)
            except TimeoutError:
                _LOG.warning("cometbft did not end within %.0f s of being asked to; killed", self._patience.stop_s)
                _signal(process, signal.SIGKILL)
                await self._wait_killed(process)
        await self._read_rest()

    async def _wait_killed(self, process: asyncio.subprocess.Process) -> None:
        try:
            await asyncio.wait_for(process.wait(), self._patience.stop_s)
        except TimeoutError as error:
            raise Broken(
                f"cometbft (process {process.pid}) does not end though it was killed; its disk may hang"
            ) from error

    async def _read_rest(self) -> None:
        """Wait for the end of its output, which the end of the process brings about."""
        reading, self._reading = self._reading, None
        if reading is not None:
            await asyncio.wait([reading], timeout=_REST_S)
            reading.cancel()
            await asyncio.wait([reading])

    def _given_up(self, deaths: int) -> SwarmError:
        line = f"cometbft died {deaths} times in a row, last: {self._log.telling}; its log is {self._log.path}"
        return AddressInUse(line) if "address already in use" in self._log.telling else Broken(line)


class _BoundedLog:
    """A log file, and the last line in it that tells what went wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._partial = b""
        self._last = ""
        self._telling = ""
        self._fatal = ""

    @property
    def telling(self) -> str:
        """The last line since `open` that it ended with, else that speaks of an error, else the last one."""
        return self._fatal or self._telling or self._last or "it said nothing"

    def open(self) -> None:
        """Go on in the file, and forget what was said before.

        Raises:
            ConfigurationError: it cannot be written.
        """
        self._partial = b""
        self._last = self._telling = self._fatal = ""
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigurationError(f"cannot write the log {self.path}: {error.strerror}") from error

    def write(self, chunk: bytes) -> None:
        """Append what came; a full disk must not stop the process, which would block on its full pipe."""
        *lines, rest = (self._partial + chunk).split(b"\n")
        self._partial = rest[-_LINE_BYTES:]
        for line in lines:
            if text := _CONTROLS.sub("", line.decode("utf-8", "replace")).strip()[:_SHOWN_CHARACTERS]:
                self._last = text
                if _FATAL.match(text):
                    self._fatal = text
                elif _TELLING.match(text):
                    self._telling = text
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.write(chunk)
                if self._file.tell() > MAX_LOG_BYTES:
                    self._put_aside()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put_aside(self) -> None:
        self.close()
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self._file = self.path.open("ab", buffering=0)


async def _copy(reading: int, write: Callable[[bytes], None]) -> None:
    """Give all that comes out of a pipe to `write`, until its end; closes it."""
    output = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb", buffering=0)
    )
    try:
        while chunk := await output.read(65536):
            write(chunk)
    finally:
        transport.close()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal to its group, of which it is the leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in _KEPT_ENVIRONMENT if name in environ}


def _shown(status: int) -> str:
    return str(status) if status >= 0 else f"{128 - status}, killed by signal {-status}"


def _remove_stale_socket(home: Path) -> None:
    """A killed process leaves its RPC socket behind, and the next one could not listen there."""
    try:
        config = tomllib.loads((home / "config" / "config.toml").read_text(encoding="utf-8"))
        address = str(config.get("rpc", {}).get("laddr", ""))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{home / 'config' / 'config.toml'} cannot be read: {error}") from error
    if address.startswith("unix://"):
        path = Path(address.removeprefix("unix://"))
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
