"""`swarm bench ledger`: how long a transaction takes to be final, and how many are in a second."""

from typing import Final

import click
from rich.console import Console
from rich.table import Table

from swarmlearning.bench.ledger import Measured, Plan, measure
from swarmlearning.cli import examples
from swarmlearning.cli.bench_run import run_benchmark
from swarmlearning.cli.ledger_option import ledger_option
from swarmlearning.types import LedgerKind

MAX_VALIDATORS: Final = 16
MAX_PEERS: Final = 4_000


@click.command(
    epilog=examples("swarm bench ledger --ledger embedded", "swarm bench ledger --validators 4 --peers 1000 --json")
)
@ledger_option
@click.option(
    "--validators",
    type=click.IntRange(1, MAX_VALIDATORS),
    default=4,
    show_default=True,
    help="Organisations, each with an SN.",
)
@click.option(
    "--transactions",
    type=click.IntRange(1, 100_000),
    default=500,
    show_default=True,
    help="Check-ins one after another, and as many again at once.",
)
@click.option(
    "--peers", type=click.IntRange(1, MAX_PEERS), default=10, show_default=True, help="Enrolled; they need no process."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ledger(
    ledger: LedgerKind,
    validators: int,
    transactions: int,
    peers: int,
    as_json: bool,
) -> None:
    """Measure the ledger of a throw-away network on this machine: real SNs, mutual TLS, blocks on disk.

    Latency is from the submission at an organisation's own SN to the answer that the transaction is in a block which
    is committed there. All SNs and made-up peers share this machine's cores and disk.
    """
    plan = Plan(ledger=ledger, validators=validators, transactions=transactions, peers=peers)
    run_benchmark(measure, plan, _show, as_json=as_json)


def _show(measured: Measured) -> None:
    console = Console(highlight=False)
    latency, floor = measured.latency_ms, measured.floor_ms
    console.print(
        f"[bold]{latency.median:.1f} ms[/] a transaction (99 %: {latency.p99:.1f}); "
        f"[bold]{measured.throughput_tps:.0f} transactions a second[/], {measured.in_flight} at a time; "
        f"start {measured.start_seconds:.1f} s"
    )
    console.print(
        f"{measured.ledger}, {measured.validators} SNs, {measured.peers} peers, {measured.transactions} check-ins; the "
        f"floor: a round trip {floor.round_trip:.1f} ms, an fsync {floor.fsync:.1f} ms"
    )
    table = Table("SN", "median ms", "99 % ms", "peak MB", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for number, (some, memory) in enumerate(zip(measured.latency_by_sn_ms, measured.sn_rss_mb, strict=False)):
        table.add_row(str(number), f"{some.median:.1f}", f"{some.p99:.1f}", f"{memory:,.0f}")
    console.print(table)
    console.print(
        f"{measured.enrol_tps:.0f} registrations and enrolments a second; {measured.cpu_ms_per_tx:.1f} ms of processor "
        f"time a check-in, all SNs together; a training's record {measured.record_bytes:,} bytes"
    )
