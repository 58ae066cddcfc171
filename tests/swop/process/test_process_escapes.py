"""What a program tries in order to reach the host, its neighbours or its own SL: each attack held, and shown to work.

Every attack ends without an error if it comes through. It is run twice: in the sandbox, where it must not, and without,
where it must: an attack that cannot work proves nothing.
"""

import asyncio
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from process_world import IS_ROOT, log_of, make_pair, open_manager, prepare, private, run_program, shared, wait_for

from swarmlearning.swop.managers.boundary import Part, PartState
from swarmlearning.swop.managers.process_kernel import find_descendants
from swarmlearning.swop.managers.process_parts import Place

READ = "open(sys.argv[1]).read()"

ATTACKS = {
    "to read the host's passwords": (READ, "/etc/shadow"),
    "to read the home of root": ("assert set(os.listdir('/root')) - {'.pyenv', '.local'}", ""),
    "to read another pair's files": (READ, "{other}"),
    "to read its SL's key": (READ, "{key}"),
    "to read another node's private data": (READ, "{neighbour}"),
    "to read the agent's journal": (READ, "{journal}"),
    "to write its private data": ("open(sys.argv[1], 'a').write('x')", "/platform/data/rows"),
    "to replace its SL's socket": (
        "os.rename(os.environ['SWARM_SL'] + '/sl.sock', os.environ['SWARM_SL'] + '/x')",
        "",
    ),
    "to connect to a service on loopback": (
        "socket.create_connection(('127.0.0.1', int(sys.argv[1])), 3)",
        "{port}",
    ),
    "to connect to a socket without a file": (
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1])",
        "{abstract}",
    ),
    "to see another process": ("os.kill(int(sys.argv[1]), 0)", "{pid}"),
    "to read another process's environment": (
        "assert sys.argv[1] in os.listdir('/proc') and 'SECRET' in open(f'/proc/{sys.argv[1]}/environ').read()",
        "{pid}",
    ),
    "to share memory with the host": (
        "c = ctypes.CDLL(None, use_errno=True); assert c.shmget(int(sys.argv[1]), 0, 0) >= 0",
        "{memory}",
    ),
}

AS_ROOT = {
    "to change the kernel's settings": (
        "os.close(os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY))",
        "",
    ),
    "to mount something": (
        "c = ctypes.CDLL(None); assert c.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0; c.umount(b'/tmp')",
        "",
    ),
    "to make a namespace in which it is root": (
        "c = ctypes.CDLL(None); assert c.unshare(0x10000000) == 0",
        "",
    ),
    "to give a file to somebody else": (
        "os.chown(sys.argv[1], 65534, 65534)",
        "/platform/shared/file",
    ),
}

libc = ctypes.CDLL(None)
IPC_CREAT, IPC_RMID = 0o1000, 0

IMPORTS = "import ctypes, os, resource, socket, sys\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What there is to be attacked."""
    places = {
        "other": tmp_path / "D" / "pairs" / "pair-2" / "parts" / "ml" / "spec.json",
        "key": tmp_path / "certs" / "sl.key.pem",
        "neighbour": tmp_path / "node-1" / "rows",
        "journal": tmp_path / "D" / "journal" / "1.json",
        "data": tmp_path / "node-0" / "rows",
        "shared": tmp_path / "shared" / "file",
    }
    for place in places.values():
        place.parent.mkdir(parents=True)
        place.write_text("not to be seen")
    abstract = f"swarm-test-{tmp_path}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as nameless,
        subprocess.Popen(["sleep", "120"], env={"SECRET": "x", "PATH": os.defpath}) as neighbour,
    ):
        nameless.bind("\0" + abstract)
        nameless.listen()
        memory = 0x5A000000 | os.getpid()
        area = libc.shmget(memory, 4096, IPC_CREAT | 0o600)
        assert area >= 0
        yield {name: str(place) for name, place in places.items()} | {
            "port": str(listener.getsockname()[1]),
            "abstract": abstract,
            "pid": str(neighbour.pid),
            "memory": str(memory),
        }
        libc.shmctl(area, IPC_RMID, None)
        neighbour.kill()


def attack(tmp_path: Path, host: dict[str, str], name: str, *, sandbox: bool) -> str:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    program, argument = (ATTACKS | AS_ROOT)[name]
    pair = make_pair(
        tmp_path / "D",
        IMPORTS + program + "\nprint('ESCAPED')",
        node=private(Path(host["data"]).parent),
        body_private_content="/platform/data",
        body_shared_content=(shared(tmp_path / "shared"),),
    )
    command = pair.body.command + " " + argument.format(**host)
    pair = msgspec.structs.replace(pair, body=msgspec.structs.replace(pair.body, command=command))
    control = prepare(pair)
    (control / "sl.sock").touch()
    status = asyncio.run(run_program(manager, pair))
    assert status.state is PartState.EXITED
    said = log_of(pair)
    assert status.exit_status == (0 if "ESCAPED" in said else 1), said
    assert "ESCAPED" in said or "Error" in said
    return said


