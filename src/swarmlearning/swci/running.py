"""Carries out a line: an answer for people or programs, or one error line. Spec: docs/spec/swci.md, CI-5 to CI-7."""

import csv
import io
import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from swarmlearning.encoding import to_json
from swarmlearning.errors import ExitCode, Refused, SwarmError, WaitExpired, exit_code
from swarmlearning.reports.status import make_printable
from swarmlearning.swci.entries import Entry, Grid, Meant, Shown, parse
from swarmlearning.swci.session import Session

ERROR: Final = "ERROR "
"""How a line begins that tells of a failure."""

_LOG: Final = logging.getLogger("swarmlearning.swci")


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a line."""

    answer: Any = None
    """A record or plain value; None where there is none."""
    shown: Shown = Shown()
    error: str = ""
    """One line, without `ERROR `; empty where the command was carried out."""
    status: ExitCode = ExitCode.OK

    @property
    def failed(self) -> bool:
        """Whether it was not carried out."""
        return bool(self.error)


async def run_line(entries: Sequence[Entry], session: Session, line: str) -> Done | None:
    """Carry out one line; None if it is empty or a comment.

    What a command raises becomes its error. Cancelling ends a command that waits, and is passed on.
    """
    session.entries = entries
    try:
        meant = parse(entries, line)
        return None if meant is None else await run_command(session, meant)
    except SwarmError as error:
        return failure(error)


async def run_command(session: Session, meant: Meant) -> Done:
    """Carry out a command that was read.

    Raises:
        SwarmError: it could not be carried out.
    """
    try:
        answer = await meant.entry.handler(session, meant.command)
    except Refused as error:
        if error.code == WaitExpired.__name__:
            # The SN's own wait ended: nobody refused anything, and what was submitted may still be ordered.
            raise WaitExpired(str(error)) from error
        raise
    return Done(answer=answer, shown=_printable(meant.entry.show(answer)))


def _printable(shown: Shown) -> Shown:
    """CI-5: what people see of an answer steers no terminal, whoever wrote what is in it, an SN too."""
    grid = shown.grid
    if grid is not None:
        grid = replace(grid, rows=tuple(tuple(map(make_printable, row)) for row in grid.rows))
    return replace(shown, lines=tuple(map(_printable_line, shown.lines)), grid=grid)


def _printable_line(line: str) -> str:
    return "\t".join(map(make_printable, line.split("\t")))  # a task's body may have tabs


def failure(error: SwarmError) -> Done:
    """An error as what came of a line: one line, whatever a message from elsewhere holds."""
    return Done(error=make_printable(str(error)) or type(error).__name__, status=exit_code(error))


def write_lines(done: Done, *, as_json: bool = False) -> list[str]:
    """CI-6, CI-7: what came of a line as the lines that a script or program gets."""
    if done.failed:
        return [ERROR + done.error]
    if as_json:
        return [] if done.answer is None else to_json(done.answer).decode().split("\n")
    lines = list(done.shown.lines)
    return lines if done.shown.grid is None else lines + write_csv(done.shown.grid)


def write_csv(grid: Grid) -> list[str]:
    """A table as CSV with a header (RFC 4180), a row a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([grid.columns, *grid.rows])
    return text.getvalue().splitlines()
