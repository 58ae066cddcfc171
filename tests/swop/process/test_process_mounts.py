"""What a program sees of the host, and where; what is refused before anything is started."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from process_world import (
    log_of,
    make_pair,
    open_manager,
    plain_manager,
    prepare,
    private,
    run_program,
    settings,
    shared,
)

from swarmlearning.errors import ConfigurationError, NotFound
from swarmlearning.swop.managers import sandbox as sandboxes
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.process import ProcessManager
from swarmlearning.swop.managers.process_images import ProcessImages
from swarmlearning.swop.managers.process_ml import check_interpreters, find_gpus, program_words, wants_gpus
from swarmlearning.swop.managers.process_mounts import Mounted, check_target, find_mounts
from swarmlearning.swop.managers.process_plain import PlainRoot
from swarmlearning.swop.profile import Attribute, IdentityPart, Option, PeerNode, PrivateData
from swarmlearning.tasks.bodies import Mount

BOTH = pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "plain"])


def make_source(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text(text)
    return tmp_path / name


def run(manager: ProcessManager, pair: Pair) -> str:
    status = asyncio.run(run_program(manager, pair))
    assert status.exit_status == 0, (log_of(pair), status)
    return log_of(pair)


@BOTH
def test_sw46_a_program_finds_its_data_where_the_task_says(tmp_path: Path, sandbox: bool) -> None:
    """As the product's examples have it: everything below /tmp/test, where the program works; paths of all kinds."""
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    (tmp_path / "D" / "volumes").mkdir()
    volume = make_source(tmp_path / "D" / "volumes", "vol", "volume")
    program = """
import os, sys
print(open('model/file').read(), open(os.environ['DATA_DIR'] + '/file').read(), open(sys.argv[1][6:] + '/file').read())
print(open(os.environ['ROWS']).read(), os.environ['OTHER'], sys.argv[2])
open('model/made', 'w').write('by the program')
open('here', 'w').write('in the working directory')
open(os.environ['HOME'] + '/x', 'w').close(), open(os.environ['TMPDIR'] + '/x', 'w').close()
"""
    pair = make_pair(
        tmp_path / "D",
        program,
        node=private(make_source(tmp_path, "rows", "private")),
        body_working_dir="/tmp/test/",
        body_private_content="/tmp/test/app-data",
        body_shared_content=(
            shared(make_source(tmp_path, "model", "shared"), "/tmp/test/model"),
            Mount(source="vol", target="/tmp/test//lib", kind="VOLUME"),
        ),
        ml_environment=(
            ("DATA_DIR", "/tmp/test/app-data"),
            ("ROWS", "/tmp/test/app-data/file"),
            ("OTHER", "/tmp/testing"),
        ),
    )
    body = msgspec.structs.replace(pair.body, command=pair.body.command + " --lib=/tmp/test/lib /tmp/testing")
    said = run(manager, msgspec.structs.replace(pair, body=body))
    assert said == "shared private volume\nprivate /tmp/testing /tmp/testing\n"
    assert (tmp_path / "model" / "made").read_text() == "by the program"
    assert not (volume / "here").exists()


@BOTH
def test_sw46_links_in_sources_are_followed_once(tmp_path: Path, sandbox: bool) -> None:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    make_source(tmp_path, "real", "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    pair = make_pair(
        tmp_path / "D",
        "print(open('shared/file').read())",
        body_shared_content=(shared(tmp_path / "link", "/platform/shared"),),
    )
    assert run(manager, pair) == "real\n"


