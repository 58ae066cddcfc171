"""`swarm network` at the command line: four organisations found a network on CometBFT; mistakes are one line each."""

from pathlib import Path

import pytest

from swarmlearning.cli.main import main
from swarmlearning.clock import system_clock
from swarmlearning.errors import ExitCode
from swarmlearning.identity.authority import create_ca

DOMAINS = ("a.example", "b.example", "c.example", "d.example")


def run(*words: object) -> int:
    return main(["network", *map(str, words)])


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CAs and cards of four organisations; paths in commands are relative to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWARM_ID_CERT", raising=False)
    for number, domain in enumerate(DOMAINS, 1):
        create_ca(tmp_path / domain, domain, at_ms=system_clock())
        keys = ["--data", f"{domain}/sn", "--domain", domain, "--p2p", f"192.0.2.{number}", "--out", f"{domain}.json"]
        assert run("keys", *keys) == 0
    return tmp_path


def of(*domains: str) -> list[str]:
    found: list[str] = []
    for domain in domains:
        found += ["--organisation", f"{domain}={domain}/ca.cert.pem", "--validator", f"{domain}.json"]
    return found


CREATE = ("create", "--name", "pilot", "--ledger", "cometbft", "--out", "genesis.bin")


def test_from_keys_to_join(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert run(*CREATE, *of(*DOMAINS)) == 0
    created = capfd.readouterr().out
    assert "validators: 4, of which 1 may fail or cheat" in created
    fingerprint = created.split()[2]
    assert run("show", "genesis.bin") == 0
    assert fingerprint in capfd.readouterr().out
    assert run("join", "--data", "b.example/sn", "--genesis", "genesis.bin") == 0
    joined = capfd.readouterr().out
    assert fingerprint in joined
    assert "b.example joins pilot: its validator is reached at 192.0.2.2:30303" in joined
    assert f"--genesis {base}/b.example/sn/genesis.bin --host-ip 192.0.2.2 --sn-p2p-port 30303" in joined


def test_keys_say_what_is_secret_and_make_the_same_card_again(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card = (base / "a.example.json").read_bytes()
    arguments = ["keys", "--data", "a.example/sn", "--domain", "a.example", "--p2p", "192.0.2.1", "--out"]
    capfd.readouterr()
    assert run(*arguments, "a.example.json") == ExitCode.CONFIGURATION
    assert "--force" in capfd.readouterr().err
    assert run(*arguments, "again.json") == 0
    assert (base / "again.json").read_bytes() == card
    assert f"keys  {base}/a.example/sn/cometbft   keep them secret" in capfd.readouterr().out
    assert (base / "a.example/sn/cometbft/config/priv_validator_key.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*CREATE, *of(*DOMAINS[:3])), "expected at least 4 organisations, which outvote one that fails or cheats"),
        ((*CREATE, *of(*DOMAINS)[:-2]), "no validator card of d.example: give --validator FILE"),
        (
            (*CREATE, *of(*DOMAINS), "--sentinel-cert", "x", "--sign-key", "y"),
            "--sentinel-cert, --sign-key: not with the ledger cometbft, where nobody is the sentinel",
        ),
        ((*CREATE, *of(*DOMAINS), "--validator", "genesis.bin"), "validator card genesis.bin: cannot be read"),
        ((*CREATE, *of(*DOMAINS), "--validator", "a.example/ca.cert.pem"), "is no validator card as `swarm network"),
        (
            ("create", "--name", "pilot", "--out", "genesis.bin", *of("a.example")),
            "--validator: not with the ledger embedded, where no validators vote",
        ),
        (
            ("create", "--name", "pilot", "--out", "genesis.bin", *of("a.example")[:2], "--no-fault-tolerance"),
            "--no-fault-tolerance: not with the ledger embedded",
        ),
        (
            ("create", "--name", "pilot", "--out", "genesis.bin", *of("a.example")[:2]),
            "give the certificate of the SN that orders transactions, with --sentinel-cert",
        ),
        (("join", "--data", "a.example/sn", "--genesis", "genesis.bin"), "genesis genesis.bin: cannot be read"),
        (("keys", "--data", "new", "--domain", "a.example", "--p2p", "0.0.0.0", "--out", "x"), "0.0.0.0:30303"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    base: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    capfd.readouterr()
    assert run(*words) == ExitCode.CONFIGURATION
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (base / "genesis.bin").exists()
    assert not (base / "new").exists()


def test_three_found_a_network_with_open_eyes(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*CREATE, *of(*DOMAINS[:3]), "--no-fault-tolerance") == 0
    assert "validators: 3, none of which may fail or cheat" in capfd.readouterr().out
