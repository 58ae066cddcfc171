"""Losing the sentinel for good, for real: four SN processes over mutual TLS, of which three hand over (L-24, L-29)."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from swarmlearning.clock import system_clock
from swarmlearning.identity.authority import Authority, Issued, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.local.genesis import load_genesis
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, Sn, prepare_workdir
from swarmlearning.sn.api import Status
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

DOMAINS = [TrustDomain(f"{letter}.example") for letter in "abcd"]


def swarm(*arguments: object, ok: bool = True) -> str:
    """Run a `swarm` command and return what it said."""
    command = [sys.executable, "-m", "swarmlearning", *map(str, arguments)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "SL_", "SN_"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr.strip().splitlines()[-1]


class Hospitals:
    """Four organisations with an SN each, whose processes are stopped and started one by one."""

    def __init__(self, workdir: Path) -> None:
        self.network = LocalNetwork([Site(domain=domain, sls=0) for domain in DOMAINS], workdir)

    def files(self, index: int) -> list[object]:
        """Options that name the files of a stopped SN."""
        base = self.network.workdir / DOMAINS[index]
        key = base / "pki" / "sn.sign.pem"
        return ["--data", base / "sn", "--genesis", self.network.genesis, "--sign-key", key]

    def issue(self, index: int, role: Role, name: str) -> Issued:
        base = self.network.workdir / DOMAINS[index]
        node = NodeName(domain=DOMAINS[index], network=NETWORK, role=role, name=name)
        authority = Authority.load(base / "ca")
        return issue_certificate(
            authority, node, ("127.0.0.1",), base / "pki", at_ms=system_clock(), days=1, force=True
        )

    async def start(self, index: int, sentinel: Sn | None, name: str = "sn") -> Sn:
        """Start an SN that lies where it lay, or a new one."""
        issued = self.issue(index, Role.SN, name)
        base = self.network.workdir / DOMAINS[index]
        (base / name).with_suffix(".ready").unlink(missing_ok=True)
        arguments: list[object] = ["sn", "--data", base / name, "--genesis", self.network.genesis]
        arguments += ["--sign-key", base / "pki" / f"{name}.sign.pem", "--host-ip", "127.0.0.1"]
        arguments += ["--sn-api-port", 0, "--sn-p2p-port", 0]
        if sentinel is not None:
            arguments += ["--sentinel", Endpoint(host="127.0.0.1", port=sentinel.p2p_port)]
        process, ports = await self.network._start_node(issued, arguments, rank=1)
        address = Address(node=issued.node.id, endpoint=Endpoint(host="127.0.0.1", port=ports["api"]))
        return Sn(address=address, p2p_port=ports["p2p"], process=process)

    @asynccontextmanager
    async def ask(self, index: int, sn: Sn) -> AsyncIterator[SnClient]:
        issued = self.issue(index, Role.AUDITOR, "auditor")
        genesis = load_genesis(self.network.genesis)
        trusts = {o.domain: Trust(issuers=o.issuers, roles=o.roles) for o in genesis.organisations}
        source = PemSource(issued.certificate, issued.key, issued.issuer)
        client = HttpClient(TrustStore(NETWORK, system_clock, trusts), source)
        try:
            yield SnClient(client, sn.address)
        finally:
            await client.close()

    async def status(self, index: int, sn: Sn) -> Status:
        async with self.ask(index, sn) as client:
            return await client.status()

    async def wait_level(self, sns: Sequence[tuple[int, Sn]]) -> Status:
        """Wait until all these SNs stand at the same block, and return where."""
        async with asyncio.timeout(30):
            while True:
                found = [await self.status(index, sn) for index, sn in sns]
                if len({status.app_hash for status in found}) == 1:
                    return found[0]
                await asyncio.sleep(0.05)


def test_three_of_four_hospitals_replace_a_sentinel_that_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        hospitals = Hospitals(prepare_workdir(tmp_path / "w"))
        async with hospitals.network as network:
            a, b, c, d = network.sns
            before = await hospitals.wait_level([(0, a), (1, b), (2, c), (3, d)])
            assert (before.sentinel, before.height) == (a.address.node, before.height)
            os.killpg(a.process.pid, signal.SIGKILL)
            await a.process.wait()

            # Nobody signs while its SN runs: what it holds could change under the signature.
            file = tmp_path / "handover.bin"
            assert "in use by another process" in swarm(
                "network", "handover", "propose", *hospitals.files(1), "--out", file, ok=False
            )
            for sn in (b, c, d):
                await sn.process.stop(5)
            handover = ["network", "handover"]
            heights = [swarm(*handover, "standing", *hospitals.files(i)).split("\n")[0] for i in (1, 2, 3)]
            assert set(heights) == {heights[0]}
            assert "1 of 4 SNs have signed, 3 are needed" in swarm(
                *handover, "propose", *hospitals.files(1), "--out", file
            )
            assert "not yet signed by sn@a.example, sn@d.example" in swarm(*handover, "sign", file, *hospitals.files(2))
            assert "signed by 2 of the 4 SNs" in swarm(*handover, "apply", file, *hospitals.files(1), ok=False)
            assert "to the new sentinel, to apply it" in swarm(*handover, "sign", file, *hospitals.files(3))
            assert "sn@b.example orders" in swarm(*handover, "apply", file, *hospitals.files(1))

            # Each registers its new port: transactions, ordered by the new sentinel.
            b = await hospitals.start(1, None)
            c, d = await asyncio.gather(hospitals.start(2, b), hospitals.start(3, b))
            # A fresh SN that has the genesis alone, and the lost one, whose machine was found again.
            fresh, a = await asyncio.gather(hospitals.start(2, b, "second"), hospitals.start(0, b))
            after = await hospitals.wait_level([(0, a), (1, b), (2, c), (3, d), (2, fresh)])
            assert after.sentinel == b.address.node
            assert after.height > before.height
            for index, sn in ((0, a), (2, c), (2, fresh)):
                assert (await hospitals.status(index, sn)).sentinel == b.address.node
            async with hospitals.ask(2, fresh) as client:
                nodes = {node.node for node in (await client.directory()).nodes}
            assert len(nodes) == 5
            # The old sentinel started as it always was: one line, and nothing is ordered.
            await a.process.stop(5)
            refused = swarm(*_as_before(hospitals), ok=False)
            assert "follows the sentinel spiffe://b.example/local/sn/sn (handover 1, after block" in refused
            assert "give --sentinel HOST:PORT" in refused

    asyncio.run(main())


def _as_before(hospitals: Hospitals) -> list[object]:
    issued = hospitals.issue(0, Role.SN, "sn")
    identity = ["--cert", issued.certificate, "--key", issued.key, "--cacert", issued.issuer]
    ports = ["--host-ip", "127.0.0.1", "--sn-api-port", 0, "--sn-p2p-port", 0]
    return ["sn", *identity, *hospitals.files(0), *ports]
