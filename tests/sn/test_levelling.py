"""An SN on CometBFT waits for the other members before it registers."""

import asyncio

import pytest

from swarmlearning.errors import WaitExpired
from swarmlearning.sn.levelling import until_level
from swarmlearning.types import TrustDomain

A = TrustDomain("a.example")


class Ledger:
    """Too few validators are connected for the first `looks` looks."""

    height = 7

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def problem(self) -> str:
        self.looks -= 1
        return "2 of 4 validators are connected here" if self.looks >= 0 else ""


def test_a_founder_waits_for_the_others_longer_than_any_limit() -> None:
    ledger = Ledger(3)
    asyncio.run(until_level(ledger, lambda: True, A, -1))
    assert ledger.looks == -1


@pytest.mark.parametrize(
    ("looks", "why"),
    [(9, "2 of 4 validators are connected here"), (0, "a.example is no member at block 7: have it admitted")],
)
def test_who_is_no_member_is_told_after_a_while(looks: int, why: str) -> None:
    with pytest.raises(WaitExpired, match=f"waited -1 s to register: {why}"):
        asyncio.run(until_level(Ledger(looks), lambda: False, A, -1))
