"""What a change of membership asks for before it can be made, and what it makes. Spec: docs/spec/membership.md.

M-11 to M-15. `check_change` says no, also between proposal and decision; `make_change` only makes what was checked.
Does not: count votes (`governance`).
"""

from collections.abc import Iterable
from typing import Final, assert_never

from msgspec.structs import replace

from swarmlearning.contracts import approvals, membership, taskrunners, training
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.proposals import (
    MAX_ISSUER_BYTES,
    MAX_ORGANISATIONS,
    AdmitOrganisation,
    AnyChange,
    ChangeRoles,
    Departed,
    ExpelOrganisation,
    ReplaceIssuers,
    ReplaceValidator,
    RevokeForeign,
)
from swarmlearning.contracts.records import Organisation, Training
from swarmlearning.contracts.seats import check_validator, give_up_seat, take_seat
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import InvalidName, VerificationError
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.identity.verify import MAX_ISSUERS, verify_issuer
from swarmlearning.types import Code, ContractName, NodeId, NodeName, Role, TrustDomain, Validator, check_label

MAX_REVOKED_BY_VOTE: Final = 2 * membership.MAX_REVOKED
"""Most revoked certificates of an organisation when others revoke: it cannot use up the room itself."""

HAND_OVER: Final = "it orders transactions: hand over to another organisation's SN first (swarm network handover)"


def departed_key(domain: TrustDomain) -> str:
    """State key of what is kept of a former member."""
    return f"departed/{domain}"


def load_departed(state: State, domain: TrustDomain) -> Departed | None:
    """What is kept of a former member; None if it never was one, or is one again."""
    return membership.load_record(state, departed_key(domain), Departed)


# --- may it be made? ------------------------------------------------------------------------------------------------


def check_change(state: State, context: Context, change: AnyChange) -> None:
    """M-11 to M-14: whether a change could be made now.

    Raises:
        Rejected: it could not; the log says why, and what to do first.
    """
    if isinstance(change, AdmitOrganisation):
        _check_admission(state, context, change)
        return
    member = require_member(state, change.domain)
    match change:
        case ExpelOrganisation():
            check_departure(state, context, change.domain)
        case ReplaceValidator():
            check_rotation(state, context, change.domain, change.validator)
        case ReplaceIssuers():
            _check_issuers(state, change.domain, change.issuers)
            _check_sentinel_stays(state, context, change)
        case ChangeRoles():
            _check_roles(change.roles)
        case RevokeForeign():
            if len(change.fingerprint) != 32:
                raise Rejected(Code.MALFORMED, f"fingerprint of {len(change.fingerprint)} bytes, expected 32")
            _check_sentinel_stays(state, context, change)
            membership.add_revocation(member, change.fingerprint, MAX_REVOKED_BY_VOTE)
        case _:
            assert_never(change)


def require_member(state: State, domain: TrustDomain) -> Organisation:
    """A member's record.

    Raises:
        Rejected: it is no member.
    """
    member = membership.load_organisation(state, domain)
    if member is None:
        raise Rejected(Code.NOT_FOUND, f"{domain[:80]} is not a member of this network")
    return member


def _check_admission(state: State, context: Context, change: AdmitOrganisation) -> None:
    try:
        check_label("trust domain", change.domain)
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, str(error)) from error
    members = membership.list_organisations(state)
    if any(member.domain == change.domain for member in members):
        raise Rejected(Code.CONFLICT, f"{change.domain} is a member already")
    if len(members) >= MAX_ORGANISATIONS:
        raise Rejected(Code.CONFLICT, f"the network has {len(members)} organisations, the most there can be")
    _check_roles(change.roles)
    _check_issuers(state, change.domain, change.issuers)
    if change.validator is not None:
        check_rotation(state, context, change.domain, change.validator)
    elif is_voting(state):
        raise Rejected(Code.MALFORMED, f"{change.domain} needs a validator: blocks are voted on in this network")


def check_rotation(state: State, context: Context, domain: TrustDomain, validator: Validator) -> None:
    """M-13: whether `validator` may vote for `domain`.

    Raises:
        Rejected: a sentinel orders here, or the key or peer id is in use.
    """
    if not is_voting(state):
        raise Rejected(Code.NOT_ALLOWED, "a sentinel orders in this network: there are no validators")
    check_validator(state, context, domain, validator)


def is_voting(state: State) -> bool:
    """Whether organisations' validators order in this network, and no sentinel."""
    genesis = membership.load_genesis(state)
    return genesis is not None and genesis.ledger == "cometbft"


def check_departure(state: State, context: Context, domain: TrustDomain) -> None:
    """M-11: the last organisation stays, and so does the sentinel's while it is that.

    Raises:
        Rejected: `domain` is one of them.
    """
    if len(membership.list_organisations(state)) < 2:
        raise Rejected(Code.CONFLICT, f"{domain} is the network's last organisation")
    if context.sentinel.startswith(f"spiffe://{domain}/"):
        raise Rejected(Code.CONFLICT, f"{domain} cannot go: {HAND_OVER}")


def _check_roles(roles: tuple[Role, ...]) -> None:
    if list(roles) != [role for role in Role if role in roles]:
        raise Rejected(Code.MALFORMED, f"roles: expected each once, in the order {', '.join(Role)}")
    if Role.SN not in roles:
        raise Rejected(Code.MALFORMED, "roles without sn: every organisation keeps a copy of the ledger")


