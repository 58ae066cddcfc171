"""`swarm status`: where the network and its trainings stand, once or as long as one watches."""

import click
from rich.console import Console

from swarmlearning.cli import examples
from swarmlearning.cli.asking import sn_option
from swarmlearning.contracts.records import MAX_HISTORY
from swarmlearning.encoding import to_json
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.source import PemSource
from swarmlearning.reports.watching import DEFAULT_ROUNDS, look, print_status, watch_contract
from swarmlearning.sn.asking import ask_sn
from swarmlearning.types import check_contract_name


@click.command(
    epilog=examples(
        "swarm status --sn 10.0.0.1:30304 --cert operator.cert.pem --key operator.key.pem --cacert a.ca.pem",
        "swarm status heart --sn 10.0.0.1:30304 --watch",
        "swarm status heart --sn 10.0.0.1:30304 --json",
    )
)
@identity_options
@sn_option
@click.option(
    "--rounds",
    type=click.IntRange(0, MAX_HISTORY),
    default=DEFAULT_ROUNDS,
    show_default=True,
    help="How many final rounds to show, the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON; with --watch a document a line for every change.")
@click.option("--watch", is_flag=True, help="Go on until the training is complete, or Ctrl-C.")
@click.argument("contract", required=False)
def status(identity: PemSource, sn: str, rounds: int, as_json: bool, watch: bool, contract: str | None) -> None:
    """Show where the network and its trainings stand.

    Without CONTRACT: the network and all contracts in short, and in full the one in use if it is the only one. With
    it: what the training waits for, its peers, how far they are, and its newest rounds. Loss, metric, epochs and time
    left are shown as far as each peer chooses to show them.

    Needs an identity of the SN's own organisation, of any role.
    """
    name = check_contract_name(contract) if contract is not None else None
    console = Console(highlight=False)
    if watch:
        ask_sn(identity, sn, lambda client: watch_contract(client, name, rounds, console, as_json))
        return
    report = ask_sn(identity, sn, lambda client: look(client, name, rounds))
    if as_json:
        click.echo(to_json(report).decode())
    else:
        print_status(console, report)
