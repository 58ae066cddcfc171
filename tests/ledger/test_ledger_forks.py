"""A sentinel that tells two stories is convicted (docs/spec/ledger.md: L-18, L-19, L-20)."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest
from ledger_support import GENESIS, START_MS, EmbeddedSwarm, Forger, ScriptedSentinel, address, run_virtual, sn, until

from swarmlearning.encoding import encode
from swarmlearning.errors import ForkDetected
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded import Evidence
from swarmlearning.ledger.embedded.blocks import verify_evidence
from swarmlearning.ledger.embedded.store import BlockStore
from swarmlearning.ledger.embedded.wire import HEADER, HeaderReply
from swarmlearning.transport.api import Call, Caller, Stream
from swarmlearning.types import Code

LIMIT_S = 60.0


class Story:
    """Serves a replica's calls on another network than its own."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = calls
        self.streams: Mapping[str, Stream] = {}


class TwoStories:
    """One sentinel's key on two networks: node 1 of the first hears another story than node 2 of the second."""

    def __init__(self, directory: Path | None = None) -> None:
        self.one = EmbeddedSwarm(2, directory)
        self.two = EmbeddedSwarm(3)
        self.two.key = self.one.key
        for swarm in (self.one, self.two):
            swarm.clocks[0] = lambda: START_MS  # the same past has the same block times

    async def __aenter__(self) -> Self:
        await self.one.__aenter__()
        await self.two.__aenter__()
        self.one.network.serve(sn(2), address(2).endpoint, Story(self.two.ledger(2).calls))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.one.__aexit__()
        await self.two.__aexit__()

    async def tell(self, common: int, one: int, two: int) -> None:
        """Both hear `common` blocks alike, then `one` and `two` blocks that differ."""
        for i in range(common):
            await self.one.ledger(1).submit(b"common=%d" % i, timeout_s=LIMIT_S)
            await self.two.ledger(2).submit(b"common=%d" % i, timeout_s=LIMIT_S)
        for i in range(one):
            await self.one.ledger(1).submit(b"one=%d" % i, timeout_s=LIMIT_S)
        for i in range(two):
            await self.two.ledger(2).submit(b"two=%d" % i, timeout_s=LIMIT_S)


@pytest.mark.parametrize(("common", "one", "two"), [(0, 1, 1), (3, 1, 1), (3, 1, 4), (3, 4, 1)])
def test_two_replicas_that_were_told_different_blocks_find_out(common: int, one: int, two: int) -> None:
    async def work() -> None:
        async with TwoStories() as stories:
            await stories.tell(common, one, two)
            with pytest.raises(ForkDetected, match="the network stops"):
                await stories.one.ledger(1).compare([address(2)])

    run_virtual(work())


@pytest.mark.parametrize(("one", "two"), [(0, 0), (2, 0), (0, 2)])
def test_replicas_that_were_told_the_same_agree_though_one_is_behind(one: int, two: int) -> None:
    async def work() -> None:
        async with TwoStories() as stories:
            await stories.tell(3, one, two)
            await stories.one.ledger(1).compare([address(2), address(0)])
            height, result = await stories.one.ledger(1).submit(b"goes on=1", timeout_s=LIMIT_S)
            assert result.code is Code.OK
            assert height == 3 + one + 1

    run_virtual(work())


def test_a_fork_stops_the_engine_tells_whoever_waits_and_is_known_after_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        async with TwoStories(tmp_path) as stories:
            await stories.tell(1, 1, 1)
            node = stories.one.nodes[1]
            waiting = asyncio.ensure_future(node.ledger.wait_height(99))
            await asyncio.sleep(0.1)
            with pytest.raises(ForkDetected):
                await node.ledger.compare([address(2)])
            with pytest.raises(ForkDetected):
                await waiting
            with pytest.raises(ForkDetected):
                await node.ledger.submit(b"a=1", timeout_s=1.0)
            assert isinstance(await node.ended(), ForkDetected)
            await node.kill()
            for _ in range(2):
                with pytest.raises(ForkDetected, match="signed block 2"):
                    await node.start()
            store = BlockStore(tmp_path / "node1", GENESIS)
            evidence = store.load_evidence()
            store.close()
            assert evidence is not None
            verify_evidence(evidence, "testnet", stories.one.key.public)

    run_virtual(work())


