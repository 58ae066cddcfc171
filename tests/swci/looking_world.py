"""Commands against SNs in this process: a real one with real contracts, and one that is played.

The real one orders alone; whom it serves are nodes of organisation 0, and the other organisations' transactions are put
into its blocks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from archive_world import HERE, SN, Registry
from chain_world import NETWORK, key_of, member
from contracts_world import BIG, HOME, settings
from rich.console import Console

from swarmlearning.contracts.messages import AnyMessage, Enrol, Propose, Vote
from swarmlearning.contracts.proposals import AnyChange, hash_change
from swarmlearning.contracts.records import RoundSummary, Training
from swarmlearning.errors import Unreachable
from swarmlearning.sn.api import Directory, Presence, Status
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.swci.contexts import IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory as Folder
from swarmlearning.swci.running import Done, run_line, write_lines
from swarmlearning.swci.session import Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, ContractName, NodeName, Role

T = TypeVar("T")

OPERATOR = member(0, Role.OPERATOR)
STUDY = ContractName("study")


class Said:
    """What a command says while it goes on, and the terminal on which it may draw."""

    def __init__(self, console: Console | None = None) -> None:
        self.lines: list[str] = []
        self.console = console
        self.spoke = asyncio.Event()

    def tell(self, line: str) -> None:
        self.lines.append(line)
        self.spoke.set()


class Desk(Session):
    """A session that speaks to an SN in this process, as one of its nodes."""

    def __init__(self, client: SnClient, who: NodeName = OPERATOR, *, root: Path, said: Said | None = None) -> None:
        self.said = said or Said()
        super().__init__(contexts=MemoryContexts(), directory=Folder(root), output=self.said, identity=IdentityPaths())
        self._asked = client
        self._who = who

    async def sn(self) -> SnClient:
        return self._asked

    async def submitter(self, also: tuple[Role, ...] = ()) -> Submitter:
        return Submitter(self._asked, NETWORK, key_of(self._who))

    async def run(self, line: str) -> Done:
        done = await run_line(COMMANDS, self, line)
        assert done is not None
        return done

    async def lines(self, line: str) -> list[str]:
        """What a script gets."""
        return write_lines(await self.run(line))


class Network:
    """A real SN of organisation 0 in a network of some."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self.registry = registry
        self.root = root

    def desk(self, who: NodeName = OPERATOR) -> Desk:
        return Desk(self.registry.client(who), who, root=self.root)

    async def must(self, who: NodeName, message: AnyMessage) -> None:
        """A transaction of any organisation's node."""
        ((_, result),) = await self.registry.order(self.registry.sign(who, message))
        assert result.code is Code.OK, result.log

    async def enrol(self, *peers: int, contract: ContractName = STUDY) -> None:
        for peer in peers:
            message = Enrol(
                contract=contract, run=1, settings=settings(), manifest=BIG, min_peers=2, weight=1, endpoint=HOME
            )
            await self.must(member(peer), message)

    async def propose(self, who: int, change: AnyChange, reason: str = "") -> None:
        await self.must(member(who, Role.OPERATOR), Propose(change=change, reason=reason))

    async def vote(self, who: int, number: int, change: AnyChange) -> None:
        await self.must(member(who, Role.OPERATOR), Vote(proposal=number, change=hash_change(change), yes=True))


def on_a_network(root: Path, work: Callable[[Network], Awaitable[T]], organisations: int = 3) -> T:
    """What `work` comes to, with SL, SN and operator of every organisation registered."""

    async def main() -> T:
        async with Registry.open(organisations) as registry:
            names = [member(index, role) for index in range(organisations) for role in (Role.SL, Role.OPERATOR)]
            await registry.register(SN, *names)
            return await asyncio.wait_for(work(Network(registry, root)), 60)

    return asyncio.run(main())


class PlayedSn(SnClient):
    """Answers with records that a test made."""

    def __init__(
        self,
        *trainings: Training,
        history: Sequence[RoundSummary] = (),
        watched: Sequence[Training] = (),
        directory: Directory | None = None,
        status: Status | None = None,
        presence: Sequence[Presence] = (),
    ) -> None:
        super().__init__(MemoryNetwork().client(SN), HERE)
        self.trainings = {training.name: training for training in trainings}
        self.rounds = list(history)
        self.watched = list(watched)
        self.registered = directory
        self.where = status
        self.heard = tuple(presence)
        self.most_asked: list[int] = []

    async def training(self, name: ContractName) -> Training | None:
        return self.trainings.get(name)

    async def contracts(self) -> tuple[ContractName, ...]:
        return tuple(sorted(self.trainings))

    async def history(self, name: ContractName, most: int = 1_000) -> list[RoundSummary]:
        self.most_asked.append(most)
        return self.rounds[-most:]

    async def watch(self, name: ContractName, after_version: int = 0) -> AsyncIterator[Training]:
        for training in self.watched:
            self.trainings[name] = training
            yield training
        raise Unreachable("10.0.0.1:30304: connection lost")

    async def directory(self) -> Directory:
        assert self.registered is not None
        return self.registered

    async def status(self) -> Status:
        assert self.where is not None
        return self.where

    async def presence(self) -> tuple[Presence, ...]:
        return self.heard


def ask(sn: SnClient, line: str, root: Path, said: Said | None = None) -> list[str]:
    """The lines that a script gets of a command, those that it says before its end first."""

    async def main() -> list[str]:
        desk = Desk(sn, root=root, said=said)
        lines = await desk.lines(line)
        return [*desk.said.lines, *lines]

    return asyncio.run(main())


def answer_of(sn: SnClient, line: str, root: Path) -> Done:
    """What comes of a command."""
    return asyncio.run(Desk(sn, root=root).run(line))
