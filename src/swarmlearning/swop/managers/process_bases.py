"""What a recipe's FROM means where there are no containers: a Python of this host, and the packages that it has.

Does not run anything of an image: only interpreters that this host's people installed are asked about themselves.
Spec: docs/spec/swop-content.md, SW-63.
"""

import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

import swarmlearning
from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.status import make_printable

PROBE_LIMIT_S: Final = 60.0
"""How long a Python may take to tell about itself: its packages may lie on a slow disk."""

LEAST: Final = (3, 11)
"""Swarm Learning needs at least this version."""

_PYTHON: Final = re.compile(r"(?:docker\.io/)?(?:library/)?python(?::(?P<tag>[A-Za-z0-9._-]+))?")
_TAG: Final = re.compile(r"(?:(?P<version>[0-9]+(?:\.[0-9]+){0,2})(?:-.*)?|[a-z].*)")

_PROBE: Final = """\
import importlib.util, json, os, site, sys
sites = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "executable": sys.executable,
    "prefixes": [sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)],
    "sites": [path for path in sites if os.path.isdir(path)],
    "path": [path for path in sys.path if path.startswith("/") and os.path.isdir(path)],
    "real": os.path.realpath(sys.executable),
    "pip": importlib.util.find_spec("pip") is not None,
    "ours": importlib.util.find_spec("swarmlearning") is not None,
}))
"""


