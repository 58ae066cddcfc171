"""Opens the resource manager that profile or command line name, or else the one that this host has.

Each kind has one function here. Spec: docs/spec/swop-process.md, SW-59.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from swarmlearning.errors import SwarmError, Unreachable
from swarmlearning.swop.managers.boundary import Manager, ManagerSettings
from swarmlearning.swop.managers.docker_opening import open_docker, open_podman
from swarmlearning.swop.managers.process import ProcessManager
from swarmlearning.swop.profile import ManagerKind

log = logging.getLogger("swarmlearning.swop")

Opener = Callable[[ManagerSettings], Awaitable[Manager]]
"""Opens a manager of one kind; raises `Unreachable` where this host has no such engine, or it does not answer."""


async def open_process(settings: ManagerSettings) -> Manager:
    """Pairs as processes of this host."""
    return await ProcessManager.open(settings)


OPENERS: Final[Mapping[ManagerKind, Opener]] = {
    ManagerKind.PROCESS: open_process,
    ManagerKind.DOCKER: open_docker,
    ManagerKind.PODMAN: open_podman,
}


async def open_manager(
    kind: ManagerKind | None,
    settings: ManagerSettings,
    *,
    insist: bool = False,
    warn: Callable[[str], None] = log.warning,
    openers: Mapping[ManagerKind, Opener] = OPENERS,
) -> Manager:
    """Open a manager.

    Args:
        kind: by profile or command line; None: containers where an engine answers and `settings` have an image for
            SLs, else processes. The product's profiles all say DOCKER, so without an engine that means processes too,
            unless `insist`.
        settings: for it.
        insist: whether `kind` was named on the command line: no other one then.
        warn: is told in a line that another one was taken.
        openers: what opens each kind.

    Raises:
        ConfigurationError: this host or the settings are at fault.
        Unreachable: PODMAN was named, or `kind` was insisted on, and its engine does not answer.
    """
    if kind is not None and (insist or kind is not ManagerKind.DOCKER):
        return await openers[kind](settings)
    if kind is None and not settings.sl_image:
        return await openers[ManagerKind.PROCESS](settings)
    reasons = []
    for tried in (ManagerKind.DOCKER, ManagerKind.PODMAN) if kind is None else (kind,):
        try:
            return await openers[tried](settings)
        except Unreachable as error:
            reasons.append(_say(error))
    manager = await openers[ManagerKind.PROCESS](settings)
    wanted = "the profile says DOCKER, but there is none" if kind is not None else "there is no container engine"
    warn(f"{wanted} ({'; '.join(reasons)}): the resource manager is PROCESS, {manager.describe()}")
    return manager


def _say(error: SwarmError) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
