"""A manager that starts nothing: what it was asked for is written down, and a test says what becomes of it.

It stands for the host: an agent that ends and a new one find the same things.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from swarmlearning.errors import TaskFailed, Unreachable
from swarmlearning.swop.managers.boundary import Manager, Pair, PairStatus, Part, PartState, PartStatus, Tell
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


class FakeManager:
    """Images, volumes and pairs that are only names."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}
        self.foreign: set[str] = set()
        """Tags of images that no agent made."""
        self.volumes: dict[str, list[str]] = {}
        self.pairs: dict[str, PairStatus] = {}
        self.known: dict[str, Pair] = {}
        self.started: list[tuple[int, str, int]] = []
        """(idx, part, how many times that part of that pair was started)."""
        self.stopped: list[tuple[int, str]] = []
        self.removed: list[str] = []
        self.forgotten: list[str] = []
        self.adopted: list[str] = []
        self.sl_ready = True
        """Whether SLs that are started become ready."""
        self.away = False
        """Whether the engine does not answer."""
        self.keeps = False
        """Whether nothing can be removed."""
        self.isolates_programs = True
        self.build_fails = ""
        self.on_start_ml: Callable[[Pair], int | None] = lambda _: None
        """Exit status of a program right away; None: it runs on."""
        self.changed = asyncio.Event()

    def describe(self) -> str:
        return "a fake without programs"

    @property
    def kind(self) -> ManagerKind:
        return ManagerKind.PROCESS

    @property
    def isolates(self) -> bool:
        return self.isolates_programs

    async def close(self) -> None:
        """Nothing is held."""

    def _answer(self) -> None:
        if self.away:
            raise Unreachable("the engine does not answer")

    async def find_image(self, tag: str) -> str | None:
        self._answer()
        return self.images.get(tag)

    async def is_foreign(self, tag: str) -> bool:
        return tag in self.foreign

    async def build_image(self, tag: str, body: MakeUserContainer, log: str, limits: Limits, tell: Tell) -> str:
        write(log, "step 1\nno such package\n")
        tell(f"builds {len(body.build_steps)} steps")
        if self.build_fails:
            raise TaskFailed(self.build_fails, exit_status=7)
        self.images[tag] = f"digest of {tag}"
        return self.images[tag]

    async def pull_image(self, tag: str, body: PullImage, log: str, tell: Tell) -> str:
        tell(f"pulls {body.repository}")
        self.images[tag] = f"digest of {tag}"
        return self.images[tag]

    async def has_volume(self, name: str) -> bool:
        return name in self.volumes

    async def fill_volume(self, name: str, content: str) -> None:
        self.volumes[name] = sorted(entry.name for entry in os.scandir(content))

    # --- pairs ------------------------------------------------------------------------------------------------------

    def _set(self, pair_id: str, part: Part, status: PartStatus) -> None:
        before = self.pairs.get(pair_id, PairStatus())
        self.pairs[pair_id] = replace(before, **{part.value: status})
        self.changed.set()

    def _part(self, pair_id: str, part: Part) -> PartStatus:
        status = self.pairs.get(pair_id, PairStatus())
        return status.sl if part is Part.SL else status.ml

    def _note_start(self, pair: Pair, part: Part) -> None:
        times = sum(entry[:2] == (pair.node.idx, part.value) for entry in self.started)
        self.known[pair.id] = pair
        self.started.append((pair.node.idx, part.value, times + 1))

    async def start_sl(self, pair: Pair) -> None:
        self._answer()
        if self._part(pair.id, Part.SL).state in (PartState.RUNNING, PartState.STARTING):
            return
        self._note_start(pair, Part.SL)
        state = PartState.RUNNING if self.sl_ready else PartState.STARTING
        self._set(pair.id, Part.SL, PartStatus(state=state))

    async def start_ml(self, pair: Pair) -> None:
        self._answer()
        assert self._part(pair.id, Part.SL).state is PartState.RUNNING, "the program would meet no SL"
        if self._part(pair.id, Part.ML).state is PartState.RUNNING:
            return
        self._note_start(pair, Part.ML)
        write(pair.ml_log, "it begins\n")
        status = self.on_start_ml(pair)
        if status is None:
            self._set(pair.id, Part.ML, PartStatus(state=PartState.RUNNING))
        else:
            self._set(pair.id, Part.ML, PartStatus(state=PartState.EXITED, exit_status=status))

    async def adopt(self, pair: Pair) -> None:
        self.adopted.append(pair.id)

    async def look(self, pair: Pair) -> PairStatus:
        self._answer()
        return self.pairs.get(pair.id, PairStatus())

    async def stop(self, pair: Pair, part: Part, grace_s: float) -> None:
        assert grace_s > 0
        if self._part(pair.id, part).state in (PartState.RUNNING, PartState.STARTING):
            self.stopped.append((pair.node.idx, part.value))
            self._set(pair.id, part, PartStatus(state=PartState.EXITED, exit_status=143))

    async def remove(self, pair: Pair) -> None:
        if self.keeps:
            raise Unreachable("the engine does not remove anything now")
        for part in Part:
            assert self._part(pair.id, part).state in (PartState.EXITED, PartState.ABSENT), "it still runs"
        self.pairs.pop(pair.id, None)
        self.removed.append(pair.id)
        self.changed.set()

    async def find_pairs(self) -> tuple[str, ...]:
        return tuple(sorted(self.pairs))

    async def remove_forgotten(self, pair_id: str) -> None:
        self.pairs.pop(pair_id, None)
        self.forgotten.append(pair_id)

    # --- what tests do ----------------------------------------------------------------------------------------------

    def exit(self, idx: int, part: Part, status: int | None, detail: str = "") -> None:
        """Half of the pair of a node that runs ends."""
        pair_id = next(id_ for id_ in reversed(self.pairs) if self.known[id_].node.idx == idx)
        self._set(pair_id, part, PartStatus(state=PartState.EXITED, exit_status=status, detail=detail))

    async def until(self, wanted: Callable[["FakeManager"], bool]) -> None:
        """Until something is as wanted."""
        async with asyncio.timeout(20):
            while not wanted(self):
                self.changed.clear()
                await self.changed.wait()

    def runs(self, idx: int, part: Part) -> bool:
        """Whether half of a node's pair runs."""
        return any(
            self.known[id_].node.idx == idx and self._part(id_, part).state is PartState.RUNNING for id_ in self.pairs
        )


def is_manager(manager: FakeManager) -> Manager:
    """Checked by mypy: it has all that the boundary asks for."""
    return manager
