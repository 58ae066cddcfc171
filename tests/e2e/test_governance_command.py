"""Members decide who belongs to them, for real: SN processes over mutual TLS, and the commands of `swarm network`."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarmlearning.clock import system_clock
from swarmlearning.errors import ExitCode
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, Sn, prepare_workdir
from swarmlearning.transport.api import Address
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

A, B, C, D = (TrustDomain(f"{letter}.example") for letter in "abcd")


class Said:
    """What a command said."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr


class Hospitals:
    """Three members, and one that would be the fourth."""

    def __init__(self, workdir: Path) -> None:
        self.network = LocalNetwork([Site(domain=domain, sls=0) for domain in (A, B, C)], workdir)
        self.apis: dict[TrustDomain, Endpoint] = {}

    def pki(self, domain: TrustDomain) -> Path:
        return self.network.workdir / domain / "pki"

    async def say(self, domain: TrustDomain, *words: object, role: str = "operator") -> Said:
        """`swarm network ...` as the operator of `domain`, or as another of its nodes."""
        names = 2 if words[0] == "propose" else 1
        pki = self.pki(domain)
        identity = ["--cert", pki / f"{role}.cert.pem", "--key", pki / f"{role}.key.pem"]
        identity += ["--cacert", pki / f"{domain}.ca.pem", "--sn", self.apis[domain]]
        line = [sys.executable, "-m", "swarmlearning", "network", *words[:names], *identity, *words[names:]]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "SL_", "SN_"))}
        done = await asyncio.to_thread(
            subprocess.run,
            [str(word) for word in line],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environ,
        )
        return Said(done)

    async def must(self, domain: TrustDomain, *words: object) -> str:
        said = await self.say(domain, *words)
        assert said.status == 0, said.err
        return said.out

    def issue(self, domain: TrustDomain, role: Role, name: str) -> None:
        node = NodeName(domain=domain, network=NETWORK, role=role, name=name)
        authority = Authority.load(self.network.workdir / domain / "ca")
        issue_certificate(authority, node, ("127.0.0.1",), self.pki(domain), at_ms=system_clock(), days=1, force=True)

    async def join(self, sentinel: Sn) -> Sn:
        """Start the SN of the fourth."""
        base = self.network.workdir / D
        node = NodeName(domain=D, network=NETWORK, role=Role.SN, name="sn")
        authority = Authority.load(base / "ca")
        issued = issue_certificate(authority, node, ("127.0.0.1",), self.pki(D), at_ms=system_clock(), days=1)
        arguments: list[object] = ["sn", "--data", base / "sn", "--genesis", self.network.genesis]
        arguments += ["--host-ip", "127.0.0.1", "--sn-api-port", 0, "--sn-p2p-port", 0]
        arguments += ["--sentinel", Endpoint(host="127.0.0.1", port=sentinel.p2p_port)]
        process, ports = await self.network._start_node(issued, arguments, rank=1)
        here = Address(node=node.id, endpoint=Endpoint(host="127.0.0.1", port=ports["api"]))
        return Sn(address=here, p2p_port=ports["p2p"], process=process)


def test_three_hospitals_admit_a_fourth_which_takes_part_and_is_expelled_again(tmp_path: Path) -> None:
    async def main() -> None:
        hospitals = Hospitals(prepare_workdir(tmp_path / "w"))
        async with hospitals.network as network:
            for domain, sn in zip((A, B, C), network.sns, strict=True):
                hospitals.apis[domain] = sn.address.endpoint
                hospitals.issue(domain, Role.OPERATOR, "operator")
            base = network.workdir / D
            base.mkdir(mode=0o700)
            create_ca(base / "ca", D, at_ms=system_clock(), days=10)
            hospitals.issue(D, Role.OPERATOR, "operator")
            ca = hospitals.pki(D) / f"{D}.ca.pem"
            assert "nothing is proposed" in await hospitals.must(A, "proposals")

            said = await hospitals.must(
                A, "propose", "admit", "--organisation", f"{D}={ca}", "--reason", "the new hospital"
            )
            assert said.startswith(f"proposal 1: admit {D} (open)")
            assert "a.example (1 of 3 that are needed)" in said
            assert "missing  b.example, c.example" in said
            twice = await hospitals.say(B, "propose", "admit", "--organisation", f"{D}={ca}")
            assert twice.status == ExitCode.PEER
            assert "proposal 1 says the same: vote on it" in twice.err
            assert "2 of 3" in await hospitals.must(B, "vote", 1, "yes")
            assert "carried" in await hospitals.must(C, "vote", 1, "yes")
            late = await hospitals.say(B, "vote", 1, "no")
            assert "proposal 1 is carried" in late.err
            unknown = await hospitals.say(B, "vote", 7, "no")
            assert (unknown.status, "there is no proposal 7" in unknown.err) == (ExitCode.CONFIGURATION, True)

            # The others' TLS believes it from that block on: it follows, registers, and speaks through its own SN.
            fourth = await hospitals.join(network.sns[0])
            hospitals.apis[D] = fourth.address.endpoint
            report = json.loads(await hospitals.must(D, "proposals", "--json"))
            assert report["members"] == [A, B, C, D]
            assert [(p["number"], p["state"], p["reason"]) for p in report["proposals"]] == [
                (1, "carried", "the new hospital")
            ]
            assert "role" in (await hospitals.say(D, "propose", "roles", B, "sl")).err
            assert "proposal 2" in await hospitals.must(D, "propose", "roles", B, "sl,sn")

            assert "proposal 3: expel" in await hospitals.must(A, "propose", "expel", D)
            assert "2 of 3" in await hospitals.must(B, "vote", 3, "yes")
            assert "carried" in await hospitals.must(C, "vote", 3, "yes")
            shown = await hospitals.must(A, "proposals", "--all")
            assert "members  3: a.example, b.example, c.example" in shown
            assert f"withdrawn {D} is no member any more" in shown
            out = await hospitals.say(D, "vote", 3, "no")
            assert out.status != 0
            assert "Traceback" not in out.err

            assert "has left the network" in await hospitals.must(C, "leave", "--yes")
            stays = await hospitals.say(A, "leave", "--yes")
            assert "hand over" in stays.err

    asyncio.run(main())
