"""The command line that keeps a step of a build apart from the host: bubblewrap, with the network.

Spec: docs/spec/swop-content.md, SW-65.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.swop.managers.sandbox import cover_proc

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS: Final = (
    "alternatives", "ca-certificates", "gai.conf", "group", "host.conf", "hosts", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "passwd", "pip.conf", "pki", "protocols",
    "resolv.conf", "services", "ssl",
)  # fmt: skip
"""What of /etc programs need to find hosts, certificates and libraries; nothing that is secret."""

HOME: Final = "/tmp/home"  # noqa: S108 - in the sandbox /tmp is its own
"""The home directory in the sandbox."""


def wrap(
    argv: Sequence[str],
    *,
    readable: Sequence[str],
    writable: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    network: bool,
) -> list[str]:
    """The command that runs `argv` so that it sees the system and what is named here, and no other processes."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    if network:
        command.append("--share-net")
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    for name in _SETTINGS:
        if (Path("/etc") / name).exists():
            command += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    command += [*cover_proc(), "--dev", "/dev", "--tmpfs", "/tmp", "--dir", HOME]  # noqa: S108 - its own
    for each in readable:
        command += ["--ro-bind", each, each]
    for each in writable:
        command += ["--bind", each, each]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return [*command, "--chdir", directory, "--", *argv]


def find_bubblewrap() -> str | None:
    """Where bubblewrap is; None if it is not installed."""
    return shutil.which("bwrap")
