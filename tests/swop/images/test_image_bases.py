"""Which Python of this host stands for which image, and volumes. SW-63, SW-66."""

import subprocess
import sys
from pathlib import Path

import pytest

import swarmlearning
from swarmlearning.errors import ConfigurationError, NotFound
from swarmlearning.swop.managers.process_bases import find_base, own_base, probe_python
from swarmlearning.swop.managers.process_volumes import find_volume, replace_volume

MINOR = f"3.{sys.version_info.minor}"


@pytest.mark.parametrize(
    "name",
    [
        "python", "python:latest", "python:slim", "python:3", f"python:{MINOR}", f"python:{MINOR}-slim-bookworm",
        f"python:{MINOR}.0", "docker.io/library/python:3", "library/python",
    ],
)  # fmt: skip
def test_sw63_the_agents_python_stands_for_its_own_version(name: str) -> None:
    assert find_base(name, ()) == own_base()


@pytest.mark.parametrize(
    "name",
    [
        "python:2.7", "python:4", "pythonic", "ubuntu:22.04", "registry.example/python:3", "python@sha256:00",
        "scratch", "python:", "tensorflow/tensorflow:2.7.0",
    ],
)  # fmt: skip
def test_sw63_anything_else_is_refused_and_base_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="--base"):
        find_base(name, ())


def test_sw63_another_version_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python3.77"
    answer = tmp_path / "answer"
    program.write_text(f"#!/bin/sh\ncat {answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    answer.write_text(
        '{"version": [3, 77, 1], "executable": "/opt/x/bin/python3.77", "prefixes": ["/opt/x"], "sites": [],'
        ' "path": [], "ours": true, "pip": true, "real": "/opt/x/bin/python3.77"}'
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_base("python:3.77", ()).version == "3.77.1"
    answer.write_text(answer.read_text().replace('"ours": true', '"ours": false'))
    with pytest.raises(ConfigurationError, match=r"no Python 3\.77 with Swarm Learning on this host"):
        find_base("python:3.77", ())


def test_sw63_what_base_names_goes_before_all_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--base python:\*=/nowhere/python: expected the path of a Python"):
        find_base("python:3", (("python:*", "/nowhere/python"),))
    with pytest.raises(ConfigurationError, match="does not run as a Python"):
        find_base("x", (("x", "/bin/true"),))


def test_sw63_a_base_without_swarm_learning_is_refused_with_what_to_do(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    python = str(tmp_path / "bare" / "bin" / "python")
    expected = f"has no Swarm Learning; install it: {python} -m pip install swarmlearning=={swarmlearning.__version__}"
    with pytest.raises(ConfigurationError, match=expected.replace("+", r"\+")):
        probe_python(python, "--base x")


def test_sw63_programs_see_of_a_checkout_swarm_learning_alone() -> None:
    base = own_base()
    package = str(Path(swarmlearning.__file__).parent)
    shown = [path for path in base.paths if package == path or package.startswith(f"{path}/")]
    assert shown
    assert all(Path(path).name in ("swarmlearning", "site-packages") or path == sys.prefix for path in shown)


# --- volumes --------------------------------------------------------------------------------------------------------


def make_content(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True)
    (directory / text).touch()
    return directory


def test_sw66_a_volume_is_replaced_as_a_whole(tmp_path: Path) -> None:
    volumes = tmp_path / "volumes"
    with pytest.raises(NotFound, match="no volume lib on this host"):
        find_volume(volumes, "lib")
    replace_volume(volumes, "lib", make_content(tmp_path / "first", "one"))
    replace_volume(volumes, "lib", make_content(tmp_path / "second", "two"))
    assert [path.name for path in find_volume(volumes, "lib").iterdir()] == ["two"]
    assert [path.name for path in volumes.iterdir()] == ["lib"]


def test_sw66_what_an_interrupted_call_left_is_removed(tmp_path: Path) -> None:
    volumes = tmp_path / "volumes"
    make_content(volumes / ".lib.0123", "left")
    make_content(volumes / ".library.0123", "anothers")
    replace_volume(volumes, "lib", make_content(tmp_path / "first", "one"))
    assert sorted(path.name for path in volumes.iterdir()) == [".library.0123", "lib"]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", ".hidden", "-x", "a b", "a\n", "x" * 129, "é"])
def test_sw66_a_name_of_a_volume_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="no volume can have the name"):
        find_volume(tmp_path, name)
    with pytest.raises(ConfigurationError, match="no volume can have the name"):
        replace_volume(tmp_path, name, make_content(tmp_path / "content", "x"))


def test_sw66_a_link_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(NotFound):
        find_volume(tmp_path, "link")
