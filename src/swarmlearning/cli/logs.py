"""`swarm logs`: what programs and SLs print that the agent of this host has started."""

from pathlib import Path
from typing import cast

import click

from swarmlearning.cli import examples
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import show_time
from swarmlearning.swop.log_finding import Log, LogLine, PartChoice, find_logs, is_over, list_logs, load
from swarmlearning.swop.log_following import follow, tail_lines


@click.command(
    epilog=examples("swarm logs --data swop", "swarm logs sl-0 -f --data swop", "swarm logs build --tail 50")
)
@click.argument("node", required=False)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what is printed, until it ends.")
@click.option(
    "--data",
    default="swop",
    envvar="SWOP_DATA",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    help="Data directory of the agent.",
)
@click.option(
    "--part", type=click.Choice(["sl", "ml", "all"]), default="ml", show_default=True, help="SL, ML program, or both."
)
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("--assignment", metavar="RUNNER:N", help="The task that a taskrunner had; default: the newest.")
def logs(node: str | None, follows: bool, data: str, part: str, tail: int | None, assignment: str | None) -> None:
    """See what programs and SLs print that this host's agent (SWOP) has started.

    NODE is an SL's name, its name@organisation, the idx of a node in the profile, a pair's id, or a task's name.
    Without NODE it says what there is. Logs are kept after a reset; they never leave this host by themselves.
    """
    directory = Path(data).expanduser().absolute()
    entries = load(directory)
    if node is None:
        for line in _draw(list_logs(directory, entries)):
            click.echo(line)
        return
    found = find_logs(directory, entries, node, cast("PartChoice", part), assignment)
    positions = []
    for log in found:
        lines, position = tail_lines(Path(log.path), tail)
        positions.append(position)
        if len(found) > 1:
            click.echo(f"--- {make_printable(log.title)}")
        for line in lines:
            click.echo(line)
    if follows:
        _follow(directory, found, positions)


def _follow(data: Path, found: list[Log], positions: list[int]) -> None:
    last = len(found) - 1
    places = [(Path(log.path), position) for log, position in zip(found, positions, strict=True)]
    for number, line in follow(places, lambda number: is_over(data, found[number])):
        if number != last:
            click.echo(f"--- {make_printable(found[number].title)}")
            last = number
        click.echo(line)


def _draw(lines: list[LogLine]) -> list[str]:
    if not lines:
        return ["nothing was started yet"]
    rows = [("NAME", "SL", "STATE", "ASSIGNMENT", "TASK", "BYTES", "BEGUN")]
    rows += [
        (line.name, line.node or "-", line.state, line.assignment, line.task, str(line.bytes), _moment(line))
        for line in lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        make_printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for row in rows
    ]


def _moment(line: LogLine) -> str:
    return show_time(line.begun_ms)
