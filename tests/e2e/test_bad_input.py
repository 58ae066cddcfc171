"""What users and strangers do wrong to real node processes: one clear line, an exit status, and nothing is lost.

One network for all tests of the file: two organisations, each with an SN and an SL.
"""

import asyncio
import os
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlearning.clock import parse_duration, system_clock
from swarmlearning.errors import ExitCode, Refused, SwarmError, Unreachable, VerificationError
from swarmlearning.identity.authority import Authority, Issued, create_ca, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.local.genesis import load_genesis
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, prepare_workdir
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

A, B = TrustDomain("a.example"), TrustDomain("b.example")
DAY_MS = 86_400_000


class Running:
    """A network that runs on an event loop of its own for the whole module."""

    def __init__(self, workdir: Path) -> None:
        self.runner = asyncio.Runner()
        prepare_workdir(workdir)
        self.network = LocalNetwork([Site(domain=A), Site(domain=B)], workdir)
        self.runner.run(self.network.__aenter__())

    def close(self) -> None:
        self.runner.run(self.network.stop())
        self.runner.close()

    def height(self) -> int:
        async def ask() -> int:
            async with self.network.open_client() as sn:
                return (await sn.status()).height

        return self.runner.run(ask())

    def ports(self) -> dict[str, int]:
        ports = {f"sn{index} api": sn.address.endpoint.port for index, sn in enumerate(self.network.sns)}
        ports |= {f"sn{index} p2p": sn.p2p_port for index, sn in enumerate(self.network.sns)}
        for index, sl in enumerate(self.network.sls):
            ready = sl.data.with_suffix(".ready").read_text()
            ports[f"sl{index}"] = int(ready.split('"sl":')[1].split("}")[0])
        return ports


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("bad") / "w")
    yield made
    made.close()


