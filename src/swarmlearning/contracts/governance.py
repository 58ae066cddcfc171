"""Members decide who belongs to them: proposals, votes, leaving. Spec: docs/spec/membership.md, M-9 to M-17.

One vote an organisation, counted among those that are members when it is counted. What a change does is in `changes`.
"""

from typing import assert_never

from msgspec.structs import replace

from swarmlearning.contracts import changes, membership
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.limits import clean_text
from swarmlearning.contracts.messages import (
    GovernanceMessage,
    LeaveNetwork,
    Propose,
    RotateValidator,
    Vote,
    Withdraw,
)
from swarmlearning.contracts.proposals import (
    MAX_CLOSED,
    MAX_LASTS_MS,
    MAX_OPEN,
    MIN_LASTS_MS,
    AnyChange,
    Docket,
    ExpelOrganisation,
    Proposal,
    ProposalState,
    hash_change,
)
from swarmlearning.encoding import encode
from swarmlearning.types import Code, Role, TrustDomain

_DOCKET = "meta/proposals"


def proposal_key(number: int) -> str:
    """State key of a proposal."""
    return f"proposal/{number:016d}"


def load_docket(state: State) -> Docket:
    """Which proposals there are."""
    return membership.load_record(state, _DOCKET, Docket) or Docket()


def load_proposal(state: State, number: int) -> Proposal | None:
    """A proposal; None if there never was one of that number, or it is forgotten."""
    return membership.load_record(state, proposal_key(number), Proposal)


def list_open(state: State) -> list[Proposal]:
    """Open proposals, by number."""
    found = (load_proposal(state, number) for number in load_docket(state).open)
    return [proposal for proposal in found if proposal is not None]


def list_proposals(state: State) -> list[Proposal]:
    """All that are kept: the open ones, then the closed ones, the newest of each first."""
    docket = load_docket(state)
    numbers = (*reversed(docket.open), *reversed(docket.closed))
    found = (load_proposal(state, number) for number in numbers)
    return [proposal for proposal in found if proposal is not None]


# --- counting -------------------------------------------------------------------------------------------------------


def electorate(change: AnyChange, members: set[TrustDomain]) -> set[TrustDomain]:
    """M-9: whose votes count: every member's, but not that of who is to be expelled."""
    return members - {change.domain} if isinstance(change, ExpelOrganisation) else members


def votes_needed(change: AnyChange, members: set[TrustDomain]) -> int:
    """M-9: more than two thirds of the electorate; to expel, two votes at least."""
    needed = 2 * len(electorate(change, members)) // 3 + 1
    return max(2, needed) if isinstance(change, ExpelOrganisation) else needed


def is_sufficient(proposal: Proposal, members: set[TrustDomain]) -> bool:
    """Whether the votes for it suffice."""
    return len(set(proposal.yes) & electorate(proposal.change, members)) >= votes_needed(proposal.change, members)


def is_hopeless(proposal: Proposal, members: set[TrustDomain]) -> bool:
    """Whether it would not suffice either if all voted for it that have not voted."""
    possible = electorate(proposal.change, members) - set(proposal.no)
    return len(possible) < votes_needed(proposal.change, members)


# --- messages -------------------------------------------------------------------------------------------------------


def govern(state: State, context: Context, message: GovernanceMessage) -> None:
    """M-9: SN and operator nodes speak for their organisation.

    Raises:
        Rejected: another role, or the message cannot be carried out.
    """
    membership.require_role(context, Role.SN, Role.OPERATOR)
    _settle(state, context)
    match message:
        case Propose():
            _propose(state, context, message)
        case Vote():
            _vote(state, context, message)
        case Withdraw():
            _withdraw(state, context, message)
        case LeaveNetwork():
            changes.check_departure(state, context, context.name.domain)
            changes.remove_member(state, context, context.name.domain, expelled=False)
        case RotateValidator():
            changes.check_rotation(state, context, context.name.domain, message.validator)
            changes.rotate_validator(state, context, context.name.domain, message.validator)
        case _:
            assert_never(message)
    _settle(state, context)


def _propose(state: State, context: Context, message: Propose) -> None:
    """M-10: a proposal is about something that could be done now; its proposer votes for it."""
    proposer, change = context.name.domain, message.change
    if not MIN_LASTS_MS <= message.lasts_ms <= MAX_LASTS_MS:
        raise Rejected(
            Code.MALFORMED, f"proposal open for {message.lasts_ms} ms: expected {MIN_LASTS_MS} to {MAX_LASTS_MS}"
        )
    if isinstance(change, ExpelOrganisation) and change.domain == proposer:
        raise Rejected(Code.CONFLICT, f"{proposer} need not expel itself: it may leave, alone (swarm network leave)")
    changes.check_change(state, context, change)
    members = _members(state)
    if votes_needed(change, members) > len(electorate(change, members)):
        raise Rejected(Code.CONFLICT, f"two votes are needed to expel {change.domain}, and nobody else could cast them")
    waiting = list_open(state)
    same = [proposal.number for proposal in waiting if proposal.change == change]
    if same:
        raise Rejected(Code.CONFLICT, f"proposal {same[0]} says the same: vote on it")
    if sum(proposal.proposer == proposer for proposal in waiting) >= MAX_OPEN:
        raise Rejected(Code.CONFLICT, f"{proposer} has {MAX_OPEN} open proposals, the most there can be: withdraw one")
    docket = load_docket(state)
    proposal = Proposal(
        number=docket.next,
        change=change,
        proposer=proposer,
        reason=clean_text(message.reason),
        yes=(proposer,),
        opened_height=context.height,
        opened_ms=context.time_ms,
        expires_ms=context.time_ms + message.lasts_ms,
    )
    state.put(proposal_key(proposal.number), encode(proposal))
    state.put(_DOCKET, encode(replace(docket, next=docket.next + 1, open=(*docket.open, proposal.number))))


