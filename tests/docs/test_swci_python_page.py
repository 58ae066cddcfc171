"""The pages about the Python class of the command interface say what the class says."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from swarmlearning.swci import Swci

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "docs" / "reference" / "swci-python.md"
HOW_TO = ROOT / "docs" / "how-to" / "steer-from-python.md"


def code_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_table_of_methods_is_what_the_class_has() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = REFERENCE.read_text(encoding="utf-8")
    assert written == tool.PAGES["swci-python.md"](), "run `python tools/make_reference.py`"
    listed = re.findall(r"^\| `(\w+)\(", written, re.MULTILINE)
    public = [name for name, _ in inspect.getmembers(Swci, inspect.isfunction) if not name.startswith("_")]
    assert sorted(listed) == sorted(public)


def test_the_constructor_is_written_as_it_is() -> None:
    parameters = list(inspect.signature(Swci).parameters.values())
    text = REFERENCE.read_text(encoding="utf-8")
    (shown,) = re.findall(r"^`Swci\((.*)\)`$", text, re.MULTILINE)
    shown = shown.replace("logging.WARNING", "30").replace("*, ", "")
    expected = [
        one.name if one.default is inspect.Parameter.empty else f"{one.name}={one.default!r}" for one in parameters
    ]
    assert shown.split(", ") == expected
    assert all(f"`{one.name}`" in text for one in parameters)


@pytest.mark.parametrize("page", [REFERENCE, HOW_TO], ids=lambda path: path.stem)
def test_every_call_in_the_examples_fits_the_class(page: Path) -> None:
    calls = [node for code in code_of(page) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    bound = 0
    for call in calls:
        values = [*call.args], {keyword.arg or "": keyword.value for keyword in call.keywords}
        match call.func:
            case ast.Name(id="Swci"):
                inspect.signature(Swci).bind(*values[0], **values[1])
            case ast.Attribute(value=ast.Name(id="s"), attr=name):
                inspect.signature(getattr(Swci, name)).bind(None, *values[0], **values[1])
            case _:
                continue
        bound += 1
    assert bound >= 3


@pytest.mark.parametrize("page", [REFERENCE, HOW_TO], ids=lambda path: path.stem)
def test_every_method_that_the_text_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`(?:s\.)?([a-z]+[A-Z]\w*)(?:\(.*?\))?`", page.read_text(encoding="utf-8")))
    known = {name for name, _ in inspect.getmembers(Swci, inspect.isfunction)}
    parameters = {name for method in known for name in inspect.signature(getattr(Swci, method)).parameters}
    assert named
    assert named <= known | parameters


def test_errors_of_the_how_to_are_those_of_the_code() -> None:
    """People look for the words that they were told."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "swarmlearning").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # messages are split over lines
    rows = re.findall(r"^\| `(.*?)` \|", HOW_TO.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 8
    for row in rows:
        for part in re.split(r" ?… ?", row):
            plain = part.replace("SWARM_ID_CERT", "{CERT_VARIABLE}")
            assert plain in source, part
