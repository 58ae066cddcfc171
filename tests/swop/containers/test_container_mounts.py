"""What a program may be given of the host. Spec: docs/spec/swop-containers.md, SW-74."""

import asyncio
from pathlib import Path

import pytest
from containers_world import AGENT, make_body, make_pair, make_settings, open_at, run
from fake_engine import FakeEngine
from msgspec.structs import replace

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.managers.docker_mounts import make_fence
from swarmlearning.swop.managers.docker_names import content_name
from swarmlearning.swop.managers.process_mounts import HOST_TREES
from swarmlearning.swop.profile import ManagerKind, PrivateData
from swarmlearning.tasks.bodies import Mount

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see conftest


def with_mount(tmp_path: Path, source: str, target: str = "/model", *, volume: bool = False) -> Pair:
    mount = Mount(source=source, target=target, kind="VOLUME" if volume else "BIND")
    return make_pair(tmp_path, body=make_body(shared_content=(mount,)))


def test_sw74_private_data_is_read_only_and_shared_content_is_not(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "model").mkdir()
    pair = with_mount(tmp_path, str(tmp_path / "model"), "/tmp/test/model")
    body = replace(pair.body, private_content="/tmp/test/app-data")
    node = replace(pair.node, private_data=PrivateData(source=str(tmp_path / "rows"), kind="BIND"))
    run(docker_manager, docker_manager.start_ml(replace(pair, body=body, node=node)))
    mounts = {mount["Target"]: mount for mount in fake.of("ml").host["Mounts"]}
    assert mounts["/tmp/test/app-data"] == {
        "Type": "bind",
        "Source": str(tmp_path / "rows"),
        "Target": "/tmp/test/app-data",
        "ReadOnly": True,
    }
    assert mounts["/tmp/test/model"]["ReadOnly"] is False