class _Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What a Python says about itself."""

    version: tuple[int, int, int]
    executable: str
    prefixes: tuple[str, ...]
    sites: tuple[str, ...]
    path: tuple[str, ...]
    pip: bool
    ours: bool
    real: str
    """Its binary, links followed."""


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """A Python of this host."""

    executable: str
    version: str
    sites: tuple[str, ...]
    """Directories of its packages, which images see after their own."""
    sources: tuple[str, ...] = ()
    """Directories that come before these: Swarm Learning itself, where it runs from its sources."""
    paths: tuple[str, ...]
    """Directories and files that programs have to be able to read, at the same place."""
    pip: bool = True
    """Whether its packages have pip."""


def find_base(name: str, bases: tuple[tuple[str, str], ...]) -> Base:
    """The Python that stands for an image.

    Args:
        name: as FROM or a task names the image.
        bases: names with `*`, and the Python for each (`--base`).

    Raises:
        ConfigurationError: none does, or it has no Swarm Learning.
    """
    for pattern, executable in bases:
        if _matches(name, pattern):
            return probe_python(executable, f"--base {pattern}={executable}")
    version = _python_version(name)
    if version is None:
        raise ConfigurationError(
            f"no Python of this host stands for the image {make_printable(name)}; expected python:3.X; give the agent "
            f"--base '{make_printable(name)}=/path/to/its/python', or use a host with DOCKER or PODMAN"
        )
    own = own_base()
    if _fits(version, own.version):
        return own
    for candidate in _candidates(version):
        try:
            found = probe_python(candidate, candidate)
        except ConfigurationError:
            continue
        if _fits(version, found.version):
            return found
    wanted = ".".join(map(str, version))
    raise ConfigurationError(
        f"no Python {wanted} with Swarm Learning on this host (the agent's is {own.version}); install one and name it "
        f"by --base '{make_printable(name)}=/path/to/python'"
    )


def is_covered(name: str, bases: tuple[tuple[str, str], ...]) -> bool:
    """Whether a `--base` names a Python for an image."""
    return any(_matches(name, pattern) for pattern, _ in bases)


def own_base() -> Base:
    """The Python that runs us."""
    base = probe_python(sys.executable, "the agent's Python", ours=True)
    source = str(Path(swarmlearning.__file__).resolve().parents[1])
    if source in base.sites:
        return base
    # It was found by PYTHONPATH or in a checkout: programs get the very same.
    return msgspec.structs.replace(base, sources=(source,), paths=_outermost([*base.paths, *_find_packages([source])]))


def probe_python(executable: str, what: str, *, ours: bool = False) -> Base:
    """What a Python says about itself.

    Args:
        executable: its path.
        what: what people call it.
        ours: whether Swarm Learning is known to be there.

    Raises:
        ConfigurationError: it does not run, is too old, or has no Swarm Learning.
    """
    path = Path(executable)
    if not path.is_absolute() or not os.access(path, os.X_OK):
        raise ConfigurationError(f"{what}: expected the path of a Python on this host")
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "PATH") if name in os.environ}
    try:
        done = subprocess.run(
            [executable, "-c", _PROBE], capture_output=True, cwd="/", env=environment, timeout=PROBE_LIMIT_S, check=True
        )
        found = msgspec.json.decode(done.stdout, type=_Probed)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{what}: does not run as a Python: {make_printable(str(error))[:200]}") from error
    version = ".".join(map(str, found.version))
    if found.version[:2] < LEAST:
        raise ConfigurationError(f"{what}: is Python {version}; Swarm Learning needs {LEAST[0]}.{LEAST[1]} or newer")
    if not found.ours and not ours:
        raise ConfigurationError(
            f"{what}: has no Swarm Learning; install it: "
            f"{executable} -m pip install swarmlearning=={swarmlearning.__version__}"
        )
    whole = {"/", "/home", "/root", "/etc", "/var", "/opt", str(Path.home())}
    if wrong := whole & {os.path.normpath(prefix) for prefix in found.prefixes}:
        raise ConfigurationError(
            f"{what}: is installed in {wrong.pop()}, all of which programs would see; use one in a directory of its own"
        )
    return Base(
        executable=found.executable,
        version=version,
        sites=found.sites,
        pip=found.pip,
        paths=_outermost([*found.prefixes, *found.sites, *_find_packages(found.path), found.real]),
    )


def _find_packages(paths: Iterable[str]) -> Iterator[str]:
    """What programs see of the directories in which a Python looks for packages.

    Of one that is no directory of installed packages, a checkout perhaps, Swarm Learning alone.
    """
    for path in paths:
        if Path(path).name in ("site-packages", "dist-packages"):
            yield path
        else:
            yield from (f"{path}/{name}" for name in ("swarmlearning", "swarm"))


def _outermost(paths: list[str]) -> tuple[str, ...]:
    """Paths that are there, without those that are within others."""
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}):
        if path != "/" and Path(path).exists() and not any(f"{path}/".startswith(f"{outer}/") for outer in kept):
            kept.append(path)
    return tuple(kept)


def _matches(name: str, pattern: str) -> bool:
    """Whether an image's name is meant; one without a tag is the `latest`."""
    short = name.removeprefix("docker.io/").removeprefix("library/")
    names = {name, short}
    names |= {f"{each}:latest" for each in names if ":" not in each.rpartition("/")[2] and "@" not in each}
    return any(fnmatch.fnmatchcase(each, pattern) for each in names)


def _python_version(name: str) -> tuple[int, ...] | None:
    """The version that an image `python` is to have; None if it is another image."""
    image = _PYTHON.fullmatch(name)
    tag = _TAG.fullmatch((image["tag"] or "latest") if image else "")
    if image is None or tag is None:
        return None
    version = tuple(map(int, (tag["version"] or "3").split(".")))
    return version if version[0] == 3 else None


def _fits(wanted: tuple[int, ...], version: str) -> bool:
    """Whether the minor version is the wanted one; the third number is for corrections."""
    return tuple(map(int, version.split(".")))[: min(2, len(wanted))] == wanted[:2]


def _candidates(version: tuple[int, ...]) -> Iterator[str]:
    """Pythons on PATH, in its order."""
    names = [f"python3.{version[1]}"] if len(version) > 1 else ["python3"]
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for name in names:
            path = Path(directory) / name
            if path.is_absolute() and os.access(path, os.X_OK):
                yield str(path)
