"""`swarm network`: found a network, look at its founding file, and replace a lost sentinel."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from swarmlearning.cli.governance import COMMANDS as GOVERNANCE
from swarmlearning.clock import system_clock
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.signing import SigningKey
from swarmlearning.local.genesis import (
    create_genesis,
    describe_genesis,
    genesis_fingerprint,
    load_genesis,
    parse_organisations,
    read_public_key,
    save_genesis,
)
from swarmlearning.sn.handing_over import (
    Progress,
    StoppedSn,
    apply_handover,
    describe_handover,
    load_handover,
    propose_handover,
    read_standing,
    sign_handover,
)
from swarmlearning.types import NodeId, NodeName, short_name

R = TypeVar("R")

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def network() -> None:
    """Found a network, look at the file that it was founded with, or replace a lost sentinel."""


@network.command()
@click.option("--name", required=True, help="The network's name, a part of every node's identity.")
@click.option(
    "--organisation",
    "organisations",
    required=True,
    multiple=True,
    metavar="DOMAIN=CA.pem",
    help="A founding organisation: its trust domain and the CA that issues its certificates. Repeat for each.",
)
@click.option("--sentinel-cert", required=True, type=_FILE, help="Certificate of the SN that orders transactions.")
@click.option("--sentinel-key-public", type=_FILE, help="The sentinel's public signing key (Ed25519, PEM).")
@click.option("--sign-key", type=_FILE, help="Instead, on the sentinel itself: its signing key; made if there is none.")
@click.option("--out", required=True, type=_FILE, help="Where to write the founding file, such as genesis.bin.")
@click.option("--force", is_flag=True, help="Replace a founding file. SNs started with the old one cannot follow.")
def create(
    name: str,
    organisations: tuple[str, ...],
    sentinel_cert: Path,
    sentinel_key_public: Path | None,
    sign_key: Path | None,
    out: Path,
    force: bool,
) -> None:
    """Write the founding file of a network with the embedded ledger.

    Every organisation gets the same file and compares its fingerprint with the others', over the telephone say,
    before it starts its SN with it.
    """
    members = parse_organisations(organisations)
    certificates = read_certificates(sentinel_cert, "sentinel certificate")
    if sentinel_key_public is not None and sign_key is None:
        key = read_public_key(sentinel_key_public)
    elif sign_key is not None and sentinel_key_public is None:
        key = SigningKey.load_or_create(sign_key).public
    else:
        raise ConfigurationError("give the sentinel's key by either --sentinel-key-public or --sign-key")
    genesis = create_genesis(
        network=name,
        organisations=members,
        sentinel_certificate=certificates[0],
        sentinel_key=key,
        now_ms=system_clock(),
    )
    save_genesis(out, genesis, force=force)
    click.echo(f"{out}: fingerprint {genesis_fingerprint(genesis).hex()}")


@network.command()
@click.argument("genesis", type=_FILE)
def show(genesis: Path) -> None:
    """Show whom a founding file names, and its fingerprint."""
    click.echo(describe_genesis(load_genesis(genesis)))


@network.group()
def handover() -> None:
    """Replace a sentinel that is lost for good, with the signatures of a majority of the SNs.

    All remaining SNs are stopped; the one with the highest block proposes; each adds its signature to the file that
    goes round; the new sentinel applies it and is started without --sentinel, all others with --sentinel and its
    address. See docs/how-to/replace-the-sentinel.md.
    """


def _stopped_sn(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that name a stopped SN's files, which `command` gets as `stopped`."""

    # `Any`: click passes whatever other options the command has.
    @functools.wraps(command)
    def with_sn(*args: Any, data: Path, genesis: Path, sign_key: Path | None, **others: Any) -> R:  # noqa: ANN401
        directory = data.expanduser().absolute()
        key = sign_key if sign_key is not None else directory / "signing.key"
        return command(*args, stopped=StoppedSn(data=directory, genesis=genesis, sign_key=key), **others)

    decorated: Callable[..., R] = with_sn
    for option in (
        click.option("--sign-key", type=_FILE, help="Its Ed25519 key; default DIR/signing.key."),
        click.option("--genesis", required=True, type=_FILE, help="The network's founding file."),
        click.option(
            "--data",
            required=True,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Data directory of this SN, which must not run.",
        ),
    ):
        decorated = option(decorated)
    return decorated


@handover.command()
@_stopped_sn
def standing(stopped: StoppedSn) -> None:
    """Show where a stopped SN stands: the one with the highest block is to propose."""
    click.echo(read_standing(stopped))


@handover.command()
@_stopped_sn
@click.option("--to", "sentinel", metavar="NODE", help="Node id of the new sentinel; default: this SN.")
@click.option("--number", type=click.IntRange(1), help="Number of the handover; default: the next one.")
@click.option("--out", required=True, type=_FILE, help="Where to write the proposal, such as handover.bin.")
def propose(stopped: StoppedSn, sentinel: str | None, number: int | None, out: Path) -> None:
    """Propose a new sentinel from this SN's next block on, and sign the proposal."""
    chosen: NodeId | None = NodeName.parse(sentinel).id if sentinel is not None else None
    _show(propose_handover(stopped, chosen, number, out), out)


@handover.command()
@click.argument("file", type=_FILE)
@_stopped_sn
def sign(file: Path, stopped: StoppedSn) -> None:
    """Add this SN's signature to a proposal.

    Refused where this SN has another block at that height, stands higher (then it is to propose), or signed another
    handover of that number. From then on this SN takes no block of the old sentinel beyond the proposal's.
    """
    _show(sign_handover(stopped, file), file)


@handover.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@_stopped_sn
def apply(files: tuple[Path, ...], stopped: StoppedSn) -> None:
    """Go by a handover that a majority signed, at the new sentinel; several copies' signatures are counted together."""
    done = apply_handover(stopped, files).signed.handover
    click.echo(
        f"from block {done.height + 1} on {short_name(NodeId(done.sentinel))} orders: start that SN without "
        "--sentinel, all others with --sentinel and its address"
    )


@handover.command("show")
@click.argument("file", type=_FILE)
def show_handover(file: Path) -> None:
    """Show what a handover's file says; nothing in it is verified."""
    click.echo(describe_handover(load_handover(file)))


def _show(progress: Progress, file: Path) -> None:
    click.echo(describe_handover(progress.signed))
    needed = len(progress.voters) // 2 + 1
    missing = [short_name(node) for node in progress.voters if node not in progress.signers]
    state = f"{len(progress.signers)} of {len(progress.voters)} SNs have signed, {needed} are needed"
    if progress.has_majority:
        click.echo(f"{state}: send {file} to the new sentinel, to apply it")
    else:
        click.echo(f"{state}: send {file} on; not yet signed by {', '.join(missing)}")


for _command in GOVERNANCE:
    network.add_command(_command)
