"""What changes on the ledger, named for those who follow all of it: one set of names for each reader.

A reader that is slow gets one notice for several blocks; it never misses a name, and never makes this grow: where more
has changed than `MAX_NAMED` it is told that everything may have.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Final

from swarmlearning.sn.api import Changes
from swarmlearning.sn.application import Committed
from swarmlearning.types import ContractName, RunnerName, TaskName

MAX_NAMED: Final = 1000
"""Most contracts, tasks and taskrunners that one notice names."""

_CONTRACT: Final = "training"
_TASKS: Final = ("task", "body")
_RUNNER: Final = "runner"
_APPROVAL: Final = "approval"
_MEMBERS: Final = ("org", "node")
_GOVERNANCE: Final = ("proposal", "meta/proposals", "offence")


def _what(key: str) -> str:
    """What kind of thing a state key stands for."""
    return key if key.startswith("meta/") else key.partition("/")[0]


class Reader:
    """What has changed since one reader was told last."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._named: set[tuple[str, str]] = set()
        """(kind, name) of contracts, tasks and runners."""
        self._members = self._proposals = False
        self._everything = True

    def add(self, named: Iterable[tuple[str, str]], *, members: bool, proposals: bool) -> None:
        """A block changed this."""
        self._named.update(named)
        self._members |= members
        self._proposals |= proposals
        if self._everything or len(self._named) > MAX_NAMED:
            self._everything = True
            self._named.clear()
        self._news.set()

    def add_everything(self) -> None:
        """Anything may have changed."""
        self._everything = True
        self._named.clear()
        self._news.set()

    async def wait(self, limit_s: float) -> None:
        """Until there is something to tell, at most `limit_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._news.wait()

    def take(self, height: int, problem: str) -> Changes:
        """What there is to tell, as of a height; it counts as told."""
        named = sorted(self._named)
        notice = Changes(
            height=height,
            contracts=tuple(ContractName(name) for kind, name in named if kind == _CONTRACT),
            tasks=tuple(TaskName(name) for kind, name in named if kind in _TASKS),
            runners=tuple(RunnerName(name) for kind, name in named if kind == _RUNNER),
            members=self._members,
            proposals=self._proposals,
            everything=self._everything,
            problem=problem,
        )
        self._named.clear()
        self._members = self._proposals = self._everything = False
        self._news.clear()
        return notice


class Feed:
    """All readers."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """A reader from now on; what is there already it is told to look at, with everything."""
        reader = Reader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def tell(self, block: Committed) -> None:
        """A block was committed."""
        if not self._readers:
            return
        named: set[tuple[str, str]] = set()
        members = proposals = False
        for key in block.keys:
            what = _what(key)
            if what in (_CONTRACT, _RUNNER, *_TASKS):
                # A body is its task's: one name for both.
                named.add((_TASKS[0] if what in _TASKS else what, key.partition("/")[2]))
            elif what == _APPROVAL:
                # approval/<organisation>/<task>: the task's name may have more `/`.
                named.add((_TASKS[0], key.split("/", 2)[2]))
            members |= what in _MEMBERS
            proposals |= what in _GOVERNANCE
        if named or members or proposals:
            for reader in self._readers:
                reader.add(named, members=members, proposals=proposals)

    def tell_everything(self) -> None:
        """The state was replaced as a whole."""
        for reader in self._readers:
            reader.add_everything()
