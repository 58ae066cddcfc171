"""Keras on JAX, an environment without a swarm, a short directory for sockets."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_lines import Lines

os.environ["KERAS_BACKEND"] = "jax"

from swarmlearning.callbacks import arguments


@pytest.fixture(autouse=True)
def _no_swarm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # models that are saved after an error go to the working directory
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(arguments, "_warned", set())


@pytest.fixture
def control() -> Iterator[Path]:
    """A control directory with a path that a Unix socket can have."""
    directory = Path(tempfile.mkdtemp(prefix="sl-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the logger `SwarmCallback` says."""
    logger = logging.getLogger("SwarmCallback")
    kept = Lines()
    logger.addHandler(kept)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(level)
