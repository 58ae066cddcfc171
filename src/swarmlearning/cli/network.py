"""`swarm network`: found a network, join it, look at its founding file, and replace a lost sentinel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import click

from swarmlearning.cli import examples
from swarmlearning.cli.asking import sn_option
from swarmlearning.cli.governance import COMMANDS as GOVERNANCE
from swarmlearning.cli.handover import handover
from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Genesis
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.files import read_file
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import CERT_VARIABLE, PemSource
from swarmlearning.local.genesis import (
    create_genesis,
    describe_genesis,
    describe_tolerance,
    genesis_fingerprint,
    load_genesis,
    parse_organisations,
    read_public_key,
    save_genesis,
)
from swarmlearning.local.joining import Invitation, join_network
from swarmlearning.local.validators import create_voting_genesis, load_card, make_card, save_card
from swarmlearning.sn.asking import ask_sn
from swarmlearning.sn.tickets import decode_ticket, describe_ticket, save_ticket
from swarmlearning.types import SN_P2P_PORT

_FILE = click.Path(path_type=Path, dir_okay=False)
_DATA = click.Path(path_type=Path, file_okay=False)


@click.group()
def network() -> None:
    """Found a network, join it, decide who belongs to it, look at its founding file, or replace a lost sentinel."""


for _command in (handover, *GOVERNANCE):
    network.add_command(_command)


@network.command(
    epilog=examples(
        "swarm network keys --data sn --domain a.example --p2p 192.0.2.1:30303 --out a.validator.json",
    )
)
@click.option("--data", required=True, type=_DATA, metavar="DIR", help="Data directory of this organisation's SN.")
@click.option("--domain", required=True, help="The organisation's trust domain, such as hospital-a.example.")
@click.option(
    "--p2p",
    required=True,
    metavar="HOST[:PORT]",
    help=f"Where the other organisations' SNs reach this one; default port {SN_P2P_PORT}.",
)
@click.option("--out", required=True, type=_FILE, help="Where to write the card, such as a.validator.json.")
@click.option("--force", is_flag=True, help="Replace a card. Keys are never replaced.")
def keys(data: Path, domain: str, p2p: str, out: Path, force: bool) -> None:
    """Make an organisation's keys for a network on CometBFT, and the card that it hands in.

    The card is public. The keys stay in DIR/cometbft; started in two places at once they would sign twice, and the
    others would hold that against the organisation.
    """
    directory = data.expanduser().absolute()
    card = make_card(directory, domain, p2p)
    save_card(out, card, force=force)
    validator = card.validator
    click.echo(f"{card.domain} votes with {validator.key.hex()}, as peer {validator.peer} at {validator.endpoint}")
    click.echo(f"  card  {out}   for whoever puts the founding file together")
    click.echo(f"  keys  {directory / 'cometbft'}   keep them secret, and run them in one place only")


@network.command(
    epilog=examples(
        "swarm network create --name heart --organisation a.example=a.ca.pem --sentinel-cert sn.cert.pem "
        "--sign-key sn.sign.pem --out genesis.bin",
    )
)
@click.option("--name", required=True, help="The network's name, a part of every node's identity.")
@click.option(
    "--organisation",
    "organisations",
    required=True,
    multiple=True,
    metavar="DOMAIN=CA.pem",
    help="A founding organisation: its trust domain and the CA that issues its certificates. Repeat for each.",
)
@click.option(
    "--ledger",
    type=click.Choice(["embedded", "cometbft"]),
    default="embedded",
    show_default=True,
    help="Who orders transactions: one sentinel, or the organisations' validators by more than two thirds.",
)
@click.option("--sentinel-cert", type=_FILE, help="embedded: certificate of the SN that orders transactions.")
@click.option("--sentinel-key-public", type=_FILE, help="embedded: its public signing key (Ed25519, PEM).")
@click.option("--sign-key", type=_FILE, help="embedded, on the sentinel itself: its signing key; made if missing.")
@click.option(
    "--validator",
    "cards",
    multiple=True,
    type=_FILE,
    metavar="CARD.json",
    help="cometbft: an organisation's card (swarm network keys). Repeat for each.",
)
@click.option(
    "--no-fault-tolerance", is_flag=True, help="cometbft: fewer than 4 organisations, none of which may fail."
)
@click.option("--out", required=True, type=_FILE, help="Where to write the founding file, such as genesis.bin.")
@click.option("--force", is_flag=True, help="Replace a founding file. SNs started with the old one cannot follow.")
def create(
    *,
    name: str,
    organisations: tuple[str, ...],
    ledger: Literal["embedded", "cometbft"],
    sentinel_cert: Path | None,
    sentinel_key_public: Path | None,
    sign_key: Path | None,
    cards: tuple[Path, ...],
    no_fault_tolerance: bool,
    out: Path,
    force: bool,
) -> None:
    """Write the founding file of a network.

    Every organisation gets the same file and compares its fingerprint with the others', over the telephone say,
    before it joins with it.
    """
    of_sentinel = {
        "--sentinel-cert": sentinel_cert,
        "--sentinel-key-public": sentinel_key_public,
        "--sign-key": sign_key,
    }
    if ledger == "cometbft":
        _refuse("cometbft, where nobody is the sentinel", of_sentinel)
        genesis = create_voting_genesis(
            network=name,
            organisations=parse_organisations(organisations),
            cards=[load_card(card) for card in cards],
            now_ms=system_clock(),
            no_fault_tolerance=no_fault_tolerance,
        )
    else:
        _refuse(
            "embedded, where no validators vote", {"--validator": cards, "--no-fault-tolerance": no_fault_tolerance}
        )
        genesis = _with_sentinel(name, organisations, sentinel_cert, sentinel_key_public, sign_key)
    save_genesis(out, genesis, force=force)
    click.echo(f"{out}: fingerprint {genesis_fingerprint(genesis).hex()}")
    if ledger == "cometbft":
        click.echo(f"validators: {describe_tolerance(len(genesis.organisations))}")


def _refuse(ledger: str, options: Mapping[str, object]) -> None:
    """Stop where options of the other engine are given: they would have no effect."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigurationError(
            f"{', '.join(given)}: not with the ledger {ledger}; leave it out, or choose another --ledger"
        )


