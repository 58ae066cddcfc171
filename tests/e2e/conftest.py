"""Shows what the fault matrix measured; with `SWARM_MATRIX_OUT=FILE`, also writes it there as a Markdown table."""

import json
import os
from pathlib import Path

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line a scenario: how long until the next round was final."""
    reports = terminalreporter.getreports("passed")
    found = [json.loads(value) for report in reports for name, value in report.user_properties if name == "matrix"]
    if not found:
        return
    rows = [
        "| scenario | next final round after | repaired after | attempts | contributors |",
        "| --- | --- | --- | --- | --- |",
    ]
    for figures in sorted(found, key=lambda figures: figures["scenario"]):
        repaired = "-" if figures["repaired_s"] is None else f"{figures['repaired_s']:.2f} s"
        rows.append(
            f"| {figures['scenario']} | {figures['next_final_s']:.2f} s | {repaired} | {figures['attempts']} "
            f"| {figures['contributors']} of 3 |"
        )
    terminalreporter.section("time to recover")
    for row in rows:
        terminalreporter.write_line(row)
    if out := os.environ.get("SWARM_MATRIX_OUT"):
        Path(out).write_text("\n".join(rows) + "\n")
