"""The engine's own life: starting, attaching, ending (docs/spec/ledger-cometbft.md)."""

import asyncio
import logging
import os
from pathlib import Path

import msgspec
import pytest
from cometbft_support import cometbft, needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, VotingApplication, eventually, free_ports
from ledger_support import GENESIS, NETWORK, START_MS, KvApplication

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, Closed, ConfigurationError, WaitExpired
from swarmlearning.ledger.cometbft.child import Child
from swarmlearning.ledger.cometbft.config import Attach, CometConfig
from swarmlearning.ledger.cometbft.engine import CometLedger
from swarmlearning.ledger.cometbft.home import HOME, write_home
from swarmlearning.types import Code, Endpoint, NodeId

pytestmark = needs_cometbft


def test_b3_a_cometbft_that_somebody_else_starts_is_served_and_asked(tmp_path: Path) -> None:
    abci_port, rpc_port, peer_port = free_ports(3)
    attach = Attach(abci=f"tcp://127.0.0.1:{abci_port}", rpc=f"http://127.0.0.1:{rpc_port}")

    async def work() -> None:
        swarm = CometSwarm(1, tmp_path, attach=attach)
        home = swarm.nodes[0].directory / HOME
        write_home(
            home,
            chain_id=NETWORK,
            genesis_time_ms=START_MS,
            app_state=sha256(GENESIS),
            initial=list(swarm.members.values()),
            peers=[],
            listen=Endpoint(host="127.0.0.1", port=peer_port),
            external=None,
            abci=attach.abci,
            rpc=f"tcp://127.0.0.1:{rpc_port}",
        )
        await swarm.start(0)
        assert swarm.ledger(0).child is None
        assert swarm.ledger(0).problem == "CometBFT is starting"
        with pytest.raises(WaitExpired, match="CometBFT is starting; it may still be ordered"):
            await swarm.ledger(0).submit(b"early=1", timeout_s=0.1)
        child = Child(cometbft(), home, tmp_path / "log")
        await child.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                assert (await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S))[1].code is Code.OK
                assert swarm.log(0) == [b"a=1"]
                await eventually(lambda: not swarm.ledger(0).problem, "all is well")
        finally:
            await swarm.kill(0)
            await child.stop()

    asyncio.run(work())


def test_stopping_ends_the_child_closes_the_file_and_tells_who_waits(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(1, tmp_path) as swarm:
            ledger, task = swarm.ledger(0), swarm.nodes[0].task
            child = ledger.child
            assert child is not None
            pid = child.pid
            assert pid
            waiting = asyncio.ensure_future(ledger.wait_height(100))
            await asyncio.sleep(0)
            await ledger.stop()
            with pytest.raises(Closed):
                await waiting
            with pytest.raises(Closed):
                await ledger.submit(b"a=1", timeout_s=1)
            assert task is not None
            await asyncio.wait_for(task, LIMIT_S)  # ends without an error
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            await ledger.stop()
            await swarm.start(0)  # nothing holds the file or the socket

    asyncio.run(work())


def test_an_engine_that_was_not_started_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        swarm = CometSwarm(1, tmp_path)
        ledger = CometLedger(swarm.nodes[0].config(), KvApplication())
        assert (ledger.height, ledger.problem, dict(ledger.calls), ledger.sentinel) == (0, "", {}, NodeId(""))
        for call in (ledger.run(), ledger.submit(b"a=1", timeout_s=1)):
            with pytest.raises(Closed, match="has not been started"):
                await call
        await ledger.stop()

    asyncio.run(work())


def test_b6_an_application_that_fails_stops_the_engine_and_tells_everyone(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(1, tmp_path) as swarm:
            swarm.nodes[0].app.explode = True
            with pytest.raises(Broken, match="the ledger engine failed: ZeroDivisionError: a bug in the application"):
                await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            task = swarm.nodes[0].task
            assert task is not None
            with pytest.raises(Broken, match="a bug in the application"):
                await asyncio.wait_for(task, LIMIT_S)
            await swarm.kill(0)
            # It was decided, and only not executed.
            await swarm.start(0)
            assert (await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S))[1].code is Code.OK
            assert swarm.log(0) == [b"a=1"]

    asyncio.run(work())


def test_b17_a_state_of_another_copy_is_refused_at_the_start(tmp_path: Path) -> None:
    class Salted(VotingApplication):
        def __init__(self, path: Path | None = None) -> None:
            super().__init__(path)
            if self.state is not None:
                self.state = msgspec.structs.replace(self.state, app_hash=bytes(32))

    async def work() -> None:
        async with CometSwarm(1, tmp_path) as swarm:
            await swarm.kill(0)
            swarm.make_app = Salted
            with pytest.raises(Broken, match=r"after block 1 is 0{16}; .* they are not of one copy"):
                await swarm.start(0)

    asyncio.run(work())


def test_b18_that_the_application_lost_its_state_is_said_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with CometSwarm(1, tmp_path) as swarm:
            await swarm.kill(0)
            (tmp_path / "n0" / "app.msgpack").unlink()
            with caplog.at_level(logging.WARNING, "swarmlearning.ledger"):
                await swarm.start(0)
            assert "the application has lost its state; its 1 blocks are executed again" in caplog.text
            await swarm.until(0, 1)

    asyncio.run(work())


def test_a_failed_start_leaves_nothing_open(tmp_path: Path) -> None:
    async def work() -> None:
        swarm = CometSwarm(1, tmp_path)
        config = swarm.nodes[0].config()
        for changes, why in (
            ({"binary": tmp_path / "none"}, "there is no program"),
            ({"genesis": b"another genesis"}, "give the network's own genesis|is another network's"),
        ):
            ledger = CometLedger(msgspec.structs.replace(config, **changes), KvApplication())
            with pytest.raises(ConfigurationError, match=why):
                await ledger.start()
            await ledger.stop()
        async with swarm:
            assert swarm.ledger(0).height == 1

    asyncio.run(work())


@pytest.mark.parametrize(
    ("changes", "why"), [({"initial": ()}, "names no validators"), ({"retain_blocks": -1}, "expected 0 .* or more")]
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, object], why: str, tmp_path: Path) -> None:
    config = CometSwarm(1, tmp_path).nodes[0].config()
    fields = {**msgspec.structs.asdict(config), **changes}
    with pytest.raises(ConfigurationError, match=why):
        CometConfig(**fields)


def test_a_start_with_another_networks_genesis_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    async def work() -> None:
        swarm = CometSwarm(1, tmp_path)
        node = swarm.nodes[0]
        config = node.config()
        home = node.directory / HOME
        write_home(
            home,
            chain_id=config.network,
            genesis_time_ms=config.genesis_time_ms,
            app_state=sha256(config.genesis),
            initial=config.initial,
            peers=(),
            listen=config.listen,
            external=None,
            abci="unix:///run/a.sock",
            rpc="unix:///run/r.sock",
        )
        before = sorted(node.directory.rglob("*"))
        app = KvApplication()
        ledger = CometLedger(msgspec.structs.replace(config, genesis=b"another genesis"), app)
        with pytest.raises(ConfigurationError, match="another network's"):
            await ledger.start()
        await ledger.stop()
        assert sorted(node.directory.rglob("*")) == before
        assert not app.info().initialised
        async with swarm:
            assert swarm.ledger(0).height == 1

    asyncio.run(work())
