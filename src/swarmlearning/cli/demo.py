"""`swarm demo`: hospitals train one model together, on this machine."""

from pathlib import Path
from typing import cast, get_args

import click
from rich.console import Console

from swarmlearning.cli.ledger_option import ledger_option
from swarmlearning.demo.records import Dataset, Framework
from swarmlearning.demo.runner import plan_demo, run_demo
from swarmlearning.errors import ExitCode
from swarmlearning.local.training import run_until_signal
from swarmlearning.types import LedgerKind


@click.command()
@click.option("--seeds", type=int, default=5, show_default=True, help="How many trainings, each from another start.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("swarm-demo"), show_default=True, help="Where results go."
)
@click.option("--framework", type=click.Choice(get_args(Framework)), default="keras", show_default=True)
@click.option("--dataset", type=click.Choice(get_args(Dataset)), default="heart", show_default=True)
@ledger_option
@click.option("--data", default="", metavar="FILE", help="The X-ray file pneumoniamnist.npz, for --dataset xray.")
def demo(seeds: int, out: Path, framework: str, dataset: str, ledger: LedgerKind, data: str) -> int:
    """See hospitals train one model together, on this machine.

    Each hospital is an organisation of its own, with its own certificate authority, nodes and program, and sees only
    its own patients. At the end OUT/report.html compares what each could do alone with what they do together.
    """
    plan = plan_demo(cast("Dataset", dataset), cast("Framework", framework), seeds, out, data, ledger=ledger)
    console = Console()
    try:
        run, faults = run_until_signal(lambda: run_demo(plan, console))
    except KeyboardInterrupt:
        click.echo(f"interrupted; logs: {plan.out / 'logs'}", err=True)
        return ExitCode.INTERRUPTED
    if run is not None:
        # Imported only now: it brings plotting with it, which the nodes' start does not need to wait for.
        from swarmlearning.demo.report import finish_demo
        from swarmlearning.demo.table import render_table

        console.print(render_table(finish_demo(plan.out, run)))
        console.print(f"{plan.out / 'report.html'}", highlight=False, soft_wrap=True)
    for fault in faults:
        click.echo(f"swarm: {fault}", err=True)
    if faults:
        click.echo(f"swarm: the demo failed; logs: {plan.out / 'logs'}", err=True)
        return ExitCode.FAILED
    return ExitCode.OK
