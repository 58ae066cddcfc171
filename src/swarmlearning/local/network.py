"""A whole network on this machine: one CA, one SN and any number of SLs for each organisation, over real mutual TLS.

    WORKDIR/genesis.bin                      the founding file
    WORKDIR/logs/<node>.log                  what each node printed
    WORKDIR/<domain>/ca/                     the organisation's CA
    WORKDIR/<domain>/pki/                    certificates and keys of its nodes, and its signing keys
    WORKDIR/<domain>/sn/, sl-<n>/            data of its nodes
    WORKDIR/control/<n>/                     where the program of SL n meets it (`SWARM_SL`, `SWARM_EXCHANGE_DIR`)

Every port is the system's choice. Nodes are started in parallel as far as they do not need each other's addresses.
Nothing outlives the network: see `process` and `reaper`.
"""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Genesis
from swarmlearning.errors import AddressInUse, ConfigurationError, Unreachable, WaitExpired
from swarmlearning.identity.authority import Authority, Issued, create_ca, issue_certificate
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.local.genesis import create_genesis, load_genesis, save_genesis
from swarmlearning.local.process import Command, Process, Reaper, describe_end
from swarmlearning.local.validators import Card, create_voting_genesis, make_card
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.types import MAX_SOCKET_PATH, Endpoint, LedgerKind, NodeId, NodeName, Role, TrustDomain

NETWORK: Final = "local"
"""Name of every throw-away network."""

READY_S: Final = 60.0
"""Longest a node may take to be ready, seconds; generous, for machines that are busy."""

STOP_S: Final = 5.0
"""How long nodes get to end by themselves, seconds."""

PORTS: Final = range(20_000, 30_000)
"""For validators; below those that systems give to connections by themselves (Linux: from 32768)."""

_POLL_S: Final = 0.02
_OTHER_SWARM: Final = (
    "SWARM_EXCHANGE_DIR",
    "SWARM_ID_",
    "SWARM_LOOPBACK",
    "SWARM_MIN_PEERS",
    "SWARM_PEER",
    "SWARM_SL",
    "SWARM_SN",
    "SWARM_SPIFFE_",
)
_SWARM: Final = "import sys; from swarmlearning.cli.main import main; sys.exit(main())"
_VALID_DAYS: Final = 30


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """One organisation: it gets a CA, an SN and `sls` SLs. The first site's SN is the sentinel."""

    domain: TrustDomain
    sls: int = 1


class Sn(msgspec.Struct, frozen=True, kw_only=True):
    """A running SN."""

    address: Address
    p2p_port: int
    process: Process


class Sl(msgspec.Struct, frozen=True, kw_only=True):
    """A running SL."""

    node: NodeId
    control: Path
    """The directory of its control socket and exchange files."""
    data: Path
    process: Process


class _Ready(msgspec.Struct, frozen=True):
    """What a node writes to its `--ready-file`."""

    pid: int
    ports: dict[str, int]


