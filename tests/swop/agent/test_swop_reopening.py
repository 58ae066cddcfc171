"""SW-14: an agent goes on with the manager that has what it started."""

import asyncio
import logging
from pathlib import Path

import pytest
from fake_manager import FakeManager

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.swop import reopening
from swarmlearning.swop.managers.boundary import Manager, ManagerSettings
from swarmlearning.swop.profile import ManagerKind
from swarmlearning.swop.reopening import open_again
from swarmlearning.types import NodeId


class Engines:
    """What answers, and what was asked for."""

    def __init__(self, data: Path, *, away: int = 0) -> None:
        self.asked: list[tuple[ManagerKind | None, bool]] = []
        self._away = away
        self._settings = ManagerSettings(data=str(data), agent=NodeId("spiffe://a/n/swop/s"), group="g")

    async def _open(self, kind: ManagerKind | None, _: ManagerSettings, *, insist: bool = False) -> Manager:
        self.asked.append((kind, insist))
        if len(self.asked) <= self._away:
            raise Unreachable("no engine")
        return FakeManager()

    def open(self, kind: ManagerKind | None, *, named: bool, has_pairs: bool, wait_s: float = 0.05) -> Manager:
        return asyncio.run(
            open_again(kind, self._settings, named=named, has_pairs=has_pairs, wait_s=wait_s, opens=self._open)
        )


def test_sw14_the_first_time_it_is_what_was_wanted(tmp_path: Path) -> None:
    engines = Engines(tmp_path)
    engines.open(ManagerKind.DOCKER, named=False, has_pairs=True)
    engines.open(ManagerKind.DOCKER, named=True, has_pairs=False)
    assert engines.asked == [(ManagerKind.DOCKER, False), (ManagerKind.DOCKER, True)]
    # What was opened in the end is remembered: here processes.
    assert (tmp_path / "manager").read_text() == "PROCESS"


def test_sw14_with_peers_of_an_earlier_process_it_is_the_same_and_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening, "_AGAIN_S", 0.01)
    (tmp_path / "manager").write_text("DOCKER")
    engines = Engines(tmp_path, away=2)
    with caplog.at_level(logging.WARNING):
        engines.open(None, named=False, has_pairs=True, wait_s=60)
    assert engines.asked == [(ManagerKind.DOCKER, True)] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "waits for DOCKER, which has peers of earlier tasks, 60 s at most: no engine"
    ]


def test_sw14_the_wait_ends(tmp_path: Path) -> None:
    (tmp_path / "manager").write_text("DOCKER")
    with pytest.raises(Unreachable, match="no engine"):
        Engines(tmp_path, away=100).open(None, named=False, has_pairs=True)


def test_sw14_another_one_that_is_named_is_refused_while_there_are_peers(tmp_path: Path) -> None:
    (tmp_path / "manager").write_text("DOCKER")
    with pytest.raises(ConfigurationError, match="start with --resource-manager docker until"):
        Engines(tmp_path).open(ManagerKind.PROCESS, named=True, has_pairs=True)
    Engines(tmp_path).open(ManagerKind.PROCESS, named=True, has_pairs=False)