def _vote(state: State, context: Context, message: Vote) -> None:
    """M-9: the last vote of an organisation counts."""
    proposal = _require_open(state, message.proposal)
    voter = context.name.domain
    if hash_change(proposal.change) != message.change:
        raise Rejected(Code.CONFLICT, f"proposal {proposal.number} is not the change that the vote names: look again")
    if voter not in electorate(proposal.change, _members(state)):
        raise Rejected(Code.NOT_ALLOWED, f"{voter} has no vote on its own expulsion")
    yes, no = set(proposal.yes) - {voter}, set(proposal.no) - {voter}
    (yes if message.yes else no).add(voter)
    state.put(proposal_key(proposal.number), encode(replace(proposal, yes=tuple(sorted(yes)), no=tuple(sorted(no)))))


def _withdraw(state: State, context: Context, message: Withdraw) -> None:
    proposal = _require_open(state, message.proposal)
    if proposal.proposer != context.name.domain:
        raise Rejected(Code.NOT_ALLOWED, f"proposal {proposal.number} is {proposal.proposer}'s to withdraw")
    _close(state, context, proposal, ProposalState.WITHDRAWN, f"by {proposal.proposer}")


def _require_open(state: State, number: int) -> Proposal:
    proposal = load_proposal(state, number)
    if proposal is None:
        raise Rejected(Code.NOT_FOUND, f"there is no proposal {number}")
    if proposal.state is not ProposalState.OPEN:
        raise Rejected(Code.STALE, f"proposal {number} is {proposal.state.value}: {proposal.outcome}")
    return proposal


def _members(state: State) -> set[TrustDomain]:
    return {member.domain for member in membership.list_organisations(state)}


# --- deciding -------------------------------------------------------------------------------------------------------


def _settle(state: State, context: Context) -> None:
    """M-10: close what is decided, by number; after each, for members may be others then, all anew."""
    closed = True
    while closed:
        # Once for all: each member may have several open, and every message of governance looks at all of them.
        members = _members(state)
        closed = any(_decide(state, context, proposal, members) for proposal in list_open(state))


def _decide(state: State, context: Context, proposal: Proposal, members: set[TrustDomain]) -> bool:
    """Whether the proposal was closed."""
    if proposal.proposer not in members:
        return _close(state, context, proposal, ProposalState.WITHDRAWN, f"{proposal.proposer} is no member any more")
    kept = replace(
        proposal,
        yes=tuple(domain for domain in proposal.yes if domain in members),
        no=tuple(domain for domain in proposal.no if domain in members),
    )
    if kept != proposal:
        # Else the votes of who was expelled would count again if it is admitted again.
        state.put(proposal_key(proposal.number), encode(kept))
    if context.time_ms >= proposal.expires_ms:
        return _close(state, context, kept, ProposalState.EXPIRED, "its time is over")
    if is_sufficient(kept, members):
        return _carry_out(state, context, kept, members)
    if is_hopeless(kept, members):
        return _close(state, context, kept, ProposalState.REJECTED, "the votes that are left do not suffice")
    return False


def _carry_out(state: State, context: Context, proposal: Proposal, members: set[TrustDomain]) -> bool:
    try:
        changes.check_change(state, context, proposal.change)
    except Rejected as rejected:
        # The state holds no text that another release, or another version of a library, may word otherwise.
        why = f"it cannot be carried out any more: {rejected.code.name.lower().replace('_', ' ')}"
        return _close(state, context, proposal, ProposalState.FAILED, why)
    count = f"{len(proposal.yes)} of {len(electorate(proposal.change, members))} voted for it"
    _close(state, context, proposal, ProposalState.CARRIED, count)
    changes.make_change(state, context, proposal.change)
    return True


def _close(state: State, context: Context, proposal: Proposal, how: ProposalState, outcome: str) -> bool:
    closed = replace(
        proposal,
        state=how,
        closed_height=context.height,
        closed_ms=context.time_ms,
        outcome=clean_text(outcome),
    )
    state.put(proposal_key(proposal.number), encode(closed))
    docket = load_docket(state)
    kept = (*docket.closed, proposal.number)
    for number in kept[:-MAX_CLOSED]:
        state.delete(proposal_key(number))
    still = tuple(number for number in docket.open if number != proposal.number)
    state.put(_DOCKET, encode(replace(docket, open=still, closed=kept[-MAX_CLOSED:])))
    return True
