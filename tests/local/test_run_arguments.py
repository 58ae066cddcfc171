"""`swarm run` refuses what cannot work before it starts anything: one line, exit 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarmlearning.cli.main import main
from swarmlearning.cli.run import check_arguments, next_workdir
from swarmlearning.errors import ConfigurationError, InvalidName
from swarmlearning.local.network import LocalNetwork, Site, prepare_workdir
from swarmlearning.types import TrustDomain


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "1", "--", "true"], "--peers 1: expected 2-64"),
        (["--peers", "65", "--", "true"], "--peers 65: expected 2-64"),
        (["--peers", "4", "--min-peers", "5", "--", "true"], "--min-peers 5: expected 2 to --peers, which is 4"),
        (["--peers", "4", "--min-peers", "1", "--", "true"], "--min-peers 1: expected 2"),
        (["--", "no-such-program-here", "x"], "command not found: 'no-such-program-here'"),
        (["--contract", "bad name", "--", "true"], "contract name 'bad name'"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"swarm: error: {said}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "demo"])
def test_an_interruption_is_one_line_that_names_the_logs(
    command: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(main: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"swarmlearning.cli.{command}.run_until_signal", interrupt)
    where = tmp_path / "w"
    arguments = ["run", "--workdir", str(where), "--", "true"] if command == "run" else ["demo", "--out", str(where)]
    assert main(arguments) == 130
    assert capfd.readouterr().err == f"interrupted; logs: {where / 'logs'}\n"


def test_a_workdir_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ConfigurationError, match="is not empty"):
        check_arguments(2, None, "c", tmp_path, False, ["true"])
    assert (tmp_path / "precious").read_text() == "data"
    with pytest.raises(ConfigurationError, match="cannot be used"):
        prepare_workdir(tmp_path / "precious" / "below-a-file")


def test_a_workdir_is_for_its_owner_only(tmp_path: Path) -> None:
    made = prepare_workdir(tmp_path / "new" / "deep")
    assert made.stat().st_mode & 0o777 == 0o700


def test_options_of_the_program_are_the_programs(tmp_path: Path) -> None:
    plan = check_arguments(3, 2, "c", tmp_path / "w", False, ["env", "--peers", "9"])
    assert plan.argv[1:] == ("--peers", "9")
    assert (plan.peers, plan.min_peers) == (3, 2)


def test_python_is_the_interpreter_that_has_this_package(tmp_path: Path) -> None:
    plan = check_arguments(2, None, "c", tmp_path / "w", False, ["python", "train.py"])
    assert Path(plan.argv[0]).parent == Path(sys.executable).parent


def test_runs_without_a_workdir_are_numbered(tmp_path: Path) -> None:
    parent = tmp_path / "swarm-run"
    assert [next_workdir(parent).name for _ in range(3)] == ["1", "2", "3"]
    (parent / "9").mkdir()
    (parent / "notes").mkdir()
    assert next_workdir(parent).name == "10"
    with pytest.raises(ConfigurationError, match="name a directory by --workdir"):
        next_workdir(Path(os.devnull))


@pytest.mark.parametrize("sites", [[], [Site(domain=TrustDomain("a.example"))] * 2])
def test_a_network_has_organisations_of_different_domains(sites: list[Site], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="each of another trust domain"):
        LocalNetwork(sites, tmp_path)


def test_a_contract_name_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        check_arguments(2, None, "bad name", tmp_path / "w", False, ["true"])


def test_the_network_room_imports_no_framework() -> None:
    code = "import sys, swarmlearning.cli.run; print(sorted({'keras','jax','torch','tensorflow'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"
