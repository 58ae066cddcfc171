"""What a node answers, and to whom (docs/spec/ledger.md: L-21, L-22, L-23)."""

import asyncio
from typing import Any

import pytest
from ledger_support import EmbeddedSwarm, caller, run_virtual

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Closed, DecodeError, Refused
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded import Block
from swarmlearning.ledger.embedded.service import MAX_WAITING
from swarmlearning.ledger.embedded.wire import (
    BLOCKS,
    HANDOVERS,
    HEADER,
    SUBMIT,
    BlocksReply,
    BlocksRequest,
    HandoversRequest,
    HeaderReply,
    HeaderRequest,
    SubmitReply,
    SubmitRequest,
)
from swarmlearning.types import Code, Role

LIMIT_S = 60.0

REQUESTS: dict[str, Any] = {
    BLOCKS: BlocksRequest(from_height=1, wait_ms=0),
    SUBMIT: SubmitRequest(tx=b"a=1", wait_ms=1000),
    HEADER: HeaderRequest(height=1),
    HANDOVERS: HandoversRequest(above=0),
}


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize("role", [role for role in Role if role is not Role.SN])
def test_only_sn_nodes_are_answered(method: str, role: Role) -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            call = swarm.ledger(0).calls[method]
            with pytest.raises(Refused, match="only SN nodes of network testnet") as caught:
                await call(caller(1, role=role), encode(REQUESTS[method]))
            assert caught.value.code == "not-allowed"
            with pytest.raises(Refused, match="only SN nodes of network testnet"):
                await call(caller(1, network="other"), encode(REQUESTS[method]))
            await call(caller(1), encode(REQUESTS[method]))

    run_virtual(work())


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", bytes(200_000)])
def test_a_malformed_request_is_refused(method: str, body: bytes) -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            with pytest.raises(DecodeError):
                await swarm.ledger(0).calls[method](caller(1), body)

    run_virtual(work())


def test_numbers_out_of_range_are_refused() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            calls = swarm.ledger(0).calls
            for request in (
                BlocksRequest(from_height=0, wait_ms=0),
                BlocksRequest(from_height=2**63, wait_ms=0),
                BlocksRequest(from_height=1, wait_ms=30_001),
                BlocksRequest(from_height=1, wait_ms=-1),
            ):
                with pytest.raises(DecodeError):
                    await calls[BLOCKS](caller(1), encode(request))
            for above in (-1, 2**31 + 1):
                with pytest.raises(DecodeError):
                    await calls[HANDOVERS](caller(1), encode(HandoversRequest(above=above)))

    run_virtual(work())


def test_a_poll_is_answered_when_a_block_comes_or_the_wait_is_over() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            calls, loop = swarm.ledger(0).calls, asyncio.get_running_loop()
            request = encode(BlocksRequest(from_height=1, wait_ms=20_000))
            reply = decode(await calls[BLOCKS](caller(1), request), BlocksReply)
            assert (reply.height, reply.blocks) == (0, ())
            assert loop.time() == pytest.approx(20.0, abs=0.01)
            poll = asyncio.ensure_future(calls[BLOCKS](caller(1), request))
            await asyncio.sleep(1.0)
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            reply = decode(await poll, BlocksReply)
            assert [decode(block, Block) for block in reply.blocks] == [swarm.ledger(0).block(1)]
            assert loop.time() == pytest.approx(21.0, abs=0.1)

    run_virtual(work())


def test_who_asks_for_more_than_the_next_block_is_told_at_once_that_we_are_behind() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            request = encode(BlocksRequest(from_height=9, wait_ms=20_000))
            reply = decode(await swarm.ledger(0).calls[BLOCKS](caller(1), request), BlocksReply)
            assert (reply.height, reply.blocks) == (0, ())
            assert asyncio.get_running_loop().time() < 0.1

    run_virtual(work())


def test_a_replica_serves_blocks_and_headers_but_orders_nothing() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2) as swarm:
            await swarm.ledger(1).submit(b"a=1", timeout_s=LIMIT_S)
            calls = swarm.ledger(1).calls
            reply = decode(await calls[BLOCKS](caller(2), encode(REQUESTS[BLOCKS])), BlocksReply)
            assert len(reply.blocks) == 1
            header = decode(await calls[HEADER](caller(2), encode(HeaderRequest(height=99))), HeaderReply)
            block = swarm.ledger(0).block(1)
            assert block is not None
            assert header == HeaderReply(header=block.signed_header, evidence=None)
            with pytest.raises(Refused, match="ask the sentinel") as caught:
                await calls[SUBMIT](caller(2), encode(REQUESTS[SUBMIT]))
            assert caught.value.code == "not-sentinel"

    run_virtual(work())


def test_submit_answers_refused_ordered_and_not_yet_apart() -> None:
    async def work() -> None:
        swarm = EmbeddedSwarm(1)
        node = swarm.nodes[0]
        await node.ledger.start()
        call = node.ledger.calls[SUBMIT]

        async def submit(tx: bytes) -> SubmitReply:
            return decode(await call(caller(1), encode(SubmitRequest(tx=tx, wait_ms=2000))), SubmitReply)

        refused = await submit(b"nonsense")
        assert refused.height == 0
        assert refused.result is not None
        assert refused.result.code is Code.MALFORMED
        assert await submit(b"a=1") == SubmitReply(height=0, result=None)
        running = asyncio.ensure_future(node.ledger.run())
        assert await submit(b"a=1") == SubmitReply(height=1, result=TxResult(code=Code.OK, log="at 1"))
        await node.ledger.stop()
        await running

    run_virtual(work())


def test_one_node_cannot_hold_all_polls_open() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            call = swarm.ledger(0).calls[BLOCKS]
            request = encode(BlocksRequest(from_height=1, wait_ms=20_000))
            polls = [asyncio.ensure_future(call(caller(1), request)) for _ in range(MAX_WAITING[BLOCKS])]
            await asyncio.sleep(0.1)
            with pytest.raises(Refused, match="wait here already"):
                await call(caller(1), request)
            other = asyncio.ensure_future(call(caller(2), request))
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            await asyncio.gather(other, *polls)
            await call(caller(1), request)

    run_virtual(work())


def test_a_stopped_engine_answers_that_it_is_stopped() -> None:
    async def work() -> None:
        swarm = EmbeddedSwarm(1)
        calls = swarm.ledger(0).calls
        for method, request in REQUESTS.items():
            with pytest.raises(Closed, match="starting or stopping"):
                await calls[method](caller(1), encode(request))
        await swarm.start(0)
        calls = swarm.ledger(0).calls
        poll = asyncio.ensure_future(calls[BLOCKS](caller(1), encode(BlocksRequest(from_height=1, wait_ms=20_000))))
        await asyncio.sleep(0.1)
        await swarm.kill(0)
        with pytest.raises(Closed):
            await poll

    run_virtual(work())