def swarm(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarmlearning", *map(str, arguments)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "SL_", "SN_"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ | (env or {}))


def issue(
    tmp_path: Path, domain: TrustDomain, role: Role, *, ca: Path | None = None, at_ms: int | None = None
) -> Issued:
    """A certificate of `domain` by the CA at `ca`, or by a new one that nobody knows."""
    now = system_clock() if at_ms is None else at_ms
    authority = Authority.load(ca) if ca else create_ca(tmp_path / "ca", domain, at_ms=now)
    node = NodeName(domain=domain, network=NETWORK, role=role, name="extra")
    return issue_certificate(authority, node, ("127.0.0.1",), tmp_path / "pki", at_ms=now, days=1)


def sl_arguments(tmp_path: Path, issued: Issued, sn: Endpoint, port: int = 0) -> list[object]:
    identity = ["--cert", issued.certificate, "--key", issued.key, "--cacert", issued.issuer]
    where = ["--data", tmp_path / "data", "--control", tmp_path / "c", "--host-ip", "127.0.0.1", "--sl-fs-port", port]
    return ["sl", *identity, *where, "--sn", sn]


def assert_one_line(done: subprocess.CompletedProcess[str], code: ExitCode, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("swarm: error: ")
    for word in words:
        assert word in last, last


def test_garbage_on_every_open_port_leaves_all_nodes_alive(running: Running) -> None:
    rng = random.Random(7)
    before = running.height()
    for port in running.ports().values():
        for size in (0, 1, 100, 5000, 300_000):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                try:
                    connection.sendall(rng.randbytes(size))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass
                except OSError:
                    continue  # closed on us, as it should be
    assert running.height() >= before
    logs = "".join(path.read_text(errors="replace") for path in running.network.logs.iterdir())
    assert "Traceback" not in logs


def ask_without_certificate(context: ssl.SSLContext, port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        if not connection.recv(100):
            raise ConnectionError("closed without an answer")


def test_a_connection_without_a_client_certificate_is_refused_on_every_port(running: Running) -> None:
    for port in running.ports().values():
        context = ssl.create_default_context()
        context.check_hostname = False
        genesis = load_genesis(running.network.genesis)
        for organisation in genesis.organisations:
            for issuer in organisation.issuers:
                context.load_verify_locations(cadata=issuer)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask_without_certificate(context, port)


def test_an_sl_whose_ca_the_network_does_not_know_gets_one_line(running: Running, tmp_path: Path) -> None:
    issued = issue(tmp_path, A, Role.SL)
    done = swarm(*sl_arguments(tmp_path, issued, running.network.sns[0].address.endpoint))
    assert_one_line(done, ExitCode.PEER, str(running.network.sns[0].address.endpoint))


def test_an_expired_certificate_is_told_with_its_dates(running: Running, tmp_path: Path) -> None:
    issued = issue(tmp_path, A, Role.SL, at_ms=system_clock() - 3 * DAY_MS)
    done = swarm(*sl_arguments(tmp_path, issued, running.network.sns[0].address.endpoint))
    assert_one_line(done, ExitCode.CONFIGURATION, "expired")


def test_a_certificate_of_another_role_is_told_so(running: Running, tmp_path: Path) -> None:
    issued = issue(tmp_path, A, Role.OPERATOR, ca=running.network.workdir / A / "ca")
    done = swarm(*sl_arguments(tmp_path, issued, running.network.sns[0].address.endpoint))
    assert_one_line(done, ExitCode.CONFIGURATION, "operator", "sl")


def test_a_taken_port_is_told_with_its_number(running: Running, tmp_path: Path) -> None:
    issued = issue(tmp_path, A, Role.SL, ca=running.network.workdir / A / "ca")
    taken = running.ports()["sl0"]
    done = swarm(*sl_arguments(tmp_path, issued, running.network.sns[0].address.endpoint, port=taken))
    assert_one_line(done, ExitCode.UNREACHABLE, str(taken))


def test_an_sn_of_another_network_is_told_so(running: Running, tmp_path: Path) -> None:
    issued = issue(tmp_path, A, Role.SN, ca=running.network.workdir / A / "ca")
    spoilt = tmp_path / "genesis.bin"
    spoilt.write_bytes(running.network.genesis.read_bytes()[:-40])
    identity = ["--cert", issued.certificate, "--key", issued.key, "--cacert", issued.issuer]
    done = swarm("sn", *identity, "--data", tmp_path / "sn", "--genesis", spoilt, "--host-ip", "127.0.0.1")
    assert_one_line(done, ExitCode.PEER, "enesis")


def test_a_node_asks_only_its_own_organisations_sn(running: Running) -> None:
    network = running.network

    async def ask() -> SwarmError | None:
        genesis = load_genesis(network.genesis)
        trust = {o.domain: Trust(issuers=o.issuers, roles=o.roles) for o in genesis.organisations}
        pki = network.workdir / B / "pki"
        source = PemSource(pki / "sl-0.cert.pem", pki / "sl-0.key.pem", pki / f"{B}.ca.pem")
        client = HttpClient(TrustStore(NETWORK, system_clock, trust), source)
        try:
            await SnClient(client, network.sns[0].address).status()
        except SwarmError as error:
            return error
        finally:
            await client.close()
        return None

    error = running.runner.run(ask())
    assert isinstance(error, Refused)
    assert "own organisation" in str(error)


def test_a_server_that_is_not_whom_we_asked_for_gets_no_byte(running: Running) -> None:
    network = running.network

    async def ask() -> SwarmError | None:
        async with network.open_client() as sn:
            wrong = Address(node=network.sns[1].address.node, endpoint=network.sns[0].address.endpoint)
            try:
                await sn._client.call(wrong, "status", b"", timeout_s=5)
            except SwarmError as error:
                return error
        return None

    assert isinstance(running.runner.run(ask()), VerificationError)


def test_a_missing_sn_is_waited_for_and_named(
    tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swarmlearning.sl import node as sl_node

    monkeypatch.setattr(sl_node, "SN_WAIT_S", 0.2)
    issued = issue(tmp_path, A, Role.SL, ca=running.network.workdir / A / "ca")
    config = sl_node.SlConfig(
        data=tmp_path / "d",
        control=tmp_path / "c",
        exchange=tmp_path / "c",
        host="127.0.0.1",
        port=0,
        sn=Endpoint(host="127.0.0.1", port=9),
        wait_max_s=parse_duration("2h"),
        exit_when_done=False,
    )
    source = PemSource(issued.certificate, issued.key, issued.issuer)

    async def start() -> None:
        node = sl_node.SlNode(config, source)
        try:
            await node.start()
        finally:
            await node.stop()

    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        asyncio.run(start())
