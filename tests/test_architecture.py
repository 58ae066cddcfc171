"""The house as it was planned: who may import whom, small modules, true `__all__`, a light core, no shortcuts."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
ROOT = SRC / "swarmlearning"
MODULES = sorted([*ROOT.rglob("*.py"), *(SRC / "swarm").rglob("*.py")])

BASE = {"errors", "types", "encoding", "clock"}
"""Single modules that everybody may import, and `__init__` with the version."""

CORE = {"identity", "parameters", "transport", "ledger", "merge", "contracts"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "clock": {"errors"},
    "encoding": {"errors"},
    "types": {"errors", "encoding"},
    "identity": BASE,
    "parameters": BASE,
    "transport": BASE | {"identity"},
    "ledger": BASE | {"transport.api", "transport.carrying", "identity.signing", "identity.files"},
    "merge": BASE | {"parameters"},
    "contracts": BASE | {"identity", "parameters.chunks"},
    "sn": BASE | CORE - {"merge", "parameters"},
    "sl": BASE | CORE - {"ledger"} | {"sn.client", "sn.api"},
    "callbacks": BASE
    | {"sl.control", "parameters", "contracts.records", "contracts.limits", "contracts.context", "identity"}
    | {"transport.route"},
    "reports": BASE | {"contracts", "identity", "sn.api", "sn.client", "sn.asking"},
    "local": BASE | CORE | {"sl", "sn", "callbacks", "reports"},
    "doctor": BASE | {"identity", "transport", "contracts", "sn.client", "sn.api", "sl.exchange", "callbacks.launch"},
    "demo": BASE | CORE | {"sl", "sn", "local", "callbacks", "tf", "pyt"},
    "rehearsal": BASE | {"callbacks", "sl.control", "parameters", "contracts.records"},
    "bench": BASE | CORE | {"callbacks", "local", "sn.client"},
    "tasks": BASE | {"contracts.task_records"},
    "swci": BASE
    | {"contracts", "identity", "ledger.boundary", "transport", "tasks", "reports", "local.genesis"}
    | {"sn.api", "sn.asking", "sn.client", "sn.export", "sn.exporting", "sn.proofs"},
    "swop": BASE
    | {"contracts", "identity", "transport", "tasks", "reports", "local.process", "local.reaper"}
    | {"sn.api", "sn.asking", "sn.client"},
    "cli": BASE
    | CORE
    | {"sl", "sn", "local", "demo", "doctor", "rehearsal", "bench", "reports", "swci", "swop", "tasks"},
    "__main__": {"cli"},
    "tf": BASE | {"callbacks", "sl.control", "contracts.records"},
    "pyt": BASE | {"callbacks", "sl.control", "contracts.records"},
    "swarm": BASE | {"tf", "pyt", "callbacks"},
}
"""Room to the rooms, or single modules of rooms, that it may import besides itself."""

FRAMEWORKS = ["keras", "tensorflow", "jax", "torch", "sklearn", "scipy", "matplotlib", "pandas"]
EXTRAS = [*FRAMEWORKS, "google.protobuf", "docker"]
"""What comes with extras, and the core does without."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def room_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return "swarm" if parts[0] == "swarm" else parts[1]


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a module imports, anywhere in it, below `swarmlearning.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # `from package import module` imports the module; `from module import name` the module that has it.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (SRC / Path(*inner.split("."))).with_suffix(".py").exists()
                is_package = (SRC / Path(*inner.split(".")) / "__init__.py").exists()
                found.add(inner if is_module or is_package else node.module)
    return {name.removeprefix("swarmlearning.") for name in found if name.startswith("swarmlearning.")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downward(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert imports_of(path) <= BASE
        return
    allowed = MAY_IMPORT[room] | {room}
    wrong = {name for name in imports_of(path) if not {name, name.split(".")[0]} & allowed}
    assert not wrong, f"{room} may import {sorted(allowed)}"


def test_the_table_of_imports_has_no_cycle_and_every_room() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms <= set(MAY_IMPORT)
    done: set[str] = set()
    waiting = dict(MAY_IMPORT)
    while waiting:
        ready = {room for room, needs in waiting.items() if {need.split(".")[0] for need in needs} <= done}
        assert ready, f"a cycle among {sorted(waiting)}"
        done |= ready
        waiting = {room: needs for room, needs in waiting.items() if room not in ready}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_longer_than_500_lines_and_each_says_what_it_does(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", [path for path in MODULES if "__all__" in path.read_text()], ids=name_of)
def test_all_is_true(path: Path) -> None:
    tree = ast.parse(path.read_text())
    public: set[str] = set()
    listed: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            public.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            if "__all__" in names and node.value is not None:
                listed = ast.literal_eval(node.value)
            public |= names
        elif isinstance(node, ast.ImportFrom):
            public |= {alias.asname or alias.name for alias in node.names}
    assert len(set(listed)) == len(listed)
    assert set(listed) <= public, "__all__ names what is not there"
    functions = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert {name for name in functions if not name.startswith("_")} <= set(listed), "__all__ leaves out what is public"
    if not {"tf", "pyt", "swarm"} & {room_of(path)}:
        module = importlib.import_module(name_of(path))
        assert all(hasattr(module, name) for name in listed)


def test_the_core_imports_no_framework() -> None:
    """Hospitals' nodes have none installed; and start-up would take seconds."""
    program = (
        "import sys, swarmlearning.cli.main, swarmlearning.sl.node, swarmlearning.sn.node\n"
        "import swarmlearning.local.network, swarmlearning.ledger.cometbft.proofs\n"
        f"print(*[name for name in {EXTRAS!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert done.stdout.split() == []


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_NAMES = {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_pickle_no_eval_no_unverified_tls(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS
        elif isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            assert not (node.arg in ("verify", "ssl", "check_hostname", "weights_only") and value is False)
            assert not (node.arg == "allow_pickle" and value)
        elif isinstance(node, ast.Attribute):
            assert node.attr not in FORBIDDEN_NAMES
        elif isinstance(node, ast.Name):
            assert node.id not in FORBIDDEN_NAMES
