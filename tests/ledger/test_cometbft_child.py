"""The `cometbft` process under supervision: nothing of it is left behind, and no death of it goes unnoticed."""

import asyncio
import contextlib
import os
import signal
import socket as socket_module
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cometbft_support import cometbft, free_port, needs_cometbft

from swarmlearning.errors import AddressInUse, Broken, Closed, ConfigurationError
from swarmlearning.ledger.cometbft import child as child_module
from swarmlearning.ledger.cometbft.child import Child, Patience
from swarmlearning.ledger.cometbft.home import load_or_create_keys, write_home
from swarmlearning.types import Endpoint, Validator

QUICK = Patience(first_wait_s=0.01, last_wait_s=0.05, max_deaths=4, stop_s=10)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A real home; the application that it names is CometBFT's own, which does nothing."""
    made = tmp_path / "home"
    keys = load_or_create_keys(made)
    own = Validator(key=keys.key, peer=keys.peer, endpoint=Endpoint(host="127.0.0.1", port=free_port()))
    write_home(
        made,
        chain_id="pilot",
        genesis_time_ms=1_700_000_000_000,
        app_state=b"",
        initial=[own],
        peers=[own],
        listen=own.endpoint,
        external=None,
        abci="noop",
        rpc=f"unix://{tmp_path}/rpc.sock",
    )
    return made


def program(tmp_path: Path, script: str) -> Path:
    """Something that is started as `cometbft start --home HOME`."""
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return path


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(happened: Callable[[], bool], what: str, limit_s: float = 30) -> None:
    """Wait for what no event tells: another process's doing."""
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        await asyncio.sleep(0.005)


async def supervised(child: Child, steps: Callable[[], Awaitable[None]]) -> None:
    """Start a child, run `steps` beside its supervision, stop it."""
    await child.start()
    running = asyncio.create_task(child.run())
    try:
        await steps()
    finally:
        await child.stop()
        await asyncio.wait_for(running, 10)


def said(log: Path, text: str) -> Callable[[], bool]:
    return lambda: log.exists() and text in log.read_text()


def test_a_child_runs_until_it_is_stopped_and_its_output_is_in_the_log(tmp_path: Path, home: Path) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        child = Child(program(tmp_path, 'echo "$@"; exec sleep 60'), home, log, patience=QUICK)

        async def steps() -> None:
            await until(said(log, f"start --home {home}\n"), "the program's line")
            pid = child.pid
            assert pid is not None
            assert child.problem == ""
            await child.stop()
            assert not is_running(pid)
            assert child.pid is None

        await supervised(child, steps)
        assert child.restarts == 0
        with pytest.raises(Closed):
            await child.start()

    asyncio.run(main())


def test_a_child_that_dies_is_started_again(tmp_path: Path, home: Path) -> None:
    mark = tmp_path / "mark"

    async def main() -> None:
        script = f"if [ -e {mark} ]; then exec sleep 60; fi; touch {mark}; echo 'E[x] first time'; exit 3"
        child = Child(program(tmp_path, script), home, tmp_path / "log", patience=QUICK)

        async def steps() -> None:
            await until(lambda: child.restarts == 1 and child.pid is not None, "the second start")
            assert child.problem == ""

        await supervised(child, steps)

    asyncio.run(main())


