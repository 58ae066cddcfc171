"""The fault matrix over real processes and mutual TLS: whoever is killed or frozen, whenever, the training goes on.

What must hold after every fault is in `matrix_world.Run`; the scenarios are in `matrix_table`.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from matrix_network import FaultyNetwork
from matrix_scenario import PEERS, Figures, Scenario
from matrix_table import SCENARIOS, SLICE
from matrix_watch import History
from matrix_world import Run

from swarmlearning.local.network import prepare_workdir

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TEST = "test_the_training_survives"


class Stage:
    """A network on which scenarios are played one after another; after a failure the next one gets a fresh one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = asyncio.Runner()
        self._built = 0
        self._network: FaultyNetwork | None = None
        self._history: History

    def play(self, scenario: Scenario) -> Figures:
        return self._runner.run(self._play(scenario))

    async def _play(self, scenario: Scenario) -> Figures:
        network = self._network or await self._build()
        programs = network.workdir / "programs" / scenario.id
        try:
            async with network.open_client() as sn:
                figures = await Run(network, self._history, sn, scenario, programs).play()
            await network.heal()
        except BaseException as error:
            error.add_note(f"repeat it alone: .venv/bin/python -m pytest '{__file__}::{TEST}[{scenario.id}]'")
            error.add_note(f"logs of the nodes: {network.logs}; of the programs: {programs}")
            await self._tear_down()
            raise
        return figures

    async def _build(self) -> FaultyNetwork:
        self._built += 1
        workdir = prepare_workdir(self._folder / f"w{self._built}")
        network = FaultyNetwork(PEERS, workdir)
        await network.__aenter__()
        (workdir / "programs").mkdir()
        self._network, self._history = network, History(network)
        return network

    async def _tear_down(self) -> None:
        network, self._network = self._network, None
        if network is not None:
            await self._history.close()
            await network.stop()

    def close(self) -> None:
        self._runner.run(self._tear_down())
        self._runner.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


def as_parameter(scenario: Scenario) -> Any:
    return pytest.param(scenario, id=scenario.id, marks=() if scenario.id in SLICE else pytest.mark.slow)


@pytest.mark.parametrize("scenario", [as_parameter(scenario) for scenario in SCENARIOS])
def test_the_training_survives(stage: Stage, scenario: Scenario, record_property: Any) -> None:
    figures = stage.play(scenario)
    record_property("matrix", msgspec.json.encode(figures).decode())
