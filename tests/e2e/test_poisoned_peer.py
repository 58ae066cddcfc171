"""One peer of four offers its parameters times a thousand, over real processes: who is moved by it, and who is not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

LIMIT_S = 100

POISONED = 3

PROGRAM = f"""
import json, os, sys
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings

index, out, method = int(os.environ["SWARM_PEER_INDEX"]), sys.argv[1], sys.argv[2]
settings = Settings(sync_frequency=1, start="merge", topology="sharded", merge_method=method)
session = SwarmSession(SessionConfig(min_peers=4, settings=settings))
spread = np.random.default_rng(index)
weights = {{"kernel": np.ones((200, 200), np.float32), "steps": np.array(7, np.int64)}}
session.open(weights)
for batch in range(3):
    weights["kernel"] = weights["kernel"] + spread.normal(0, 0.01, weights["kernel"].shape).astype(np.float32)
    if index == {POISONED}:
        weights["kernel"] = weights["kernel"] * np.float32(1000)
    weights = session.sync(weights).arrays or weights
final = session.finish(weights)
with open(f"{{out}}/final-{{index}}.json", "w") as file:
    json.dump({{"sha256": final.sha256, "largest": float(np.abs(final.arrays["kernel"] - 1).max())}}, file)
"""


@pytest.mark.parametrize("method", ["geomedian", "mean"])
def test_a_poisoned_peer_moves_the_mean_and_not_the_geometric_median(tmp_path: Path, method: str) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "out").mkdir()
    code = "import sys; from swarmlearning.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--workdir", str(tmp_path / "w"), "--peers", "4", "--"]
    command += ["python", str(tmp_path / "train.py"), str(tmp_path / "out"), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    finals = [json.loads((tmp_path / "out" / f"final-{index}.json").read_text()) for index in range(4)]
    assert len({final["sha256"] for final in finals}) == 1
    told = [line for log in (tmp_path / "w").rglob("*.log") for line in log.read_text().splitlines() if "gave" in line]
    if method == "mean":
        assert finals[0]["largest"] > 100
        assert told == []
        return
    # Elements of the honest differ from one by some 0.01 a round; a share of 1/1000 of the poisoned would be 1.
    assert finals[0]["largest"] < 0.2
    least = dict(re.findall(r"round (\d+): geomedian gave (sl-\d@local\.example \S+) %", "\n".join(told)))
    # After the last round all offer its result, and count alike.
    assert least.pop("3") == "sl-0@local.example 25"
    assert sorted(least) == ["0", "1", "2"]
    for share in least.values():
        name, percent = share.split()
        assert name == f"sl-{POISONED}@local.example"
        assert float(percent) < 0.01
