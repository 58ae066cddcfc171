"""Who may connect and who votes follow the ledger (docs/spec/ledger-cometbft.md: B-21, B-22, B-23)."""

import asyncio
import functools
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, domain, eventually

from swarmlearning.errors import Unreachable, WaitExpired

pytestmark = needs_cometbft


def admission(swarm: CometSwarm, index: int) -> bytes:
    """The transaction that lets a node vote."""
    member = swarm.nodes[index].validator
    return f"+{domain(index)}={member.key.hex()} {member.peer} {member.endpoint}".encode()


async def connected(swarm: CometSwarm, index: int) -> set[int]:
    """The nodes to whom a node's child is connected."""
    try:
        peers = await swarm.nodes[index].parts.rpc.peers()
    except Unreachable:
        return set()
    return {node.index for node in swarm.nodes if node.validator.peer in peers}


async def until_connected(swarm: CometSwarm, index: int, expected: set[int]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await connected(swarm, index) != expected:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


def test_b21_a_stranger_is_refused_an_admitted_member_votes_an_expelled_one_is_cut_off(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(3, tmp_path, more=1) as swarm:
            stranger = swarm.nodes[3]
            path = f"/p2p/filter/id/{stranger.validator.peer}"
            await stranger.start()
            for node in swarm.nodes[:3]:
                await eventually(functools.partial(node.recorder.queries.__contains__, path), "the stranger knocks")
                assert node.recorder.queries[path] == 1
                assert 3 not in await connected(swarm, node.index)
            assert swarm.ledger(3).height == 0

            # Admitted: let in, level with the others, and asked for its vote.
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            height, _ = await swarm.ledger(0).submit(admission(swarm, 3), timeout_s=LIMIT_S)
            await swarm.until(3, height + 1)
            await until_connected(swarm, 3, {0, 1, 2})
            # Three of four must vote: without node 2, node 3 is one of them.
            await swarm.kill(2)
            await swarm.ledger(3).submit(b"b=1", timeout_s=LIMIT_S)
            await swarm.start(2)
            await until_connected(swarm, 2, {0, 1, 3})

            # Expelled: its connections end, though peers are asked about only when they connect.
            await swarm.ledger(3).submit(b"-%s=" % domain(3).encode(), timeout_s=LIMIT_S)
            for index in range(3):
                await until_connected(swarm, index, {0, 1, 2} - {index})
            await swarm.ledger(1).submit(b"c=1", timeout_s=LIMIT_S)
            await swarm.settle(0, 1, 2)
            assert swarm.log(0) == swarm.log(1) == swarm.log(2)
            assert swarm.log(0)[-1] == b"c=1"
            assert b"c=1" not in swarm.log(3)

    asyncio.run(work())


def test_b24_too_few_validators_are_said_to_be_the_problem_and_who_is_missing(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(2, tmp_path) as swarm:
            await eventually(lambda: not swarm.ledger(0).problem, "all is well")
            await swarm.kill(1)
            await eventually(lambda: "1 of 2 validators" in swarm.ledger(0).problem, "the other one is missed")
            assert f"missing: {domain(1)}" in swarm.ledger(0).problem
            with pytest.raises(WaitExpired, match="1 of 2 validators are connected here, 2 must be"):
                await swarm.ledger(0).submit(b"a=1", timeout_s=0.5)
            await swarm.start(1)
            height, _ = await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            assert height > 1
            await eventually(lambda: not swarm.ledger(0).problem, "all is well again")

    asyncio.run(work())
