"""`swarm run` for real: node processes over mutual TLS, and programs that train with numpy alone."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

LIMIT_S = 100

PROGRAM = """
import json, os, sys
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Progress, Settings

index, peers, out = int(os.environ["SWARM_PEER_INDEX"]), int(os.environ["SWARM_PEERS"]), sys.argv[1]
behaviour = sys.argv[2:]
if f"fail-{index}" in behaviour:
    sys.exit("this site has no data")
settings = Settings(sync_frequency=1, start="merge", grace_ms=2000)
session = SwarmSession(SessionConfig(min_peers=int(os.environ.get("MIN_PEERS", peers)), settings=settings))
weights = {"dense/kernel": np.full((3, 2), float(index), np.float32), "steps": np.array(7, np.int64)}
if "other-shape" in behaviour and index == 1:
    weights["dense/kernel"] = np.zeros((3, 5), np.float32)
session.open(weights)
print("enrolled", flush=True)
if "endless" in behaviour and index == 0:
    import time
    time.sleep(600)
for batch in range(3):
    weights["dense/kernel"] = weights["dense/kernel"] + index
    merged = session.sync(weights, Progress(batch=batch, loss_micro=1_000_000 - index))
    weights = merged.arrays or weights
final = session.finish(weights)
with open(f"{out}/final-{index}.json", "w") as file:
    json.dump({"sha256": final.sha256, "kernel": final.arrays["dense/kernel"].tolist()}, file)
"""


def swarm_run(tmp_path: Path, options: Sequence[str], behaviour: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start `swarm run`; its working directory is tmp_path/w."""
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "out").mkdir()
    code = "import sys; from swarmlearning.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--workdir", str(tmp_path / "w"), *options, "--"]
    command += ["python", str(tmp_path / "train.py"), str(tmp_path / "out"), *behaviour]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def processes_of(tmp_path: Path) -> list[str]:
    """Command lines of running processes that mention the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\x00", b" ").decode(errors="replace")
            except OSError:
                continue  # it has just ended
            if str(tmp_path) in line:
                found.append(line)
    return found


def test_all_peers_end_with_the_ledgers_model(tmp_path: Path) -> None:
    with swarm_run(tmp_path, ["--peers", "3"]) as running:
        out, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 0, err
    said = re.search(r"all 3 peers ended with the model ([0-9a-f]{64}); ", out)
    assert said is not None
    finals = [json.loads((tmp_path / "out" / f"final-{index}.json").read_text()) for index in range(3)]
    assert {final["sha256"] for final in finals} == {said.group(1)}
    # The mean of 0, 1, 2 is 1, and every round adds a mean of 1: only a real merge of all three gives this.
    assert finals[0]["kernel"] == finals[1]["kernel"] == finals[2]["kernel"] == np.full((3, 2), 4.0).tolist()
    assert re.search(r"^peer 0 +\| enrolled$", out, re.MULTILINE)
    assert "round 1: 3 of 3 contributed" in out
    with np.load(tmp_path / "w" / "model.npz", allow_pickle=False) as model:
        assert sorted(model) == ["dense/kernel", "steps"]
        assert model["dense/kernel"].tolist() == finals[0]["kernel"]
        assert (model["steps"].dtype, model["steps"]) == (np.int64, 7)
    # Logs stay; keys and the nodes' data do not.
    assert (tmp_path / "w" / "logs" / "peer-2.log").read_text() == "enrolled\n"
    assert not list((tmp_path / "w").rglob("*.key.pem"))
    assert processes_of(tmp_path) == []


def test_a_failing_peer_fails_the_run_though_the_others_complete(tmp_path: Path) -> None:
    with swarm_run(tmp_path, ["--peers", "3", "--min-peers", "2", "--keep"], ["fail-2"]) as running:
        out, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1
    assert "peer 2: the program ended with status 1" in err
    assert re.search(r"^peer 2 +\| this site has no data$", out, re.MULTILINE)
    finals = [json.loads((tmp_path / "out" / f"final-{index}.json").read_text()) for index in range(2)]
    assert finals[0]["sha256"] == finals[1]["sha256"]
    assert (tmp_path / "w" / "genesis.bin").is_file()  # --keep


def test_too_few_peers_left_do_not_wait_for_ever(tmp_path: Path) -> None:
    with swarm_run(tmp_path, ["--peers", "3"], ["fail-2"]) as running:
        out, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1
    assert "ended early: peer 2 (status 1)" in out
    assert "peer 2: the program ended with status 1" in err
    assert processes_of(tmp_path) == []


def test_a_program_that_never_used_the_swarm_is_told_so(tmp_path: Path) -> None:
    code = "import sys; from swarmlearning.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--workdir", str(tmp_path / "w"), "--peers", "2", "--", "python", "-c", ""],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no program used the swarm" in done.stderr


def test_another_model_is_named_by_its_tensor(tmp_path: Path) -> None:
    with swarm_run(tmp_path, ["--peers", "2"], ["other-shape"]) as running:
        out, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1
    assert "dense/kernel" in out
    assert "ModelMismatch" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with swarm_run(tmp_path, ["--peers", "2"], ["endless"]) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "enrolled" in line:
                break
        else:
            pytest.fail(f"no peer enrolled: {running.stderr.read() if running.stderr else ''}")
        assert len(processes_of(tmp_path)) > 3
        running.send_signal(number)
        _, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130
    assert err == f"interrupted; logs: {tmp_path / 'w' / 'logs'}\n"
    assert processes_of(tmp_path) == []
    assert not list((tmp_path / "w").rglob("*.key.pem"))
