"""Who uses which nodes of the profile: two assignments never use one at once. Spec: docs/spec/swop.md, SW-6."""

import asyncio
from collections.abc import Callable, Iterable

from swarmlearning.types import RunnerName


class Nodes:
    """The nodes of a profile, by idx, and for whom they are at work."""

    def __init__(self) -> None:
        """All are free."""
        self._users: dict[int, tuple[str, RunnerName]] = {}
        self._freed = asyncio.Condition()

    def claim(self, indexes: Iterable[int], user: str, runner: RunnerName) -> None:
        """What was at work for `user`, an assignment of a runner, when the agent was restarted still is."""
        for idx in indexes:
            self._users[idx] = (user, runner)

    async def take(self, indexes: Iterable[int], user: str, runner: RunnerName, tell: Callable[[str], None]) -> None:
        """Use these nodes, all at once, as soon as they are free; `tell` is given what is waited for."""
        wanted = tuple(indexes)
        async with self._freed:
            while busy := [idx for idx in wanted if idx in self._users]:
                tell(f"waits for node {busy[0]}, which is at work for {self._users[busy[0]][1]}")
                await self._freed.wait()
            self.claim(wanted, user, runner)

    async def free_of(self, user: str) -> None:
        """All nodes that are at work for `user` are free."""
        async with self._freed:
            self._users = {idx: by for idx, by in self._users.items() if by[0] != user}
            self._freed.notify_all()
