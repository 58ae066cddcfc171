"""A typed request as a command: arguments from path, query and JSON body, read as the shell reads them. Spec: CI-26.

Does not: know HTTP beyond the text of a query.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import fields

from swarmlearning.errors import ConfigurationError, InvalidName
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.lexer import check_line
from swarmlearning.swci.values import MAX_WORD, Command, check_whole, kinds_of

T = TypeVar("T")

MAX_QUERY: Final = 32
"""Most arguments of a query."""


def read_query(query: str) -> dict[str, str]:
    """The arguments of a query, each given once.

    Raises:
        ConfigurationError: it is malformed, or has one twice or too many.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_QUERY)
    except ValueError as error:
        raise ConfigurationError(
            f"the query: expected at most {MAX_QUERY} pairs name=value between &, percent-encoded UTF-8"
        ) from error
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ConfigurationError("the query gives an argument twice; expected each once")
    return found


def read_json(body: bytes) -> dict[str, Any]:
    """The arguments of a JSON body.

    Raises:
        ConfigurationError: it is no JSON object.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"the body: {error}; expected a JSON object with the arguments") from error


def read_command(entry: Entry, texts: Mapping[str, str], values: Mapping[str, Any]) -> Command:
    """The command that a request means.

    Args:
        entry: which command.
        texts: arguments that stood in path or query.
        values: arguments of the JSON body.

    Raises:
        ConfigurationError: one is missing, unknown, of another type, or not what it must be; the message names it.
    """
    kinds = kinds_of(entry.command)
    unknown = [name for name in (*texts, *values) if name not in kinds]
    if unknown:
        known = ", ".join(kinds) or "none"
        raise ConfigurationError(f"there is no argument {unknown[0][:80]!r}; there are: {known}")
    twice = next((name for name in texts if name in values), None)
    if twice:
        raise ConfigurationError(f"<{twice}> stands in the path; leave it out of the body")
    # 1. What came as text is read as the shell reads a word.
    given: dict[str, Any] = {name: _read_text(entry, name, text) for name, text in texts.items()}
    for name, value in values.items():
        choices = kinds[name].choices
        if choices and value not in choices and value is not None:
            raise ConfigurationError(f"<{name}> {str(value)[:80]!r}: expected one of {', '.join(choices)}")
    # 2. What came as JSON has the argument's type, and then is what the shell would take, too.
    try:
        command = msgspec.convert({**given, **values}, entry.command)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{error}; usage: {entry.usage}") from error
    for name in values:
        value = getattr(command, name)
        if isinstance(value, str):
            _read_text(entry, name, value)
        elif isinstance(value, int):
            _check(entry, name, check_whole, value)
    return command


def _read_text(entry: Entry, name: str, text: str) -> Any:  # noqa: ANN401  # of the argument's type
    if len(text) > MAX_WORD:
        raise ConfigurationError(f"<{name}> of {len(text)} characters; expected at most {MAX_WORD}")
    _check(entry, name, check_line, text)
    return _check(entry, name, kinds_of(entry.command)[name].read, text)


def _check(entry: Entry, name: str, read: Callable[[T], Any], value: T) -> Any:  # noqa: ANN401  # of the argument's type
    try:
        return read(value)
    except (ConfigurationError, InvalidName) as error:
        raise ConfigurationError(f"<{name}> {error}; usage: {entry.usage}") from error


def split_arguments(entry: Entry, in_path: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    """The arguments that do not stand in the path, and whether each must be given."""
    return tuple((field.name, field.required) for field in fields(entry.command) if field.name not in in_path)
