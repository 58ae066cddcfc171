"""Images and volumes of PROCESS: directories of this host.

An image is a virtual environment and the files that its recipe copied, described by a file that is written last; a tag
is a file that names one; a volume is a directory. Spec: docs/spec/swop-content.md, SW-63 to SW-66.
"""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import Broken, ConfigurationError, NotFound, TaskFailed
from swarmlearning.identity.files import SECRET_MODE, make_directory, write_file
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.managers.boundary import ManagerSettings, Tell
from swarmlearning.swop.managers.build_context import Plan, plan_copy, remove_tree
from swarmlearning.swop.managers.process_bases import Base, find_base, is_covered, own_base
from swarmlearning.swop.managers.process_building import Builder, Job, in_thread
from swarmlearning.swop.managers.process_mounts import VOLUMES
from swarmlearning.swop.managers.process_volumes import check_volume, find_volume, replace_volume
from swarmlearning.swop.managers.recipes import DEFAULT_PATH, AnyStep, Copy, MakeDirectories, Recipe, read_recipe
from swarmlearning.swop.managers.sandbox import Sandbox, probe
from swarmlearning.swop.matching import is_within
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage

_FORM: Final = 1
"""Of images; part of their digests, so that a change of how they are built builds them again."""

_DESCRIPTION: Final = "image.json"

SCRATCH: Final = "scratch"
"""Directory beside the images in which the sandbox is tried out."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image."""

    digest: str
    """64 hexadecimal digits."""
    base: str
    """What its recipe says after FROM, for people."""
    python: str
    """The interpreter that programs run with."""
    version: str
    environment: tuple[tuple[str, str], ...]
    """Variables of programs, which those of task and profile go before; `PATH` among them."""
    workdir: str
    files: str
    """Directory of the files that the recipe copied, as they are to be seen from `/` on; empty: none."""
    paths: tuple[str, ...]
    """Directories of this host that programs have to be able to read, at the same place."""
    notes: tuple[str, ...] = ()


class _Tag(msgspec.Struct, frozen=True, kw_only=True):
    tag: str
    digest: str


class ProcessImages:
    """The images and volumes in an agent's data directory."""

    def __init__(self, settings: ManagerSettings, sandbox: Sandbox | str | None = None) -> None:
        """Know where they are; nothing is touched yet.

        Args:
            settings: of the manager.
            sandbox: in which recipes are carried out, or why there is none; None: it is tried out at the first build.
        """
        self._bases = settings.bases
        self._sandbox = sandbox
        self._data = Path(settings.data).resolve()
        self._images = self._data / "images"
        self._tags = self._images / "tags"
        self._volumes = self._data / VOLUMES
        self._locks: dict[str, asyncio.Lock] = {}
        self._cleaning = asyncio.Lock()
        self._cleaned = False
        self._own: Image | None = None

    # --- what a manager does ----------------------------------------------------------------------------------------

    async def find_image(self, tag: str) -> str | None:
        """Digest of the image that has this tag; None if there is none."""
        try:
            return (await in_thread(self.describe_image, tag)).digest
        except NotFound:
            return None

    async def build_image(self, tag: str, body: MakeUserContainer, log: str, limits: Limits, tell: Tell) -> str:
        """Build an image, which then has `tag`, and return its digest; what the build prints is appended to `log`.

        Raises:
            ConfigurationError: PROCESS cannot carry out the recipe, or this host has no Python for it.
            TaskFailed: a step failed.
        """
        recipe = read_recipe(body.build_steps)
        for note in recipe.notes:
            tell(note)
        copies = any(isinstance(step, Copy) for step in recipe.steps)
        # A recipe whose only file is the product's client needs no context.
        context = find_volume(self._volumes, body.build_context) if body.build_context and copies else None
        return await self._build(tag, recipe, context, Path(log), limits, tell)

    async def pull_image(self, tag: str, body: PullImage, log: str, tell: Tell) -> str:
        """Let `tag` name what stands for an image on this host, and return its digest.

        Raises:
            ConfigurationError: no `--base` names it.
        """
        name = f"{body.registry.strip('/')}/{body.repository.strip('/')}:{body.tag}"
        if not is_covered(name, self._bases):
            shown = make_printable(name)
            raise ConfigurationError(
                f"PROCESS pulls no images, and nothing of this host stands for {shown}; give the agent "
                f"--base '{shown}=/path/to/its/python', or use a host with DOCKER or PODMAN"
            )
        recipe = Recipe(base=name, steps=(), environment=(), workdir="/", total=0, notes=())
        tell(f"{make_printable(name)} is a Python of this host")
        return await self._build(tag, recipe, None, Path(log), Limits(), tell)

    async def has_volume(self, name: str) -> bool:
        """Whether there is anything under the name of a volume.

        Raises:
            ConfigurationError: the name cannot be used.
        """
        return await in_thread(os.path.lexists, self._volumes / check_volume(name))

    async def fill_volume(self, name: str, content: str) -> None:
        """Replace the volume `name` by what is in the directory `content`, which is moved.

        Raises:
            ConfigurationError: the name cannot be used.
        """
        await in_thread(replace_volume, self._volumes, name, Path(content))

    # --- what programs run in ---------------------------------------------------------------------------------------

    def describe_image(self, tag: str) -> Image:
        """The image that has this tag; empty: the Python that runs us, with nothing added.

        Where its interpreter is not the host's own it must be run in the sandbox alone, whatever it is asked: it begins
        with what packages of the recipe want (`.pth` files).

        Raises:
            NotFound: no image has it.
            Broken: its files are damaged.
        """
        if not tag:
            self._own = self._own or _describe_own()
            return self._own
        missing = NotFound(f"no image {make_printable(tag)} on this host; the task that makes it has to be done first")
        try:
            named = msgspec.json.decode(self._tag_file(tag).read_bytes(), type=_Tag)
            return msgspec.json.decode((self._images / named.digest / _DESCRIPTION).read_bytes(), type=Image)
        except FileNotFoundError as error:
            raise missing from error
        except (OSError, msgspec.DecodeError) as error:
            raise Broken(f"the image {make_printable(tag)} in {self._images} is damaged: {error}") from error

    # --- building ---------------------------------------------------------------------------------------------------

    async def _build(
        self, tag: str, recipe: Recipe, context: Path | None, log: Path, limits: Limits, tell: Tell
    ) -> str:
        async with self._cleaning:  # nobody's build is taken for one that was interrupted
            await in_thread(self._clean)
        base = await in_thread(find_base, recipe.base, self._bases)
        plans = {}
        for number, step in enumerate(recipe.steps):
            if isinstance(step, Copy):
                plans[number] = await in_thread(plan_copy, step, context, limits.content)
            _check_places(step, base)
        digest = digest_build(recipe, base, plans)
        async with self._locks.setdefault(digest, asyncio.Lock()):
            description = self._images / digest / _DESCRIPTION
            if description.exists():
                tell("the image is there already, built of the same")
            else:
                if self._sandbox is None:
                    self._sandbox = await probe(self._images / SCRATCH, base.paths, str(self._data))
                job = Job(
                    directory=description.parent,
                    data=self._data,
                    sandbox=self._sandbox,
                    base=base,
                    recipe=recipe,
                    plans=plans,
                    log=log,
                    limits=limits,
                )
                await Builder(job, tell).run()
                image = _describe(digest, recipe, base, description.parent)
                await in_thread(_write, description, msgspec.json.format(msgspec.json.encode(image)))
        await in_thread(_write, self._tag_file(tag), msgspec.json.encode(_Tag(tag=tag, digest=digest)))
        return digest

    def _tag_file(self, tag: str) -> Path:
        # Tags may have any characters, and be longer than names of files.
        return self._tags / f"{hashlib.sha256(tag.encode(errors='surrogatepass')).hexdigest()}.json"

    def _clean(self) -> None:
        """Make the directories, and remove what builds left that were interrupted together with the agent."""
        if self._cleaned:
            return
        for path in (self._tags, self._images / SCRATCH):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._images.chmod(0o700)
        for path in self._images.iterdir():
            if path.name not in (self._tags.name, SCRATCH) and not (path / _DESCRIPTION).exists():
                remove_tree(path)
        self._cleaned = True


