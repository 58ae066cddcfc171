"""Arguments of commands: how a word becomes a value, and what may stand there, for completion and help.

A command is a record whose fields have types of this table; the REST API reads the same records from JSON.
"""

import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final, Literal, NewType, Union, get_args, get_origin, get_type_hints

import msgspec

from swarmlearning.errors import ConfigurationError, InvalidName
from swarmlearning.types import (
    ContractName,
    RunnerName,
    TaskName,
    check_contract_name,
    check_runner_name,
    check_task_name,
)

ContextName = NewType("ContextName", str)
"""A context of the command interface: a network, and as whom one speaks to it."""

VariableName = NewType("VariableName", str)
"""A variable of a context."""

FileName = NewType("FileName", str)
"""A file or directory, from the session's directory on."""

AgentName = NewType("AgentName", str)
"""An agent (SWOP): its node id, `name@domain`, or UUID as LIST NODES shows it."""

ProposalNumber = NewType("ProposalNumber", int)

RawLine = NewType("RawLine", str)
"""The rest of a line as it stands."""

CommandWords = NewType("CommandWords", str)
"""The rest of a line, which is a command or the beginning of one."""

MAX_WORD: Final = 4096
"""Longest argument, characters."""

MAX_WHOLE: Final = 2**53 - 1
"""Largest number: that of JSON (RFC 8259, section 6)."""

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_CONTEXT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all commands: what was asked for, its arguments read."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of argument."""

    read: Callable[[str], Any]
    """Raises `ConfigurationError` or `InvalidName`."""
    source: str = ""
    """Whose names complete it; or none.

    Contracts, tasks, runners, contexts, variables, files, agents, proposals, commands.
    """
    choices: tuple[str, ...] = ()
    """All that it may be, if they are few."""


def check_whole(value: int) -> int:
    """`value`, if it may travel: other programs' numbers have no more digits.

    Raises:
        ConfigurationError: it is beyond `MAX_WHOLE`.
    """
    if abs(value) > MAX_WHOLE:
        raise ConfigurationError(f"a number beyond {MAX_WHOLE}, the largest there can be")
    return value


def _read_whole(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ConfigurationError(f"{text[:80]!r}: expected a whole number")
    return check_whole(int(text))


def _read_context(text: str) -> ContextName:
    # Capitals too, unlike a label of a node: scripts for the product we re-create have them.
    if not _CONTEXT.fullmatch(text):
        raise ConfigurationError(f"context {text[:80]!r}: expected 1-64 characters of A-Z a-z 0-9 . _ -")
    return ContextName(text)


def _read_variable(text: str) -> VariableName:
    if not text.isidentifier() or not text.isascii() or len(text) > 64:
        raise ConfigurationError(f"variable {text[:80]!r}: expected 1-64 letters, digits and _, no digit first")
    return VariableName(text)


KINDS: Final[Mapping[Any, Kind]] = {
    str: Kind(read=str),
    int: Kind(read=_read_whole),
    ContractName: Kind(read=check_contract_name, source="contracts"),
    TaskName: Kind(read=check_task_name, source="tasks"),
    RunnerName: Kind(read=check_runner_name, source="runners"),
    ContextName: Kind(read=_read_context, source="contexts"),
    VariableName: Kind(read=_read_variable, source="variables"),
    FileName: Kind(read=FileName, source="files"),
    AgentName: Kind(read=AgentName, source="agents"),
    ProposalNumber: Kind(read=_read_whole, source="proposals"),
    RawLine: Kind(read=RawLine),
    CommandWords: Kind(read=CommandWords, source="commands"),
}


def kinds_of(command: type[Command]) -> dict[str, Kind]:
    """The kind of each of a command's arguments.

    Raises:
        KeyError: a field's type is not in the table: a fault of ours.
    """
    return {name: _kind_of(hint) for name, hint in get_type_hints(command).items()}


def _kind_of(hint: Any) -> Kind:  # noqa: ANN401  # a type of whatever form
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (argument for argument in get_args(hint) if argument is not type(None))
    if get_origin(hint) is Literal:
        return _choice(get_args(hint))
    return KINDS[hint]


def _choice(choices: tuple[str, ...]) -> Kind:
    def read(text: str) -> str:
        if text.upper() not in choices:
            raise ConfigurationError(f"{text[:80]!r}: expected one of {', '.join(choices)}")
        return text.upper()

    return Kind(read=read, choices=choices)


def read_values(command: type[Command], given: Mapping[str, str]) -> Command:
    """A command of the arguments that a line gave.

    Raises:
        ConfigurationError: one of them is not what it must be; the message names it.
    """
    kinds = kinds_of(command)
    values: dict[str, Any] = {}
    for name, text in given.items():
        if len(text) > MAX_WORD and kinds[name] is not KINDS[RawLine]:
            raise ConfigurationError(f"<{name}> of {len(text)} characters; expected at most {MAX_WORD}")
        try:
            values[name] = kinds[name].read(text)
        except (ConfigurationError, InvalidName) as error:
            raise ConfigurationError(f"<{name}> {error}") from error
    return command(**values)
