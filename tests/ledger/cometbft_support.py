"""The real `cometbft`, for tests that need it: `needs_cometbft` skips them, with the reason, where there is none."""

import socket
from pathlib import Path

import pytest

from swarmlearning.errors import ConfigurationError
from swarmlearning.ledger.cometbft.binary import find_binary


def _find() -> tuple[Path | None, str]:
    try:
        return find_binary(), ""
    except ConfigurationError as error:
        return None, str(error)


BINARY, WHY_NOT = _find()

needs_cometbft = pytest.mark.skipif(BINARY is None, reason=WHY_NOT)


def cometbft() -> Path:
    """The program; only in tests marked with `needs_cometbft`."""
    assert BINARY is not None, WHY_NOT
    return BINARY


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
