"""How much memory a round takes, measured on a process of its own. Spec: docs/spec/round.md, R-27."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
HERE = Path(__file__).parent
ROOM = 16 * MIB
"""For frames and chunks in hand, of four pulls and as many contributors, and what threads and allocators keep."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def peak_of(tmp_path: Path, mebibytes: int, contributors: int) -> int:
    paths = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE)])
    command = [sys.executable, str(HERE / "memory_world.py"), str(tmp_path), str(mebibytes), str(contributors)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(("mebibytes", "contributors"), [(32, 2), (32, 8), (96, 3)])
def test_a_round_takes_the_programs_file_and_what_is_in_hand(tmp_path: Path, mebibytes: int, contributors: int) -> None:
    """R-27: once the model's size, however many contribute, whoever leads, serves, stores or catches up."""
    peak = peak_of(tmp_path, mebibytes, contributors)
    assert mebibytes * MIB <= peak  # the program's file was read, and is counted
    assert peak <= mebibytes * MIB + ROOM
