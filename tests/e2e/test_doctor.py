"""`swarm doctor` as an operator runs it, on a network of real nodes of which one SL has stopped."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlearning.errors import ExitCode
from swarmlearning.local.network import LocalNetwork, Site, prepare_workdir
from swarmlearning.types import TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

A, B = TrustDomain("a.example"), TrustDomain("b.example")


class Running:
    """Two organisations; B's SL has stopped, after it had registered."""

    def __init__(self, workdir: Path) -> None:
        self.runner = asyncio.Runner()
        prepare_workdir(workdir)
        self.network = LocalNetwork([Site(domain=A), Site(domain=B)], workdir)
        self.runner.run(self.network.__aenter__())
        ready = json.loads(self.network.sls[1].data.with_suffix(".ready").read_text())
        self.stopped = f"127.0.0.1:{ready['ports']['sl']}"
        self.runner.run(self.network.sls[1].process.stop(5))

    def doctor(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SWARM_")}
        pki = self.network.workdir / A / "pki"
        identity = ["--cert", pki / "operator.cert.pem", "--key", pki / "operator.key.pem"]
        identity += ["--cacert", pki / f"{A}.ca.pem"]
        command = [sys.executable, "-m", "swarmlearning", "doctor", *identity, *arguments]
        return subprocess.run(
            [*map(str, command)], env=clean | environ, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("doctor") / "w")
    yield made
    made.runner.run(made.network.stop())
    made.runner.close()


def problems(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [finding for finding in json.loads(done.stdout)["findings"] if finding["verdict"] == "problem"]


def test_a_stopped_sl_is_the_one_problem_and_is_named_with_its_address(running: Running) -> None:
    sn = running.network.sns[0].address.endpoint
    control = str(running.network.sls[0].control)
    done = running.doctor("--json", SWARM_SN=str(sn), SWARM_SL=control, SWARM_EXCHANGE_DIR=control)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == ""
    told = problems(done)
    # The network is on this machine, but the SL is another organisation's: its port is not ours to look after.
    assert [(finding["topic"], finding["subject"]) for finding in told] == [("Members", "SL sl-0@b.example")]
    assert running.stopped in told[0]["text"]
    assert "start the node there" in told[0]["advice"]
    subjects = {finding["subject"] for finding in json.loads(done.stdout)["findings"] if finding["verdict"] == "ok"}
    assert {"SN sn@a.example", "registered SL sl-0@a.example", "SWARM_SL", f"--exchange-dir {control}"} <= subjects
    asked = next(f for f in json.loads(done.stdout)["findings"] if f["topic"] == "Clocks")
    assert asked["subject"] == "SN sn@a.example, SL sl-0@a.example"


def test_people_read_the_same_as_programs_and_warnings_are_no_failure(running: Running) -> None:
    sn = running.network.sns[0].address.endpoint
    done = running.doctor("--sn", sn)
    assert done.returncode == ExitCode.FAILED
    assert f"  problem  SL sl-0@b.example: not reached at {running.stopped}: the connection was refused" in done.stdout
    assert "1 problem, " in done.stdout
    without = running.doctor("--sn", sn, "--without", "sl-0@b.example", SWARM_LOOPBACK="1")
    assert without.returncode == ExitCode.OK
    assert "  warning  SWARM_LOOPBACK: " in without.stdout
    assert "0 problems, " in without.stdout


def test_a_wrong_command_line_is_one_line_and_exit_status_2(running: Running) -> None:
    for arguments in (
        ["--sn", "a b"],
        ["--sn", "h:99999"],
        ["--sl-fs-port", "0"],
        ["--timeout", "0"],
        ["--host-ip", "a b"],
    ):
        done = running.doctor(*arguments)
        assert done.returncode == ExitCode.CONFIGURATION, arguments
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_a_sentinel_that_is_gone_is_what_a_follower_tells(running: Running) -> None:
    """Last: it stops the sentinel."""
    running.runner.run(running.network.sns[0].process.stop(5))
    pki = running.network.workdir / B / "pki"
    identity = ["--cert", pki / "sn.cert.pem", "--key", pki / "sn.key.pem", "--cacert", pki / f"{B}.ca.pem"]

    async def until_noticed() -> list[dict[str, Any]]:
        while True:
            done = await asyncio.to_thread(
                running.doctor, *identity, "--json", "--sn", running.network.sns[1].address.endpoint
            )
            told = problems(done)
            if any(finding["topic"] == "Own SN" for finding in told):
                return told

    told = running.runner.run(asyncio.wait_for(until_noticed(), 60))
    follows = next(finding for finding in told if finding["topic"] == "Own SN")
    assert follows["text"].startswith("does not follow the sentinel sn@a.example: ")
    assert "SN sn@a.example" in {finding["subject"] for finding in told if finding["topic"] == "Members"}
