"""A short directory for sockets."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def control() -> Iterator[Path]:
    """A directory with a path that a Unix socket can have."""
    directory = Path(tempfile.mkdtemp(prefix="sn-"))
    yield directory
    shutil.rmtree(directory)
