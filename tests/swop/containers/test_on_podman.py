"""The container manager on a real engine: a Podman service of the tests' own. Spec: docs/spec/swop-containers.md."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from containers_world import SL_IMAGE, exists, make_body, make_pair, make_settings, open_at, read, run, until
from msgspec.structs import replace
from podman_engine import PodmanEngine, why_not

from swarmlearning.errors import ConfigurationError, TaskFailed, Unreachable
from swarmlearning.swop.managers.boundary import Pair, Part, PartState
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind, PrivateData
from swarmlearning.tasks.bodies import MakeUserContainer, Mount

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # see conftest
    pytest.mark.skipif(bool(why_not()), reason=f"no container engine: {why_not()}"),
]


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanEngine]:
    # Not below the tests' own directory: an engine's storage is mounted over itself, which others cannot clean up.
    engine = PodmanEngine(Path(tempfile.mkdtemp(prefix="swop-podman-")))
    try:
        try:
            engine.start()
            engine.make_image(SL_IMAGE)
        except (RuntimeError, subprocess.SubprocessError, docker.errors.DockerException) as error:
            pytest.skip(f"no container engine: podman does not run here: {error}")
        yield engine
    finally:
        engine.clear()


@pytest.fixture
def manager(podman: PodmanEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContainerManager]:
    yield open_at(podman.socket, make_settings(tmp_path), monkeypatch, ManagerKind.PODMAN)
    client = podman.client()
    for container in client.containers(all=True):
        client.remove_container(container["Id"], force=True, v=True)
    for volume in client.volumes()["Volumes"]:
        client.remove_volume(volume["Name"], force=True)
    client.close()


async def start_both(manager: ContainerManager, pair: Pair) -> None:
    await manager.start_sl(pair)

    async def ready() -> bool:
        return (await manager.look(pair)).sl.state is PartState.RUNNING

    await until("the SL is ready", ready)
    await manager.start_ml(pair)


async def until_ended(manager: ContainerManager, pair: Pair, part: Part = Part.ML) -> None:
    async def ended() -> bool:
        status = await manager.look(pair)
        return getattr(status, part.value).state is PartState.EXITED

    await until(f"{part.value} has ended", ended)


HELLO = """
echo program runs as $(id -u):$(id -g) in $(hostname) with $GREETING
echo hello from the program > $SWARM_EXCHANGE_DIR/hello
while [ ! -f $SWARM_SL/answer ]; do sleep 0.1; done
echo answered
exit 3
"""


def test_sw72_a_pair_lives_meets_itself_and_ends(manager: ContainerManager, tmp_path: Path) -> None:
    pair = make_pair(
        tmp_path, HELLO, node={"program_hostname": "user1"}, ml_environment=(("GREETING", "joy"), ("NOT", None))
    )
    me = f"{os.getuid()}:{os.getgid()}"

    async def main() -> None:
        assert (await manager.look(pair)).sl.state is PartState.ABSENT
        await start_both(manager, pair)
        await manager.start_sl(pair)  # it runs: nothing
        await until_ended(manager, pair)
        status = await manager.look(pair)
        assert status.ml.exit_status == 3
        assert status.sl.state is PartState.RUNNING
        assert read(pair.ml_log) == f"program runs as {me} in user1 with joy\nanswered\n"
        await manager.stop(pair, Part.SL, 5.0)
        status = await manager.look(pair)
        assert (status.sl.state, status.sl.exit_status) == (PartState.EXITED, 0)
        assert read(pair.sl_log) == f"sl runs as {me}\nCERT of sl1\nhello from the program\nsl ends\n"
        assert await manager.find_pairs() == (pair.id,)
        await manager.remove(pair)
        assert await manager.find_pairs() == ()
        assert (await manager.look(pair)).ml.state is PartState.ABSENT
        assert not exists(pair.directory)
        assert exists(pair.ml_log)

    run(manager, main())


def test_sw73_the_halves_meet_as_a_user_without_rights_and_the_key_survives(
    podman: PodmanEngine, manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWOP_UID", "1234")
    monkeypatch.setenv("SWOP_GID", "4321")
    other = open_at(podman.socket, make_settings(tmp_path), monkeypatch, ManagerKind.PODMAN)
    pair = make_pair(tmp_path, HELLO)
    for name in ("cert.pem", "key.pem", "ca.pem"):
        os.chown(tmp_path / "identity" / name, 1234, 4321)

    async def main() -> None:
        for number in range(2):
            again = replace(pair, id=f"p{number}", directory=f"{pair.directory}-{number}")
            await start_both(other, again)
            await until_ended(other, again)
            assert (await other.look(again)).ml.exit_status == 3
            await other.stop(again, Part.SL, 5.0)
            await other.remove(again)
        said = read(pair.sl_log)
        assert said.count("sl runs as 1234:4321\n") == 2
        assert said.count("found key first\n") == 1
        assert said.count("hello from the program\n") == 2
        assert "program runs as 1234:4321" in read(pair.ml_log)
        assert len(other._engine.api.volumes()["Volumes"]) == 1

    run(other, main())
    manager._engine.close()


WALLS = """
grep -E "^(CapEff|CapBnd|NoNewPrivs)" /proc/self/status
ip -o link | grep -c .
cat /data/rows.csv
echo x > /data/rows.csv
echo model > /model/saved
ls /identity /etc/shadow
echo done
"""


def test_sw74_a_program_sees_what_it_is_given_and_nothing_else(manager: ContainerManager, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.csv").write_text("1,2,3\n")
    (tmp_path / "model").mkdir()
    mount = Mount(source=str(tmp_path / "model"), target="/model", kind="BIND")
    pair = make_pair(
        tmp_path,
        body=make_body(WALLS, private_content="/data", shared_content=(mount,)),
        node={"private_data": PrivateData(source=str(tmp_path / "rows"), kind="BIND")},
    )

    async def main() -> None:
        await manager.start_ml(pair)
        await until_ended(manager, pair)

    run(manager, main())
    log = read(pair.ml_log)
    assert "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n1\n1,2,3\n" in log
    assert "can't create /data/rows.csv: Read-only file system" in log
    assert "/identity: No such file or directory" in log
    assert "/etc/shadow: No such file or directory" in log  # the image's, not the host's
    assert read(str(tmp_path / "model" / "saved")) == "model\n"
    assert read(str(tmp_path / "rows" / "rows.csv")) == "1,2,3\n"


def test_sw74_a_program_has_a_network_if_it_may(manager: ContainerManager, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "ip -o link | grep -c .", online=True)

    async def main() -> None:
        await manager.start_ml(pair)
        await until_ended(manager, pair)

    run(manager, main())
    assert read(pair.ml_log) == "2\n"


def test_sw78_a_program_that_needs_too_much_memory_is_killed_and_that_is_told(
    manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, "tail /dev/zero", limits=Limits(memory=32 << 20, processes=20))

    async def main() -> None:
        await manager.start_ml(pair)
        await until_ended(manager, pair)
        status = (await manager.look(pair)).ml
        assert status.exit_status == 137
        assert "memory" in status.detail

    run(manager, main())


def test_sw78_after_agent_and_engine_were_restarted_a_pair_is_found_and_its_log_goes_on(
    podman: PodmanEngine, manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "shared" / "go"
    flag.parent.mkdir()
    mount = Mount(source=str(flag.parent), target="/shared", kind="BIND")
    script = (
        "seq 1 2000; printf 'half a '; while [ ! -f /shared/go ]; do sleep 0.1; done; echo line; seq 3000 5000; exit 5"
    )
    pair = make_pair(tmp_path, body=make_body(script, shared_content=(mount,)))
    first = "".join(f"{number}\n" for number in range(1, 2001)) + "half a "
    second = "line\n" + "".join(f"{number}\n" for number in range(3000, 5001))

    async def main() -> None:
        await manager.start_ml(pair)

        async def half() -> bool:
            return read(pair.ml_log) == first

        await until("the first half is copied", half)
        await manager.close()
        podman.stop()
        flag.touch()
        podman.start()
        again = open_at(podman.socket, make_settings(tmp_path), monkeypatch, ManagerKind.PODMAN)
        await again.adopt(pair)
        await until_ended(again, pair)
        assert (await again.look(pair)).ml.exit_status == 5
        assert read(pair.ml_log) == first + second
        await again.close()

    run(manager, main())


def test_sw78_an_engine_that_is_away_loses_no_pair(
    podman: PodmanEngine, manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, "while true; do sleep 0.1; done")

    async def main() -> None:
        await manager.start_ml(pair)
        podman.stop()
        with pytest.raises(Unreachable):
            await manager.look(pair)
        podman.start()
        assert (await manager.look(pair)).ml.state is PartState.RUNNING
        await manager.stop(pair, Part.ML, 0)
        status = (await manager.look(pair)).ml
        assert (status.state, status.exit_status) == (PartState.EXITED, 137)

    run(manager, main())


def test_sw78_containers_that_end_or_vanish_by_other_hands_have_exited(
    podman: PodmanEngine, manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, "while true; do sleep 0.1; done", sl_environment=(("SL_FAILS", "1"),))
    client = podman.client()

    async def main() -> None:
        await manager.start_sl(pair)
        await until_ended(manager, pair, Part.SL)
        assert (await manager.look(pair)).sl.exit_status == 9
        assert read(pair.sl_log).endswith("no luck\n")
        await manager.start_ml(pair)
        (ml,) = client.containers(filters={"label": "swarmlearning.part=ml"})
        client.remove_container(ml["Id"], force=True)
        status = (await manager.look(pair)).ml
        assert (status.state, status.exit_status) == (PartState.EXITED, None)
        assert "gone" in status.detail

    run(manager, main())
    client.close()


def test_sw78_a_program_that_runs_for_too_long_is_stopped(manager: ContainerManager, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "while true; do sleep 0.1; done", limits=Limits(run_time_s=0.5))

    async def main() -> None:
        await manager.start_ml(pair)
        await until_ended(manager, pair)
        status = (await manager.look(pair)).ml
        assert status.exit_status in (137, 143)
        assert status.detail == "stopped after 0.5 s, for so long it may run"

    run(manager, main())


def test_sw78_a_program_that_is_not_there_is_told(manager: ContainerManager, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, body=make_body(entrypoint="/usr/bin/pythn3"))

    async def main() -> None:
        await manager.start_ml(pair)
        await until_ended(manager, pair)
        assert (await manager.look(pair)).ml.exit_status in (1, 127)  # by which init there is
        assert "No such file or directory" in read(pair.ml_log)

    run(manager, main())


def test_sw74_a_working_directory_need_not_be_there(manager: ContainerManager, tmp_path: Path) -> None:
    """The product's tasks run in /tmp/test, where they have things mounted; an image need not have it."""
    (tmp_path / "model").mkdir()
    mount = Mount(source=str(tmp_path / "model"), target="/tmp/test/model", kind="BIND")
    pair = make_pair(tmp_path, body=make_body("pwd; ls", working_dir="/tmp/test", shared_content=(mount,)))
    bare = replace(pair, id="p2", directory=f"{pair.directory}-2", ml_log=f"{pair.ml_log}-2")
    bare = replace(bare, body=make_body("pwd", working_dir="/somewhere/else"))

    async def main() -> None:
        for one in (pair, bare):
            await manager.start_ml(one)
            await until_ended(manager, one)

    run(manager, main())
    assert (read(pair.ml_log), read(bare.ml_log)) == ("/tmp/test\nmodel\n", "/somewhere/else\n")