def _check_issuers(state: State, domain: TrustDomain, issuers: tuple[bytes, ...]) -> None:
    """M-12: authorities that can issue, in one order, and whose keys are no other organisation's authority's."""
    if not 1 <= len(issuers) <= MAX_ISSUERS or list(issuers) != sorted(set(issuers)):
        raise Rejected(Code.MALFORMED, f"CA certificates: expected 1 to {MAX_ISSUERS}, rising, each once")
    if sum(map(len, issuers)) > MAX_ISSUER_BYTES:
        raise Rejected(Code.MALFORMED, f"CA certificates: expected at most {MAX_ISSUER_BYTES} bytes in all")
    try:
        for issuer in issuers:
            verify_issuer(issuer)
        keys = _keys_of(issuers)
    except VerificationError as error:
        raise Rejected(Code.MALFORMED, f"{domain}: {error}") from error
    for member in membership.list_organisations(state):
        if member.domain != domain and keys & _keys_of(member.issuers):
            raise Rejected(
                Code.CONFLICT, f"{domain} and {member.domain} would have the same CA key: each could name the other's"
            )


def _keys_of(issuers: Iterable[bytes]) -> set[bytes]:
    return {parse_certificate(issuer).key_canonical for issuer in issuers}


def _check_sentinel_stays(state: State, context: Context, change: ReplaceIssuers | RevokeForeign) -> None:
    """M-12: nobody would believe the sentinel any more, and nothing could be ordered."""
    node = membership.load_node(state, context.sentinel)
    if node is None or NodeName.parse(node.node).domain != change.domain:
        return
    if isinstance(change, RevokeForeign):
        hit = change.fingerprint in node.certificates
    else:
        hit = node.issuer not in map(sha256, change.issuers)
    if hit:
        raise Rejected(Code.CONFLICT, f"{node.node} could not serve any more, and {HAND_OVER}")


# --- making it ------------------------------------------------------------------------------------------------------


def make_change(state: State, context: Context, change: AnyChange) -> None:
    """M-10: make a change that `check_change` has just passed; of expulsions the rest is `remove_member`."""
    match change:
        case AdmitOrganisation():
            _admit(state, change)
        case ExpelOrganisation():
            remove_member(state, context, change.domain, expelled=True)
        case ReplaceValidator():
            rotate_validator(state, context, change.domain, change.validator)
        case ReplaceIssuers():
            member = require_member(state, change.domain)
            membership.save_organisation(state, replace(member, issuers=change.issuers))
        case ChangeRoles():
            member = require_member(state, change.domain)
            membership.save_organisation(state, replace(member, roles=change.roles))
            if Role.SL not in change.roles:
                _go_on_without(state, context, change.domain, f"{change.domain} may not hold the role sl any more")
            if Role.SWOP not in change.roles:
                reason = f"{change.domain} may not hold the role swop any more"
                taskrunners.go_on_without(state, context, change.domain, reason)
        case RevokeForeign():
            member = require_member(state, change.domain)
            revoked = membership.add_revocation(member, change.fingerprint, MAX_REVOKED_BY_VOTE)
            membership.save_organisation(state, revoked)
        case _:
            assert_never(change)


def _admit(state: State, change: AdmitOrganisation) -> None:
    """A former member gets back what it had revoked, or a certificate revoked once would count again."""
    before = load_departed(state, change.domain)
    record = Organisation(
        domain=change.domain,
        issuers=change.issuers,
        roles=change.roles,
        revoked=before.revoked if before is not None else (),
        validator=change.validator,
    )
    membership.save_organisation(state, record)
    state.delete(departed_key(change.domain))
    if change.validator is not None:
        take_seat(state, change.domain, change.validator)


def rotate_validator(state: State, context: Context, domain: TrustDomain, validator: Validator) -> None:
    """M-13: another validator votes for a member; `check_rotation` has passed."""
    member = require_member(state, domain)
    if member.validator is not None:
        give_up_seat(state, context, member.validator)
    take_seat(state, domain, validator)
    membership.save_organisation(state, replace(member, validator=validator))


def remove_member(state: State, context: Context, domain: TrustDomain, *, expelled: bool) -> None:
    """M-15: a member is one no longer: nor are its nodes, its validator, its peers in trainings, its agents."""
    member = require_member(state, domain)
    departed = Departed(domain=domain, revoked=member.revoked, height=context.height, expelled=expelled)
    state.put(departed_key(domain), encode(departed))
    state.delete(membership.organisation_key(domain))
    if member.validator is not None:
        give_up_seat(state, context, member.validator)
    for key in list(state.keys(membership.node_key(NodeId(f"spiffe://{domain}/")))):
        node = membership.load_node(state, NodeId(key.removeprefix("node/")))
        if node is not None:
            state.delete(membership.signer_key(node.key))
        state.delete(key)
    state.delete(f"count/nodes/{domain}")
    approvals.forget_approvals(state, domain)
    how = "was expelled" if expelled else "left the network"
    _go_on_without(state, context, domain, f"{domain} {how}")
    taskrunners.go_on_without(state, context, domain, f"{domain} {how}")


def _go_on_without(state: State, context: Context, domain: TrustDomain, reason: str) -> None:
    """T-52: in every training the rounds go on without the peers of an organisation."""
    for key in list(state.keys(membership.training_key(ContractName("")))):
        before = membership.load_record(state, key, Training)
        if before is None:
            continue
        gone = {peer.node for peer in before.peers if NodeName.parse(peer.node).domain == domain}
        after = training.go_on_without(before, context, gone, reason)
        if after != before:
            membership.save_training(state, after)
