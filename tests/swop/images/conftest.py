"""A world with this machine's sandbox; without one, tests of builds are skipped. Tests that are coroutines are run."""

import asyncio
import inspect
from pathlib import Path

import pytest
from images_world import World, probe_here

from swarmlearning.swop.managers.sandbox import Sandbox


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    found = probe_here(tmp_path_factory.mktemp("probe"))
    if not isinstance(found, Sandbox):
        pytest.skip(f"no sandbox on this machine: {found}")
    return found


@pytest.fixture
def world(tmp_path: Path, here: Sandbox, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # these tests take nothing from outside
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return World(tmp_path, here)
