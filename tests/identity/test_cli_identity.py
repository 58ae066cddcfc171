"""`swarm ca`, `swarm cert` and the root of the command: docs/spec/identity.md, I-16 to I-22."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from identity_forge import NODE, NOW_MS, Forge

from swarmlearning import __version__
from swarmlearning.cli import main as root
from swarmlearning.cli.main import COMMANDS, main, swarm
from swarmlearning.clock import system_clock
from swarmlearning.errors import (
    Broken,
    Closed,
    ConfigurationError,
    ExitCode,
    IdentityError,
    SwarmError,
    Unreachable,
    VerificationError,
)
from swarmlearning.identity.files import PUBLIC_MODE, write_file
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.pem import to_pem
from swarmlearning.identity.source import PemSource

ISSUE = ("cert", "issue", "--network", "heart", "--role", "sn", "--name", "sn1", "--host", "localhost")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(swarm, [str(a) for a in arguments])


def made(tmp_path: Path, *more: str) -> Path:
    assert call("ca", "init", "--organisation", "a.example", "--out", tmp_path / "ca").exit_code == 0
    result = call(*ISSUE, "--ca", tmp_path / "ca", "--out", tmp_path / "certs", *more)
    assert result.exit_code == 0, result.output
    return tmp_path / "certs" / "sn1.cert.pem"


# --- ca, cert ---------------------------------------------------------------------------------------------------


def test_i19_what_cert_issue_prints_is_an_identity_that_loads(tmp_path: Path) -> None:
    made(tmp_path)
    result = call(*ISSUE, "--ca", tmp_path / "ca", "--out", tmp_path / "more")
    environ = dict(line.strip().split("=", 1) for line in result.output.splitlines() if "=" in line)
    assert set(environ) == {"SWARM_ID_CERT", "SWARM_ID_KEY", "SWARM_ID_CACERT"}
    assert PemSource.from_env(environ).load(system_clock()).node == NODE
    assert sorted(p.name for p in (tmp_path / "more").iterdir()) == ["a.example.ca.pem", "sn1.cert.pem", "sn1.key.pem"]


def test_i21_cert_show_tells_whose_what_for_and_how_long(tmp_path: Path) -> None:
    path = made(tmp_path)
    output = call("cert", "show", path, tmp_path / "ca" / "ca.cert.pem").output
    for expected in (
        r"identity +spiffe://a\.example/heart/sn/sn1\n",
        r"organisation +a\.example\n",
        r"role +sn\n",
        r"role +certificate authority\n",
        r"key +ECDSA P-256\n",
        r"valid +20.* UTC to 20.* UTC \(364 days left\)\n",
        r"issuer +CN=Swarm CA,O=a\.example\n",
        r"hosts +localhost\n",
        r"SHA-256 +[0-9a-f]{64}\n",
    ):
        assert re.search(expected, output), expected
    assert "warning" not in output


def test_i21_cert_show_json_is_for_programs(tmp_path: Path) -> None:
    path = made(tmp_path)
    (shown,) = json.loads(call("cert", "show", "--json", path).output)
    assert (shown["file"], shown["identity"], shown["role"]) == (str(path), NODE.id, "sn")
    assert (shown["days_left"], shown["warning"], shown["hosts"]) == (364, "", ["localhost"])


def test_i21_a_certificate_that_ends_within_30_days_is_pointed_out(tmp_path: Path) -> None:
    path = made(tmp_path, "--days", "30")
    assert "warning      expires in 29 days; renew it" in call("cert", "show", path).output
    assert call("cert", "renew", "--ca", tmp_path / "ca", path, "--days", "32").exit_code == 0
    assert "warning" not in call("cert", "show", path).output


def test_i21_expired_and_foreign_certificates_are_shown_as_such(tmp_path: Path) -> None:
    path = tmp_path / "old.pem"
    forge = Forge(from_ms=0, to_ms=NOW_MS)
    write_file(path, to_pem(forge.sign(uris=(), from_ms=0, to_ms=86_400_000)), mode=PUBLIC_MODE)
    output = call("cert", "show", path).output
    assert "none (not a swarm certificate)" in output
    assert "warning      expired on 1970-01-02 00:00:00 UTC" in output


def test_i21_control_characters_in_a_certificate_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    write_file(path, to_pem(Forge(name="evil\x1b[2J\x07").sign()), mode=PUBLIC_MODE)
    output = call("cert", "show", path).output
    assert "evil?[2J?" in output
    assert "\x1b" not in output


def test_i20_cert_renew_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = made(tmp_path, "--days", "5")
    key = path.with_name("sn1.key.pem").read_bytes()
    result = call("cert", "renew", "--ca", tmp_path / "ca", path)
    assert result.output.startswith(f"{NODE.id}, valid until ")
    assert path.with_name("sn1.key.pem").read_bytes() == key
    assert "new key" in call("cert", "renew", "--ca", tmp_path / "ca", path, "--new-key").output
    assert path.with_name("sn1.key.pem").read_bytes() != key


def test_i16_a_second_ca_init_is_refused_and_with_force_replaces(tmp_path: Path) -> None:
    made(tmp_path)
    again = ("ca", "init", "--organisation", "a.example", "--out", tmp_path / "ca")
    assert isinstance(call(*again).exception, IdentityError)
    assert call(*again, "--force").exit_code == 0


# --- identity options -------------------------------------------------------------------------------------------


@click.command()
@identity_options
@click.option("--port", type=int, default=1)
def node(identity: PemSource, port: int) -> None:
    click.echo(f"{identity.cert} {identity.key} {identity.cacert} {identity.capath} {port}")


def test_i17_identity_options_come_from_the_command_line_before_the_environment() -> None:
    environ = {"SWARM_ID_CERT": "c", "SWARM_ID_KEY": "k", "SWARM_ID_CACERT": "a"}
    assert CliRunner().invoke(node, ["--port", "2"], env=environ).output == "c k a None 2\n"
    assert CliRunner().invoke(node, ["--cert", "x", "--capath", "p"], env=environ).output == "x k a p 1\n"


def test_i17_identity_options_that_are_missing_are_named() -> None:
    environ = {"SWARM_ID_CERT": "c", "SWARM_ID_KEY": None, "SWARM_ID_CACERT": None, "SWARM_ID_CAPATH": None}
    error = CliRunner().invoke(node, [], env=environ).exception
    assert isinstance(error, IdentityError)
    assert "--key (SWARM_ID_KEY), --cacert or --capath (SWARM_ID_CACERT, SWARM_ID_CAPATH) not given" in str(error)


# --- the root ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_i22_every_command_in_the_table_loads_and_has_help(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)
    result = call(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: swarm {name}")


def raise_from(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(root.LazyGroup, "get_command", lambda *_: broken)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigurationError("it"), 2),
        (VerificationError("it"), 3),
        (Unreachable("it"), 4),
        (Closed("it"), 1),
        (Broken("it"), 70),
        (ExceptionGroup("nodes", [ExceptionGroup("deeper", [Unreachable("it"), Broken("later")])]), 4),
    ],
)
def test_i22_an_error_of_ours_is_one_line_and_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    raise_from(monkeypatch, error)
    assert main(["x"]) == status
    assert capsys.readouterr() == ("", "swarm: error: it\n")


def test_i22_an_error_stays_one_line_whatever_it_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_from(monkeypatch, VerificationError("peer said\nswarm: all is well\x1b[2J"))
    assert main(["x"]) == 3
    assert capsys.readouterr().err == "swarm: error: peer said swarm: all is well [2J\n"
    raise_from(monkeypatch, SwarmError())
    assert main(["x"]) == 1
    assert capsys.readouterr().err == "swarm: error: SwarmError\n"


def test_i22_a_bug_among_errors_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from(monkeypatch, ExceptionGroup("nodes", [Unreachable("it"), ZeroDivisionError()]))
    with pytest.raises(ExceptionGroup):
        main(["x"])


def test_i22_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from(monkeypatch, KeyboardInterrupt())
    assert main(["x"]) == 130


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["ca", "init"], ["cert", "show"], []])
def test_i22_a_usage_error_exits_with_2_and_says_what_is_wrong(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Usage: swarm" in capsys.readouterr().err


def test_i22_a_command_may_return_its_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    for returned, status in ((None, 0), (ExitCode.FAILED, 1), (0, 0)):
        command = click.Command("x", callback=lambda value=returned: value)
        monkeypatch.setattr(root.LazyGroup, "get_command", lambda *_, command=command: command)
        assert main(["x"]) == status


def python(*arguments: str, code: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *(["-c", code] if code else ["-m", "swarmlearning"]), *arguments]
    environ = {**os.environ, "PYTHONPATH": str(Path(root.__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


def test_i22_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from swarmlearning.cli.main import main; status = main(['--help']); "
        "print(sorted(m for m in sys.modules if m.startswith('swarmlearning.')), "
        "{'numpy', 'aiohttp', 'rich', 'cryptography'} & set(sys.modules)); sys.exit(status)"
    )
    result = python(code=code)
    assert result.returncode == 0, result.stderr
    loaded = "['swarmlearning.cli', 'swarmlearning.cli.main', 'swarmlearning.errors'] set()"
    assert result.stdout.splitlines()[-1] == loaded
    assert all(f"  {name} " in result.stdout for name in COMMANDS)


def test_i22_a_real_process_makes_an_identity_and_reports_errors(tmp_path: Path) -> None:
    assert python("--version").stdout == f"swarm {__version__}\n"
    ca, out = str(tmp_path / "ca"), str(tmp_path / "certs")
    assert python("ca", "init", "--organisation", "a.example", "--out", ca).returncode == 0
    assert python(*ISSUE, "--ca", ca, "--out", out).returncode == 0
    again = python(*ISSUE, "--ca", ca, "--out", out)
    assert (again.returncode, again.stdout) == (2, "")
    assert re.fullmatch(r"swarm: error: .*sn1\.cert\.pem exists; .*--force\n", again.stderr)


def test_i22_a_reader_that_leaves_is_no_error_to_talk_about(tmp_path: Path) -> None:
    path = made(tmp_path)
    read, write = os.pipe()
    os.close(read)  # the reader is gone before the first byte
    environ = {**os.environ, "PYTHONPATH": str(Path(root.__file__).parents[2])}
    try:
        result = subprocess.run(
            [sys.executable, "-m", "swarmlearning", "cert", "show", str(path)],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            env=environ,
            check=False,
        )
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")
