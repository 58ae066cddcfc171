"""Follows the ledger through the service's SN: by whom callers are verified, and what changes. Spec: CI-21.

While the SN is silent, what it said last stays in force, and it is asked again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from swarmlearning.errors import ConfigurationError, SwarmError, Unreachable
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.sn.client import SnClient
from swarmlearning.swci.web.hub import Hub

_LOG: Final = logging.getLogger("swarmlearning.swci.web")

RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 15.0
"""Pauses between attempts to reach the SN double from the one to the other."""


class Follower:
    """Follows one SN."""

    def __init__(
        self,
        reach: Callable[[], AbstractAsyncContextManager[SnClient]],
        trust: TrustStore,
        hub: Hub,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        """Follow whom `reach` connects to; tell `trust` and `hub`."""
        self._reach = reach
        self._trust = trust
        self._hub = hub
        self._retry_s = retry_s
        self._known = asyncio.Event()

    async def until_known(self, within_s: float, running: "asyncio.Task[None]") -> None:
        """Wait until the SN has said who belongs to the network.

        Raises:
            Unreachable: it has not within `within_s` seconds.
            SwarmError: what ended `running`, the task that runs `run`.
        """
        known = asyncio.ensure_future(self._known.wait())
        try:
            done, _ = await asyncio.wait({known, running}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if running in done:
                running.result()
            if known not in done:
                raise Unreachable(
                    f"the SN did not say within {within_s:g} s who belongs to the network: {self._hub.silence}; is it "
                    "running, and is --sn its API's address?"
                )
        finally:
            known.cancel()

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            ConfigurationError: the first time that the SN is asked, our identity or its address cannot be used.
        """
        pause_s = self._retry_s
        while True:
            before = self._hub.height
            try:
                await self._follow()
                reason = "the SN ended its stream of changes"
            except SwarmError as error:
                if isinstance(error, ConfigurationError) and not self._known.is_set():
                    raise
                reason = str(error)
            self._hub.silent(reason)
            _LOG.warning("the SN is silent, asking again in %g s: %s", pause_s, reason)
            await asyncio.sleep(pause_s)
            pause_s = self._retry_s if self._hub.height > before else min(2 * pause_s, RETRY_MAX_S)

    async def _follow(self) -> None:
        async with self._reach() as sn:
            begun = False
            async for notice in sn.changes():
                # The first one names nothing: members are asked for once the stream has begun, so that no change of
                # them falls in between.
                if notice.members or notice.everything or not begun:
                    await self._learn(sn)
                if begun:
                    self._hub.publish(notice)
                else:
                    self._hub.begin(notice)
                    begun = True
                    self._known.set()

    async def _learn(self, sn: SnClient) -> None:
        directory = await sn.directory()
        self._trust.update(
            {
                known.domain: Trust(issuers=known.issuers, roles=known.roles, revoked=known.revoked)
                for known in directory.organisations
            }
        )
        self._hub.wake()
