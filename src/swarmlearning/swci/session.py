"""One person's session: context, connection to its SN, directory, and where it is said what happens.

A shell and a script have one; the REST service one for each caller.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from msgspec.structs import replace
from rich.console import Console

from swarmlearning.clock import system_clock
from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.identity.source import PemSource
from swarmlearning.reports.status import make_printable
from swarmlearning.sn.asking import CONNECT_S, open_sn, open_submitter
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.swci.contexts import Book, Context, Contexts, IdentityPaths, drop_context, find_context
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.values import ContextName
from swarmlearning.types import Endpoint, NodeId, Role

WRITERS: Final = (Role.OPERATOR, Role.SN)
"""Roles that may sign what commands say."""


class Output(Protocol):
    """Where a command says something while it goes on."""

    @property
    def console(self) -> Console | None:
        """The terminal, for what is drawn anew while one watches; None: lines only."""
        ...

    def tell(self, line: str) -> None:
        """Say a line of text."""
        ...


class Session:
    """What commands work on.

    Attributes:
        contexts: where its contexts are kept.
        directory: its files.
        output: where a command that goes on says how far it is.
        caller: on whose behalf it signs; empty: for itself.
        entries: the commands that its lines are read with, which HELP tells of.
        as_json: answers are for programs.
        exit_on_failure: the first command that fails ends it.
        ended: it was told to end.
        keeps_identity: a context that is created keeps as whom the session speaks.
    """

    def __init__(
        self,
        *,
        contexts: Contexts,
        directory: Directory,
        output: Output,
        identity: IdentityPaths,
        caller: NodeId = NodeId(""),  # noqa: B008  # a str
        keeps_identity: bool = False,
        insists: bool = False,
        current: ContextName | None = None,
    ) -> None:
        """Begin a session that speaks as `identity` where its context does not say otherwise.

        `current` is the context that its commands are about; None: the one that is kept as the default. With `insists`
        it speaks as `identity` whatever that context says, since somebody has just asked for it, until it switches.
        """
        self._insists = insists and bool(identity.cert)
        self._current = current
        self.keeps_identity = keeps_identity
        self.contexts = contexts
        self.directory = directory
        self.output = output
        self.caller = caller
        self.entries: Sequence[Entry] = ()
        self.as_json = False
        self.exit_on_failure = False
        self.ended = False
        self.identity = identity
        self._open: contextlib.AsyncExitStack | None = None
        self._client: SnClient | None = None
        self._submitter: Submitter | None = None
        self._used: Context | None = None

    @property
    def book(self) -> Book:
        """All its contexts, and which one its own commands are about."""
        book = self.contexts.load()
        if self._current is None and book.current:
            # From now on it is ours: another session that switches must not redirect what is typed here.
            self._current = book.current
        return replace(book, current=self._current or ContextName(""))

    def choose(self, name: ContextName) -> None:
        """Be about another context from now on, as sessions that begin later will.

        Raises:
            ConfigurationError: there is none of that name, or it cannot be kept.
        """
        self.contexts.change(lambda book: replace(book, current=find_context(book, name).name))
        self._current = name
        self._insists = False  # what was asked for was meant for the context before

    def forget(self, name: ContextName) -> None:
        """Drop a context; after the current one none is chosen.

        Raises:
            ConfigurationError: there is none of that name, or it cannot be dropped.
        """
        current = self.book.current
        self.contexts.change(lambda book: drop_context(book, name))
        if name == current:
            self._current = ContextName("")

    @property
    def context(self) -> Context:
        """The current context.

        Raises:
            ConfigurationError: none is chosen.
        """
        return find_context(self.book, None)

    def variable(self, name: str, default: str) -> str:
        """CI-10: a variable of the current context, or of the environment, or the default."""
        book = self.book
        here = next((context.variables for context in book.contexts if context.name == book.current), {})
        return here.get(name) or os.environ.get(name) or default

    def identity_of(self, context: Context) -> IdentityPaths:
        """As whom one speaks in a context."""
        return self.identity if self._insists or not context.identity.cert else context.identity

    def identity_for(self, endpoint: Endpoint, name: ContextName | None = None) -> IdentityPaths:
        """As whom an SN is asked that no context has yet: what the session was started with, else what a context has.

        That is the context `name`, which is made anew, or one of that SN, or the current one.
        """
        book = self.book
        known = [context for context in book.contexts if context.name == name]
        known += [context for context in book.contexts if context.sn == endpoint]
        known += [context for context in book.contexts if context.name == book.current]
        return next((paths for paths in (self.identity, *(c.identity for c in known)) if paths.cert), self.identity)

    def source_of(self, context: Context) -> PemSource:
        """As whom one speaks in a context, for a connection."""
        return self.identity_of(context).source()

    async def sn(self) -> SnClient:
        """The SN of the current context, connected.

        Raises:
            ConfigurationError: no context is chosen, or it is not usable.
            IdentityError: our identity is missing, expired or does not match.
            Unreachable: nobody shakes hands there; the message says where and how long it was tried.
            VerificationError: who does is no node of our organisation.
        """
        context = self.context
        if self._client is not None and self._used == context:
            return self._client
        await self.disconnect()
        stack = contextlib.AsyncExitStack()
        opened = await stack.enter_async_context(reach(self.source_of(context), context.sn))
        self._open, self._client, self._used = stack, opened, context
        return opened

    async def submitter(self, also: tuple[Role, ...] = ()) -> Submitter:
        """Who signs what commands say, on the caller's behalf; roles of `WRITERS` may, and those in `also`.

        Raises:
            ConfigurationError: our role may not; the message says which may.
            ConfigurationError, IdentityError, Unreachable, VerificationError, Refused: see `sn` and `open_submitter`.
        """
        client = await self.sn()
        identity = self.identity_of(self.context)
        node = identity.source().load(system_clock()).node
        if node.role not in (*WRITERS, *also):
            raise ConfigurationError(
                f"{node.short} has the role {node.role.value}; this needs the role operator: use an operator's "
                "certificate (swarm cert issue --role operator)"
            )
        if self._submitter is None:
            made = await open_submitter(client, identity.source(), identity.sign_key or None)
            self._submitter = made.on_behalf_of(self.caller)
        return self._submitter

    async def disconnect(self) -> None:
        """Close the connection; the next command that needs one opens it again."""
        opened, self._open, self._client, self._submitter, self._used = self._open, None, None, None, None
        if opened is not None:
            await opened.aclose()

    def tell(self, line: str) -> None:
        """CI-5: say a line while a command goes on, without control characters whoever wrote what is in it."""
        self.output.tell(make_printable(line))


class Collected:
    """Keeps what was said.

    Attributes:
        lines: what was said.
        console: never a terminal.
    """

    console: Final = None

    def __init__(self, also: Callable[[str], None] = lambda _: None) -> None:
        self.lines: list[str] = []
        self._also = also

    def tell(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)
        self._also(line)


@contextlib.asynccontextmanager
async def reach(source: PemSource, endpoint: Endpoint) -> AsyncIterator[SnClient]:
    """The SN at an address, connected.

    Raises:
        Unreachable: nobody shakes hands there; the message says where and how long it was tried.
        ConfigurationError, IdentityError, VerificationError: see `open_sn`.
    """
    began_s = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        try:
            client, _ = await stack.enter_async_context(open_sn(source, str(endpoint)))
        except Unreachable as error:
            tried_s = time.monotonic() - began_s
            raise Unreachable(
                f"SN {endpoint} does not answer: tried a TLS handshake for {tried_s:.1f} s of at most {CONNECT_S:g} s "
                f"({error})"
            ) from error
        yield client
