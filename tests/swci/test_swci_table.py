"""The table of commands holds together, for whatever is read from it: parsing, help, documentation, REST."""

import inspect
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from swarmlearning.swci.entries import Entry, Topic, parse
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import kinds_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "swci.md"

EVERY = pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.usage)


@EVERY
def test_a_commands_syntax_and_record_have_the_same_arguments(entry: Entry) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(entry.command)}
    assert [part.text for part in entry.syntax.arguments] == list(fields)
    for part in entry.syntax.arguments:
        field = fields[part.text]
        has_default = field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT
        assert part.optional == has_default, part
    assert set(kinds_of(entry.command)) == set(fields)


@EVERY
def test_a_commands_example_is_that_command(entry: Entry) -> None:
    found = parse(COMMANDS, entry.example)
    assert found is not None
    assert found.entry is entry
    assert isinstance(found.command, entry.command)


@EVERY
def test_a_command_explains_itself(entry: Entry) -> None:
    assert entry.topic in get_args(Topic)
    assert re.fullmatch(r"[A-Z].*\.", entry.help), "a sentence"
    assert len(entry.help) <= 120, "a line in help"
    assert inspect.iscoroutinefunction(entry.handler)
    assert entry.answer is not inspect.Parameter.empty
    assert entry.syntax.verb, "begins with a keyword"


def test_no_two_commands_are_written_alike() -> None:
    usages = [entry.usage for entry in COMMANDS]
    assert len(set(usages)) == len(usages)
    records = [entry.command for entry in COMMANDS]
    assert len(set(records)) == len(records)


def test_the_reference_lists_exactly_the_commands_of_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### `(.*)`$", page, flags=re.MULTILINE)) == sorted(entry.usage for entry in COMMANDS)
    for entry in COMMANDS:
        part = page.partition(f"### `{entry.usage}`\n")[2].partition("\n#")[0]
        assert entry.help in part
        assert f"`{entry.example}`" in part
        assert ("role operator is needed" in part) == entry.signs
        assert ("REST" in part) == (entry.route is not None)


PRODUCT = """
CREATE CONTEXT c WITH IP ip
CREATE CONTEXT c WITH IP ip 30304
CREATE CONTEXT c WITH SERVICE api.sn.example:443
SWITCH CONTEXT c
GET CONTEXT INFO
GET CONTEXT INFO c
GET CONTEXT VERSION
LIST CONTEXTS
GET CONTEXT ENV e
GET CONTEXT ENV c e
SET CONTEXT ENV e v
SET CONTEXT ENV c e v
LIST CONTEXT ENV
LIST CONTEXT ENV c
WAIT FOR IP ip
WAIT FOR IP ip 30304
WAIT FOR IP ip 30304 12
WAIT FOR SERVICE api.sn.example
WAIT FOR SERVICE api.sn.example:443 12
CD taskdefs
LS
PWD
SLEEP 10
EXIT
EXIT ON FAILURE
EXIT ON FAILURE ON
EXIT ON FAILURE OFF
HELP
HELP ASSIGN
HELP ASSIGN TASK
"""
"""How scripts for the product we re-create are written, as far as the session itself is concerned."""


@pytest.mark.parametrize("line", PRODUCT.strip().splitlines())
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title], ids=["upper", "lower", "mixed"])
def test_a_command_of_the_products_is_one_of_ours_in_any_letter_case(line: str, case: "type[str]") -> None:
    found = parse(COMMANDS, line)
    cased = parse(COMMANDS, case(line))
    assert found is not None
    assert cased is not None
    assert found.entry is cased.entry