def test_while_it_is_down_the_problem_says_why(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        patience = Patience(first_wait_s=600, last_wait_s=600)
        script = (
            "echo 'ERROR: no more disk'; echo 'E[x] use of closed connection  module=main'; echo 'goroutine 1:'; "
            "kill -9 $$"
        )
        child = Child(program(tmp_path, script), home, tmp_path / "log", patience=patience)

        async def steps() -> None:
            await until(lambda: child.problem != "", "its death")
            assert child.problem == "cometbft ended with status 137, killed by signal 9 (ERROR: no more disk)"
            # Neither `restart` nor `stop` waits for the ten minutes.
            await child.restart("the operator made room")
            await until(lambda: child.restarts == 1, "the restart")

        await supervised(child, steps)

    asyncio.run(main())


def test_that_a_peer_is_away_is_not_told_as_the_reason_of_a_death(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        script = "echo 'E[x] no space left  module=state'; echo 'E[y] Error dialing peer  module=p2p'; exit 1"
        child = Child(program(tmp_path, script), home, tmp_path / "log", patience=Patience(first_wait_s=600))

        async def steps() -> None:
            await until(lambda: child.problem != "", "its death")
            assert child.problem == "cometbft ended with status 1 (E[x] no space left  module=state)"

        await supervised(child, steps)

    asyncio.run(main())


def test_a_child_that_keeps_dying_is_given_up_with_its_telling_line(tmp_path: Path, home: Path) -> None:
    starts = tmp_path / "starts"

    async def main() -> None:
        script = f"echo >> {starts}; printf '\\033[31mpanic: the disk is damaged\\033[0m\\n'; echo goroutine; exit 2"
        child = Child(program(tmp_path, script), home, tmp_path / "log", patience=QUICK)
        await child.start()
        with pytest.raises(Broken) as caught:
            await asyncio.wait_for(child.run(), 30)
        await child.stop()
        expected = f"cometbft died 4 times in a row, last: panic: the disk is damaged; its log is {tmp_path / 'log'}"
        assert str(caught.value) == expected

    asyncio.run(main())
    assert starts.read_text() == "\n" * 4


def test_one_that_lived_long_enough_before_it_died_is_never_given_up(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        patience = Patience(first_wait_s=0.001, last_wait_s=0.001, steady_s=0, max_deaths=2)
        child = Child(program(tmp_path, "exit 2"), home, tmp_path / "log", patience=patience)

        async def steps() -> None:
            await until(lambda: child.restarts > 5, "six starts")

        await supervised(child, steps)

    asyncio.run(main())


def test_a_restart_on_purpose_is_no_death(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        child = Child(program(tmp_path, "exec sleep 60"), home, tmp_path / "log", patience=QUICK)

        async def steps() -> None:
            for number in range(QUICK.max_deaths + 1):
                before = child.pid
                assert before is not None
                await child.restart("another validator")
                assert child.pid not in (None, before)
                assert not is_running(before)
                assert child.restarts == number + 1
                assert child.problem == ""

        await supervised(child, steps)

    asyncio.run(main())


def test_one_that_does_not_listen_is_killed(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        log = tmp_path / "log"
        script = "trap '' TERM; echo deaf; while :; do sleep 60; done"
        child = Child(program(tmp_path, script), home, log, patience=Patience(stop_s=0.2))

        async def steps() -> None:
            await until(said(log, "deaf"), "the trap")
            pid = child.pid
            assert pid is not None
            await child.stop()
            assert not is_running(pid)

        await supervised(child, steps)

    asyncio.run(main())


def test_no_setting_comes_from_the_environment(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CMT_RPC_LADDR=tcp://0.0.0.0:26657` would open the RPC to everybody, `CMTHOME` run another network's home."""
    for name in ("CMT_RPC_LADDR", "CMTHOME", "TMHOME", "CMT_P2P_PEX", "SECRET"):
        monkeypatch.setenv(name, "x")
    log = tmp_path / "log"

    async def main() -> None:
        child = Child(program(tmp_path, "env; echo done; exec sleep 60"), home, log, patience=QUICK)

        async def steps() -> None:
            await until(said(log, "done"), "its environment")

        await supervised(child, steps)

    asyncio.run(main())
    text = log.read_text()
    assert "PATH=" in text
    assert not [name for name in ("CMT", "TMHOME", "SECRET") if name in text]


def test_the_log_is_bounded(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MAX_LOG_BYTES", 10_000)
    log = tmp_path / "log"

    async def main() -> None:
        script = "i=0; while [ $i -lt 4000 ]; do echo 0123456789; i=$((i+1)); done; echo all; exec sleep 60"
        child = Child(program(tmp_path, script), home, log, patience=QUICK)

        async def steps() -> None:
            await until(lambda: any("all" in path.read_text() for path in tmp_path.glob("log*")), "its last line")

        await supervised(child, steps)

    asyncio.run(main())
    sizes = [path.stat().st_size for path in tmp_path.glob("log*")]
    assert len(sizes) == 2
    assert all(size <= 10_000 + 65536 for size in sizes)
    assert sum(sizes) < 4000 * 11


def test_a_program_or_a_log_that_cannot_be_used_is_one_line(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="cannot write the log"):
            await Child(program(tmp_path, "exit"), home, tmp_path / "no" / "log").start()
        with pytest.raises(ConfigurationError, match=r"config\.toml cannot be read"):
            await Child(program(tmp_path, "exit"), tmp_path, tmp_path / "log").start()
        child = Child(tmp_path / "missing", home, tmp_path / "log", patience=QUICK)
        await child.start()
        with pytest.raises(Broken, match=r"missing cannot be started: No such file"):
            await asyncio.wait_for(child.run(), 30)
        await child.stop()

    asyncio.run(main())


PARENT = """
import asyncio, sys
from pathlib import Path
from swarmlearning.ledger.cometbft.child import Child

async def main():
    child = Child(*map(Path, sys.argv[1:]))
    await child.start()
    print(child.pid, flush=True)
    await child.run()

asyncio.run(main())
"""


def killed_parent(binary: Path, home: Path, log: Path, is_ready: Callable[[], bool]) -> int:
    """Have another process start a child, kill it with SIGKILL, and return the child's process id."""
    argv = [sys.executable, "-c", PARENT, str(binary), str(home), str(log)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        asyncio.run(until(is_ready, "the child"))
        assert is_running(pid)
        parent.kill()
    return pid


def test_a_child_does_not_outlive_its_parent_even_one_that_is_killed(tmp_path: Path, home: Path) -> None:
    log = tmp_path / "log"
    deaf = program(tmp_path, "trap '' TERM HUP PIPE; echo deaf; while :; do sleep 0.1; done")
    pid = killed_parent(deaf, home, log, said(log, "deaf"))
    try:
        asyncio.run(until(lambda: not is_running(pid), "the child's end", 10))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- with the real program ---------------------------------------------------------------------------------------


@needs_cometbft
def test_cometbft_does_not_outlive_its_parent(tmp_path: Path, home: Path) -> None:
    socket = tmp_path / "rpc.sock"
    pid = killed_parent(cometbft(), home, tmp_path / "log", socket.is_socket)
    asyncio.run(until(lambda: not is_running(pid), "cometbft's end", 10))


@needs_cometbft
def test_killed_cometbft_comes_back_and_serves_again_where_its_socket_was_left(tmp_path: Path, home: Path) -> None:
    socket = tmp_path / "rpc.sock"

    def is_served() -> bool:
        # The file is there a moment before anybody listens.
        with contextlib.suppress(OSError), socket_module.socket(socket_module.AF_UNIX) as probe:
            probe.connect(str(socket))
            return True
        return False

    async def serves() -> None:
        await until(is_served, "somebody to listen at the RPC socket")

    async def main() -> None:
        child = Child(cometbft(), home, tmp_path / "log", patience=QUICK)

        async def steps() -> None:
            await serves()
            first = child.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: child.restarts == 1 and child.pid is not None, "the second start")
            await serves()
            assert child.problem == ""
            before = time.monotonic()
            await child.stop()
            assert time.monotonic() - before < QUICK.stop_s, "it had to be killed"

        await supervised(child, steps)

    asyncio.run(main())


@needs_cometbft
def test_a_taken_port_is_told_as_that(tmp_path: Path, home: Path) -> None:
    async def main() -> None:
        config = tomllib.loads((home / "config" / "config.toml").read_text())
        port = int(config["p2p"]["laddr"].rpartition(":")[2])
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
        async with server:
            child = Child(cometbft(), home, tmp_path / "log", patience=QUICK)
            await child.start()
            with pytest.raises(AddressInUse, match="address already in use"):
                await asyncio.wait_for(child.run(), 60)
            await child.stop()

    asyncio.run(main())
