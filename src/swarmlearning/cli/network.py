"""`swarm network`: found a network and look at its founding file."""

from pathlib import Path

import click

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

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def network() -> None:
    """Found a network, or look at the file that it was founded with."""


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
