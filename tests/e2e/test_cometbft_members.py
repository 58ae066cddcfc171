"""A fifth hospital is admitted while four train, and one is expelled: real processes, and the commands of operators."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cometbft_hospitals import Hospitals, hospitals
from cometbft_support import needs_cometbft
from matrix_network import FaultyNetwork

from swarmlearning.clock import system_clock
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.identity.pem import read_certificates
from swarmlearning.local.joining import Invitation, join_network
from swarmlearning.local.network import NETWORK, Site, _Pki, prepare_workdir
from swarmlearning.local.validators import save_card
from swarmlearning.types import NodeName, Role, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_cometbft]

D, E = TrustDomain("d.example"), TrustDomain("e.example")


FEW_BLOCKS = ("--keep-blocks", 6, "--snapshot-every", 4)


class Operators:
    """One at each hospital, who gives commands to its own SN."""

    def __init__(self, network: FaultyNetwork) -> None:
        self._network = network

    async def say(self, index: int, *words: object, ok: bool = True) -> str:
        """What `swarm network ...` says; its last line if it is to fail."""
        site = self._network.sites[index]
        base = self._network.workdir / site.domain
        name = NodeName(domain=site.domain, network=NETWORK, role=Role.OPERATOR, name="operator")
        issued = issue_certificate(
            Authority.load(base / "ca"), name, (), base / "pki", at_ms=system_clock(), days=1, force=True
        )
        options = ["--cert", issued.certificate, "--key", issued.key, "--cacert", issued.issuer]
        options += ["--sn", self._network.sns[index].address.endpoint]
        command = [sys.executable, "-m", "swarmlearning", "network", *map(str, words), *map(str, options)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout if ok else done.stderr.strip().splitlines()[-1]


async def admit_fifth(network: FaultyNetwork, operators: Operators, folder: Path, sls: int) -> _Pki:
    """Found the fifth hospital, and have it admitted by three of four."""
    pki = network._certify(Site(domain=E, sls=sls), system_clock())
    assert pki.card is not None
    card = folder / "e.validator.json"
    save_card(card, pki.card)
    ca = folder / "e.ca.pem"
    ca.write_bytes(pki.sn.issuer.read_bytes())
    said = await operators.say(0, "propose", "admit", "--organisation", f"{E}={ca}", "--validator", card)
    assert "1" in said
    await operators.say(1, "vote", 1, "yes")
    assert "open" in await operators.say(1, "proposals")
    await operators.say(2, "vote", 1, "yes")
    assert f"{E}" in await operators.say(3, "proposals", "--all")
    network.sites = (*network.sites, Site(domain=E, sls=sls))
    return pki


async def add_hospital(run: Hospitals, operators: Operators, folder: Path) -> None:
    """Have a fifth one admitted, and start its nodes and its program."""
    network = run.network
    pki = await admit_fifth(network, operators, folder, sls=1)
    sn, sls = await network._start_site(pki, None, len(network.sls), started=None)
    network.sns.append(sn)
    network.sls.extend(sls)
    run.add_program(len(network.sls) - 1)
    await run.programs[-1].start()


def contributors(run: Hospitals) -> set[str]:
    record = run.watch.record
    assert record is not None
    assert record.last is not None
    return {NodeName.parse(node).domain for node in record.last.contributors}


async def until_contributors(run: Hospitals, upto: int, wanted: Callable[[set[str]], bool]) -> int:
    """Let rounds be made, one by one, until those of a final one are as wanted; returns the last round allowed."""
    while True:
        run.allow(upto=upto)
        await run.until_final(upto)
        if wanted(contributors(run)):
            return upto
        upto += 1
        assert upto < 40, f"the newest round has {contributors(run)}"


def test_a_fifth_is_admitted_while_four_train_and_one_is_expelled(tmp_path: Path) -> None:
    async def story() -> None:
        async with hospitals(tmp_path / "c", "cometbft", 3) as run:
            operators = Operators(run.network)
            run.allow(upto=1)
            await run.until_final(1)
            await add_hospital(run, operators, tmp_path)
            upto = await until_contributors(run, 2, lambda found: E in found)
            assert (await run.status()).validators == 5

            # More than two thirds of the four others must agree.
            await operators.say(4, "propose", "expel", D)
            await operators.say(0, "vote", 2, "yes")
            assert (await run.status()).validators == 5
            await operators.say(1, "vote", 2, "yes")
            assert (await run.status()).validators == 4
            upto = await until_contributors(run, upto + 1, lambda found: D not in found and len(found) == 4)
            said = await operators.say(3, "propose", "expel", E, ok=False)
            assert said
            run.allow(upto=upto + 1, last=upto + 1)
            models = await run.until_ended(but={3})
            record = await run.watch.settle()
            assert record.last is not None
            assert models == {record.last.sha256.hex()}

    asyncio.run(story())


def test_a_newcomer_takes_the_state_from_members_who_keep_their_newest_blocks_only(tmp_path: Path) -> None:
    """B-32, A-13: it cannot execute all blocks, for nobody has them any more."""

    async def story() -> None:
        network = FaultyNetwork(4, prepare_workdir(tmp_path / "c"), "cometbft", sls=0)
        network.sn_options = FEW_BLOCKS
        async with network:
            operators = Operators(network)
            pki = await admit_fifth(network, operators, tmp_path, sls=0)
            for number in range(8):
                await operators.say(0, "propose", "roles", "b.example", "sn,sl,operator", "--reason", number)
                await operators.say(0, "withdraw", 2 + number)
            out = tmp_path / "ticket.bin"
            said = await operators.say(0, "ticket", "--out", out)
            assert "snapshot" in said
            founders = network.workdir / "a.example" / "pki" / "a.example.ca.pem"
            invitation = Invitation(ticket=out.read_bytes(), issuers=read_certificates(founders, "CA"))
            certificate = read_certificates(pki.sn.certificate, "certificate")[0]
            join_network(network.workdir / E / "sn", network.genesis, certificate, system_clock(), invitation)
            sn = await network._start_sn(pki, None)
            network.sns.append(sn)
            log = (network.logs / f"sn.{E}.log").read_text()
            assert "restored from a snapshot" in log
            # It votes: with one of five gone three of the four old ones and it are needed.
            await network.kill("sn.d.example")
            await operators.say(0, "propose", "roles", "b.example", "sn,sl")
            shown = await operators.say(4, "proposals")
            assert "sn,sl" in shown.replace(", ", ",")

    asyncio.run(story())
