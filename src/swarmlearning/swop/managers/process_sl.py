"""How the PROCESS manager starts a pair's SL: our own program, by the interpreter that runs the agent.

Spec: docs/spec/swop-process.md, SW-50 and SW-51.
"""

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from swarmlearning.errors import ConfigurationError, NotYetAvailable
from swarmlearning.identity.files import SECRET_MODE, write_file
from swarmlearning.identity.signing import SigningKey
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.process_mounts import VOLUMES, find_source
from swarmlearning.swop.managers.process_parts import Launch, ShimLimits
from swarmlearning.swop.managers.recipes import DEFAULT_PATH
from swarmlearning.swop.profile import Attribute, IdentityPart, Variables
from swarmlearning.types import MAX_SOCKET_PATH, NodeId

_OPTIONS: Final = {
    IdentityPart.CERT: "--cert",
    IdentityPart.KEY: "--key",
    IdentityPart.CACERT: "--cacert",
    IdentityPart.CAPATH: "--capath",
}
PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_SOCKET: Final = "sl.sock"


def sl_launch(pair: Pair, control: Path, ready: Path, data: Path, python_path: str) -> Launch:
    """What to start; makes the SL's directories and gives it the signing key that this identity has for good.

    Args:
        pair: whose SL.
        control: directory of its socket.
        ready: file that it writes when programs can meet it.
        data: the agent's data directory.
        python_path: where Swarm Learning lies, if it is not installed.

    Raises:
        ConfigurationError: a part of the identity is not there, or of a kind that is not known.
        IdentityError: the signing key cannot be read or written.
    """
    directory = Path(pair.directory)
    for name in ("sl", "exchange"):
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    _keep_key(data / "process" / "keys", directory / "sl", pair.uid)
    identity = []
    for attribute in pair.node.identity:
        if attribute.part in _OPTIONS:
            identity += [_OPTIONS[attribute.part], str(find_identity(attribute, data / VOLUMES))]
        elif not any(other.part in _OPTIONS for other in pair.node.identity):
            raise NotYetAvailable(
                f"identity of node {pair.node.idx}: SPIFFE arrives in a later release; name PEM files"
            )
    argv = [
        # -P: no file of the working directory that happens to be called like a module of ours.
        *(sys.executable, "-P", "-m", "swarmlearning", "sl"),
        *("--data", str(directory / "sl")),
        *("--control", str(control)),
        *("--exchange-dir", str(directory / "exchange")),
        *("--host-ip", pair.host_ip),
        *("--sl-fs-port", str(pair.node.sl_port)),
        *("--sn", str(pair.sn)),
        *("--ready-file", str(ready)),
        *identity,
        "--exit-when-done",
    ]
    return Launch(
        argv=tuple(argv),
        env=sl_environment(pair.sl_environment, directory / "sl", python_path),
        cwd=str(directory / "sl"),
        log=pair.sl_log,
        log_bytes=pair.limits.log,
        limits=ShimLimits(memory=pair.limits.memory),
    )


def find_identity(attribute: Attribute, volumes: Path) -> Path:
    """The file or directory of a part of an identity.

    Raises:
        ConfigurationError: it is not there, or `subPath` leads out of it.
    """
    what = f"identity {attribute.part.value}, src {attribute.source!r}"
    source = find_source(what, attribute.kind, attribute.source, volumes)
    if not attribute.sub_path:
        return source
    path = (source / attribute.sub_path).absolute()
    if ".." in path.parts or not path.is_relative_to(source):
        raise ConfigurationError(f"{what}: subPath {attribute.sub_path!r} leads out of it")
    if not path.exists():
        raise ConfigurationError(f"{what}: there is no {attribute.sub_path!r} in it")
    return path


def sl_environment(wanted: Variables, home: Path, python_path: str) -> dict[str, str]:
    """A small environment of our own, then what is wanted."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{DEFAULT_PATH}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }
    if python_path:
        environment["PYTHONPATH"] = python_path
    return apply(environment | find_proxies(os.environ), wanted)


def find_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The agent's proxies, in capitals or not."""
    return {name: environ[name] for proxy in PROXIES for name in (proxy, proxy.upper()) if environ.get(name)}


def apply(environment: dict[str, str], wanted: Variables) -> dict[str, str]:
    """Set variables, and remove those that are not to be set."""
    for name, value in wanted:
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def _keep_key(keys: Path, data: Path, uid: NodeId) -> None:
    """Give the SL the signing key of its identity: it stays the same, so that it need not register anew each time.

    The rest of its data is the pair's alone: what it had to do in an earlier training must not be taken up again.
    """
    name = hashlib.sha256(uid.encode()).hexdigest()[:32]
    key = SigningKey.load_or_create(keys / f"{name}.pem")
    if not (data / "signing.key").exists():
        write_file(data / "signing.key", key.pem(), mode=SECRET_MODE)


# --- where program and SL meet --------------------------------------------------------------------------------------


def make_control(directory: Path) -> Path:
    """Make the directory of the SL's socket: the pair's, or a short one where that path is too long for a socket.

    Which one it is is written down: the next agent may have another TMPDIR.

    Raises:
        ConfigurationError: none can be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    control = find_control(directory)
    if control is None:
        control = directory / "control"
        if len(os.fsencode(control / _SOCKET)) > MAX_SOCKET_PATH:
            control = _find_short(directory)
        (directory / "control.path").write_bytes(os.fsencode(control))
    try:
        control.mkdir(mode=0o700, exist_ok=True)
        status = control.lstat()
    except OSError as error:
        raise ConfigurationError(f"control directory {control}: {error.strerror}") from error
    # A place that all users share: somebody else may have made it.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(f"control directory {control} is not a directory of this user alone: remove it")
    return control


def find_control(directory: Path) -> Path | None:
    """The directory of the SL's socket; None if none was made."""
    try:
        return Path(os.fsdecode((directory / "control.path").read_bytes()))
    except FileNotFoundError:
        return None


def _find_short(directory: Path) -> Path:
    name = "swarm-" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108  # checked afterwards
    for place in places:
        path = Path(place) / name
        if place and Path(place).is_dir() and len(os.fsencode(path / _SOCKET)) <= MAX_SOCKET_PATH:
            return path
    raise ConfigurationError(
        f"{directory}: its path is too long for a socket, and there is no shorter place: set TMPDIR to one, or choose "
        "a shorter data directory"
    )
