"""Recipes built for real, by pip in bubblewrap: what programs see then, and what a failed build leaves behind."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from images_world import LIMITS, World, make_source, make_wheel

import swarmlearning
from swarmlearning.errors import ConfigurationError, NotFound, TaskFailed
from swarmlearning.swop.managers.process_mounts import Mounted
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage


async def test_sw64_a_copied_wheel_is_installed_and_seen_before_the_bases_packages(world: World) -> None:
    make_wheel(world.context, "six", {"six.py": "WHERE = 'image'\n"}, version="99.0")
    digest = await world.build("COPY six-99.0-py3-none-any.whl /w/", "RUN pip3 install /w/six-99.0-py3-none-any.whl")
    assert await world.images.find_image("env") == digest
    assert world.told[:2] == [
        "step 2 of 3: COPY six-99.0-py3-none-any.whl /w/",
        "step 3 of 3: pip install /w/six-99.0-py3-none-any.whl",
    ]
    said = world.run("import six, numpy, sys, swarmlearning as s; print(six.WHERE, s.__file__, numpy.__file__)")
    where, ours, numpy = said.split()
    assert where == "image"
    assert ours == swarmlearning.__file__
    assert not numpy.startswith(str(world.data)), "numpy is the base's"
    assert world.images.describe_image("env").python.startswith(str(world.data))
    assert "Successfully installed six-99.0" in world.log.read_text()


async def test_sw64_patterns_requirements_and_find_links_name_copied_files(world: World) -> None:
    for name in ("first_thing", "second_thing"):
        make_wheel(world.context, name, {f"{name}.py": ""})
    make_wheel(world.context, "swarmlearning", {"swarmlearning/__init__.py": ""}, version="2.3")
    (world.context / "r.txt").write_text("second_thing\n")
    await world.build(
        "WORKDIR /w",
        "COPY *.whl r.txt ./",
        "RUN pip install f*.whl s*[0-9]-py3-none-any.whl".replace("[0-9]", "?"),
        "RUN pip install --find-links . -r r.txt && rm -rf *.whl",
    )
    said = world.run(
        "import os, first_thing, second_thing, swarmlearning; print(sorted(os.listdir('/w')), swarmlearning.__file__)"
    )
    assert said == f"['r.txt'] {swarmlearning.__file__}"


async def test_sw64_programs_see_copied_files_variables_and_the_rest_of_their_view(
    world: World, tmp_path: Path
) -> None:
    (world.context / "code" / "deep").mkdir(parents=True)
    (world.context / "code" / "main.py").write_text("x = 1\n")
    (world.context / "code" / "deep" / "tool.sh").write_text("#!/bin/sh\n")
    (world.context / "code" / "deep" / "tool.sh").chmod(0o755)
    (world.context / "code" / "link").symlink_to("main.py")
    await world.build(
        "ENV MODE=fast",
        "COPY code /platform/code",
        "COPY code/main.py /tmp/other.py",
        "ADD code/main.py /var/lib/app/",
        "RUN mkdir -p /platform/empty",
    )
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "seen").touch()
    inside = Mounted(source=str(shared), target="/platform/code/model", writable=True)
    said = world.run(
        "import os; print(os.environ['MODE'], sorted(os.listdir('/platform/code')), os.listdir('/platform/code/model'),"
        "os.access('/platform/code/deep/tool.sh', os.X_OK), os.access('/platform/code/main.py', os.X_OK),"
        "open('/platform/code/link').read().strip(), open('/tmp/other.py').read().strip(), os.listdir('/var/lib/app'))",
        inner=(inside,),
    )
    assert said == "fast ['deep', 'link', 'main.py', 'model'] ['seen'] True False x = 1 x = 1 ['main.py']"
    assert dict(world.images.describe_image("env").environment)["MODE"] == "fast"
    assert world.images.describe_image("env").workdir == "/"


async def test_sw65_the_same_is_not_built_again_and_anything_else_is(world: World) -> None:
    (world.context / "a").write_text("one")
    first = await world.build("COPY a /x/")
    description = world.data / "images" / first / "image.json"
    made = description.stat().st_mtime_ns
    world.images = world.open()
    assert await world.build("# said otherwise", "COPY   a   /x/", tag="second") == first
    assert description.stat().st_mtime_ns == made
    assert world.told[-1] == "the image is there already, built of the same"
    assert await world.images.find_image("second") == first
    (world.context / "a").write_text("two")
    assert await world.build("COPY a /x/") not in (None, first)
    assert await world.images.find_image("second") == first
    assert len(world.built()) == 2


async def test_sw65_a_failed_build_leaves_nothing_and_the_tag_as_it_was(world: World) -> None:
    first = await world.build()
    with pytest.raises(
        TaskFailed, match=r"step 2 \(pip install not-there\) failed with status 1: .*not-there"
    ) as caught:
        await world.build("RUN pip install not-there")
    assert caught.value.exit_status == 1
    assert "ERROR: No matching distribution found for not-there" in world.log.read_text()
    assert world.built() == [first]
    assert await world.images.find_image("env") == first


async def test_sw65_what_a_killed_build_left_is_removed_and_built_anew(world: World) -> None:
    digest = await world.build("WORKDIR /x")
    (world.data / "images" / digest / "image.json").unlink()  # it is written last
    (world.data / "images" / digest / "stale").touch()
    (world.data / "images" / "other").mkdir()
    world.images = world.open()
    assert await world.images.find_image("env") is None
    assert await world.build("WORKDIR /x") == digest
    assert world.built() == [digest]
    assert not (world.data / "images" / digest / "stale").exists()


BLOCK = """
open(os.environ["PATH"].split("/venv/bin")[0].split(":")[-1] + "/venv/started", "w").close()
import time
while True: time.sleep(1)
"""


async def wait_for_start(world: World, building: asyncio.Task[str]) -> None:
    """Until the source package's own code runs."""
    async with asyncio.timeout(60):
        while not list(world.data.glob("images/*/venv/started")):
            assert not building.done(), building
            await asyncio.sleep(0.02)


