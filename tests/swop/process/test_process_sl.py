"""How a pair's SL is started: its identity, its environment, where it meets its program."""

import os
from pathlib import Path
from typing import Any

import pytest
from process_world import make_pair

from swarmlearning.errors import ConfigurationError, NotYetAvailable
from swarmlearning.swop.managers.process_parts import Launch
from swarmlearning.swop.managers.process_sl import find_control, find_identity, find_proxies, make_control, sl_launch
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import Attribute, IdentityPart, PeerNode


def attribute(part: IdentityPart, source: Path, sub_path: str = "", kind: str = "BIND") -> Attribute:
    assert kind in ("BIND", "VOLUME")
    return Attribute(
        part=part, kind="BIND" if kind == "BIND" else "VOLUME", source=str(source), target="/x", sub_path=sub_path
    )


def launch(tmp_path: Path, *identity: Attribute, python_path: str = "", **changes: Any) -> Launch:
    pair = make_pair(tmp_path / "D", node=PeerNode(idx=3, line=1, identity=identity, sl_port=16000), **changes)
    return sl_launch(pair, tmp_path / "control", tmp_path / "ready", tmp_path / "D", python_path)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    for name in ("certs/sl.key.pem", "certs/sl.cert.pem", "D/volumes/cas/all/ca.pem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "certs"


def test_sw50_an_sl_gets_its_identity_as_options(tmp_path: Path, certs: Path) -> None:
    made = launch(
        tmp_path,
        attribute(IdentityPart.KEY, certs, "sl.key.pem"),
        attribute(IdentityPart.CERT, certs / "sl.cert.pem"),
        attribute(IdentityPart.CAPATH, Path("cas"), "all", "VOLUME"),
        attribute(IdentityPart.SPIFFE_SOCKETPATH, certs),
        limits=Limits(memory=1 << 30, processes=1, open_files=1, run_time_s=1, cpus=1),
    )
    words = " ".join(made.argv)
    assert f"--key {certs}/sl.key.pem --cert {certs}/sl.cert.pem --capath {tmp_path}/D/volumes/cas/all" in words
    assert "--host-ip 127.0.0.1 --sl-fs-port 16000 --sn 127.0.0.1:1 " in words
    assert words.endswith("--exit-when-done")
    assert made.sandbox is None
    # It is our own program, which serves others: only its memory is limited.
    assert made.limits.memory == 1 << 30
    assert made.limits.processes is made.limits.open_files is made.limits.run_time_s is made.limits.cpus is None


def test_sw50_an_identity_by_spiffe_alone_is_not_there_yet(tmp_path: Path, certs: Path) -> None:
    with pytest.raises(NotYetAvailable, match="node 3: SPIFFE arrives in a later release"):
        launch(tmp_path, attribute(IdentityPart.SPIFFE_SOCKETPATH, certs))


@pytest.mark.parametrize(
    ("sub_path", "told"),
    [
        ("none.pem", "there is no 'none.pem' in it"),
        ("../certs/sl.key.pem", "leads out of it"),
        ("/etc/passwd", "leads out"),
    ],
)
def test_sw50_a_part_of_an_identity_that_is_not_there_is_named(
    tmp_path: Path, certs: Path, sub_path: str, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"identity KEY, src '{certs}': .*{told}"):
        find_identity(attribute(IdentityPart.KEY, certs, sub_path), tmp_path)
    with pytest.raises(ConfigurationError, match="it is not on this host"):
        find_identity(attribute(IdentityPart.KEY, tmp_path / "none"), tmp_path)


def test_sw50_an_sl_has_a_small_environment_and_what_the_profile_says(
    tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    monkeypatch.setenv("SWARM_ID_KEY", "of the agent")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    wanted = (("SL_LOG_LEVEL", "DEBUG"), ("LANG", None), ("NO_PROXY", "*"))
    made = launch(tmp_path, attribute(IdentityPart.KEY, certs), python_path="/src", sl_environment=wanted)
    known = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONPATH", "SL_LOG_LEVEL", "NO_PROXY", "https_proxy"}
    assert set(made.env) - set(find_proxies(os.environ)) <= known
    assert made.env["SL_LOG_LEVEL"] == "DEBUG"
    assert made.env["NO_PROXY"] == "*"
    assert made.env["https_proxy"] == "http://proxy:3128"
    assert made.env["PYTHONPATH"] == "/src"
    assert "LANG" not in made.env


def test_sw51_the_signing_key_belongs_to_the_identity_and_the_journal_to_the_pair(tmp_path: Path) -> None:
    places = []
    for name, uid in (("p-1", "spiffe://a.example/n/sl/a"), ("p-2", "spiffe://a.example/n/sl/a"), ("p-3", "other")):
        made = launch(tmp_path, name=name, uid=uid)
        places.append(Path(made.argv[made.argv.index("--data") + 1]))
    keys = [(place / "signing.key").read_bytes() for place in places]
    assert keys[0] == keys[1] != keys[2]
    assert len(set(places)) == 3
    assert (places[0] / "signing.key").stat().st_mode & 0o077 == 0


def test_sw50_a_short_path_stays_with_the_pair_and_a_long_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Path("/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    pair = tmp_path / ("d" * 80)
    assert find_control(pair) is None
    control = make_control(pair)
    try:
        assert control.parent == runtime
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert make_control(pair) == find_control(pair) == control
    finally:
        control.rmdir()


def test_sw50_a_control_directory_that_somebody_else_has_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    pair = tmp_path / ("d" * 80)
    control = make_control(pair)
    control.rmdir()
    control.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match="is not a directory of this user alone"):
            make_control(pair)
    finally:
        control.unlink()
    control.mkdir()
    control.chmod(0o777)
    try:
        with pytest.raises(ConfigurationError, match="is not a directory of this user alone"):
            make_control(pair)
    finally:
        control.rmdir()