class _Pki(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation's certificates."""

    authority: Authority
    sn: Issued
    sn_key: Path
    card: Card | None
    """Of its validator; None where a sentinel orders."""
    sls: tuple[Issued, ...]


class LocalNetwork:
    """A network that lives as long as its `async with` block.

    After entering, `sns` and `sls` are the running nodes in the order of the sites, and `open_client` asks the ledger.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        workdir: Path,
        *,
        ledger: LedgerKind = "embedded",
        logs: Path | None = None,
        host_ip: str = "127.0.0.1",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Plan a network in `workdir`, which `prepare_workdir` has made.

        With the ledger "cometbft" every organisation has a validator; with "embedded" the first one's SN is the
        sentinel. `logs` is where the nodes' logs go (default: WORKDIR/logs); `say` is given the last lines of a node
        that fails.

        Raises:
            ConfigurationError: there is no site, or one twice.
        """
        if not sites or len({site.domain for site in sites}) != len(sites):
            raise ConfigurationError("a local network needs at least one organisation, each of another trust domain")
        self.sites = tuple(sites)
        self.ledger: LedgerKind = ledger
        self.workdir = workdir.resolve()
        self.logs = logs.resolve() if logs is not None else self.workdir / "logs"
        self.genesis = self.workdir / "genesis.bin"
        self.sns: list[Sn] = []
        self.sls: list[Sl] = []
        self._operator_source: PemSource
        self.reaper: Reaper
        self._host_ip = host_ip
        self._say = say
        self._control = self.workdir / "control"
        self._temporary: Path | None = None
        self._started: list[tuple[int, Process]] = []

    async def __aenter__(self) -> Self:
        """Start everything and wait until it is ready.

        Raises:
            ConfigurationError: files cannot be written.
            Unreachable: a node ended while it started; the message has its last line.
            WaitExpired: a node was not ready in time.
        """
        self.reaper = Reaper()
        try:
            pkis = self._found()
            await self._start_nodes(pkis)
        except ExceptionGroup as group:
            await self.stop()
            # Nodes that failed at once have one cause; the first tells it.
            raise _first(group) from group
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End all nodes, SLs first and the sentinel last; then whatever else the reaper has on its list."""
        try:
            for rank in sorted({rank for rank, _ in self._started}):
                async with asyncio.TaskGroup() as group:
                    for process in (process for level, process in self._started if level == rank):
                        group.create_task(process.stop(STOP_S))
        finally:
            # Also when a second Ctrl-C cancels the lines above.
            self.reaper.close()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[SnClient]:
        """Ask the sentinel's SN as the operator."""
        genesis = load_genesis(self.genesis)
        trusts = {o.domain: Trust(issuers=o.issuers, roles=o.roles) for o in genesis.organisations}
        client = HttpClient(TrustStore(NETWORK, system_clock, trusts), self._operator_source)
        try:
            yield SnClient(client, self.sns[0].address)
        finally:
            await client.close()

    async def watch_nodes(self) -> None:
        """Wait for ever, or until a node ends.

        Raises:
            Unreachable: a node ended; the message has its last line.
        """
        waits = {asyncio.create_task(process.wait()): process for _, process in self._started}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            raise self._failed(waits[next(iter(done))])
        finally:
            for wait in waits:
                wait.cancel()

    # --- founding -------------------------------------------------------------------------------------------------

    def _found(self) -> list[_Pki]:
        """Make directories, CAs, certificates, signing keys and the founding file."""
        now_ms = system_clock()
        self.logs.mkdir(exist_ok=True)
        if len(os.fsencode(self._control / "999" / "sl.sock")) > MAX_SOCKET_PATH:
            self._temporary = self._control = Path(tempfile.mkdtemp(prefix="swarm-"))
        pkis = [self._certify(site, now_ms) for site in self.sites]
        save_genesis(self.genesis, self._make_genesis(pkis, now_ms))
        operator = NodeName(domain=self.sites[0].domain, network=NETWORK, role=Role.OPERATOR, name="operator")
        pki_dir = self.workdir / self.sites[0].domain / "pki"
        issued = issue_certificate(pkis[0].authority, operator, (), pki_dir, at_ms=now_ms, days=_VALID_DAYS)
        self._operator_source = PemSource(issued.certificate, issued.key, issued.issuer)
        return pkis

    def _make_genesis(self, pkis: Sequence[_Pki], now_ms: int) -> Genesis:
        organisations = {pki.authority.domain: (pki.authority.certificate,) for pki in pkis}
        if self.ledger == "cometbft":
            cards = [pki.card for pki in pkis if pki.card is not None]
            # However few there are: nobody relies on a throw-away network.
            return create_voting_genesis(
                network=NETWORK, organisations=organisations, cards=cards, now_ms=now_ms, no_fault_tolerance=True
            )
        sentinel = pkis[0]
        return create_genesis(
            network=NETWORK,
            organisations=organisations,
            sentinel_certificate=read_certificates(sentinel.sn.certificate, "certificate")[0],
            sentinel_key=SigningKey.load_or_create(sentinel.sn_key).public,
            now_ms=now_ms,
        )

    def _certify(self, site: Site, now_ms: int) -> _Pki:
        base = self.workdir / site.domain
        base.mkdir(mode=0o700)
        authority = create_ca(base / "ca", site.domain, at_ms=now_ms, days=_VALID_DAYS)

        def issue(role: Role, name: str) -> Issued:
            node = NodeName(domain=site.domain, network=NETWORK, role=role, name=name)
            return issue_certificate(authority, node, (self._host_ip,), base / "pki", at_ms=now_ms, days=_VALID_DAYS)

        card = None
        if self.ledger == "cometbft":
            where = Endpoint(host=self._host_ip, port=_free_port(self._host_ip))
            card = make_card(base / "sn", site.domain, str(where))
        return _Pki(
            authority=authority,
            card=card,
            sn=issue(Role.SN, "sn"),
            sn_key=base / "pki" / "sn.sign.pem",
            sls=tuple(issue(Role.SL, f"sl-{number}") for number in range(site.sls)),
        )

    # --- starting -------------------------------------------------------------------------------------------------

    async def _start_nodes(self, pkis: Sequence[_Pki]) -> None:
        sentinel = await self._start_sn(pkis[0], None) if self.ledger == "embedded" else None
        offsets = [sum(site.sls for site in self.sites[:index]) for index in range(len(self.sites))]
        async with asyncio.TaskGroup() as group:
            sites = [
                group.create_task(self._start_site(pki, sentinel, offset, started=sentinel if index == 0 else None))
                for index, (pki, offset) in enumerate(zip(pkis, offsets, strict=True))
            ]
        for site in sites:
            sn, sls = site.result()
            self.sns.append(sn)
            self.sls.extend(sls)

    async def _start_site(
        self, pki: _Pki, sentinel: Sn | None, offset: int, *, started: Sn | None
    ) -> tuple[Sn, list[Sl]]:
        sn = started or await self._start_sn(pki, sentinel)
        async with asyncio.TaskGroup() as group:
            sls = [group.create_task(self._start_sl(issued, sn, offset + i)) for i, issued in enumerate(pki.sls)]
        return sn, [sl.result() for sl in sls]

    async def _start_sn(self, pki: _Pki, sentinel: Sn | None) -> Sn:
        base = self.workdir / pki.authority.domain
        arguments = ["sn", "--data", base / "sn", "--genesis", self.genesis, "--sign-key", pki.sn_key]
        arguments += ["--host-ip", self._host_ip, "--sn-api-port", 0]
        arguments += ["--sn-p2p-port", pki.card.validator.endpoint.port if pki.card is not None else 0]
        if sentinel is not None:
            arguments += ["--sentinel", Endpoint(host=self._host_ip, port=sentinel.p2p_port)]
        rank = 2 if sentinel is None and pki.card is None else 1
        process, ports = await self._start_node(pki.sn, arguments, rank=rank)
        address = Address(node=pki.sn.node.id, endpoint=Endpoint(host=self._host_ip, port=ports["api"]))
        return Sn(address=address, p2p_port=ports["p2p"], process=process)

    async def _start_sl(self, issued: Issued, sn: Sn, index: int) -> Sl:
        data = self.workdir / issued.node.domain / issued.node.name
        control = self._control / str(index)
        control.mkdir(mode=0o700, parents=True)
        arguments = ["sl", "--data", data, "--control", control, "--host-ip", self._host_ip, "--sl-fs-port", 0]
        process, _ = await self._start_node(issued, [*arguments, "--sn", sn.address.endpoint], rank=0)
        return Sl(node=issued.node.id, control=control, data=data, process=process)

    async def _start_node(
        self, issued: Issued, arguments: Sequence[object], *, rank: int
    ) -> tuple[Process, Mapping[str, int]]:
        """Start a node and wait until it is ready; a higher `rank` is stopped later."""
        name = f"{issued.node.name}.{issued.node.domain}"
        data = self.workdir / issued.node.domain / issued.node.name
        data.mkdir(mode=0o700, exist_ok=True)
        ready = data.with_suffix(".ready")
        identity = ["--cert", issued.certificate, "--key", issued.key, "--cacert", issued.issuer, "--ready-file", ready]
        command = Command(
            name=name,
            # -P: a file of the user's that happens to be called like a module of ours must not be imported.
            argv=(sys.executable, "-P", "-c", _SWARM, *map(str, (*arguments, *identity))),
            env=node_environment(os.environ),
            log=self.logs / f"{name}.log",
        )
        process = await Process.start(command, self.reaper)
        self._started.append((rank, process))
        return process, await self._wait_ready(process, ready)

    async def _wait_ready(self, process: Process, path: Path) -> Mapping[str, int]:
        limit = time.monotonic() + READY_S
        while (ports := _read_ready(path)) is None:
            if process.status is not None:
                raise self._failed(process)
            if time.monotonic() > limit:
                self._show_tail(process)
                raise WaitExpired(f"{process.name} was not ready within {READY_S:.0f} s; its log is {process.log}")
            await asyncio.sleep(_POLL_S)
        return ports

    def _failed(self, process: Process) -> Unreachable:
        self._show_tail(process)
        return Unreachable(describe_end(process))

    def _show_tail(self, process: Process) -> None:
        for line in process.tail():
            self._say(f"{process.name} | {line}")


def _free_port(host_ip: str) -> int:
    """A port that was free a moment ago: a validator's must be known before it is started.

    Of those that the system gives nobody by itself, so that no connection takes it meanwhile.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server((host_ip, port)):
            return port
    raise AddressInUse(f"no port of {PORTS.start}-{PORTS.stop - 1} is free at {host_ip}")


def _read_ready(path: Path) -> Mapping[str, int] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Ready).ports
    except FileNotFoundError:
        return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for nodes: ours, without settings meant for another swarm."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_OTHER_SWARM)}
    return kept | {"PYTHONUNBUFFERED": "1"}


def program_environment(environ: Mapping[str, str], sl: Sl, index: int, peers: int) -> dict[str, str]:
    """The environment for the program of peer `index` (from 0) of `peers`: ours, and where its SL is."""
    return node_environment(environ) | {
        "SWARM_SL": str(sl.control),
        "SWARM_EXCHANGE_DIR": str(sl.control),
        "SWARM_PEER_INDEX": str(index),
        "SWARM_PEERS": str(peers),
    }


def prepare_workdir(path: Path) -> Path:
    """Make a directory that only its owner may enter, or take an empty one, and return it.

    Raises:
        ConfigurationError: it is not empty, not a directory, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigurationError(f"{path} is not empty; choose another directory or empty it")
        path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"directory {path} cannot be used: {error.strerror}") from error
    return path.resolve()
