"""What the commands that check files say."""

import click

from swarmlearning.reports.status import make_printable
from swarmlearning.tasks.faults import Faulty


def say_faults(faulty: Faulty) -> None:
    """Tell what is wrong with a file, a line for each fault."""
    for line in faulty.lines():
        say_problem(line)


def say_problem(text: str) -> None:
    """Tell what keeps something from working."""
    click.echo(f"ERROR {make_printable(text)}", err=True)


def say_warning(text: str) -> None:
    """Tell what somebody should think about."""
    click.echo(f"WARNING {make_printable(text)}", err=True)
