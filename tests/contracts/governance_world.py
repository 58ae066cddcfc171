"""Organisations that vote on who belongs to them, over signed transactions. Organisation `n` speaks as `op(n)`."""

from chain_world import Chain, authority, member, validator_of

from swarmlearning.contracts import membership
from swarmlearning.contracts.governance import load_docket, load_proposal
from swarmlearning.contracts.messages import AnyMessage, LeaveNetwork, Propose, RotateValidator, Vote, Withdraw
from swarmlearning.contracts.proposals import (
    DEFAULT_LASTS_MS,
    AdmitOrganisation,
    AnyChange,
    ExpelOrganisation,
    Proposal,
    ProposalState,
    hash_change,
)
from swarmlearning.contracts.records import Organisation
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.sn.state import Overlay
from swarmlearning.types import Code, NodeName, Role, TrustDomain


def org(index: int) -> TrustDomain:
    return member(index).domain


def op(index: int) -> NodeName:
    return member(index, Role.OPERATOR)


def admission(index: int, *, voting: bool = False) -> AdmitOrganisation:
    validator = validator_of(index) if voting else None
    return AdmitOrganisation(domain=org(index), issuers=(authority(org(index)),), validator=validator)


class Parliament:
    """Members, each with a registered operator."""

    def __init__(self, members: int, *, voting: bool = False) -> None:
        self.chain = Chain(members, voting=voting)
        self.chain.register(*map(op, range(members)))

    @property
    def state(self) -> Overlay:
        return Overlay(self.chain.app.store)

    @property
    def members(self) -> list[TrustDomain]:
        return [organisation.domain for organisation in membership.list_organisations(self.state)]

    def organisation(self, index: int) -> Organisation:
        found = membership.load_organisation(self.state, org(index))
        assert found is not None
        return found

    @property
    def open(self) -> tuple[int, ...]:
        return load_docket(self.state).open

    def proposal(self, number: int) -> Proposal:
        found = load_proposal(self.state, number)
        assert found is not None
        return found

    def standing(self, number: int) -> ProposalState:
        return self.proposal(number).state

    def say(self, who: int, message: AnyMessage, *, step_ms: int = 1000) -> TxResult:
        return self.chain.do(op(who), message, step_ms=step_ms)

    def must(self, who: int, message: AnyMessage) -> None:
        result = self.say(who, message)
        assert result.code is Code.OK, result.log

    def propose(self, who: int, change: AnyChange, *, lasts_ms: int = DEFAULT_LASTS_MS) -> int:
        number = load_docket(self.state).next
        self.must(who, Propose(change=change, lasts_ms=lasts_ms))
        return number

    def refusal(self, who: int, change: AnyChange) -> TxResult:
        result = self.say(who, Propose(change=change))
        assert result.code is not Code.OK
        return result

    def ballot(self, number: int, yes: bool = True) -> Vote:
        return Vote(proposal=number, change=hash_change(self.proposal(number).change), yes=yes)

    def vote(self, number: int, *voters: int, yes: bool = True) -> ProposalState:
        for voter in voters:
            self.must(voter, self.ballot(number, yes))
        return self.standing(number)

    def decide(self, change: AnyChange, *voters: int) -> int:
        """The first of `voters` proposes, the others agree."""
        number = self.propose(voters[0], change)
        self.vote(number, *voters[1:])
        assert self.standing(number) is ProposalState.CARRIED, self.proposal(number).outcome
        return number

    def expel(self, who: int, *voters: int) -> int:
        return self.decide(ExpelOrganisation(domain=org(who)), *voters)

    def leave(self, who: int) -> None:
        self.must(who, LeaveNetwork())

    def rotate(self, who: int, salt: str) -> TxResult:
        return self.say(who, RotateValidator(validator=validator_of(who, salt)))

    def withdraw(self, who: int, number: int) -> TxResult:
        return self.say(who, Withdraw(proposal=number))
