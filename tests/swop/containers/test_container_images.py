"""Images that are built and pulled, and content for tasks. Spec: docs/spec/swop-containers.md, SW-76."""

import asyncio
import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from containers_world import AGENT, make_settings, open_at, read, run, until
from fake_engine import FakeEngine, Fault, image_id

from swarmlearning.errors import ConfigurationError, TaskFailed, Unreachable
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.managers.docker_names import content_name
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind
from swarmlearning.tasks.bodies import Credentials, MakeUserContainer, PullImage
from swarmlearning.types import NodeId

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see conftest

STEPS = MakeUserContainer(build_steps=("FROM python:3.12", "", "RUN pip install \\", "    torch"))
PULL = PullImage(registry="registry.example/study", repository="/env", tag="1.2")


def members(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as given:
        for member in given:
            file = given.extractfile(member) if member.isreg() else None
            found[member.name] = file.read() if file else member.linkname.encode()
    return found


def build(
    manager: ContainerManager, tmp_path: Path, body: MakeUserContainer = STEPS, **limits: Any
) -> tuple[str, list[str]]:
    told: list[str] = []
    log = str(tmp_path / "build.log")
    return run(manager, manager.build_image("user-env", body, log, Limits(**limits), told.append)), told


# --- building -----------------------------------------------------------------------------------------------------


def test_sw76_an_image_is_built_of_the_steps_and_known_by_its_id(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.build_says = [
        {"stream": "Step 1/2 : FROM python:3.12\n"},
        {"stream": " ---> 123\nStep 2/2 : RUN pip install torch\n"},
        {"stream": "Collecting "},
        {"stream": "torch\n"},
        {"aux": {"ID": image_id("user-env")}},
    ]
    digest, told = build(docker_manager, tmp_path, memory=1 << 30)
    assert digest == image_id("user-env")
    assert told == ["Step 1/2 : FROM python:3.12", "Step 2/2 : RUN pip install torch"]
    assert read(str(tmp_path / "build.log")).endswith("Collecting torch\n")
    (asked,) = fake.calls("POST", "/build")
    ((name, dockerfile),) = members(fake.built_context).items()
    assert dockerfile == b"FROM python:3.12\n\nRUN pip install \\\n    torch\n"
    assert asked.query["dockerfile"] == name
    assert asked.query["t"] == "user-env"
    assert json.loads(asked.query["labels"]) == {"swarmlearning.agent": AGENT}
    assert asked.query["memory"] == str(1 << 30)


@pytest.mark.parametrize(
    "item",
    [
        {"errorDetail": {"code": 7, "message": "The command 'pip' returned\ncode 7"}, "error": "failed"},
        {"error": "The command 'pip' returned code 7"},
    ],
)
def test_sw76_a_step_that_fails_fails_the_task_with_its_last_line(
    item: dict[str, Any], fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.build_says = [{"stream": "no matching \x1b[31mdistribution\n"}, item]
    with pytest.raises(TaskFailed) as raised:
        build(docker_manager, tmp_path)
    assert str(raised.value) == (
        "building user-env failed: The command 'pip' returned code 7; before that: no matching ?[31mdistribution"
    )
    assert "returned" in read(str(tmp_path / "build.log"))


def test_sw76_steps_that_are_none_fail_the_task(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.faults["POST", "/build"] = Fault(status=400, message="dockerfile parse error line 2: unknown instruction: FOO")
    with pytest.raises(TaskFailed, match=r"building user-env failed: .*unknown instruction: FOO"):
        build(docker_manager, tmp_path)


def test_sw76_an_engine_that_goes_away_while_it_builds_is_unreachable_and_can_be_asked_again(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.faults["POST", "/build"] = Fault(garbage=b"<html>", times=1)

    async def main() -> None:
        log = str(tmp_path / "log")
        with pytest.raises(Unreachable):
            await docker_manager.build_image("user-env", STEPS, log, Limits(), print)
        assert await docker_manager.build_image("user-env", STEPS, log, Limits(), print) == image_id("user-env")

    run(docker_manager, main())


def test_sw76_a_build_that_takes_too_long_is_given_up(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.faults["POST", "/build"] = Fault(status=0, delay_s=3.0)
    with pytest.raises(TaskFailed, match=r"building user-env took longer than 0.2 s"):
        build(docker_manager, tmp_path, run_time_s=0.2)


def test_sw76_the_log_of_a_build_has_an_end(fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path) -> None:
    fake.build_says = [{"stream": "x" * 99 + "\n"}] * 1000
    build(docker_manager, tmp_path, log=5000)
    log = read(str(tmp_path / "build.log"))
    assert 5000 <= len(log) < 5100
    assert log.endswith("\n(the log's limit is reached: what follows is left out)\n")


def test_sw76_a_build_sees_the_files_of_its_volume_and_they_cannot_replace_the_steps(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    (content / "sub").mkdir(parents=True)
    (content / "wheel.whl").write_text("wheel")
    (content / "Dockerfile").write_text("FROM evil")
    (content / "sub" / "link").symlink_to("../wheel.whl")
    (content / "hard").hardlink_to(content / "wheel.whl")
    body = MakeUserContainer(build_context="sl-cli-lib", build_steps=("FROM x", "COPY wheel.whl /"))

    async def main() -> None:
        await docker_manager.fill_volume("sl-cli-lib", str(content))
        await docker_manager.build_image("user-env", body, str(tmp_path / "log"), Limits(), print)

    run(docker_manager, main())
    found = members(fake.built_context)
    dockerfile = fake.calls("POST", "/build")[0].query["dockerfile"]
    assert found.pop(dockerfile) == b"FROM x\nCOPY wheel.whl /\n"
    assert dockerfile != "Dockerfile"
    files = {name: text for name, text in found.items() if name not in ("hard", "wheel.whl")}
    assert files == {"Dockerfile": b"FROM evil", "sub": b"", "sub/link": b"../wheel.whl"}
    assert sorted([found["hard"], found["wheel.whl"]]) in ([b"hard", b"wheel"], [b"wheel", b"wheel.whl"])
    assert fake.containers == {}  # of helpers nothing is left


def test_sw76_a_build_without_its_volume_says_what_has_to_run_before(
    docker_manager: ContainerManager, tmp_path: Path
) -> None:
    body = MakeUserContainer(build_context="sl-cli-lib", build_steps=("FROM x",))
    with pytest.raises(ConfigurationError, match="no volume sl-cli-lib: a task that makes it has to run before"):
        build(docker_manager, tmp_path, body)


def test_sw76_what_no_agent_built_is_foreign(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    """SW-13: no task may take its tag; that of another agent's task on this engine it may."""
    fake.add_image("python:3")
    fake.build_says = [{"aux": {"ID": image_id("user-env")}}]
    build(docker_manager, tmp_path)
    manager = docker_manager
    found = [run(manager, manager.is_foreign(tag)) for tag in ("python:3", "user-env", "none")]
    assert found == [True, False, False]


# --- pulling ------------------------------------------------------------------------------------------------------


def pull(manager: ContainerManager, tmp_path: Path, body: PullImage = PULL, tag: str = "user-env") -> str:
    return run(manager, manager.pull_image(tag, body, str(tmp_path / "pull.log"), print))


@pytest.mark.parametrize("tag", ["user-env", "user-env:2", "localhost:5000/user/env"])
def test_sw76_an_image_is_pulled_and_tagged(
    tag: str, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    name = "registry.example/study/env:1.2"
    assert pull(docker_manager, tmp_path, tag=tag) == image_id(name)
    (asked,) = fake.calls("POST", "/images/create")
    assert (asked.query["fromImage"], asked.query["tag"]) == ("registry.example/study/env", "1.2")
    assert "X-Registry-Auth" not in asked.headers
    assert fake._find_image(tag) == image_id(name)
    assert read(str(tmp_path / "pull.log")) == "abc Pull complete\n"


def test_sw76_credentials_of_the_task_or_of_a_file_of_this_host_go_to_that_registry(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    def sent(body: PullImage) -> Any:
        fake.asked.clear()
        pull(docker_manager, tmp_path, body)
        return json.loads(base64.urlsafe_b64decode(fake.calls("POST", "/images/create")[0].headers["X-Registry-Auth"]))

    given = PullImage(**(_fields(PULL) | {"auth": Credentials(username="me", password="secret")}))
    assert sent(given) == {"username": "me", "password": "secret"}
    file = tmp_path / "config.json"
    auths = {"registry.example": {"auth": base64.b64encode(b"you:hidden").decode()}}
    file.write_text(json.dumps({"auths": auths, "credsStore": "anything", "credHelpers": {"registry.example": "evil"}}))
    by_file = PullImage(**(_fields(PULL) | {"auth": str(file)}))
    assert sent(by_file) == {"username": "you", "password": "hidden"}
    file.write_text(json.dumps({"auths": {"registry.example": {"identitytoken": "token"}}}))
    assert sent(by_file) == {"identitytoken": "token"}
    file.write_text(json.dumps({"auths": {"other.example": {"auth": base64.b64encode(b"a:b").decode()}}}))
    with pytest.raises(ConfigurationError, match=r"no credentials for registry.example"):
        pull(docker_manager, tmp_path, by_file)


def _fields(body: PullImage) -> dict[str, Any]:
    return {"registry": body.registry, "repository": body.repository, "tag": body.tag}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "root:x:0:0",
        "[]",
        "{}",
        '{"auths": 7}',
        '{"auths": {"registry.example": 7}}',
        '{"auths": {"r": {"auth": 1}}}',
    ],
)
def test_sw76_a_file_that_holds_no_credentials_is_told_without_what_it_holds(
    text: str, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    """The task names it: its message goes where every member reads it."""
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        pull(docker_manager, tmp_path, PullImage(**(_fields(PULL) | {"auth": str(file)})))
    assert "expected a file as `docker login` writes it" in str(raised.value)
    assert "root:x" not in str(raised.value)
    assert fake.calls("POST", "/images/create") == []


@pytest.mark.parametrize(
    "says",
    [
        [{"status": "Pulling", "id": "a"}, {"error": "manifest unknown", "errorDetail": {}}],
        None,
    ],
)
def test_sw76_an_image_that_cannot_be_pulled_fails_the_task(
    says: list[dict[str, Any]] | None, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    if says is None:
        fake.faults["POST", "/images/create"] = Fault(status=404, message="manifest unknown")
    else:
        fake.pull_says = says
    with pytest.raises(TaskFailed, match=r"pulling registry.example/study/env:1.2 failed: .*manifest unknown"):
        pull(docker_manager, tmp_path)
    assert "manifest unknown" in read(str(tmp_path / "pull.log"))


def test_sw76_progress_is_told(fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path) -> None:
    detail = {"current": 5 << 20, "total": 9 << 20}
    fake.pull_says = [{"status": "Downloading", "id": layer, "progressDetail": detail} for layer in ("a", "b")]
    told: list[str] = []
    run(docker_manager, docker_manager.pull_image("x", PULL, str(tmp_path / "log"), told.append))
    assert told[0] == "pulling registry.example/study/env:1.2"
    assert told[1] == "pulling registry.example/study/env:1.2: 5 of 9 MiB"


# --- content ------------------------------------------------------------------------------------------------------


def test_sw76_a_volume_is_replaced_as_a_whole(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "old").write_text("1")

    async def main() -> None:
        await docker_manager.fill_volume("data", str(content))
        (content / "old").unlink()
        (content / "new").write_text("2")
        await docker_manager.fill_volume("data", str(content))

    run(docker_manager, main())
    ((name, volume),) = fake.volumes.items()
    assert name == content_name(AGENT, "data")
    assert volume["Labels"]["swarmlearning.content"] == "data"
    assert members(fake.contents[name]) == {"new": b"2"}
    assert fake.containers == {}


def test_sw76_a_volume_that_was_filled_in_part_is_filled_anew(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    content.mkdir()

    async def main() -> None:
        fake.faults["PUT", "/containers/.*"] = Fault(status=500, message="no space left on device", times=1)
        fake.faults["DELETE", "/containers/.*"] = Fault(status=500, times=1)  # and the helper stays
        with pytest.raises(ConfigurationError):
            await docker_manager.fill_volume("data", str(content))
        assert len(fake.containers) == 1
        await docker_manager.fill_volume("data", str(content))
        assert fake.containers == {}

    run(docker_manager, main())


def test_sw76_an_agent_that_was_killed_while_it_read_a_volume_does_not_hold_it(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    body = MakeUserContainer(build_context="data", build_steps=("FROM x",))
    again = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)

    async def main() -> None:
        await docker_manager.fill_volume("data", str(content))
        fake.faults["DELETE", "/containers/.*"] = Fault(status=500, times=1)  # as if it died before
        with pytest.raises(ConfigurationError):
            await docker_manager.build_image("user-env", body, str(tmp_path / "log"), Limits(), print)
        assert len(fake.containers) == 1
        await again.fill_volume("data", str(content))
        assert fake.containers == {}

    run(docker_manager, main())
    again._engine.close()


def test_sw76_a_volume_that_is_read_just_now_is_not_replaced(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    body = MakeUserContainer(build_context="data", build_steps=("FROM x",))

    async def main() -> None:
        await docker_manager.fill_volume("data", str(content))
        fake.faults["GET", "/containers/.*/archive"] = Fault(status=0, delay_s=0.5)
        building = asyncio.create_task(
            docker_manager.build_image("user-env", body, str(tmp_path / "log"), Limits(), print)
        )

        async def reading() -> bool:
            return bool(fake.calls("GET", "/containers/.*/archive"))

        await until("the volume is read", reading)
        with pytest.raises(ConfigurationError, match=r"could not fill the volume data: volume is in use"):
            await docker_manager.fill_volume("data", str(content))
        await building

    run(docker_manager, main())


def test_sw76_a_volume_in_use_is_not_replaced_and_another_agents_is_another(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    other_settings = make_settings(tmp_path, agent=NodeId("spiffe://a.example/net/swop/other"))
    other = open_at(fake.socket, other_settings, monkeypatch, ManagerKind.DOCKER)

    async def main() -> None:
        await docker_manager.fill_volume("data", str(content))
        await other.fill_volume("data", str(content))
        assert len(fake.volumes) == 2
        fake.faults["DELETE", "/volumes/.*"] = Fault(status=409, message="volume is in use - [abc]")
        with pytest.raises(ConfigurationError, match=r"could not fill the volume data: volume is in use"):
            await docker_manager.fill_volume("data", str(content))
        await other.close()

    run(docker_manager, main())


def test_sw76_who_is_cancelled_while_an_engine_builds_waits_for_nothing(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    fake.faults["POST", "/build"] = Fault(status=0, delay_s=2.0)

    async def main() -> None:
        building = asyncio.create_task(
            docker_manager.build_image("user-env", STEPS, str(tmp_path / "log"), Limits(), print)
        )

        async def asked() -> bool:
            return bool(fake.calls("POST", "/build"))

        await until("the engine is asked to build", asked)
        building.cancel()
        done, _ = await asyncio.wait([building], timeout=1.0)
        assert done == {building}

    run(docker_manager, main())
