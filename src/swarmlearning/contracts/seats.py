"""Validators' keys, for whom each votes or voted, and what they did wrong. Spec: membership.md, M-13 and M-16.

A key that was given up is remembered while the engine may still bring evidence against it.
"""

from typing import Literal

from msgspec.structs import replace

from swarmlearning.contracts import membership
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.limits import check_endpoint
from swarmlearning.contracts.proposals import (
    EVIDENCE_BLOCKS,
    EVIDENCE_MS,
    MAX_OFFENCES,
    MAX_RETIRED,
    Offence,
    Seat,
)
from swarmlearning.encoding import decode, encode
from swarmlearning.types import Code, TrustDomain, Validator

_PREFIX = "validator/"
_OFFENCES = "meta/offences"


def seat_key(address: bytes) -> str:
    """State key of a validator's seat, by address."""
    return f"{_PREFIX}{address.hex()}"


def load_seat(state: State, address: bytes) -> Seat | None:
    """For whom a validator votes or voted; None if nobody knows."""
    return membership.load_record(state, seat_key(address), Seat)


def take_seat(state: State, domain: TrustDomain, validator: Validator) -> None:
    """From now on `validator` votes for `domain`; the caller has seen that it may."""
    state.put(seat_key(validator.address), encode(Seat(domain=domain)))


def give_up_seat(state: State, context: Context, validator: Validator) -> None:
    """M-13: a validator votes no more; its key is remembered, and keys given up long ago are forgotten."""
    seat = load_seat(state, validator.address)
    if seat is not None:
        retired = replace(seat, retired_height=context.height, retired_ms=context.time_ms)
        state.put(seat_key(validator.address), encode(retired))
    for key in list(state.keys(_PREFIX)):
        old = membership.load_record(state, key, Seat)
        if old is not None and _is_past(old, context):
            state.delete(key)


def _is_past(seat: Seat, context: Context) -> bool:
    """Whether the engine takes no evidence any more against a key that was given up then."""
    if seat.retired_height is None:
        return False
    return context.height - seat.retired_height > EVIDENCE_BLOCKS and context.time_ms - seat.retired_ms > EVIDENCE_MS


def check_validator(state: State, context: Context, domain: TrustDomain, validator: Validator) -> None:
    """M-13: a validator's key was never anybody's, its peer id is nobody else's, and `domain` has not had too many.

    Its address follows M-5.

    Raises:
        Rejected: one of these does not hold.
    """
    check_endpoint(validator.endpoint)
    seat = load_seat(state, validator.address)
    if seat is not None:
        state_of = "is" if seat.retired_height is None else "was"
        raise Rejected(Code.CONFLICT, f"this validator key {state_of} {seat.domain}'s; make a new one")
    for member in membership.list_organisations(state):
        if member.domain != domain and member.validator is not None and member.validator.peer == validator.peer:
            raise Rejected(Code.CONFLICT, f"the peer id {validator.peer} is {member.domain}'s; make a new node key")
    seats = (membership.load_record(state, key, Seat) for key in state.keys(_PREFIX))
    retired = [s for s in seats if s and s.domain == domain and s.retired_height is not None]
    if sum(not _is_past(seat, context) for seat in retired) >= MAX_RETIRED:
        raise Rejected(
            Code.CONFLICT, f"{domain} has given up {MAX_RETIRED} validator keys that may still be accused; wait"
        )


def record_offence(
    state: State,
    *,
    kind: Literal["duplicate_vote", "light_client_attack"],
    address: bytes,
    happened: tuple[int, int],
    recorded: tuple[int, int],
) -> Offence:
    """M-16: write down that a validator broke the rules of consensus.

    Args:
        state: of the block.
        kind: what it did.
        address: of the validator.
        happened: height and block time in milliseconds.
        recorded: height and block time in milliseconds of the block that brings the evidence.
    """
    number = count_offences(state) + 1
    seat = load_seat(state, address)
    offence = Offence(
        number=number,
        kind=kind,
        domain=seat.domain if seat is not None else TrustDomain(""),
        address=address,
        height=happened[0],
        time_ms=happened[1],
        recorded_height=recorded[0],
        recorded_ms=recorded[1],
    )
    state.put(_offence_key(number), encode(offence))
    state.put(_OFFENCES, encode(number))
    return offence


def _offence_key(number: int) -> str:
    return f"offence/{number % MAX_OFFENCES:02d}"


def count_offences(state: State) -> int:
    """How many there have been."""
    data = state.get(_OFFENCES)
    return 0 if data is None else decode(data, int)


def list_offences(state: State, most: int = MAX_OFFENCES) -> list[Offence]:
    """The newest `most` that are kept, the oldest first."""
    count = count_offences(state)
    numbers = range(max(1, count + 1 - min(most, MAX_OFFENCES)), count + 1)
    found = (membership.load_record(state, _offence_key(number), Offence) for number in numbers)
    return [offence for offence in found if offence is not None]
