"""One running swarm of two organisations' SNs for all tests of the agent."""

from collections.abc import Iterator

import pytest
from swci_world import Swarm, running_swarm


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Its ledger is shared: take names of your own from `swarm.fresh`."""
    with running_swarm(tmp_path_factory.mktemp("swop") / "w") as made:
        yield made
