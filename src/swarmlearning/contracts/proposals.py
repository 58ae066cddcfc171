"""What members decide together, and what is kept of it: changes, proposals, seats, offences. Spec: membership.md.

Records only; who may propose and when votes suffice is in `governance`, what a change does in `changes`.
"""

import enum
from typing import Final, Literal, assert_never

from swarmlearning.encoding import Record, encode, sha256
from swarmlearning.types import Role, TrustDomain, Validator

DAY_MS: Final = 86_400_000

DEFAULT_LASTS_MS: Final = 14 * DAY_MS
"""How long a proposal stays open where its proposer says nothing else, by block time."""

MIN_LASTS_MS: Final = DAY_MS // 24
MAX_LASTS_MS: Final = 90 * DAY_MS

MAX_OPEN: Final = 5
"""Most open proposals of one organisation."""

MAX_CLOSED: Final = 100
"""Closed proposals that are kept; the one that was closed first gives way."""

MAX_ORGANISATIONS: Final = 256
"""Most members that a network grows to."""

MAX_ISSUER_BYTES: Final = 32 * 1024
"""Most bytes that the authorities of one organisation may have in a proposal, together."""

MAX_RETIRED: Final = 16
"""Validator keys of one organisation that are kept after it gave them up."""

EVIDENCE_BLOCKS: Final = 100_000
EVIDENCE_MS: Final = 2 * DAY_MS
"""A key that was given up may still be accused until both have passed: as the engine judges evidence."""

MAX_OFFENCES: Final = 64
"""Offences that are kept; the oldest gives way. All are in the blocks."""


# --- changes --------------------------------------------------------------------------------------------------------


class Change(Record, frozen=True, kw_only=True, tag=True):
    """Base of what can be proposed; the class name is the tag."""

    domain: TrustDomain
    """Whom it is about."""


class AdmitOrganisation(Change, frozen=True, kw_only=True):
    """A new member."""

    issuers: tuple[bytes, ...]
    """Its CA certificates (DER), rising, each once."""
    roles: tuple[Role, ...] = tuple(Role)
    """In the order of `Role`, each once."""
    validator: Validator | None = None
    """Who votes for it on blocks; None where a sentinel orders."""


class ExpelOrganisation(Change, frozen=True, kw_only=True):
    """A member no longer."""


class ReplaceValidator(Change, frozen=True, kw_only=True):
    """Another validator votes for it."""

    validator: Validator


class ReplaceIssuers(Change, frozen=True, kw_only=True):
    """Other authorities issue its certificates."""

    issuers: tuple[bytes, ...]
    """CA certificates (DER), rising, each once."""


class ChangeRoles(Change, frozen=True, kw_only=True):
    """Its nodes may hold these roles."""

    roles: tuple[Role, ...]
    """In the order of `Role`, each once."""


class RevokeForeign(Change, frozen=True, kw_only=True):
    """A certificate of it does not count any more, though it has not revoked it itself."""

    fingerprint: bytes
    """SHA-256 of the certificate, DER."""


AnyChange = AdmitOrganisation | ExpelOrganisation | ReplaceValidator | ReplaceIssuers | ChangeRoles | RevokeForeign


def hash_change(change: AnyChange) -> bytes:
    """What a vote names besides the number: SHA-256 of the change, so that it counts for nothing else."""
    return sha256(encode(change))


def describe_change(change: AnyChange) -> str:
    """What is proposed, in a few words."""
    match change:
        case AdmitOrganisation():
            return f"admit {change.domain}"
        case ExpelOrganisation():
            return f"expel {change.domain}"
        case ReplaceValidator():
            return f"another validator for {change.domain}"
        case ReplaceIssuers():
            return f"other CA certificates for {change.domain}"
        case ChangeRoles():
            return f"{change.domain} may hold the roles {', '.join(change.roles)}"
        case RevokeForeign():
            return f"revoke the certificate {change.fingerprint.hex()[:16]} of {change.domain}"
        case _:
            assert_never(change)


# --- proposals ------------------------------------------------------------------------------------------------------


class ProposalState(enum.StrEnum):
    """What has become of a proposal."""

    OPEN = "open"  # votes count
    CARRIED = "carried"  # enough voted for it, and it was carried out
    REJECTED = "rejected"  # so many voted against it that the others are not enough
    EXPIRED = "expired"  # its time passed
    WITHDRAWN = "withdrawn"  # by who proposed it, or because that organisation is no member any more
    FAILED = "failed"  # enough voted for it, but it could not be carried out any more


class Proposal(Record, frozen=True, kw_only=True):
    """A change that members vote on."""

    number: int
    """From 1, in the order of proposing; never given twice."""
    change: AnyChange
    proposer: TrustDomain
    reason: str
    """For people."""
    yes: tuple[TrustDomain, ...]
    """Sorted; of members only while it is open."""
    no: tuple[TrustDomain, ...] = ()
    opened_height: int
    opened_ms: int
    """Block time, milliseconds since the epoch."""
    expires_ms: int
    """From this block time on no vote counts."""
    state: ProposalState = ProposalState.OPEN
    closed_height: int = 0
    closed_ms: int = 0
    outcome: str = ""
    """Why it was closed, for people."""


class Docket(Record, frozen=True, kw_only=True):
    """Which proposals there are."""

    next: int = 1
    open: tuple[int, ...] = ()
    """Rising."""
    closed: tuple[int, ...] = ()
    """In the order in which they were closed."""


# --- what outlives membership ---------------------------------------------------------------------------------------


class Departed(Record, frozen=True, kw_only=True):
    """An organisation that was a member."""

    domain: TrustDomain
    revoked: tuple[bytes, ...]
    """What it had revoked: valid again if it is admitted again."""
    height: int
    expelled: bool
    """False: it left."""


class Seat(Record, frozen=True, kw_only=True):
    """A validator key, and for whom it votes or voted."""

    domain: TrustDomain
    retired_height: int | None = None
    """Since when it votes no more; None while it does."""
    retired_ms: int = 0
    """Block time."""


class Offence(Record, frozen=True, kw_only=True):
    """A validator broke the rules of consensus; the engine verified the evidence."""

    number: int
    """From 1."""
    kind: Literal["duplicate_vote", "light_client_attack"]
    domain: TrustDomain
    """For whom the key voted; empty where nobody knows any more."""
    address: bytes
    """Of the validator, 20 bytes."""
    height: int
    """When it happened."""
    time_ms: int
    recorded_height: int
    """Of the block that brought the evidence."""
    recorded_ms: int


_DEEDS: Final = {
    "duplicate_vote": "signed two different votes",
    "light_client_attack": "signed a chain that is not this one",
}


def describe_offence(offence: Offence) -> str:
    """What a validator is accused of, in a few words."""
    who = offence.domain or f"an organisation that nobody knows any more ({offence.address.hex()})"
    return f"the validator of {who} {_DEEDS[offence.kind]} at height {offence.height}"
