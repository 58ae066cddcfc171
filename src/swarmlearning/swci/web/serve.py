"""The REST service's process: its identity, its SN, its port. Spec: CI-20 to CI-23."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.clock import system_clock
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.swci.contexts import Book, Context, IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.session import Output, Session, reach
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import ContextName
from swarmlearning.swci.web.events import KEEPALIVE_S, Events
from swarmlearning.swci.web.following import Follower
from swarmlearning.swci.web.hub import Hub
from swarmlearning.swci.web.problems import MEDIA_TYPE, WebRefusal, problem_of
from swarmlearning.swci.web.service import RECHECK_S, WebService
from swarmlearning.swci.web.sessions import BUSY_S, MAX_SESSIONS, Sessions
from swarmlearning.transport.server import Listener, ServerLimits
from swarmlearning.transport.tls import Tls
from swarmlearning.types import Endpoint, NodeId, Role

START_WAIT_S: Final = 120.0
"""How long the SN may take at the start to say who belongs to the network, seconds."""

DEFAULT_CONTEXT: Final = ContextName("default")
"""The context that every session begins with: the service's own SN."""

LIMITS: Final = ServerLimits(
    connections=256,
    connections_per_peer=16,
    # A line of the command interface stands in the first line of a request, percent-encoded.
    target_bytes=64 << 10,
    header_bytes=16 << 10,
    headers=64,
)
"""As for nodes, but for what ordinary clients and their proxies send."""

_LOG: Final = logging.getLogger("swarmlearning.swci.web")


class WebConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is started with."""

    sn: Endpoint
    """API of the organisation's own SN."""
    host: str
    port: int
    root: Path
    """Callers' files stay below it."""
    identity: IdentityPaths
    """The service's own: an operator's."""
    limits: ServerLimits = LIMITS
    sessions: int = MAX_SESSIONS
    start_wait_s: float = START_WAIT_S
    busy_s: float = BUSY_S
    recheck_s: float = RECHECK_S
    keepalive_s: float = KEEPALIVE_S


class WebNode:
    """A running REST service."""

    def __init__(self, config: WebConfig, entries: Sequence[Entry] = COMMANDS) -> None:
        """Load the identity; nothing listens yet.

        Raises:
            IdentityError: the identity is missing, expired or does not match.
            ConfigurationError: it is no operator's, the root is no directory, or a file of the identity lies below it.
        """
        self.config = config
        source = config.identity.source()
        _keep_apart(Directory(config.root).root, source, config.identity.sign_key)
        credential = source.load(system_clock())
        self.name = credential.node
        if self.name.role is not Role.OPERATOR:
            raise ConfigurationError(
                f"certificate {credential.certificate_path} has the role {self.name.role.value}; the REST service "
                "needs the role operator, since it signs for operators (swarm cert issue --role operator)"
            )
        # Until the SN has said who belongs to the network nobody is listened to; this is replaced before that.
        own = {self.name.domain: Trust(issuers=credential.issuers, roles=tuple(Role))}
        self._trust = TrustStore(self.name.network, system_clock, own)
        self._hub = Hub()
        self._entries = entries
        self._follower = Follower(lambda: reach(source, config.sn), self._trust, self._hub)
        self._sessions = Sessions(self._make_session, most=config.sessions, busy_s=config.busy_s)
        events = Events(self._hub, stall_s=config.limits.stall_s, keepalive_s=config.keepalive_s)
        service = WebService(
            self.name, entries, self._sessions, events, limits=config.limits, recheck_s=config.recheck_s
        )
        tls = Tls(self._trust, config.identity.source(), system_clock, explain=explain_refusal)
        self._listener = Listener(tls, service, config.limits)
        self._following: asyncio.Task[None] | None = None

    def _make_session(self, caller: NodeId, output: Output) -> Session:
        book = Book(contexts=(Context(name=DEFAULT_CONTEXT, sn=self.config.sn),), current=DEFAULT_CONTEXT)
        session = Session(
            contexts=MemoryContexts(book),
            directory=Directory(self.config.root),
            output=output,
            identity=self.config.identity,
            caller=caller,
        )
        session.entries = self._entries
        return session

    async def start(self) -> int:
        """Learn from the SN who belongs to the network, then listen; returns the port.

        Raises:
            Unreachable: the SN did not say so in time.
            AddressInUse: the port is taken.
            SwarmError: the SN is none, or not our organisation's.
        """
        self._following = asyncio.create_task(self._follower.run())
        await self._follower.until_known(self.config.start_wait_s, self._following)
        return await self._listener.start(self.config.host, self.config.port)

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._following is None:
            return
        await self._following

    async def stop(self) -> None:
        """End the streams, stop listening, close sessions and connections."""
        self._hub.end("the service stops")
        await self._listener.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._sessions.close()


def _keep_apart(root: Path, source: PemSource, sign_key: str) -> None:
    """CI-22: below the root callers read, and replace what they upload: what says who anybody is lies elsewhere.

    Raises:
        ConfigurationError: it does not.
    """
    for path in (source.cert, source.key, source.cacert, source.capath, Path(sign_key) if sign_key else None):
        # Neither the file nor a link to it.
        if path is not None and any(p.is_relative_to(root) for p in (path.resolve(), path.parent.resolve())):
            raise ConfigurationError(
                f"{path} lies below {root}, where callers read and write files; keep the identity's files elsewhere, "
                "or name another --usr-dir"
            )


def explain_refusal(reason: str) -> tuple[str, bytes]:
    """How a client is told that its certificate does not count."""
    problem = problem_of(WebRefusal(403, "certificate", reason), compatible=True)
    return MEDIA_TYPE, msgspec.json.encode(problem)
