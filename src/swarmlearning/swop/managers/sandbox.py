"""The sandbox of the PROCESS manager: bubblewrap, which makes namespaces of the kernel without a daemon or a container.

A program sees the system's programs and libraries read-only, its Python, what task and profile mount, its SL's door, a
home and a /tmp of its own, and nothing else of the host: no other file, process, user or, unless it may, network. Keeps
no secrets from whoever administers the host. Spec: docs/spec/swop-process.md, SW-44 to SW-48.
"""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.build_context import remove_tree
from swarmlearning.swop.managers.process_mounts import Mounted
from swarmlearning.swop.matching import is_within

PROGRAM: Final = "bwrap"

HOME: Final = "/home/swarm"
CONTROL: Final = "/run/swarm/control"
"""Where a program in a sandbox meets its SL."""
EXCHANGE: Final = "/run/swarm/exchange"

PROBE_S: Final = 20.0

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu")
"""Programs and libraries, where there are such."""

_ETC: Final = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "OpenCL",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
)
_ETC_ONLINE: Final = ("gai.conf", "host.conf", "hosts", "resolv.conf")
# Of /proc, what belongs to the whole kernel. Without capabilities that is no matter for users; but root keeps the right
# to write to what it owns, and a line in core_pattern is a program that the kernel runs outside of any sandbox.
_READ_ONLY: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/pressure")
_EMPTY: Final = ("/proc/acpi", "/proc/scsi", "/proc/asound")
_UNREADABLE: Final = (
    *("/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list"),
    *("/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/mtrr", "/proc/slabinfo"),
)
_OF_SYSTEM: Final = ("/etc", "/proc", "/sys", "/dev", "/run")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")

# Runs inside; says nothing but what it could see. argv: a file of the host, a port that somebody listens on.
_PROBE: Final = """
import os, socket, sys
try:
    open(sys.argv[1]).close()
    sys.exit("it shows files of the host")
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), 2)
    sys.exit("it leaves the network open")
except OSError:
    pass
try:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    sys.exit("it lets programs change the kernel's settings")
except OSError:
    pass
if [name for name in os.listdir("/proc") if name.isdigit() and int(name) > 99]:
    sys.exit("it shows processes of the host")
print("kept apart")
"""


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox that was tried out on this host."""

    program: str
    version: str
    isolating: tuple[str, ...]
    """Arguments that make its namespaces; those that worked."""
    options: frozenset[str]
    """Which options its program has."""

    def describe(self) -> str:
        """`bubblewrap 0.8.0 with user namespaces`."""
        return f"bubblewrap {self.version}" + (" with user namespaces" if "--unshare-user" in self.isolating else "")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one program sees."""

    interpreters: tuple[str, ...]
    """Directories of the host, at their own places, read-only."""
    hidden: str
    """The agent's data directory, should it lie within one of them."""
    files: str = ""
    """Directory of the image's files, as they are to be seen from `/` on; the program gets a copy."""
    mounts: tuple[Mounted, ...] = ()
    scratch: Path
    """A directory of the host for its home, its /tmp and its working directory."""
    control: str = ""
    """The directory of its SL's socket, on the host; empty: it has no SL."""
    exchange: str = ""
    working_dir: str = "/tmp"  # noqa: S108  # its own one
    env: tuple[tuple[str, str], ...]
    host_name: str | None = None
    online: bool = False
    devices: tuple[str, ...] = ()
    """Files of /dev for GPUs."""
    memory: int | None = None


