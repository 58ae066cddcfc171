"""The sentinel orders (docs/spec/ledger.md: L-2, L-3, L-4, L-7, L-8, L-9, L-11, L-12)."""

import asyncio
import random

import pytest
from ledger_support import (
    GENESIS,
    NETWORK,
    START_MS,
    EmbeddedSwarm,
    KvApplication,
    run_virtual,
    sn,
)

from swarmlearning.errors import Broken, Closed, ConfigurationError, WaitExpired
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded import EmbeddedConfig, EmbeddedLedger
from swarmlearning.ledger.embedded.blocks import MAX_TX_BYTES
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code

LIMIT_S = 60.0


def test_what_has_arrived_goes_into_one_block_and_no_block_is_empty() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            ledger = swarm.ledger(0)
            await asyncio.sleep(3600)
            assert ledger.height == 0
            txs = [b"n=%d" % i for i in range(50)]
            outcomes = await asyncio.gather(*(ledger.submit(tx, timeout_s=LIMIT_S) for tx in txs))
            assert {height for height, _ in outcomes} == {1}
            block = ledger.block(1)
            assert block is not None
            assert list(block.txs) == txs
            assert ledger.height == 1
            assert ledger.transactions == 50

    run_virtual(work())


async def submit_at(swarm: EmbeddedSwarm, at_s: float, tx: bytes) -> int:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(at_s - loop.time())
    return (await swarm.ledger(0).submit(tx, timeout_s=LIMIT_S))[0]


def test_l3_a_block_waits_a_moment_for_the_rest_of_a_wave() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, gather_s=0.02) as swarm:
            swarm.nodes[0].app.wave = 3
            heights = await asyncio.gather(*(submit_at(swarm, 10 + 0.005 * i, b"n=%d" % i) for i in range(3)))
            assert set(heights) == {1}
            assert asyncio.get_running_loop().time() == pytest.approx(10.010)  # and no longer than for the last one

    run_virtual(work())


def test_l3_a_wave_that_does_not_come_whole_is_waited_for_no_longer_than_that() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, gather_s=0.02) as swarm:
            swarm.nodes[0].app.wave = 3
            heights = await asyncio.gather(submit_at(swarm, 10, b"a=1"), submit_at(swarm, 10.019, b"b=1"))
            assert set(heights) == {1}
            assert asyncio.get_running_loop().time() == pytest.approx(10.020)

    run_virtual(work())


def test_l3_what_belongs_to_no_wave_waits_for_nothing() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, gather_s=0.02) as swarm:
            assert await submit_at(swarm, 10, b"a=1") == 1
            assert asyncio.get_running_loop().time() == pytest.approx(10.0)

    run_virtual(work())


def test_blocks_keep_to_their_limits_and_what_does_not_fit_comes_next() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, max_block_txs=10, max_block_tx_bytes=1000, max_tx_bytes=400) as swarm:
            ledger = swarm.ledger(0)
            txs = [b"n=%d" % i for i in range(25)] + [b"%d=" % i + bytes(300) for i in range(5)]
            await asyncio.gather(*(ledger.submit(tx, timeout_s=LIMIT_S) for tx in txs))
            blocks = [ledger.block(h) for h in range(1, ledger.height + 1)]
            assert [tx for b in blocks if b is not None for tx in b.txs] == txs
            assert all(b is not None and len(b.txs) <= 10 and sum(map(len, b.txs)) <= 1000 for b in blocks)

    run_virtual(work())


def test_block_time_is_the_clock_but_never_goes_backwards() -> None:
    times = iter([1000, 5000, 3000, 6000])

    async def work() -> None:
        swarm = EmbeddedSwarm(1)
        swarm.clocks[0] = lambda: next(times)
        async with swarm:
            for i in range(4):
                await swarm.ledger(0).submit(b"n=%d" % i, timeout_s=LIMIT_S)
            blocks = [swarm.ledger(0).block(h) for h in range(1, 5)]
            assert [b.header.time_ms for b in blocks if b is not None] == [1000, 5000, 5000, 6000]
            assert swarm.ledger(0).verify() == 4

    run_virtual(work())


def test_a_transaction_whose_message_fails_is_ordered_with_its_code() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            height, result = await swarm.ledger(0).submit(b"!no", timeout_s=LIMIT_S)
            assert (height, result.code, result.log) == (1, Code.CONFLICT, "fails")

    run_virtual(work())


