"""Finds the `cometbft` program and sees that it is one that we can talk to. Installs nothing."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarmlearning.errors import ConfigurationError

COMETBFT_VARIABLE: Final = "SWARM_COMETBFT"

INSTALL: Final = "go install github.com/cometbft/cometbft/cmd/cometbft@v0.40.0"
"""What installs the release that this project is tested with; `make cometbft` runs it."""

ACCEPTED: Final = ((0, 38), (0, 39), (0, 40))
"""Releases that speak ABCI 2.0 as `tendermint.abci`. v0.40.0 calls itself 0.39.0."""

_ANSWER_S: Final = 20.0
"""How long `cometbft version` and `go env` may take, seconds; they take milliseconds on a machine that is not busy."""

_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.\d")


def find_binary(given: Path | None = None) -> Path:
    """The `cometbft` to run: `given`, else `SWARM_COMETBFT`, else from `PATH`, else where `go install` puts it.

    What the user named is taken or refused; nothing else is tried in its place.

    Raises:
        ConfigurationError: there is none, it does not run, or it is of another release.
    """
    named = os.environ.get(COMETBFT_VARIABLE)
    if given is not None:
        return _verified(given, "--cometbft")
    if named:
        return _verified(Path(named), COMETBFT_VARIABLE)
    for candidate in _usual_places():
        if candidate.is_file():
            return _verified(candidate, "found")
    raise ConfigurationError(
        f"cometbft is not installed (looked in PATH and in Go's bin directory); run `{INSTALL}`, "
        f"or name it by --cometbft PATH or {COMETBFT_VARIABLE}"
    )


def read_version(binary: Path) -> str:
    """What `cometbft version` says.

    Raises:
        ConfigurationError: it cannot be run, or fails.
    """
    try:
        done = subprocess.run(
            [binary, "version"], capture_output=True, text=True, timeout=_ANSWER_S, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, subprocess.CalledProcessError):
            reason = f"it ends with status {error.returncode}"
        raise ConfigurationError(f"`{binary} version` does not work ({reason}); run `{INSTALL}`") from error
    return done.stdout.strip()[:80]


def _verified(binary: Path, source: str) -> Path:
    path = binary.expanduser().absolute()
    if not path.is_file():
        raise ConfigurationError(f"{source}: there is no program {path}; name a cometbft, or run `{INSTALL}`")
    said = read_version(path)
    match = _VERSION.match(said)
    if match is None or (int(match[1]), int(match[2])) not in ACCEPTED:
        accepted = ", ".join(f"{major}.{minor}" for major, minor in ACCEPTED)
        raise ConfigurationError(f"{path} is version {said!r}, expected one of {accepted}; run `{INSTALL}`")
    return path


def _usual_places() -> Iterator[Path]:
    found = shutil.which("cometbft")
    if found is not None:
        yield Path(found)
    for directory in _go_paths():
        yield directory / "bin" / "cometbft"


def _go_paths() -> list[Path]:
    go = shutil.which("go")
    if go is not None:
        try:
            done = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
        except (OSError, subprocess.SubprocessError):
            pass  # a Go that does not work is no reason not to look where it would have installed
        else:
            return [Path(part) for part in done.stdout.strip().split(os.pathsep) if part]
    return [Path.home() / "go"]
