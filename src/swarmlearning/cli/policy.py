"""`swarm policy check`: an institution's policy, and what it would make of a task."""

from datetime import datetime
from pathlib import Path
from typing import Final

import click
from msgspec.structs import replace

from swarmlearning.cli import examples
from swarmlearning.cli.checking import say_faults, say_warning
from swarmlearning.cli.task import make_task, read_task_file
from swarmlearning.contracts.task_records import Task
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.deciding import decide
from swarmlearning.swop.placeholders import parse_settings
from swarmlearning.swop.policy import Policy, Request
from swarmlearning.swop.policy_file import read_policy_file
from swarmlearning.swop.profile_file import load_profile
from swarmlearning.swop.requesting import make_request
from swarmlearning.tasks.definition import Definition
from swarmlearning.tasks.faults import Faulty
from swarmlearning.types import NodeName, Role, TrustDomain, check_label

_FILE: Final = click.Path(path_type=Path, dir_okay=False)

_OURS: Final = TrustDomain("your organisation")
"""Stands where nothing is said of the own organisation; it is nobody's name."""


@click.group(no_args_is_help=True)
def policy() -> None:
    """Check the policy of an institution."""


@policy.command(
    "check",
    epilog=examples(
        "swarm policy check policy.yaml",
        "swarm policy check policy.yaml --task build.yaml --task run.yaml --organisation cleveland.example",
    ),
)
@click.argument("file", type=_FILE)
@click.option("--task", "tasks", multiple=True, type=_FILE, help="What would be decided of this task file; repeatable.")
@click.option("--creator", metavar="NODE", help="A node that creates the tasks; their hashes depend on it.")
@click.option("--organisation", metavar="DOMAIN", help="Whose the tasks are, if no --creator is given; without hashes.")
@click.option("--own", metavar="DOMAIN", help="The organisation whose policy it is; else the task is another's.")
@click.option("--profile", type=_FILE, help="The agent's profile: which private data and keys there are.")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Value of a placeholder in the profile.")
@click.option("--at", type=click.DateTime(["%Y-%m-%dT%H:%M"]), metavar="YYYY-MM-DDThh:mm", help="When; else now.")
@click.option("--no-sandbox", is_flag=True, help="As if nothing kept programs apart from this host.")
def policy_check(
    *,
    file: Path,
    tasks: tuple[Path, ...],
    creator: str | None,
    organisation: str | None,
    own: str | None,
    profile: Path | None,
    values: tuple[str, ...],
    at: datetime | None,
    no_sandbox: bool,
) -> ExitCode:
    """Say what a policy says, or all that is wrong in it; with --task also what it would make of a task, and why.

    Give the file of a task's prerequisite, too, where rules name images: that says what the task runs in.

    Exit status 2 if a file cannot be used, 0 whatever is decided.
    """
    found = read_policy_file(file)
    if isinstance(found, Faulty):
        say_faults(found)
        return ExitCode.CONFIGURATION
    click.echo(make_printable(_describe(file, found)))
    for warning in found.warnings:
        say_warning(f"{file}: {warning}")
    if not tasks:
        return ExitCode.OK
    if creator is None and organisation is None:
        raise ConfigurationError("--task: expected --creator or --organisation as well, whose task it is")
    status = ExitCode.OK
    read = None if profile is None else load_profile(profile, parse_settings(values))
    read_tasks = [(path, read_task_file(path)) for path in tasks]
    made = {
        definition.name: _make_task(definition, organisation, creator)
        for _, definition in read_tasks
        if isinstance(definition, Definition)
    }
    for path, definition in read_tasks:
        if isinstance(definition, Faulty):
            say_faults(definition)
            status = ExitCode.CONFIGURATION
            continue
        request = make_request(
            _make_task(definition, organisation, creator),
            definition.body,
            prerequisite=made.get(definition.prereq),
            profile=read,
            isolated=not no_sandbox,
            own=_OURS if own is None else TrustDomain(check_label("--own", own)),
            approvals=(),
        )
        _say_decision(path, found, request, at or datetime.now().astimezone())
    return status


def _say_decision(path: Path, found: Policy, request: Request, at: datetime) -> None:
    decision = decide(found, request, at)
    click.echo(make_printable(f"{path} at {at:%a %H:%M}: {decision.verdict.value}: {decision.reason}"))


def _make_task(definition: Definition, organisation: str | None, creator: str | None) -> Task:
    """The task as it would be on the ledger; without its creator it has no hash."""
    if creator is not None:
        return make_task(definition, NodeName.parse(creator))
    made = make_task(definition, _somebody(organisation or ""))
    return replace(made, hash=b"")


def _somebody(organisation: str) -> NodeName:
    return NodeName(domain=TrustDomain(organisation), network="check", role=Role.OPERATOR, name="check")


def _describe(file: Path, found: Policy) -> str:
    rules = f"{len(found.rules)} rule{'' if len(found.rules) == 1 else 's'}"
    asks = "a person is asked where none allows a task" if found.ask else "what none allows is denied"
    bare = "; without a sandbox, too" if found.allow_unsandboxed else ""
    return f"{file}: {rules}, {asks}{bare}; SHA-256 {found.digest.hex()}"
