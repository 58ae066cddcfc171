"""One REST service for tests that leave it as it was."""

from collections.abc import Iterator

import pytest
from swci_world import Swarm
from web_world import Service, serving


@pytest.fixture(scope="session")
def service(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The commands of the table; each test is a caller of its own."""
    with serving(swarm, tmp_path_factory.mktemp("usr")) as made:
        yield made
