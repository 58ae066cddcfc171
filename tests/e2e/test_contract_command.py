"""A training that is over, or that crashed everywhere, and what the operator and the programs do then; real nodes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from real_network import ask_swarm, running_network

from swarmlearning.errors import ExitCode
from swarmlearning.local.network import LocalNetwork

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

PROGRAM = """
import sys
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings

contract, crash_after = sys.argv[1], int(sys.argv[2])
weights = {"w": np.zeros(4, np.float32)}
settings = Settings(sync_frequency=1, start="merge", grace_ms=1000)
session = SwarmSession(SessionConfig(min_peers=2, contract=contract, settings=settings))
newest = session.open(weights)
print("begins with", (newest or weights)["w"][0], flush=True)
weights = newest or weights
for step in range(3):
    if step == crash_after:
        raise RuntimeError("my own bug")
    weights = session.sync({"w": weights["w"] + 1}).arrays
print("final", session.finish(weights).arrays["w"][0], flush=True)
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    with running_network(tmp_path_factory.mktemp("contract") / "w") as made:
        yield made


def train(network: LocalNetwork, contract: str, crash_after: int = -1) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of both programs."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SWARM_")}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, contract, str(crash_after)],
            env=clean | {"SWARM_SL": str(sl.control)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for sl in network.sls
    ]
    ends = [(program.communicate(timeout=60), program.returncode) for program in programs]
    return [(status, out, err) for (out, err), status in ends]


def swarm(network: LocalNetwork, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask_swarm(network, "contract", *arguments)


def test_a_completed_contract_says_how_to_train_again_and_a_reset_does_it(network: LocalNetwork) -> None:
    assert [status for status, _, _ in train(network, "twice")] == [0, 0]
    again = train(network, "twice")
    assert [status for status, _, _ in again] == [ExitCode.PEER, ExitCode.PEER]
    assert all("swarm contract reset" in err and "Traceback" not in err for _, _, err in again)
    shown = swarm(network, "show", "twice")
    assert "phase       completed" in shown.stdout
    assert shown.stdout.count("finished  ") == 2
    assert swarm(network, "reset", "twice").stdout == "twice is reset: run 2 begins when peers enrol\n"
    assert [status for status, _, _ in train(network, "twice")] == [0, 0]
    assert "twice  run 2  completed" in swarm(network, "list").stdout


def test_programs_that_crashed_everywhere_go_on_from_the_last_merged_round(network: LocalNetwork) -> None:
    crashed = train(network, "crash", crash_after=2)
    assert all(status == 1 and "my own bug" in err for status, _, err in crashed)
    assert "collecting" in swarm(network, "show", "crash").stdout
    mended = train(network, "crash")
    assert [status for status, _, _ in mended] == [0, 0]
    assert all("begins with 2.0" in out for _, out, _ in mended)
    assert all("final 5.0" in out for _, out, _ in mended)


def test_a_contract_that_is_not_there_is_told_with_those_that_are(network: LocalNetwork) -> None:
    done = swarm(network, "show", "nowhere")
    assert done.returncode == ExitCode.CONFIGURATION
    assert "nowhere" in done.stderr
    assert "defaultbb.cqdb.sml.hpe" in done.stderr


def test_sl_logs_tell_the_operator_of_enrolment_rounds_and_end(network: LocalNetwork) -> None:
    train(network, "told")
    log = (network.logs / "sl-0.a.example.log").read_text()
    assert "enrolled in told, run 1" in log
    assert "told, run 1: round 0 is final: 2 of 2 contributed" in log
    assert "completes the training" in log
