"""Members and what they decide together: list, look at, vote, withdraw. Spec: CI-46, CI-47.

Does not: propose. That needs files of certificates: `swarm network propose`.
"""

from typing import Final, Literal

from msgspec.structs import replace

from swarmlearning.reports.governance import (
    GovernanceReport,
    ProposalReport,
    Wording,
    describe_proposals,
    explain_proposal,
    report_proposal,
    report_proposals,
)
from swarmlearning.reports.topology import MEMBER_COLUMNS, MemberReport, member_cells, report_members
from swarmlearning.sn.api import Governance
from swarmlearning.sn.asking import cast_vote, find_proposal, withdraw_proposal
from swarmlearning.swci.entries import Entry, Grid, Route, Shown, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command, ProposalNumber

_WORDING: Final = Wording(vote="VOTE", closed="LIST PROPOSALS ALL shows the closed ones")


class ListProposals(Command, frozen=True, kw_only=True):
    """`LIST PROPOSALS`."""

    which: Literal["OPEN", "ALL"] = "OPEN"


class GetProposalInfo(Command, frozen=True, kw_only=True):
    """`GET PROPOSAL INFO`."""

    number: ProposalNumber


class CastVote(Command, frozen=True, kw_only=True):
    """`VOTE`."""

    number: ProposalNumber
    choice: Literal["YES", "NO"]


class WithdrawProposal(Command, frozen=True, kw_only=True):
    """`WITHDRAW PROPOSAL`."""

    number: ProposalNumber


class ListMembers(Command, frozen=True, kw_only=True):
    """`LIST MEMBERS`."""


async def list_proposals(session: Session, command: ListProposals) -> GovernanceReport:
    """What is proposed, and what validators have been accused of.

    Raises:
        SwarmError: see `Session.sn`.
    """
    report = report_proposals(await (await session.sn()).governance())
    if command.which == "ALL":
        return report
    waiting = tuple(proposal for proposal in report.proposals if not proposal.closed_height)
    return replace(report, proposals=waiting, left_out=report.left_out + len(report.proposals) - len(waiting))


def _show_proposals(report: GovernanceReport) -> Shown:
    everything = any(proposal.closed_height for proposal in report.proposals)
    return Shown(tuple(describe_proposals(report, _WORDING, everything=everything)), folds=True)


async def get_proposal(session: Session, command: GetProposalInfo) -> ProposalReport:
    """A proposal, who has voted and who may still.

    Raises:
        NotFound: there is no such proposal; the message names the open ones.
        SwarmError: see `Session.sn`.
    """
    return _find(await (await session.sn()).governance(), command.number)


async def cast(session: Session, command: CastVote) -> ProposalReport:
    """Vote for the own organisation, whose last vote counts; the proposal as it stands then.

    Raises:
        NotFound: there is no such proposal; the message names the open ones.
        Refused: the ledger refused it, and says why.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    found = await cast_vote(client, await session.submitter(), command.number, yes=command.choice == "YES")
    return _find(found, command.number)


async def withdraw(session: Session, command: WithdrawProposal) -> ProposalReport:
    """Take back what the own organisation has proposed; the proposal as it stands then.

    Raises:
        Refused: the ledger refused it, and says why.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    return _find(await withdraw_proposal(client, await session.submitter(), command.number), command.number)


def _find(found: Governance, number: int) -> ProposalReport:
    return report_proposal(find_proposal(found, number), found)


def _show_proposal(report: ProposalReport) -> Shown:
    return Shown(tuple(explain_proposal(report, _WORDING)), folds=True)


async def list_members(session: Session, _command: ListMembers) -> tuple[MemberReport, ...]:
    """The organisations of the network.

    Raises:
        SwarmError: see `Session.sn`.
    """
    client = await session.sn()
    return report_members(await client.directory(), await client.status())


def _show_members(members: tuple[MemberReport, ...]) -> Shown:
    return Shown(grid=Grid(MEMBER_COLUMNS, tuple(member_cells(member) for member in members)))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "LIST MEMBERS",
        ListMembers,
        list_members,
        _show_members,
        topic="Membership",
        help="List the organisations of the network, what their nodes may be and how many are registered.",
        example="LIST MEMBERS",
        route=Route("GET", "/members"),
    ),
    make_entry(
        "LIST PROPOSALS [<which>]",
        ListProposals,
        list_proposals,
        _show_proposals,
        topic="Membership",
        help="List what members vote on: OPEN or ALL; one proposes something with swarm network propose.",
        example="LIST PROPOSALS ALL",
        route=Route("GET", "/proposals"),
    ),
    make_entry(
        "GET PROPOSAL INFO <number>",
        GetProposalInfo,
        get_proposal,
        _show_proposal,
        topic="Membership",
        help="Tell what is proposed, by whom, who has voted how, and whose vote is missing.",
        example="GET PROPOSAL INFO 3",
        route=Route("GET", "/proposals/{number}"),
    ),
    make_entry(
        "VOTE <number> <choice>",
        CastVote,
        cast,
        _show_proposal,
        topic="Membership",
        help="Vote on a proposal for the own organisation, YES or NO; its last vote counts.",
        example="VOTE 3 YES",
        route=Route("PUT", "/proposals/{number}/vote"),
        signs=True,
    ),
    make_entry(
        "WITHDRAW PROPOSAL <number>",
        WithdrawProposal,
        withdraw,
        _show_proposal,
        topic="Membership",
        help="Take back what the own organisation has proposed.",
        example="WITHDRAW PROPOSAL 3",
        route=Route("DELETE", "/proposals/{number}"),
        signs=True,
    ),
)
