"""`swarm ci --web` as a process, with the clients of the how-to: curl and Python's requests."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swci_world import Swarm, process_environment
from web_world import HOST, Caller

from swarmlearning.errors import ExitCode
from swarmlearning.types import Role

pytestmark = pytest.mark.e2e

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "use-the-rest-service.md"


class Process:
    """A running `swarm ci --web`."""

    def __init__(self, swarm: Swarm, directory: Path, *arguments: str, role: Role = Role.OPERATOR) -> None:
        self.ready = directory / "ready"
        self.log = directory / "log"
        (directory / "usr").mkdir()
        options = ["--web", "--web-port", "0", "--usr-dir", str(directory / "usr"), "--ready-file", str(self.ready)]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "swarmlearning", "ci", *options, *swarm.options(role), *arguments],
                stdout=log,
                stderr=log,
                env=process_environment(directory / "config"),
            )

    def port(self) -> int:
        """Once it is ready."""
        while not self.ready.exists():  # it has no other way to say so
            with pytest.raises(subprocess.TimeoutExpired):
                self.child.wait(0.05)
        found = json.loads(self.ready.read_bytes())
        assert found["pid"] == self.child.pid
        return int(found["ports"]["web"])

    def end(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return self.child.wait(30)


@pytest.fixture(scope="module")
def process(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    made = Process(swarm, tmp_path_factory.mktemp("web"), "--sn", str(swarm.sn()))
    try:
        yield made
        assert made.end() == 0
    finally:
        made.child.kill()
        made.child.wait()


@pytest.fixture
def desk(swarm: Swarm, tmp_path: Path) -> Path:
    """A directory with Alice's files, named as in the how-to."""
    alice = swarm.identity(name=swarm.fresh("alice"))
    (tmp_path / "pki").mkdir()
    for path, name in ((alice.cert, "alice.cert"), (alice.key, "alice.key"), (alice.cacert, "hospital-a.example.ca")):
        shutil.copy(path, tmp_path / "pki" / f"{name}.pem")
    return tmp_path


def code(kind: str, process: Process) -> str:
    """The how-to's blocks of a kind after "Ask with curl", for this service."""
    text = HOW_TO.read_text().partition("## Ask with curl")[2]
    blocks = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    assert blocks
    return "".join(blocks).replace("https://swci.hospital-a.example:30306", f"https://{HOST}:{process.port()}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_how_tos_curl_commands_work(process: Process, desk: Path) -> None:
    script = re.sub(r"^\$ ", "", code("console", process), flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=desk, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    said = done.stdout
    assert '"heart/2026"{"name":"heart/2026","creator":"a.example"' in said
    assert "Uploaded : " in said
    assert re.search(r'"CONTENT":\[("[^"]+",)*"pull-image"', said)
    assert re.search(r"CREATED_BY : ci-operator@a.example for alice-\d+@a.example", said)
    assert "OrgAndReg: registry.hospital-a.example/heart" in said
    assert "event: change" in said


def test_the_how_tos_python_program_works(process: Process, desk: Path) -> None:
    program = code("python", process)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    height, refused, lines, block = done.stdout.splitlines()
    assert re.fullmatch(r"height \d+", height)
    assert refused.startswith("404 nowhere is no directory below ")
    assert lines.startswith("[")
    assert re.fullmatch(r"up to block \d+", block)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_in_the_middle_of_a_command_and_of_a_stream(
    swarm: Swarm, tmp_path: Path, number: signal.Signals
) -> None:
    made = Process(swarm, tmp_path, "--sn", str(swarm.sn()))
    caller = Caller(f"https://{HOST}:{made.port()}", swarm.identity(name="stopper"))
    stream = caller.pool.request("GET", caller.base + "/v1/events", preload_content=False)
    assert stream.read1(100)
    asking = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, caller.base, caller.identity.cert, caller.identity.key, caller.identity.cacert],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "sent\n"
    assert made.end(number) == 0
    assert asking.communicate(timeout=20)[0] == "broke\n"
    assert b"event: end" in stream.read()
    caller.close()
    log = made.log.read_text()
    assert "REST service ci-operator@a.example ready: https://127.0.0.1:" in log
    assert "stopper@a.example: SLEEP: the client left, or the service stops in" in log
    assert "Traceback" not in log


SLEEPER = """
import socket, ssl, sys
base, cert, key, ca = sys.argv[1:]
host, port = base.removeprefix("https://").split(":")
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
raw = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
for command in (b"PWD", b"SLEEP%20900"):
    raw.sendall(b"POST /exec?cmd=" + command + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
raw.recv(65536)
print("sent", flush=True)
try:
    broke = raw.recv(65536) == b""
except OSError:
    broke = True
print("broke" if broke else "answered")
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--sn", "SN", "--web-port", "TAKEN"], ExitCode.UNREACHABLE, "is taken by another program"),
        (["--sn", "SN", "--host-ip", "192.0.2.1"], ExitCode.CONFIGURATION, "no address of this machine"),
        (["--sn", "SN", "--script", "x"], ExitCode.CONFIGURATION, "--web serves programs: leave out script"),
        (["--sn", "SN", "--usr-dir", "/nowhere"], ExitCode.CONFIGURATION, "/nowhere is no directory"),
        ([], ExitCode.CONFIGURATION, "--web needs --sn HOST:PORT"),
    ],
)
def test_what_it_cannot_be_started_with_is_one_line(
    swarm: Swarm, tmp_path: Path, process: Process, arguments: list[str], status: ExitCode, said: str
) -> None:
    known = {"SN": str(swarm.sn()), "TAKEN": str(process.port())}
    made = Process(swarm, tmp_path, *(known.get(word, word) for word in arguments))
    assert made.child.wait(30) == status
    last = made.log.read_text().splitlines()[-1]
    assert last.startswith("swarm: error: ")
    assert said in last


def test_it_is_started_as_an_operator_only(swarm: Swarm, tmp_path: Path) -> None:
    made = Process(swarm, tmp_path, "--sn", str(swarm.sn()), role=Role.AUDITOR)
    assert made.child.wait(30) == ExitCode.CONFIGURATION
    assert "has the role auditor; the REST service needs the role operator" in made.log.read_text()


def test_the_products_variables_start_it(swarm: Swarm, tmp_path: Path) -> None:
    environment = process_environment(tmp_path / "config") | {
        "SWCI_MODE": "WEB",
        "SWCI_WEB_PORT": "0",
        "USR_DIR": str(tmp_path),
        "SWARM_SN": str(swarm.sn()),
    }
    ready = tmp_path / "ready"
    child = subprocess.Popen(
        [sys.executable, "-m", "swarmlearning", "ci", "--ready-file", str(ready), *swarm.options()],
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        while not ready.exists():
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.05)
    finally:
        child.terminate()
        assert child.wait(30) == 0
