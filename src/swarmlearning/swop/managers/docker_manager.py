"""Pairs as two containers of a Docker or Podman engine. Spec: docs/spec/swop-containers.md.

The engine keeps what there is; of its own this keeps only which containers it made (`containers.json` beside the pair),
so that one which somebody removed by hand is told from one that never was.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import docker.errors
import msgspec
from msgspec.structs import replace

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.swop.managers import docker_images as images
from swarmlearning.swop.managers import docker_names as names
from swarmlearning.swop.managers import docker_volumes as volumes
from swarmlearning.swop.managers.boundary import ManagerSettings, Pair, PairStatus, Part, Tell
from swarmlearning.swop.managers.docker_engine import Engine, status_of
from swarmlearning.swop.managers.docker_mounts import (
    CHANNEL_TARGET,
    CONTROL,
    DATA,
    DATA_TARGET,
    READY,
    Json,
    identity_files,
    make_fence,
    program_mounts,
)
from swarmlearning.swop.managers.docker_specs import Place, World, ml_spec, sl_spec
from swarmlearning.swop.managers.docker_watching import FRESH, RUNNING, STOP_S, Found, Watcher
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage

_LOG: Final = logging.getLogger(__name__)

START_AGAIN_S: Final = 0.5
"""After an engine failed to start a container it is asked once more, seconds."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """Containers that were made for a pair: their ids, empty before."""

    sl: str = ""
    ml: str = ""


class ContainerManager:
    """A `Manager` on a container engine."""

    def __init__(self, engine: Engine, settings: ManagerSettings, user: str) -> None:
        """Use `engine`.

        Args:
            engine: which answered.
            settings: of the agent.
            user: `uid:gid` that both halves of a pair have in their containers.
        """
        self._engine = engine
        self._settings = settings
        self._world = World(user=user, podman=engine.kind is ManagerKind.PODMAN, selinux=engine.selinux)
        self._watcher = Watcher(engine, settings.agent)

    def describe(self) -> str:
        """As `Manager`."""
        engine = self._engine
        mode = " (rootless)" if engine.rootless else ""
        return f"{engine.title} {engine.version[:20]}{mode}: containers without capabilities and network"

    @property
    def kind(self) -> ManagerKind:
        """As `Manager`."""
        return self._engine.kind

    @property
    def isolates(self) -> bool:
        """Containers do."""
        return True

    async def close(self) -> None:
        """As `Manager`."""
        await self._watcher.close()
        self._engine.close()

    # --- images and volumes -------------------------------------------------------------------------------------

    async def find_image(self, tag: str) -> str | None:
        """As `Manager`."""
        return await images.find_image(self._engine, tag)

    async def is_foreign(self, tag: str) -> bool:
        """As `Manager`."""
        return await images.is_foreign(self._engine, tag)

    async def build_image(self, tag: str, body: MakeUserContainer, log: str, limits: Limits, tell: Tell) -> str:
        """As `Manager`."""
        order = images.BuildOrder(tag=tag, steps=body.build_steps, labels=self._own, log=log, limits=limits)
        files = None
        if body.build_context:
            tell(f"reading the volume {body.build_context}")
            image = await self._own_image()
            files = await volumes.read_volume(self._engine, self._settings.agent, body.build_context, image)
        return await images.build_image(self._engine, order, files, tell)

    async def pull_image(self, tag: str, body: PullImage, log: str, tell: Tell) -> str:
        """As `Manager`."""
        return await images.pull_image(self._engine, tag, body, log, tell)

    async def has_volume(self, name: str) -> bool:
        """As `Manager`."""
        return await volumes.find_content(self._engine, self._settings.agent, name) is not None

    async def fill_volume(self, name: str, content: str) -> None:
        """As `Manager`."""
        image = await self._own_image()
        await volumes.fill_volume(self._engine, self._settings.agent, name, Path(content), image)

    # --- pairs --------------------------------------------------------------------------------------------------

    async def start_sl(self, pair: Pair) -> None:
        """As `Manager`."""
        if not await self._may_start(pair, Part.SL):
            return
        agent = self._settings.agent
        data = names.data_name(agent, pair.uid)
        await volumes.ensure_volume(
            self._engine, data, self._own | {names.VOLUME: names.SL_DATA, names.IDENTITY: pair.uid}
        )
        place = await self._prepare(pair, Part.SL, await self._own_image())
        user = self._world.user
        archives = (
            (DATA_TARGET, volumes.pack_directory(_last(DATA), user, (_last(READY),))),
            (CHANNEL_TARGET, volumes.pack_directory(_last(CONTROL), user)),
        )
        await self._start(pair, Part.SL, sl_spec(pair, self._world, place, data), archives)

    async def start_ml(self, pair: Pair) -> None:
        """As `Manager`."""
        if not await self._may_start(pair, Part.ML):
            return
        image = await self._program_image(pair)
        mounts = await self._mounts(pair)
        place = await self._prepare(pair, Part.ML, image)
        await self._start(pair, Part.ML, ml_spec(pair, self._world, place, mounts), ())

    async def adopt(self, pair: Pair) -> None:
        """As `Manager`."""
        for part, found in (await self._watcher.find(pair.id)).items():
            if found.state not in FRESH:
                self._watcher.attend(pair, part, found.id)

    async def look(self, pair: Pair) -> PairStatus:
        """As `Manager`."""
        found = await self._watcher.find(pair.id)
        made = _load_made(pair)
        return PairStatus(
            sl=await self._watcher.status(pair, Part.SL, found.get(Part.SL), made.sl),
            ml=await self._watcher.status(pair, Part.ML, found.get(Part.ML), made.ml),
        )

    async def stop(self, pair: Pair, part: Part, grace_s: float) -> None:
        """As `Manager`."""
        found = (await self._watcher.find(pair.id)).get(part)
        if found is not None and found.state in RUNNING:
            await self._watcher.stop(found.id, f"{pair.label}, {part.value}", grace_s)

    async def remove(self, pair: Pair) -> None:
        """As `Manager`."""
        found = await self._watcher.find(pair.id)
        for container in found.values():
            await self._watcher.forget(container)
        if await self._clear(pair.id, found.values()):
            shutil.rmtree(pair.directory, ignore_errors=True)

    async def find_pairs(self) -> tuple[str, ...]:
        """As `Manager`."""
        containers = await self._watcher.list({})
        labels = [container.labels for container in containers] + await volumes.list_volumes(self._engine, self._own)
        return tuple(sorted({found[names.PAIR] for found in labels if names.PAIR in found}))

    async def remove_forgotten(self, pair_id: str) -> None:
        """As `Manager`."""
        found = await self._watcher.find(pair_id)
        for part, container in sorted(found.items()):  # `ml` first: the SL outlives its program
            if container.state in RUNNING:
                await self._watcher.stop(container.id, f"the forgotten pair {pair_id}, {part.value}", STOP_S)
        await self._clear(pair_id, found.values())

    # --- making containers --------------------------------------------------------------------------------------

    @property
    def _own(self) -> dict[str, str]:
        return {names.AGENT: self._settings.agent}

    async def _own_image(self) -> str:
        found = await self.find_image(self._settings.sl_image)
        if found is None:
            raise ConfigurationError(
                f"{self._engine.title} has no image {self._settings.sl_image} of Swarm Learning: pull it, or build "
                "it as docs/how-to/use-containers.md shows"
            )
        return found

    async def _program_image(self, pair: Pair) -> str:
        """The image's id; by it the container is made, whatever its tag means by then.

        Raises:
            ConfigurationError: there is none, or another than the agent knows.
        """
        tag = pair.image or self._settings.sl_image
        found = await self.find_image(tag)
        if found is None:
            raise ConfigurationError(f"{self._engine.title} has no image {tag}: the task that makes it has to run here")
        if pair.image_id and found != pair.image_id:
            raise ConfigurationError(
                f"the image {tag} is {found[:19]} by now; expected {pair.image_id[:19]}, as its task left it: run that "
                "task again"
            )
        return found

    async def _mounts(self, pair: Pair) -> list[Json]:
        engine, settings = self._engine, self._settings
        wanted = [mount.source for mount in pair.body.shared_content if mount.kind == "VOLUME"]
        data = pair.node.private_data
        if data is not None and data.kind == "VOLUME" and pair.body.private_content is not None:
            wanted.append(data.source)
        real: dict[str, str] = {}
        for name in wanted:
            found = await volumes.find_content(engine, settings.agent, name)
            if found is None:
                raise ConfigurationError(
                    f"{engine.title} has no volume {name}: a task that fills it has to run here, or it has to be made "
                    f"(`{engine.title.lower()} volume create {name}`)"
                )
            real[name] = found
        socket = engine.address.removeprefix("unix://") if engine.address.startswith("unix://") else None
        fence = make_fence(settings.data, socket, [*settings.secrets, *identity_files(pair)])
        return program_mounts(pair, fence, real.__getitem__)

    async def _may_start(self, pair: Pair, part: Part) -> bool:
        """Whether half of a pair is still to be started; what an interrupted start left is removed."""
        found = (await self._watcher.find(pair.id)).get(part)
        if found is not None and found.state not in FRESH:
            self._watcher.attend(pair, part, found.id)
            return False
        if found is None:
            return not getattr(_load_made(pair), part.value)  # removed by hand: `look` says so
        await self._remove_container(found.id)
        return True

    async def _prepare(self, pair: Pair, part: Part, image: str) -> Place:
        channel = names.channel_name(self._settings.agent, pair.id)
        labels = self._own | {names.PAIR: pair.id, names.VOLUME: names.CHANNEL}
        await volumes.ensure_volume(self._engine, channel, labels)
        return Place(image=image, channel=channel, labels=names.pair_labels(self._settings.agent, pair, part))

    async def _start(self, pair: Pair, part: Part, spec: Json, archives: Iterable[tuple[str, bytes]]) -> None:
        api, name = self._engine.api, names.container_name(self._settings.agent, pair, part)

        def create() -> str:
            Path(pair.directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._engine.create_container(spec, name)

        files = tuple(archives)

        def start_once() -> None:
            for directory, archive in files:
                api.put_archive(container, directory, archive)
            api.start(container)

        def start() -> None:
            try:
                start_once()
            except docker.errors.APIError as error:
                if (status_of(error) or 0) < 500:
                    raise
                # Podman's helper processes break now and then ("passing bulk input to subprocess: … broken pipe"), and
                # both calls may be made again.
                time.sleep(START_AGAIN_S)
                start_once()

        container = await self._engine.call(f"make the container {name}", create, asked=True)
        try:
            await self._engine.call(f"start the container {name}", start, asked=True)
        except ConfigurationError:
            with contextlib.suppress(Unreachable, ConfigurationError):
                await self._remove_container(container)
            raise
        _save_made(pair, part, container)
        self._watcher.attend(pair, part, container)

    async def _remove_container(self, container: str) -> None:
        def remove() -> None:
            with contextlib.suppress(docker.errors.NotFound):
                self._engine.api.remove_container(container, force=True, v=True)

        await self._engine.call(f"remove the container {container[:12]}", remove, asked=True)

    async def _clear(self, pair_id: str, containers: Iterable[Found]) -> bool:
        """Remove what an engine has of a pair; whether anything was removed, which settings may forbid."""
        if self._settings.keep:
            left = ", ".join(container.id[:12] for container in containers)
            _LOG.info("SWOP_KEEP_CONTAINERS: the containers of pair %s stay (%s)", pair_id, left or "none")
            return False
        for container in containers:
            await self._remove_container(container.id)
        channel = names.channel_name(self._settings.agent, pair_id)
        await volumes.remove_volume(
            self._engine, channel, self._own | {names.PAIR: pair_id, names.VOLUME: names.CHANNEL}
        )
        return True


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _load_made(pair: Pair) -> Made:
    try:
        return msgspec.json.decode((Path(pair.directory) / "containers.json").read_bytes(), type=Made)
    except (OSError, msgspec.DecodeError):
        return Made()


def _save_made(pair: Pair, part: Part, container: str) -> None:
    path = Path(pair.directory) / "containers.json"
    partial = path.with_name(path.name + ".part")
    made = replace(_load_made(pair), **{part.value: container})
    partial.write_bytes(msgspec.json.encode(made))
    partial.replace(path)
