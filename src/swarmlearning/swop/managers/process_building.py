"""Builds an image for PROCESS: a virtual environment over a Python of this host, and the files that a recipe copies.

A build is there when its description is; without, a directory is what an interrupted build left, and is removed.
Code that a recipe installs runs in the sandbox alone. Spec: docs/spec/swop-content.md, SW-64 to SW-66.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import msgspec

from swarmlearning.errors import TaskFailed
from swarmlearning.local.process import Command, Process, Reaper
from swarmlearning.swop.managers import build_start
from swarmlearning.swop.managers.boundary import Tell
from swarmlearning.swop.managers.build_context import Plan, copy_planned, place, remove_tree
from swarmlearning.swop.managers.process_bases import Base
from swarmlearning.swop.managers.process_mounts import Mounted
from swarmlearning.swop.managers.recipe_pip import is_ours
from swarmlearning.swop.managers.recipe_words import shorten
from swarmlearning.swop.managers.recipes import Copy, Install, MakeDirectories, Recipe, Remove
from swarmlearning.swop.managers.sandbox import HOME, SYSTEM, Sandbox, View, make_scratch, sandbox_arguments
from swarmlearning.swop.matching import is_within
from swarmlearning.swop.policy import Limits

BUILD_LIMIT_S: Final = 4 * 3600.0
"""After this a build has failed, unless the policy's limit is shorter."""

_CHECK_S: Final = 1.0
_STOP_S: Final = 5.0

_PASSED: Final = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT", "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT", "PIP_RETRIES", "PIP_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "LANG", "LC_ALL",
)  # fmt: skip
"""Variables of the agent that a build is given."""

