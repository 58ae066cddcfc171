"""`swarm bench merge`: what it prints, not how fast anything is."""

import json
import subprocess
import sys

import pytest

from swarmlearning.cli.bench_merge import measure_all, merge_model, prepare, table_of
from swarmlearning.cli.main import main
from swarmlearning.merge.method import BUILT_IN, merge_method


def test_the_json_has_every_method_with_each_type(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--peers", "3", "--megabytes", "1", "--repeats", "1", "--dtype", "float16", "--dtype", "int32"]
    assert main(["bench", "merge", "--json", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["peers"], report["megabytes"]) == (3, 1)
    assert report["copy_gbps"] > 0
    rows = {(row["work"], row["dtype"], row["weights"]) for row in report["results"]}
    for dtype in ("float16", "int32"):
        assert {(name, dtype, weights) for name in BUILT_IN for weights in ("equal", "unequal")} <= rows
        assert ("distances", dtype, "") in rows
    assert ("commit", "", "") in rows
    assert all(row["gbps"] > 0 for row in report["results"] if row["dtype"] != "int32")


def test_the_table_fits_a_hundred_columns() -> None:
    report = measure_all(peers=2, size=1 << 16, dtypes=("float32", "bfloat16"), repeats=1)
    lines = table_of(report).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("coordmedian") for line in lines) == 4
    assert any(line.startswith("copy of memory") for line in lines)


def test_what_is_measured_is_a_whole_merge() -> None:
    asked: list[str] = []
    manifest, models = prepare("float32", 1 << 17, 3)
    assert len({bytes(model) for model in models}) == 3
    krum = merge_method("krum")
    weigh = krum.weigh
    krum.weigh = lambda *given: asked.append("weighed") or weigh(*given)  # type: ignore[method-assign, func-returns-value]
    merge_model(manifest, krum, models, [1, 1, 1])
    assert asked == ["weighed"]


def test_the_group_imports_nothing_that_computes() -> None:
    program = "import sys, swarmlearning.cli.bench; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
