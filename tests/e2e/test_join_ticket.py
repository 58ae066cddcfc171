"""`swarm network ticket` asks a running SN; what it gives is believed by `join`'s rules, and names a real block."""

import asyncio
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from cometbft_support import needs_cometbft

from swarmlearning.clock import system_clock
from swarmlearning.identity.files import read_file
from swarmlearning.identity.pem import read_certificates
from swarmlearning.ledger.cometbft.rpc import Rpc
from swarmlearning.local.network import LocalNetwork, Site, prepare_workdir
from swarmlearning.sn.application import decode_genesis
from swarmlearning.sn.tickets import Ticket, verify_ticket
from swarmlearning.types import LedgerKind, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

A = TrustDomain("a.example")


class _Block(msgspec.Struct):
    block_id: dict[str, msgspec.Raw]


async def ask(network: LocalNetwork, out: Path) -> Ticket:
    """A ticket by the command, verified as a newcomer would."""
    pki = network.workdir / A / "pki"
    identity = ["--cert", pki / "operator.cert.pem", "--key", pki / "operator.key.pem"]
    identity += ["--cacert", pki / f"{A}.ca.pem"]
    words = ["network", "ticket", "--sn", network.sns[0].address.endpoint, "--out", out, *identity]
    command = [sys.executable, "-m", "swarmlearning", *map(str, words)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    founding = network.genesis.read_bytes()
    issuers = read_certificates(pki / f"{A}.ca.pem", "CA certificate")
    ticket = read_file(out, "join ticket")
    return verify_ticket(ticket, issuers, founding, decode_genesis(founding), system_clock())


def rpc_address(network: LocalNetwork) -> str:
    """As the SN wrote it; a long path makes it choose another place."""
    config = network.workdir / A / "sn" / "cometbft" / "config" / "config.toml"
    found: str = tomllib.loads(config.read_text())["rpc"]["laddr"]
    return found


def start(workdir: Path, ledger: LedgerKind) -> LocalNetwork:
    return LocalNetwork([Site(domain=A, sls=0)], prepare_workdir(workdir), ledger=ledger)


def test_a_sentinels_ticket_names_it_and_its_last_block(tmp_path: Path) -> None:
    async def main() -> None:
        async with start(tmp_path / "net", "embedded") as network:
            ticket = await ask(network, tmp_path / "ticket.bin")
            assert ticket.sentinel == network.sns[0].address.node
            assert ticket.validators == {}
            async with network.open_client() as client:
                assert 1 <= ticket.height <= (await client.status()).height

    asyncio.run(main())


@needs_cometbft
def test_a_validators_ticket_names_the_block_that_cometbft_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with start(tmp_path / "net", "cometbft") as network:
            ticket = await ask(network, tmp_path / "ticket.bin")
            assert ticket.sentinel == ""
            (founder,) = decode_genesis(network.genesis.read_bytes()).organisations
            assert ticket.validators == {A: founder.validator}
            rpc = Rpc(rpc_address(network))
            try:
                block = await rpc.call("block", {"height": str(ticket.height)}, _Block)
            finally:
                await rpc.close()
            assert msgspec.json.decode(block.block_id["hash"]) == ticket.block_hash.hex().upper()

    asyncio.run(main())
