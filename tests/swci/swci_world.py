"""A running swarm for the command interface, identities of every role, sessions, and real `swarm ci` processes.

Two organisations' SNs on an embedded ledger, without SLs. It lives as long as the tests of a worker: what a test puts
on its ledger stays, so names are a test's own (`fresh`).
"""

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pexpect

from swarmlearning.clock import system_clock
from swarmlearning.errors import ExitCode
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, node_environment, prepare_workdir
from swarmlearning.sn.asking import open_sn, open_submitter
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.swci.contexts import Book, Context, IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.running import Done, run_line
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import ContextName
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

A: Final = TrustDomain("a.example")
B: Final = TrustDomain("b.example")

CONTEXT: Final = ContextName("swarm")
"""The context of sessions that `Swarm.session` makes."""

T = TypeVar("T")


class Swarm:
    """A running network, and who may speak to it."""

    def __init__(self, network: LocalNetwork) -> None:
        self.network = network
        self.workdir = network.workdir
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def fresh(self, stem: str) -> str:
        """A name that nobody else has: `heart-7`."""
        return f"{stem}-{next(self._numbers)}"

    def sn(self, domain: TrustDomain = A) -> Endpoint:
        """Where an organisation's SN listens for its own."""
        (index,) = (index for index, site in enumerate(self.network.sites) if site.domain == domain)
        return self.network.sns[index].address.endpoint

    def identity(self, role: Role = Role.OPERATOR, domain: TrustDomain = A, name: str = "") -> IdentityPaths:
        """Files of a node, issued when it is first asked for."""
        base = self.workdir / domain
        node = NodeName(domain=domain, network=NETWORK, role=role, name=name or f"ci-{role.value}")
        with self._lock:
            if not (base / "ci" / f"{node.name}.cert.pem").exists():
                authority = Authority.load(base / "ca")
                issue_certificate(authority, node, ("127.0.0.1",), base / "ci", at_ms=system_clock(), days=30)
        cert, key, ca = (f"{node.name}.cert.pem", f"{node.name}.key.pem", f"{domain}.ca.pem")
        return IdentityPaths(cert=str(base / "ci" / cert), key=str(base / "ci" / key), cacert=str(base / "ci" / ca))

    def session(
        self, role: Role = Role.OPERATOR, domain: TrustDomain = A, *, directory: Path | None = None
    ) -> tuple[Session, Collected]:
        """A session whose context is an organisation's SN, and what it says while commands go on."""
        said = Collected()
        book = Book(contexts=(Context(name=CONTEXT, sn=self.sn(domain)),), current=CONTEXT)
        made = Session(
            contexts=MemoryContexts(book),
            directory=Directory(directory or self.workdir),
            output=said,
            identity=self.identity(role, domain),
        )
        return made, said

    def say(self, *lines: str, role: Role = Role.OPERATOR, domain: TrustDomain = A) -> list[Done | None]:
        """What comes of lines, one after another in one session."""

        async def main() -> list[Done | None]:
            session, _ = self.session(role, domain)
            try:
                return [await run_line(COMMANDS, session, line) for line in lines]
            finally:
                await session.disconnect()

        return asyncio.run(main())

    @asynccontextmanager
    async def client(
        self, role: Role = Role.OPERATOR, domain: TrustDomain = A, name: str = ""
    ) -> AsyncIterator[SnClient]:
        """An organisation's SN, asked as one of its nodes."""
        async with open_sn(self.identity(role, domain, name).source(), str(self.sn(domain))) as (client, _):
            yield client

    @asynccontextmanager
    async def submitter(
        self, role: Role = Role.OPERATOR, domain: TrustDomain = A, name: str = ""
    ) -> AsyncIterator[Submitter]:
        """Signs as a node (an agent, say): `await submitter.require(message)`."""
        async with self.client(role, domain, name) as client:
            yield await open_submitter(client, self.identity(role, domain, name).source(), None)

    # --- processes --------------------------------------------------------------------------------------------------

    def options(self, role: Role = Role.OPERATOR, domain: TrustDomain = A) -> list[str]:
        """The options of identity for a command line."""
        paths = self.identity(role, domain)
        return ["--cert", paths.cert, "--key", paths.key, "--cacert", paths.cacert]

    def ci(
        self, *arguments: str, config: Path, stdin: bytes = b"", cwd: Path | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """A real `swarm ci`, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "swarmlearning", "ci", *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            cwd=cwd or self.workdir,
            env=process_environment(config),
        )

    def spawn(
        self,
        *arguments: str,
        config: Path,
        cwd: Path | None = None,
        columns: int = 100,
        rows: int = 40,
        tells_cursor: bool = False,
    ) -> "pexpect.spawn[str]":
        """A real `swarm ci` on a terminal of its own; one that tells where its cursor is has to be answered for."""
        child = pexpect.spawn(
            sys.executable,
            ["-m", "swarmlearning", "ci", *arguments],
            cwd=str(cwd or self.workdir),
            env={
                **process_environment(config),
                "TERM": "xterm-256color",
                "PROMPT_TOOLKIT_NO_CPR": "0" if tells_cursor else "1",
            },
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=30,
        )
        child.delaybeforesend = None
        return child


def process_environment(config: Path) -> dict[str, str]:
    """The environment of a `swarm ci` that keeps its contexts in `config`, and knows no other swarm."""
    # pytest-xdist tells its workers a size of its own, which would count before the terminal's.
    others = ("SWCI_", "USR_DIR", "SWARM_CONFIG_DIR", "COLUMNS", "LINES")
    kept = {name: value for name, value in node_environment(os.environ).items() if not name.startswith(others)}
    return kept | {"SWARM_CONFIG_DIR": str(config)}


def text_of(done: Done | None) -> str:
    """What people see of it, lines and table cells; of a failure its line."""
    assert done is not None
    if done.failed:
        return f"ERROR {done.error}"
    grid = done.shown.grid
    cells = [] if grid is None else [",".join(row) for row in (grid.columns, *grid.rows)]
    return "\n".join([*done.shown.lines, *cells])


def status_of(done: Done | None) -> ExitCode:
    """With which exit status it counts."""
    assert done is not None
    return done.status


@contextmanager
def running_swarm(workdir: Path, domains: Sequence[TrustDomain] = (A, B)) -> Iterator[Swarm]:
    """Two organisations with an SN each, no SLs."""
    prepare_workdir(workdir)
    made = LocalNetwork([Site(domain=domain, sls=0) for domain in domains], workdir)
    loop = asyncio.new_event_loop()
    # The loop goes on while tests run: it is what copies the nodes' output to their logs.
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        _on(loop, made.__aenter__(), 90)
        try:
            yield Swarm(made)
        finally:
            _on(loop, made.stop(), 60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], limit_s: float) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(limit_s)


def in_session(swarm: Swarm, work: Callable[[Session, Collected], Awaitable[T]], role: Role = Role.OPERATOR) -> T:
    """What `work` comes to, in a session that is closed after it."""

    async def main() -> T:
        session, said = swarm.session(role)
        try:
            return await work(session, said)
        finally:
            await session.disconnect()

    return asyncio.run(main())
