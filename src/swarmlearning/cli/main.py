"""The root of `swarm`: the table of commands, and what becomes of errors.

A command is imported when it is called, so that `swarm --help` is fast and a missing extra breaks only what needs it.
A command ends normally (exit 0), returns an `ExitCode`, or raises.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from swarmlearning import __version__
from swarmlearning.cli import examples
from swarmlearning.errors import ExitCode, SwarmError, exit_code


class Entry(NamedTuple):
    """Where a command is, and its line in `swarm --help`."""

    target: str
    """`module:attribute`."""
    summary: str


COMMANDS: Final = {
    "bench": Entry("swarmlearning.cli.bench:bench", "Measure how fast this machine does the work of a swarm."),
    "ca": Entry("swarmlearning.cli.identity:ca", "Make a certificate authority for one organisation."),
    "cert": Entry("swarmlearning.cli.identity:cert", "Issue, show and renew node certificates."),
    "ci": Entry("swarmlearning.cli.ci:ci", "Steer the network by commands: a shell, scripts, single lines."),
    "contract": Entry("swarmlearning.cli.contract:contract", "Look at training contracts; start a run anew."),
    "demo": Entry("swarmlearning.cli.demo:demo", "See hospitals train one model together, on this machine."),
    "doctor": Entry("swarmlearning.cli.doctor:doctor", "Look for what does not work, and say what to do."),
    "ledger": Entry("swarmlearning.cli.ledger:ledger", "Export the ledger's history; prove and verify what is in it."),
    "logs": Entry("swarmlearning.cli.logs:logs", "See what programs and SLs print that this host's agent started."),
    "network": Entry("swarmlearning.cli.network:network", "Found a network, join it, and look at it."),
    "policy": Entry("swarmlearning.cli.policy:policy", "Check what an institution lets others do on its hosts."),
    "profile": Entry("swarmlearning.cli.profile:profile", "Check an agent's profile, and what it names on this host."),
    "rehearse": Entry("swarmlearning.cli.rehearse:rehearse", "Rehearse a training, with faults, before it begins."),
    "run": Entry("swarmlearning.cli.run:run", "Try your own training script in a throw-away swarm."),
    "sl": Entry("swarmlearning.cli.nodes:sl", "Run a Swarm Learning node, beside one ML program."),
    "sn": Entry("swarmlearning.cli.nodes:sn", "Run a Swarm Network node, which holds the ledger."),
    "status": Entry("swarmlearning.cli.status:status", "See where the network and its trainings stand, live."),
    "swop": Entry("swarmlearning.cli.swop:swop", "Run the agent of a host, which carries out tasks."),
    "task": Entry("swarmlearning.cli.task:task", "Check task definition files."),
}


class LazyGroup(click.Group):
    """A group whose commands are named in `COMMANDS` and imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names in the table."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import a command; None if the table does not have it."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the table, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in sorted(COMMANDS)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("swarm demo", "swarm run --peers 4 -- python train.py"),
)
@click.version_option(__version__, prog_name="swarm", message="%(prog)s %(version)s")
def swarm() -> None:
    """Swarm Learning: institutions that may not pool their data train one model together, as equals."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `swarm` with `arguments` (default: those of this process) and return its exit status.

    An error of ours is one line on stderr; a traceback on the screen is always a bug.
    """
    try:
        # click returns what the command returned, or the status it asked for with `ctx.exit`.
        status = swarm.main(args=arguments, prog_name="swarm", standalone_mode=False)
        sys.stdout.flush()
    except SwarmError as error:
        return _fail(error)
    except ExceptionGroup as group:
        # Nodes are task groups. The first error is the one to tell; the others mostly follow from it.
        ours, others = group.split(SwarmError)
        if ours is None or others is not None:
            raise
        return _fail(_first(ours))
    except click.ClickException as error:
        error.show()
        return int(ExitCode.CONFIGURATION)
    except (KeyboardInterrupt, click.Abort):
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return _reader_left()
    return int(status) if isinstance(status, int) else int(ExitCode.OK)


def _fail(error: SwarmError) -> int:
    # One line, whatever a message from elsewhere holds: no control characters reach the terminal.
    line = "".join(c if c.isprintable() else " " for c in str(error)) or type(error).__name__
    click.echo(f"swarm: error: {line}", err=True)
    return int(exit_code(error))


def _first(group: ExceptionGroup[SwarmError]) -> SwarmError:
    error: SwarmError | ExceptionGroup[SwarmError] = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _reader_left() -> int:
    # `swarm ... | head`: nobody reads any more. What is still buffered must not fail again while Python ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return int(ExitCode.FAILED)
