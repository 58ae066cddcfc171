"""`swarm network proposals|propose|vote|withdraw|leave|rotate`: members decide who belongs to them.

Each speaks to the own organisation's SN, as an operator or SN of it. Rules: docs/spec/membership.md, M-9 to M-17.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from swarmlearning.cli import examples
from swarmlearning.cli.asking import sign_key_option, sn_option
from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import LeaveNetwork, Propose, RotateValidator
from swarmlearning.contracts.proposals import (
    DAY_MS,
    DEFAULT_LASTS_MS,
    MAX_LASTS_MS,
    AdmitOrganisation,
    AnyChange,
    ChangeRoles,
    ExpelOrganisation,
    ReplaceIssuers,
    ReplaceValidator,
    RevokeForeign,
)
from swarmlearning.encoding import to_json
from swarmlearning.errors import ConfigurationError, Refused
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.verify import fingerprint, read_node
from swarmlearning.local.genesis import parse_organisations
from swarmlearning.local.validators import load_card
from swarmlearning.reports.governance import (
    Wording,
    describe_proposals,
    explain_proposal,
    report_proposal,
    report_proposals,
)
from swarmlearning.sn.api import Governance
from swarmlearning.sn.asking import ask_sn, cast_vote, find_proposal, open_submitter, withdraw_proposal
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.types import Role, TrustDomain, Validator, check_label

R = TypeVar("R")

_FILE = click.Path(path_type=Path, dir_okay=False)
_SN = "--sn 10.0.0.1:30304"


def _signing(command: Callable[..., R]) -> Callable[..., R]:
    """The options of a command that signs a message."""
    return identity_options(sn_option(sign_key_option(command)))


def _proposing(command: Callable[..., R]) -> Callable[..., R]:
    """The options of a command that proposes something."""
    decorated = command
    for option in (
        click.option(
            "--days",
            type=click.IntRange(1, MAX_LASTS_MS // DAY_MS),
            default=DEFAULT_LASTS_MS // DAY_MS,
            show_default=True,
            help="How long votes count.",
        ),
        click.option("--reason", default="", help="Why, for the others; at most 200 characters."),
    ):
        decorated = option(decorated)
    return _signing(decorated)


@click.command(epilog=examples(f"swarm network proposals {_SN}", f"swarm network proposals {_SN} --json"))
@identity_options
@sn_option
@click.option("--all", "everything", is_flag=True, help="The closed ones too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, the closed ones too.")
def proposals(identity: PemSource, sn: str, everything: bool, as_json: bool) -> None:
    """Show what is proposed, who has voted, and what validators have been accused of.

    Needs an identity of the SN's own organisation, of any role.
    """
    report = report_proposals(ask_sn(identity, sn, lambda client: client.governance()))
    if as_json:
        click.echo(to_json(report).decode())
        return
    for line in describe_proposals(report, Wording(), everything=everything):
        click.echo(line)


@click.group()
def propose() -> None:
    """Propose to admit or expel an organisation, or to change what is believed of one.

    The proposal counts as a yes of the own organisation; the others vote with swarm network vote. Needs an identity of
    the role operator or sn.
    """


@propose.command(epilog=examples(f"swarm network propose admit {_SN} --organisation d.example=d.ca.pem"))
@_proposing
@click.option(
    "--organisation",
    "organisations",
    required=True,
    multiple=True,
    metavar="DOMAIN=CA.pem",
    help="Its trust domain and the CA that issues its certificates; repeat for each CA. Compare fingerprints first.",
)
@click.option("--validator", type=_FILE, help="Card of its validator (swarm network keys), where validators order.")
@click.option("--roles", help="What its nodes may be, such as sn,sl; default: everything.")
def admit(organisations: tuple[str, ...], validator: Path | None, roles: str | None, **common: Any) -> None:  # noqa: ANN401
    """Propose a new member."""
    members = parse_organisations(organisations)
    if len(members) != 1:
        raise ConfigurationError(f"a proposal admits one organisation, not {', '.join(members)}")
    ((domain, issuers),) = members.items()
    change = AdmitOrganisation(
        domain=domain,
        issuers=tuple(sorted(set(issuers))),
        roles=parse_roles(roles) if roles else tuple(Role),
        validator=load_validator(validator, domain) if validator is not None else None,
    )
    _make_proposal(change, **common)


@propose.command()
@_proposing
@click.argument("domain")
def expel(domain: str, **common: Any) -> None:  # noqa: ANN401
    """Propose that DOMAIN is a member no longer."""
    _make_proposal(ExpelOrganisation(domain=_domain(domain)), **common)


@propose.command("roles")
@_proposing
@click.argument("domain")
@click.argument("roles")
def change_roles(domain: str, roles: str, **common: Any) -> None:  # noqa: ANN401
    """Propose what the nodes of DOMAIN may be, such as sn,sl."""
    _make_proposal(ChangeRoles(domain=_domain(domain), roles=parse_roles(roles)), **common)


@propose.command()
@_proposing
@click.argument("domain")
@click.argument("certificate", type=_FILE, metavar="CERT.pem")
def revoke(domain: str, certificate: Path, **common: Any) -> None:  # noqa: ANN401
    """Propose that a certificate of DOMAIN does not count any more."""
    leaf = read_certificates(certificate, "certificate")[0]
    named = read_node(leaf)
    if named.domain != domain:
        raise ConfigurationError(f"{certificate} is {named.id}'s, not one of {domain}")
    _make_proposal(RevokeForeign(domain=_domain(domain), fingerprint=fingerprint(leaf)), **common)


@propose.command()
@_proposing
@click.argument("domain")
@click.argument("certificates", type=_FILE, nargs=-1, required=True, metavar="CA.pem...")
def issuers(domain: str, certificates: tuple[Path, ...], **common: Any) -> None:  # noqa: ANN401
    """Propose which CAs issue the certificates of DOMAIN, all of them.

    Name the old one beside the new one until all nodes have registered with certificates of the new one.
    """
    found = {der for path in certificates for der in read_certificates(path, "CA certificate")}
    _make_proposal(ReplaceIssuers(domain=_domain(domain), issuers=tuple(sorted(found))), **common)


@propose.command("validator")
@_proposing
@click.argument("domain")
@click.argument("card", type=_FILE, metavar="CARD")
def replace_validator(domain: str, card: Path, **common: Any) -> None:  # noqa: ANN401
    """Propose that another validator votes for DOMAIN."""
    name = _domain(domain)
    _make_proposal(ReplaceValidator(domain=name, validator=load_validator(card, name)), **common)


@click.command(epilog=examples(f"swarm network vote {_SN} 3 yes"))
@_signing
@click.argument("number", type=click.IntRange(1))
@click.argument("choice", type=click.Choice(["yes", "no"]))
def vote(identity: PemSource, sn: str, sign_key: str | None, number: int, choice: str) -> None:
    """Vote on a proposal for the own organisation; its last vote counts."""

    async def question(client: SnClient, submitter: Submitter) -> list[str]:
        return _explain(await cast_vote(client, submitter, number, yes=choice == "yes"), number)

    _say(identity, sn, sign_key, question)


@click.command()
@_signing
@click.argument("number", type=click.IntRange(1))
def withdraw(identity: PemSource, sn: str, sign_key: str | None, number: int) -> None:
    """Take back what the own organisation has proposed."""

    async def question(client: SnClient, submitter: Submitter) -> list[str]:
        return _explain(await withdraw_proposal(client, submitter, number), number)

    _say(identity, sn, sign_key, question)


@click.command()
@_signing
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(identity: PemSource, sn: str, sign_key: str | None, yes: bool) -> None:
    """Leave the network: the own organisation is a member no longer, and its peers leave all trainings.

    To come back it must be admitted again, by the others' vote.
    """
    if not yes:
        click.confirm("Leave the network? Only a vote of the others brings this organisation back", abort=True)

    async def question(_client: SnClient, submitter: Submitter) -> list[str]:
        await submitter.require(LeaveNetwork())
        return ["this organisation has left the network; its nodes can be stopped"]

    _say(identity, sn, sign_key, question)


@click.command()
@_signing
@click.argument("card", type=_FILE, metavar="CARD")
def rotate(identity: PemSource, sn: str, sign_key: str | None, card: Path) -> None:
    """Let another validator vote for the own organisation, alone.

    The validator of the card must run, and follow, before: from two blocks later on the old one does not count.
    """
    own = identity.load(system_clock()).node.domain
    validator = load_validator(card, own)

    async def question(_client: SnClient, submitter: Submitter) -> list[str]:
        await submitter.require(RotateValidator(validator=validator))
        return [f"the validator of {card} votes for {own}"]

    _say(identity, sn, sign_key, question)


COMMANDS: tuple[click.Command, ...] = (proposals, propose, vote, withdraw, leave, rotate)
"""What hangs under `swarm network`."""


# --- what they share ------------------------------------------------------------------------------------------------


def parse_roles(text: str) -> tuple[Role, ...]:
    """Roles as a person writes them, `sn,sl`, in the order of the ledger.

    Raises:
        ConfigurationError: one is unknown.
    """
    known = {role.value for role in Role}
    given = {part.strip() for part in text.split(",") if part.strip()}
    if not given or given - known:
        raise ConfigurationError(f"roles {text!r}: expected some of {', '.join(Role)}, with commas between them")
    return tuple(role for role in Role if role.value in given)


def load_validator(path: Path, domain: TrustDomain) -> Validator:
    """The validator on the card that `domain` handed in (swarm network keys).

    Raises:
        ConfigurationError: it is no card, or another organisation's.
    """
    card = load_card(path)
    if card.domain != domain:
        raise ConfigurationError(f"{path} is the card of {card.domain}, not of {domain}")
    return card.validator


def _domain(text: str) -> TrustDomain:
    return TrustDomain(check_label("trust domain", text))


def _make_proposal(
    change: AnyChange, identity: PemSource, sn: str, sign_key: str | None, days: int, reason: str
) -> None:
    async def question(client: SnClient, submitter: Submitter) -> list[str]:
        await submitter.require(Propose(change=change, reason=reason, lasts_ms=days * DAY_MS))
        found = await client.governance()
        mine = [proposal for proposal in found.proposals if proposal.change == change]
        if not mine:
            raise Refused("the proposal is on the ledger, but this SN does not show it: swarm network proposals")
        return _explain(found, mine[-1].number)

    _say(identity, sn, sign_key, question)


def _explain(found: Governance, number: int) -> list[str]:
    return explain_proposal(report_proposal(find_proposal(found, number), found), Wording())


def _say(
    identity: PemSource,
    sn: str,
    sign_key: str | None,
    question: Callable[[SnClient, Submitter], Awaitable[list[str]]],
) -> None:
    node = identity.load(system_clock()).node
    if node.role not in (Role.OPERATOR, Role.SN):
        raise ConfigurationError(
            f"{node.short} has the role {node.role.value}, expected operator or sn: give an operator's certificate "
            "(swarm cert issue --role operator)"
        )

    async def signed(client: SnClient) -> list[str]:
        return await question(client, await open_submitter(client, identity, sign_key))

    for line in ask_sn(identity, sn, signed):
        click.echo(line)
