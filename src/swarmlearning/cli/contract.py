"""`swarm contract list|show|reset`: look at training contracts, and start a run anew.

The whole command interface comes with SWCI; this is what a pilot needs meanwhile.
"""

import click

from swarmlearning.cli import examples
from swarmlearning.cli.asking import ask_sn, find_training, open_submitter, sign_key_option, sn_option
from swarmlearning.cli.status_report import report_contract
from swarmlearning.cli.status_view import describe_exchange, describe_merging
from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.messages import ResetContract
from swarmlearning.contracts.records import MICRO, Phase, Training
from swarmlearning.encoding import to_json
from swarmlearning.errors import Refused
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.source import PemSource
from swarmlearning.sn.client import SnClient
from swarmlearning.types import DEFAULT_CONTRACT, short_name


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
        training = await find_training(client, name)
        submitter = await open_submitter(client, identity, sign_key)
        await submitter.require(ResetContract(contract=training.name, run=training.run))
        return await find_training(client, name)

    before = ask_sn(identity, sn, lambda client: find_training(client, name))
    after = ask_sn(identity, sn, question)
    if after.run == before.run:
        raise Refused(f"{name} is running: the reset counts as a vote, and a majority of its enrolled peers decides")
    click.echo(f"{after.name} is reset: run {after.run} begins when peers enrol")


def describe_newest(training: Training) -> str:
    """The newest result in a few words."""
    if training.last is None:
        return "no result yet"
    return f"round {training.last.round}, model {training.last.sha256.hex()[:16]}"


def describe_training(training: Training) -> list[str]:
    """A contract for people, line by line."""
    allowed = ", ".join(training.organisations) or "every member"
    lines = [
        f"contract    {training.name} (created by {training.creator}; may enrol: {allowed})",
        f"run         {training.run}",
        f"phase       {training.phase.value}" + (f", round {training.round.number}" if training.round else ""),
        f"newest      {describe_newest(training)}",
    ]
    if training.phase is not Phase.COMPLETED:
        lines.insert(3, f"waiting     {explain_wait(training)}")
    if training.settings is not None:
        report = report_contract(training)
        lines.append(f"merging     {describe_merging(report)}")
        lines.append(f"exchange    {describe_exchange(report)}")
        if report.method_source:
            lines.append(f"plug-in     {report.method_source}")
    for peer in training.peers:
        figures = f"{peer.rounds_contributed} of {peer.rounds_offered} rounds"
        if peer.progress.loss_micro is not None:
            figures += f", loss {peer.progress.loss_micro / MICRO:.4f}"
        lines.append(f"peer        {short_name(peer.node)}  {peer.state.value}  {figures}")
    return lines
