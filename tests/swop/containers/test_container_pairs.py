"""A pair's life on a container engine. Spec: docs/spec/swop-containers.md, SW-71 to SW-74, SW-78, SW-79."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from containers_world import AGENT, SL_IMAGE, exists, make_body, make_pair, make_settings, open_at, read, run, until
from fake_engine import Container, FakeEngine, Fault, image_id
from msgspec.structs import replace

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.swop.managers import docker_watching
from swarmlearning.swop.managers.boundary import Pair, Part, PartState, PartStatus
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind
from swarmlearning.types import Endpoint, NodeId

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see conftest


async def start_both(manager: ContainerManager, fake: FakeEngine, pair: Pair) -> None:
    await manager.start_sl(pair)
    fake.make_ready(fake.of("sl"))
    await manager.start_ml(pair)


def flags(container: Container) -> dict[str, str]:
    words = container.config["Cmd"]
    return {word: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("--")}


def environment(container: Container) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in container.config["Env"])


# --- SW-71: names and labels --------------------------------------------------------------------------------------


def test_sw71_containers_are_named_as_the_product_names_them(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, label="defaulttaskbb.taskdb.sml.hpe 3 study/run_task")
    run(docker_manager, start_both(docker_manager, fake, pair))
    sl, ml = fake.of("sl"), fake.of("ml")
    digest = sl.name.rpartition("-")[2]
    assert len(digest) == 8
    assert sl.name == f"demo-study-run_task-s-0-{digest}"
    assert ml.name == f"demo-study-run_task-u-0-{digest}"


def test_sw71_labels_are_the_profiles_and_ours_which_it_cannot_set(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    node = {
        "sl_labels": (("department", "cardiology"), ("swarmlearning.agent", "somebody"), ("swarmlearning.x", "y")),
        "program_labels": (("use", "training"),),
    }
    run(docker_manager, start_both(docker_manager, fake, make_pair(tmp_path, node=node)))
    ours = {
        "swarmlearning.agent": AGENT,
        "swarmlearning.pair": "p1",
        "swarmlearning.runner": "runner",
        "swarmlearning.task": "run_task",
        "swarmlearning.group": "demo",
    }
    assert fake.of("sl").config["Labels"] == ours | {"department": "cardiology", "swarmlearning.part": "sl"}
    assert fake.of("ml").config["Labels"] == ours | {"use": "training", "swarmlearning.part": "ml"}


@pytest.mark.parametrize("any_label", [False, True])
def test_sw71_another_agents_containers_and_volumes_are_never_touched(
    any_label: bool, fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.any_label = any_label  # as Podman lists volumes: those that have one of the labels
    other_settings = make_settings(tmp_path, agent=NodeId("spiffe://a.example/net/swop/other"))
    other = open_at(fake.socket, other_settings, monkeypatch, ManagerKind.DOCKER)
    mine = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
    pair = make_pair(tmp_path)
    theirs = replace(pair, directory=str(tmp_path / "theirs"), node=replace(pair.node, sl_port=30999))

    async def main() -> None:
        await other.start_sl(theirs)  # under the same id
        kept = dict(fake.containers), dict(fake.volumes)
        assert (await mine.look(pair)).sl.state is PartState.ABSENT
        assert await mine.find_pairs() == ()
        await mine.stop(pair, Part.SL, 0)
        await mine.remove(pair)
        await mine.remove_forgotten(pair.id)
        assert (fake.containers, fake.volumes) == kept
        await mine.start_sl(pair)
        assert len(fake.containers) == 2
        assert await mine.find_pairs() == ("p1",)
        await mine.remove(pair)
        assert (fake.containers, {name: v for name, v in fake.volumes.items() if not name.endswith("-sl")}) == (
            kept[0],
            {name: v for name, v in kept[1].items() if not name.endswith("-sl")},
        )
        await mine.close()
        await other.close()

    run(mine, main())


def test_sw71_a_name_that_another_container_has_is_told(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_sl(pair)
        fake.of("sl").config["Labels"].clear()
        with pytest.raises(ConfigurationError, match=r"could not make the container demo-run_task-s-0.*already in use"):
            await docker_manager.start_sl(replace(pair, directory=str(tmp_path / "again")))

    run(docker_manager, main())


# --- SW-72: the SL ------------------------------------------------------------------------------------------------


def test_sw72_an_sl_gets_its_identity_its_sn_and_a_published_port(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    node = {"sl_hostname": "sl1", "sl_port": 16000}
    pair = make_pair(tmp_path, node=node, sl_environment=(("SL_LOG_LEVEL", "DEBUG"), ("HTTP_PROXY", None)))
    run(docker_manager, docker_manager.start_sl(pair))
    sl = fake.of("sl")
    assert sl.config["Image"] == image_id(SL_IMAGE)
    assert sl.config["Entrypoint"] == ["swarm", "sl"]
    assert "--exit-when-done" in sl.config["Cmd"]
    assert flags(sl) == {
        "--data": "/var/lib/swarm/data",
        "--control": "/run/swarm/control",
        "--ready-file": "/var/lib/swarm/data/ready.json",
        "--exit-when-done": "--sn",
        "--sn": "10.1.1.1:30304",
        "--sl-fs-port": "16000",
        "--cert": "/swarm/cert.pem",
        "--key": "/swarm/key.pem",
        "--cacert": "/swarm/ca.pem",
        "--host-ip": "0.0.0.0",
        "--sl-fs-service": "10.1.1.2:16000",
    }
    assert sl.config["Hostname"] == "sl1"
    assert environment(sl) == {"HOME": "/tmp", "SL_LOG_LEVEL": "DEBUG"}
    assert sl.host["PortBindings"] == {"16000/tcp": [{"HostPort": "16000"}]}
    assert sl.host["NetworkMode"] == "default"
    mounts = {mount["Target"]: (mount["Type"], mount["Source"], mount["ReadOnly"]) for mount in sl.host["Mounts"]}
    assert mounts["/swarm/key.pem"] == ("bind", str(tmp_path / "identity" / "key.pem"), True)
    assert mounts["/var/lib/swarm"][0] == mounts["/run/swarm"][0] == "volume"


def test_sw72_the_options_of_an_sl_are_those_that_the_command_has(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    from swarmlearning.cli.nodes import sl as command

    run(docker_manager, docker_manager.start_sl(make_pair(tmp_path)))
    known = {name for option in command.params for name in option.opts}
    words = fake.of("sl").config["Cmd"]
    assert {word for word in words if word.startswith("--")} <= known
    # The names as the program has them: a command keeps its first help option for good, which other tests see.
    parsed = command.make_context("sl", list(words), help_option_names=["-h", "--help"]).params
    assert parsed["sl_fs_service"] == "10.1.1.2:30305"
    assert parsed["exit_when_done"]


@pytest.mark.parametrize(
    ("changes", "node", "network", "host_ip", "service"),
    [
        ({"network": "swarm-net"}, {}, "swarm-net", "0.0.0.0", "10.1.1.2:30305"),
        ({"network": "host"}, {}, "host", "10.1.1.2", None),
        ({"host_ip": "127.0.0.1"}, {}, "host", "127.0.0.1", None),
        ({"sn": Endpoint(host="localhost", port=1)}, {}, "host", "10.1.1.2", None),
        ({"network": "lan"}, {"sl_network_ip": "10.7.0.5"}, "lan", "0.0.0.0", "10.7.0.5:30305"),
        (
            {"network": "lan"},
            {"sl_network_ip": "10.7.0.5", "sl_host_ip": "10.1.1.2"},
            "lan",
            "0.0.0.0",
            "10.1.1.2:30305",
        ),
        ({}, {"sl_fs_service": "sl1.example:443"}, "default", "0.0.0.0", "sl1.example:443"),
        ({"host_ip": "fd00::1"}, {}, "default", "0.0.0.0", "[fd00::1]:30305"),
    ],
)
def test_sw72_where_an_sl_listens_and_is_reached(
    changes: dict[str, Any],
    node: dict[str, Any],
    network: str,
    host_ip: str,
    service: str | None,
    fake: FakeEngine,
    docker_manager: ContainerManager,
    tmp_path: Path,
) -> None:
    run(docker_manager, docker_manager.start_sl(make_pair(tmp_path, node=node, **changes)))
    sl = fake.of("sl")
    assert sl.host["NetworkMode"] == network
    assert (flags(sl)["--host-ip"], flags(sl).get("--sl-fs-service")) == (host_ip, service)
    own_address = "sl_network_ip" in node and "sl_host_ip" not in node
    assert ("PortBindings" in sl.host) == (network != "host" and not own_address)
    if "sl_network_ip" in node:
        assert sl.config["NetworkingConfig"]["EndpointsConfig"] == {
            network: {"IPAMConfig": {"IPv4Address": "10.7.0.5"}}
        }


def test_sw72_an_sn_on_the_hosts_loopback_cannot_be_reached_from_a_container_network(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, network="swarm-net", sn=Endpoint(host="127.0.0.1", port=30304))
    with pytest.raises(ConfigurationError, match=r"the SN is at 127.0.0.1, where nothing in the container network"):
        run(docker_manager, docker_manager.start_sl(pair))
    assert fake.containers == {}


def test_sw72_names_of_servers_are_the_containers_where_it_has_a_network(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    run(docker_manager, start_both(docker_manager, fake, make_pair(tmp_path, dns=("10.0.0.53",))))
    assert fake.of("sl").host["Dns"] == ["10.0.0.53"]
    assert "Dns" not in fake.of("ml").host


def test_sw72_an_sl_is_starting_until_it_has_written_its_ready_file(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_sl(pair)
        assert (await docker_manager.look(pair)).sl.state is PartState.STARTING
        fake.of("sl").files["/var/lib/swarm/data/ready.json"] = b""  # of an earlier SL, emptied
        assert (await docker_manager.look(pair)).sl.state is PartState.STARTING
        fake.make_ready(fake.of("sl"))
        assert (await docker_manager.look(pair)).sl.state is PartState.RUNNING
        asked = len(fake.calls("GET", "/containers/.*/archive"))
        assert (await docker_manager.look(pair)).sl.state is PartState.RUNNING
        assert len(fake.calls("GET", "/containers/.*/archive")) == asked  # once is enough

    run(docker_manager, main())


def test_sw72_a_missing_image_of_ours_says_what_to_do(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.images.clear()
    with pytest.raises(ConfigurationError, match=r"Docker has no image localhost/swarmlearning:test .* build it"):
        run(docker_manager, docker_manager.start_sl(make_pair(tmp_path)))


def test_sw72_spiffe_and_volumes_are_parts_of_an_identity_too(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    from swarmlearning.swop.profile import Attribute, IdentityPart

    pair = make_pair(tmp_path)
    identity = (
        Attribute(part=IdentityPart.CERT, kind="VOLUME", source="certs", target="/certs", sub_path="sl1/cert.pem"),
        Attribute(part=IdentityPart.KEY, kind="VOLUME", source="certs", target="/certs", sub_path="sl1/key.pem"),
        Attribute(part=IdentityPart.CAPATH, kind="BIND", source=str(tmp_path), target="/ca"),
        Attribute(part=IdentityPart.SPIFFE_SOCKETPATH, kind="BIND", source="/tmp", target="/spire"),
    )
    run(docker_manager, docker_manager.start_sl(replace(pair, node=replace(pair.node, identity=identity))))
    sl = fake.of("sl")
    assert (flags(sl)["--cert"], flags(sl)["--key"]) == ("/certs/sl1/cert.pem", "/certs/sl1/key.pem")
    assert flags(sl)["--capath"] == "/ca"
    assert [m["Target"] for m in sl.host["Mounts"]] == ["/certs", "/ca", "/spire", "/var/lib/swarm", "/run/swarm"]


# --- SW-73: volumes -----------------------------------------------------------------------------------------------


def test_sw73_both_halves_meet_in_a_volume_whose_inside_is_the_users_alone(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWOP_UID", "1001")
    monkeypatch.setenv("SWOP_GID", "1002")
    manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
    run(manager, start_both(manager, fake, make_pair(tmp_path)))
    sl, ml = fake.of("sl"), fake.of("ml")
    channel = [mount["Source"] for mount in sl.host["Mounts"] if mount["Target"] == "/run/swarm"]
    assert channel == [mount["Source"] for mount in ml.host["Mounts"] if mount["Target"] == "/run/swarm"]
    assert "/var/lib/swarm" not in [mount["Target"] for mount in ml.host["Mounts"]]
    assert sl.config["User"] == ml.config["User"] == "1001:1002"
    put = {
        f"{path}/{name}": (info.uid, info.gid, info.mode, info.isdir())
        for path, members in sl.archives
        for name, info in members.items()
    }
    assert put == {
        "/var/lib/swarm/data": (1001, 1002, 0o700, True),
        "/var/lib/swarm/data/ready.json": (1001, 1002, 0o600, False),
        "/run/swarm/control": (1001, 1002, 0o700, True),
    }
    done = [asked.path.rpartition("/")[2] for asked in fake.asked if f"/containers/{sl.id}/" in asked.path]
    assert done[:3] == ["archive", "archive", "start"]


def test_sw73_an_sls_data_outlives_its_pairs(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    async def main() -> list[str]:
        used = []
        for number in range(2):
            pair = make_pair(tmp_path, id=f"p{number}")
            await docker_manager.start_sl(pair)
            used += [m["Source"] for m in fake.of("sl").host["Mounts"] if m["Target"] == "/var/lib/swarm"]
            await docker_manager.stop(pair, Part.SL, 1.0)
            await docker_manager.remove(pair)
        return used

    first, second = run(docker_manager, main())
    assert first == second
    assert list(fake.volumes) == [first]


def test_sw73_a_volume_of_that_name_which_is_not_ours_is_refused(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    run(docker_manager, docker_manager.start_sl(make_pair(tmp_path)))
    for volume in fake.volumes.values():
        volume["Labels"] = None
    with pytest.raises(ConfigurationError, match=r"the volume swop-.*-sl is not this agent's"):
        run(docker_manager, docker_manager.start_sl(make_pair(tmp_path, id="p2", directory=str(tmp_path / "p2"))))


# --- SW-74: the program -------------------------------------------------------------------------------------------


def test_sw74_a_program_gets_no_rights_no_network_and_its_limits(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    limits = Limits(memory=1 << 30, processes=200, open_files=4096, cpus=1.5)
    pair = make_pair(
        tmp_path,
        limits=limits,
        body=make_body(
            entrypoint="/usr/bin/python -u", command="'my code/main.py' --epochs 2", working_dir="/tmp/test"
        ),
        ml_environment=(("EPOCHS", "2"), ("GONE", None), ("SWARM_SL", "/elsewhere")),
        node={"program_hostname": "user1"},
    )
    run(docker_manager, start_both(docker_manager, fake, pair))
    ml = fake.of("ml")
    assert ml.config["Entrypoint"] == ["/usr/bin/python", "-u"]
    assert ml.config["Cmd"] == ["my code/main.py", "--epochs", "2"]
    assert ml.config["WorkingDir"] == "/tmp/test"
    assert ml.config["Hostname"] == "user1"
    assert environment(ml) == {
        "HOME": "/tmp",
        "EPOCHS": "2",
        "SWARM_SL": "/run/swarm/control",
        "SWARM_EXCHANGE_DIR": "/run/swarm/control",
    }
    mounts = ml.host.pop("Mounts")
    assert [mount["Target"] for mount in mounts] == ["/run/swarm"]
    assert ml.host == {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Init": True,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": str(64 << 20), "max-file": "2"}},
        "Memory": 1 << 30,
        "MemorySwap": 1 << 30,
        "PidsLimit": 200,
        "NanoCpus": 1_500_000_000,
        "Ulimits": [{"Name": "nofile", "Soft": 4096, "Hard": 4096}],
    }
    assert {"CapDrop", "SecurityOpt", "Init"} <= set(fake.of("sl").host)
    assert "Memory" not in fake.of("sl").host


@pytest.mark.parametrize(
    ("changes", "node", "network"),
    [
        ({}, {}, "none"),
        ({"network": "swarm-net"}, {}, "none"),
        ({"network": "swarm-net", "online": True}, {}, "swarm-net"),
        ({"online": True}, {}, "default"),
        ({"network": "swarm-net"}, {"program_network_ip": "10.7.0.6"}, "swarm-net"),
    ],
)
def test_sw74_a_program_has_a_network_only_if_policy_or_profile_give_it_one(
    changes: dict[str, Any],
    node: dict[str, Any],
    network: str,
    fake: FakeEngine,
    docker_manager: ContainerManager,
    tmp_path: Path,
) -> None:
    run(docker_manager, start_both(docker_manager, fake, make_pair(tmp_path, node=node, **changes)))
    assert fake.of("ml").host["NetworkMode"] == network


def test_sw74_an_address_without_a_network_is_refused(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, node={"program_network_ip": "10.7.0.6"})
    with pytest.raises(ConfigurationError, match=r"the address 10.7.0.6; expected a container network"):
        run(docker_manager, docker_manager.start_ml(pair))


def test_sw74_another_image_under_the_same_tag_is_refused(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, image="user-env", image_id=fake.add_image("user-env"))

    async def main() -> None:
        await docker_manager.start_ml(pair)
        assert fake.of("ml").config["Image"] == image_id("user-env")
        fake.images["user-env:latest"] = image_id("evil")
        with pytest.raises(ConfigurationError, match=r"the image user-env is sha256:.* by now; expected sha256:"):
            await docker_manager.start_ml(replace(pair, id="p2", directory=str(tmp_path / "p2")))
        fake.images.clear()
        with pytest.raises(ConfigurationError, match="Docker has no image user-env: the task that makes it"):
            await docker_manager.start_ml(replace(pair, id="p3", directory=str(tmp_path / "p3")))

    run(docker_manager, main())


def test_sw74_a_command_with_a_quote_that_does_not_end_is_told(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, body=make_body(command="-c 'no end"))
    with pytest.raises(ConfigurationError, match="Command: no closing quotation"):
        run(docker_manager, docker_manager.start_ml(pair))


def test_sw74_selinux_gives_both_halves_the_same_level_and_other_pairs_another(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.security.append("name=selinux")
    manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)

    async def main() -> None:
        await start_both(manager, fake, make_pair(tmp_path))
        levels = {fake.of(part).host["SecurityOpt"][1] for part in ("sl", "ml")}
        assert len(levels) == 1
        await manager.remove(make_pair(tmp_path))
        await manager.start_sl(make_pair(tmp_path, id="p2"))
        (level,) = levels
        assert level.startswith("label=level:s0:c")
        assert fake.of("sl").host["SecurityOpt"][1] != level

    run(manager, main())


# --- SW-78: life and end ------------------------------------------------------------------------------------------


def test_sw78_starting_again_does_nothing_whether_it_runs_or_has_ended(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await start_both(docker_manager, fake, pair)
        await start_both(docker_manager, fake, pair)
        fake.end(fake.of("ml"), 4)
        await docker_manager.start_ml(pair)
        assert (await docker_manager.look(pair)).ml == PartStatus(state=PartState.EXITED, exit_status=4)
        assert len(fake.calls("POST", "/containers/create")) == 2

    run(docker_manager, main())


def test_sw78_a_start_that_was_interrupted_is_repeated(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        fake.faults["POST", "/containers/.*/start"] = Fault(garbage=b"", delay_s=1.0, times=1)
        starting = asyncio.create_task(docker_manager.start_sl(pair))

        async def asked() -> bool:
            return bool(fake.calls("POST", "/containers/.*/start"))

        await until("the engine is asked to start it", asked)
        starting.cancel()  # as if the agent died here
        await asyncio.gather(starting, return_exceptions=True)
        assert fake.of("sl").status == "created"
        assert (await docker_manager.look(pair)).sl.state is PartState.ABSENT
        await docker_manager.start_sl(pair)
        assert fake.of("sl").status == "running"
        assert len(fake.containers) == 1

    run(docker_manager, main())


def test_sw78_a_container_that_an_engine_failed_to_start_is_started_once_more(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman's helper processes break now and then."""
    monkeypatch.setattr("swarmlearning.swop.managers.docker_manager.START_AGAIN_S", 0.01)
    said = "passing bulk input to subprocess: write |1: broken pipe"
    fake.faults["POST", "/containers/.*/start"] = Fault(status=500, message=said, times=1)
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_sl(pair)
        assert (await docker_manager.look(pair)).sl.state is PartState.STARTING
        assert len(fake.calls("POST", "/containers/.*/start")) == 2
        await docker_manager.close()

    asyncio.run(main())


