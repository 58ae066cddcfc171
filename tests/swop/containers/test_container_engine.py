"""How a container engine is reached, and what is told where it does not answer. Spec: docs/spec/swop-containers.md."""

import asyncio
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from containers_world import make_pair, make_settings, open_at
from fake_engine import FakeEngine, Fault

from swarmlearning.errors import ConfigurationError, Unreachable, WaitExpired
from swarmlearning.swop.managers import docker_engine
from swarmlearning.swop.managers.boundary import Manager, PartState
from swarmlearning.swop.managers.docker_engine import Engine, connect
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.managers.docker_opening import open_docker, open_podman, own_user
from swarmlearning.swop.profile import ManagerKind

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see conftest


def test_sw70_docker_is_reached_as_the_environment_says(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.socket}")

    async def main() -> None:
        manager: Manager = await open_docker(make_settings(tmp_path))
        assert manager.describe() == "Docker 27.3.1: containers without capabilities and network"
        assert len(manager.describe()) <= 100
        assert manager.isolates
        await manager.close()

    asyncio.run(main())


def test_sw70_podman_is_reached_by_container_host_else_by_its_sockets(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        manager = await open_podman(make_settings(tmp_path))
        assert manager.describe().startswith("Podman ")
        await manager.close()

    monkeypatch.setenv("CONTAINER_HOST", f"unix://{fake.socket}")
    asyncio.run(main())
    monkeypatch.delenv("CONTAINER_HOST")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run" / "podman").mkdir(parents=True)
    (tmp_path / "run" / "podman" / "podman.sock").symlink_to(fake.socket)
    asyncio.run(main())


@pytest.mark.parametrize("kind", [ManagerKind.DOCKER, ManagerKind.PODMAN])
def test_sw70_no_engine_says_what_was_tried_and_what_to_do(
    kind: ManagerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = {"DOCKER": "DOCKER_HOST", "PODMAN": "CONTAINER_HOST"}[kind.value]
    path = tmp_path / "none.sock"
    monkeypatch.setenv(variable, f"unix://{path}")
    with pytest.raises(Unreachable, match=f"at unix://{path} .No such file or directory.: start .* {variable}"):
        connect(kind)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))  # and nobody listens
    with pytest.raises(Unreachable, match="Connection refused"):
        connect(kind)


def test_sw70_no_socket_of_podman_names_those_that_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(docker_engine, "_podman_sockets", list)
    with pytest.raises(Unreachable, match=f"{tmp_path}/podman/podman.sock, /run/podman/podman.sock: start"):
        connect(ManagerKind.PODMAN)


def test_sw70_a_container_host_of_another_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_HOST", "ssh://me@there/run/podman.sock")
    with pytest.raises(ConfigurationError, match=r"CONTAINER_HOST=ssh://.*expected unix:///PATH or tcp://HOST:PORT"):
        connect(ManagerKind.PODMAN)


def test_sw70_certificates_that_are_not_there_are_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"DOCKER_TLS_VERIFY, DOCKER_CERT_PATH: .*expected ca.pem"):
        connect(ManagerKind.DOCKER)


@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b"null", b'{"Version":{}}', b"\xff\xfe", b'{"Labels":1}'])
def test_sw70_what_is_no_engine_is_told_as_such(
    garbage: bytes, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.socket}")
    fake.faults["GET", "/(version|info)"] = Fault(garbage=garbage)
    with pytest.raises(Unreachable, match="Docker does not answer at"):
        connect(ManagerKind.DOCKER)


def test_sw70_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("swarmlearning.swop.managers.docker_engine")]:
        monkeypatch.delitem(sys.modules, name)
    import swarmlearning.swop.managers

    monkeypatch.delattr(swarmlearning.swop.managers, "docker_engine")
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(Unreachable, match=r"DOCKER needs .* pip install 'swarmlearning\[containers\]'"):
        asyncio.run(open_docker(make_settings(tmp_path)))


