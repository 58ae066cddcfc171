"""REST services for tests that leave them as they were."""

from collections.abc import Iterator

import pytest
from swci_world import Swarm
from web_table import TABLE
from web_world import Service, serving


@pytest.fixture(scope="session")
def small(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The small table of `web_table`; each test is a caller of its own."""
    with serving(swarm, tmp_path_factory.mktemp("usr"), TABLE, recheck_s=0.2) as made:
        yield made


@pytest.fixture(scope="session")
def service(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The table of commands."""
    with serving(swarm, tmp_path_factory.mktemp("usr")) as made:
        yield made
