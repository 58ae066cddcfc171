"""A real `swarm ci` steers a real swarm by scripts, in whichever letter case they are written."""

import json
from pathlib import Path

import pytest
from swci_world import Swarm

from swarmlearning.errors import ExitCode

SCRIPT = """
# As scripts for the product we re-create begin.
EXIT ON FAILURE
WAIT FOR IP {host} {port} 3
CREATE CONTEXT testContext WITH IP {host} {port}
SWITCH CONTEXT testContext
GET CONTEXT VERSION
CD taskdefs
PWD
LS
SLEEP 0
EXIT
NO SUCH COMMAND
"""


@pytest.mark.parametrize("case", ["upper", "lower", "mixed"])
def test_ci14_a_script_of_any_letter_case_steers_a_running_swarm(swarm: Swarm, tmp_path: Path, case: str) -> None:
    (tmp_path / "taskdefs").mkdir()
    (tmp_path / "taskdefs" / "build.yaml").write_text("")
    where = swarm.sn()
    text = SCRIPT.format(host=where.host, port=where.port)
    changed = {"upper": text.upper(), "lower": text.lower(), "mixed": text.title()}[case]
    # Names of contexts and files are as they are written.
    for name in ("testContext", "taskdefs"):
        for form in (name.upper(), name.lower(), name.title()):
            changed = changed.replace(form, name)
    (tmp_path / "swci-init").write_text(changed)
    arguments = ["--script", "swci-init", "--usr-dir", str(tmp_path), *swarm.options()]
    done = swarm.ci(*arguments, config=tmp_path / "config", cwd=tmp_path)
    said = done.stdout.decode().splitlines()
    assert done.returncode == ExitCode.OK, (done.stdout, done.stderr)
    outputs = [line for line in said if not line.startswith("SWCI:")]
    assert "    EXIT ON FAILURE IS TURNED ON" in outputs
    assert outputs.count("    API Server is UP!") == 2
    assert "    CONTEXT CREATED : testContext" in outputs
    assert "    DEFAULT CONTEXT SET TO : testContext" in outputs
    assert f"    Current Directory : {tmp_path}/taskdefs" in outputs
    assert "    build.yaml" in outputs
    assert said[-1].lower() == "swci:12 > exit"


def test_ci17_a_line_tells_as_json_what_came_of_it(swarm: Swarm, tmp_path: Path) -> None:
    done = swarm.ci(
        *swarm.options(), "--sn", str(swarm.sn()), "--json", "-c", "get context info", config=tmp_path / "c"
    )
    (document,) = (json.loads(line) for line in done.stdout.splitlines())
    assert document["line"] == 1
    assert document["command"] == "get context info"
    assert document["answer"]["address"] == str(swarm.sn())
    assert document["answer"]["node"] == "spiffe://a.example/local/operator/ci-operator"
    assert done.returncode == ExitCode.OK