@BOTH
def test_sw52_files_that_the_recipe_copied_are_there_and_a_programs_own(tmp_path: Path, sandbox: bool) -> None:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    files = tmp_path / "files"
    for name in ("app/lib/tool.py", "tmp/test/x.txt", "plain.txt"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(f"of the image: {name}")
    manager._images._own = msgspec.structs.replace(
        manager._images.describe_image(""), files=str(files), environment=(("FROM_IMAGE", "1"), ("SAID", "image"))
    )
    program = """
import os, sys
print(open(sys.argv[1]).read(), open('lib/tool.py').read(), os.environ['FROM_IMAGE'], os.environ['SAID'])
open('lib/tool.py', 'w').write('changed')
print(open(os.environ['X']).read(), open(os.environ['MOUNTED'] + '/file').read())
"""
    pair = make_pair(
        tmp_path / "D",
        program,
        body_working_dir="/app",
        body_shared_content=(shared(make_source(tmp_path, "model", "shared"), "/app/model"),),
        ml_environment=(("SAID", "task"), ("X", "/tmp/test/x.txt"), ("MOUNTED", "/app/model")),
    )
    body = msgspec.structs.replace(pair.body, command=pair.body.command + " /plain.txt")
    pair = msgspec.structs.replace(pair, body=body)
    expected = "of the image: plain.txt of the image: app/lib/tool.py 1 task\nof the image: tmp/test/x.txt shared\n"
    assert run(manager, pair) == expected
    assert (files / "app" / "lib" / "tool.py").read_text() == "of the image: app/lib/tool.py"


def test_sw49_the_interpreter_is_not_taken_for_something_of_the_tasks(tmp_path: Path) -> None:
    """Without a sandbox, where the task mounts something above it."""
    manager = open_manager(tmp_path / "D", sandbox=False)
    above = str(Path(manager._images.describe_image("").python).parent)
    mount = shared(make_source(tmp_path, "model", "shared"), above)
    pair = make_pair(
        tmp_path / "D", "print(open(__import__('os').environ['X'] + '/file').read())", body_shared_content=(mount,)
    )
    assert run(manager, msgspec.structs.replace(pair, ml_environment=(("X", above),))) == "shared\n"


def test_sw52_an_image_with_files_among_the_systems_is_refused(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    (tmp_path / "files" / "usr" / "src").mkdir(parents=True)
    manager._images._own = msgspec.structs.replace(manager._images.describe_image(""), files=str(tmp_path / "files"))
    pair = make_pair(tmp_path / "D")
    prepare(pair)
    with pytest.raises(ConfigurationError, match="the image has files in /usr, which here is the host's"):
        asyncio.run(manager.start_ml(pair))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("/usr", "/usr would hide or lie within /usr"),
        ("/usr/local/data", "would hide or lie within /usr"),
        ("/etc", "would hide or lie within /etc"),
        ("/", "would hide or lie within"),
        ("/run/swarm/control", "would hide or lie within /run"),
        ("/run", "would hide or lie within /run"),
        ("/proc/sys", "would hide or lie within /proc"),
        ("/dev/shm", "would hide or lie within /dev"),
        ("/tmp", "every program has one of its own"),
        ("/home/swarm", "every program has one of its own"),
        ("/platform/../etc", "would hide or lie within /etc"),
        ("//usr/x", "would hide or lie within /usr"),
        ("{python}", "would hide or lie within"),
        ("relative/data", "expected an absolute path"),
        ("/a\0b", "expected an absolute path"),
    ],
)
def test_sw46_targets_that_hide_what_a_program_needs_are_refused(tmp_path: Path, target: str, told: str) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    python = Path(manager._images.describe_image("").paths[0]).parent
    source = make_source(tmp_path, "model", "x")
    pair = make_pair(
        tmp_path / "D", body_shared_content=(shared(source, target.format(python=python)),), sandboxed=True
    )
    prepare(pair)
    with pytest.raises(ConfigurationError, match=told):
        asyncio.run(manager.start_ml(pair))


def refused(tmp_path: Path, told: str, kind: type[Exception] = ConfigurationError, **changes: Any) -> None:
    for sandbox in (True, False):
        manager = open_manager(tmp_path / "D", sandbox=sandbox)
        pair = make_pair(tmp_path / "D", **changes)
        prepare(pair)
        with pytest.raises(kind, match=told):
            asyncio.run(manager.start_ml(pair))


def test_sw46_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(
        tmp_path,
        r"SharedContent Src '/no/such': it is not on this host",
        body_shared_content=(shared(Path("/no/such")),),
    )
    escaping = Mount(source="../pairs", target="/platform/lib", kind="VOLUME")
    refused(tmp_path, "no volume can have the name", body_shared_content=(escaping,))


def test_sw46_private_data_must_be_there_if_the_task_reads_it(tmp_path: Path) -> None:
    refused(tmp_path, r"but node 0 of the profile has none: set its privatedata", body_private_content="/data")
    refused(
        tmp_path,
        r"privatedata '/no/such' of node 0: it is not on this host",
        body_private_content="/data",
        node=private(Path("/no/such")),
    )
    volume = PrivateData(source="vol", kind="VOLUME")
    refused(
        tmp_path,
        "no volume vol on this host",
        NotFound,
        body_private_content="/data",
        node=PeerNode(idx=0, line=1, identity=(), private_data=volume),
    )


def test_sw46_a_volume_that_a_task_shares_is_made_as_container_engines_do(tmp_path: Path) -> None:
    mount = Mount(source="results", target="/platform/shared", kind="VOLUME")
    found = find_mounts(make_pair(tmp_path / "D", body_shared_content=(mount,)), tmp_path / "volumes")
    assert [(Path(one.source), one.writable) for one in found] == [(tmp_path / "volumes" / "results", True)]
    assert (tmp_path / "volumes" / "results").stat().st_mode & 0o777 == 0o700


