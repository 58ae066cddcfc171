"""The tutorial's programs, as they stand on the page, train in a real swarm."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tutorial" / "your-own-script.md"


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def keras_program() -> str:
    alone, four_lines, _ = code_blocks()
    lines = alone.splitlines()
    assert lines[-1].startswith("model.fit("), "the four lines take the place of the last one"
    first, *rest = four_lines.splitlines()
    return "\n".join([first, *lines[:-1], *rest])


def require(*modules: str) -> None:
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def run_in_swarm(tmp_path: Path, program: str) -> str:
    script = tmp_path / "train.py"
    script.write_text(program, encoding="utf-8")
    swarm = Path(sys.executable).parent / "swarm"
    options = ["--peers", "2", "--workdir", str(tmp_path / "work")]
    command = [str(swarm), "run", *options, "--", sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_four_lines_of_the_keras_tutorial_are_four() -> None:
    _, four_lines, _ = code_blocks()
    assert len([line for line in four_lines.splitlines() if line.strip()]) == 4


@pytest.mark.e2e
def test_the_keras_tutorial_trains_in_a_real_swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("keras", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    out = run_in_swarm(tmp_path, keras_program())
    finals = set(re.findall(r"final swarm model ([0-9a-f]{64})", out))
    assert len(finals) == 1


@pytest.mark.e2e
@pytest.mark.slow
def test_the_pytorch_tutorial_trains_in_a_real_swarm(tmp_path: Path) -> None:
    require("torch")
    out = run_in_swarm(tmp_path, code_blocks()[2])
    finals = set(re.findall(r"final swarm model ([0-9a-f]{64})", out))
    assert len(finals) == 1
