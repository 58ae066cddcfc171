"""Starting and stopping a local network, with stand-ins for the nodes: real processes that only write ready files.

The real nodes are started in tests/e2e.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarmlearning.errors import Unreachable, WaitExpired
from swarmlearning.local import network as network_module
from swarmlearning.local.genesis import load_genesis
from swarmlearning.local.network import (
    LocalNetwork,
    Site,
    Sl,
    node_environment,
    prepare_workdir,
    program_environment,
)
from swarmlearning.local.process import Command, Process, Reaper
from swarmlearning.types import MAX_SOCKET_PATH, NodeId, TrustDomain

SITES = [Site(domain=TrustDomain("a.example"), sls=2), Site(domain=TrustDomain("b.example"))]

NODE = """
import json, os, signal, sys, time
arguments = sys.argv[1:]
values = dict(zip(arguments[1::2], arguments[2::2]))
def end(*_):
    if "--sentinel" in values:
        time.sleep(0.3)  # a follower takes its time: the sentinel is to wait for it
    with open(EVENTS, "a") as events:
        events.write(f"{arguments[0]} {values['--data']}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
ports = {"sl": 7} if arguments[0] == "sl" else {"api": 8, "p2p": 9}
BEFORE
temporary = values["--ready-file"] + ".new"
with open(temporary, "w") as file:
    json.dump({"pid": os.getpid(), "ports": ports, "arguments": arguments}, file)
os.rename(temporary, values["--ready-file"])
while True:
    time.sleep(60)
"""


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return prepare_workdir(tmp_path / "w")


def use_node(monkeypatch: pytest.MonkeyPatch, workdir: Path, before: str = "") -> Path:
    events = workdir.parent / "events"
    program = NODE.replace("EVENTS", repr(str(events))).replace("BEFORE", before)
    monkeypatch.setattr(network_module, "_SWARM", program)
    return events


def arguments_of(workdir: Path, node: str) -> dict[str, str]:
    arguments = json.loads((workdir / f"{node}.ready").read_text())["arguments"]
    return {"": arguments[0], **dict(zip(arguments[1::2], arguments[2::2], strict=True))}


def test_nodes_are_told_each_others_addresses(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_node(monkeypatch, workdir)

    async def main() -> None:
        async with LocalNetwork(SITES, workdir) as network:
            assert [sn.address.node for sn in network.sns] == [
                "spiffe://a.example/local/sn/sn",
                "spiffe://b.example/local/sn/sn",
            ]
            assert [sl.node for sl in network.sls] == [
                "spiffe://a.example/local/sl/sl-0",
                "spiffe://a.example/local/sl/sl-1",
                "spiffe://b.example/local/sl/sl-0",
            ]
            assert len({sl.control for sl in network.sls}) == 3
        assert load_genesis(network.genesis).sentinel == network.sns[0].address.node

    asyncio.run(main())
    sentinel, follower = arguments_of(workdir, "a.example/sn"), arguments_of(workdir, "b.example/sn")
    assert "--sentinel" not in sentinel
    assert follower["--sentinel"] == "127.0.0.1:9"
    assert arguments_of(workdir, "b.example/sl-0")["--sn"] == "127.0.0.1:8"
    assert sentinel["--sn-api-port"] == sentinel["--sn-p2p-port"] == "0"


def test_sls_end_first_and_the_sentinel_last(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = use_node(monkeypatch, workdir)

    async def main() -> None:
        async with LocalNetwork(SITES, workdir):
            pass

    asyncio.run(main())
    lines = events.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["sl", "sl", "sl", "sn", "sn"]
    assert lines[-1] == f"sn {workdir / 'a.example' / 'sn'}"


def test_keys_are_for_their_owner_only(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_node(monkeypatch, workdir)

    async def main() -> None:
        async with LocalNetwork(SITES[1:], workdir):
            pass

    asyncio.run(main())
    keys = [*workdir.rglob("*key*.pem"), *workdir.rglob("*sign*.pem")]
    assert len(keys) == 5  # CA, SN, SL and operator, and the SN's signing key
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert workdir.stat().st_mode & 0o777 == 0o700


def test_a_node_that_fails_is_named_with_its_last_words(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_node(monkeypatch, workdir, "if 'b.example' in values['--data']: print('no room'); sys.exit('disk full')")
    said: list[str] = []
    started: list[int] = []
    start = Process.start

    async def spy(*arguments: object) -> Process:
        process = await start(*arguments)  # type: ignore[arg-type]  # forwarded as is
        started.append(process.pid)
        return process

    monkeypatch.setattr(Process, "start", spy)

    async def main() -> None:
        with pytest.raises(
            Unreachable, match=r"^sn\.b\.example ended with status 1 \(disk full\); its log is "
        ) as caught:
            async with LocalNetwork(SITES, workdir, say=said.append):
                pytest.fail("the network started without one of its nodes")
        assert "\n" not in str(caught.value)

    asyncio.run(main())
    assert "sn.b.example | no room" in said
    assert len(started) >= 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


def test_a_node_that_never_gets_ready_is_not_waited_for_for_ever(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_node(monkeypatch, workdir, "time.sleep(60)")
    monkeypatch.setattr(network_module, "READY_S", 0.2)

    async def main() -> None:
        with pytest.raises(WaitExpired, match="was not ready within 0 s"):
            async with LocalNetwork(SITES, workdir):
                pytest.fail("the network started without its sentinel")

    asyncio.run(main())


def test_a_node_that_dies_later_is_noticed(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_node(monkeypatch, workdir)

    async def main() -> None:
        async with LocalNetwork(SITES, workdir) as network:
            os.kill(network.sls[2].process.pid, signal.SIGKILL)
            with pytest.raises(Unreachable, match=r"^sl-0\.b\.example ended with status 137"):
                await asyncio.wait_for(network.watch_nodes(), 20)

    asyncio.run(main())


def test_control_sockets_fit_even_where_the_workdir_is_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir = prepare_workdir(tmp_path / ("d" * 60) / ("e" * 60))
    use_node(monkeypatch, workdir)

    async def main() -> Path:
        async with LocalNetwork(SITES[1:], workdir) as network:
            control = network.sls[0].control
            assert len(str(control / "sl.sock")) <= MAX_SOCKET_PATH
            assert control.stat().st_mode & 0o777 == 0o700
            return control

    assert not asyncio.run(main()).parent.exists()  # it is not under the workdir, so it goes with the network


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_node_and_the_status_is_130(workdir: Path, number: signal.Signals) -> None:
    """As a terminal's Ctrl-C, `kill`, or a closed terminal does."""
    events = workdir.parent / "events"
    program = f"""
import asyncio, sys
from pathlib import Path
from swarmlearning.local import network as module
from swarmlearning.local.training import run_until_signal
module._SWARM = {NODE.replace("EVENTS", repr(str(events))).replace("BEFORE", "")!r}
async def main():
    async with module.LocalNetwork([module.Site(domain="a.example", sls=2)], Path(sys.argv[1])) as network:
        print(*(node.process.pid for node in [*network.sns, *network.sls]), flush=True)
        await asyncio.Event().wait()
try:
    run_until_signal(main)
except KeyboardInterrupt:
    sys.exit(130)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(workdir)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        pids = [int(pid) for pid in running.stdout.readline().split()]
        assert len(pids) == 3
        running.send_signal(number)
        assert running.wait(30) == 130
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)
    assert len(events.read_text().splitlines()) == 3  # each was asked, none was killed


def test_programs_are_told_their_own_swarm_and_no_other(workdir: Path) -> None:
    environ = {"PATH": "/bin", "SWARM_LOOPBACK": "TRUE", "SWARM_SN": "x", "SWARM_ID_KEY": "k", "SWARM_DATA": "/d"}
    assert node_environment(environ) == {"PATH": "/bin", "SWARM_DATA": "/d", "PYTHONUNBUFFERED": "1"}

    async def main() -> dict[str, str]:
        process = await Process.start(Command(name="n", argv=("true",), env=environ, log=workdir / "log"), reaper)
        await process.wait()
        sl = Sl(node=NodeId("n"), control=workdir / "3", data=workdir, process=process)
        return program_environment(environ, sl, 3, 4)

    reaper = Reaper()
    try:
        given = asyncio.run(main())
    finally:
        reaper.close()
    assert {name: value for name, value in given.items() if name.startswith("SWARM_")} == {
        "SWARM_DATA": "/d",
        "SWARM_SL": str(workdir / "3"),
        "SWARM_EXCHANGE_DIR": str(workdir / "3"),
        "SWARM_PEER_INDEX": "3",
        "SWARM_PEERS": "4",
    }
