"""Replicas believe nothing unverified (docs/spec/ledger.md: L-13, L-14, L-15, L-16, L-17)."""

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_support import (
    GENESIS,
    START_MS,
    EmbeddedSwarm,
    Forger,
    ScriptedSentinel,
    TestNode,
    address,
    run_virtual,
    sn,
    until,
)

from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import Broken, Closed, ConfigurationError, VerificationError, WaitExpired
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.backoff import Backoff
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded.wire import BLOCKS, HANDOVERS, SUBMIT, BlocksReply, SubmitReply
from swarmlearning.transport.api import Call, Caller, Frame, Stream
from swarmlearning.transport.memory import NoFaults
from swarmlearning.types import Code, NodeId

LIMIT_S = 60.0


class Calls:
    """A service of calls only."""

    def __init__(self, calls: dict[str, Call]) -> None:
        self.calls = calls
        self.streams: dict[str, Stream] = {}


class Followed:
    """Replica 1 under a sentinel that follows a script. Use as an async context manager."""

    def __init__(self, **changes: object) -> None:
        self.swarm = EmbeddedSwarm(2, **changes)  # type: ignore[arg-type]  # fields of the configuration
        self.sentinel = ScriptedSentinel()
        self.forger = Forger(self.swarm.key)

    async def __aenter__(self) -> TestNode:
        self.swarm.network.serve(sn(0), address(0).endpoint, self.sentinel)
        await self.swarm.start(1)
        return self.swarm.nodes[1]

    async def __aexit__(self, *_: object) -> None:
        await self.swarm.kill(1)
        self.swarm.network.stop(sn(0))


def test_a_right_block_is_adopted() -> None:
    """Without this the tests of wrong blocks would show nothing."""

    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.add([b"a=1"]), world.forger.add([b"a=2"])]
        async with world as node:
            await node.ledger.wait_height(1)
            assert node.app.log == [b"a=1", b"a=2"]
            assert [node.ledger.block(h) for h in (1, 2)] == world.forger.blocks
            assert node.ledger.problem == ""

    run_virtual(work())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"network": "other"}, "is of network 'other'"),
    ({"proposer": sn(1).id}, "was made by"),
    ({"height": 3}, "expected block 2, got block 3"),
    ({"time_ms": START_MS - 1}, "before the previous block's"),
    ({"txs_root": bytes(32)}, "its transactions do not match its header"),
]


@pytest.mark.parametrize(("changes", "problem"), WRONG)
def test_a_signed_block_with_a_wrong_header_is_not_adopted(changes: dict[str, Any], problem: str) -> None:
    async def work() -> None:
        world = Followed()
        first = world.forger.add()
        world.sentinel.blocks = [first, world.forger.block([b"a=2"], **changes)]
        async with world as node:
            await until(lambda: problem in node.ledger.problem, problem)
            assert node.ledger.height == 1
            assert "apply 2" not in node.app.calls

    run_virtual(work())


@pytest.mark.parametrize("txs", [[], [b"x=" + bytes(64 * 1024)], [b"n=%d" % i for i in range(1025)]])
def test_a_signed_block_beyond_the_limits_is_not_adopted(txs: list[bytes]) -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.block(txs)]
        async with world as node:
            await until(lambda: "expected 1-1024, each at most 65536 bytes" in node.ledger.problem, "it is refused")
            assert node.ledger.height == 0

    run_virtual(work())


def test_a_block_signed_with_another_key_is_not_adopted_and_the_right_one_is_afterwards() -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [Forger(SigningKey.create()).add()]
        async with world as node:
            await until(lambda: "signature does not hold" in node.ledger.problem, "it is refused")
            assert node.ledger.height == 0
            world.sentinel.blocks = [world.forger.add()]
            await node.ledger.wait_height(0)
            await until(lambda: node.ledger.problem == "", "the problem is over")

    run_virtual(work())


def test_transactions_changed_on_the_way_are_found() -> None:
    async def work() -> None:
        world = Followed()
        block = world.forger.add([b"a=1"])
        world.sentinel.blocks = [msgspec.structs.replace(block, txs=(b"a=9",))]
        async with world as node:
            await until(lambda: "do not match its header" in node.ledger.problem, "it is refused")
            assert node.app.log == []

    run_virtual(work())


