"""Which `cometbft` is run: what the user names, else what is installed; another release is refused with one line."""

import stat
from pathlib import Path

import pytest
from cometbft_support import cometbft, needs_cometbft

from swarmlearning.errors import ConfigurationError
from swarmlearning.ledger.cometbft.binary import ACCEPTED, INSTALL, find_binary, read_version


def program(path: Path, says: str, status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(stat.S_IRWXU)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without cometbft and without Go."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWARM_COMETBFT", raising=False)
    return tmp_path


def test_the_option_goes_before_the_variable_before_path_before_go(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = program(nowhere / "home" / "go" / "bin" / "cometbft", "0.38.1")
    assert find_binary() == go
    elsewhere = program(nowhere / "gopath" / "bin" / "cometbft", "0.38.2")
    program(nowhere / "path" / "go", f"/nonexistent:{nowhere / 'gopath'}")
    assert find_binary() == elsewhere
    path = program(nowhere / "path" / "cometbft", "0.39.0")
    assert find_binary() == path
    variable = program(nowhere / "variable", "v0.40.0+abcdef")
    monkeypatch.setenv("SWARM_COMETBFT", str(variable))
    assert find_binary() == variable
    given = program(nowhere / "given", "0.38.15")
    assert find_binary(given) == given


def test_a_missing_program_is_one_line_with_the_command_that_installs_it(nowhere: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_binary()
    assert INSTALL in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_user_names_is_not_replaced_by_another(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(nowhere / "path" / "cometbft", "0.39.0")
    with pytest.raises(ConfigurationError, match=r"--cometbft: there is no program .*/missing"):
        find_binary(nowhere / "missing")
    monkeypatch.setenv("SWARM_COMETBFT", str(nowhere / "gone"))
    with pytest.raises(ConfigurationError, match=r"SWARM_COMETBFT: there is no program .*/gone"):
        find_binary()


@pytest.mark.parametrize("says", ["0.37.2", "0.41.0", "1.0.0", "10.39.0", "", "something else", "x0.39.0", "0.390.1"])
def test_another_release_is_refused(nowhere: Path, says: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected one of 0\.38, 0\.39, 0\.40; run `go install"):
        find_binary(program(nowhere / "given", says))


def test_a_program_that_fails_or_is_none_is_refused(nowhere: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not work"):
        find_binary(program(nowhere / "fails", "0.39.0", status=1))
    text = nowhere / "text"
    text.write_text("0.39.0")
    with pytest.raises(ConfigurationError, match=r"does not work \(Permission denied\)"):
        find_binary(text)


@needs_cometbft
def test_the_installed_program_is_of_an_accepted_release() -> None:
    major, minor = read_version(cometbft()).removeprefix("v").split(".")[:2]
    assert (int(major), int(minor)) in ACCEPTED


def test_make_cometbft_installs_the_release_that_errors_name() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"
    assert f"\n\t{INSTALL}\n" in makefile.read_text()
