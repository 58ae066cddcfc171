"""CD, LS, PWD: the session's directory."""

from typing import Final

from swarmlearning.reports.status import make_printable
from swarmlearning.swci.entries import Entry, Route, Shown, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command, FileName


class ChangeDirectory(Command, frozen=True, kw_only=True):
    """`CD`."""

    directory: FileName


class PrintDirectory(Command, frozen=True, kw_only=True):
    """`PWD`."""


class ListFiles(Command, frozen=True, kw_only=True):
    """`LS`."""


async def change_directory(session: Session, command: ChangeDirectory) -> str:
    """Go to another directory.

    Raises:
        ConfigurationError: there is none, or it lies outside the root.
    """
    session.directory.enter(command.directory)
    return make_printable(str(session.directory.here))


async def print_directory(session: Session, _command: PrintDirectory) -> str:
    """Where the session is."""
    return make_printable(str(session.directory.here))


async def list_files(session: Session, _command: ListFiles) -> tuple[str, ...]:
    """What is there.

    Raises:
        ConfigurationError: it cannot be read.
    """
    return tuple(session.directory.names())


def _show_directory(path: str) -> Shown:
    return Shown((f"Current Directory : {path}",))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "CD <directory>",
        ChangeDirectory,
        change_directory,
        _show_directory,
        topic="Files",
        help="Go to another directory; task files are read from there.",
        example="CD taskdefs",
        route=Route("PUT", "/directory"),
    ),
    make_entry(
        "LS",
        ListFiles,
        list_files,
        Shown,
        topic="Files",
        help="List the files of the current directory.",
        example="LS",
        route=Route("GET", "/directory/files"),
    ),
    make_entry(
        "PWD",
        PrintDirectory,
        print_directory,
        _show_directory,
        topic="Files",
        help="Tell the current directory.",
        example="PWD",
        route=Route("GET", "/directory"),
    ),
)