def _check_places(step: AnyStep, base: Base) -> None:
    """Refuse a step whose files would hide the Python that everything is built on.

    Raises:
        TaskFailed: it is such a step.
    """
    places: tuple[str, ...] = ()
    if isinstance(step, Copy):
        places = (step.target,)
    elif isinstance(step, MakeDirectories):
        places = step.paths
    for place in places:
        for path in base.paths:
            if is_within(place, path):
                raise TaskFailed(f"step {step.number} ({step.text}): {path} is a part of this host's Python")


def digest_build(recipe: Recipe, base: Base, plans: dict[int, Plan]) -> str:
    """What an image is known by: SHA-256 over what it is built of, as 64 hexadecimal digits."""
    steps = [msgspec.structs.replace(step, number=0, text="") for step in recipe.steps]
    plain = [
        [(found.name, found.sha256, found.executable) for found in plan.files] + [plan.directories, plan.only]
        for _, plan in sorted(plans.items())
    ]
    parts = [_FORM, recipe.base, steps, recipe.environment, recipe.workdir, base, plain]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _describe(digest: str, recipe: Recipe, base: Base, directory: Path) -> Image:
    binaries = directory / "venv" / "bin"
    variables = dict(recipe.environment)
    variables["PATH"] = f"{binaries}:{variables.get('PATH', DEFAULT_PATH)}"
    files = directory / "files"
    return Image(
        digest=digest,
        base=recipe.base,
        python=str(binaries / "python"),
        version=base.version,
        environment=tuple({"VIRTUAL_ENV": str(directory / "venv"), **variables}.items()),
        workdir=recipe.workdir,
        files=str(files) if any(files.iterdir()) else "",
        paths=(*base.paths, str(directory / "venv")),
        notes=recipe.notes,
    )


def _describe_own() -> Image:
    base = own_base()
    variables = {"PATH": f"{Path(base.executable).parent}:{DEFAULT_PATH}"}
    if base.sources:
        variables["PYTHONPATH"] = os.pathsep.join(base.sources)
    return Image(
        digest=hashlib.sha256(msgspec.json.encode([_FORM, base])).hexdigest(),
        base="",
        python=base.executable,
        version=base.version,
        environment=tuple(variables.items()),
        workdir="/",
        files="",
        paths=base.paths,
    )


def _write(path: Path, data: bytes) -> None:
    make_directory(path.parent, mode=0o700)
    write_file(path, data, mode=SECRET_MODE, force=True)