_FILES: Final = ("PIP_CERT", "PIP_FIND_LINKS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
"""Those whose values may be files of this host."""

_TRY: Final = """\
import sys, swarmlearning
if swarmlearning.__file__.startswith(sys.prefix + "/"):
    sys.exit("the recipe has installed another Swarm Learning than this host's")
import swarmlearning.callbacks.session
"""

P = ParamSpec("P")
T = TypeVar("T")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A build."""

    directory: Path
    """Of the image."""
    data: Path
    """The agent's data, which no step sees."""
    sandbox: Sandbox | str
    """Or why there is none."""
    base: Base
    recipe: Recipe
    plans: dict[int, Plan]
    """Of the COPY steps, by their place among the steps."""
    log: Path
    limits: Limits


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a thread; if we are cancelled, only after it has ended, so that nothing is done behind us."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


class Builder:
    """Carries out one build."""

    def __init__(self, job: Job, tell: Tell) -> None:
        """Build in `job.directory`, which is not there yet."""
        self._job = job
        self._tell = tell
        self._files = job.directory / "files"
        self._python = str(job.directory / "venv" / "bin" / "python")
        self._deadline = 0.0

    async def run(self) -> None:
        """Build; what is there already is removed first. If it fails nothing is left.

        Raises:
            TaskFailed: a step failed.
            ConfigurationError: this host cannot start what it needs.
        """
        directory = self._job.directory
        await in_thread(remove_tree, directory)
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + min(BUILD_LIMIT_S, self._job.limits.run_time_s or BUILD_LIMIT_S)
        try:
            directory.mkdir(mode=0o700, parents=True)
            self._files.mkdir(mode=0o700)
            await self._make_environment()
            for place_, step in enumerate(self._job.recipe.steps):
                self._tell(f"step {step.number} of {self._job.recipe.total}: {step.text}")
                match step:
                    case Copy():
                        await in_thread(copy_planned, step, self._job.plans[place_], self._files)
                    case MakeDirectories():
                        await in_thread(_make_directories, step, self._files)
                    case Remove():
                        await in_thread(_remove, step, self._files)
                    case Install():
                        await self._install(step)
            self._tell("trying whether Swarm Learning works in it")
            await self._execute([self._python, "-c", _TRY], "import swarmlearning in the image", network=False)
            await in_thread(self._tidy)
        except BaseException:
            await in_thread(remove_tree, directory)
            raise

    def _tidy(self) -> None:
        """Remove what only the build needed; what it was given may hold a password."""
        (self._job.directory / "start.json").unlink()
        remove_tree(self._job.directory / "scratch")

    async def _make_environment(self) -> None:
        base, where = self._job.base, self._job.directory / "venv"
        await self._execute(
            [base.executable, "-I", "-m", "venv", "--without-pip", "--symlinks", str(where)],
            f"virtual environment of {base.executable}",
            network=False,
        )
        site = next((where / "lib").glob("python3.*/site-packages"), None)
        if site is None:
            raise TaskFailed(f"{base.executable} made a virtual environment without a directory of packages")
        lines = [*base.sources, *(f"import site; site.addsitedir({path!r})" for path in base.sites)]
        # Of such files the last by name: what the image has itself comes first.
        (site / "zzz-swarmlearning-base.pth").write_text("".join(f"{line}\n" for line in lines))
        needs_pip = any(isinstance(step, Install) for step in self._job.recipe.steps)
        if needs_pip and not base.pip:
            argv = [self._python, "-I", "-m", "ensurepip"]
            await self._execute(argv, f"pip for {base.executable}, which has none", network=False)

    async def _install(self, step: Install) -> None:
        words: list[str] = []
        wanted = False
        for argument in step.arguments:
            if not argument.path:
                words.append(argument.text)
                wanted = wanted or argument.wanted
                continue
            found = await in_thread(_expand, self._files, argument.text, pattern=argument.pattern)
            if not found:
                raise TaskFailed(
                    f"step {step.number} ({step.text}): nothing was copied to {shorten(argument.text)} in the image"
                )
            # A pattern may match the product's client, which is left out like one that is named.
            kept = [path for path in found if not is_ours(path.name)]
            words += [f"{path}{argument.extras}" for path in kept]
            wanted = wanted or bool(kept and argument.wanted)
        if not wanted:
            return
        argv = [self._python, "-I", "-m", "pip", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
        argv += ["install", "--progress-bar", "off", "--no-warn-script-location", *words]
        directory = place(self._files, step.workdir)
        await in_thread(directory.mkdir, parents=True, exist_ok=True)
        await self._execute(argv, f"step {step.number} ({step.text})", network=True, directory=directory)

    async def _execute(self, argv: Sequence[str], what: str, *, network: bool, directory: Path | None = None) -> None:
        """Run a command in the sandbox until it ends.

        Raises:
            TaskFailed: it failed, took too long, or printed too much.
        """
        job = self._job
        spec = job.directory / "start.json"
        where = directory or self._files
        data = await in_thread(self._describe_start, argv, network, str(where))
        _write_private(spec, data)
        reaper = Reaper()
        try:
            starting = (sys.executable, "-I", "-S", build_start.__file__, str(spec))
            command = Command(name="build", argv=starting, env={}, log=job.log, cwd=where)
            process = await Process.start(command, reaper)
            try:
                await self._follow(process, what)
            finally:
                await process.stop(_STOP_S)
        finally:
            reaper.close()
        if process.status:
            said = next((line for line in reversed(process.tail()) if "error" in line.lower()), "")
            said = said or (process.tail() or [""])[-1]
            raise TaskFailed(f"{what} failed with status {process.status}: {shorten(said)}", exit_status=process.status)

    def _describe_start(self, argv: Sequence[str], network: bool, where: str) -> bytes:
        """What `build_start` is to start; makes the directories that it needs."""
        job = self._job
        scratch, environments = job.directory / "scratch", job.directory / "venv"
        environments.mkdir(mode=0o700, exist_ok=True)
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {"PYTHONUNBUFFERED": "1"}  # what is said last stands last in the log
        environment["PATH"] = f"{environments / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        sandbox = None
        if isinstance(job.sandbox, Sandbox):
            mounts = [Mounted(source=str(self._files), target=str(self._files), writable=False)]
            mounts += [Mounted(source=path, target=path, writable=False) for path in _named_files(environment)]
            mounts.append(Mounted(source=str(environments), target=str(environments), writable=True))
            environment |= {"HOME": HOME, "TMPDIR": "/tmp"}  # noqa: S108  # its own
            view = View(
                interpreters=(*job.base.paths, str(job.directory)),
                hidden=str(job.data),
                mounts=tuple(mounts),
                scratch=scratch,
                working_dir=where,
                env=tuple(environment.items()),
                online=network,
            )
            make_scratch(view)
            sandbox = [job.sandbox.program, *sandbox_arguments(job.sandbox, view)]
        else:
            scratch.mkdir(mode=0o700, exist_ok=True)
            environment |= {"HOME": str(scratch), "TMPDIR": str(scratch)}
        wanted = {"RLIMIT_DATA": job.limits.memory, "RLIMIT_NOFILE": job.limits.open_files}
        limits = {name: most for name, most in wanted.items() if most is not None}
        return msgspec.json.encode({"limits": limits, "argv": list(argv), "env": environment, "sandbox": sandbox})

    async def _follow(self, process: Process, what: str) -> None:
        """Wait until a process has ended, and see that it takes and prints no more than it may."""
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(process.wait())
        printed = self._job.log.stat().st_size
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=_CHECK_S)
                if loop.time() > self._deadline:
                    raise TaskFailed(f"{what}: the build took longer than it may")
                if self._job.log.stat().st_size - printed > self._job.limits.log:
                    raise TaskFailed(f"{what}: it printed more than {self._job.limits.log} bytes")
        finally:
            waiting.cancel()


def _named_files(environment: dict[str, str]) -> list[str]:
    """Files and directories of this host that variables of pip name."""
    words = [word for name in _FILES for word in environment.get(name, "").split()]
    found = {os.path.realpath(word) for word in ("/etc/pip.conf", *words) if word.startswith("/")}
    shown = [path for path in (*SYSTEM, "/etc/ssl/certs") if Path(path).exists()]
    return sorted(path for path in found if Path(path).exists() and not any(is_within(path, each) for each in shown))


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _expand(files: Path, path: str, *, pattern: bool) -> list[Path]:
    """Where a path in the image is on this host, or all that match it."""
    where = place(files, path)
    if where.exists() or not pattern:
        return [where] if where.exists() else []
    return sorted(files.glob(path.lstrip("/")))


def _make_directories(step: MakeDirectories, files: Path) -> None:
    for path in step.paths:
        try:
            place(files, path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TaskFailed(f"step {step.number} ({step.text}): {error.strerror}") from error


def _remove(step: Remove, files: Path) -> None:
    for path in step.paths:
        for found in _expand(files, path, pattern=True):
            if found.is_dir():
                remove_tree(found)
            else:
                found.unlink()
