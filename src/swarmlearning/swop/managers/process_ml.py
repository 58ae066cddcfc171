"""How the PROCESS manager starts a pair's program: what is run, with which variables, in a sandbox or without.

Spec: docs/spec/swop-process.md, SW-45, SW-46, SW-49 and SW-52.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Final

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers import sandbox as sandboxes
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.process_images import Image
from swarmlearning.swop.managers.process_mounts import (
    VOLUMES,
    Mounted,
    check_sources,
    check_target,
    check_views,
    find_mounts,
)
from swarmlearning.swop.managers.process_parts import Launch, ShimLimits
from swarmlearning.swop.managers.process_plain import PlainRoot, make_root
from swarmlearning.swop.managers.process_sl import apply, find_identity, find_proxies
from swarmlearning.swop.managers.sandbox import Sandbox, View
from swarmlearning.swop.matching import is_within
from swarmlearning.swop.profile import IdentityPart, Option

_PYTHON: Final = re.compile(r"(?:/usr/bin/|/usr/local/bin/|/opt/conda/bin/)?python(?:3(?P<minor>\.[0-9]+)?)?")
_PROTECTED: Final = (*sandboxes.SYSTEM, "/etc", "/proc", "/sys", "/dev", "/run", "/var/tmp")  # noqa: S108  # hidden
_GPU: Final = re.compile(r"nvidia[0-9]+|nvidiactl|nvidia-uvm(-tools)?|nvidia-modeset|nvidia-caps|kfd|dri")


def ml_launch(
    pair: Pair, control: Path, image: Image, sandbox: Sandbox | None, data: Path, secrets: tuple[str, ...] = ()
) -> Launch:
    """What to start; makes the directories that it needs.

    Args:
        pair: whose program.
        control: directory of its SL's socket.
        image: which it runs in.
        sandbox: in which it runs; None: there is none.
        data: the agent's.
        secrets: files of keys, other than the pair's own, of which it sees nothing.

    Raises:
        ConfigurationError: something that is to be mounted is not there or must not be shown, or the command is none.
    """
    volumes = data / VOLUMES
    mounts = find_mounts(pair, volumes)
    working_dir = check_target("WorkingDir", pair.body.working_dir)
    keys = (*_find_secrets(pair, volumes), *map(Path, secrets))
    check_sources(mounts, data, keys, (*sandboxes.SYSTEM, *image.paths))
    argv = program_words(pair, image)
    limits = ShimLimits(
        memory=pair.limits.memory,
        processes=pair.limits.processes,
        open_files=pair.limits.open_files,
        cpus=pair.limits.cpus,
        run_time_s=pair.limits.run_time_s,
    )
    if sandbox is None:
        return _launch_plain(pair, control, image, mounts, working_dir, argv, limits)
    interpreters = check_interpreters(image.paths)
    check_views(mounts, working_dir, (*_PROTECTED, *interpreters))
    environment = _environment(pair, image, home=sandboxes.HOME, tmp="/tmp")  # noqa: S108  # its own
    environment |= {"SWARM_SL": sandboxes.CONTROL, "SWARM_EXCHANGE_DIR": sandboxes.EXCHANGE}
    view = View(
        interpreters=interpreters,
        files=image.files,
        hidden=str(data.resolve()),
        mounts=mounts,
        scratch=Path(pair.directory) / "scratch",
        control=str(control.resolve()),
        exchange=str((Path(pair.directory) / "exchange").resolve()),
        working_dir=working_dir,
        env=tuple(apply(environment, pair.ml_environment).items()),
        host_name=pair.node.program_hostname,
        online=pair.online,
        devices=find_gpus() if wants_gpus(pair.node.program_options) else (),
        memory=pair.limits.memory,
    )
    try:
        sandboxes.make_scratch(view)
    except OSError as error:
        raise ConfigurationError(f"{view.scratch} cannot be made: {error.strerror}") from error
    return Launch(
        argv=argv,
        env={},
        cwd="/",
        log=pair.ml_log,
        log_bytes=pair.limits.log,
        limits=limits,
        sandbox=sandboxes.sandbox_arguments(sandbox, view),
        sandbox_program=sandbox.program,
    )


def _launch_plain(
    pair: Pair,
    control: Path,
    image: Image,
    mounts: tuple[Mounted, ...],
    working_dir: str,
    argv: tuple[str, ...],
    limits: ShimLimits,
) -> Launch:
    directory = Path(pair.directory)
    root = PlainRoot(directory=directory / "root", mounts=mounts, working_dir=working_dir, files=image.files)
    make_root(root)
    for name in ("home", "tmp"):
        (directory / "scratch" / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = _environment(
        pair, image, home=str(directory / "scratch" / "home"), tmp=str(directory / "scratch" / "tmp")
    )
    environment |= {"SWARM_SL": str(control), "SWARM_EXCHANGE_DIR": str(directory / "exchange")}
    wanted = tuple((name, value if value is None else root.rewrite(value)) for name, value in pair.ml_environment)
    return Launch(
        # The image's own interpreter is where it is, whatever the task mounts above it.
        argv=tuple(word if word == image.python else root.rewrite(word) for word in argv),
        env=apply(environment, wanted),
        cwd=root.place(working_dir),
        log=pair.ml_log,
        log_bytes=pair.limits.log,
        limits=limits,
    )


def program_words(pair: Pair, image: Image) -> tuple[str, ...]:
    """Entrypoint and command as words, without a shell; `python` in front is the image's.

    Raises:
        ConfigurationError: there is no word, or a quotation mark is missing.
    """
    try:
        words = [*shlex.split(pair.body.entrypoint), *shlex.split(pair.body.command)]
    except ValueError as error:
        raise ConfigurationError(
            f"Entrypoint {pair.body.entrypoint!r} and Command {pair.body.command!r} cannot be split into words "
            f"({error}): close every quotation mark"
        ) from error
    if not words:
        raise ConfigurationError("Entrypoint and Command are empty: expected a program")
    known = _PYTHON.fullmatch(words[0])
    if known is not None and known["minor"] in (None, _minor(image.version)):
        words[0] = image.python
    return tuple(words)


def _environment(pair: Pair, image: Image, *, home: str, tmp: str) -> dict[str, str]:
    environment = {
        "HOME": home,
        "TMPDIR": tmp,
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }
    # A proxy's address may hold a password: only for those that may use the network.
    return environment | dict(image.environment) | (find_proxies(os.environ) if pair.online else {})


def _minor(version: str) -> str:
    """`.11` of `3.11.7`."""
    return "." + version.split(".")[1]


def check_interpreters(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Directories of interpreters, which are shown as a whole.

    Raises:
        ConfigurationError: one is much more than that: a home directory, say.
    """
    wide = {"/", "/home", "/root", "/etc", "/var", "/opt", "/srv", "/mnt", str(Path.home())}
    for path in paths:
        if path in wide:
            raise ConfigurationError(
                f"a Python of this host is installed in {path}, all of which would be shown to programs of tasks: use "
                "one in a directory of its own (python -m venv)"
            )
    return tuple(path for path in paths if not is_within(path, "/usr"))


def _find_secrets(pair: Pair, volumes: Path) -> tuple[Path, ...]:
    return tuple(
        find_identity(attribute, volumes) for attribute in pair.node.identity if attribute.part is IdentityPart.KEY
    )


def wants_gpus(options: tuple[Option, ...]) -> bool:
    """Whether the profile's `usrcontaineropts` ask for graphics processors: `gpus`, or `device` with one of theirs."""
    return any(
        option.name.strip("-") == "gpus"
        or (option.name.strip("-") == "device" and _GPU.search(option.value.removeprefix("/dev/")) is not None)
        for option in options
    )


def find_gpus() -> tuple[str, ...]:
    """Files of /dev that programs need for graphics processors."""
    return tuple(sorted(str(path) for path in Path("/dev").iterdir() if _GPU.fullmatch(path.name)))