def test_sw74_private_data_is_not_given_to_a_task_that_does_not_ask_for_it(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    data = PrivateData(source=str(tmp_path), kind="BIND")
    pair = make_pair(tmp_path, node={"private_data": data})
    run(docker_manager, docker_manager.start_ml(pair))
    assert [mount["Target"] for mount in fake.of("ml").host["Mounts"]] == ["/run/swarm"]


@pytest.mark.parametrize(
    "source",
    [
        *("/", "//", "/etc", "/etc/ssl/private", "/proc", "/sys/fs", "/dev", "/dev/shm", "/boot", "/run", "/var/run"),
        *("/run/docker.sock", "/var/run/docker.sock", "/var", "/var/lib", "/var/lib/docker/volumes", "/usr/../etc"),
        *("/tmp/../../proc/1", "/var/lib/containers/storage"),
    ],
)
def test_sw74_a_mount_of_what_is_the_hosts_own_is_refused(
    source: str, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    for pair in (
        with_mount(tmp_path, source),
        make_pair(
            tmp_path,
            body=make_body(private_content="/data"),
            node={"private_data": PrivateData(source=source, kind="BIND")},
        ),
    ):
        with pytest.raises(ConfigurationError, match=r"(SharedContent|private data) .* is refused: no program may see"):
            asyncio.run(docker_manager.start_ml(pair))
    assert fake.containers == {}
    docker_manager._engine.close()


def test_sw74_the_engines_socket_the_agents_data_and_identities_are_refused(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "other" / "key.pem"
    secret.parent.mkdir()
    secret.touch()
    (tmp_path / "data" / "journal").mkdir(parents=True)
    settings = make_settings(tmp_path, secrets=(str(secret),))
    manager = open_at(fake.socket, settings, monkeypatch, ManagerKind.DOCKER)
    for source, there in [
        (fake.socket, "engine"),
        (tmp_path, "agent's data"),
        (tmp_path / "data", "agent's data"),
        (tmp_path / "data" / "journal", "agent's data"),
        (secret, "an identity"),
        (secret.parent, "an identity"),
        (tmp_path / "identity", "an identity"),  # of this peer's own SL
    ]:
        with pytest.raises(ConfigurationError, match=f"no program may see .*{there}"):
            asyncio.run(manager.start_ml(with_mount(tmp_path, str(source))))
    (tmp_path / "fine").mkdir()
    run(manager, manager.start_ml(with_mount(tmp_path, str(tmp_path / "fine"))))


def test_sw74_a_link_is_followed_before_it_is_judged_and_mounted(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    (tmp_path / "innocent").symlink_to("/etc")
    with pytest.raises(ConfigurationError, match=r"innocent \(which is /etc\) is refused"):
        asyncio.run(docker_manager.start_ml(with_mount(tmp_path, str(tmp_path / "innocent"))))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(docker_manager, docker_manager.start_ml(with_mount(tmp_path, str(tmp_path / "link"))))
    assert fake.of("ml").host["Mounts"][0]["Source"] == str(tmp_path / "real")


def test_sw74_shared_content_that_leads_elsewhere_than_when_it_was_decided_is_refused(
    docker_manager: ContainerManager, tmp_path: Path
) -> None:
    """The attack: a program that may write beside it makes it a link before the next one starts."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "victim").mkdir()
    pair = replace(with_mount(tmp_path, str(tmp_path / "shared")), places=(str(tmp_path / "shared"),))
    (tmp_path / "shared").rmdir()
    (tmp_path / "shared").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigurationError, match=r"it leads to .*victim now"):
        asyncio.run(docker_manager.start_ml(pair))
    docker_manager._engine.close()


def test_sw74_every_forbidden_tree_is_refused_with_all_that_holds_it(tmp_path: Path) -> None:
    fence = make_fence(str(tmp_path / "data"), None, ())
    for tree in HOST_TREES:
        for source in (tree, f"{tree}/below", tree.rpartition("/")[0] or "/"):
            with pytest.raises(ConfigurationError, match="refused"):
                fence.check(source, "x")
    for source in (str(tmp_path / "datax"), "/opt/study", "/etcetera"):
        assert fence.check(source, "x") == source


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("relative", "/model", "expected an absolute path of this host"),
        ("/opt/a\0b", "/model", "expected an absolute path of this host"),
        ("/opt", "model", "expected an absolute path within the container"),
        ("/opt", "/", "expected an absolute path within the container"),
        ("/opt", "/x/..", "expected an absolute path within the container"),
        ("/opt", "/proc/1", "nothing can be mounted there"),
        ("/opt", "/run/swarm/control", "nothing can be mounted there"),
        ("/opt", "/x/../run/swarm", "nothing can be mounted there"),
    ],
)
def test_sw74_paths_that_cannot_be_mounted_are_told(
    source: str, target: str, text: str, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        asyncio.run(docker_manager.start_ml(with_mount(tmp_path, source, target)))
    docker_manager._engine.close()


def test_sw74_two_mounts_at_one_target_are_refused(docker_manager: ContainerManager, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    mounts = tuple(Mount(source=str(tmp_path / "model"), target=target, kind="BIND") for target in ("/m", "/m/."))
    with pytest.raises(ConfigurationError, match="two things are to be mounted at /m"):
        asyncio.run(docker_manager.start_ml(make_pair(tmp_path, body=make_body(shared_content=mounts))))
    docker_manager._engine.close()


def test_sw74_a_source_that_is_not_there_is_told(docker_manager: ContainerManager, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="bind source path does not exist"):
        asyncio.run(docker_manager.start_ml(with_mount(tmp_path, str(tmp_path / "none"))))
    docker_manager._engine.close()


def test_sw76_a_task_sees_its_agents_volume_before_one_of_the_host(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    (tmp_path / "content").mkdir()
    fake.volumes["host-made"] = {"Name": "host-made", "Labels": None}
    fake.volumes["data"] = {"Name": "data", "Labels": {}}
    volume = Mount(source="host-made", target="/a", kind="VOLUME")
    pair = make_pair(
        tmp_path, body=make_body(shared_content=(volume, Mount(source="data", target="/b", kind="VOLUME")))
    )

    async def main() -> None:
        await docker_manager.fill_volume("data", str(tmp_path / "content"))
        await docker_manager.start_ml(pair)

    run(docker_manager, main())
    sources = {mount["Target"]: mount["Source"] for mount in fake.of("ml").host["Mounts"]}
    assert (sources["/a"], sources["/b"]) == ("host-made", content_name(AGENT, "data"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("none", "has no volume none: a task that fills it"), ("/etc", "expected a name without /"), ("", "without /")],
)
def test_sw76_a_volume_that_is_not_there_is_not_made(
    name: str, text: str, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        asyncio.run(docker_manager.start_ml(with_mount(tmp_path, name, volume=True)))
    assert fake.volumes == {}
    docker_manager._engine.close()


def test_sw74_what_an_sl_keeps_and_channels_are_no_volumes_for_tasks(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    """Its signing key is there; and through a channel one program would reach another one's SL."""

    async def main() -> None:
        await docker_manager.start_sl(make_pair(tmp_path))
        for name in list(fake.volumes):
            with pytest.raises(ConfigurationError, match=r"is refused: it holds what an SL keeps to itself"):
                await docker_manager.start_ml(with_mount(tmp_path, name, volume=True))

    run(docker_manager, main())
