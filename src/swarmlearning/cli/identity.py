"""`swarm ca` and `swarm cert`: a shell over `identity.authority` and `identity.describe`."""

from pathlib import Path

import click
import msgspec

from swarmlearning.cli import examples
from swarmlearning.clock import system_clock
from swarmlearning.encoding import to_json
from swarmlearning.errors import IdentityError, VerificationError
from swarmlearning.identity.authority import (
    CA_CERTIFICATE,
    CA_DAYS,
    CA_KEY,
    LEAF_DAYS,
    Authority,
    create_ca,
    issue_certificate,
    renew_certificate,
)
from swarmlearning.identity.certificate import show_time
from swarmlearning.identity.describe import Description, describe_certificate
from swarmlearning.identity.pem import read_certificates
from swarmlearning.types import NodeName, Role

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_DAYS = click.IntRange(1, 36_500)


@click.group(no_args_is_help=True)
def ca() -> None:
    """Make a certificate authority for one organisation.

    For pilots. An organisation that has an authority of its own uses that; docs/spec/identity.md says what its
    certificates must look like.
    """


@ca.command("init", epilog=examples("swarm ca init --organisation hospital-a.example --out ca"))
@click.option("--organisation", required=True, metavar="DOMAIN", help="The organisation, such as hospital-a.example.")
@click.option("--out", required=True, type=_DIRECTORY, help="Directory to make; keep it to yourself.")
@click.option("--days", type=_DAYS, default=CA_DAYS, show_default=True, help="How long the CA is valid.")
@click.option("--force", is_flag=True, help="Replace a CA. Certificates it issued no longer verify.")
def ca_init(organisation: str, out: Path, days: int, force: bool) -> None:
    """Make a CA: a certificate for everybody to see, and a key for nobody."""
    authority = create_ca(out, organisation, at_ms=system_clock(), days=days, force=force)
    described = describe_certificate(authority.certificate, system_clock())
    click.echo(f"CA of {authority.domain}, valid until {described.not_after}")
    click.echo(f"  certificate  {out / CA_CERTIFICATE}   for the other organisations")
    click.echo(f"  key          {out / CA_KEY}   keep it secret, and keep a copy")
    click.echo(f"  SHA-256      {described.sha256}")
    click.echo(f"`swarm cert issue` puts the same certificate beside the nodes' ones, as {authority.domain}.ca.pem.")


@click.group(no_args_is_help=True)
def cert() -> None:
    """Issue, show and renew node certificates."""


@cert.command(
    "issue",
    epilog=examples(
        "swarm cert issue --ca ca --network heart --role sn --name sn1 --host sn1.hospital-a.example --out certs"
    ),
)
@click.option("--ca", "ca_directory", required=True, type=_DIRECTORY, help="What `swarm ca init` made.")
@click.option("--network", required=True, metavar="NAME", help="The swarm network the node belongs to.")
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]), help="What the node is.")
@click.option("--name", required=True, help="The node's name, unique in its organisation and role.")
@click.option("--host", "hosts", multiple=True, help="DNS name or IP address it is reached at; may be repeated.")
@click.option("--out", required=True, type=_DIRECTORY, help="Directory for the files.")
@click.option("--days", type=_DAYS, default=LEAF_DAYS, show_default=True, help="How long the certificate is valid.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def cert_issue(
    *,
    ca_directory: Path,
    network: str,
    role: str,
    name: str,
    hosts: tuple[str, ...],
    out: Path,
    days: int,
    force: bool,
) -> None:
    """Make a node's key and certificate: NAME.key.pem, NAME.cert.pem, and the CA's DOMAIN.ca.pem beside them."""
    authority = Authority.load(ca_directory)
    node = NodeName(domain=authority.domain, network=network, role=Role(role), name=name)
    issued = issue_certificate(authority, node, hosts, out, at_ms=system_clock(), days=days, force=force)
    click.echo(f"{node.id}, valid until {show_time(issued.not_after_ms)}")
    click.echo(f"  SWARM_ID_CERT={issued.certificate}")
    click.echo(f"  SWARM_ID_KEY={issued.key}")
    click.echo(f"  SWARM_ID_CACERT={issued.issuer}")


@cert.command("show", epilog=examples("swarm cert show certs/*.cert.pem"))
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON list, for programs.")
def cert_show(files: tuple[Path, ...], as_json: bool) -> None:
    """Show what certificates say. They are read, not verified."""
    at_ms = system_clock()
    found = [(path, describe(path, der, at_ms)) for path in files for der in read_certificates(path, "certificate")]
    if as_json:
        click.echo(to_json([{"file": str(path), **msgspec.structs.asdict(described)} for path, described in found]))
        return
    for number, (path, described) in enumerate(found):
        click.echo(("\n" if number else "") + render(path, described))


@cert.command("renew", epilog=examples("swarm cert renew --ca ca certs/sn1.cert.pem"))
@click.argument("file", type=_FILE)
@click.option("--ca", "ca_directory", required=True, type=_DIRECTORY, help="The CA that issued it.")
@click.option("--days", type=_DAYS, default=LEAF_DAYS, show_default=True, help="How long the new one is valid.")
@click.option("--new-key", is_flag=True, help="Make a new key as well; the old one is replaced.")
def cert_renew(*, file: Path, ca_directory: Path, days: int, new_key: bool) -> None:
    """Replace a certificate by one with the same names, and the same key, that ends later.

    Running nodes take it up by themselves. The old certificate stays valid until its end, unless it is revoked.
    """
    authority = Authority.load(ca_directory)
    issued = renew_certificate(authority, file, at_ms=system_clock(), days=days, new_key=new_key)
    click.echo(f"{issued.node.id}, valid until {show_time(issued.not_after_ms)}")
    click.echo(f"  certificate  {issued.certificate}")
    if new_key:
        click.echo(f"  new key      {issued.key}")


def describe(path: Path, der: bytes, at_ms: int) -> Description:
    """Describe a certificate in a file.

    Raises:
        IdentityError: it cannot be read.
    """
    try:
        return describe_certificate(der, at_ms)
    except VerificationError as error:
        raise IdentityError(f"{path}: {error}") from error


def render(path: Path, certificate: Description) -> str:
    """A description as the lines people see."""
    left = certificate.days_left
    rows = [
        ("identity", certificate.identity or "none (not a swarm certificate)"),
        ("organisation", certificate.organisation),
        ("network", certificate.network),
        ("role", "certificate authority" if certificate.kind == "ca" else certificate.role),
        ("key", certificate.key),
        ("valid", f"{certificate.not_before} to {certificate.not_after} ({left} days left)"),
        ("issuer", certificate.issuer),
        ("hosts", ", ".join(certificate.hosts)),
        ("SHA-256", certificate.sha256),
        ("warning", certificate.warning),
    ]
    lines = [f"  {label:<13}{value}" for label, value in rows if value]
    return "\n".join([str(path), *("".join(c if c.isprintable() else "?" for c in line) for line in lines)])