@pytest.mark.parametrize("known_key", [True, False])
def test_a_new_node_with_another_networks_genesis_stops_and_says_what_to_do(known_key: bool) -> None:
    async def work() -> None:
        world = Followed()
        forger = world.forger if known_key else Forger(SigningKey.create())
        world.sentinel.blocks = [forger.add(previous_hash=sha256(b"another genesis"))]
        async with world as node:
            waiting = asyncio.ensure_future(node.ledger.wait_height(0))
            error = await node.ended()
            assert isinstance(error, ConfigurationError)
            assert f"was given the genesis {sha256(GENESIS).hex()[:16]}, but the chain of {sn(0).id} " in str(error)
            assert f"began with {sha256(b'another genesis').hex()[:16]}" in str(error)
            assert "get that network's founding file, delete this SN's data directory" in str(error)
            assert "\n" not in str(error)
            with pytest.raises(ConfigurationError):
                await waiting
            assert node.ledger.height == 0
            assert "accept 1" not in node.app.calls

    run_virtual(work())


@pytest.mark.parametrize("known_key", [True, False])
def test_a_node_that_holds_blocks_is_not_stopped_by_a_first_block_on_another_genesis(known_key: bool) -> None:
    """Whoever answers for the sentinel, and whatever it signs: a healthy replica only goes on asking."""

    async def work() -> None:
        world = Followed()
        first = world.forger.add()
        liar = Forger(world.swarm.key if known_key else SigningKey.create())
        world.sentinel.blocks = [first, liar.block([b"a=2"], previous_hash=sha256(b"another genesis"))]
        async with world as node:
            problem = "expected block 2, got block 1" if known_key else "signature does not hold"
            await until(lambda: problem in node.ledger.problem, "it is refused")
            world.sentinel.blocks = [first, world.forger.add([b"a=2"])]
            await node.ledger.wait_height(1)
            assert node.ledger.height == 2

    run_virtual(work())


def test_a_later_block_does_not_stop_a_new_node() -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.block(height=2, previous_hash=bytes(32))]
        async with world as node:
            await until(lambda: "expected block 1, got block 2" in node.ledger.problem, "it is refused")
            world.sentinel.blocks = [world.forger.add()]
            await node.ledger.wait_height(0)

    run_virtual(work())


def test_a_block_ahead_of_our_clock_waits_until_the_clock_agrees() -> None:
    async def work() -> None:
        world = Followed()
        async with world as node:
            world.sentinel.blocks = [world.forger.add(time_ms=START_MS + 65_000)]
            await asyncio.sleep(59.0)
            assert node.ledger.height == 0
            assert "ahead of this node's clock" in node.ledger.problem
            await asyncio.sleep(2.0)
            assert node.ledger.height == 1

    run_virtual(work())


def test_a_block_up_to_five_seconds_ahead_is_adopted_at_once() -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.add(time_ms=START_MS + 5_000)]
        async with world as node:
            await node.ledger.wait_height(0)
            assert asyncio.get_running_loop().time() < 0.1

    run_virtual(work())


def test_a_replica_whose_execution_gives_another_state_stops_loudly() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2) as swarm:
            sentinel, replica = swarm.nodes
            replica.app.salt = b"another release"
            waiting = asyncio.ensure_future(replica.ledger.wait_height(0))
            await sentinel.ledger.submit(b"a=1", timeout_s=LIMIT_S)
            error = await replica.ended()
            assert isinstance(error, Broken)
            assert "executing it here gives state" in str(error)
            with pytest.raises(Broken):
                await waiting
            with pytest.raises(Broken):
                await replica.ledger.submit(b"b=1", timeout_s=1.0)
            assert replica.ledger.height == 0
            assert "commit 1" not in replica.app.calls

    run_virtual(work())


def test_a_replica_whose_application_refuses_a_signed_block_stops_loudly() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2) as swarm:
            swarm.nodes[1].app.refuse = "smells"
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            error = await swarm.nodes[1].ended()
            assert isinstance(error, Broken)
            assert "refused by the application: smells" in str(error)
            assert "apply 1" not in swarm.nodes[1].app.calls

    run_virtual(work())


def test_garbage_from_the_sentinel_is_survived() -> None:
    class Garbage(NoFaults):
        on = True

        async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
            return b"\xff\x00garbage" if self.on else frame

    async def work() -> None:
        faults = Garbage()
        async with EmbeddedSwarm(2, None, faults) as swarm:
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            await until(lambda: "Reply" in swarm.ledger(1).problem, "garbage arrives")
            assert swarm.ledger(1).height == 0
            faults.on = False
            await swarm.ledger(1).wait_height(0)

    run_virtual(work())


