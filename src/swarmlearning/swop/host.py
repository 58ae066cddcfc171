"""What all work of an agent shares: its SN, its journal, the manager, the profile, and who decides.

Records and small holders; does nothing by itself.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.clock import WallClock, system_clock
from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.journal import Journal
from swarmlearning.swop.link import Link
from swarmlearning.swop.managers.boundary import Manager
from swarmlearning.swop.nodes import Nodes
from swarmlearning.swop.outcomes import Outcomes
from swarmlearning.swop.policy import NO_POLICY, Policy, ShareLog
from swarmlearning.swop.profile import Profile
from swarmlearning.swop.telling import find_private
from swarmlearning.types import Endpoint

log = logging.getLogger("swarmlearning.swop")

READY_S: Final = 60.0
LINGER_S: Final = 45.0


class PolicyBook:
    """The institution's policy, as its file says now."""

    def __init__(self, path: Path | None, load: Callable[[Path], Policy]) -> None:
        """Read it; None: a person is asked each time.

        Raises:
            ConfigurationError: it cannot be read.
        """
        self._path = path
        self._load = load
        self._policy = NO_POLICY if path is None else load(path)
        self._stamp = self._look()
        self._fault = ""
        self.version = 0
        """Grows whenever the file was changed."""

    def _look(self) -> tuple[int, ...] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        # The last one notices that others may write it now, too.
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns

    def refresh(self) -> None:
        """Read the file again if it was changed."""
        stamp = self._look()
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        self.version += 1
        try:
            self._policy, self._fault = self._load(self._path), ""
        except ConfigurationError as error:
            self._fault = make_printable(str(error))
            log.warning("nothing is decided until the policy can be read: %s", self._fault)
            return
        log.info("the policy %s was read anew", self._path)
        for warning in self._policy.warnings:
            log.warning("%s", warning)

    def current(self) -> Policy:
        """The policy as its file is now.

        Raises:
            ConfigurationError: it was changed, and cannot be read.
        """
        self.refresh()
        if self._fault:
            raise ConfigurationError(self._fault)
        return self._policy

    @property
    def share_log(self) -> ShareLog:
        """When last lines of logs may go on the ledger: never, where the file cannot be read."""
        self.refresh()
        return ShareLog.NEVER if self._fault else self._policy.share_log


class Paces(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may take, seconds; tests wait less."""

    ready_s: float = READY_S
    """An SL until programs can meet it, while our SN answers."""
    linger_s: float = LINGER_S
    """An SL to end by itself when all its trainings are complete: longer than it serves others at its end."""
    presence_s: float = 5.0
    """Between two signs of life."""
    lost_s: float = 120.0
    """Until what the ledger says that we took, and we know nothing of, has failed: perhaps another agent is at it."""
    reconsider_s: float = 20.0
    """Until a task that awaits approval is decided anew without news: hours begin."""


class Host:
    """What all work of an agent shares."""

    def __init__(
        self,
        *,
        data: Path,
        link: Link,
        journal: Journal,
        outcomes: Outcomes,
        manager: Manager,
        profile: Profile,
        policy: PolicyBook,
        sn: Endpoint,
        host_ip: str,
        keep: bool = False,
        paces: Paces = Paces(),  # noqa: B008  # frozen
        clock: WallClock = system_clock,
    ) -> None:
        """Hold these; `keep` is `SWOP_KEEP_CONTAINERS`."""
        self.data = data
        self.link = link
        self.journal = journal
        self.outcomes = outcomes
        self.manager = manager
        self.profile = profile
        self.policy = policy
        self.sn = sn
        self.host_ip = host_ip
        self.keep = keep
        self.paces = paces
        self.clock = clock
        self.nodes = Nodes()
        self.private = find_private(profile, data, link.secrets)
        """What of this host's paths is told to nobody."""
        self.slots = asyncio.Semaphore(4)
        """How many builds and downloads go on at once."""