def processes_of(world: World) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(world.data).encode() in line:
            found.append(line.decode(errors="replace"))
    return found


async def test_sw65_a_cancelled_build_leaves_no_files_and_no_processes(world: World) -> None:
    make_source(world.context, "slow", BLOCK)
    building = asyncio.create_task(world.build("COPY slow-1.0.tar.gz /w/", "RUN pip install /w/slow-1.0.tar.gz"))
    await wait_for_start(world, building)
    assert processes_of(world)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert world.built() == []
    assert processes_of(world) == []


async def test_sw65_a_build_that_takes_too_long_is_ended(world: World) -> None:
    make_source(world.context, "slow", BLOCK)
    with pytest.raises(TaskFailed, match="the build took longer than it may"):
        await world.build(
            "COPY slow-1.0.tar.gz /w/", "RUN pip install /w/slow-1.0.tar.gz", limits=Limits(run_time_s=4.0)
        )
    assert world.built() == []


async def test_sw65_a_build_that_prints_without_end_is_ended(world: World) -> None:
    make_source(world.context, "loud", "while True: print('x' * 4096)")
    with pytest.raises(TaskFailed, match="printed more than 1000000 bytes"):
        await world.build(
            "COPY loud-1.0.tar.gz /w/", "RUN pip install -v /w/loud-1.0.tar.gz", limits=Limits(log=1_000_000)
        )


async def test_sw65_a_build_has_no_more_memory_than_the_policy_gives_it(world: World) -> None:
    make_source(world.context, "large", "print(len(bytearray(2 << 30)))")
    with pytest.raises(TaskFailed):
        await world.build(
            "COPY large-1.0.tar.gz /w/", "RUN pip install -v /w/large-1.0.tar.gz", limits=Limits(memory=1 << 30)
        )
    assert "MemoryError" in world.log.read_text()


SPY = """
import json
def tries(what):
    try:
        return repr(what())[:60]
    except OSError as error:
        return type(error).__name__
base = [path for path in sys.path if path.endswith("site-packages") and "/data/images/" not in path]
said = {
    "secret": tries(lambda: open(SECRET).read()),
    "key": tries(lambda: open(KEY).read()),
    "shadow": tries(lambda: open("/etc/shadow").read()),
    "volume": tries(lambda: os.listdir(VOLUMES)),
    "base": [tries(lambda: open(path + "/evil.pth", "w")) for path in sys.path if "/site-packages" in path],
    "system": tries(lambda: open("/usr/evil", "w")),
    "files": tries(lambda: open(FILES + "/evil", "w")),
    "kernel": tries(lambda: open("/proc/sys/kernel/core_pattern", "w")),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "hosts": os.path.exists("/etc/resolv.conf"),
    "variables": sorted(os.environ),
}
print("SAID " + json.dumps(said))
"""