def test_sw78_what_cannot_be_started_is_told_and_leaves_nothing(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)
    said = 'OCI runtime create failed: exec: "pythn3": executable file not found in $PATH'
    fake.faults["POST", "/containers/.*/start"] = Fault(status=500, message=said, times=2)

    async def main() -> None:
        with pytest.raises(ConfigurationError, match=r"could not start the container demo-run_task-u-0.*\"pythn3\""):
            await docker_manager.start_ml(pair)
        assert fake.containers == {}
        assert (await docker_manager.look(pair)).ml == PartStatus()
        await docker_manager.start_ml(pair)
        assert (await docker_manager.look(pair)).ml.state is PartState.RUNNING

    run(docker_manager, main())


def test_sw78_a_container_that_somebody_removed_has_exited(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await start_both(docker_manager, fake, pair)
        del fake.containers[fake.of("ml").id]
        status = (await docker_manager.look(pair)).ml
        assert (status.state, status.exit_status) == (PartState.EXITED, None)
        assert "its container is gone" in status.detail
        await docker_manager.start_ml(pair)  # it was started, and is not started again behind anybody's back
        assert (await docker_manager.look(pair)).ml == status

    run(docker_manager, main())


@pytest.mark.parametrize(
    ("end", "limits", "detail"),
    [
        ({"exit_code": 137, "oom": True}, Limits(memory=99), "out of memory: its limit is 99 bytes"),
        ({"exit_code": 137, "oom": True}, Limits(), "out of memory"),
        ({"exit_code": 137}, Limits(memory=99), "killed: from outside, or as it needed more than its limit of 99"),
        ({"exit_code": 137}, Limits(), ""),
        ({"exit_code": 1}, Limits(memory=99), ""),
        ({"exit_code": 127, "error": "exec \x1b failed"}, Limits(), "exec ? failed"),
    ],
)
def test_sw78_how_a_program_ended_is_told(
    end: dict[str, Any],
    limits: Limits,
    detail: str,
    fake: FakeEngine,
    docker_manager: ContainerManager,
    tmp_path: Path,
) -> None:
    pair = make_pair(tmp_path, limits=limits)

    async def main() -> None:
        await docker_manager.start_ml(pair)
        fake.end(fake.of("ml"), **end)
        status = (await docker_manager.look(pair)).ml
        assert status.exit_status == end["exit_code"]
        assert status.detail.startswith(detail)
        assert bool(status.detail) == bool(detail)

    run(docker_manager, main())


def test_sw78_a_program_that_runs_for_too_long_is_stopped_also_after_the_agent_was_restarted(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path, limits=Limits(run_time_s=3600.0))

    async def main() -> None:
        await docker_manager.start_ml(pair)
        await docker_manager.close()
        ml = fake.of("ml")
        assert ml.status == "running"
        begun = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=3601)
        ml.started_at = begun.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        again = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
        fake.faults["GET", "/containers/[0-9a-f]+/json"] = Fault(status=500, times=1)  # and the engine has a bad moment
        await again.adopt(pair)

        async def ended() -> bool:
            return (await again.look(pair)).ml.state is PartState.EXITED

        await until("it is stopped", ended)
        assert (await again.look(pair)).ml.detail == "stopped after 3600 s, for so long it may run"
        assert ml.stopped_with == docker_watching.STOP_S
        await again.close()

    run(docker_manager, main())