class Counting(NoFaults):
    """Counts requests, and loses what a test wants lost."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.lose_replies_to: set[str] = set()

    async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
        self.requests.append(method)
        return body

    async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
        return None if method in self.lose_replies_to else frame


def test_an_idle_replica_asks_once_per_poll() -> None:
    async def work() -> None:
        faults = Counting()
        async with EmbeddedSwarm(2, None, faults):
            await asyncio.sleep(3600.0)
            assert faults.requests.count(HANDOVERS) == 1
            assert faults.requests.count(BLOCKS) == len(faults.requests) - 1
            assert len(faults.requests) in (181, 182)

    run_virtual(work())


def test_a_sentinel_that_answers_polls_at_once_without_blocks_is_asked_less_often() -> None:
    class Hasty(NoFaults):
        requests = 0

        async def on_request(self, frm: NodeId, to: NodeId, method: str, body: bytes) -> bytes | None:
            self.requests += method == BLOCKS
            return body

    async def work() -> None:
        faults = Hasty()
        world = Followed()
        world.swarm.network.faults = faults

        async def hasty(caller: object, body: bytes) -> bytes:
            return encode(BlocksReply(height=0, blocks=()))

        world.sentinel.calls[BLOCKS] = hasty
        async with world as node:
            await asyncio.sleep(600.0)
            assert faults.requests < 300
            assert "sends no block" in node.ledger.problem

    run_virtual(work())


def test_while_the_sentinel_is_down_submit_waits_and_the_error_says_so() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2) as swarm:
            await swarm.kill(0)
            began = asyncio.get_running_loop().time()
            with pytest.raises(WaitExpired, match=r"within 30 s: the sentinel spiffe.* does not answer"):
                await swarm.ledger(1).submit(b"a=1", timeout_s=30.0)
            assert asyncio.get_running_loop().time() - began == pytest.approx(30.0, abs=0.1)

    run_virtual(work())


def test_a_transaction_submitted_while_the_sentinel_is_down_is_ordered_once_it_is_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2, tmp_path) as swarm:
            await swarm.kill(0)
            pending = asyncio.ensure_future(swarm.ledger(1).submit(b"a=1", timeout_s=120.0))
            await asyncio.sleep(60.0)
            assert not pending.done()
            await swarm.start(0)
            back = asyncio.get_running_loop().time()
            assert (await pending)[0] == 1
            assert asyncio.get_running_loop().time() - back <= 5.1
            assert swarm.log(1) == [b"a=1"]

    run_virtual(work())


def test_a_lost_reply_to_submit_does_not_hide_that_the_block_arrived() -> None:
    async def work() -> None:
        faults = Counting()
        faults.lose_replies_to = {SUBMIT}
        async with EmbeddedSwarm(2, None, faults) as swarm:
            height, result = await swarm.ledger(1).submit(b"a=1", timeout_s=LIMIT_S)
            assert (height, result.code) == (1, Code.OK)
            assert asyncio.get_running_loop().time() < 1.0

    run_virtual(work())


def test_a_submission_is_not_hung_up_on_when_its_block_arrives_before_the_answer() -> None:
    """L-16: the connection serves the next one, which would else have to shake hands anew."""

    async def work() -> None:
        outcomes: list[str] = []
        async with EmbeddedSwarm(2) as swarm:
            submit = swarm.ledger(0).calls[SUBMIT]

            async def slow(caller: Caller, body: bytes) -> bytes:
                try:
                    reply = await submit(caller, body)
                    await asyncio.sleep(1.0)  # the block is faster
                except asyncio.CancelledError:
                    outcomes.append("cancelled")
                    raise
                outcomes.append("answered")
                return reply

            swarm.network.stop(sn(0))
            swarm.network.serve(sn(0), address(0).endpoint, Calls({**swarm.ledger(0).calls, SUBMIT: slow}))
            await asyncio.sleep(30.0)  # the replica has found the sentinel again
            begun_s = asyncio.get_running_loop().time()
            assert (await swarm.ledger(1).submit(b"a=1", timeout_s=LIMIT_S))[0] == 1
            assert asyncio.get_running_loop().time() - begun_s < 0.5
            await asyncio.sleep(2.0)
        assert outcomes == ["answered"]

    run_virtual(work())


def test_submit_does_not_return_before_the_block_is_here() -> None:
    async def work() -> None:
        faults = Counting()
        async with EmbeddedSwarm(2, None, faults) as swarm:
            await asyncio.sleep(1.0)
            faults.lose_replies_to = {BLOCKS}
            with pytest.raises(WaitExpired, match="block 1 holds it but has not arrived here"):
                await swarm.ledger(1).submit(b"a=1", timeout_s=5.0)
            assert swarm.ledger(1).height == 0
            faults.lose_replies_to = set()
            assert (await swarm.ledger(1).submit(b"a=1", timeout_s=LIMIT_S))[0] == 1

    run_virtual(work())


def test_a_sentinel_that_claims_a_block_without_the_transaction_is_found_out() -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.add([b"other=1"])]
        world.sentinel.submit_reply = SubmitReply(height=1, result=TxResult(code=Code.OK))
        async with world as node:
            with pytest.raises(VerificationError, match="block 1 holds the transaction; it does not"):
                await node.ledger.submit(b"a=1", timeout_s=LIMIT_S)

    run_virtual(work())


def test_a_sentinel_that_never_orders_is_named_in_the_error_and_not_asked_in_a_loop() -> None:
    async def work() -> None:
        world = Followed()
        async with world as node:
            with pytest.raises(WaitExpired, match="has not put it into a block yet"):
                await node.ledger.submit(b"a=1", timeout_s=20.0)

    run_virtual(work())


def test_a_sentinel_that_takes_a_transaction_and_says_nothing_is_named_in_the_error() -> None:
    async def work() -> None:
        world = Followed()

        async def frozen(caller: object, body: bytes) -> bytes:
            await asyncio.sleep(3600.0)
            raise AssertionError("nobody waits that long")

        world.sentinel.calls[SUBMIT] = frozen
        async with world as node:
            await asyncio.sleep(1.0)
            with pytest.raises(WaitExpired, match=r"within 5 s: the sentinel spiffe://\S+ has not answered"):
                await node.ledger.submit(b"a=1", timeout_s=5.0)

    run_virtual(work())


def test_the_result_is_the_one_computed_here_whatever_the_sentinel_says() -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.add([b"a=1"])]
        world.sentinel.submit_reply = SubmitReply(height=1, result=TxResult(code=Code.CONFLICT, log="a lie"))
        async with world as node:
            height, result = await node.ledger.submit(b"a=1", timeout_s=LIMIT_S)
            assert (height, result) == (1, TxResult(code=Code.OK, log="at 1"))

    run_virtual(work())


def test_stopping_a_replica_ends_its_waits() -> None:
    async def work() -> None:
        world = Followed()
        async with world as node:
            waits = [asyncio.ensure_future(node.ledger.submit(b"a=1", timeout_s=600.0))]
            waits.append(asyncio.ensure_future(node.ledger.wait_height(0)))  # type: ignore[arg-type]  # any future
            await asyncio.sleep(1.0)
            await node.ledger.stop()
            for wait in waits:
                with pytest.raises(Closed):
                    await wait

    run_virtual(work())


def test_a_sentinel_that_has_lost_blocks_is_told_so() -> None:
    async def work() -> None:
        world = Followed()
        world.sentinel.blocks = [world.forger.add() for _ in range(4)]
        async with world as node:
            await node.ledger.wait_height(3)
            world.sentinel.height = 2
            await until(lambda: "it has lost blocks" in node.ledger.problem, "the loss is seen")
            assert node.ledger.height == 4
            world.sentinel.height = None
            await until(lambda: node.ledger.problem == "", "its blocks are back")

    run_virtual(work())


def test_retries_double_up_to_a_limit_and_are_jittered() -> None:
    backoff = Backoff(0.1, 5.0, random.Random(3))
    waits = [backoff.next_s() for _ in range(12)]
    for i, wait in enumerate(waits):
        full = min(0.1 * 2**i, 5.0)
        assert full / 2 <= wait <= full
    assert len(set(waits)) == len(waits)
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_many_and_large_blocks_reach_a_new_replica_in_bounded_replies() -> None:
    async def work() -> None:
        sizes: list[int] = []

        class Measure(NoFaults):
            async def on_frame(self, frm: NodeId, to: NodeId, method: str, index: int, frame: Frame) -> Frame | None:
                sizes.append(len(frame))
                return frame

        swarm = EmbeddedSwarm(2, None, Measure())
        await swarm.start(0)
        for i in range(60):
            await swarm.ledger(0).submit(b"%d=" % i + bytes(60_000), timeout_s=LIMIT_S)
        await swarm.start(1)
        await swarm.ledger(1).wait_height(59)
        assert swarm.log(1) == swarm.log(0)
        assert max(sizes) <= 900 * 1024 + 100
        assert sum(sizes) > 3_600_000
        for node in (0, 1):
            await swarm.kill(node)

    run_virtual(work())
