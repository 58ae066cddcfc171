"""A node may die at any instruction (docs/spec/ledger.md: L-9, L-10)."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import (
    EmbeddedSwarm,
    KvApplication,
    KvState,
    TestNode,
    run_virtual,
    until,
)
from ledger_victim import make_engine

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, SwarmError
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded import CrashPoint
from swarmlearning.ledger.embedded.store import FILE_NAME
from swarmlearning.types import Code

LIMIT_S = 60.0

DURABLE = {CrashPoint.AFTER_STORED, CrashPoint.AFTER_COMMIT, CrashPoint.BEFORE_ACKNOWLEDGE}


@pytest.mark.parametrize("point", CrashPoint)
@pytest.mark.parametrize("height", [1, 3])
def test_a_sentinel_that_dies_recovers_with_all_it_acknowledged(point: CrashPoint, height: int, tmp_path: Path) -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, tmp_path) as swarm:
            node = swarm.nodes[0]
            for i in range(1, height):
                await node.ledger.submit(b"n=%d" % i, timeout_s=LIMIT_S)
            node.crash.point = point
            with pytest.raises(Broken, match="the ledger engine failed: Died"):
                await node.ledger.submit(b"last=1", timeout_s=LIMIT_S)
            assert node.crash.fired is point
            await node.kill()
            on_disk = KvApplication(tmp_path / "node0" / "app.msgpack").info().height
            assert on_disk == (height if point >= CrashPoint.AFTER_COMMIT else height - 1)

            await node.start()
            expected = height if point in DURABLE else height - 1
            assert node.ledger.height == expected
            assert node.app.info().height == expected
            assert (b"last=1" in node.app.log) == (point in DURABLE)
            again = TxResult(code=Code.OK, log=f"at {height}")
            assert await node.ledger.submit(b"last=1", timeout_s=LIMIT_S) == (height, again)
            assert node.app.log.count(b"last=1") == 1
            assert node.ledger.verify() == height

    run_virtual(work())


@pytest.mark.parametrize("point", CrashPoint)
def test_a_replica_that_dies_recovers_and_goes_on(point: CrashPoint, tmp_path: Path) -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2, tmp_path) as swarm:
            sentinel, replica = swarm.nodes
            await replica.ledger.submit(b"a=1", timeout_s=LIMIT_S)
            replica.crash.point = point
            await sentinel.ledger.submit(b"b=1", timeout_s=LIMIT_S)
            await until(lambda: replica.crash.fired is point, "the replica dies")
            await replica.kill()
            await replica.start()
            await replica.ledger.submit(b"c=1", timeout_s=LIMIT_S)
            assert replica.app.log == sentinel.app.log == [b"a=1", b"b=1", b"c=1"]
            assert replica.app.info() == sentinel.app.info()

    run_virtual(work())


class Grown:
    """A sentinel's data directory with five blocks, and copies of the application's state at every height."""

    def __init__(self, directory: Path) -> None:
        self.swarm = EmbeddedSwarm(1, directory)
        self.app_file = directory / "node0" / "app.msgpack"
        self.ledger_file = directory / "node0" / FILE_NAME
        self.states: list[bytes] = []

        async def work() -> None:
            async with self.swarm as swarm:
                await asyncio.sleep(0)
                self.states.append(self.app_file.read_bytes())
                for i in range(5):
                    await swarm.ledger(0).submit(b"n=%d" % i, timeout_s=LIMIT_S)
                    self.states.append(self.app_file.read_bytes())

        run_virtual(work())
        self.log = [b"n=%d" % i for i in range(5)]

    def restart(self) -> TestNode:
        """Start on what lies there now, and stop again; returns the node."""

        async def work() -> None:
            async with self.swarm:
                pass

        run_virtual(work())
        return self.swarm.nodes[0]


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    return Grown(tmp_path)


def test_an_application_one_block_behind_executes_that_block_again(grown: Grown) -> None:
    grown.app_file.write_bytes(grown.states[4])
    node = grown.restart()
    assert node.app.log == grown.log
    assert node.app.calls == ["apply 5", "commit 5"]


def test_an_application_some_blocks_behind_as_after_a_power_cut_executes_them_again(grown: Grown) -> None:
    """L-10."""
    grown.app_file.write_bytes(grown.states[2])
    node = grown.restart()
    assert node.app.log == grown.log
    assert node.app.calls == ["apply 3", "commit 3", "apply 4", "commit 4", "apply 5", "commit 5"]
    assert grown.app_file.read_bytes() == grown.states[5]


def test_an_older_state_that_is_not_the_one_of_its_height_is_refused(grown: Grown) -> None:
    """L-10."""
    state = decode(grown.states[2], KvState)
    grown.app_file.write_bytes(encode(KvState(height=2, app_hash=state.app_hash, log=state.log)))
    assert grown.restart().app.log == grown.log
    grown.app_file.write_bytes(encode(KvState(height=2, app_hash=bytes(32), log=state.log)))
    with pytest.raises(Broken, match="state at height 2 is not the one"):
        grown.restart()


def test_an_application_ahead_of_its_ledger_is_refused(grown: Grown, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    grown.swarm.directory = other
    shorter = EmbeddedSwarm(1, other)
    shorter.key = grown.swarm.key

    async def work() -> None:
        async with shorter as swarm:
            await swarm.ledger(0).submit(b"n=0", timeout_s=LIMIT_S)

    run_virtual(work())
    (other / "node0" / "app.msgpack").write_bytes(grown.states[5])
    with pytest.raises(Broken, match=r"stands at height 5, its ledger only at 1"):
        grown.restart()


@pytest.mark.parametrize("state", ["none", "genesis"])
def test_an_empty_application_is_rebuilt_from_all_blocks(state: str, grown: Grown) -> None:
    grown.app_file.unlink()
    if state == "genesis":
        grown.app_file.write_bytes(grown.states[0])
    node = grown.restart()
    assert node.app.log == grown.log
    assert grown.app_file.read_bytes() == grown.states[5]


def test_a_rebuild_that_dies_half_way_goes_on_at_the_next_start(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    grown.app_file.unlink()
    commit = KvApplication.commit

    def die_at_two(self: KvApplication) -> None:
        commit(self)
        if self.info().height == 2:
            raise InterruptedError("died")

    with monkeypatch.context() as patch:
        patch.setattr(KvApplication, "commit", die_at_two)
        with pytest.raises(InterruptedError):
            grown.restart()
    assert grown.restart().app.log == grown.log


def test_a_ledger_file_that_was_lost_is_not_begun_anew_under_a_living_application(grown: Grown) -> None:
    grown.ledger_file.unlink()
    with pytest.raises(Broken, match="the ledger's file is new"):
        grown.restart()


def test_an_application_with_another_state_than_the_ledger_records_is_refused(grown: Grown) -> None:
    state = KvApplication(grown.app_file).state
    assert state is not None
    grown.app_file.write_bytes(encode(type(state)(height=5, app_hash=bytes(32), log=state.log)))
    with pytest.raises(Broken, match="state at height 5 is not the one"):
        grown.restart()


def test_a_replay_with_another_outcome_is_refused(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    grown.app_file.write_bytes(grown.states[4])
    monkeypatch.setattr(KvApplication, "apply", _salted(KvApplication.apply))
    with pytest.raises(Broken, match="block 5: executing it here gives state"):
        grown.restart()
    assert grown.app_file.read_bytes() == grown.states[4]


def _salted(apply: object) -> object:
    def changed(self: KvApplication, *args: object) -> object:
        self.salt = b"another release"
        return apply(self, *args)  # type: ignore[operator]  # the original method

    return changed


def test_dying_between_the_first_writes_of_a_new_node_leaves_one_that_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = EmbeddedSwarm(1, tmp_path)
    node = swarm.nodes[0]
    init = KvApplication.init

    def die_after(self: KvApplication, genesis: bytes) -> bytes:
        init(self, genesis)
        raise InterruptedError("died")

    async def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(KvApplication, "init", die_after)
            with pytest.raises(InterruptedError):
                await node.start()
        async with swarm:
            assert (await node.ledger.submit(b"a=1", timeout_s=LIMIT_S))[0] == 1

    run_virtual(work())


def test_a_ledger_of_another_sentinels_key_is_refused_at_start(grown: Grown) -> None:
    grown.swarm.key = EmbeddedSwarm(0).key
    with pytest.raises(Broken, match="not the one of this genesis"):
        grown.restart()


Step = tuple[str, int]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit 0"), st.integers(0, 30)),
        st.tuples(st.just("submit 1"), st.integers(0, 30)),
        st.tuples(st.just("crash 0"), st.integers(1, 5)),
        st.tuples(st.just("crash 1"), st.integers(1, 5)),
        st.tuples(st.just("restart 0"), st.just(0)),
        st.tuples(st.just("restart 1"), st.just(0)),
    ),
    max_size=16,
)


@given(steps=STEPS)
@settings(max_examples=25, deadline=None)
def test_whatever_dies_whenever_nothing_acknowledged_is_lost_and_all_agree(steps: list[Step]) -> None:
    async def work(directory: Path) -> None:
        async with EmbeddedSwarm(2, directory) as swarm:
            acknowledged: dict[bytes, int] = {}
            for what, number in steps:
                verb, index = what.split()
                node = swarm.nodes[int(index)]
                if node.task is not None and node.task.done():
                    await node.kill()
                    await node.start()
                if verb == "submit":
                    tx = b"n=%d" % number
                    try:
                        height, _ = await node.ledger.submit(tx, timeout_s=8.0)
                    except SwarmError:
                        continue
                    assert acknowledged.setdefault(tx, height) == height
                elif verb == "crash":
                    node.crash.point = CrashPoint(number)
                else:
                    await node.kill()
                    await node.start()
            for node in swarm.nodes:
                node.crash.point = None
                await node.kill()
                await node.start()
            final, _ = await swarm.ledger(1).submit(b"final=1", timeout_s=LIMIT_S)
            assert swarm.log(0) == swarm.log(1)
            assert len(set(swarm.log(0))) == len(swarm.log(0))
            assert {b"final=1", *acknowledged} <= set(swarm.log(0))
            for node in swarm.nodes:
                assert node.ledger.verify() == final
                assert node.app.state is not None
                where = {tx: height for height, tx in node.app.state.log}
                assert all(where[tx] == height for tx, height in acknowledged.items())

    with tempfile.TemporaryDirectory() as directory:
        run_virtual(work(Path(directory)))


def test_a_process_killed_in_mid_stream_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    victim = Path(__file__).with_name("ledger_victim.py")
    acknowledged: list[bytes] = []
    rng = random.Random(7)
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, str(victim), str(tmp_path), str(life)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        with process, process.stdout as out:
            for _ in range(rng.randrange(20, 60)):
                line = out.readline()
                assert line, "the victim ended by itself"
                acknowledged.append(line.strip())
            process.send_signal(signal.SIGKILL)
            # What it still wrote before it died was acknowledged too; a torn last line was not.
            acknowledged.extend(line.strip() for line in out.read().splitlines(keepends=True) if line.endswith(b"\n"))
        assert process.returncode == -signal.SIGKILL

    async def work() -> None:
        ledger, app = make_engine(tmp_path)
        await ledger.start()
        blocks = [ledger.block(h) for h in range(1, ledger.height + 1)]
        stored = [tx for block in blocks if block is not None for tx in block.txs]
        assert ledger.verify() == ledger.height > 0
        assert set(acknowledged) <= set(stored)
        assert len(stored) == len(set(stored))
        assert app.log == stored
        await ledger.stop()

    asyncio.run(work())
