"""Whether all is well with the child, for people: does it answer, is it level, does it reach a quorum, do blocks come.

Does not: restart anything (`child`), or count votes: being connected to more than two thirds of the validators is
needed for blocks, and may not be enough. Spec: docs/spec/ledger-cometbft.md, section 5.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from swarmlearning.errors import SwarmError, Unreachable
from swarmlearning.ledger.cometbft.rpc import Rpc
from swarmlearning.types import TrustDomain, Validator

STARTING: Final = "CometBFT is starting"


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What was last seen of the child."""

    problem: str
    """What keeps blocks from being made here; "" if nothing does."""
    peers: frozenset[str] = frozenset()
    """Peer ids of those to whom it is connected."""


class Watch:
    """Looks at the child again and again.

    Args:
        rpc: asks it.
        members: who votes, by committed state.
        stalled: why no blocks come though transactions wait, "" if they do.
        every_s: how often to look.
    """

    def __init__(
        self,
        rpc: Rpc,
        members: Callable[[], Mapping[TrustDomain, Validator]],
        stalled: Callable[[], str],
        every_s: float,
    ) -> None:
        self._rpc = rpc
        self._members = members
        self._stalled = stalled
        self._every_s = every_s
        self._sight = Sight(problem=STARTING)

    @property
    def sight(self) -> Sight:
        """What was seen last."""
        return self._sight

    def forget(self) -> None:
        """The child starts anew."""
        self._sight = Sight(problem=STARTING)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._sight = await self.look()
            # Until it is seen well for the first time, look more often.
            await asyncio.sleep(self._every_s if not self._sight.problem else min(self._every_s, 0.5))

    async def look(self) -> Sight:
        """Look now."""
        try:
            status, peers = await asyncio.gather(self._rpc.status(), self._rpc.peers())
        except Unreachable as error:
            return Sight(problem=STARTING if self._sight.problem == STARTING else str(error))
        except SwarmError as error:
            return Sight(problem=str(error))
        members = self._members()
        here = {domain for domain, member in members.items() if member.peer in peers | {status.node_info.id}}
        need = 2 * len(members) // 3 + 1
        problem = self._stalled()
        if len(here) < need:
            away = ", ".join(sorted(members.keys() - here))
            problem = (
                f"{len(here)} of {len(members)} validators are connected here, {need} must be for blocks to be made; "
                f"missing: {away}"
            )
        elif status.sync_info.catching_up:
            problem = f"catching up with the other validators: at block {status.height}"
        return Sight(problem=problem, peers=peers)