def test_sw46_one_place_holds_one_thing(tmp_path: Path) -> None:
    twice = (shared(make_source(tmp_path, "a", "")), shared(make_source(tmp_path, "b", ""), "/platform//shared/"))
    refused(tmp_path, "two things are to be mounted at /platform/shared", body_shared_content=twice)


@pytest.mark.parametrize("source", ["D", "D/pairs", "D/journal", ".", "link"])
def test_sw46_the_agents_own_data_is_not_mounted(tmp_path: Path, source: str) -> None:
    (tmp_path / "D" / "journal").mkdir(parents=True)
    (tmp_path / "D" / "pairs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "D" / "pairs")
    refused(tmp_path, "holds or is part of the agent's own data", body_shared_content=(shared(tmp_path / source),))


def test_sw46_the_key_of_the_sl_is_not_mounted(tmp_path: Path) -> None:
    certs = make_source(tmp_path, "study", "")
    (certs / "certs").mkdir()
    (certs / "certs" / "sl.key.pem").write_text("key")
    key = Attribute(part=IdentityPart.KEY, kind="BIND", source=str(certs / "certs"), target="/x", sub_path="sl.key.pem")
    node = PeerNode(idx=0, line=1, identity=(key,))
    refused(
        tmp_path,
        "sl.key.pem, which proves who a node is",
        body_shared_content=(shared(tmp_path / "study"),),
        node=node,
    )


def test_sw46_no_key_of_another_node_is_mounted(tmp_path: Path) -> None:
    keys = make_source(tmp_path, "keys", "key")
    (tmp_path / "other").symlink_to(keys)
    held = msgspec.structs.replace(settings(tmp_path / "D"), secrets=(str(keys / "file"),))
    manager = ProcessManager(held, ProcessImages(held), "none")
    pair = make_pair(tmp_path / "D", body_shared_content=(shared(tmp_path / "other"),))
    prepare(pair)
    with pytest.raises(ConfigurationError, match="which proves who a node is"):
        asyncio.run(manager.start_ml(pair))


@pytest.mark.parametrize("source", ["/", "/etc", "/etc/cron.d", "/run", "/usr", "/usr/local", sys.prefix, "/proc/1"])
def test_sw46_what_the_host_runs_is_not_to_be_written_by_programs(tmp_path: Path, source: str) -> None:
    refused(tmp_path, "SharedContent .* is refused|the agent's own data", body_shared_content=(shared(Path(source)),))


def test_sw46_shared_content_that_leads_elsewhere_than_when_it_was_decided_is_refused(tmp_path: Path) -> None:
    """The attack: a program that may write beside it makes it a link before the next one starts."""
    content = make_source(tmp_path, "content", "")
    victim = make_source(tmp_path, "victim", "")
    changes: dict[str, Any] = {"body_shared_content": (shared(content),), "places": (str(content),)}
    manager = open_manager(tmp_path / "D", sandbox=False)
    assert run(manager, make_pair(tmp_path / "D", "print('runs')", **changes)) == "runs\n"
    content.rename(tmp_path / "aside")
    content.symlink_to(victim)
    refused(tmp_path, "it leads to .*victim now", **changes)


def test_sw46_a_working_directory_of_the_system_is_refused_in_a_sandbox(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    pair = make_pair(tmp_path / "D", body_working_dir="/usr/src/app")
    prepare(pair)
    with pytest.raises(ConfigurationError, match="WorkingDir /usr/src/app would hide or lie within /usr"):
        asyncio.run(manager.start_ml(pair))


@BOTH
def test_sw46_a_working_directory_that_a_mount_does_not_have_is_refused(tmp_path: Path, sandbox: bool) -> None:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    pair = make_pair(
        tmp_path / "D",
        body_working_dir="/platform/shared/sub",
        body_shared_content=(shared(make_source(tmp_path, "model", "")),),
    )
    prepare(pair)
    with pytest.raises(ConfigurationError, match="WorkingDir /platform/shared/sub"):
        asyncio.run(manager.start_ml(pair))
    assert not (tmp_path / "model" / "sub").exists()


def test_sw49_targets_within_each_other_need_a_sandbox(tmp_path: Path) -> None:
    outer = make_source(tmp_path, "outer", "")
    (outer / "inner").mkdir()
    nested = (shared(outer, "/platform/a"), shared(make_source(tmp_path, "b", "inner"), "/platform/a/inner"))
    plain = make_pair(tmp_path / "D", body_shared_content=nested)
    prepare(plain)
    with pytest.raises(ConfigurationError, match="without a sandbox they must lie beside each other"):
        asyncio.run(plain_manager(tmp_path / "D").start_ml(plain))
    boxed = make_pair(tmp_path / "D", "print(open('a/inner/file').read())", name="pair-2", body_shared_content=nested)
    assert run(open_manager(tmp_path / "D", sandbox=True), boxed) == "inner\n"


# --- words and values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("/platform/data", "R/platform/data"),
        ("/platform/data/rows.csv", "R/platform/data/rows.csv"),
        ("/platform/database", "/platform/database"),
        ("--data=/platform/data/x", "--data=R/platform/data/x"),
        ("DATA=/platform/data", "DATA=/platform/data"),
        ("/tmp/test", "R/tmp/test"),
        ("/tmp/test/a b", "R/tmp/test/a b"),
        ("/tmp", "/tmp"),
        ("--x=", "--x="),
        ("--", "--"),
        ("", ""),
        ("data", "data"),
    ],
)
def test_sw49_words_that_begin_with_a_target_are_changed(text: str, after: str) -> None:
    mount = Mounted(source="/x", target="/platform/data", writable=False)
    root = PlainRoot(directory=Path("R"), mounts=(mount,), working_dir="/tmp/test")
    assert root.rewrite(text) == after


