"""Finding the SL of a program, starting one, and what an uncaught error looks like."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlearning.callbacks import launch
from swarmlearning.callbacks.launch import Attach, Launch, Loopback, find_door, open_door
from swarmlearning.callbacks.wire import try_connect
from swarmlearning.errors import ConfigurationError, InvalidName, Unreachable
from swarmlearning.types import Endpoint

IDENTITY = {"SWARM_ID_CERT": "c.pem", "SWARM_ID_KEY": "k.pem"}


def test_a_socket_or_its_directory_names_the_sl(control: Path) -> None:
    found = Attach(socket=control / "sl.sock", exchange=control)
    assert find_door({"SWARM_SL": str(control)}) == found
    assert find_door({"SWARM_SL": str(control / "sl.sock")}) == found
    other = find_door({"SWARM_SL": str(control), "SWARM_EXCHANGE_DIR": "/dev/shm/x"})
    assert other == Attach(socket=control / "sl.sock", exchange=Path("/dev/shm/x"))


def test_an_sn_and_an_identity_let_the_program_start_its_sl(tmp_path: Path) -> None:
    """C-16."""
    environ = {"SWARM_SN": "127.0.0.1:7777", "SWARM_SL_FS_PORT": "7001", "SWARM_SL_DATA": str(tmp_path)} | IDENTITY
    door = find_door(environ)
    assert door == Launch(sn=Endpoint(host="127.0.0.1", port=7777), host="127.0.0.1", port=7001, data=tmp_path)
    assert isinstance(door, Launch)
    command = launch.launch_command(door)
    assert command[:4] == [sys.executable, "-m", "swarmlearning", "sl"]
    options = dict(zip(command[4:-1:2], command[5:-1:2], strict=True))
    assert options == {
        "--sn": "127.0.0.1:7777",
        "--host-ip": "127.0.0.1",
        "--sl-fs-port": "7001",
        "--data": str(tmp_path),
        "--control": str(tmp_path / "control"),
    }
    assert command[-1] == "--exit-when-done"


def test_nothing_set_shows_both_ways() -> None:
    with pytest.raises(ConfigurationError, match=r"SWARM_SL .*SWARM_SN .*SWARM_ID_CERT"):
        find_door({})


def test_an_sn_without_an_identity_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="SWARM_ID_KEY is not"):
        find_door({"SWARM_SN": "sn:30304", "SWARM_ID_CERT": "c.pem"})
    with pytest.raises(ConfigurationError, match="SWARM_ID_CERT and SWARM_ID_KEY are not"):
        find_door({"SWARM_SN": "sn:30304"})


def test_a_control_directory_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ConfigurationError, match=rf"SWARM_SL is {gone}, but there is no directory {gone}:"):
        find_door({"SWARM_SL": str(gone)})
    with pytest.raises(ConfigurationError, match=rf"SWARM_SL is {gone}/sl.sock, but there is no directory {gone}:"):
        find_door({"SWARM_SL": str(gone / "sl.sock")})


def test_bad_addresses_are_refused() -> None:
    with pytest.raises(InvalidName, match="port"):
        find_door({"SWARM_SN": "sn:http"} | IDENTITY)
    with pytest.raises(InvalidName, match="SWARM_SL_FS_PORT is '0'"):
        find_door({"SWARM_SN": "127.0.0.1", "SWARM_SL_FS_PORT": "0"} | IDENTITY)


def test_loopback_wins() -> None:
    assert find_door({"SWARM_LOOPBACK": "True", "SWARM_SL": "/x"}) == Loopback()
    with pytest.raises(ConfigurationError):
        find_door({"SWARM_LOOPBACK": "False"})


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="longer than 103 bytes"):
        try_connect(tmp_path / ("x" * 120))


LISTEN = """
import socket, sys, os, pathlib
control = pathlib.Path(sys.argv[1])
print("listening for", os.environ["SWARM_SN"], flush=True)
s = socket.socket(socket.AF_UNIX); s.bind(str(control / "sl.sock")); s.listen()
(control / "session").write_text(f"{os.getpid()} {os.getsid(0)}")
while True:
    s.accept()[0].close()
