"""Errors as the REST service tells them: problem documents (RFC 9457), a status for each kind. Spec: CI-27.

Does not: tell anything of a fault of our own but that there was one.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec

from swarmlearning.errors import (
    Broken,
    Closed,
    ConfigurationError,
    IdentityError,
    NotFound,
    PeerError,
    Refused,
    SwarmError,
    Unreachable,
    WaitExpired,
)
from swarmlearning.reports.status import make_printable
from swarmlearning.swci.running import ERROR

MEDIA_TYPE: Final = "application/problem+json"

INTERNAL: Final = "the REST service failed: an internal error, see its log"
"""All that is told of a fault of ours."""

_MAX_DETAIL: Final = 4000
"""Longest detail, characters."""

_REFUSED: Final[Mapping[str, int]] = {
    "not_found": 404,
    "not-found": 404,
    "conflict": 409,
    "stale": 409,
    "expired": 409,
    "replayed": 409,
    "not_allowed": 403,
    "role": 403,
    "foreign-organisation": 403,
    "certificate": 502,
    "unknown-method": 502,
    "internal": 502,
    "busy": 429,
}
"""Status by the code of a refusal by the ledger or an SN. Whose certificate is refused there, or who speaks another
release, is the service and not its caller."""

_OTHERWISE_REFUSED: Final = 422


class WebRefusal(SwarmError):
    """The service itself refuses a request; the message is for people, `code` for programs."""

    def __init__(self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error for programs and people (RFC 9457); `type` is about:blank, so that the status says the kind."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """One line: what was expected, what was got, what to do."""
    code: str
    """For programs; stable."""
    content: list[str] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="CONTENT")
    """The same as existing clients of `/exec` and `/uploadTaskDef` read it."""


def problem_of(error: SwarmError, *, compatible: bool = False) -> Problem:
    """What a client is told of an error; with `compatible`, existing clients are too."""
    status = status_of(error)
    if is_ours(error):
        return internal_problem(compatible=compatible)
    code = error.code if isinstance(error, Refused | WebRefusal) else type(error).__name__
    return _make(status, code, make_printable(str(error))[:_MAX_DETAIL] or code, compatible)


def internal_problem(*, compatible: bool = False) -> Problem:
    """What a client is told of a fault of ours: nothing but where to look."""
    return _make(500, "internal", INTERNAL, compatible)


def is_ours(error: SwarmError) -> bool:
    """Whether it is a fault of ours, or of our identity, of which callers are told only that there was one."""
    return isinstance(error, Broken | IdentityError)


def _make(status: int, code: str, detail: str, compatible: bool) -> Problem:
    lines = [ERROR + detail] if compatible else msgspec.UNSET
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, content=lines)


def status_of(error: SwarmError) -> int:
    """The HTTP status that tells an error's kind."""
    match error:
        case WebRefusal():
            return error.status
        case NotFound():
            return 404
        case IdentityError() | Broken():
            return 500
        case ConfigurationError():
            return 400
        case Refused():
            return _REFUSED.get(error.code, _OTHERWISE_REFUSED)
        case PeerError():  # the SN is not whom it must be, or sent what it must not
            return 502
        case WaitExpired():
            return 504
        case Unreachable():
            return 502
        case Closed():
            return 503
        case _:
            return 500