async def test_sw66_code_of_a_package_sees_and_changes_nothing_but_its_image(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a source package whose build looks around on the host."""
    monkeypatch.setenv("CLOUD_TOKEN", "secret")
    secret = tmp_path / "secret"
    secret.write_text("patients")
    key = world.data / "key.pem"
    key.write_text("key")
    places = f"SECRET, KEY, VOLUMES, FILES = {str(secret)!r}, {str(key)!r}, {str(world.data / 'volumes')!r}, '/w'"
    make_source(world.context, "spy", f"{places}\n{SPY}")
    with pytest.raises(TaskFailed, match="failed with status 1"):
        await world.build("COPY spy-1.0.tar.gz /w/", "RUN pip install -v /w/spy-1.0.tar.gz")
    text = world.log.read_text().partition("SAID ")[2]
    assert text, world.log.read_text()
    said = json.loads(text.splitlines()[0])
    assert said["secret"] == said["key"] == said["volume"] == "FileNotFoundError"
    assert said["shadow"] == "FileNotFoundError"
    assert set(said["base"]) <= {"OSError", "FileNotFoundError", "PermissionError"}, "only its own image is writable"
    assert said["system"] in ("OSError", "PermissionError")
    assert said["kernel"] in ("OSError", "PermissionError")
    assert said["processes"] < 8
    assert said["hosts"], "pip needs to find its index"
    assert "CLOUD_TOKEN" not in said["variables"]
    assert not secret.with_name("evil").exists()


async def test_sw66_an_image_whose_swarm_learning_is_not_this_hosts_is_refused(world: World) -> None:
    make_wheel(world.context, "evil", {"swarmlearning/__init__.py": "print('mine')\n"})
    with pytest.raises(TaskFailed, match="installed another Swarm Learning"):
        await world.build("COPY evil-1.0-py3-none-any.whl /w/", "RUN pip install /w/evil-1.0-py3-none-any.whl")
    assert world.built() == []


async def test_sw66_an_image_in_which_swarm_learning_does_not_work_is_refused(world: World) -> None:
    make_wheel(world.context, "numpy", {"numpy/__init__.py": "raise ImportError('an old numpy')\n"}, version="0.1")
    with pytest.raises(TaskFailed, match="import swarmlearning in the image failed with status 1"):
        await world.build(
            "COPY numpy-0.1-py3-none-any.whl /w/", "RUN pip install --no-deps -I /w/numpy-0.1-py3-none-any.whl"
        )


async def test_sw66_looking_at_an_image_runs_none_of_its_code(world: World, tmp_path: Path) -> None:
    """The attack: a `.pth` file runs whenever the image's Python does."""
    trace = tmp_path / "trace"
    line = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n"
    make_wheel(world.context, "sneaky", {"sneaky.pth": line, "sneaky.py": ""})
    digest = await world.build("COPY *.whl /w/", "RUN pip install /w/sneaky-1.0-py3-none-any.whl")
    assert (await world.images.find_image("env"), digest) == (digest, digest)
    image = world.images.describe_image("env")
    assert image.paths
    await world.build("COPY *.whl /w/", "RUN pip install /w/sneaky-1.0-py3-none-any.whl", tag="again")
    assert not trace.exists()
    await asyncio.to_thread(subprocess.run, [image.python, "-c", "pass"], check=True)
    assert trace.exists(), "this test would not notice anything"


async def test_a_build_without_a_sandbox_works_where_there_is_none(world: World) -> None:
    world.sandbox = "bubblewrap is not installed"
    world.images = world.open()
    make_wheel(world.context, "thing", {"thing.py": ""})
    await world.build("COPY *.whl /w/", "RUN pip install /w/*.whl")
    process = await asyncio.create_subprocess_exec(world.images.describe_image("env").python, "-c", "import thing")
    assert await process.wait() == 0


async def test_sw64_a_missing_file_link_out_or_context_fails_the_copy(world: World, tmp_path: Path) -> None:
    (tmp_path / "host").write_text("secret")
    (world.context / "out").symlink_to(tmp_path / "host")
    (world.context / "dir").mkdir()
    (world.context / "dir" / "up").symlink_to("../../../../host")
    (world.context / "dangling").symlink_to("nowhere")
    os.mkfifo(world.context / "pipe")
    for name, reason in [
        ("absent", "the build context has no absent"),
        ("o*", "out is a link out of the build context"),
        ("dir", "is a link out of the build context"),
        ("dangling", "leads nowhere"),
        ("pipe", "is no file"),
    ]:
        with pytest.raises(TaskFailed, match=reason):
            await world.build(f"COPY {name} /x/")
    body = MakeUserContainer(build_steps=("FROM python", "COPY a /x"))
    with pytest.raises(TaskFailed, match="names no BuildContext"):
        await world.images.build_image("env", body, str(world.log), LIMITS, world.told.append)
    body = MakeUserContainer(build_context="other", build_steps=("FROM python", "COPY a /x"))
    with pytest.raises(NotFound, match="no volume other on this host"):
        await world.images.build_image("env", body, str(world.log), LIMITS, world.told.append)
    assert world.built() == []


async def test_sw64_no_more_is_copied_than_the_policy_allows(world: World) -> None:
    (world.context / "large").write_bytes(bytes(1001))
    with pytest.raises(TaskFailed, match=r"larger than this host's policy allows"):
        await world.build("COPY large /x/", limits=Limits(content=1000))


async def test_sw64_files_may_not_lie_over_the_hosts_python(world: World) -> None:
    (world.context / "a").touch()
    with pytest.raises(TaskFailed, match=r"a part of this host's Python"):
        await world.build(f"COPY a {sys.prefix}/lib/")


async def test_the_products_client_needs_neither_a_context_nor_a_download(world: World) -> None:
    body = MakeUserContainer(
        build_context="sl-cli-lib",
        build_steps=(
            "FROM python",
            "RUN pip install --upgrade pip",
            "RUN mkdir -p /tmp/pkg",
            "COPY swarmlearning-client-py3-none-any.whl /tmp/pkg/",
            "RUN pip install /tmp/pkg/swarmlearning-client-py3-none-any.whl",
        ),
    )
    digest = await world.images.build_image("env", body, str(world.log), LIMITS, world.told.append)
    assert await world.images.find_image("env") == digest
    assert "step 4: swarmlearning-client-py3-none-any.whl is not copied: Swarm Learning is in every image" in world.told


# --- bases ----------------------------------------------------------------------------------------------------------


async def test_sw63_another_image_needs_a_base_and_says_so(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"--base 'tensorflow/tensorflow:2\.7\.0=/path/to/its/python'"):
        await world.build(first="FROM tensorflow/tensorflow:2.7.0")
    world.images = world.open(("tensorflow/tensorflow:*", sys.executable))
    for name in ("tensorflow/tensorflow:2.7.0", "tensorflow/tensorflow", "docker.io/tensorflow/tensorflow:1"):
        assert await world.build(first=f"FROM {name}")


async def test_sw63_pulling_takes_what_a_base_stands_for_and_nothing_else(world: World) -> None:
    body = PullImage(registry="registry.example/heart/", repository="tools", tag="2.7.0")
    with pytest.raises(ConfigurationError, match=r"--base 'registry\.example/heart/tools:2\.7\.0=/path/to/its/python'"):
        await world.images.pull_image("mine", body, str(world.log), world.told.append)
    known = PullImage(registry="docker.io/library", repository="python", tag="3")
    with pytest.raises(ConfigurationError, match="PROCESS pulls no images"):
        await world.images.pull_image("mine", known, str(world.log), world.told.append)
    world.images = world.open(("registry.example/heart/*", sys.executable))
    digest = await world.images.pull_image("mine", body, str(world.log), world.told.append)
    assert await world.images.find_image("mine") == digest
    assert world.run("import swarmlearning; print('works')", tag="mine") == "works"


def test_without_an_image_programs_run_in_the_agents_own_python(world: World) -> None:
    image = world.images.describe_image("")
    assert image.python == sys.executable
    assert world.run("import swarmlearning, numpy; print(swarmlearning.__file__)", tag="") == swarmlearning.__file__


async def test_a_tag_that_nothing_has_is_none(world: World) -> None:
    assert await world.images.find_image("../../etc/passwd") is None
    with pytest.raises(NotFound, match="the task that makes it has to be done first"):
        world.images.describe_image("unknown")


@pytest.mark.slow
async def test_a_package_comes_from_the_index_of_packages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: the version is another one than the one that this environment has."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    try:
        found = await asyncio.to_thread(urllib.request.urlopen, f"{index.rstrip('/')}/iniconfig/", timeout=10)
    except OSError as error:
        pytest.skip(f"no index of packages can be reached: {error}")
    found.close()
    monkeypatch.delenv("PIP_NO_INDEX")
    await world.build("RUN pip install iniconfig==1.1.1")
    assert world.run("import importlib.metadata as m; print(m.version('iniconfig'))") == "1.1.1"
