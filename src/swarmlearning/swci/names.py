"""Names that exist now, for completion: asked of the SN beside whatever is typed, kept for some seconds.

On a connection of its own: a command that is being carried out is never in its way. An SN that is down costs a short
wait for the names, and never a key stroke.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from swarmlearning.contracts.proposals import ProposalState
from swarmlearning.errors import SwarmError
from swarmlearning.sn.client import SnClient
from swarmlearning.swci.contexts import Context
from swarmlearning.swci.session import Session, reach
from swarmlearning.types import NodeName, Role

LIMIT_S: Final = 1.0
"""How long completion waits for names, seconds; they are asked for on."""

ASK_S: Final = 5.0
"""How long they are asked for at most."""

KEPT_S: Final = 5.0
"""How long an answer, or that there is none, counts as new."""

_NEVER: Final = float("-inf")

MAX_NAMES: Final = 500
"""Most that are offered of a kind."""


async def _agents(client: SnClient) -> Sequence[str]:
    names = [NodeName.parse(node.node) for node in (await client.directory()).nodes]
    return [name.short for name in names if name.role is Role.SWOP]


async def _tasks(client: SnClient) -> Sequence[str]:
    return [task.name for task in await client.tasks()]


async def _proposals(client: SnClient) -> Sequence[str]:
    proposals = (await client.governance()).proposals
    return [str(proposal.number) for proposal in proposals if proposal.state is ProposalState.OPEN]


QUESTIONS: Final[Mapping[str, Callable[[SnClient], Awaitable[Sequence[str]]]]] = {
    "agents": _agents,
    "contracts": SnClient.contracts,
    "proposals": _proposals,
    "runners": SnClient.runners,
    "tasks": _tasks,
}
"""What is asked of the SN, by the source of `values.Kind`."""


class Names:
    """Names for completion, of a session's current context."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: dict[tuple[str, str], tuple[float, Sequence[str]]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def get(self, source: str) -> Sequence[str]:
        """All names of a source that are known within `LIMIT_S` seconds; none where it cannot be asked."""
        try:
            book = self._session.book
            if source == "contexts":
                return [context.name for context in book.contexts]
            context = self._session.context
        except SwarmError:
            return ()
        if source == "variables":
            return list(context.variables)
        if source not in QUESTIONS:
            return ()
        return await self._ask(source, context)

    def expire(self) -> None:
        """A command was carried out: what was asked before it may be true no more."""
        for task in self._asking.values():
            task.cancel()
        self._asking = {}
        self._kept = {key: (_NEVER, names) for key, (_, names) in self._kept.items()}

    async def close(self) -> None:
        """Ask no further."""
        tasks = list(self._asking.values())
        self.expire()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, source: str, context: Context) -> Sequence[str]:
        key = (source, context.name)
        asked_s, names = self._kept.get(key, (_NEVER, ()))
        if asyncio.get_running_loop().time() - asked_s < KEPT_S:
            return names
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._fetch(key, context))
        # Who types on does not end the question: its answer will be wanted again.
        await asyncio.wait([self._asking[key]], timeout=LIMIT_S)
        return self._kept.get(key, (_NEVER, names))[1]

    async def _fetch(self, key: tuple[str, str], context: Context) -> None:
        source, _ = key
        _, names = self._kept.get(key, (_NEVER, ()))
        try:
            async with asyncio.timeout(ASK_S), reach(self._session.source_of(context), context.sn) as client:
                names = tuple(await QUESTIONS[source](client))[:MAX_NAMES]
        except (SwarmError, TimeoutError):
            pass  # what is wrong, the command itself will say
        self._kept[key] = (asyncio.get_running_loop().time(), names)
        self._asking.pop(key, None)