def test_run_compares_with_the_peers_it_is_given() -> None:
    async def work() -> None:
        stories = TwoStories()
        stories.one.peers = lambda: [address(0), address(1), address(2), address(7)]
        async with stories:
            await stories.tell(1, 1, 1)
            assert isinstance(await stories.one.nodes[1].ended(), ForkDetected)
            assert asyncio.get_running_loop().time() < 31.0

    run_virtual(work())


def test_a_sentinel_that_went_back_and_told_another_story_convicts_itself() -> None:
    """Restored from an old copy, it goes on differently: the next block it signs does not link to ours."""

    async def work() -> None:
        world = EmbeddedSwarm(2)
        sentinel, honest, other = ScriptedSentinel(), Forger(world.key), Forger(world.key)
        for forger, story in ((honest, b"one"), (other, b"two")):
            forger.add([b"common=1"])
            for i in range(3):
                forger.add([b"%s=%d" % (story, i)])
        sentinel.blocks = honest.blocks[:3]
        world.network.serve(sn(0), address(0).endpoint, sentinel)
        await world.start(1)
        await world.ledger(1).wait_height(2)
        sentinel.blocks = other.blocks
        assert "contradicting block 4" in str(await world.nodes[1].ended())
        assert world.log(1) == [b"common=1", b"one=0", b"one=1"]
        await world.kill(1)
        world.network.stop(sn(0))

    run_virtual(work())


def test_a_sentinel_that_went_back_is_convicted_even_before_it_has_caught_up() -> None:
    async def work() -> None:
        world = EmbeddedSwarm(2)
        sentinel, honest, other = ScriptedSentinel(), Forger(world.key), Forger(world.key)
        sentinel.blocks = [honest.add([b"one=%d" % i]) for i in range(5)]
        world.network.serve(sn(0), address(0).endpoint, sentinel)
        await world.start(1)
        await world.ledger(1).wait_height(4)
        sentinel.blocks = [other.add([b"two=%d" % i]) for i in range(2)]
        assert "contradicting block 2" in str(await world.nodes[1].ended())
        await world.kill(1)
        world.network.stop(sn(0))

    run_virtual(work())


def test_who_knows_of_a_fork_tells_others_who_verify_it_themselves() -> None:
    async def work() -> None:
        async with TwoStories() as stories:
            await stories.tell(2, 1, 1)
            with pytest.raises(ForkDetected):
                await stories.one.ledger(1).compare([address(2)])
            # The sentinel of the first network holds the same story as its replica, but hears of the other.
            with pytest.raises(ForkDetected, match="signed block 3"):
                await stories.one.ledger(0).compare([address(1)])
            assert isinstance(await stories.one.nodes[0].ended(), ForkDetected)

    run_virtual(work())


def _liar(forger: Forger, own: Forger) -> list[HeaderReply]:
    fake = Evidence(first=own.blocks[0].signed_header, second=forger.add([b"fake=1"]).signed_header)
    empty = Evidence(first=own.blocks[0].signed_header, second=own.blocks[0].signed_header)
    return [
        HeaderReply(header=forger.blocks[0].signed_header, evidence=None),
        HeaderReply(header=own.blocks[0].signed_header, evidence=fake),
        HeaderReply(header=own.blocks[0].signed_header, evidence=empty),
        HeaderReply(header=own.blocks[1].signed_header, evidence=None),
    ]


@pytest.mark.parametrize("lie", range(4))
def test_a_lying_peer_cannot_convict_an_honest_sentinel(lie: int) -> None:
    """Forged header; evidence forged with another key; evidence that proves nothing; a header not asked for."""

    async def work() -> None:
        world = EmbeddedSwarm(2)
        sentinel, forger = ScriptedSentinel(), Forger(world.key)
        sentinel.blocks = [forger.add()]
        forger.add()
        reply = _liar(Forger(SigningKey.create()), forger)[lie]
        asked: list[bytes] = []

        async def answer(caller: Caller, body: bytes) -> bytes:
            asked.append(body)
            return encode(reply)

        world.network.serve(sn(0), address(0).endpoint, sentinel)
        world.network.serve(sn(5), address(5).endpoint, Story({HEADER: answer}))
        await world.start(1)
        await world.ledger(1).wait_height(0)
        await world.ledger(1).compare([address(5)])
        assert len(asked) == 1
        sentinel.blocks = forger.blocks
        await until(lambda: world.ledger(1).height == 2, "the replica goes on")
        await world.kill(1)
        world.network.stop(sn(0))

    run_virtual(work())
