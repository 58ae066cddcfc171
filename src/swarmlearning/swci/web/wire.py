"""What the REST service says besides the commands' own answers: lines for existing clients, and events."""

from collections.abc import Mapping
from typing import Final

import msgspec

from swarmlearning.types import ContractName, RunnerName, TaskName


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The lines that a command said, as existing clients read them."""

    content: list[str] = msgspec.field(name="CONTENT")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is told as a server-sent event, by its name in `EVENT_NAMES`."""


class Changed(Event, frozen=True, kw_only=True):
    """What changed on the ledger up to and with a block; the first one names nothing."""

    height: int
    contracts: tuple[ContractName, ...] = ()
    tasks: tuple[TaskName, ...] = ()
    taskrunners: tuple[RunnerName, ...] = ()
    members: bool = False
    """Organisations or nodes."""
    proposals: bool = False
    problem: str = ""
    """What keeps the SN from following the ledger; empty while nothing does."""


class Gap(Event, frozen=True, kw_only=True):
    """Changes up to and with a block were missed: look at everything again."""

    height: int


class Silent(Event, frozen=True, kw_only=True):
    """The SN does not answer; it is asked again until it does."""

    height: int
    """Of the last block that it told of."""
    reason: str


class Ended(Event, frozen=True, kw_only=True):
    """The service ends the stream."""

    reason: str


EVENT_NAMES: Final[Mapping[type[Event], str]] = {Changed: "change", Gap: "gap", Silent: "silent", Ended: "end"}