def test_sw79_a_forgotten_pair_is_stopped_and_removed(manager: ContainerManager, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "while true; do sleep 0.1; done")

    async def main() -> None:
        await start_both(manager, pair)
        assert await manager.find_pairs() == (pair.id,)
        await manager.remove_forgotten(pair.id)
        assert await manager.find_pairs() == ()
        assert manager._engine.api.containers(all=True) == []

    run(manager, main())


def test_sw76_an_image_is_built_with_a_volumes_files_and_a_program_runs_in_it(
    manager: ContainerManager, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    (content / "sub").mkdir(parents=True)
    (content / "greeting.txt").write_text("hello\n")
    (content / "sub" / "copy.txt").symlink_to("../greeting.txt")
    body = MakeUserContainer(
        build_context="lib",
        build_steps=(f"FROM {SL_IMAGE}", "", "COPY greeting.txt /built/", "RUN cat /built/greeting.txt; echo it works"),
    )
    told: list[str] = []
    log = str(tmp_path / "build.log")

    async def main() -> None:
        await manager.fill_volume("lib", str(content))
        digest = await manager.build_image("user-env", body, log, Limits(), told.append)
        assert digest == await manager.find_image("user-env")
        assert "hello\nit works\n" in read(log)
        assert len([line for line in told if line.startswith("STEP ")]) >= 3
        mount = Mount(source="lib", target="/lib-volume", kind="VOLUME")
        script = "cat /built/greeting.txt /lib-volume/sub/copy.txt; ls /lib-volume"
        pair = make_pair(tmp_path, image="user-env", image_id=digest, body=make_body(script, shared_content=(mount,)))
        await manager.start_ml(pair)
        await until_ended(manager, pair)
        assert read(pair.ml_log) == "hello\nhello\ngreeting.txt\nsub\n"
        with pytest.raises(ConfigurationError, match="could not fill the volume lib"):  # a container has it
            await manager.fill_volume("lib", str(content))
        await manager.remove(pair)
        (content / "greeting.txt").unlink()
        await manager.fill_volume("lib", str(content))
        second = replace(pair, body=make_body("ls /lib-volume", shared_content=(mount,)), ml_log=f"{pair.ml_log}-2")
        await manager.start_ml(second)
        await until_ended(manager, second)
        assert read(second.ml_log) == "sub\n"
        assert await manager.find_image("none") is None

    run(manager, main())


def test_sw76_a_build_that_fails_says_why(manager: ContainerManager, tmp_path: Path) -> None:
    body = MakeUserContainer(build_steps=(f"FROM {SL_IMAGE}", "RUN echo no such package; exit 7"))

    async def main() -> None:
        with pytest.raises(TaskFailed, match=r"building broken failed: .*exit status 7; before that: no such package"):
            await manager.build_image("broken", body, str(tmp_path / "log"), Limits(), print)
        assert await manager.find_image("broken") is None
        body_without = MakeUserContainer(build_steps=("FROM scratch", "FOO bar"))
        with pytest.raises(TaskFailed, match=r"(?i)unknown instruction"):
            await manager.build_image("broken", body_without, str(tmp_path / "log"), Limits(), print)

    run(manager, main())
