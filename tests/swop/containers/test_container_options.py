"""`usrcontaineropts` of a profile. Spec: docs/spec/swop-containers.md, SW-75."""

from pathlib import Path
from typing import Any

import pytest
from containers_world import make_pair, run
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.managers.docker_options import OWN_ONLY, read_options
from swarmlearning.swop.profile import Option


def options(*pairs: tuple[str, str]) -> list[Option]:
    return [Option(name=name, value=value, line=40 + number) for number, (name, value) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("name", "value", "config"),
    [
        ("gpus", "all", {"DeviceRequests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]}),
        ("gpus", "2", {"DeviceRequests": [{"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu"]]}]}),
        (
            "gpus",
            '"device=0,GPU-3a2"',
            {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ["0", "GPU-3a2"], "Capabilities": [["gpu"]]}]},
        ),
        (
            "device",
            "/dev/kfd",
            {"Devices": [{"PathOnHost": "/dev/kfd", "PathInContainer": "/dev/kfd", "CgroupPermissions": "rwm"}]},
        ),
        (
            "--device",
            "/dev/dri/card0:/dev/card:r",
            {"Devices": [{"PathOnHost": "/dev/dri/card0", "PathInContainer": "/dev/card", "CgroupPermissions": "r"}]},
        ),
        ("shm-size", "8G", {"ShmSize": 8 << 30}),
        ("shm-size", "64mb", {"ShmSize": 64 << 20}),
        ("shm-size", "1024", {"ShmSize": 1024}),
        ("group-add", "video", {"GroupAdd": ["video"]}),
        ("ipc", "host", {"IpcMode": "host"}),
        ("cap-add", "sys_ptrace", {"CapAdd": ["SYS_PTRACE"]}),
        ("security-opt", "seccomp=unconfined", {"SecurityOpt": ["seccomp=unconfined"]}),
        ("privileged", "True", {"Privileged": True}),
        ("privileged", "no", {"Privileged": False}),
    ],
)
def test_sw75_what_each_option_does(name: str, value: str, config: dict[str, Any]) -> None:
    assert read_options(options((name, value)), own=True, podman=False) == config


@pytest.mark.parametrize(
    ("value", "names"),
    [("all", ["all"]), ("2", ["0", "1"]), ("device=1", ["1"]), ("device=GPU-7,3", ["GPU-7", "3"])],
)
def test_sw75_podman_is_told_of_gpus_by_the_names_of_the_device_interface(value: str, names: list[str]) -> None:
    config = read_options(options(("gpus", value)), own=False, podman=True)
    assert config == {"Devices": [{"PathOnHost": f"nvidia.com/gpu={name}"} for name in names]}


def test_sw75_several_devices_and_groups_add_up() -> None:
    config = read_options(
        options(("device", "/dev/kfd"), ("device", "/dev/dri"), ("group-add", "video"), ("group-add", "44")),
        own=False,
        podman=False,
    )
    assert [device["PathOnHost"] for device in config["Devices"]] == ["/dev/kfd", "/dev/dri"]  # type: ignore[attr-defined]  # a list
    assert config["GroupAdd"] == ["video", "44"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpus", "some"),
        ("gpus", "-1"),
        ("gpus", "0"),
        ("gpus", "device="),
        ("gpus", "device=0;1"),
        ("device", "/etc/passwd"),
        ("device", "/dev/../etc"),
        ("device", "/dev/kfd:/x:rwmz"),
        ("device", "/dev/kfd:x"),
        ("device", "/dev/a:b:c:d"),
        ("ipc", "container:other"),
        ("shm-size", "much"),
        ("shm-size", "0"),
        ("group-add", "root"),
        ("group-add", "0"),
        ("group-add", "docker"),
        ("cap-add", "ALL;"),
        ("privileged", "perhaps"),
        ("volume", "/:/host"),
        ("pid", "host"),
        ("network", "host"),
        ("", ""),
    ],
)
def test_sw75_what_is_no_option_names_the_profiles_line(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="profile, line 41: "):
        read_options(options(("gpus", "all"), (name, value)), own=True, podman=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("privileged", "true"),
        ("privileged", "false"),
        ("cap-add", "SYS_PTRACE"),
        ("security-opt", "seccomp=unconfined"),
        ("ipc", "host"),
        ("device", "/dev/sda"),
        ("device", "/dev/mem"),
        ("device", "/dev/dri/../sda"),
    ],
)
def test_sw75_what_takes_a_wall_away_holds_for_the_own_organisations_tasks_only(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"line 40: usrcontaineropts .* holds only for tasks of the own"):
        read_options(options((name, value)), own=False, podman=False)


def test_sw75_whether_a_task_is_the_own_organisations_is_what_the_pair_says(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    node = {"program_options": tuple(options(("security-opt", "seccomp=unconfined"), ("cap-add", "SYS_PTRACE")))}

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="holds only for tasks of the own organisation"):
            await docker_manager.start_ml(make_pair(tmp_path, node=node))
        await docker_manager.start_ml(make_pair(tmp_path, node=node, sandboxed=False))

    run(docker_manager, main())
    host = fake.of("ml").host
    assert host["SecurityOpt"] == ["no-new-privileges", "seccomp=unconfined"]
    assert (host["CapAdd"], host["CapDrop"]) == (["SYS_PTRACE"], ["ALL"])


@given(st.text(max_size=20), st.text(max_size=40))
def test_sw75_whatever_a_profile_says_is_an_option_or_a_clear_error(name: str, value: str) -> None:
    for known in (name, *OWN_ONLY, "gpus", "device", "shm-size", "group-add"):
        said = ""
        try:
            config = read_options(options((known, value)), own=False, podman=False)
        except ConfigurationError as error:
            said, config = str(error), {}
        assert "profile, line 40" in said or config
        assert set(config) <= {"DeviceRequests", "Devices", "ShmSize", "GroupAdd"}
