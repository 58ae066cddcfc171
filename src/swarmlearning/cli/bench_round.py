"""`swarm bench round`: a round of real processes, beside the floor of the machine."""

from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from swarmlearning.bench.rounds import Measured, Plan, measure
from swarmlearning.cli import examples
from swarmlearning.cli.bench_run import run_benchmark
from swarmlearning.cli.ledger_option import ledger_option
from swarmlearning.contracts.records import Settings
from swarmlearning.errors import ConfigurationError
from swarmlearning.sl.methods import complete
from swarmlearning.types import LedgerKind

MAX_PEERS: Final = 64
MAX_MEGABYTES: Final = 16_384.0
MAX_ROUNDS: Final = 1_000

TOPOLOGIES: Final = ("auto", "leader", "sharded")
WIRES: Final = ("float32", "bf16", "fp16", "int8")


@click.command(
    name="round",
    epilog=examples(
        "swarm bench round --peers 4 --megabytes 100 --rounds 5", "swarm bench round --megabytes 10 --json"
    ),
)
@click.option("--peers", type=int, default=4, show_default=True, help="SLs and programs, each a process.")
@click.option("--megabytes", type=float, default=10.0, show_default=True, help="Size of the model, 10^6 bytes.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Rounds that count; two more come before them.")
@click.option("--merge", default="mean", show_default=True, help="The merge method.")
@click.option("--topology", type=click.Choice(TOPOLOGIES), default="auto", show_default=True)
@click.option("--wire", type=click.Choice(WIRES), default="float32", show_default=True, help="How floats travel.")
@click.option("--witnesses", type=click.IntRange(0, 2), help="Recomputing each shard.  [default: as the method has it]")
@click.option(
    "--organisations",
    type=int,
    help="Over which the peers are dealt, each with an SN of its own.  [default: one, as in `swarm run`]",
)
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def round_(  # one parameter an option
    peers: int,
    megabytes: float,
    rounds: int,
    merge: str,
    topology: Any,  # noqa: ANN401  # click has checked the choice
    wire: Any,  # noqa: ANN401  # the same
    witnesses: int | None,
    organisations: int | None,
    ledger: LedgerKind,
    as_json: bool,
) -> None:
    """Measure rounds of a throw-away swarm on this machine: real processes, mutual TLS, a real ledger.

    In the same run the floor is measured: the same bytes moved between as many processes over plain TLS sockets, and
    one pass over memory. All peers share this machine's cores and disk, so a round here does the work of all of them.
    """
    plan = Plan(
        peers=_within("--peers", peers, 2, MAX_PEERS),
        organisations=_within("--organisations", organisations or 1, 1, peers),
        megabytes=_within("--megabytes", megabytes, 0.0001, MAX_MEGABYTES),
        rounds=_within("--rounds", rounds, 1, MAX_ROUNDS),
        ledger=ledger,
        settings=complete(
            Settings(
                sync_frequency=1,
                start="merge",
                checkin_mode="inactive",
                merge_method=merge,
                topology=topology,
                wire=wire,
                witnesses=-1 if witnesses is None else witnesses,
            )
        ),
    )
    run_benchmark(measure, plan, _show, as_json=as_json)


def _within(option: str, value: Any, low: float, high: float) -> Any:  # noqa: ANN401  # an int stays one
    if not low <= value <= high:
        raise ConfigurationError(f"{option} {value}: expected {low:g} to {high:g}")
    return value


def _show(measured: Measured) -> None:
    console = Console(highlight=False)
    spread = measured.round_seconds
    console.print(
        f"[bold]{spread.median:.3f} s a round[/] ({spread.min:.3f} to {spread.max:.3f}); "
        f"the floor {measured.floor_seconds:.3f} s; ratio [bold]{measured.ratio:.1f}[/]; "
        f"the first round {measured.first_round_seconds:.2f} s"
    )
    console.print(
        f"{measured.peers} peers, {measured.organisations} SN ({measured.ledger} ledger), {measured.megabytes:g} MB, "
        f"{measured.merge}, "
        f"{measured.shards} shard{'s' * (measured.shards > 1)} ({measured.topology}), wire {measured.wire}, "
        f"{measured.witnesses} witnesses, {measured.bytes_moved / 1e6:,.1f} MB moved a round"
    )
    table = Table("phase", "seconds", box=None)
    table.columns[1].justify = "right"
    for name, seconds in measured.phases.items():
        table.add_row(name.replace("_", " "), f"{seconds:.4f}")
    console.print(table)
    table = Table("process", "peak MB", box=None)
    table.columns[1].justify = "right"
    for name, memory in measured.peak_rss_mb.items():
        table.add_row(name, f"{memory:,.0f}")
    table.add_row("all", f"{sum(measured.peak_rss_mb.values()):,.0f}", style="bold")
    console.print(table)
