"""How the product's environment variables reach an SL: docs/reference/environment.md."""

from pathlib import Path
from typing import Any

import pytest

from swarmlearning.cli.main import main
from swarmlearning.clock import system_clock
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.identity.authority import create_ca, issue_certificate
from swarmlearning.sl import node
from swarmlearning.sl.node import SlConfig
from swarmlearning.types import NodeName, Role, TrustDomain


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A command line that is right but for what a test adds; the node itself never starts."""
    authority = create_ca(tmp_path / "ca", "a.example", at_ms=system_clock())
    name = NodeName(domain=TrustDomain("a.example"), network="net", role=Role.SL, name="sl")
    issue_certificate(authority, name, ["127.0.0.1"], tmp_path, at_ms=system_clock(), days=1)
    return [
        *("sl", "--sn", "127.0.0.1:1", "--host-ip", "127.0.0.1"),
        *("--data", str(tmp_path / "data"), "--control", str(tmp_path / "control")),
        *("--cert", str(tmp_path / "sl.cert.pem"), "--key", str(tmp_path / "sl.key.pem")),
        *("--cacert", str(tmp_path / "ca" / "ca.cert.pem")),
    ]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[SlConfig]:
    """The configurations that nodes were made with."""
    configs: list[SlConfig] = []

    class Stopped:
        def __init__(self, config: SlConfig, identity: Any) -> None:
            configs.append(config)
            raise ConfigurationError("stopped here")

    monkeypatch.setattr(node, "SlNode", Stopped)
    return configs


def test_the_products_variables_are_honoured(
    options: list[str], seen: list[SlConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SL_LEADER_FAILURE_BASE_TIMEOUT", "600")
    monkeypatch.setenv("SL_WAIT_FOR_FULL_QUORUM_SECONDS", "45")
    monkeypatch.setenv("SL_MAKE_ME_ADMIN", "False")
    main(options)
    assert (seen[0].lease_ms, seen[0].grace_ms, seen[0].leads) == (600_000, 45_000, False)


def test_without_them_the_training_decides(options: list[str], seen: list[SlConfig]) -> None:
    main(options)
    assert (seen[0].lease_ms, seen[0].grace_ms, seen[0].leads) == (None, None, True)


def test_a_wait_for_nobody_is_a_wait(options: list[str], seen: list[SlConfig]) -> None:
    main([*options, "--full-quorum-wait", "0", "--leader-failure-timeout", "2m", "--no-lead"])
    assert (seen[0].lease_ms, seen[0].grace_ms, seen[0].leads) == (120_000, 0, False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--leader-failure-timeout", "0"),
        ("--leader-failure-timeout", "25h"),
        ("--leader-failure-timeout", "soon"),
        ("--full-quorum-wait", "-1"),
        ("--full-quorum-wait", "2d"),
    ],
)
def test_a_time_that_is_none_is_refused_in_one_line(
    options: list[str], seen: list[SlConfig], capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert main([*options, option, value]) == ExitCode.CONFIGURATION
    assert not seen
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "expected" in error