@pytest.mark.parametrize("name", ATTACKS)
def test_sw44_a_program_tries(name: str, tmp_path: Path, host: dict[str, str]) -> None:
    assert "ESCAPED" not in attack(tmp_path, host, name, sandbox=True)


@pytest.mark.parametrize("name", AS_ROOT)
def test_sw44_a_program_of_an_agent_that_is_root_tries(name: str, tmp_path: Path, host: dict[str, str]) -> None:
    assert "ESCAPED" not in attack(tmp_path, host, name, sandbox=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_works_without_a_sandbox(name: str, tmp_path: Path, host: dict[str, str]) -> None:
    if name in ("to read the host's passwords", "to read the home of root") and not IS_ROOT:
        pytest.skip("only root may do that")
    assert "ESCAPED" in attack(tmp_path, host, name, sandbox=False)


@pytest.mark.skipif(not IS_ROOT, reason="only root may do that")
@pytest.mark.parametrize("name", AS_ROOT)
def test_the_attack_of_root_works_without_a_sandbox(name: str, tmp_path: Path, host: dict[str, str]) -> None:
    assert "ESCAPED" in attack(tmp_path, host, name, sandbox=False)


def test_sw44_there_is_no_network_but_loopback_of_its_own(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    program = "import socket; print([name for _, name in socket.if_nameindex()])"
    pair = make_pair(tmp_path / "D", program)
    asyncio.run(run_program(manager, pair))
    assert log_of(pair) == "['lo']\n"
    online = make_pair(tmp_path / "D", program, name="pair-2", online=True)
    asyncio.run(run_program(manager, online))
    assert log_of(online) == f"{[name for _, name in socket.if_nameindex()]}\n"


def test_sw46_the_agents_data_within_an_interpreters_directory_is_hidden(tmp_path: Path) -> None:
    """A virtual environment in the directory that holds everything: all of it is shown, but for the agent's data."""
    manager = open_manager(tmp_path / "study" / "D", sandbox=True)
    own = manager._images.describe_image("")
    manager._images._own = msgspec.structs.replace(own, paths=(*own.paths, str(tmp_path / "study")))
    (tmp_path / "study" / "D" / "journal").mkdir()
    (tmp_path / "study" / "D" / "journal" / "1.json").write_text("secret")
    (tmp_path / "study" / "seen").write_text("seen")
    study = tmp_path / "study"
    program = f"import os; print(open('{study}/seen').read(), os.listdir('{study}/D'), os.access('{study}/D', os.W_OK))"
    pair = make_pair(tmp_path / "study" / "D", program)
    asyncio.run(run_program(manager, pair))
    assert log_of(pair) == "seen [] False\n"


def read_proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def test_sw45_values_of_variables_stand_on_no_command_line_and_reach_no_program_outside(tmp_path: Path) -> None:
    """LD_PRELOAD, set for the sandbox's own program, would be a way out."""
    manager = open_manager(tmp_path / "D", sandbox=True)
    variables = (("PASSWORD", "tell-nobody"), ("LD_PRELOAD", "/shared/evil.so"), ("HOME", None))
    program = "import os, time; print(os.environ['PASSWORD'], 'HOME' in os.environ, flush=True); time.sleep(60)"
    pair = make_pair(tmp_path / "D", program, ml_environment=variables)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        await wait_for(lambda: "tell-nobody False" in log_of(pair))
        status = Place(Path(pair.directory) / "parts" / "ml").look().status
        assert status is not None
        assert status.program is not None
        everything = [status.program.pid, *find_descendants(status.program.pid)]
        words = {pid: read_proc(pid, "cmdline") for pid in (status.shim.pid, *everything)}
        outside = [pid for pid, line in words.items() if b"bwrap" in line.split(b"\0")[0]]
        assert len(outside) == 2  # the sandbox's program, and its init
        assert not any(b"tell-nobody" in line for line in words.values())
        assert b"evil" not in read_proc(outside[0], "environ")
        assert b"evil" not in read_proc(outside[0], "maps")
        await manager.stop(pair, Part.ML, 0)

    asyncio.run(main())
    spec = Path(pair.directory) / "parts" / "ml" / "spec.json"
    assert b"tell-nobody" in spec.read_bytes()
    assert spec.stat().st_mode & 0o077 == 0
