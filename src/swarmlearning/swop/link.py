"""The agent's one SN: found, asked, followed, and waited for while it is away. Spec: docs/spec/swop.md, SW-3."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, TypeVar

from swarmlearning.clock import system_clock
from swarmlearning.errors import ConfigurationError, PeerError, Refused, SwarmError, Unreachable
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.reports.status import make_printable
from swarmlearning.sn.api import Changes
from swarmlearning.sn.asking import CONNECT_S, open_submitter
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.discover import discover
from swarmlearning.types import Endpoint, NodeName, Role

log = logging.getLogger("swarmlearning.swop")

T = TypeVar("T")

AGAIN_S: Final = 1.0
"""How long after a failure the SN is tried again, seconds."""

GOODBYE_S: Final = 2.0
"""How long the SN may take to answer what was said before we end, seconds."""

PASSING: Final = frozenset({"busy", "Closed", "Unreachable", "WaitExpired"})
"""Codes of refusals that come from the SN's own troubles: the same may be said again later."""


def is_passing(error: SwarmError) -> bool:
    """Whether the same may succeed a little later; what cannot be verified or read now may be, from another SN."""
    if isinstance(error, Refused):
        return error.code in PASSING
    return isinstance(error, Unreachable | PeerError)


class Link:
    """Speaks to the SN as this agent."""

    def __init__(self, identity: PemSource, sn: Endpoint, sign_key: str | None = None) -> None:
        """Load the identity; nobody is asked yet.

        Raises:
            IdentityError: the identity is missing, expired or does not match.
            ConfigurationError: it is no agent's.
        """
        credential = identity.load(system_clock())
        if credential.node.role is not Role.SWOP:
            raise ConfigurationError(
                f"certificate {credential.certificate_path} is {credential.node.role.value}'s; expected "
                f"{Role.SWOP.value}'s: issue one with swarm cert issue --role {Role.SWOP.value}"
            )
        self.name: NodeName = credential.node
        self.secrets = (str(credential.key_path),)
        """Files of ours that no program may see."""
        self.endpoint = sn
        self._identity = identity
        self._sign_key = sign_key
        own = {credential.node.domain: Trust(issuers=credential.issuers, roles=tuple(Role))}
        self._trust = TrustStore(credential.node.network, system_clock, own)
        self._http = HttpClient(self._trust, identity)
        self._client: SnClient | None = None
        self._submitter: Submitter | None = None
        self._up = asyncio.Event()
        self._told = ""
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def is_up(self) -> bool:
        """Whether the SN answered last."""
        return self._up.is_set()

    async def close(self) -> None:
        """Let what was said be answered, for a moment, and close the connections."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=GOODBYE_S)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._http.close()

    async def _carry(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call that goes on where its caller is cancelled: what was said is known to have been said."""
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen

    async def _connect(self) -> None:
        """Find out who answers, and register our key.

        Raises:
            Unreachable, PeerError: see `discover` and `open_submitter`.
            ConfigurationError: it is no SN of our organisation.
        """
        name = await discover(self._trust, self._identity, self.endpoint, timeout_s=CONNECT_S)
        if name.role is not Role.SN or name.domain != self.name.domain:
            raise ConfigurationError(f"{self.endpoint} is {name.id}, not the SN of {self.name.domain}")
        client = SnClient(self._http, Address(node=name.id, endpoint=self.endpoint))
        self._submitter = await self._carry(open_submitter(client, self._identity, self._sign_key))
        self._client = client

    async def follow(self) -> AsyncGenerator[Changes, None]:
        """What changes on the ledger, for ever: whenever the SN was away, the next notice says everything."""
        while True:
            try:
                if self._client is None:
                    await self._connect()
                assert self._client is not None
                async with contextlib.aclosing(self._client.changes()) as changes:  # type: ignore[type-var]  # it has
                    async for notice in changes:
                        self._note_up()
                        yield notice
            except (Unreachable, PeerError, ConfigurationError) as error:
                self._note_down(error)
            await asyncio.sleep(AGAIN_S)

    def _note_up(self) -> None:
        if not self._up.is_set():
            log.info("connected with the SN at %s", self.endpoint)
        self._told = ""
        self._up.set()

    def _note_down(self, error: SwarmError) -> None:
        self._up.clear()
        if not isinstance(error, Unreachable):
            # Perhaps another node answers there now.
            self._client = None
        text = make_printable(str(error))
        if text != self._told:
            self._told = text
            log.warning("the SN at %s is away, what runs goes on: %s", self.endpoint, text)

    async def greet(self) -> None:
        """Ask something, so that the SN knows that we are here; whether it answers `follow` finds out."""
        if self._client is not None and self.is_up:
            with contextlib.suppress(Unreachable, PeerError):
                await self._carry(self._client.status())

    async def ask(self, question: Callable[[SnClient], Coroutine[Any, Any, T]]) -> T:
        """What the SN answers.

        Raises:
            Unreachable: it is away, or does not answer.
            PeerError: it refuses, or what it says cannot be read.
        """
        if self._client is None:
            raise Unreachable(f"the SN at {self.endpoint} is away")
        return await self._carry(question(self._client))

    async def say(self, speech: Callable[[Submitter], Coroutine[Any, Any, T]]) -> T:
        """What becomes of something said on the ledger.

        Raises:
            Unreachable: the SN is away, or it is not known to be ordered in time.
            Refused: the ledger refused it, and says why.
        """
        if self._submitter is None or self._client is None:
            raise Unreachable(f"the SN at {self.endpoint} is away")
        return await self._carry(speech(self._submitter))

    async def insist(self, question: Callable[[SnClient], Coroutine[Any, Any, T]]) -> T:
        """What the SN answers, as soon as it does.

        Raises:
            Refused: it refuses for good.
        """
        while True:
            await self._up.wait()
            try:
                return await self.ask(question)
            except SwarmError as error:
                if not is_passing(error):
                    raise
                log.debug("asking again: %s", error)
            await asyncio.sleep(AGAIN_S)