def test_sw70_an_agent_without_an_image_of_its_own_is_told_so(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.socket}")
    with pytest.raises(ConfigurationError, match="DOCKER runs SLs in containers: expected their image"):
        asyncio.run(open_docker(make_settings(tmp_path, sl_image="")))


@pytest.mark.parametrize("garbage", [b"<html>", b"{}", b"[1]", b'[{"Id":"x"}]', b'[{"Labels":{},"Id":1}', b"null"])
def test_sw70_garbage_from_an_engine_loses_no_pair(
    garbage: bytes, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_sl(pair)
        fake.faults["GET", "/containers/json"] = Fault(garbage=garbage, times=1)
        if garbage not in (b"{}", b'[{"Id":"x"}]'):
            with pytest.raises(Unreachable):
                await docker_manager.look(pair)
        else:
            await docker_manager.look(pair)
        assert (await docker_manager.look(pair)).sl.state is PartState.STARTING
        await docker_manager.close()

    asyncio.run(main())


@pytest.mark.parametrize(("status", "error"), [(500, Unreachable), (503, Unreachable), (403, ConfigurationError)])
def test_sw70_an_engine_that_fails_is_unreachable_one_that_refuses_is_wrongly_set_up(
    status: int, error: type[Exception], fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)
    fake.faults["GET", "/containers/json"] = Fault(status=status, message="not \x1b[31mnow", times=1)

    async def main() -> None:
        with pytest.raises(error, match=r"could not list containers.*not .\[31mnow") as raised:
            await docker_manager.look(pair)
        assert "\x1b" not in str(raised.value)
        await docker_manager.close()

    asyncio.run(main())


def test_sw70_a_call_that_takes_too_long_is_given_up_and_others_go_on(
    fake: FakeEngine, docker_manager: ContainerManager
) -> None:
    engine: Engine = docker_manager._engine
    release = threading.Event()

    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(WaitExpired, match=r"waited 0.2 s for Docker at unix://.* to wait for good"):
            await engine.call("wait for good", release.wait, limit_s=0.2)
        assert time.monotonic() - began < 5
        assert await engine.call("say something", lambda: 7) == 7
        await docker_manager.close()

    asyncio.run(main())
    release.set()


def test_sw70_the_event_loop_goes_on_while_an_engine_is_slow(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)
    fake.faults["GET", "/containers/json"] = Fault(status=0, delay_s=0.5)

    async def main() -> None:
        looking = asyncio.create_task(docker_manager.look(pair))
        ticks = 0
        while not looking.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 10
        assert (await looking).sl.state is PartState.ABSENT
        await docker_manager.close()

    asyncio.run(main())


def test_sw78_an_engine_that_restarts_loses_no_pair(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_sl(pair)
        fake.make_ready(fake.of("sl"))
        assert (await docker_manager.look(pair)).sl.state is PartState.RUNNING
        fake.stop()
        with pytest.raises(Unreachable, match="does not answer"):
            await docker_manager.look(pair)
        fake.start()
        assert (await docker_manager.look(pair)).sl.state is PartState.RUNNING
        await docker_manager.close()

    asyncio.run(main())


def test_sw72_containers_run_as_whoever_runs_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWOP_UID", raising=False)
    monkeypatch.delenv("SWOP_GID", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 1001)
    monkeypatch.setattr("os.getgid", lambda: 1002)
    assert own_user(rootless=False) == "1001:1002"
    assert own_user(rootless=True) == "0:0"  # who is that user on the host
    monkeypatch.setenv("SWOP_UID", "2001")
    assert own_user(rootless=False) == "2001:1002"
    monkeypatch.setenv("SWOP_GID", "staff")
    with pytest.raises(ConfigurationError, match="SWOP_GID=staff: expected the number"):
        own_user(rootless=False)


def test_sw70_rootless_and_selinux_are_seen(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.security = ["name=seccomp", "name=selinux", "name=rootless"]
    manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
    assert "(rootless)" in manager.describe()
    assert manager._world.user == "0:0"
    assert manager._world.selinux
    manager._engine.close()
