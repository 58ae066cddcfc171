"""Encoded differences between real processes over mutual TLS: one model for all, and what travels is counted."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

PROGRAM = """
import json, os, sys
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings

index, peers, out, wire = int(os.environ["SWARM_PEER_INDEX"]), int(os.environ["SWARM_PEERS"]), *sys.argv[1:]
settings = Settings(sync_frequency=1, wire=wire, checkin_mode="inactive")
session = SwarmSession(SessionConfig(min_peers=peers, settings=settings))
rng = np.random.default_rng(7)
target = rng.standard_normal(500_000).astype(np.float32)
weights = {"kernel": np.zeros(500_000, np.float32), "steps": np.array(0, np.int64)}
session.open(weights)
moved = []
for _ in range(7):
    weights = {"kernel": weights["kernel"] + (target - weights["kernel"]) / 2, "steps": weights["steps"] + 1}
    weights["kernel"] += np.float32(0.01) * np.random.default_rng(index).standard_normal(500_000).astype(np.float32)
    merged = session.sync(weights)
    weights = merged.arrays or weights
    moved.append(merged.bytes_received + merged.bytes_sent)
final = session.finish(weights)
with open(f"{out}/final-{index}.json", "w") as file:
    off = float(np.abs(final.arrays["kernel"] - target).max())
    json.dump({"sha256": final.sha256, "moved": moved, "off": off, "steps": int(final.arrays["steps"])}, file)
"""


def train(tmp_path: Path, wire: str) -> list[dict[str, object]]:
    """What each of three programs ended with."""
    out = tmp_path / wire
    out.mkdir()
    (out / "train.py").write_text(PROGRAM)
    code = "import sys; from swarmlearning.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--workdir", str(out / "w"), "--peers", "3", "--"]
    command += ["python", str(out / "train.py"), str(out), wire]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((out / f"final-{index}.json").read_text()) for index in range(3)]


def bytes_of(finals: list[dict[str, object]]) -> int:
    """That all SLs sent and received between the second and the last round, both ways counted."""
    moved = np.array([final["moved"] for final in finals])
    return int(np.sum(moved[:, -1] - moved[:, 1]))


def test_int8_gives_all_peers_one_model_for_a_good_quarter_of_the_bytes(tmp_path: Path) -> None:
    """T-50, P-45: 64 bytes for 60 floats of 4; leaves, salts and headers are little."""
    finals = {wire: train(tmp_path, wire) for wire in ("float32", "int8")}
    for of_wire in finals.values():
        assert len({str(final["sha256"]) for final in of_wire}) == 1
        assert all(float(str(final["off"])) < 0.1 for final in of_wire)
        assert len({final["steps"] for final in of_wire}) == 1
    assert 0.24 <= bytes_of(finals["int8"]) / bytes_of(finals["float32"]) <= 0.29
