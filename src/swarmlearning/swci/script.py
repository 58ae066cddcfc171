"""Runs scripts: a line at a time, what it came to after it. Spec: docs/spec/swci.md, CI-14 to CI-17."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol, TextIO

import msgspec
from rich.console import Console

from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.reports.status import make_printable
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.lexer import MAX_LINE_BYTES, decode_line, split_line, too_long
from swarmlearning.swci.reading import RawScriptLine
from swarmlearning.swci.running import Done, failure, run_line
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.session import Session

_MAX_ECHO: Final = 200
"""How much of a line that is none of ours is echoed, characters."""


class Writer(Protocol):
    """Where a script says what it does."""

    @property
    def console(self) -> Console | None:
        """The terminal, where a command may draw on it."""
        ...

    def begin(self, number: int, line: str) -> None:
        """Line `number` is run."""
        ...

    def tell(self, line: str) -> None:
        """Its command says something while it goes on."""
        ...

    def end(self, done: Done) -> None:
        """That is what came of it."""
        ...


class TranscriptWriter:
    """CI-15: for people: each command as in the shell, what it says indented.

    Attributes:
        console: the terminal, where it is one.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.console: Final = screen.console

    def begin(self, number: int, line: str) -> None:
        """Write the prompt and the line."""
        self._screen.say(f"SWCI:{number} > {line}")

    def tell(self, line: str) -> None:
        """Write a line of output."""
        self._screen.tell(line)

    def end(self, done: Done) -> None:
        """Write what came of it."""
        self._screen.show(done)


class PlainWriter:
    """For pipes: what commands say and nothing else; errors apart from it.

    Attributes:
        console: the terminal, where it is one.
    """

    def __init__(self, screen: Screen, errors: Screen) -> None:
        self.console: Final = screen.console
        self._screen = screen
        self._errors = errors

    def begin(self, number: int, line: str) -> None:
        """Nothing is written."""

    def tell(self, line: str) -> None:
        """Write a line of output."""
        self._screen.tell(line)

    def end(self, done: Done) -> None:
        """Write what came of it."""
        (self._errors if done.failed else self._screen).show(done)


class JsonWriter:
    """CI-17: for programs: a JSON document a line for each command, and for each line that it says before it ends."""

    console: Final = None

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._number, self._command = 0, ""

    def begin(self, number: int, line: str) -> None:
        """Remember of which command the documents that come are."""
        self._number, self._command = number, line

    def tell(self, line: str) -> None:
        """Write what it says."""
        self._write(said=line)

    def end(self, done: Done) -> None:
        """Write its answer or its error."""
        if done.failed:
            self._write(command=self._command, error=done.error, status=int(done.status))
        else:
            self._write(command=self._command, answer=done.answer)

    def _write(self, **fields: Any) -> None:  # noqa: ANN401  # an answer is of any type
        self._file.write(msgspec.json.encode({"line": self._number} | fields).decode() + "\n")
        self._file.flush()


async def run_script(
    entries: Sequence[Entry], session: Session, lines: AsyncIterator[RawScriptLine], writer: Writer
) -> ExitCode:
    """CI-14, CI-16: run all lines, until EXIT, or until one fails after EXIT ON FAILURE.

    Returns `OK` if no command failed; after EXIT ON FAILURE the status of the one that ended it; else `FAILED`.

    Raises:
        asyncio.CancelledError: it was interrupted; the command that went on has said so.
    """
    status, number = ExitCode.OK, 0
    async for raw in lines:
        number += 1
        done = await _run(entries, session, raw, number, writer)
        if done is not None and done.failed:
            if session.exit_on_failure:
                return done.status
            status = ExitCode.FAILED
        if session.ended:
            break
    return status


async def _run(
    entries: Sequence[Entry], session: Session, raw: RawScriptLine, number: int, writer: Writer
) -> Done | None:
    try:
        if raw.size > MAX_LINE_BYTES:
            raise too_long(raw.size)
        line = decode_line(raw.data)
    except ConfigurationError as error:
        writer.begin(number, _echo(raw.data.decode(errors="replace")))
        done = failure(error)
        writer.end(done)
        return done
    if is_empty(line):
        return None
    writer.begin(number, make_printable(line.strip()))
    try:
        done = await run_line(entries, session, line) or Done()
    except asyncio.CancelledError:
        writer.end(Done(error=f"interrupted: {_echo(line.strip())}", status=ExitCode.INTERRUPTED))
        raise
    writer.end(done)
    return done


def is_empty(line: str) -> bool:
    """Whether nothing is asked for: a blank line, or a comment."""
    try:
        return not split_line(line, 1)
    except ConfigurationError:
        return False


def _echo(text: str) -> str:
    shown = make_printable(text)
    return shown if len(shown) <= _MAX_ECHO else shown[:_MAX_ECHO] + "…"
