"""The comparison with other systems: its clock, its table, its limits, and that it leaves no process behind.

Drivers here are a line of Python each; the real ones need the measured systems and are run by `make bench-peers`.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
sys.path += [str(PEERS), str(PEERS / "protocol")]

# They are scripts beside the project, not modules of it.
family: Any = importlib.import_module("family")
harness: Any = importlib.import_module("harness")
table: Any = importlib.import_module("table")
payload: Any = importlib.import_module("payload")
runner: Any = importlib.import_module("run")

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
"""A program that hangs and does not heed SIGTERM."""

LEAVES_ONE_BEHIND = f"""
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(json.dumps({{"round_seconds": [1.0], "version": str(child.pid)}}), flush=True)
"""


def run_code(code: str, tmp_path: Path, limit_s: float = 60.0) -> Any:
    command = [sys.executable, "-c", code]
    return harness.run_driver("It", command, megabytes=1.0, limit_s=limit_s, log=tmp_path / "log", grace_s=0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start_family(code: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A program that has said its first line."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def finish(process: subprocess.Popen[str]) -> None:
    """End it, and read and close its output."""
    process.kill()
    process.communicate()


def test_a_hung_child_in_a_session_of_its_own_is_ended_though_its_driver_is_gone(tmp_path: Path) -> None:
    outcome = run_code(LEAVES_ONE_BEHIND, tmp_path)
    assert outcome.spread.median == 1.0
    assert not is_alive(int(outcome.version))


def test_a_driver_that_hangs_is_ended_at_the_limit_and_shown_with_the_reason(tmp_path: Path) -> None:
    outcome = run_code(
        f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {STUBBORN}", tmp_path, 3
    )
    assert outcome.spread is None
    assert outcome.reason == "did not finish within 3 s"
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_child_without_the_token_is_ended_though_it_outlives_its_parent() -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}], env={{}})"
    process = start_family(code, {**os.environ, family.VARIABLE: "one"})
    members = family.Family("one")
    try:
        found = members.find_members()
        assert len(found) == 2
        process.kill()
        process.wait(10)
        assert members.end(0.1) == 1
        assert not any(is_alive(pid) for pid in found)
    finally:
        finish(process)


def test_ending_a_family_leaves_everybody_else_alone() -> None:
    ours = start_family(STUBBORN, {**os.environ, family.VARIABLE: "ours"})
    other = start_family(STUBBORN, {**os.environ, family.VARIABLE: "ours-too"})
    try:
        assert family.Family("ours").end(0.1) == 1
        assert ours.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        finish(ours)
        finish(other)


def test_a_driver_that_fails_is_shown_with_its_last_words(tmp_path: Path) -> None:
    outcome = run_code("import sys; sys.exit('x' * 1000 + ' the disk is full')", tmp_path)
    assert outcome.spread is None
    assert outcome.reason.startswith("failed (1): … x")
    assert outcome.reason.endswith("the disk is full")
    assert len(outcome.reason) < 2 * harness.LAST_WORDS


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('all went well')", "it printed no line of JSON with round_seconds"),
        ("""print('{"round_seconds": [], "note": "nobody came"}')""", "it measured no round; nobody came"),
        ("""print('{"round_seconds": 3}')""", "round_seconds: expected a list, or median, min and max; got 3"),
    ],
)
def test_a_driver_without_figures_is_shown_with_the_reason(code: str, reason: str, tmp_path: Path) -> None:
    outcome = run_code(code, tmp_path)
    assert outcome.spread is None
    assert outcome.reason == reason


def test_a_program_that_is_not_there_is_shown_with_the_reason(tmp_path: Path) -> None:
    outcome = harness.run_driver("It", ["/nowhere"], megabytes=1.0, limit_s=1.0, log=tmp_path / "log")
    assert outcome.reason.startswith("could not start it:")


def test_a_summary_of_rounds_counts_as_a_list_does() -> None:
    listed = harness.read_spread([3.0, 1.0, 2.0])
    assert (listed.median, listed.min, listed.max) == (2.0, 1.0, 3.0)
    assert harness.read_spread({"median": 2.0, "min": 1.0, "max": 3.0}).median == 2.0


def test_memory_is_that_of_the_family_without_the_ignored() -> None:
    code = "data = bytearray(80_000_000); print('ready', flush=True); import time; time.sleep(600)"
    process = start_family(code, {**os.environ, family.VARIABLE: "memory"})
    try:
        watch = family.Watch(family.Family("memory"))
        watch.sample()
        assert 80 < watch.peak.sum_mb < 200
        assert watch.peak.largest_mb > 80
        assert watch.peak.processes == 1
        ignoring = family.Watch(family.Family("memory"), ("bytearray",))
        ignoring.sample()
        assert ignoring.peak.sum_mb == 0
    finally:
        finish(process)


def outcome(system: str, megabytes: float, *rounds: float, reason: str = "") -> Any:
    spread = harness.read_spread(list(rounds)) if rounds else None
    return harness.Outcome(system=system, megabytes=megabytes, spread=spread, reason=reason)


def test_ratios_are_to_ours_at_the_same_size() -> None:
    rows = table.make_rows(
        [outcome("Ours", 1.0, 0.5), outcome("Them", 1.0, 2.0), outcome("Ours", 10.0, 4.0), outcome("Them", 10.0, 6.0)],
        "Ours",
    )
    assert [(row[0], row[1], row[5]) for row in rows] == [
        ("1", "Ours", "1.0"),
        ("1", "Them", "4.0"),
        ("10", "Ours", "1.0"),
        ("10", "Them", "1.5"),
    ]


def test_what_did_not_finish_stands_in_the_table_with_its_reason() -> None:
    rows = table.make_rows([outcome("Ours", 1.0, reason="no such command"), outcome("Them", 1.0, 2.0)], "Ours")
    assert rows[0][2] == "-"
    assert rows[0][-1] == "no such command"
    assert rows[1][5] == "-"
    assert "no such command" in table.format_text(rows)


def test_markdown_has_a_cell_for_each_column_whatever_a_reason_holds() -> None:
    lines = table.format_markdown(table.make_rows([outcome("It", 1.0, reason="a | b")], "Ours")).splitlines()
    assert len(lines) == 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.HEAD) + 1}


def write_marks(folder: Path, peer: int, times: list[float], merged: list[float]) -> None:
    lines = [json.dumps({"at": at, "merged": rounds}) for at, rounds in zip(times, merged, strict=True)]
    (folder / f"{peer}.jsonl").write_text("\n".join(lines) + "\n")


def test_a_round_lasts_until_the_last_peer_holds_its_result(tmp_path: Path) -> None:
    write_marks(tmp_path, 0, [0.0, 1.0, 2.0], [0, 1, 2])
    write_marks(tmp_path, 1, [0.5, 2.5, 3.0, 9.0], [0, 1, 2, 3])
    assert payload.read_rounds(tmp_path, 2) == ([2.0, 0.5], "")
    assert runner.count_rounds(tmp_path, 2) == 2
    assert runner.count_rounds(tmp_path, 3) == 0
    assert runner.count_rounds(tmp_path / "nowhere", 2) is None


def test_a_merge_that_left_a_peer_out_is_noted(tmp_path: Path) -> None:
    write_marks(tmp_path, 0, [0.0, 1.0, 2.0], [0, 1, 1.8])
    write_marks(tmp_path, 1, [0.0, 1.0, 2.0], [0, 1, 1.8])
    assert payload.read_rounds(tmp_path, 2)[1] == "1 of 2 merges were not the mean over all 2 peers"


def test_a_mean_over_all_peers_counts_as_one_round() -> None:
    start = payload.make_arrays(0.01)
    trained = [payload.train(start, peer) for peer in range(4)]
    assert sum(array.nbytes for array in start) == pytest.approx(10_000, rel=0.01)
    means = [np.mean(arrays, axis=0) for arrays in zip(*trained, strict=True)]
    assert payload.merged_rounds(means, 4) == pytest.approx(1, abs=1e-3)
    without_one = [np.mean(arrays[:3], axis=0) for arrays in zip(*trained, strict=True)]
    assert payload.merged_rounds(without_one, 4) == pytest.approx(0.8, abs=1e-3)


def test_every_system_has_a_driver_and_pinned_requirements() -> None:
    for system in runner.SYSTEMS:
        assert (PEERS / system.folder / "driver.py").exists()
        if system.key != runner.OURS:
            lines = (PEERS / system.folder / "requirements.txt").read_text().splitlines()
            assert all("==" in line for line in lines if not line.startswith("#"))


def test_an_unknown_system_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.read_options(["--only", "hivemind,gossip"])
    assert "got gossip" in capsys.readouterr().err
    assert runner.read_options(["--sizes", "0.25,1"]).sizes == [0.25, 1.0]
