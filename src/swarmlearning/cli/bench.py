"""`swarm bench`: how fast this machine does the work of a swarm, beside how fast it copies memory and moves bytes.

Imports nothing that computes: each benchmark is imported when it is called.
"""

from typing import Final

import click

from swarmlearning.cli import examples

DTYPES: Final = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "bool")
"""Types that can be measured."""


class _Lazy(click.Group):
    """Imports `round` and `ledger` when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them."""
        return sorted([*super().list_commands(ctx), "ledger", "round"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them."""
        if cmd_name == "round":
            from swarmlearning.cli.bench_round import round_

            return round_
        if cmd_name == "ledger":
            from swarmlearning.cli.bench_ledger import ledger

            return ledger
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Lazy, epilog=examples("swarm bench merge", "swarm bench round --megabytes 100", "swarm bench ledger"))
def bench() -> None:
    """Measure this machine: merging alone, whole rounds of a swarm, or its ledger.

    Figures compare within a run; between runs only their ratios do.
    """


@bench.command(epilog=examples("swarm bench merge", "swarm bench merge --peers 8 --dtype bfloat16 --dtype int64"))
@click.option("--peers", type=click.IntRange(2, 64), default=4, show_default=True, help="Contributors.")
@click.option(
    "--megabytes", type=click.IntRange(1, 4096), default=32, show_default=True, help="Size of the model, MiB."
)
@click.option("--dtype", "dtypes", type=click.Choice(DTYPES), multiple=True, help="Repeat for more. Default: float32.")
@click.option("--repeats", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def merge(peers: int, megabytes: int, dtypes: tuple[str, ...], repeats: int, as_json: bool) -> None:
    """Merge made-up models with every method, on one core.

    GB/s count the bytes that are read, all contributors'; seconds are this thread's own. Models of all contributors
    are held in memory.
    """
    from swarmlearning.cli.bench_merge import measure_all, table_of
    from swarmlearning.encoding import to_json

    report = measure_all(peers=peers, size=megabytes << 20, dtypes=dtypes or ("float32",), repeats=repeats)
    click.echo(to_json(report).decode() if as_json else table_of(report))
