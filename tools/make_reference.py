"""Writes docs/reference/commands.md, errors.md and swci.md from the code, so that they cannot say something else.

Run `python tools/make_reference.py`; a test compares what it would write with what is there.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from swarmlearning import errors
from swarmlearning.cli.main import swarm
from swarmlearning.swci.client import Swci
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.table import COMMANDS

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"

WIDTH = 100
"""Columns of help texts."""


def walk_commands(
    command: click.Command, names: tuple[str, ...], parent: click.Context | None = None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command's name and help text, parents first."""
    # Settings are those of a real call: the command's own, and what it inherits from its parent.
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent=parent, info_name=names[-1], **settings)
    yield names, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from walk_commands(child, (*names, name), context)


def write_commands() -> str:
    """The page of all commands."""
    parts = ["# Commands", "", "Written from the commands' own help by `tools/make_reference.py`.", ""]
    for names, text in walk_commands(swarm, ("swarm",)):
        lines = [line.rstrip() for line in text.splitlines()]
        parts += ["#" * min(2 + len(names) - 1, 4) + " `" + " ".join(names) + "`", "", "```text", *lines, "```", ""]
    return "\n".join(parts).rstrip() + "\n"


def write_errors() -> str:
    """The page of errors and exit statuses."""
    tree = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    lines = [
        "# Errors and exit statuses",
        "",
        "Written from `swarmlearning/errors.py` by `tools/make_reference.py`. Every message is one line: what was",
        "expected, what was got, what to do. A program that uses the callback ends with the same line and status; with",
        "the logger `SwarmCallback` at DEBUG the trace is shown too.",
        "",
        "```text",
        *(line.removeprefix("    ") for line in tree.splitlines()),
        "```",
        "",
        "| exit status | name |",
        "| --- | --- |",
        *(f"| {code.value} | {code.name} |" for code in errors.ExitCode),
    ]
    return "\n".join(lines) + "\n"


def write_swci() -> str:
    """The page of the command interface's commands, by topic in the order of the table."""
    lines = [
        "# Commands of the command interface",
        "",
        "Written from `swarmlearning/swci/table.py` by `tools/make_reference.py`. The same commands are in the shell",
        "(`swarm ci`), in scripts and in the REST service; [how to steer with them](../how-to/steer-with-swci.md), and",
        "[what the interface promises](../spec/swci.md).",
        "",
        "Keywords are case-insensitive, `<arguments>` are as they are written, what stands in `[ ]` may be left out,",
        "and `<...>` takes the rest of the line as it stands. An argument with blanks stands in quotes.",
    ]
    for topic in dict.fromkeys(entry.topic for entry in COMMANDS):
        lines += ["", f"## {topic}"]
        for entry in COMMANDS:
            if entry.topic == topic:
                lines += _describe(entry)
    return "\n".join(lines) + "\n"


def _describe(entry: Entry) -> list[str]:
    """A command's part of its page."""
    notes = [f"Example: `{entry.example}`"]
    if entry.signs:
        notes.append("Signs a transaction: the role operator is needed.")
    if entry.waits:
        notes.append("Goes on until it is done or interrupted.")
    if entry.route is not None:
        notes.append(f"REST: `{entry.route.method} /v1{entry.route.path}`")
    return ["", f"### `{entry.usage}`", "", entry.help, "", *(f"- {note}" for note in notes)]


BEGIN, END = "<!-- methods: written by tools/make_reference.py -->", "<!-- methods end -->"


def write_swci_python() -> str:
    """The page of the Python class: what people wrote, and between two marks its methods as the class has them."""
    before, _, rest = (REFERENCE / "swci-python.md").read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [BEGIN, "", "| method | answers | what it does |", "| --- | --- | --- |"]
    for name, method in vars(Swci).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            signature = inspect.signature(method)
            arguments = [_show_parameter(parameter) for parameter in list(signature.parameters.values())[1:]]
            first = inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            answer = getattr(signature.return_annotation, "__name__", str(signature.return_annotation))
            answer = str(signature.return_annotation) if "[" in str(signature.return_annotation) else answer
            cells = (f"`{name}({', '.join(arguments)})`", f"`{answer}`", first)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return before + "\n".join([*lines, "", END]) + after


def _show_parameter(parameter: inspect.Parameter) -> str:
    star = "*, " if parameter.kind is inspect.Parameter.KEYWORD_ONLY else ""
    default = "" if parameter.default is inspect.Parameter.empty else f"={parameter.default!r}"
    return f"{star}{parameter.name}{default}"


PAGES = {
    "commands.md": write_commands,
    "errors.md": write_errors,
    "swci.md": write_swci,
    "swci-python.md": write_swci_python,
}


def main() -> None:
    """Write all pages."""
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write(), encoding="utf-8")
        sys.stdout.write(f"{REFERENCE / name}\n")


if __name__ == "__main__":
    main()
