"""RUN_SWARM on this host: pairs of all nodes of the profile, side by side. Spec: docs/spec/swop.md, SW-6 to SW-8."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

from msgspec.structs import replace

from swarmlearning.contracts.records import Training
from swarmlearning.contracts.task_records import ENDED, Task, Unit, WorkState
from swarmlearning.errors import Broken, ConfigurationError, TaskFailed
from swarmlearning.reports.status import make_printable
from swarmlearning.sn.client import SnClient
from swarmlearning.swop.host import Host
from swarmlearning.swop.journal import Entry, PairEntry, Stage
from swarmlearning.swop.life import PairLife
from swarmlearning.swop.managers.boundary import Manager
from swarmlearning.swop.pairs import Ground, make_pair, read_uid
from swarmlearning.swop.permission import Assigned
from swarmlearning.swop.policy import ShareLog
from swarmlearning.swop.reporting import sum_up
from swarmlearning.tasks.bodies import Mount, RunSwarm
from swarmlearning.types import NodeId

log = logging.getLogger("swarmlearning.swop")

VOLUMES: Final = "volumes"
"""Directory in which this host has volumes as directories, within the agent's data (PROCESS)."""


class Assignment(Protocol):
    """What a run needs of its assignment (`executing.Work`)."""

    host: Host

    @property
    def entry(self) -> Entry:
        """As the journal has it."""
        ...

    def update(self, *, durable: bool = True, **changes: object) -> None:
        """Change the entry."""
        ...

    def tell(self, text: str, state: WorkState | None = None) -> None:
        """Say something new of it."""
        ...


