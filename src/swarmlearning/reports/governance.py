"""What `swarm network proposals` and its kin show. Asks nobody.

Texts that members set are made printable here, once.
"""

import msgspec

from swarmlearning.contracts.governance import electorate, votes_needed
from swarmlearning.contracts.proposals import (
    AdmitOrganisation,
    Proposal,
    ProposalState,
    ReplaceIssuers,
    ReplaceValidator,
    describe_change,
    describe_offence,
)
from swarmlearning.identity.verify import fingerprint
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import show_seconds, show_time
from swarmlearning.sn.api import Governance
from swarmlearning.types import TrustDomain


class ProposalReport(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal, for programs."""

    number: int
    state: str
    """As `ProposalState`; `expired` also while no block has closed it yet."""
    kind: str
    domain: TrustDomain
    text: str
    proposer: TrustDomain
    reason: str
    yes: tuple[TrustDomain, ...]
    no: tuple[TrustDomain, ...]
    needed: int | None
    """Votes, by the members now; None of a closed one, of which `outcome` tells."""
    missing: tuple[TrustDomain, ...]
    """Who may still vote, while it is open."""
    outcome: str
    opened_ms: int
    """Milliseconds since the epoch."""
    expires_ms: int
    left_s: int
    """Seconds until it expires, by the SN's clock; 0 where it is closed."""
    closed_height: int
    certificates: tuple[str, ...]
    """SHA-256 of CA certificates that are proposed, hexadecimal: to be compared with what their owner says."""
    validator: str
    """Key of a validator that is proposed, hexadecimal; else empty."""


class OffenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a validator was accused of, for programs."""

    number: int
    domain: TrustDomain
    address: str
    kind: str
    height: int
    time_ms: int
    recorded_height: int
    text: str
    """For people."""


class GovernanceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `swarm network proposals --json` tells."""

    height: int
    members: tuple[TrustDomain, ...]
    proposals: tuple[ProposalReport, ...]
    left_out: int
    offences: tuple[OffenceReport, ...]


def report_proposals(found: Governance) -> GovernanceReport:
    """What an SN tells, for programs."""
    return GovernanceReport(
        height=found.height,
        members=found.members,
        proposals=tuple(report_proposal(proposal, found) for proposal in found.proposals),
        left_out=found.left_out,
        offences=tuple(
            OffenceReport(
                number=offence.number,
                domain=offence.domain,
                address=offence.address.hex(),
                kind=offence.kind,
                height=offence.height,
                time_ms=offence.time_ms,
                recorded_height=offence.recorded_height,
                text=describe_offence(offence),
            )
            for offence in found.offences
        ),
    )


def report_proposal(proposal: Proposal, found: Governance) -> ProposalReport:
    """A proposal, for programs."""
    change = proposal.change
    issuers = change.issuers if isinstance(change, AdmitOrganisation | ReplaceIssuers) else ()
    validator = change.validator if isinstance(change, AdmitOrganisation | ReplaceValidator) else None
    over = proposal.state is ProposalState.OPEN and found.clock_ms >= proposal.expires_ms
    waiting = proposal.state is ProposalState.OPEN and not over
    voters = electorate(change, set(found.members)) if waiting else set[TrustDomain]()
    return ProposalReport(
        number=proposal.number,
        state=(ProposalState.EXPIRED if over else proposal.state).value,
        kind=type(change).__name__,
        domain=change.domain,
        text=describe_change(change),
        proposer=proposal.proposer,
        reason=make_printable(proposal.reason),
        yes=proposal.yes,
        no=proposal.no,
        needed=votes_needed(change, set(found.members)) if waiting else None,
        missing=tuple(sorted(voters - {*proposal.yes, *proposal.no})),
        outcome=make_printable(proposal.outcome) or ("its time is over" if over else ""),
        opened_ms=proposal.opened_ms,
        expires_ms=proposal.expires_ms,
        left_s=(proposal.expires_ms - found.clock_ms) // 1000 if waiting else 0,
        closed_height=proposal.closed_height,
        certificates=tuple(fingerprint(issuer).hex() for issuer in issuers),
        validator=validator.key.hex() if validator is not None else "",
    )


class Wording(msgspec.Struct, frozen=True, kw_only=True):
    """How the door at which one asks says what else can be done there."""

    vote: str = "swarm network vote"
    """What comes before a proposal's number and `yes|no`."""
    closed: str = "--all shows the closed ones"


def explain_proposal(report: ProposalReport, wording: Wording) -> list[str]:
    """A proposal for people, line by line."""
    lines = [f"proposal {report.number}: {report.text} ({report.state})"]
    lines += [f"  CA       {certificate}" for certificate in report.certificates]
    if report.validator:
        lines.append(f"  votes with {report.validator}")
    lines.append(f"  by       {report.proposer}, {show_time(report.opened_ms)}" + _quote(report.reason))
    yes = f"{', '.join(report.yes) or 'nobody'} ({len(report.yes)} of {report.needed} that are needed)"
    if report.state != ProposalState.OPEN:
        yes = ", ".join(report.yes) or "nobody"
    lines.append(f"  yes      {yes}")
    if report.no:
        lines.append(f"  no       {', '.join(report.no)}")
    if report.state != ProposalState.OPEN:
        closed = f" at height {report.closed_height}" if report.closed_height else ""
        return [*lines, f"  {report.state:<8} {report.outcome}{closed}"]
    return [
        *lines,
        f"  missing  {', '.join(report.missing) or 'nobody'}; {show_seconds(report.left_s)} left",
        f"  vote     {wording.vote} {report.number} yes|no",
    ]


def _quote(reason: str) -> str:
    return f": {reason}" if reason else ""


def describe_proposals(found: GovernanceReport, wording: Wording, *, everything: bool) -> list[str]:
    """What is proposed and who is accused, for people, line by line."""
    lines = [f"members  {len(found.members)}: {', '.join(found.members)}"]
    shown = [p for p in found.proposals if everything or p.closed_height == 0]
    for proposal in shown:
        lines += explain_proposal(proposal, wording)
    closed = len(found.proposals) - len(shown) + found.left_out
    if not shown:
        lines.append("nothing is proposed")
    if closed:
        lines.append(f"{closed} more not shown" + ("" if everything else f"; {wording.closed}"))
    return [*lines, *(f"{offence.text} ({show_time(offence.time_ms)})" for offence in found.offences)]
