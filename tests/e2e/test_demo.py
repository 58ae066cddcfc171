"""`swarm demo` for real, with one seed: every hospital a process of its own, and a summary that keeps its promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("framework", ["keras", "pytorch"])
def test_four_hospitals_end_with_one_model_on_the_ledger(tmp_path: Path, framework: str) -> None:
    out = tmp_path / "swarm-demo"
    code = "import sys; from swarmlearning.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--seeds", "1", "--out", str(out), "--framework", framework],
        capture_output=True, text=True, timeout=390, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["dataset"], summary["framework"], summary["seeds"]) == ("heart", framework, 1)
    assert [site["name"] for site in summary["sites"]] == ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]
    assert len({site["model_sha256"] for site in summary["sites"]}) == 1
    assert summary["models_equal"] is True
    assert summary["ledger"]["transactions"] > summary["rounds"] > 0
    report = (out / "report.html").read_text()
    assert summary["sites"][0]["model_sha256"] in report
    # Keys, certificates and ledgers of the throw-away network are gone.
    assert not (out / "network").exists()
    assert not list(out.rglob("*.pem"))