"""


@pytest.fixture
def door(control: Path) -> Iterator[Launch]:
    before = len(launch._started)
    yield Launch(sn=Endpoint(host="127.0.0.1", port=1), host="127.0.0.1", port=2, data=control)
    for process in launch._started[before:]:
        process.kill()
        process.wait()
    del launch._started[before:]


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Start `script` where an SL would be started."""
    monkeypatch.setattr(
        launch, "launch_command", lambda door: [sys.executable, "-c", script, str(door.data / "control")]
    )


def test_the_sl_is_a_process_in_a_session_of_its_own_and_is_used_again(
    door: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, LISTEN)
    environ = dict(os.environ) | {"SWARM_SN": "sn.example:1"}
    waited: list[str] = []
    found = open_door(door, environ, waited.append)
    assert found == Attach(socket=door.data / "control" / "sl.sock", exchange=door.data / "control")
    assert "to listen; its log is" in waited[0]
    assert open_door(door, environ, waited.append) == found
    (process,) = launch._started
    while not (text := (door.data / "control" / "session").read_text()):
        pass
    assert text.split() == [str(process.pid), str(process.pid)]
    assert (door.data / "control").stat().st_mode & 0o777 == 0o700
    assert (door.data / "sl.log").read_text() == "listening for sn.example:1\n"


def test_an_sl_that_ends_at_once_shows_the_tail_of_its_log(door: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "print('first'); import sys; sys.exit('certificate has expired')")
    with pytest.raises(Unreachable, match=r"(?s)status 1; .*sl.log ends with:\n    .*certificate has expired"):
        open_door(door, dict(os.environ), lambda _: None)


def test_an_sl_that_never_listens_is_given_up(door: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "import signal; signal.pause()")
    monkeypatch.setattr(launch, "START_WAIT_S", 0.2)
    with pytest.raises(Unreachable, match=r"did not listen at .* ends with: \(nothing\)"):
        open_door(door, dict(os.environ), lambda _: None)
    assert launch._started[-1].wait(10) == -signal.SIGTERM


def run(script: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).parents[2] / "src")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environ | {"PYTHONPATH": source},
        timeout=60,
        check=False,
    )


def test_an_uncaught_error_is_one_line_and_its_exit_code() -> None:
    done = run("""
        from swarmlearning.callbacks.logs import show_errors_plainly
        from swarmlearning.errors import SettingsMismatch
        show_errors_plainly()
        raise SettingsMismatch("sync_frequency is 5 here and 6 there")
    """)
    assert done.returncode == 2
    assert done.stderr == "SwarmCallback: SettingsMismatch: sync_frequency is 5 here and 6 there\n"


def test_other_errors_and_the_users_own_hook_are_left_alone() -> None:
    done = run("""
        import sys
        from swarmlearning.callbacks.logs import show_errors_plainly
        show_errors_plainly()
        raise ValueError("mine")
    """)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    done = run("""
        import sys
        from swarmlearning.callbacks.logs import show_errors_plainly
        from swarmlearning.errors import Refused
        sys.excepthook = lambda *_: print("own hook")
        show_errors_plainly()
        raise Refused("x")
    """)
    assert done.stdout == "own hook\n"


def test_the_core_imports_no_framework() -> None:
    done = run("""
        import sys
        import swarm, swarmlearning.callbacks, swarmlearning.callbacks.loop
        assert not {"torch", "keras", "jax", "tensorflow"} & set(sys.modules)
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("missing", "module", "extra"), [("keras", "swarmlearning.tf", "keras"), ("torch", "swarmlearning.pyt", "torch")]
)
def test_a_missing_framework_is_named_with_the_extra_to_install(missing: str, module: str, extra: str) -> None:
    done = run(f"""
        import sys
        sys.modules[{missing!r}] = None
        import {module}
    """)
    assert done.returncode == 1
    assert f"pip install 'swarmlearning[{extra}]' or, from a clone, '.[{extra}]'" in done.stderr.splitlines()[-1]


def test_a_keras_without_its_backend_says_which_variable_to_set() -> None:
    done = run("""
        import os
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import sys
        sys.modules["tensorflow"] = None
        import swarmlearning.tf
    """)
    assert done.returncode == 1
    assert "KERAS_BACKEND=jax" in done.stderr.splitlines()[-1]
