"""Pairs outlive whoever starts them: also a test that fails."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlearning.swop.managers.process_parts import Place


@pytest.fixture(autouse=True)
def end_pairs(tmp_path: Path) -> Iterator[None]:
    yield
    for lock in tmp_path.rglob("parts/*/lock"):
        asyncio.run(Place(lock.parent).stop(0))
