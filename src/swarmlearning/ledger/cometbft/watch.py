"""Whether all is well with the child, for people: does it answer, is it level, does it reach a quorum, do blocks come.

It also has the child dial members to whom it is not connected: by itself, CometBFT waits longer and longer after each
failure, up to hours, and never tries again where a peer refused it right after a handshake.

Does not: restart anything (`parts`), or count votes: being connected to more than two thirds of the validators is
needed for blocks, and may not be enough. Spec: docs/spec/ledger-cometbft.md, section 5.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from swarmlearning.errors import SwarmError, Unreachable
from swarmlearning.ledger.cometbft.rpc import Rpc, Status
from swarmlearning.types import TrustDomain, Validator

_LOG: Final = logging.getLogger("swarmlearning.ledger")

STARTING: Final = "CometBFT is starting"


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the child."""

    problem: str
    """What keeps blocks from being made here; "" if nothing does."""
    own: str = ""
    """Its own peer id."""
    peers: frozenset[str] = frozenset()
    """Peer ids of those to whom it is connected."""
    away: tuple[TrustDomain, ...] = ()
    """Members to whose validator it is not connected."""
    behind: bool = False
    """Whether the problem is that it does not hold yet what the others do."""


class Watch:
    """Looks at the child.

    Args:
        rpc: asks it.
        members: who votes, by committed state.
        stalled: why no blocks come though transactions wait, "" if they do.
        dial_s: how often to dial members to whom the child is not connected.
    """

    def __init__(
        self,
        rpc: Rpc,
        members: Callable[[], Mapping[TrustDomain, Validator]],
        stalled: Callable[[], str],
        dial_s: float,
    ) -> None:
        self._rpc = rpc
        self._members = members
        self._stalled = stalled
        self._dial_s = dial_s
        self._sight = Sight(problem=STARTING)
        self._told = ""
        self._dialled_at = asyncio.get_running_loop().time()

    @property
    def sight(self) -> Sight:
        """What was seen last."""
        return self._sight

    def forget(self) -> None:
        """The child starts anew; it dials all members by itself."""
        self._sight = Sight(problem=STARTING)
        self._dialled_at = asyncio.get_running_loop().time()

    async def look(self) -> Sight:
        """Look now."""
        try:
            status, peers = await asyncio.gather(self._rpc.status(), self._rpc.peers())
        except Unreachable as error:
            self._sight = Sight(problem=STARTING if self._sight.problem == STARTING else str(error))
        except SwarmError as error:
            self._sight = Sight(problem=str(error))
        else:
            self._sight = self._judge(status, peers)
            self._tell()
        return self._sight

    def _tell(self) -> None:
        """Say in the log what keeps blocks from being made here, each once, and when nothing does any more."""
        problem = self._sight.problem
        if problem and not self._sight.behind and problem != self._told:
            _LOG.warning("the ledger stands still here: %s", problem)
            self._told = problem
        elif self._told and not problem:
            _LOG.info("nothing keeps the ledger from going on here any more")
            self._told = ""

    async def dial(self) -> None:
        """Have the child dial members to whom it is not connected, if it was not told so a moment ago."""
        now = asyncio.get_running_loop().time()
        if not self._sight.away or now - self._dialled_at < self._dial_s:
            return
        self._dialled_at = now
        try:
            await self._rpc.dial(member for member in self._members().values() if member.peer != self._sight.own)
        except SwarmError as error:
            _LOG.info("CometBFT cannot be told to connect to members: %s", error)

    def _judge(self, status: Status, peers: frozenset[str]) -> Sight:
        members, own = self._members(), status.node_info.id
        here = {domain for domain, member in members.items() if member.peer in peers | {own}}
        need = 2 * len(members) // 3 + 1
        problem, behind = self._stalled(), False
        if len(here) < need:
            away = ", ".join(sorted(members.keys() - here))
            problem = (
                f"{len(here)} of {len(members)} validators are connected here, {need} must be for blocks to be made; "
                f"missing: {away}"
            )
            if own not in {member.peer for member in members.values()}:
                problem += " (this node is no validator's: not admitted yet, or expelled)"
        elif status.sync_info.catching_up:
            problem, behind = f"catching up with the other validators: at block {status.height}", True
        return Sight(problem=problem, own=own, peers=peers, away=tuple(sorted(members.keys() - here)), behind=behind)
