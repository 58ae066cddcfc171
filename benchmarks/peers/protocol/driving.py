"""What a driver needs besides the parameters: its options, free ports, certificates, processes that log to files.

A driver may leave its processes running when it ends: `run.py` ends everything that has a driver as its ancestor.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import payload

WARM_UP = 1
LAST_WORDS = 250


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure, and where the files belong. `folder` is empty at first."""

    megabytes: float
    peers: int
    rounds: int
    folder: Path

    @property
    def marks(self) -> Path:
        """Where the peers write their marks."""
        return self.folder / "marks"

    @property
    def measured(self) -> int:
        """Rounds to run, the warm-up among them."""
        return self.rounds + WARM_UP


def read_task(description: str) -> Task:
    """The command line of a driver; makes the folder of the marks and says to all processes where it is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    task = Task(
        megabytes=options.megabytes, peers=options.peers, rounds=options.rounds, folder=options.folder.resolve()
    )
    task.marks.mkdir(parents=True)
    os.environ[payload.MARKS] = str(task.marks)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return task


def free_ports(count: int) -> list[int]:
    """Ports that nobody has on loopback now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def tool(name: str) -> str:
    """The command `name` of this environment."""
    return str(Path(sys.executable).parent / name)


@dataclass(frozen=True)
class Started:
    """A process, and the file that has all it says."""

    process: subprocess.Popen[bytes]
    log: Path


def start(command: Sequence[str], log: Path) -> Started:
    """Start a process that writes all it says to `log`; its working directory is the log's."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=log.parent)
    return Started(process, log)


def wait_until(what: str, is_true: Callable[[], bool], watched: Sequence[Started], limit_s: float) -> None:
    """Poll until it is true.

    Raises:
        SystemExit: a watched process ended, or the time is over.
    """
    end = time.monotonic() + limit_s
    while not is_true():
        for started in watched:
            if started.process.poll() is not None:
                said = started.log.read_text(errors="replace")[-LAST_WORDS:]
                raise SystemExit(f"a process ended ({started.process.returncode}) before {what}; it said: {said}")
        if time.monotonic() > end:
            raise SystemExit(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.2)


def wait_for_port(port: int, watched: Sequence[Started], limit_s: float = 60) -> None:
    """Wait until somebody listens on this loopback port."""

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_until(f"port {port}", answers, watched, limit_s)


def wait_for_marks(task: Task, watched: Sequence[Started], limit_s: float = 3600) -> None:
    """Wait until each peer has held as many models as the task asks for (the first ones, and one for each round)."""
    counted = [task.marks / f"{peer}.jsonl" for peer in range(task.peers)]

    def all_there() -> bool:
        return all(path.exists() and len(path.read_text().splitlines()) > task.measured for path in counted)

    wait_until(f"{task.measured + 1} models at each of {task.peers} peers", all_there, watched, limit_s)


def report(task: Task, system: str, version: str, *, tls: str, note: str = "") -> None:
    """Print the driver's line from the marks, without the warm-up."""
    rounds, wrong = payload.read_rounds(task.marks, task.peers)
    payload.report(
        system,
        version,
        megabytes=task.megabytes,
        peers=task.peers,
        tls=tls,
        rounds=rounds[WARM_UP : task.measured],
        note="; ".join(filter(None, (note, wrong))),
    )


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A throw-away authority and a server's certificate for 127.0.0.1 and localhost: paths of CA, certificate, key.

    By the `openssl` command, since not every measured system brings a library for it.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise SystemExit("the `openssl` command is needed for certificates; install it")
    folder.mkdir()
    ca, ca_key, key, request, certificate = (folder / name for name in ("ca.pem", "ca.key", "s.key", "s.csr", "s.pem"))
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    signed = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
    for arguments in (
        ["req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=bench CA"],
        ["req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", request, "-out", certificate, *signed],
    ):
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True, timeout=60)
    return ca, certificate, key