def test_sw52_words_are_split_without_a_shell_and_python_is_the_images(tmp_path: Path) -> None:
    image = plain_manager(tmp_path)._images.describe_image("")

    def words(entrypoint: str, command: str) -> tuple[str, ...]:
        pair = make_pair(tmp_path, body_entrypoint=entrypoint, body_command=command)
        return program_words(pair, msgspec.structs.replace(image, version="3.11.7"))

    python = image.python
    assert words("python3", "model/train.py --rate '0.1 0.2' $HOME;ls") == (
        *(python, "model/train.py", "--rate", "0.1 0.2", "$HOME;ls"),
    )
    assert words("", "/usr/bin/python3.11 -u x") == (python, "-u", "x")
    assert words("/usr/local/bin/python", "x") == (python, "x")
    assert words("python3.9", "x") == ("python3.9", "x")
    assert words("pythonista", "x") == ("pythonista", "x")
    assert words("/bin/bash -c", '"echo  hi"') == ("/bin/bash", "-c", "echo  hi")
    with pytest.raises(ConfigurationError, match="close every quotation mark"):
        words("python3", "it's")
    with pytest.raises(ConfigurationError, match="are empty: expected a program"):
        words("", " ")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("gpus", "all", True),
        ("--gpus", "device=0", True),
        ("device", "/dev/kfd", True),
        ("device", "/dev/dri", True),
        ("device", "/dev/nvidia0", True),
        ("device", "/dev/fuse", False),
        ("shm-size", "1g", False),
    ],
)
def test_sw44_graphics_processors_are_shown_where_the_profile_asks(name: str, value: str, wanted: bool) -> None:
    assert wants_gpus((Option(name=name, value=value, line=1),)) is wanted
    assert all(path.startswith("/dev/") for path in find_gpus())


def test_sw44_devices_are_mounted_with_what_their_drivers_read(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    assert isinstance(manager._sandbox, sandboxes.Sandbox)
    view = sandboxes.View(interpreters=(), hidden="/x", scratch=tmp_path, env=(), devices=("/dev/null",))
    words = " ".join(sandboxes.sandbox_arguments(manager._sandbox, view))
    assert "--dev-bind /dev/null /dev/null" in words
    assert "--ro-bind /sys /sys" in words
    bare = " ".join(sandboxes.sandbox_arguments(manager._sandbox, msgspec.structs.replace(view, devices=())))
    assert "--dev-bind" not in bare
    assert "--ro-bind /sys /sys" not in bare


@pytest.mark.parametrize("path", ["/", "/home", "/root", "/etc", "/opt", str(Path.home())])
def test_sw46_a_python_in_a_directory_of_everything_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="all of which would be shown"):
        check_interpreters(("/opt/python", path))
    assert check_interpreters(("/opt/python", "/usr/lib/python3")) == ("/opt/python",)


@pytest.mark.parametrize(
    ("target", "normal"), [("/a/b/", "/a/b"), ("//a//b", "/a/b"), ("/a/./b/../c", "/a/c"), ("/..", "/")]
)
def test_targets_are_made_normal(target: str, normal: str) -> None:
    assert check_target("the target", target) == normal
