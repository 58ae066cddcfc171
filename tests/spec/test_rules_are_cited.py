"""Every numbered rule in docs/spec/ has a test that names it: in its name (`test_t12_...`), a docstring or a comment.

A range does not count: "T-1 to T-9" says what a file is about, not that each of them is tested.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"\b[A-Z]{1,3}-\d+[a-z]?\b")
RANGE = re.compile(r"\b([A-Z]{1,3})-\d+[a-z]? to \1-\d+[a-z]?\b")
CURVES = {"P-256", "P-384", "P-521"}
RULE = re.compile(r"\*\*([A-Z]{1,3}-\d+[a-z]?)\*\*")


def rules() -> dict[str, list[str]]:
    """Number to the files that define it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "docs" / "spec").glob("*.md")):
        for number in RULE.findall(path.read_text()):
            found.setdefault(number, []).append(path.name)
    return found


def cited() -> set[str]:
    numbers: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = RANGE.sub("", path.read_text())
        numbers |= set(NUMBER.findall(text))
        for name in re.findall(r"(?:def|class) [Tt]est_?(\w+)", text):
            numbers |= {f"{a.upper()}-{n}" for a, n in re.findall(r"(?:^|_)([a-z]{1,3})(\d+[a-z]?)(?=_|$)", name)}
    return numbers


def test_there_are_rules_to_cite() -> None:
    assert len(rules()) > 150


def test_every_numbered_rule_is_cited_by_a_test() -> None:
    known = cited()
    missing = {number: files for number, files in rules().items() if number not in known}
    assert not missing, f"rules without a test that names them: {missing}"


def test_a_number_is_defined_once() -> None:
    twice = {number: files for number, files in rules().items() if len(files) > 1}
    assert not twice


def test_rules_that_code_cites_exist() -> None:
    known = rules()
    families = {number.split("-")[0] for number in known}
    unknown: dict[str, str] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for number in set(NUMBER.findall(RANGE.sub("", path.read_text()))) - CURVES:
            if number.split("-")[0] in families and number not in known:
                unknown[number] = path.name
    assert not unknown, f"code cites rules that docs/spec/ does not have: {unknown}"
