"""Opens the managers of containers. The `docker` package is imported here first, when such a manager is asked for."""

import os
import types

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.swop.managers.boundary import Manager, ManagerSettings
from swarmlearning.swop.profile import ManagerKind


async def open_docker(settings: ManagerSettings) -> Manager:
    """A manager on the Docker engine that the environment names.

    Raises:
        ConfigurationError: the `docker` package is missing, or settings or environment are wrong.
        Unreachable: no engine answers; says what was tried.
    """
    return await _open(ManagerKind.DOCKER, settings)


async def open_podman(settings: ManagerSettings) -> Manager:
    """A manager on the Podman service that the environment names.

    Raises:
        As `open_docker`.
    """
    return await _open(ManagerKind.PODMAN, settings)


async def _open(kind: ManagerKind, settings: ManagerSettings) -> Manager:
    module = _import_engine(kind)
    from swarmlearning.swop.managers.docker_manager import ContainerManager

    engine = await module.run_in_thread(lambda: module.connect(kind))
    if not settings.sl_image:
        engine.close()
        raise ConfigurationError(f"{kind.value} runs SLs in containers: expected their image (--sl-image)")
    try:
        return ContainerManager(engine, settings, own_user(rootless=engine.rootless))
    except BaseException:
        engine.close()
        raise


def own_user(*, rootless: bool) -> str:
    """`uid:gid` for containers: `SWOP_UID` and `SWOP_GID`, else whoever this is, as the engine sees them.

    Raises:
        ConfigurationError: a variable is no number.
    """
    # Whoever runs a rootless engine is root in its containers, and nobody but them on the host.
    own = ("0", "0") if rootless else (str(os.getuid()), str(os.getgid()))
    numbers = []
    for name, default in zip(("SWOP_UID", "SWOP_GID"), own, strict=True):
        text = os.environ.get(name) or default
        if not (text.isascii() and text.isdigit() and int(text) < 1 << 31):
            raise ConfigurationError(f"{name}={text[:80]}: expected the number of a user or group")
        numbers.append(text)
    return ":".join(numbers)


def _import_engine(kind: ManagerKind) -> types.ModuleType:
    try:
        from swarmlearning.swop.managers import docker_engine
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("docker", "requests", "urllib3"):
            raise
        # To those who can do without, that is as good as no engine.
        raise Unreachable(
            f"{kind.value} needs the Python package docker, which is not installed: "
            "pip install 'swarmlearning[containers]' or, from a clone, '.[containers]'"
        ) from error
    return docker_engine
