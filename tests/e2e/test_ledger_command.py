"""`swarm ledger` against real SNs over mutual TLS: export all, prove some of it, verify that without them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from real_network import A, ask_swarm, running_network

from swarmlearning.errors import ExitCode
from swarmlearning.local.network import LocalNetwork, Site
from swarmlearning.types import TrustDomain

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=["embedded", pytest.param("cometbft", marks=needs_cometbft)])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    sites = (Site(domain=A, sls=2), Site(domain=TrustDomain("b.example"), sls=1))
    with running_network(tmp_path_factory.mktemp("ledger") / "w", sites, request.param) as running:
        yield running


def verify(network: LocalNetwork, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarmlearning", "ledger", "verify", *map(str, files)]
    command += ["--genesis", str(network.genesis)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_pf9_what_is_exported_is_proven_and_what_is_proven_is_verified_offline(
    network: LocalNetwork, tmp_path: Path
) -> None:
    assert ask_swarm(network, "contract", "reset").returncode == 0  # registers the operator, and then fails to vote
    out = tmp_path / "history.jsonl"
    done = ask_swarm(network, "ledger", "export", "--out", str(out))
    assert done.returncode == 0, done.stderr
    blocks = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [block["height"] for block in blocks] == list(range(1, len(blocks) + 1))
    told = [tx for block in blocks for tx in block["transactions"]]
    # Two SNs, three SLs and the operator are registered, and the contract is reset.
    nodes = [tx["node"] for tx in told if tx["message"]["type"] == "RegisterNode"]
    assert len(nodes) == len(set(nodes)) == 6
    (reset,) = [tx for tx in told if tx["message"]["type"] == "ResetContract"]
    assert (reset["node"], reset["code"]) == (f"spiffe://{A}/local/operator/operator", "OK")
    assert len({tx["hash"] for tx in told}) == len(told) == 7
    # Refused over an existing file, before anything is asked of it.
    assert ask_swarm(network, "ledger", "export", "--out", str(out)).returncode == ExitCode.CONFIGURATION

    proof, block = tmp_path / "proof.bin", tmp_path / "block.bin"
    assert ask_swarm(network, "ledger", "proof", "--tx", reset["hash"], "--out", str(proof)).returncode == 0
    height = next(block["height"] for block in blocks if reset in block["transactions"])
    assert ask_swarm(network, "ledger", "proof", "--height", str(height), "--out", str(block)).returncode == 0
    verified = verify(network, proof, block)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count(reset["hash"]) == 2
    assert f"sent by     spiffe://{A}/local/operator/operator (key" in verified.stdout
    by = f"the sentinel {network.sns[0].address.node}" if network.ledger == "embedded" else "2 of 2 validators"
    assert verified.stdout.count(f"signed by     {by}") == 2, verified.stdout
    data = bytearray(proof.read_bytes())
    data[len(data) // 2] ^= 1
    proof.write_bytes(data)
    refused = verify(network, proof)
    assert refused.returncode == ExitCode.PEER
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""


def test_a10_a_node_that_may_not_read_all_is_told_so_and_leaves_no_file(network: LocalNetwork, tmp_path: Path) -> None:
    out = tmp_path / "history.jsonl"
    pki = network.workdir / A / "pki"
    command = [sys.executable, "-m", "swarmlearning", "ledger", "export", "--out", str(out)]
    command += ["--sn", str(network.sns[0].address.endpoint), "--cert", str(pki / "sl-0.cert.pem")]
    command += ["--key", str(pki / "sl-0.key.pem"), "--cacert", str(pki / f"{A}.ca.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.PEER
    assert "this needs one of: sn, operator, auditor" in done.stderr
    assert list(tmp_path.iterdir()) == []
