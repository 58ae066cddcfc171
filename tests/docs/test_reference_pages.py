"""The reference pages say what the code says."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "errors.md", "swci.md"])
def test_a_reference_page_is_what_the_code_would_write(page: str) -> None:
    tool = load_tool("make_reference")
    written = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert written == tool.PAGES[page](), "run `python tools/make_reference.py`"


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        inside = [target for target in targets if "://" not in target]
        broken += [f"{page.relative_to(ROOT)}: {target}" for target in inside if not (page.parent / target).exists()]
    assert not broken


def test_environment_variables_of_the_code_are_documented() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src").rglob("*.py"))
    # As the code reads them: a whole string, not a constant's name and not a family such as SWARM_ID_*.
    used = set(re.findall(r"\"((?:SWARM|SL|SN|SWCI|USR)_[A-Z][A-Z_]*[A-Z])\"", source))
    assert {"SWARM_SL", "SWCI_MODE", "USR_DIR"} <= used
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    families = {name for name in used if any(other.startswith(f"{name}_") for other in used)}
    missing = sorted(name for name in used - families if f"`{name}`" not in page)
    assert not missing
