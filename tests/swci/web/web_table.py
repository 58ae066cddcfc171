"""A small table of commands with every kind of argument and of ending, for the REST service's own tests."""

import asyncio
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from swarmlearning.contracts.messages import CreateContract
from swarmlearning.errors import (
    Broken,
    Closed,
    ConfigurationError,
    DecodeError,
    IdentityError,
    InvalidName,
    NotFound,
    Refused,
    SwarmError,
    Unreachable,
    VerificationError,
    WaitExpired,
)
from swarmlearning.swci.commands import files, session
from swarmlearning.swci.entries import Entry, Route, Shown, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command, RawLine
from swarmlearning.types import ContractName, TaskName

ERRORS: Final[dict[str, tuple[SwarmError, int]]] = {
    "CONFIGURATION": (ConfigurationError("nothing of this kind"), 400),
    "NAME": (InvalidName("an odd name"), 400),
    "IDENTITY": (IdentityError("key /secret/place"), 500),
    "MISSING": (NotFound("there is none"), 404),
    "LEDGERMISSING": (Refused("no such task", code="not_found"), 404),
    "CONFLICT": (Refused("another body", code="conflict"), 409),
    "STALE": (Refused("another run", code="stale"), 409),
    "NOTALLOWED": (Refused("sl may not", code="not_allowed"), 403),
    "ROLE": (Refused("needs sn", code="role"), 403),
    "BUSY": (Refused("too many", code="busy"), 429),
    "MALFORMED": (Refused("too long", code="malformed"), 422),
    "ELSE": (Refused("because"), 422),
    "OURS": (Refused("our certificate was revoked", code="certificate"), 502),
    "UNREACHABLE": (Unreachable("SN 10.0.0.1:30304 does not answer"), 502),
    "EXPIRED": (WaitExpired("waited for r1"), 504),
    "LIAR": (VerificationError("another SN"), 502),
    "GARBAGE": (DecodeError("no answer"), 502),
    "CLOSED": (Closed("stops"), 503),
    "BROKEN": (Broken("a detail of the disk"), 500),
}
"""By what FAIL is told: what is raised, and the status that tells it."""


class LookAt(Command, frozen=True, kw_only=True):
    """`LOOK AT`."""

    contract: ContractName
    most: int = 10


class Give(Command, frozen=True, kw_only=True):
    """`GIVE`."""

    task: TaskName
    peers: int
    kind: Literal["SMALL", "LARGE"] = "SMALL"
    note: str | None = None


class Append(Command, frozen=True, kw_only=True):
    """`APPEND TO`."""

    task: TaskName
    line: RawLine


class Fail(Command, frozen=True, kw_only=True):
    """`FAIL`."""

    how: str


class Wait(Command, frozen=True, kw_only=True):
    """`WAIT HERE`."""

    seconds: int


class Sign(Command, frozen=True, kw_only=True):
    """`SIGN`."""

    contract: ContractName


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at."""

    contract: ContractName
    most: int
    peers: tuple[str, ...] = ()


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What was given."""

    task: TaskName
    peers: int
    kind: Literal["SMALL", "LARGE"]
    note: str | None


async def look_at(_session: Session, command: LookAt) -> Looked:
    return Looked(contract=command.contract, most=command.most)


async def give(session: Session, command: Give) -> Given:
    session.tell(f"giving {command.peers}")
    return Given(task=command.task, peers=command.peers, kind=command.kind, note=command.note)


async def append(_session: Session, command: Append) -> str:
    return command.line


async def fail(_session: Session, command: Fail) -> None:
    if command.how in ERRORS:
        raise ERRORS[command.how][0]
    raise ZeroDivisionError(f"a secret: {command.how}")


async def wait(session: Session, command: Wait) -> None:
    session.tell("WAITING")
    await asyncio.sleep(command.seconds)


async def sign(session: Session, command: Sign) -> int:
    return await (await session.submitter()).require(CreateContract(contract=command.contract))


def _lines(answer: object) -> Shown:
    return Shown((str(answer),))


def _none(_answer: None) -> Shown:
    return Shown()


TABLE: Final[Sequence[Entry]] = (
    make_entry(
        "LOOK AT <contract> [<most>]",
        LookAt,
        look_at,
        _lines,
        topic="Contracts",
        help="Look.",
        example="LOOK AT heart/2026 5",
        route=Route("GET", "/contracts/{contract}/look"),
    ),
    make_entry(
        "GIVE <task> <peers> [<kind>] [<note>]",
        Give,
        give,
        _lines,
        topic="Tasks",
        help="Give.",
        example="GIVE build 3 LARGE",
        route=Route("POST", "/tasks/{task}/gifts"),
    ),
    make_entry(
        "APPEND TO <task> <line...>",
        Append,
        append,
        _lines,
        topic="Tasks",
        help="Append.",
        example="APPEND TO build   RUN pip install x",
        route=Route("PUT", "/tasks/{task}/line"),
    ),
    make_entry(
        "FAIL <how>",
        Fail,
        fail,
        _none,
        topic="Session",
        help="Fail.",
        example="FAIL CONFLICT",
        route=Route("POST", "/failures"),
    ),
    make_entry(
        "WAIT HERE <seconds>",
        Wait,
        wait,
        _none,
        topic="Session",
        help="Wait.",
        example="WAIT HERE 5",
        waits=True,
        route=Route("POST", "/waits"),
    ),
    make_entry(
        "SIGN <contract>",
        Sign,
        sign,
        _lines,
        topic="Contracts",
        help="Sign.",
        example="SIGN heart",
        signs=True,
        route=Route("POST", "/contracts/{contract}"),
    ),
    *files.COMMANDS,
    *session.COMMANDS,
)
