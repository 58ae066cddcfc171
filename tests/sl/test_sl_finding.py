"""Finding or creating a contract when several peers come at once (docs/spec/training.md, T-1)."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from swarmlearning.contracts.records import Training
from swarmlearning.errors import Refused, Unreachable
from swarmlearning.sl import enrolling
from swarmlearning.types import ContractName, TrustDomain

NAME = ContractName("heart")
FOUND = Training(name=NAME, creator=TrustDomain("a.example"), created_height=1)


class World:
    """An SN that shows the contract when it is asked for the `shown`-th time, and a ledger's answer to creating it."""

    def __init__(self, shown: int, refusal: Refused | None = None) -> None:
        self._shown = shown
        self._refusal = refusal
        self.asked = self.created = 0

    async def training(self, _: ContractName) -> Training | None:
        self.asked += 1
        return FOUND if self.asked >= self._shown else None

    async def require(self, _: object) -> None:
        self.created += 1
        if self._refusal is not None:
            raise self._refusal

    def find(self) -> Training:
        desk: Any = SimpleNamespace(contract=NAME, submitter=self)
        sn: Any = self
        return asyncio.run(enrolling.find_contract(desk, sn))


def test_t1_a_contract_that_is_there_is_not_created_again() -> None:
    world = World(1)
    assert (world.find(), world.created) == (FOUND, 0)


@pytest.mark.parametrize("refusal", [None, Refused("it exists already", code="conflict")])
def test_t1_what_another_peer_created_first_is_waited_for_until_our_sn_has_it(refusal: Refused | None) -> None:
    world = World(4, refusal)
    assert (world.find(), world.created, world.asked) == (FOUND, 1, 4)


def test_t1_another_refusal_is_told_at_once() -> None:
    world = World(100, Refused("you may not", code="not_allowed"))
    with pytest.raises(Refused, match="you may not"):
        world.find()
    assert world.asked == 1


def test_t1_the_wait_for_our_sn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "SHOWN_S", 0.01)
    with pytest.raises(Unreachable, match="has not shown contract heart"):
        World(1_000_000).find()
    with pytest.raises(Refused, match="1000 contracts"):
        World(1_000_000, Refused("a.example has 1000 contracts", code="conflict")).find()
