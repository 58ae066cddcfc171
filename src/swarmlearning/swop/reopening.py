"""Which resource manager an agent goes on with: the one that has what it started. Spec: docs/spec/swop.md, SW-14."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.identity.files import SECRET_MODE, write_file
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.managers.boundary import Manager, ManagerSettings
from swarmlearning.swop.managers.opening import open_manager
from swarmlearning.swop.profile import ManagerKind

log = logging.getLogger("swarmlearning.swop")

WAIT_S: Final = 300.0
"""How long an engine that has peers of ours is waited for, seconds: when a machine starts it may come late."""

_AGAIN_S: Final = 2.0
_FILE: Final = "manager"

Open = Callable[..., Awaitable[Manager]]


async def open_again(
    wanted: ManagerKind | None,
    settings: ManagerSettings,
    *,
    named: bool,
    has_pairs: bool,
    wait_s: float = WAIT_S,
    opens: Open = open_manager,
) -> Manager:
    """SW-14: open a manager; while there are pairs of an earlier process the same kind, which is waited for.

    Args:
        wanted: by command line or profile.
        settings: for the manager.
        named: whether the command line names it.
        has_pairs: whether the journal has pairs of which something may be on this host.
        wait_s: how long an engine that has them is waited for, seconds.
        opens: as `open_manager`.

    Raises:
        ConfigurationError: another kind is named; or as `open_manager`.
        Unreachable: the engine did not answer in time.
    """
    path = Path(settings.data) / _FILE
    before = _read(path) if has_pairs else None
    if before is None:
        manager = await opens(wanted, settings, insist=named)
    elif named and wanted is not before:
        raise ConfigurationError(
            f"peers of earlier tasks are with {before.value}: start with --resource-manager {before.value.lower()} "
            "until their taskrunners are reset"
        )
    else:
        manager = await _insist(before, settings, wait_s, opens)
    write_file(path, manager.kind.value.encode(), mode=SECRET_MODE, force=True)
    return manager


async def _insist(kind: ManagerKind, settings: ManagerSettings, wait_s: float, opens: Open) -> Manager:
    loop = asyncio.get_running_loop()
    end_s, told = loop.time() + wait_s, False
    while True:
        try:
            return await opens(kind, settings, insist=True)
        except Unreachable as error:
            if loop.time() >= end_s:
                raise
            if not told:
                told = True
                log.warning(
                    "waits for %s, which has peers of earlier tasks, %.0f s at most: %s",
                    kind.value,
                    wait_s,
                    make_printable(str(error)),
                )
        await asyncio.sleep(min(_AGAIN_S, wait_s))


def _read(path: Path) -> ManagerKind | None:
    try:
        return ManagerKind(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
