"""`swarm rehearse` at three sites at once, over real nodes and mutual TLS: all drills, then again with one leaving."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from real_network import running_network

from swarmlearning.errors import ExitCode
from swarmlearning.local.network import LocalNetwork, Site, node_environment
from swarmlearning.types import TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

SITES = [TrustDomain(f"{letter}.example") for letter in "abc"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    with running_network(tmp_path_factory.mktemp("rehearse") / "w", [Site(domain=domain) for domain in SITES]) as made:
        yield made


def rehearse(network: LocalNetwork, *options: str, sites: int = 3) -> list["subprocess.Popen[str]"]:
    """The command at the first `sites` of the three."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", "swarmlearning", "rehearse", "--sl", str(sl.control), "--peers", "3", *options],
            env=node_environment(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for sl in network.sls[:sites]
    ]


def end(programs: list["subprocess.Popen[str]"]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each."""
    ended = [program.communicate(timeout=100) for program in programs]
    return [(program.returncode, out, err) for program, (out, err) in zip(programs, ended, strict=True)]


def test_three_sites_rehearse_with_all_drills_and_all_see_the_same(network: LocalNetwork) -> None:
    seen: list[dict[str, Any]] = []
    for status, out, err in end(rehearse(network, "--json", "--wait", "60s")):
        said = json.loads(out)
        # How soon a round ends without the dead one is measured where nothing else runs; here the machine may be busy.
        late = [fault for fault in said["faults"] if fault.startswith("kill: ") and ("took" in fault or "see" in fault)]
        assert said["faults"] == late, err
        assert status == (ExitCode.FAILED if late else ExitCode.OK)
        seen.append(said)
    assert len({(said["contract"], said["final"]) for said in seen}) == 1
    everybody = sorted(sl.node for sl in network.sls)
    for said in seen:
        assert said["nodes"] == everybody
        assert said["final"] == said["findings"][-1]["outcome"]["sha256"]
        canary, slow, cut, kill, last = said["findings"]
        for finding in said["findings"]:
            assert finding["outcome"]["bytes_moved"] > 0
        for finding in (canary, slow, last):
            assert finding["outcome"]["contributors"] == everybody
        # Each drill took hold, so each was survived and not only asked for.
        assert slow["fired"] > 0
        assert slow["outcome"]["seconds"] > 3  # longer than a lease, and nobody was dropped
        assert cut["fired"] > 0
        assert kill["fired"] > 0
        victim = kill["step"]["victim"]
        assert kill["outcome"]["contributors"] == [node for node in everybody if node != victim]
        assert victim in last["outcome"]["contributors"]


def test_the_next_rehearsal_works_and_ends_at_once_when_a_site_is_interrupted(network: LocalNetwork) -> None:
    """The roll call is used again; the slow drill gives the time to interrupt one in the middle."""
    programs = rehearse(network, "--drills", "slow", "--megabytes", "2")
    stdout = programs[2].stdout
    assert stdout is not None
    for line in stdout:
        if line.startswith("canary"):
            break
    programs[2].send_signal(signal.SIGINT)
    (first, out, _), (second, also, _), (interrupted, _, _) = end(programs)
    assert (first, second, interrupted) == (ExitCode.FAILED, ExitCode.FAILED, ExitCode.INTERRUPTED)
    for text in (out, also):
        flat = " ".join(text.split())
        assert "a site was interrupted, or its SL has left" in flat or "took no part in the round" in flat
        assert text.splitlines()[-1].startswith("verdict: not ready: ")


def test_a_site_that_does_not_show_up_ends_the_wait_and_who_is_there_is_said(network: LocalNetwork) -> None:
    """Also after a rehearsal that was broken off: nothing of it is in the way."""
    for status, out, err in end(rehearse(network, "--wait", "6s", sites=2)):
        assert status == ExitCode.FAILED
        assert "roll call of 3 sites: waited 6 s: " in " ".join(out.split())
        assert "2 of at least 3 peers have enrolled (sl-0@a.example, sl-0@b.example)" in " ".join(out.split())
        assert "waiting: round" in err
    for status, out, err in end(rehearse(network, "--drills", "none", "--megabytes", "1", "--wait", "60s")):
        assert status == ExitCode.OK, out + err
        assert out.splitlines()[-1] == "verdict: ready"