def make_scratch(view: View) -> None:
    """Make the directories and files that `sandbox_arguments` names.

    Raises:
        OSError: they cannot be made.
        ConfigurationError: the image has files among the system's.
    """
    remove_tree(view.scratch)
    for name in ("home", "tmp", "work", "etc"):
        (view.scratch / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in view_tops(view):
        if f"/{name}" in (*SYSTEM, *_OF_SYSTEM):
            raise ConfigurationError(f"the image has files in /{name}, which here is the host's: copy them elsewhere")
    if view.files:
        shutil.copytree(view.files, view.scratch / "files", symlinks=True)
        if (view.scratch / "files" / "tmp").is_dir():
            shutil.copytree(view.scratch / "files" / "tmp", view.scratch / "tmp", symlinks=True, dirs_exist_ok=True)
    user, group = os.getuid(), os.getgid()
    entries = {"passwd": f"swarm:x:{user}:{group}:swarm:{HOME}:/bin/sh\n", "group": f"swarm:x:{group}:\n"}
    nobody = {"passwd": "nobody:x:65534:65534:nobody:/:/bin/false\n", "group": "nogroup:x:65534:\n"}
    for name, entry in entries.items():
        (view.scratch / "etc" / name).write_text(entry + nobody[name])
    (view.scratch / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def view_tops(view: View) -> tuple[str, ...]:
    """Names of what the image has in `/`."""
    return tuple(sorted(path.name for path in Path(view.files).iterdir())) if view.files else ()


def sandbox_arguments(sandbox: Sandbox, view: View) -> tuple[str, ...]:
    """Arguments of the sandbox's program for what `view` shows."""
    words = [*sandbox.isolating, "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--hostname", view.host_name if view.host_name and _HOST_NAME.fullmatch(view.host_name) else "swarm"]
    if not view.online:
        words.append("--unshare-net")
    words += _show_system(view) + _show_devices(sandbox, view)
    for name in view_tops(view):
        if name != "tmp":
            words += ["--bind", str(view.scratch / "files" / name), f"/{name}"]
    words += ["--bind", str(view.scratch / "tmp"), "/tmp", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108  # its own
    words += ["--bind", str(view.scratch / "home"), HOME]
    words += _show_interpreters(view)  # after these: some lie below /tmp
    if view.control:
        # Read-only: it can connect to the socket there, and cannot put another one in its place.
        words += ["--ro-bind", view.control, CONTROL, "--bind", view.exchange, EXCHANGE]
    words += _show_mounts(view)
    for name, value in view.env:
        words += ["--setenv", name, value]
    # What is not a mount of its own lies in memory, where no limit would count it.
    words += ["--remount-ro", "/", "--chdir", view.working_dir]
    return tuple(words)


def _show_system(view: View) -> list[str]:
    words = []
    for path in SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            words += ["--ro-bind", path, path]
    for name in (*_ETC, *(_ETC_ONLINE if view.online else ())):
        # Many are links into directories that are not shown: what they lead to is shown in their place.
        real = Path("/etc", name).resolve()
        if real.exists():
            words += ["--ro-bind", str(real), f"/etc/{name}"]
    for name in ("passwd", "group", *(() if view.online else ("hosts",))):
        words += ["--ro-bind", str(view.scratch / "etc" / name), f"/etc/{name}"]
    return words


def cover_proc() -> list[str]:
    """Arguments for a /proc of its own, of which what belongs to the whole kernel cannot be changed, or not be seen."""
    words = ["--proc", "/proc"]
    for path in _READ_ONLY:
        if Path(path).exists():
            words += ["--ro-bind", path, path]
    for path in _EMPTY:
        if Path(path).exists():
            words += ["--tmpfs", path, "--remount-ro", path]
    for path in _UNREADABLE:
        if Path(path).exists():
            words += ["--ro-bind", "/dev/null", path]
    return words


def _show_devices(sandbox: Sandbox, view: View) -> list[str]:
    words = cover_proc()
    words += ["--dev", "/dev"]
    if view.memory is not None and "--size" in sandbox.options:
        words += ["--size", str(view.memory)]
    words += ["--tmpfs", "/dev/shm"]  # noqa: S108  # its own
    for path in view.devices:
        words += ["--dev-bind", path, path]
    # How many cores and memory nodes there are; drivers of GPUs look at all of it.
    system = "/sys" if view.devices else "/sys/devices/system"
    if Path(system).is_dir():
        words += ["--ro-bind", system, system]
    return words


def _show_interpreters(view: View) -> list[str]:
    """Directories of interpreters, but for the agent's data should they hold that: keys and others' private data."""
    words = []
    outside = [path for path in view.interpreters if not is_within(path, view.hidden)]
    for path in sorted(outside, key=len):
        words += ["--ro-bind", path, path]
    if any(is_within(view.hidden, path) for path in (*outside, *SYSTEM)):
        words += ["--tmpfs", view.hidden]
    for path in view.interpreters:
        if path not in outside:
            words += ["--ro-bind", path, path]
    if "--tmpfs" in words:
        words += ["--remount-ro", view.hidden]
    return words


def _show_mounts(view: View) -> list[str]:
    words = []
    own = [HOME, "/tmp", *(f"/{name}" for name in view_tops(view))]  # noqa: S108  # its own
    held = [*own, *(mount.target for mount in view.mounts)]
    if not any(is_within(view.working_dir, target) for target in held) and view.working_dir != "/":
        words += ["--bind", str(view.scratch / "work"), view.working_dir]
    for mount in sorted(view.mounts, key=lambda mount: mount.target.count("/")):
        words += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.target]
    if any(is_within(view.working_dir, path) for path in own):
        words += ["--dir", view.working_dir]
    return words


# --- trying it out --------------------------------------------------------------------------------------------------


async def probe(scratch: Path, interpreters: tuple[str, ...], hidden: str) -> Sandbox | str:
    """Try the sandbox out for real; the reason if this host has none that keeps programs apart."""
    return await asyncio.to_thread(_probe, scratch, interpreters, hidden)


def _probe(scratch: Path, interpreters: tuple[str, ...], hidden: str) -> Sandbox | str:
    program = shutil.which(PROGRAM)
    if program is None:
        return "bubblewrap is not installed (the package bubblewrap, program bwrap)"
    try:
        options = frozenset(re.findall(r"--[a-z0-9-]+", _run([program, "--help"])))
        version = (_run([program, "--version"]).split() or ["?"])[-1]
    except (OSError, subprocess.SubprocessError) as error:
        return f"{program} cannot be run: {error}"
    common = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    ways = [["--unshare-user", "--disable-userns", *common], ["--unshare-user", *common]]
    if os.getuid() == 0:
        ways.append(common)  # root needs no namespace of users for the others
    reason = ""
    for way in ways:
        if set(way) - options - {"--unshare-cgroup-try"}:
            continue
        sandbox = Sandbox(
            program=program,
            version=version,
            isolating=tuple(word for word in way if word in options),
            options=options,
        )
        said = _try(sandbox, scratch, interpreters, hidden)
        if said == "kept apart":
            return sandbox
        reason = reason or said
    return f"bubblewrap {version} does not work here: {reason or 'it is too old'}"


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_S, check=True, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


def _try(sandbox: Sandbox, scratch: Path, interpreters: tuple[str, ...], hidden: str) -> str:
    """Run a program in it that tries to see the host; what it says."""
    with contextlib.ExitStack() as stack:
        try:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="probe-", dir=scratch)))
            secret = place / "secret"
            secret.write_text("not to be seen")
            view = View(interpreters=interpreters, hidden=hidden, scratch=place / "scratch", env=())
            make_scratch(view)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = listener.getsockname()[1]
            argv = [sandbox.program, *sandbox_arguments(sandbox, view)]
            argv += ["--", sys.executable, "-I", "-S", "-c", _PROBE, str(secret), str(port)]
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=PROBE_S, check=False, stdin=subprocess.DEVNULL, env={}
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else f"its program ended with status {done.returncode}"
