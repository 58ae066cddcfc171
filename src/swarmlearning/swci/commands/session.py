"""SLEEP, EXIT, EXIT ON FAILURE, HELP: the session itself."""

import asyncio
from typing import Final, Literal

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.entries import Entry, Shown, Topic, explain_unknown, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command, CommandWords

MAX_SLEEP_S: Final = 86_400
"""Longest that SLEEP waits, seconds."""


class Sleep(Command, frozen=True, kw_only=True):
    """`SLEEP`."""

    seconds: int


class Exit(Command, frozen=True, kw_only=True):
    """`EXIT`."""


class ExitOnFailure(Command, frozen=True, kw_only=True):
    """`EXIT ON FAILURE`."""

    switch: Literal["ON", "OFF"] = "ON"


class Help(Command, frozen=True, kw_only=True):
    """`HELP`."""

    command: CommandWords | None = None


class CommandHelp(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a command."""

    usage: str
    topic: Topic
    help: str
    example: str
    signs: bool
    """It signs a transaction: the role operator is needed."""


class HelpText(msgspec.Struct, frozen=True, kw_only=True):
    """Commands, in the order of the table."""

    commands: tuple[CommandHelp, ...]
    asked: str
    """For which was asked; empty: for all."""


async def sleep(_session: Session, command: Sleep) -> None:
    """Wait.

    Raises:
        ConfigurationError: for too long.
    """
    if not 0 <= command.seconds <= MAX_SLEEP_S:
        raise ConfigurationError(f"<seconds> {command.seconds}; expected 0-{MAX_SLEEP_S}")
    await asyncio.sleep(command.seconds)


async def leave(session: Session, _command: Exit) -> None:
    """End the session."""
    session.ended = True


async def exit_on_failure(session: Session, command: ExitOnFailure) -> Literal["ON", "OFF"]:
    """Let the first command that fails end the session, or not."""
    session.exit_on_failure = command.switch == "ON"
    return command.switch


async def give_help(session: Session, command: Help) -> HelpText:
    """What commands there are, or all about those that begin as was asked.

    Raises:
        ConfigurationError: none does; the message has the nearest.
    """
    words = (command.command or "").upper().split()
    found = [entry for entry in session.entries if _is_about(entry, words)]
    if not found:
        raise ConfigurationError(explain_unknown(session.entries, words))
    commands = tuple(
        CommandHelp(usage=entry.usage, topic=entry.topic, help=entry.help, example=entry.example, signs=entry.signs)
        for entry in found
    )
    return HelpText(commands=commands, asked=" ".join(words))


def _is_about(entry: Entry, words: list[str]) -> bool:
    """Whether one begins as the other does: `ASSIGN`, `ASSIGN TASK` and `ASSIGN TASK mine TO` are about ASSIGN TASK."""
    return all(given == word for given, word in zip(words, entry.syntax.verb, strict=False))


def _show_nothing(_answer: None) -> Shown:
    return Shown()


def show_help(text: HelpText) -> Shown:
    """A line for each of all commands, by topic; or usage, help and example of those that were asked for."""
    lines: list[str] = []
    if text.asked:
        for command in text.commands:
            lines += [command.usage, f"    {command.help}", f"    Example: {command.example}"]
            lines += ["    Signs a transaction: the role operator is needed."] if command.signs else []
        return Shown(tuple(lines), folds=True)
    for topic in dict.fromkeys(command.topic for command in text.commands):
        lines += [topic, *(f"    {command.usage}" for command in text.commands if command.topic == topic)]
    return Shown((*lines, "HELP <command> tells what it does, with an example."))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "SLEEP <seconds>",
        Sleep,
        sleep,
        _show_nothing,
        topic="Session",
        help="Wait.",
        example="SLEEP 15",
        waits=True,
    ),
    make_entry(
        "EXIT ON FAILURE [<switch>]",
        ExitOnFailure,
        exit_on_failure,
        lambda switch: Shown((f"EXIT ON FAILURE IS TURNED {switch}",)),
        topic="Session",
        help="Let the first command that fails end the session: ON, or OFF; without either, ON.",
        example="EXIT ON FAILURE",
    ),
    make_entry("EXIT", Exit, leave, _show_nothing, topic="Session", help="End the session.", example="EXIT"),
    make_entry(
        "HELP [<command...>]",
        Help,
        give_help,
        show_help,
        topic="Session",
        help="List all commands, or tell what one does.",
        example="HELP ASSIGN TASK",
    ),
)