def _with_sentinel(
    name: str,
    organisations: tuple[str, ...],
    sentinel_cert: Path | None,
    sentinel_key_public: Path | None,
    sign_key: Path | None,
) -> Genesis:
    members = parse_organisations(organisations)
    if sentinel_cert is None:
        raise ConfigurationError("give the certificate of the SN that orders transactions, with --sentinel-cert")
    certificates = read_certificates(sentinel_cert, "sentinel certificate")
    if sentinel_key_public is not None and sign_key is None:
        key = read_public_key(sentinel_key_public)
    elif sign_key is not None and sentinel_key_public is None:
        key = SigningKey.load_or_create(sign_key).public
    else:
        raise ConfigurationError("give the sentinel's key by either --sentinel-key-public or --sign-key")
    return create_genesis(
        network=name,
        organisations=members,
        sentinel_certificate=certificates[0],
        sentinel_key=key,
        now_ms=system_clock(),
    )


@network.command()
@click.argument("genesis", type=_FILE)
def show(genesis: Path) -> None:
    """Show whom a founding file names, and its fingerprint."""
    click.echo(describe_genesis(load_genesis(genesis)))


@network.command(epilog=examples("swarm network join --data sn --genesis genesis.bin --cert certs/sn.cert.pem"))
@click.option("--data", required=True, type=_DATA, metavar="DIR", help="Data directory of this organisation's SN.")
@click.option("--genesis", required=True, type=_FILE, help="The network's founding file.")
@click.option(
    "--cert",
    envvar=CERT_VARIABLE,
    show_envvar=True,
    type=_FILE,
    help="Certificate of the SN; on CometBFT the keys in DIR will do.",
)
@click.option("--ticket", type=_FILE, help="Of an organisation that was admitted later: a member's join ticket.")
@click.option("--trust", type=_FILE, metavar="CA.pem", help="With --ticket: the CA of the member who gave it.")
def join(data: Path, genesis: Path, cert: Path | None, ticket: Path | None, trust: Path | None) -> None:
    """Prepare the data directory of an SN for a network that its organisation is a member of.

    Makes sure that the founding file, or else a member's ticket, means this organisation, and on CometBFT these keys,
    puts it into DIR, and says what to do next. Nothing is started, and nobody is asked.
    """
    directory = data.expanduser().absolute()
    certificate = None if cert is None else read_certificates(cert, "certificate")[0]
    invitation: Invitation | None = None
    if ticket is not None and trust is not None:
        invitation = Invitation(
            ticket=read_file(ticket, "join ticket"), issuers=read_certificates(trust, "CA certificate")
        )
    elif ticket is not None or trust is not None:
        raise ConfigurationError("a join ticket needs both: --ticket FILE and --trust CA.pem, the CA of who gave it")
    joined = join_network(directory, genesis, certificate, system_clock(), invitation)
    click.echo(f"{joined.domain} joins {joined.genesis.network}: {joined.part}")
    click.echo(f"  founding file  {directory / 'genesis.bin'}, ledger {joined.genesis.ledger}")
    click.echo(f"  fingerprint    {genesis_fingerprint(joined.genesis).hex()}   compare it with the other founders'")
    if invitation is not None:
        click.echo(f"  ticket         {describe_ticket(decode_ticket(invitation.ticket))}")
    click.echo(f"  next           {joined.command} --cert FILE --key FILE --cacert FILE")


@network.command(
    epilog=examples(
        "swarm network ticket --sn 10.0.0.1:30304 --out ticket.bin --cert operator.cert.pem --key operator.key.pem "
        "--cacert a.ca.pem"
    )
)
@identity_options
@sn_option
@click.option("--out", required=True, type=_FILE, help="Where to write the ticket, such as ticket.bin.")
@click.option("--force", is_flag=True, help="Replace a file.")
def ticket(identity: PemSource, sn: str, out: Path, force: bool) -> None:
    """Ask the own SN for a ticket with which an organisation joins that was admitted after the founding.

    It names the present members and a recent block, signed by the SN, and is good for 48 hours. Give it to the newcomer
    with the founding file and this organisation's CA certificate.
    """
    data = ask_sn(identity, sn, lambda client: client.ticket())
    described = describe_ticket(decode_ticket(data))
    save_ticket(out, data, force=force)
    click.echo(f"{out}: {described}")
