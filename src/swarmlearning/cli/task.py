"""`swarm task check`: task definition files, before they go on a ledger."""

from pathlib import Path

import click
from msgspec.structs import replace

from swarmlearning.cli import examples
from swarmlearning.cli.checking import say_faults, say_warning
from swarmlearning.contracts.task_records import Task, hash_task
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.reports.status import make_printable
from swarmlearning.tasks.definition import Definition, read_definition
from swarmlearning.tasks.faults import Faulty
from swarmlearning.tasks.trees import MAX_FILE_BYTES
from swarmlearning.types import NodeName


@click.group(no_args_is_help=True)
def task() -> None:
    """Check task definition files; `swarm ci` puts them on the ledger."""


@task.command(
    "check",
    epilog=examples(
        "swarm task check taskdefs/*.yaml",
        "swarm task check run-task.yaml --creator spiffe://cleveland.example/heart/operator/lead",
    ),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--creator", metavar="NODE", help="A node that creates the tasks: tells their hashes, for policies.")
def task_check(files: tuple[Path, ...], creator: str | None) -> ExitCode:
    """Say what task files define, or all that is wrong in them. Exit status 2 if anything is."""
    node = None if creator is None else NodeName.parse(creator)
    found = [(file, read_task_file(file)) for file in files]
    for file, definition in found:
        if isinstance(definition, Faulty):
            say_faults(definition)
            continue
        size = sum(len(line.encode()) + 1 for line in definition.lines)
        lines = f"{len(definition.lines)} line{'' if len(definition.lines) == 1 else 's'}"
        told = f"{definition.kind.value} {definition.name} after {definition.prereq}, leaves {definition.outcome}"
        click.echo(make_printable(f"{file}: {told}; a body of {lines}, {size} bytes"))
        if node is not None:
            click.echo(f"  hash {make_task(definition, node).hash.hex()}")
        for warning in definition.warnings:
            say_warning(f"{file}: {warning}")
    faulty = any(isinstance(definition, Faulty) for _, definition in found)
    return ExitCode.CONFIGURATION if faulty else ExitCode.OK


def read_task_file(file: Path) -> Definition | Faulty:
    """What a task file defines, or all that is wrong in it.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"task {file}: cannot be read ({error.strerror}); check the path") from error
    return read_definition(data, str(file))


def make_task(definition: Definition, creator: NodeName) -> Task:
    """The final task that a node makes of a definition."""
    made = Task(
        name=definition.name,
        kind=definition.kind,
        author=definition.author,
        prereq=definition.prereq,
        outcome=definition.outcome,
        creator=creator.id,
        created_height=0,
        lines=len(definition.lines),
    )
    return replace(made, hash=hash_task(made, definition.lines))
