"""What is wrong in a text that a person wrote: file, line, field, what was expected and what was got."""

import re
from typing import Final

import msgspec
import yaml

MAX_FAULTS: Final = 20
"""Most faults of one text that are told."""

_MAX_SHOWN: Final = 60

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    line: int
    """From 1."""
    field: str = ""
    """Such as `Body.BuildSteps[2]`, list entries counted from 1; empty where it is not about one field."""
    text: str


class Faulty(msgspec.Struct, frozen=True, kw_only=True):
    """A text that cannot be used, and why."""

    source: str
    """What people call the text."""
    faults: tuple[Fault, ...]
    """In the order of the text; never empty."""

    def lines(self) -> tuple[str, ...]:
        """A line for each fault, for people; at most `MAX_FAULTS` and one that says how many more there are."""
        told = [
            f"{self.source} line {fault.line}{', ' if fault.field else ''}{fault.field}: {fault.text}"
            for fault in self.faults[:MAX_FAULTS]
        ]
        more = len(self.faults) - MAX_FAULTS
        return (*told, f"{self.source}: {more} more faults") if more > 0 else tuple(told)


class Stopped(Exception):  # it never leaves `tasks.documents` and `tasks.trees`
    """Reading cannot go on after a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


def line_of(node: yaml.Node) -> int:
    """On which line a node begins, from 1."""
    return int(node.start_mark.line) + 1


def show_text(text: str) -> str:
    """The beginning of a text in quotes, without anything that steers a terminal."""
    return repr(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")


def show_node(node: yaml.Node) -> str:
    """What a node is, for people."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == NULL:
        return "nothing (~)"
    return show_text(node.value)


def name_field(path: str, key: str) -> str:
    """The path of a mapping's entry."""
    shown = key if _PLAIN_KEY.fullmatch(key) else show_text(key)
    return f"{path}.{shown}" if path else shown


NULL: Final = "tag:yaml.org,2002:null"
