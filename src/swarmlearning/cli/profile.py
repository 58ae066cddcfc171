"""`swarm profile check`: an agent's profile, and what it names on this host."""

from pathlib import Path

import click

from swarmlearning.cli import examples
from swarmlearning.cli.checking import say_faults, say_problem, say_warning
from swarmlearning.clock import system_clock
from swarmlearning.errors import ExitCode
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.placeholders import parse_settings
from swarmlearning.swop.profile import Profile
from swarmlearning.swop.profile_check import CheckedNode, check_profile
from swarmlearning.swop.profile_file import read_profile_file
from swarmlearning.tasks.faults import Faulty


@click.group(no_args_is_help=True)
def profile() -> None:
    """Check the profile of an agent (SWOP)."""


@profile.command(
    "check",
    epilog=examples("swarm profile check swop_profile.yaml --set CURRENT-PATH=/opt/swarm --set APLS-IP=none"),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--set", "values", multiple=True, metavar="NAME=VALUE", help="Value of the placeholder <NAME>; may be repeated."
)
def profile_check(file: Path, values: tuple[str, ...]) -> ExitCode:
    """Say what an agent's profile makes of this host, or all that is wrong in it.

    Also looks whether the files that it names are there, whether certificates are valid, and whether each peer has
    one of its own. Exit status 2 if anything is wrong.
    """
    found = read_profile_file(file, parse_settings(values))
    if isinstance(found, Faulty):
        say_faults(found)
        return ExitCode.CONFIGURATION
    checked = check_profile(found, system_clock())
    for line in [*_describe(found), *map(_describe_node, checked.nodes)]:
        click.echo(make_printable(line))
    for warning in checked.warnings:
        say_warning(f"{file}: {warning}")
    for problem in checked.problems:
        say_problem(f"{file}: {problem}")
    return ExitCode.CONFIGURATION if checked.problems else ExitCode.OK


def _describe(found: Profile) -> tuple[str, str]:
    who = "a person is asked about every task" if found.policy is None else f"policy {found.policy}"
    manager = "whatever this host has" if found.manager is None else found.manager.value
    sn = "as `swarm swop --sn` says" if found.sn is None else str(found.sn)
    return f"{found.group}: taskrunner {', '.join(found.runners)}; manager {manager}; SN {sn}", f"  {who}"


def _describe_node(checked: CheckedNode) -> str:
    node = checked.node
    name = "?" if checked.name is None else checked.name.short
    port = f"port {node.sl_port}" if node.sl_port else "any port"
    host = node.sl_fs_service or f"{node.sl_host_ip or 'this host'}, {port}"
    data = "no private data" if node.private_data is None else f"private data {node.private_data.source}"
    return f"  node {node.idx}: {name}, {host}; {data}"
