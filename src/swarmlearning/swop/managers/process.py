"""The PROCESS resource manager: pairs as process groups, programs in a sandbox where this host has a working one.

What it starts belongs to a shim, not to the agent: it goes on when the agent ends, and is found again by what lies on
disk, below `DATA/pairs/<pair id>/`. Images and volumes: `process_images`. Spec: docs/spec/swop-process.md.
"""

import asyncio
import logging
import re
import sys
from pathlib import Path
from typing import Final, Self

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import ManagerSettings, Pair, PairStatus, Part, PartState, PartStatus, Tell
from swarmlearning.swop.managers.build_context import remove_tree
from swarmlearning.swop.managers.process_images import Image, ProcessImages
from swarmlearning.swop.managers.process_ml import check_interpreters, ml_launch
from swarmlearning.swop.managers.process_parts import Launch, Place
from swarmlearning.swop.managers.process_sl import find_control, make_control, sl_launch
from swarmlearning.swop.managers.sandbox import Sandbox, probe
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage

log = logging.getLogger("swarmlearning.swop")

FORGOTTEN_GRACE_S: Final = 10.0
"""How long a pair that nobody knows any more gets to end by itself."""

_PAIR_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_KEPT: Final = "kept"


class ProcessManager:
    """Runs pairs as processes. Make with `open`."""

    def __init__(self, settings: ManagerSettings, images: ProcessImages, sandbox: Sandbox | str) -> None:
        """Know of a sandbox, or of why there is none."""
        self._settings = settings
        self._data = _make_data(settings.data)
        self._images = images
        self._sandbox = sandbox

    @classmethod
    async def open(cls, settings: ManagerSettings) -> Self:
        """Try the sandbox out.

        Raises:
            ConfigurationError: this is not Linux, or the data directory cannot be used.
        """
        if not sys.platform.startswith("linux"):
            raise ConfigurationError(f"the resource manager PROCESS needs Linux, this is {sys.platform}: use DOCKER")
        data = _make_data(settings.data)
        own = await asyncio.to_thread(ProcessImages(settings).describe_image, "")
        sandbox = await probe(data / "process", check_interpreters(own.paths), str(data))
        return cls(settings, ProcessImages(settings, sandbox), sandbox)

    def describe(self) -> str:
        """What it is and what keeps programs apart from the host."""
        if isinstance(self._sandbox, Sandbox):
            return f"processes in a sandbox ({self._sandbox.describe()})"
        return f"processes without a sandbox: {self._sandbox}"[:100]

    @property
    def kind(self) -> ManagerKind:
        """Which it is."""
        return ManagerKind.PROCESS

    @property
    def isolates(self) -> bool:
        """Whether programs can be kept apart from the host."""
        return isinstance(self._sandbox, Sandbox)

    async def close(self) -> None:
        """Nothing is held: what was started goes on."""

    # --- images and volumes -----------------------------------------------------------------------------------------

    async def find_image(self, tag: str) -> str | None:
        """Digest of the image that has this tag; None if there is none."""
        return await self._images.find_image(tag)

    async def is_foreign(self, tag: str) -> bool:  # noqa: ARG002  # all that have tags here this agent made
        """Whether an image has this tag that no agent made: none has."""
        return False

    async def build_image(self, tag: str, body: MakeUserContainer, log: str, limits: Limits, tell: Tell) -> str:
        """Build an image: a virtual environment.

        Raises:
            TaskFailed: a step failed.
        """
        return await self._images.build_image(tag, body, log, limits, tell)

    async def pull_image(self, tag: str, body: PullImage, log: str, tell: Tell) -> str:
        """Give an image that stands for a container image a tag.

        Raises:
            TaskFailed: there is none.
        """
        return await self._images.pull_image(tag, body, log, tell)

    async def has_volume(self, name: str) -> bool:
        """Whether there is a volume that tasks or the profile call `name`."""
        return await self._images.has_volume(name)

    async def fill_volume(self, name: str, content: str) -> None:
        """Replace the volume `name` by what is in the directory `content`."""
        await self._images.fill_volume(name, content)

    # --- pairs ------------------------------------------------------------------------------------------------------

    async def start_sl(self, pair: Pair) -> None:
        """Start a pair's SL; nothing if it runs.

        Raises:
            ConfigurationError: the profile's identity or this host is at fault.
        """

        def prepare() -> Launch:
            control = make_control(Path(pair.directory))
            ready = _ready_file(pair)
            ready.unlink(missing_ok=True)
            python_path = dict(self._images.describe_image("").environment).get("PYTHONPATH", "")
            return sl_launch(pair, control, ready, self._data, python_path)

        await _place(pair, Part.SL).start(prepare)

    async def start_ml(self, pair: Pair) -> None:
        """Start a pair's program, whose SL is ready; nothing if it runs.

        Raises:
            ConfigurationError: it has to be kept apart and cannot be; its image is another one than was expected; or
                what it is to see or to run is not there.
        """

        def prepare() -> Launch:
            sandbox = self._require_sandbox(pair)
            image = self._find_image(pair)
            control = find_control(Path(pair.directory))
            if control is None:
                raise ConfigurationError(f"pair {pair.id}: its SL was not started, so there is nothing to meet")
            return ml_launch(pair, control, image, sandbox, self._data, self._settings.secrets)

        await _place(pair, Part.ML).start(prepare)

    def _require_sandbox(self, pair: Pair) -> Sandbox | None:
        """Wherever there is one it is used, also for programs that need not be kept apart: they all see the same."""
        if isinstance(self._sandbox, Sandbox):
            return self._sandbox
        if pair.sandboxed:
            raise ConfigurationError(
                f"the program has to be kept apart from this host, which cannot be done: {self._sandbox}; install "
                "bubblewrap, use a container engine, or let the policy say allow_unsandboxed"
            )
        return None

    def _find_image(self, pair: Pair) -> Image:
        image = self._images.describe_image(pair.image)
        if pair.image and image.digest != pair.image_id:
            raise ConfigurationError(
                f"image {pair.image!r} is {image.digest[:16]}, expected {pair.image_id[:16]}: it was built anew since "
                "this was decided; assign the task again"
            )
        return image

    async def adopt(self, pair: Pair) -> None:
        """Nothing to take over: shims copy the logs, whoever is there."""

    async def look(self, pair: Pair) -> PairStatus:
        """Where a pair stands."""
        ready = _ready_file(pair).exists()
        return PairStatus(
            sl=_part_status(_place(pair, Part.SL), ready=ready), ml=_part_status(_place(pair, Part.ML), ready=True)
        )

    async def stop(self, pair: Pair, part: Part, grace_s: float) -> None:
        """Ask half of a pair to end, make it after `grace_s` seconds, and return when it has ended.

        Raises:
            WaitExpired: it does not end, whatever is done.
        """
        await _place(pair, part).stop(grace_s)

    async def remove(self, pair: Pair) -> None:
        """Remove what is left of a stopped pair but for its logs.

        Raises:
            WaitExpired: something of it still ran, and does not end.
        """
        await self._remove(Path(pair.directory), grace_s=0)

    async def find_pairs(self) -> tuple[str, ...]:
        """Ids of pairs of which there is anything on this host."""
        try:
            found = [path for path in (self._data / "pairs").iterdir() if _PAIR_ID.fullmatch(path.name)]
        except FileNotFoundError:
            return ()
        return tuple(sorted(path.name for path in found if path.is_dir() and not (path / _KEPT).exists()))

    async def remove_forgotten(self, pair_id: str) -> None:
        """Stop and remove a pair of which the id alone is known.

        Raises:
            ConfigurationError: that is no pair's id.
            WaitExpired: it does not end, whatever is done.
        """
        if not _PAIR_ID.fullmatch(pair_id):
            raise ConfigurationError(f"pair {pair_id[:100]!r}: expected letters, digits, _ . -, at most 100")
        await self._remove(self._data / "pairs" / pair_id, grace_s=FORGOTTEN_GRACE_S)

    async def _remove(self, directory: Path, grace_s: float) -> None:
        for part in (Part.ML, Part.SL):
            await Place(directory / "parts" / part.value).stop(grace_s)
        try:
            await asyncio.to_thread(_remove_files, directory, keep=self._settings.keep)
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be removed: {error.strerror or error}") from error


def _place(pair: Pair, part: Part) -> Place:
    return Place(Path(pair.directory) / "parts" / part.value)


def _ready_file(pair: Pair) -> Path:
    return Path(pair.directory) / "sl.ready"


def _part_status(place: Place, *, ready: bool) -> PartStatus:
    found = place.look()
    if found.alive:
        return PartStatus(state=PartState.RUNNING if ready else PartState.STARTING)
    if found.status is None:
        return PartStatus()
    return PartStatus(
        state=PartState.EXITED, exit_status=found.status.exit_status, detail=found.lost or found.status.detail
    )


def _make_data(data: str) -> Path:
    """The agent's data directory, with the manager's directories in it; without symbolic links."""
    directory = Path(data).absolute()
    try:
        for path in (directory, directory / "process", directory / "pairs"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the data directory {directory} cannot be used: {error.strerror}") from error
    return directory.resolve()


def _remove_files(directory: Path, *, keep: bool) -> None:
    if not directory.exists():
        return
    if keep:
        (directory / _KEPT).touch()
        log.info("left in place, as SWOP_KEEP_CONTAINERS asks: %s", directory)
        return
    control = find_control(directory)
    if control is not None:
        remove_tree(control)
    remove_tree(directory)
