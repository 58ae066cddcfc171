"""A Podman service of a test's own, with storage of its own, and an image made of busybox."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import docker

BUSYBOX = Path("/bin/busybox")
APPLETS: tuple[str, ...] = ("sh", "cat", "echo", "sleep", "ls", "id", "mkdir", "touch", "env", "grep", "mv", "rm")
APPLETS += ("seq", "hostname", "tail", "ip", "stat", "test", "true", "false", "kill", "head", "pwd")

SL_PROGRAM = """#!/bin/sh
# Stands in for `swarm sl`: keeps a key, gets ready, and answers whoever says something in the control directory.
shift
while [ $# -gt 0 ]; do
    case $1 in
    --ready-file) ready=$2 ;;
    --control) control=$2 ;;
    --data) data=$2 ;;
    --cert) cert=$2 ;;
    esac
    shift
done
trap 'echo sl ends; exit 0' TERM
echo "sl runs as $(id -u):$(id -g)"
key="$data/signing.key"
if [ -f "$key" ]; then echo "found key $(cat "$key")"; else echo first > "$key"; fi
cat "$cert"
if [ -n "$SL_FAILS" ]; then echo no luck >&2; exit 9; fi
echo '{"pid":1}' > "$ready.part"
mv "$ready.part" "$ready"
while :; do
    if [ -f "$control/hello" ]; then cat "$control/hello"; rm "$control/hello"; echo > "$control/answer"; fi
    sleep 0.1
done
"""


class PodmanEngine:
    """A running service."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "podman.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _environment(self) -> dict[str, str]:
        # By CONTAINER_HOST, which tests set, podman would become a client of another service.
        return {name: value for name, value in os.environ.items() if name != "CONTAINER_HOST"}

    def _command(self) -> list[str]:
        where = ["--root", str(self.directory / "root"), "--runroot", str(self.directory / "run")]
        # crun needs cgroups that are not everywhere; cgroupfs needs no systemd.
        return ["podman", *where, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def start(self) -> None:
        """Start the service, and wait until it answers."""
        with (self.directory / "podman.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), "system", "service", "--time", "0", f"unix://{self.socket}"],
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not self._listens():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the service of Podman does not start: {self.log()}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def client(self) -> docker.APIClient:
        return docker.APIClient(base_url=f"unix://{self.socket}", version="auto", timeout=60)

    def log(self) -> str:
        return (self.directory / "podman.log").read_text(errors="replace")[-500:]

    def stop(self) -> None:
        """End the service; containers go on."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def clear(self) -> None:
        """End the service, its containers and its storage."""
        self.stop()
        for words in (["rm", "--all", "--force", "--time", "0"], ["volume", "rm", "--all", "--force"]):
            subprocess.run(
                [*self._command(), *words], check=False, capture_output=True, timeout=60, env=self._environment
            )
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{self.directory}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=60)
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_image(self, name: str) -> str:
        """An image with busybox, and a script as `swarm`; its id."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as made:
            for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("usr/bin", 0o755)):
                entry = tarfile.TarInfo(directory)
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                made.addfile(entry)
            made.add(BUSYBOX, arcname="bin/busybox")
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                made.addfile(link)
            for path, text in (("usr/bin/swarm", SL_PROGRAM), ("etc/passwd", "root:x:0:0::/root:/bin/sh\n")):
                data = text.encode()
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o755
                made.addfile(entry, io.BytesIO(data))
        archive = self.directory / "image.tar"
        archive.write_bytes(buffer.getvalue())
        done = subprocess.run(
            [*self._command(), "import", "--quiet", str(archive), name],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env=self._environment,
        )
        return "sha256:" + done.stdout.strip().removeprefix("sha256:")


def why_not() -> str:
    """Why no Podman can run here; empty if it can, as far as is known before it is tried."""
    if shutil.which("podman") is None or shutil.which("runc") is None:
        return "podman or runc is not installed"
    if not BUSYBOX.exists():
        return f"no {BUSYBOX} (Debian's busybox-static) to make an image of"
    return "" if os.geteuid() == 0 else "not root: a rootless Podman needs a user's session"
