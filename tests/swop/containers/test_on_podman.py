"""The container manager on a real engine: a Podman service of the tests' own. Spec: docs/spec/swop-containers.md."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers_world import SL_IMAGE, make_pair, make_settings, open_at, until
from podman_engine import PodmanEngine, why_not

from swarmlearning.swop.managers.boundary import Pair, Part, PartState
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.profile import ManagerKind

pytestmark = [
    pytest.mark.engine,
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
        except Exception as error:
            pytest.skip(f"no container engine: podman does not run here: {error}")
        yield engine
    finally:
        engine.clear()


@pytest.fixture
def manager(podman: PodmanEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContainerManager]:
    made = open_at(podman.socket, make_settings(tmp_path), monkeypatch, ManagerKind.PODMAN)
    yield made
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


def test_a_pair_lives_meets_itself_and_ends(manager: ContainerManager, tmp_path: Path) -> None:
    pair = make_pair(
        tmp_path, HELLO, node={"program_hostname": "user1"}, ml_environment=(("GREETING", "joy"), ("NOT", None))
    )

    async def main() -> None:
        assert (await manager.look(pair)).sl.state is PartState.ABSENT
        await start_both(manager, pair)
        await manager.start_sl(pair)  # it runs: nothing
        await until_ended(manager, pair)
        status = await manager.look(pair)
        assert status.ml.exit_status == 3
        assert status.sl.state is PartState.RUNNING
        assert Path(pair.ml_log).read_text() == f"program runs as {me} in user1 with joy\nanswered\n"
        await manager.stop(pair, Part.SL, 5.0)
        status = await manager.look(pair)
        assert (status.sl.state, status.sl.exit_status) == (PartState.EXITED, 0)
        said = Path(pair.sl_log).read_text()
        assert said == f"sl runs as {me}\nCERT of sl1\nhello from the program\nsl ends\n"
        assert await manager.find_pairs() == (pair.id,)
        await manager.remove(pair)
        assert await manager.find_pairs() == ()
        assert (await manager.look(pair)).ml.state is PartState.ABSENT
        assert not Path(pair.directory).exists()
        assert Path(pair.ml_log).exists()
        await manager.close()

    me = f"{os.getuid()}:{os.getgid()}"
    asyncio.run(main())
