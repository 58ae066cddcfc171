"""What has to be visible of the host for a Python interpreter to run: asked of the interpreter itself.

Spec: docs/spec/swop-process.md, SW-45.
"""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

import msgspec

import swarmlearning
from swarmlearning.errors import ConfigurationError

ASK_S: Final = 60.0
"""How long an interpreter may take to answer, on a machine that is busy."""

_ASK: Final = """
import json, os, sys, sysconfig
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix],
    "paths": [path for path in sys.path if path],
    "real": os.path.realpath(sys.executable),
}))
"""
SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"

_SITE: Final = ("site-packages", "dist-packages")
_OURS: Final = ("swarmlearning", "swarm")


class Python(msgspec.Struct, frozen=True, kw_only=True):
    """An interpreter: of an image, or of the host."""

    executable: str
    version: str
    """`3.11`."""
    directories: tuple[str, ...]
    """What it reads at its own places: prefixes and directories of packages."""
    programs: tuple[str, ...]
    """For PATH."""
    python_path: str
    """For PYTHONPATH: where Swarm Learning lies, where the agent itself was told so; else empty."""


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    prefixes: list[str]
    paths: list[str]
    real: str


async def describe_python(executable: Path) -> Python:
    """Ask an interpreter what it needs.

    Raises:
        ConfigurationError: it cannot be run, or its prefix is a directory that must not be shown as a whole.
    """
    return await asyncio.to_thread(_describe, executable)


def _describe(executable: Path) -> Python:
    ours = find_own_path()
    answer = _ask(executable, ours)
    directories = set()
    for prefix in {os.path.normpath(path) for path in answer.prefixes}:
        if prefix in ("/", "/home", "/root", "/etc", "/var", str(Path.home())):
            raise ConfigurationError(
                f"the Python {executable} is installed in {prefix}, all of which would be shown to programs of tasks: "
                "use one in a directory of its own (python -m venv)"
            )
        directories.add(prefix)
    for path in map(os.path.normpath, answer.paths):
        if Path(path).name in _SITE:
            directories.add(path)
        else:
            # Installed for development, say: of such a directory our own packages are shown, and nothing else.
            directories |= {found for name in _OURS if Path(found := f"{path}/{name}").is_dir()}
    if not any(answer.real.startswith(f"{directory}/") for directory in directories):
        directories.add(answer.real)
    return Python(
        executable=str(executable),
        version=answer.version,
        directories=_outermost(directories),
        programs=tuple(dict.fromkeys(f"{prefix}/bin" for prefix in answer.prefixes)),
        python_path=ours,
    )


def find_own_path() -> str:
    """The entry of the agent's PYTHONPATH in which Swarm Learning lies; empty if it is installed."""
    parent = Path(swarmlearning.__file__).resolve().parents[1]
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return next((str(parent) for entry in entries if entry and Path(entry).resolve() == parent), "")


def _ask(executable: Path, ours: str) -> _Answer:
    environment = {"PATH": os.defpath} | ({"PYTHONPATH": ours} if ours else {})
    try:
        done = subprocess.run(
            [str(executable), "-c", _ASK],
            capture_output=True,
            timeout=ASK_S,
            check=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd="/",
        )
        return msgspec.json.decode(done.stdout, type=_Answer)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        said = getattr(error, "stderr", None) or b""
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
        raise ConfigurationError(f"the Python {executable} cannot be used: {last[0]}") from error


def _outermost(paths: set[str]) -> tuple[str, ...]:
    """Paths that lie in no other one, and not in /usr, which is shown anyway."""
    held = paths | {"/usr"}
    return tuple(
        sorted(
            path for path in paths if not any(path.startswith(f"{o}/") for o in held if o != path) and path != "/usr"
        )
    )
