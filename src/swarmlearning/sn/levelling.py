"""Waiting, before an SN on CometBFT registers, until it holds what the others do.

Does not: compare anything with a ticket (`tickets`), or say who is away: the engine tells the log.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from swarmlearning.errors import WaitExpired
from swarmlearning.types import TrustDomain

_LOOK_S: Final = 0.05


class Levelled(Protocol):
    """What is needed of an engine."""

    @property
    def height(self) -> int:
        """Of the last block that is committed here."""
        ...

    @property
    def problem(self) -> str:
        """What keeps it from taking part, for people."""
        ...


async def until_level(ledger: Levelled, is_member: Callable[[], bool], domain: TrustDomain, limit_s: float) -> None:
    """Wait until nothing keeps an SN from taking part, and its organisation is a member by its state.

    CometBFT judges what an SN submits by what this SN holds: a registration made earlier would be refused. A member
    waits for the others without limit, as it does later whenever too many are away: founders start when they can.

    Args:
        ledger: the engine.
        is_member: whether the SN's organisation is one, by what is committed here.
        domain: that organisation.
        limit_s: how long who is no member waits to become one.

    Raises:
        WaitExpired: it is no member after that time; says why, and what to do.
    """
    clock = asyncio.get_running_loop().time
    end_s = clock() + limit_s
    while True:
        member = is_member()
        if member and not ledger.problem:
            return
        if not member and clock() > end_s:
            why = ledger.problem or f"{domain} is no member at block {ledger.height}: have it admitted"
            raise WaitExpired(f"the SN of {domain} waited {limit_s:g} s to register: {why}")
        await asyncio.sleep(_LOOK_S)
