"""The example study: tasks by a script, two agents on the PROCESS manager, four peers, one model; real processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_support import NEEDS_SANDBOX

STUDY = Path(__file__).parents[2] / "examples" / "heart"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]


@NEEDS_SANDBOX
def test_a_study_of_two_agents_and_four_peers_ends_with_one_model(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(STUDY / "study.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=270)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "4 peers ended with 1 model" in done.stdout
    assert sorted(path.name for path in out.glob("*/volumes/heart-result/*")) == [
        "heart-cleveland.keras",
        "heart-hungary.keras",
        "heart-switzerland.keras",
        "heart-va-long-beach.keras",
    ]
    # One institution was asked and its operator agreed; the other's policy decided.
    journals = [json.loads(path.read_text()) for path in out.glob("*/journal/*-2-*.json")]
    approved = sorted(journal["approved_by"] for journal in journals)
    assert approved[0].startswith("policy heart study ")
    assert approved[1] == "spiffe://north.example/local/operator/lead"
    # RESET left nothing of the pairs, but the logs.
    assert not [*out.glob("*/pairs/*")]
    assert len([*out.glob("*/logs/*/ml-*.log")]) == 4


def test_the_studys_policy_names_the_tasks_as_the_files_define_them() -> None:
    files = [STUDY / "build-task.yaml", STUDY / "run-task.yaml"]
    command = [sys.executable, "-m", "swarmlearning", "task", "check", *map(str, files)]
    command += ["--creator", "spiffe://north.example/local/operator/lead"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    hashes = re.findall(r"hash ([0-9a-f]{64})", told)
    policy = (STUDY / "policy-south.yaml").read_text()
    assert len(hashes) == 2
    assert all(found in policy for found in hashes)
