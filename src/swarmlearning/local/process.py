"""A supervised process: its own process group, output to a log file and line by line to whoever shows it, a sure end.

Does not interpret what the process prints.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from swarmlearning.errors import Broken, ConfigurationError
from swarmlearning.local import reaper as reaper_program
from swarmlearning.local.reaper import signal_group

Echo = Callable[[str, str], None]
"""Is given (name of the process, one line without control characters)."""

MAX_LINE_BYTES: Final = 8192
"""A longer line is shown in pieces of this size; the log file holds it whole."""

TAIL_LINES: Final = 12
"""How many last lines are kept for error messages."""

LEFTOVER_S: Final = 1.0
"""How long helpers of an ended program (its data loaders, say) get to end by themselves before they are made to."""

_POLL_S: Final = 0.02
_ESCAPES: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to start."""

    name: str
    """For people; prefixes its lines."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment."""
    log: Path
    cwd: Path | None = None


class Reaper:
    """Holds the lifeline of the `reaper` program; see there."""

    def __init__(self) -> None:
        """Start the program."""
        program = str(Path(reaper_program.__file__))
        self._program = subprocess.Popen(
            [sys.executable, "-I", "-S", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def _tell(self, line: str) -> None:
        assert self._program.stdin is not None
        try:
            self._program.stdin.write(line.encode())
            self._program.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise Broken("the process that ends our programs if we die is gone; start again") from error

    def add(self, group: int) -> None:
        """Have this process group ended with us.

        Raises:
            Broken: the reaper has died or was closed.
        """
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Forget a process group that has ended.

        Raises:
            Broken: the reaper has died or was closed.
        """
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End every group still listed, then the reaper itself."""
        assert self._program.stdin is not None
        with suppress(BrokenPipeError):
            self._program.stdin.close()
        try:
            self._program.wait(timeout=reaper_program.GRACE_S + 2)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()


class Process:
    """A running or ended process. Make with `start`."""

    def __init__(
        self, command: Command, process: asyncio.subprocess.Process, reaper: Reaper, echo: Echo | None
    ) -> None:
        """Know of `process`, the leader of its own group."""
        self.name = command.name
        self.log = command.log
        self._process = process
        self._reaper = reaper
        self._echo = echo
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._watch: asyncio.Task[int]

    @classmethod
    async def start(cls, command: Command, reaper: Reaper, echo: Echo | None = None) -> Self:
        """Start a process in a group of its own, without a terminal; standard error joins standard output.

        Raises:
            ConfigurationError: there is no such command, or it may not be executed; or its log cannot be written.
        """
        try:
            log = command.log.open("ab", buffering=0)
        except OSError as error:
            raise ConfigurationError(f"cannot write the log {command.log}: {error.strerror}") from error
        # A pipe of our own, not asyncio's: with theirs, some releases wait for the pipe's end before they tell that
        # the process has ended, and a helper it left behind may hold the pipe open for ever.
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(command.env),
                cwd=command.cwd,
                start_new_session=True,
            )
        except BaseException as error:
            os.close(reading)
            log.close()
            if not isinstance(error, OSError | ValueError):
                raise  # cancelled: asyncio has ended the process
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"cannot start {command.argv[0]!r}: {reason}") from error
        finally:
            os.close(writing)
        supervised = cls(command, process, reaper, echo)
        supervised._watch = asyncio.create_task(supervised._follow(reading, log), name=f"watch {command.name}")
        reaper.add(process.pid)
        return supervised

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status as a shell shows it (128 + n after signal n), None while it runs."""
        return self._watch.result() if self._watch.done() else None

    def tail(self) -> list[str]:
        """Its last lines."""
        return list(self._tail)

    async def wait(self) -> int:
        """Wait until it has ended and its output is in the log; return its exit status."""
        return await asyncio.shield(self._watch)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to its group."""
        if not self._watch.done():
            signal_group(self.pid, signal.SIGTERM)

    async def stop(self, limit_s: float) -> int:
        """Ask it to end, make it after `limit_s` seconds, and return its exit status."""
        self.ask_to_stop()
        await asyncio.wait([self._watch], timeout=limit_s)
        if not self._watch.done():
            signal_group(self.pid, signal.SIGKILL)
        return await self.wait()

    async def _follow(self, reading: int, log: BinaryIO) -> int:
        """Copy its output until it ends, then see that nothing of its group is left."""
        with log:
            copying = asyncio.create_task(self._copy(reading, log), name=f"copy {self.name}")
            code = await self._process.wait()
            await self._clear_group()
            await asyncio.wait([copying], timeout=LEFTOVER_S)
            copying.cancel()
            with suppress(asyncio.CancelledError):
                await copying
        with suppress(Broken):  # a dead reaper is reported by the next start; this process has ended either way
            self._reaper.remove(self.pid)
        return code if code >= 0 else 128 - code

    async def _clear_group(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            signal_group(self.pid, number)
            deadline = loop.time() + LEFTOVER_S
            while signal_group(self.pid, 0):
                if loop.time() > deadline:
                    break
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def _copy(self, reading: int, log: BinaryIO) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
        )
        pending = b""
        try:
            while chunk := await reader.read(65536):
                self._write(log, chunk)
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._show(line)
                while len(pending) > MAX_LINE_BYTES:
                    self._show(pending[:MAX_LINE_BYTES])
                    pending = pending[MAX_LINE_BYTES:]
        finally:
            transport.close()
            if pending:
                self._show(pending)

    def _write(self, log: BinaryIO, chunk: bytes) -> None:
        # A full disk must not stop the program: it would block on its full pipe.
        try:
            log.write(chunk)
        except OSError as error:
            self._tail.append(f"(the log {self.log} cannot be written: {error.strerror})")

    def _show(self, line: bytes) -> None:
        text = clean_line(line[-MAX_LINE_BYTES:])
        if text:
            self._tail.append(text)
            if self._echo is not None:
                self._echo(self.name, text)


def clean_line(line: bytes) -> str:
    """What a terminal would show of a line: after its last carriage return, without escapes and control characters."""
    text = line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).rstrip()


def describe_end(process: Process) -> str:
    """One line: how a process ended, the last thing it said, and where its log is."""
    said = f" ({process.tail()[-1]})" if process.tail() else ""
    return f"{process.name} ended with status {process.status}{said}; its log is {process.log}"
