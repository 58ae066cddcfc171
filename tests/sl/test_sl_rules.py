"""Every numbered rule of round.md and exchange.md is cited by a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("spec", ["round", "exchange"])
def test_every_rule_is_cited_by_a_test(spec: str) -> None:
    rules = set(re.findall(r"^- \*\*([RE]-\d+)\*\*", (ROOT / "docs" / "spec" / f"{spec}.md").read_text(), re.MULTILINE))
    assert len(rules) >= 9
    cited: set[str] = set()
    for room in ("sl", "simulator"):
        for path in (ROOT / "tests" / room).glob("test_*.py"):
            cited |= set(re.findall(r"\b[RE]-\d+\b", path.read_text()))
    assert rules <= cited, f"not cited: {sorted(rules - cited)}"
