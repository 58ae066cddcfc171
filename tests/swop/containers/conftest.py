"""A fake engine, and a manager on it."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers_world import SL_IMAGE, make_settings, open_at
from fake_engine import FakeEngine

from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.profile import ManagerKind


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "engine.sock") as engine:
        engine.add_image(SL_IMAGE)
        yield engine
        failed = bool(engine.faults) or engine.stopped
    if failed:  # the docker package leaves sockets to the collector where an engine fails: here, not in another test
        gc.collect()


@pytest.fixture
def docker_manager(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerManager:
    return open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