def test_sw78_a_program_within_its_time_goes_on(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, limits=Limits(run_time_s=1.0))

    async def main() -> None:
        await docker_manager.start_ml(pair)
        assert (await docker_manager.look(pair)).ml.state is PartState.RUNNING

        async def ended() -> bool:
            return (await docker_manager.look(pair)).ml.state is PartState.EXITED

        await until("its time is up", ended)

    run(docker_manager, main())


@pytest.mark.parametrize(("grace_s", "seconds"), [(0.0, 0), (0.3, 1), (7.0, 7)])
def test_sw78_stopping_asks_first_and_wakes_what_is_paused(
    grace_s: float, seconds: int, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.stop(pair, Part.ML, 1.0)  # there is none
        await docker_manager.start_ml(pair)
        ml = fake.of("ml")
        ml.status = "paused"
        assert (await docker_manager.look(pair)).ml.state is PartState.RUNNING
        await docker_manager.stop(pair, Part.ML, grace_s)
        assert ml.stopped_with == seconds
        assert len(fake.calls("POST", "/containers/.*/unpause")) == 1
        assert (await docker_manager.look(pair)).ml.exit_status == 143
        await docker_manager.stop(pair, Part.ML, grace_s)  # it has ended
        assert len(fake.calls("POST", "/containers/.*/stop")) == 1

    run(docker_manager, main())


# --- SW-79: removing ----------------------------------------------------------------------------------------------


def test_sw79_removing_leaves_the_logs_alone(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await start_both(docker_manager, fake, pair)
        fake.say(fake.of("ml"), "hello\n")
        await docker_manager.stop(pair, Part.ML, 1.0)
        await docker_manager.stop(pair, Part.SL, 1.0)
        await docker_manager.remove(pair)
        await docker_manager.remove(pair)  # again
        assert fake.containers == {}
        assert all(name.endswith("-sl") for name in fake.volumes)
        assert not exists(pair.directory)
        assert read(pair.ml_log) == "hello\n"
        assert await docker_manager.look(pair) == type(await docker_manager.look(pair))()

    run(docker_manager, main())


def test_sw79_a_forgotten_pair_is_found_by_its_labels_stopped_and_removed(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    async def main() -> None:
        await start_both(docker_manager, fake, make_pair(tmp_path))
        await docker_manager.start_sl(make_pair(tmp_path, id="p2", directory=str(tmp_path / "p2")))
        for container in list(fake.containers.values()):
            if container.config["Labels"]["swarmlearning.pair"] == "p2":
                del fake.containers[container.id]  # of which the channel is left
        assert await docker_manager.find_pairs() == ("p1", "p2")
        sl, ml = fake.of("sl"), fake.of("ml")
        await docker_manager.remove_forgotten("p1")
        assert (sl.stopped_with, ml.stopped_with) == (10, 10)
        stops = [asked.path.split("/")[2] for asked in fake.calls("POST", "/containers/.*/stop")]
        assert stops == [ml.id, sl.id]
        await docker_manager.remove_forgotten("p2")
        assert await docker_manager.find_pairs() == ()
        assert fake.containers == {}

    run(docker_manager, main())


def test_sw79_swop_keep_containers_leaves_everything_and_says_so(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = open_at(fake.socket, make_settings(tmp_path, keep=True), monkeypatch, ManagerKind.DOCKER)
    pair = make_pair(tmp_path)

    async def main() -> None:
        await start_both(manager, fake, pair)
        with caplog.at_level("INFO"):
            await manager.remove_forgotten(pair.id)  # stopped all the same
        assert {c.status for c in fake.containers.values()} == {"exited"}
        await manager.remove(pair)
        assert len(fake.containers) == 2
        assert exists(pair.directory)
        assert "SWOP_KEEP_CONTAINERS: the containers of pair p1 stay" in caplog.text

    run(manager, main())


def test_sw79_an_engine_that_does_not_answer_while_removing_is_asked_again(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await start_both(docker_manager, fake, pair)
        await docker_manager.stop(pair, Part.ML, 0)
        await docker_manager.stop(pair, Part.SL, 0)
        fake.faults["GET", "/containers/json"] = Fault(status=503, times=1)
        with pytest.raises(Unreachable):
            await docker_manager.remove(pair)
        fake.faults.clear()
        fake.faults["DELETE", "/containers/.*"] = Fault(status=409, message="removal is in progress", times=1)
        with pytest.raises(ConfigurationError, match="removal is in progress"):
            await docker_manager.remove(pair)
        await docker_manager.remove(pair)
        assert fake.containers == {}

    run(docker_manager, main())
