"""Parts of a simulated SL that die or lie."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.messages import Suspect, Unreachable
from swarmlearning.contracts.records import Phase, Round
from swarmlearning.contracts.rounds import charged_nodes, pending_nodes, pending_stores
from swarmlearning.errors import SwarmError
from swarmlearning.sl.desk import Desk
from swarmlearning.sl.journal import Journals
from swarmlearning.sl.store import ResultStore
from swarmlearning.types import NodeId

OnWrite = Callable[[Callable[[], None]], None]


class DyingStore(ResultStore):
    """Results on a disk whose writes the simulation counts; its node may die at any of them."""

    def __init__(self, directory: Path, owner: NodeId, on_write: OnWrite) -> None:
        super().__init__(directory, owner, sync=False)
        self._on_write = on_write

    def _put(self, write: Callable[[], None]) -> None:
        self._on_write(write)

    def held(self) -> frozenset[tuple[int, bytes]]:
        """(round, SHA-256) of what is there."""
        return frozenset((result.record.round, result.record.sha256) for result in self._open.values())


class DyingJournals(Journals):
    """What an SL remembers, on the same disk."""

    def __init__(self, directory: Path, on_write: OnWrite) -> None:
        super().__init__(directory, sync=False)
        self._on_write = on_write

    def _write(self, path: Path, data: memoryview) -> None:
        self._on_write(lambda: super(DyingJournals, self)._write(path, data))


async def accuse_everybody(desk: Desk, on_accusation: Callable[[], None]) -> None:
    """A dishonest SL: whoever is waited for is silent, it says, and what it leads cannot be had from others."""
    told: set[tuple[int, int, int, NodeId]] = set()
    while True:
        record = desk.training
        round_ = record.round if record is not None else None
        if record is not None and record.phase is Phase.MERGING and round_ is not None:
            for shard, node in _accused(desk.node, round_):
                key = (round_.number, round_.attempt, shard, node)
                if key not in told:
                    told.add(key)
                    on_accusation()
                    await _accuse(desk, round_, shard, node)
        async with desk.changed:
            await desk.changed.wait()


def _accused(own: NodeId, round_: Round) -> list[tuple[int, NodeId]]:
    if own not in round_.participants:
        return []
    awaited = [(shard, node) for shard in range(round_.shards) for node in pending_nodes(round_, shard)]
    leading = [s for s in range(round_.shards) if own in charged_nodes(round_, s) and not round_.merged[s]]
    served = [(shard, node) for shard in leading[:1] for node in round_.contributors]
    stores = [(STORING, node) for node in pending_stores(round_)]
    return [(shard, node) for shard, node in (*served, *awaited, *stores) if node != own]


async def _accuse(desk: Desk, round_: Round, shard: int, node: NodeId) -> None:
    where = {"contract": desk.contract, "run": desk.run, "round": round_.number, "attempt": round_.attempt}
    charged = shard != STORING and desk.node in charged_nodes(round_, shard)
    try:
        if charged and node in round_.contributors:
            await desk.submitter.send(
                Unreachable(**where, shard=shard, contributor=node, reason="unreachable", detail="a lie")  # type: ignore[arg-type]
            )
        else:
            await desk.submitter.send(Suspect(**where, shard=shard, leader=node, gone=True))  # type: ignore[arg-type]
    except SwarmError:
        await asyncio.sleep(0.5)
