"""`swarm contract list|show|reset`: look at training contracts, and start a run anew; all else is `swarm ci`."""

import click

from swarmlearning.cli import examples
from swarmlearning.cli.asking import sign_key_option, sn_option
from swarmlearning.contracts.records import Training
from swarmlearning.encoding import to_json
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.source import PemSource
from swarmlearning.reports.contract import describe_newest, describe_reset, describe_training
from swarmlearning.sn.asking import ask_sn, find_training, open_submitter, reset_training
from swarmlearning.sn.client import SnClient
from swarmlearning.types import DEFAULT_CONTRACT


@click.group(
    epilog=examples(
        "swarm contract list --sn 10.0.0.1:30304 --cert operator.cert.pem --key operator.key.pem --cacert a.ca.pem",
        "swarm contract show --sn 10.0.0.1:30304 heart",
        "swarm contract reset --sn 10.0.0.1:30304 heart",
    )
)
def contract() -> None:
    """Look at training contracts, and start a run anew.

    Needs an identity of the SN's own organisation, of the role operator to reset.
    """


@contract.command("list")
@identity_options
@sn_option
def list_contracts(identity: PemSource, sn: str) -> None:
    """List all training contracts and where they stand."""

    async def question(client: SnClient) -> list[Training]:
        return [await find_training(client, name) for name in await client.contracts()]

    for training in ask_sn(identity, sn, question):
        click.echo(f"{training.name}  run {training.run}  {training.phase.value}  {describe_newest(training)}")


@contract.command()
@identity_options
@sn_option
@click.option("--json", "as_json", is_flag=True, help="The whole record as JSON.")
@click.argument("name", default=DEFAULT_CONTRACT)
def show(identity: PemSource, sn: str, as_json: bool, name: str) -> None:
    """Show a contract: phase, what it waits for, newest model, how it merges, peers."""
    training = ask_sn(identity, sn, lambda client: find_training(client, name))
    if as_json:
        click.echo(to_json(training).decode())
        return
    for line in describe_training(training):
        click.echo(line)


@contract.command()
@identity_options
@sn_option
@sign_key_option
@click.argument("name", default=DEFAULT_CONTRACT)
def reset(identity: PemSource, sn: str, sign_key: str | None, name: str) -> None:
    """Start a new run: its peers enrol anew, and the training begins from scratch.

    The organisation that created the contract resets it alone unless a training is running in it.
    """

    async def question(client: SnClient) -> Training:
        # A name that is not there is told before a key is registered for it.
        training = await find_training(client, name)
        return await reset_training(client, await open_submitter(client, identity, sign_key), training.name)

    training = ask_sn(identity, sn, question)
    click.echo(describe_reset(training.name, training.run))