class SwarmRun:
    """The pairs of one assignment."""

    def __init__(self, work: Assignment) -> None:
        """Know whose pairs they are; nothing is started yet."""
        self._work = work
        self._host = work.host
        self._lives: list[PairLife] = []
        self._image_id = ""
        self.manager: Manager = work.host.manager
        self.ready_s = work.host.paces.ready_s
        self.linger_s = work.host.paces.linger_s

    # --- before -----------------------------------------------------------------------------------------------------

    async def has_image(self, assigned: Assigned) -> bool:
        """Whether the task's prerequisite has made here what the programs run in."""
        try:
            await self._require_image(assigned)
        except TaskFailed:
            return False
        return True

    def check_volumes(self, assigned: Assigned) -> None:
        """SW-13: see that no third organisation's task filled a volume that the programs would see.

        Raises:
            TaskFailed: one did.
        """
        body = assigned.body
        if isinstance(body, RunSwarm):
            shared = [mount.source for mount in body.shared_content if mount.kind == "VOLUME"]
            numbered = [f"{name}-{node.idx}" for name in shared for node in self._host.profile.nodes]
            self._host.outcomes.check_volumes((*shared, *numbered), assigned.task, self._host.link.name.domain)

    async def _require_image(self, assigned: Assigned) -> None:
        prerequisite = assigned.prerequisite
        if prerequisite is not None:
            digest = await self.manager.find_image(prerequisite.outcome)
            self._image_id = self._host.outcomes.require_image(prerequisite.outcome, prerequisite, digest)

    async def take_nodes(self) -> None:
        """Wait until the profile's nodes are free, and use them."""
        indexes = [node.idx for node in self._host.profile.nodes]
        entry = self._work.entry
        await self._host.nodes.take(indexes, entry.id, entry.runner, lambda text: self._work.tell(text))

    async def free_nodes(self) -> None:
        """Use the nodes no more."""
        await self._host.nodes.free_of(self._work.entry.id)

    async def prepare(self, assigned: Assigned) -> None:
        """Plan all pairs, in the journal; nothing is started yet.

        Raises:
            TaskFailed: the image is not on this host any more; or see `check_volumes`.
        """
        body = assigned.body
        if not isinstance(body, RunSwarm):
            raise Broken(f"{assigned.task.name} is run as a swarm, and is {assigned.task.kind.value}")
        self.check_volumes(assigned)
        await self._require_image(assigned)
        bodies = {node.idx: self._with_own_volumes(body, node.idx) for node in self._host.profile.nodes}
        await self._note_volumes(bodies.values(), assigned.task)
        entry, host = self._work.entry, self._host
        ground = Ground(
            runner=entry.runner,
            number=entry.number,
            task=entry.task,
            body=body,
            places=assigned.request.mounts,
            image=assigned.prerequisite.outcome if assigned.prerequisite is not None else "",
            image_id=self._image_id,
            sn=host.sn,
            host_ip=host.host_ip,
            network=entry.network,
            sandboxed=host.manager.isolates,
            limits=entry.limits,
            data=str(host.data),
            logs=str(host.journal.logs_of(entry.id)),
        )
        planned: list[PairEntry] = []
        for node in host.profile.nodes:
            try:
                uid = read_uid(node, host.link.name.domain, host.link.name.network, host.data / VOLUMES)
                twin = _find(planned, uid)
                if twin is not None:
                    raise ConfigurationError(f"node {node.idx} has the identity of node {twin.idx}, {uid}; give it one")
                pair = make_pair(replace(ground, body=bodies[node.idx]), host.profile, node, uid)
                unit = Unit(uid=uid, state=WorkState.ENROLLED)
                planned.append(PairEntry(idx=node.idx, pair=pair, unit=unit))
            except ConfigurationError as error:
                text = make_printable(str(error))
                unit = Unit(uid=f"node {node.idx}", state=WorkState.ERROR, description=text)
                planned.append(PairEntry(idx=node.idx, pair=None, unit=unit, stage=Stage.ENDED))
        self._work.update(pairs=tuple(planned), state=WorkState.RUNNING, description="starts its peers")

    def _with_own_volumes(self, body: RunSwarm, idx: int) -> RunSwarm:
        """SW-11: the content that was made for each peer (SWARMCONTENT) is seen under the name that they share."""

        def own(mount: Mount) -> Mount:
            name = f"{mount.source}-{idx}"
            known = mount.kind == "VOLUME" and self._host.outcomes.find("volume", name) is not None
            return replace(mount, source=name) if known else mount

        return replace(body, shared_content=tuple(map(own, body.shared_content)))

    async def _note_volumes(self, bodies: Iterable[RunSwarm], task: Task) -> None:
        """SW-13: a volume that is not there is made, empty, and is the task's organisation's."""
        names = {mount.source for body in bodies for mount in body.shared_content if mount.kind == "VOLUME"}
        for name in sorted(names):
            if not await self.manager.has_volume(name):
                log.warning("%s: no volume %s on this host, an empty one is made", task.name, make_printable(name))
                self._host.outcomes.made("volume", name, task)

    # --- the run ----------------------------------------------------------------------------------------------------

    async def perform(self) -> tuple[WorkState, str]:
        """Bring all pairs to their ends; how the assignment ended, and why."""
        await self._live(PairLife.run)
        entry = self._work.entry
        summed = sum_up(entry.planned, tuple(item.unit for item in entry.pairs))
        if summed is None:
            # It was taken with another profile: so many peers there are not any more.
            return WorkState.ERROR, f"{len(entry.pairs)} peers of {entry.planned} that were planned"
        return summed

    async def linger(self) -> None:
        """Until all SLs that still serve others have ended."""
        await self._live(PairLife.linger)

    async def _live(self, stage: Callable[[PairLife], Coroutine[Any, Any, None]]) -> None:
        if not self._lives:
            self._lives = [PairLife(self, item.idx) for item in self._work.entry.pairs if item.pair is not None]
        try:
            async with asyncio.TaskGroup() as group:
                for life in self._lives:
                    group.create_task(stage(life))
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    def note_training(self, training: Training) -> None:
        """A training changed on the ledger."""
        for life in self._lives:
            life.note_training(training)

    # --- what its pairs need (`life.Surroundings`) ------------------------------------------------------------------

    @property
    def share_log(self) -> ShareLog:
        """When last lines of logs may go on the ledger."""
        return self._host.policy.share_log

    @property
    def is_up(self) -> bool:
        """Whether the SN answers."""
        return self._host.link.is_up

    def read(self, idx: int) -> PairEntry:
        """A pair as the journal has it."""
        return next(item for item in self._work.entry.pairs if item.idx == idx)

    def write(self, item: PairEntry, *, durable: bool) -> None:
        """Change a pair in the journal, and have it reported."""
        pairs = tuple(item if other.idx == item.idx else other for other in self._work.entry.pairs)
        changes: dict[str, object] = {"pairs": pairs}
        going = [other.unit for other in pairs if other.unit.state not in ENDED]
        if going:
            changes["description"] = f"{len(going)} of {len(pairs)} peers: {going[0].description}"
        self._work.update(durable=durable, **changes)

    async def ask_trainings(self) -> list[Training]:
        """All trainings.

        Raises:
            Unreachable, PeerError: the SN does not say.
        """
        return await self._host.link.ask(read_trainings)

    async def insist_on_trainings(self) -> list[Training]:
        """All trainings, as soon as the SN says.

        Raises:
            PeerError: it refuses for good.
        """
        return await self._host.link.insist(read_trainings)


async def read_trainings(client: SnClient) -> list[Training]:
    """All trainings on the ledger.

    Raises:
        Unreachable, VerificationError, Refused: see `SnClient`.
    """
    found = [await client.training(name) for name in await client.contracts()]
    return [training for training in found if training is not None]


def _find(planned: list[PairEntry], uid: NodeId) -> PairEntry | None:
    return next((item for item in planned if item.unit.uid == uid), None)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