def test_a_transaction_that_is_too_large_is_refused_before_the_application_sees_it() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2) as swarm:
            for node in (0, 1):
                height, result = await swarm.ledger(node).submit(b"a=" + bytes(MAX_TX_BYTES - 1), timeout_s=LIMIT_S)
                assert (height, result.code) == (0, Code.MALFORMED)
            height, _ = await swarm.ledger(1).submit(b"a=" + bytes(MAX_TX_BYTES - 2), timeout_s=LIMIT_S)
            assert height == 1

    run_virtual(work())


def test_the_same_bytes_are_ordered_once_and_everyone_gets_the_first_outcome() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            ledger = swarm.ledger(0)
            together = await asyncio.gather(*(ledger.submit(b"a=1", timeout_s=LIMIT_S) for _ in range(3)))
            await ledger.submit(b"b=1", timeout_s=LIMIT_S)
            later = await ledger.submit(b"a=1", timeout_s=LIMIT_S)
            assert {*together, later} == {together[0]}
            assert later[0] == 1
            assert swarm.log(0) == [b"a=1", b"b=1"]

    run_virtual(work())


def test_a_block_is_stored_then_committed_then_visible() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            node = swarm.nodes[0]
            await node.ledger.submit(b"a=1", timeout_s=LIMIT_S)
            assert node.app.calls == ["init", "accept 1", "apply 1", "commit 1"]

    run_virtual(work())


def test_when_too_many_wait_further_ones_wait_outside_and_are_ordered_in_the_end() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, max_pending_txs=4, max_block_txs=2) as swarm:
            ledger = swarm.ledger(0)
            outcomes = await asyncio.gather(*(ledger.submit(b"n=%d" % i, timeout_s=LIMIT_S) for i in range(20)))
            assert all(height > 0 for height, _ in outcomes)
            assert sorted(swarm.log(0)) == sorted(b"n=%d" % i for i in range(20))
            assert max(height for height, _ in outcomes) == 10

    run_virtual(work())


def test_the_queue_is_bounded_in_bytes_and_room_comes_back() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1, max_pending_bytes=1000, max_tx_bytes=500) as swarm:
            ledger = swarm.ledger(0)
            txs = [b"%d=" % i + bytes(400) for i in range(10)]
            await asyncio.gather(*(ledger.submit(tx, timeout_s=LIMIT_S) for tx in txs))
            assert sorted(swarm.log(0)) == sorted(txs)
            blocks = [ledger.block(h) for h in range(1, ledger.height + 1)]
            assert all(block is not None and sum(map(len, block.txs)) <= 1000 for block in blocks)

    run_virtual(work())


def test_a_full_queue_is_a_wait_that_ends() -> None:
    async def work() -> None:
        swarm = EmbeddedSwarm(1, max_pending_txs=1)
        node = swarm.nodes[0]
        await node.ledger.start()  # nothing runs, so nothing leaves the queue
        first = asyncio.ensure_future(node.ledger.submit(b"a=1", timeout_s=9.0))
        await asyncio.sleep(0)
        with pytest.raises(WaitExpired, match=r"within 5 s: 1 transactions wait"):
            await node.ledger.submit(b"b=1", timeout_s=5.0)
        with pytest.raises(WaitExpired, match=r"within 9 s"):
            await first
        running = asyncio.ensure_future(node.ledger.run())
        assert (await node.ledger.submit(b"a=1", timeout_s=LIMIT_S))[0] == 1
        assert swarm.log(0) == [b"a=1"]
        await node.ledger.stop()
        await running

    run_virtual(work())


def test_whoever_waits_outside_a_full_queue_hears_of_the_end_too() -> None:
    async def work() -> None:
        swarm = EmbeddedSwarm(1, max_pending_txs=1)
        node = swarm.nodes[0]
        await node.ledger.start()
        waits = [asyncio.ensure_future(node.ledger.submit(b"n=%d" % i, timeout_s=600.0)) for i in range(3)]
        await asyncio.sleep(1.0)
        await node.ledger.stop()
        for wait in waits:
            with pytest.raises(Closed):
                await wait
        assert asyncio.get_running_loop().time() < 2.0

    run_virtual(work())


