"""Two organisations whose nodes answer in this process over real TLS: what `swarm doctor` asks, and nothing else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from swarmlearning import __version__
from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Node, Organisation, Training
from swarmlearning.doctor.credentials import Paths
from swarmlearning.doctor.findings import Finding, Report, Verdict
from swarmlearning.encoding import encode
from swarmlearning.errors import Refused
from swarmlearning.identity.authority import Authority, Issued, create_ca, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.sl.exchange import CALL_ABOUT, About
from swarmlearning.sn.api import (
    CALL_CONTRACT,
    CALL_CONTRACTS,
    CALL_DIRECTORY,
    CALL_STATUS,
    Directory,
    Status,
)
from swarmlearning.transport.api import Call, Caller, Stream
from swarmlearning.transport.server import Server
from swarmlearning.types import Endpoint, LedgerKind, NodeId, NodeName, Role, TrustDomain

A, B = TrustDomain("a.example"), TrustDomain("b.example")
HOST = "127.0.0.1"
DAY_MS = 86_400_000


def name(domain: TrustDomain, role: Role, label: str = "") -> NodeName:
    return NodeName(domain=domain, network="net", role=role, name=label or role.value)


class Service:
    """Answers with what it was given."""

    def __init__(self, calls: dict[str, Call]) -> None:
        self.calls = calls
        self.streams: dict[str, Stream] = {}


class World:
    """Organisation A has an SN, an SL and an operator, B an SN and an SL; each listens once `running` was entered."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = {d: create_ca(directory / d, d, at_ms=system_clock(), days=400) for d in (A, B)}
        self.organisations = tuple(
            Organisation(domain=d, issuers=(ca.certificate,)) for d, ca in self.authorities.items()
        )
        self.operator = self.issue(name(A, Role.OPERATOR))
        self.nodes = [name(d, role) for d in (A, B) for role in (Role.SN, Role.SL)]
        self.endpoints: dict[NodeName, Endpoint] = {}
        self.api: Endpoint
        self.trainings: list[Training] = []
        self.problem = ""
        self.ledger: LedgerKind = "embedded"
        self.sl_version = __version__
        self.sl_ahead_ms = 0
        self.sl_calls = True
        self.days: dict[NodeName, int] = {}
        """For how long a node's certificate is valid."""
        self.impostors: dict[NodeName, NodeName] = {}
        """Who listens in a node's place."""
        self.revoked: tuple[bytes, ...] = ()
        """Fingerprints of A's certificates that nodes accept no more."""
        self.stopped: list[NodeName] = []
        """Registered, but not running."""

    def issue(
        self, node: NodeName, days: int = 365, *, by: Authority | None = None, hosts: Sequence[str] = ()
    ) -> Issued:
        target = self.directory / f"{node.domain}-{node.role}-{node.name}"
        authority = by or self.authorities[node.domain]
        return issue_certificate(authority, node, hosts, target, at_ms=system_clock(), days=days, force=True)

    def paths(self) -> Paths:
        made = self.operator
        return Paths(cert=str(made.certificate), key=str(made.key), cacert=str(made.issuer))

    def trust(self) -> TrustStore:
        known = {o.domain: Trust(issuers=o.issuers, roles=o.roles, revoked=self.revoked) for o in self.organisations}
        return TrustStore("net", system_clock, known)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        servers: list[Server] = []

        async def serve(node: NodeName, calls: dict[str, Call]) -> Endpoint:
            made = self.issue(node, self.days.get(node, 365))
            server = Server(Service(calls), self.trust(), PemSource(made.certificate, made.key, made.issuer))
            servers.append(server)
            return Endpoint(host=HOST, port=await server.start(HOST, 0))

        try:
            for node in self.nodes:
                calls: dict[str, Call] = {CALL_ABOUT: self._about} if node.role is Role.SL and self.sl_calls else {}
                self.endpoints[node] = await serve(self.impostors.get(node, node), calls)
                if node in self.stopped:
                    await servers.pop().stop()
            self.api = await serve(
                name(A, Role.SN),
                {
                    CALL_STATUS: self._status,
                    CALL_DIRECTORY: self._directory,
                    CALL_CONTRACTS: self._contracts,
                    CALL_CONTRACT: self._contract,
                },
            )
            yield
        finally:
            await asyncio.gather(*(server.stop() for server in servers))

    async def _about(self, caller: Caller, body: bytes) -> bytes:
        return encode(About(version=self.sl_version, clock_ms=system_clock() + self.sl_ahead_ms))

    async def _status(self, caller: Caller, body: bytes) -> bytes:
        if caller.name.domain != A:
            raise Refused("nodes ask their own organisation's SN", code="foreign-organisation")
        return encode(
            Status(
                node=name(A, Role.SN).id,
                network="net",
                ledger=self.ledger,
                validators=2 if self.ledger == "cometbft" else 0,
                sentinel=NodeId("") if self.ledger == "cometbft" else name(B, Role.SN).id,
                height=7,
                transactions=3,
                app_hash=b"",
                time_ms=system_clock() - 150_000,
                clock_ms=system_clock(),
                problem=self.problem,
                version=__version__,
            )
        )

    async def _directory(self, caller: Caller, body: bytes) -> bytes:
        registered = [
            Node(node=node.id, key=bytes(32), certificates=(), issuer=b"", endpoint=endpoint, registered_height=1)
            for node, endpoint in self.endpoints.items()
        ]
        operator = Node(
            node=name(A, Role.OPERATOR).id,
            key=bytes(32),
            certificates=(),
            issuer=b"",
            endpoint=None,
            registered_height=1,
        )
        return encode(
            Directory(network="net", height=7, organisations=self.organisations, nodes=(*registered, operator))
        )

    async def _contracts(self, caller: Caller, body: bytes) -> bytes:
        return encode(tuple(training.name for training in self.trainings))

    async def _contract(self, caller: Caller, body: bytes) -> bytes:
        return next(encode(training) for training in self.trainings if encode(training.name) == body)


def pick(findings: Report | Sequence[Finding], **wanted: Any) -> list[Finding]:
    """Findings whose fields are as wanted; `subject` may be a part of it."""
    listed = findings.findings if isinstance(findings, Report) else findings
    subject = wanted.pop("subject", "")
    return [f for f in listed if subject in f.subject and all(getattr(f, k) == v for k, v in wanted.items())]


def only(findings: Report | Sequence[Finding], **wanted: Any) -> Finding:
    found = pick(findings, **wanted)
    assert len(found) == 1, found
    return found[0]


def advises(findings: Report | Sequence[Finding]) -> bool:
    """Whether everything that is not well comes with what to do, and each is one line."""
    listed = findings.findings if isinstance(findings, Report) else findings
    return all((f.verdict is Verdict.OK or bool(f.advice)) and "\n" not in f.text + f.advice for f in listed)
