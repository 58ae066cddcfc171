"""Which resource manager is opened, and what is said where it is another one than the profile says."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from process_world import plain_manager, settings

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.swop.managers.boundary import Manager, ManagerSettings
from swarmlearning.swop.managers.opening import OPENERS, open_manager
from swarmlearning.swop.profile import ManagerKind

DOCKER, PODMAN, PROCESS = ManagerKind.DOCKER, ManagerKind.PODMAN, ManagerKind.PROCESS


def opens(manager: Manager) -> Callable[[ManagerSettings], Awaitable[Manager]]:
    async def open_it(_: ManagerSettings) -> Manager:
        return manager

    return open_it


def fails(error: Exception) -> Callable[[ManagerSettings], Awaitable[Manager]]:
    async def open_it(_: ManagerSettings) -> Manager:
        raise error

    return open_it


class Host:
    """A host on which some engines answer."""

    def __init__(self, data: Path, **errors: Exception) -> None:
        self.managers = {kind: plain_manager(data) for kind in ManagerKind}
        self._openers = {
            kind: fails(errors[kind.value]) if kind.value in errors else opens(manager)
            for kind, manager in self.managers.items()
        }
        self._data = data
        self.said: list[str] = []

    def open(self, kind: ManagerKind | None, *, insist: bool = False, sl_image: str = "swarm:1") -> ManagerKind:
        given = msgspec.structs.replace(settings(self._data), sl_image=sl_image)
        manager = asyncio.run(open_manager(kind, given, insist=insist, warn=self.said.append, openers=self._openers))
        return next(kind for kind, known in self.managers.items() if known is manager)


GONE = Unreachable("no Docker engine at /var/run/docker.sock")


def test_sw59_the_kind_that_is_named_is_opened(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert [host.open(kind) for kind in ManagerKind] == list(ManagerKind)
    assert [host.open(kind, insist=True) for kind in ManagerKind] == list(ManagerKind)
    assert host.said == []


def test_sw59_a_profile_that_says_docker_runs_as_processes_where_no_engine_is_and_that_is_said(tmp_path: Path) -> None:
    host = Host(tmp_path, DOCKER=GONE)
    assert host.open(DOCKER) is PROCESS
    assert len(host.said) == 1
    assert host.said[0].startswith(
        "the profile says DOCKER, but there is none (no Docker engine at /var/run/docker.sock)"
    )
    assert host.said[0].endswith(
        ": the resource manager is PROCESS, processes without a sandbox: there is none in this test"
    )


def test_sw59_an_engine_that_is_insisted_on_is_not_replaced(tmp_path: Path) -> None:
    host = Host(tmp_path, DOCKER=GONE, PODMAN=GONE)
    for kind, insist in ((DOCKER, True), (PODMAN, True), (PODMAN, False)):
        with pytest.raises(Unreachable, match="no Docker engine"):
            host.open(kind, insist=insist)
    assert host.said == []


def test_sw59_without_a_kind_it_is_what_the_host_has(tmp_path: Path) -> None:
    assert Host(tmp_path).open(None) is DOCKER
    assert Host(tmp_path, DOCKER=GONE).open(None) is PODMAN
    host = Host(tmp_path, DOCKER=GONE, PODMAN=GONE)
    assert host.open(None) is PROCESS
    assert host.said[0].startswith("there is no container engine (no Docker engine")


def test_sw59_without_an_image_for_sls_nobody_looks_for_an_engine(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.open(None, sl_image="") is PROCESS
    assert host.said == []


def test_sw59_faults_of_the_settings_are_no_missing_engine(tmp_path: Path) -> None:
    host = Host(tmp_path, DOCKER=ConfigurationError("DOCKER_HOST is malformed"))
    with pytest.raises(ConfigurationError, match="malformed"):
        host.open(DOCKER)


def test_every_kind_has_an_opener() -> None:
    assert set(OPENERS) == set(ManagerKind)
