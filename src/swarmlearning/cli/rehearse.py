"""`swarm rehearse`: one round and a few faults on purpose, over the network that runs, before the training begins."""

import os
import sys

import click

from swarmlearning.cli import examples
from swarmlearning.clock import parse_duration
from swarmlearning.encoding import to_json
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.rehearsal.perform import Plan, Rehearsal
from swarmlearning.rehearsal.report import describe_beginning, describe_end, describe_finding
from swarmlearning.rehearsal.script import DRILLS, GRACE_MS, LEASE_MS, Finding
from swarmlearning.rehearsal.session import RehearsalSession, WaitMemory, memory_logger
from swarmlearning.types import check_contract_name

PREFIX = "rehearsal/"
DEFAULT = "rehearsal/network"
MAX_MEGABYTES = 1000
MAX_PEERS = 256
MAX_NAME = 90
"""Of the roll call's contract; that of the rounds is longer, and a contract's name has at most 128 characters."""


@click.command(epilog=examples("swarm rehearse --sl sl/control --peers 3", "swarm rehearse --peers 2 --drills none"))
@click.option("--sl", metavar="DIR", envvar="SWARM_SL", show_envvar=True, help="Control directory of this site's SL.")
@click.option("--peers", type=int, required=True, metavar="N", help="How many sites rehearse.")
@click.option(
    "--contract",
    default=DEFAULT,
    show_default=True,
    metavar="NAME",
    help="Where the sites meet; begins with rehearsal/. May be used again and again.",
)
@click.option(
    "--drills",
    default=",".join(DRILLS),
    show_default=True,
    metavar="LIST",
    help="Which faults are tried: any of slow, cut, kill; or none.",
)
@click.option("--megabytes", type=int, default=4, show_default=True, metavar="N", help="Size of the made-up model.")
@click.option("--wait", default="5m", show_default=True, metavar="TIME", help="How long to wait for the other sites.")
@click.option("--json", "as_json", is_flag=True, help="What was found, as JSON.")
def rehearse(sl: str | None, peers: int, contract: str, drills: str, megabytes: int, wait: str, as_json: bool) -> int:
    """Rehearse a training: a plain round, then rounds with faults on purpose, over the running network.

    Run the same command at every site at the same time, each beside its own SL, which stays as it is: only the
    rehearsal's own contract is touched, and trainings that run go on. Exits 0 if the network is ready, else 1.
    """
    plan = check_arguments(peers, contract, drills, megabytes, wait)
    if not sl:
        raise ConfigurationError("no SL to rehearse with: name its control directory (--sl, or SWARM_SL)")
    memory = WaitMemory(sys.stderr)
    logger = memory_logger(memory)
    environ = {**os.environ, "SWARM_SL": sl, "SWARM_LOOPBACK": ""}

    def say(text: str) -> None:
        if not as_json:
            click.echo(text)

    def tell(finding: Finding) -> None:
        say("\n" + describe_finding(finding))

    say(describe_beginning(peers, plan.contract, megabytes, LEASE_MS, GRACE_MS))
    rehearsal = Rehearsal(
        plan,
        lambda config: RehearsalSession(config, environ=environ, logger=logger),
        limit=memory.limit,
        tell=tell,
    )
    rehearsed = rehearsal.run()
    if as_json:
        click.echo(to_json(rehearsed).decode())
    say("\n" + describe_end(rehearsed))
    return int(ExitCode.OK if rehearsed.ready else ExitCode.FAILED)


def check_arguments(peers: int, contract: str, drills: str, megabytes: int, wait: str) -> Plan:
    """A command line that can work.

    Raises:
        ConfigurationError: it cannot; the message says why.
    """
    if not 2 <= peers <= MAX_PEERS:
        raise ConfigurationError(f"--peers {peers}: expected 2 to {MAX_PEERS} sites")
    if not 1 <= megabytes <= MAX_MEGABYTES:
        raise ConfigurationError(f"--megabytes {megabytes}: expected 1 to {MAX_MEGABYTES}")
    if not contract.startswith(PREFIX):
        raise ConfigurationError(f"--contract {contract}: a rehearsal's name begins with {PREFIX}")
    if len(contract) > MAX_NAME:
        raise ConfigurationError(f"--contract {contract[:40]}…: at most {MAX_NAME} characters, as more is added to it")
    asked = [part.strip() for part in drills.split(",") if part.strip()]
    unknown = [part for part in asked if part not in (*DRILLS, "none")]
    if unknown or not asked or ("none" in asked and len(asked) > 1):
        raise ConfigurationError(f"--drills {drills}: expected none, or any of {', '.join(DRILLS)}")
    return Plan(
        peers=peers,
        contract=check_contract_name(contract),
        drills=tuple(kind for kind in DRILLS if kind in asked),
        megabytes=megabytes,
        wait_s=parse_duration(wait),
    )
