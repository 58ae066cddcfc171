"""JSON schemas of arguments and answers, for the OpenAPI document. Spec: CI-28.

What a schema says of an argument is what the shell's reader takes; a test compares them.
"""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import fields

from swarmlearning.swci.entries import Entry
from swarmlearning.swci.values import (
    MAX_WHOLE,
    MAX_WORD,
    AgentName,
    Command,
    CommandWords,
    ContextName,
    FileName,
    ProposalNumber,
    RawLine,
    VariableName,
)
from swarmlearning.types import ContractName, RunnerName, TaskName

Schema = dict[str, Any]

REFERENCE: Final = "#/components/schemas/{name}"

_NAME: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$"}
_TEXT: Final[Schema] = {
    "type": "string",
    "maxLength": MAX_WORD,
    "description": "Text without control characters.",
}
_WHOLE: Final[Schema] = {"type": "integer", "minimum": -MAX_WHOLE, "maximum": MAX_WHOLE}

SCHEMAS: Final[dict[Any, Schema]] = {
    str: _TEXT,
    int: _WHOLE,
    ContractName: _NAME,
    TaskName: _NAME,
    RunnerName: _NAME,
    ContextName: {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"},
    VariableName: {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"},
    FileName: _TEXT,
    AgentName: _TEXT,
    ProposalNumber: _WHOLE,
    RawLine: _TEXT,
    CommandWords: _TEXT,
}
"""By the kind of argument."""


def argument_schema(command: type[Command], name: str) -> Schema:
    """What an argument may be, where it is given, and what it is where it is not.

    Raises:
        KeyError: its type is not in the table: a fault of ours.
    """
    hint = get_type_hints(command)[name]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (argument for argument in get_args(hint) if argument is not NoneType)
    is_choice = get_origin(hint) is Literal
    schema: Schema = {"type": "string", "enum": list(get_args(hint))} if is_choice else dict(SCHEMAS[hint])
    (default,) = (field.default for field in fields(command) if field.name == name)
    return schema if default is None or default is msgspec.NODEFAULT else {**schema, "default": default}


def may_be_null(command: type[Command], name: str) -> bool:
    """Whether a JSON body may say null for an argument."""
    hint = get_type_hints(command)[name]
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def answer_schemas(entries: Iterable[Entry]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """The schemas of all answers, by their type as the handler declares it, and of what they refer to, by name."""
    kinds = list(dict.fromkeys(entry.answer for entry in entries))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    return dict(zip(kinds, schemas, strict=True)), components
