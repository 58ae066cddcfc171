"""CD, LS, PWD: the session's directory."""

import re
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import show_time
from swarmlearning.swci.directory import FileInfo
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

    option: str | None = None
    """As for the `ls` of a system: `-l` tells sizes and times, others change nothing."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a directory."""

    long: bool
    """Sizes and times were asked for."""
    files: tuple[FileInfo, ...]
    """By name."""


_OPTION: Final = re.compile("-[1Aaht]*l?[1Aaht]*")


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


async def list_files(session: Session, command: ListFiles) -> Listing:
    """What is there.

    Raises:
        ConfigurationError: it cannot be read, or there is no such option.
    """
    if command.option is not None and not _OPTION.fullmatch(command.option):
        raise ConfigurationError(
            f"<option> {make_printable(command.option[:40])}: expected -l for sizes and times, or nothing"
        )
    return Listing(long="l" in (command.option or ""), files=tuple(session.directory.files()))


def _show_listing(listing: Listing) -> Shown:
    names = [file.name + ("/" if file.is_directory else "") for file in listing.files]
    if not listing.long:
        return Shown(tuple(names))
    width = max((len(str(file.size)) for file in listing.files), default=0)
    return Shown(
        tuple(
            f"{file.size:{width}}  {show_time(file.modified_ms)}  {name}"
            for file, name in zip(listing.files, names, strict=True)
        )
    )


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
        "LS [<option>]",
        ListFiles,
        list_files,
        _show_listing,
        topic="Files",
        help="List the files of the current directory; with -l also their sizes and times.",
        example="LS -l",
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