def test_what_the_application_leaves_out_is_answered_rather_than_left_waiting() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            swarm.nodes[0].app.leave_out.add(b"x=1")
            height, result = await swarm.ledger(0).submit(b"x=1", timeout_s=LIMIT_S)
            assert (height, result.code) == (0, Code.CONFLICT)
            assert (await swarm.ledger(0).submit(b"y=1", timeout_s=LIMIT_S))[0] == 1

    run_virtual(work())


def test_an_application_that_fails_at_a_block_stops_the_engine_loudly() -> None:
    async def work() -> None:
        swarm = EmbeddedSwarm(1)
        async with swarm:
            node = swarm.nodes[0]
            node.app.explode = True
            with pytest.raises(Broken, match="ZeroDivisionError: a bug in the application"):
                await node.ledger.submit(b"a=1", timeout_s=LIMIT_S)
            assert isinstance(await node.ended(), Broken)
            for wait in (node.ledger.wait_height(0), node.ledger.submit(b"b=1", timeout_s=1.0), node.ledger.run()):
                with pytest.raises(Broken, match="block 1"):
                    await wait
            assert node.ledger.height == 0
            assert node.ledger.block(1) is None

    run_virtual(work())


def test_a_block_that_replicas_would_refuse_is_never_signed() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            node = swarm.nodes[0]
            node.app.refuse = "smells"
            with pytest.raises(Broken, match="refuses what it proposed itself: smells"):
                await node.ledger.submit(b"a=1", timeout_s=LIMIT_S)
            assert node.ledger.block(1) is None

    run_virtual(work())


def test_proposing_what_was_not_offered_is_a_bug() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            node = swarm.nodes[0]
            node.app.smuggle = [b"smuggled=1"]
            with pytest.raises(Broken, match="expected some of those offered"):
                await node.ledger.submit(b"a=1", timeout_s=LIMIT_S)

    run_virtual(work())


def test_stopping_tells_whoever_waits_and_ends_run_quietly() -> None:
    async def work() -> None:
        swarm = EmbeddedSwarm(1)
        node = swarm.nodes[0]
        with pytest.raises(Closed, match="not been started"):
            await node.ledger.submit(b"a=1", timeout_s=1.0)
        await node.start()
        waiting = asyncio.ensure_future(node.ledger.wait_height(0))
        await asyncio.sleep(0)
        await node.ledger.stop()
        await node.ledger.stop()
        with pytest.raises(Closed):
            await waiting
        assert node.task is not None
        await node.task
        with pytest.raises(Closed):
            await node.ledger.submit(b"a=1", timeout_s=1.0)

    run_virtual(work())


def _config(**changes: object) -> EmbeddedConfig:
    fields: dict[str, object] = {
        "network": NETWORK,
        "genesis": GENESIS,
        "data_dir": None,
        "node": sn(0).id,
        "sentinel": sn(0).id,
        "sentinel_key": bytes(32),
        **changes,
    }
    return EmbeddedConfig(**fields)  # type: ignore[arg-type]  # some are wrong on purpose


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentinel_key": b"short"}, "32 bytes, got 5"),
        ({"max_block_tx_bytes": 1 << 20}, "limits"),
        ({"max_tx_bytes": 0}, "limits"),
        ({"max_tx_bytes": 1 << 20}, "at most 65536"),
        ({"max_block_txs": 100_000}, "max_block_txs"),
        ({"max_pending_bytes": 1}, "room for one transaction"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _config(**changes)


def _engine(config: EmbeddedConfig, key: SigningKey | None) -> EmbeddedLedger:
    client = MemoryNetwork().client(sn(0))
    return EmbeddedLedger(config, KvApplication(), key, client, lambda: START_MS, random.Random(0))


def test_a_sentinel_needs_the_key_of_the_genesis() -> None:
    key = SigningKey.create()
    with pytest.raises(ConfigurationError, match="give the signing key"):
        _engine(_config(sentinel_key=key.public), None)
    with pytest.raises(ConfigurationError, match="give the signing key"):
        run_virtual(_engine(_config(sentinel_key=key.public), SigningKey.create()).start())
    run_virtual(_engine(_config(sentinel_key=key.public), key).start())


def test_a_node_that_the_genesis_does_not_name_is_not_let_order() -> None:
    key = SigningKey.create()
    config = _config(node=sn(1).id, sentinel_key=key.public)
    with pytest.raises(ConfigurationError, match=r"follows the sentinel .*node0 .the genesis.: give --sentinel"):
        run_virtual(_engine(config, key).start())
