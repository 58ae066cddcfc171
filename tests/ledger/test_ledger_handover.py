"""A lost sentinel is replaced by a majority of the SNs (docs/spec/ledger.md, section 6).

L-24 what is signed, L-25 who counts, L-26 who may sign, L-27 what a signer takes no more, L-28 how nodes learn of it,
L-29 what becomes of the old sentinel, L-30 of forks, L-31 of what is on disk.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
import pytest
from ledger_support import EmbeddedSwarm, TestNode, address, run_virtual, sn, until

from swarmlearning.errors import ConfigurationError, VerificationError, WaitExpired
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded.handovers import Approval, SignedHandover, approve, merge_approvals
from swarmlearning.ledger.embedded.store import FILE_NAME

LIMIT_S = 60.0


class Hospitals(EmbeddedSwarm):
    """Nodes on disk that know each other; on entering, the first `members` are registered SNs of the ledger."""

    def __init__(self, directory: Path, size: int = 4, members: int = 4) -> None:
        super().__init__(size, directory)
        self.members = members
        self.peers = lambda: [address(index) for index in range(members)]

    async def __aenter__(self) -> Self:
        for node in self.nodes[: self.members]:
            await node.start()
        for node in self.nodes[: self.members]:
            await self.ledger(0).submit(b"sn %s=%s" % (sn(node.index).id.encode(), node.key.public.hex().encode()),
                                        timeout_s=LIMIT_S)  # fmt: skip
        await self.level(range(self.members))
        return self

    async def level(self, nodes: Sequence[int]) -> None:
        """Wait until all of `nodes` are as far as the furthest of them."""
        top = max(self.ledger(index).height for index in nodes)
        for index in nodes:
            await asyncio.wait_for(self.ledger(index).wait_height(top - 1), LIMIT_S)

    def propose(self, by: int, to: int | None = None, number: int | None = None) -> SignedHandover:
        node = self.nodes[by]
        with node.succession() as succession:
            return succession.propose(node.key, sn(to).id if to is not None else None, number)

    def sign(self, by: int, signed: SignedHandover) -> SignedHandover:
        node = self.nodes[by]
        with node.succession() as succession:
            return succession.sign(node.key, signed)

    def install(self, at: int, *parts: SignedHandover) -> SignedHandover:
        with self.nodes[at].succession() as succession:
            return succession.install(parts)

    async def hand_over(self, to: int, signers: Sequence[int]) -> SignedHandover:
        """Stop the signers, hand over to one of them, and start them all again."""
        for index in signers:
            await self.kill(index)
        signed = self.propose(to)
        for index in signers:
            signed = self.sign(index, signed)
        signed = self.install(to, signed)
        for index in signers:
            self.nodes[index].follows = None if index == to else to
            await self.start(index)
        return signed


def empty(node: TestNode) -> None:
    """What an operator does whose node holds void blocks."""
    assert node.directory is not None
    for path in (*node.directory.glob(FILE_NAME + "*"), node.directory / "app.msgpack"):
        path.unlink()


async def submit(swarm: EmbeddedSwarm, by: int, tx: bytes) -> int:
    return (await swarm.ledger(by).submit(tx, timeout_s=LIMIT_S))[0]


def test_l24_with_a_majority_another_sn_orders_and_all_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path, size=5) as swarm:
            await submit(swarm, 2, b"before=1")
            await swarm.kill(0)
            signed = await swarm.hand_over(1, [1, 2, 3])
            assert signed.handover.height == 5
            assert [await submit(swarm, index, b"after=%d" % index) for index in (1, 2, 3)] == [6, 7, 8]
            await swarm.level([1, 2, 3])
            assert swarm.log(1)[-4:] == [b"before=1", b"after=1", b"after=2", b"after=3"]
            assert swarm.log(2) == swarm.log(3) == swarm.log(1)
            # One that knows the genesis alone verifies the whole chain, from whichever SN it is told of.
            for told in (1, 3):
                fresh = swarm.nodes[4]
                fresh.follows = told
                await fresh.start()
                await asyncio.wait_for(fresh.ledger.wait_height(7), LIMIT_S)
                assert fresh.app.log == swarm.log(1)
                assert fresh.ledger.sentinel == sn(1).id
                assert fresh.ledger.verify() == 8
                await fresh.kill()
                empty(fresh)

    run_virtual(work())


def test_l24_the_reign_may_pass_on_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path, size=6, members=5) as swarm:
            await swarm.kill(0)
            await swarm.hand_over(1, [1, 2, 3, 4])
            await submit(swarm, 3, b"one=1")
            await swarm.level([1, 2, 3, 4])
            await swarm.kill(1)
            signed = await swarm.hand_over(2, [2, 3, 4])
            assert (signed.handover.epoch, signed.handover.height) == (2, 6)
            await submit(swarm, 4, b"two=1")
            fresh = swarm.nodes[5]
            fresh.follows = 2
            await fresh.start()
            await asyncio.wait_for(fresh.ledger.wait_height(6), LIMIT_S)
            assert fresh.app.log == swarm.log(2)
            assert fresh.ledger.verify() == 7
            proposers = [fresh.ledger.block(height) for height in (5, 6, 7)]
            assert [block and block.header.proposer for block in proposers] == [sn(0).id, sn(1).id, sn(2).id]

    run_virtual(work())


def test_l25_half_of_the_sns_is_no_majority_the_lost_one_counts(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            signed = swarm.sign(2, swarm.propose(1))
            with pytest.raises(VerificationError, match="signed by 2 of the 4 SNs registered at block 4; expected at"):
                swarm.install(1, signed)
            swarm.nodes[1].follows = None
            with pytest.raises(ConfigurationError, match=r"follows the sentinel .*node0 .the genesis"):
                await swarm.start(1)
            swarm.install(1, swarm.sign(3, signed))

    run_virtual(work())


def test_l25_signatures_that_do_not_count(tmp_path: Path) -> None:
    """A stranger's, one by another key, one for another handover, one twice."""

    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            signed = swarm.sign(2, swarm.propose(1))
            handover = signed.handover
            other = msgspec.structs.replace(handover, epoch=7)
            wrong = [
                approve(handover, sn(9).id, SigningKey.create()),
                approve(handover, sn(3).id, SigningKey.create()),
                Approval(node=sn(3).id, signature=approve(other, sn(3).id, swarm.nodes[3].key).signature),
            ]
            for approval in wrong:
                with pytest.raises(VerificationError, match="signed by 2 of the 4"):
                    swarm.install(1, signed, SignedHandover(handover=handover, approvals=(approval,)))
            twice = SignedHandover(handover=handover, approvals=(*signed.approvals, *signed.approvals))
            with pytest.raises(VerificationError, match="signed by 2 of the 4"):
                swarm.install(1, twice)
            # With a right one the wrong ones do no harm.
            right = merge_approvals(handover, [*wrong[:1], approve(handover, sn(3).id, swarm.nodes[3].key)])
            kept = swarm.install(1, signed, right)
            assert [approval.node for approval in kept.approvals] == [sn(1).id, sn(2).id, sn(3).id]

    run_virtual(work())


def test_l26_a_higher_replica_does_not_sign_but_proposes(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(1)
            await submit(swarm, 2, b"only at 2=1")
            for index in (0, 2, 3):
                await swarm.kill(index)
            with pytest.raises(ConfigurationError, match=r"stands at block 5.*after block 4: it would lose blocks 5-5"):
                swarm.sign(2, swarm.propose(1))
            signed = swarm.propose(2, number=2)
            with pytest.raises(ConfigurationError, match="stands at block 4, the handover is after block 5: start it"):
                swarm.sign(1, signed)

    run_virtual(work())


def test_l26_a_signer_that_is_behind_catches_up_from_the_others_and_signs_then(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(1)
            await submit(swarm, 2, b"last=1")
            await swarm.kill(0)
            # Nobody orders any more, but the others have the block and give it.
            await swarm.start(1)
            await asyncio.wait_for(swarm.ledger(1).wait_height(4), LIMIT_S)
            assert swarm.log(1)[-1] == b"last=1"
            await swarm.hand_over(1, [1, 2, 3])
            assert await submit(swarm, 3, b"on=1") == 6

    run_virtual(work())


def test_l26_nobody_signs_two_handovers_of_one_number(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            one, two = swarm.propose(1), swarm.propose(2)
            assert one.handover.epoch == two.handover.epoch == 1
            with pytest.raises(ConfigurationError, match=r"signed handover 1 to .*node1 after block 4, and signs"):
                swarm.sign(1, two)
            three = swarm.sign(3, two)
            assert swarm.sign(3, two) == three  # the same again, whenever it is asked for
            # Split: nobody can have three of four. A higher number gets out of it.
            later = swarm.propose(1, number=2)
            for index in (2, 3):
                later = swarm.sign(index, later)
            with pytest.raises(ConfigurationError, match="signs no other one of a number up to 2"):
                swarm.sign(3, two)
            swarm.install(1, later)

    run_virtual(work())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "other"}, "handover of network 'other'"),
        ({"epoch": 102}, "expected a number of 2 to 101"),
        ({"sentinel": sn(9).id}, "node9 is not registered at block 4 with the key"),
        ({"key": bytes(32)}, "node1 is not registered at block 4 with the key 0000"),
    ],
)
def test_l26_what_is_not_signed(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            signed = swarm.propose(1)
            wrong = msgspec.structs.replace(signed.handover, **{"epoch": 2, **changes})
            with pytest.raises((ConfigurationError, VerificationError), match=message):
                swarm.sign(1, SignedHandover(handover=wrong, approvals=()))

    run_virtual(work())


def test_l26_a_forged_tip_is_not_signed(tmp_path: Path) -> None:
    """Neither another block at our height, nor one above it that the sentinel never signed."""

    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            handover = swarm.propose(1).handover
            for height in (4, 6):
                header = msgspec.structs.replace(handover.tip.header, height=height, app_hash=bytes(32))
                tip = msgspec.structs.replace(handover.tip, header=header)
                forged = SignedHandover(handover=msgspec.structs.replace(handover, tip=tip), approvals=())
                with pytest.raises(VerificationError, match=r"block 4 is|the sentinel's signature does not hold"):
                    swarm.sign(2, forged)
            assert not (tmp_path / "node2" / "handover.promise").exists()

    run_virtual(work())


def test_l27_who_signed_follows_the_old_sentinel_no_further(tmp_path: Path) -> None:
    """It was not dead after all: what it orders now could be lost, so no signer takes it, nor acknowledges it."""

    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(1)
            signed = swarm.propose(1)
            await submit(swarm, 3, b"too late=1")
            for forgets in (False, True):
                if forgets:
                    empty(swarm.nodes[1])  # the promise does not lie in the ledger's file
                await swarm.start(1)
                await until(lambda: "takes no block 5 of" in swarm.ledger(1).problem, "it refuses the block")
                with pytest.raises(WaitExpired, match="takes no block 5"):
                    await swarm.ledger(1).submit(b"too late=1", timeout_s=5.0)
                assert swarm.ledger(1).height == 4
                await swarm.kill(1)
            # The handover is never completed; with a later one it goes on, losing nothing.
            for index in (0, 2, 3):
                await swarm.kill(index)
            later = swarm.propose(3, to=0, number=2)
            assert signed.handover.height < later.handover.height
            later = swarm.sign(2, swarm.sign(0, later))
            with pytest.raises(ConfigurationError, match="stands at block 4, the handover is after block 5"):
                swarm.sign(1, later)
            swarm.install(0, later)
            for index in range(4):
                await swarm.start(index)
            await submit(swarm, 1, b"on=1")
            assert swarm.log(1)[-2:] == [b"too late=1", b"on=1"]

    run_virtual(work())


def test_l27_a_sentinel_that_signed_orders_no_more(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            swarm.propose(0, to=1)
            with pytest.raises(ConfigurationError, match=r"node0 orders no more: this SN signed handover 1 to .*node1"):
                await swarm.start(0)

    run_virtual(work())


def test_l28_who_was_told_of_the_old_sentinel_finds_the_new_one(tmp_path: Path) -> None:
    """Node 3 did not sign, was never restarted, and still looks for node 0."""

    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in (0, 1, 2):
                await swarm.kill(index)
            signed = swarm.sign(0, swarm.sign(2, swarm.propose(1)))
            swarm.install(1, signed)
            for index in (1, 2):
                swarm.nodes[index].follows = None if index == 1 else 1
                await swarm.start(index)
            await until(lambda: swarm.ledger(3).sentinel == sn(1).id, "it learns of the handover, without a block")
            assert await submit(swarm, 3, b"on=1") == 5
            assert swarm.nodes[3].follows == 0

    run_virtual(work())


def test_l28_the_sentinel_that_is_told_to_follow_says_that_it_is_the_sentinel_itself(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(0)
            swarm.nodes[0].follows = 1
            await swarm.start(0)
            await until(lambda: "this SN is itself the sentinel" in swarm.ledger(0).problem, "it says so")
            with pytest.raises(WaitExpired, match="this SN is itself the sentinel"):
                await swarm.ledger(0).submit(b"a=1", timeout_s=5.0)

    run_virtual(work())


@pytest.mark.parametrize("ahead", [False, True])
def test_l29_the_old_sentinel_that_comes_back_orders_nothing(ahead: bool, tmp_path: Path) -> None:
    """`ahead`: it had ordered a block that nobody else has."""

    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            old = swarm.nodes[0]
            if ahead:
                for index in (1, 2, 3):
                    await swarm.kill(index)
                await submit(swarm, 0, b"nobody heard=1")
            await swarm.kill(0)
            await swarm.hand_over(1, [1, 2, 3])
            await submit(swarm, 2, b"on=1")
            await old.start()
            waiting = asyncio.ensure_future(old.ledger.submit(b"mine=1", timeout_s=LIMIT_S))
            error = await old.ended()
            assert isinstance(error, ConfigurationError)
            assert f"made {sn(1).id} the sentinel after block 4 (handover 1)" in str(error)
            assert "start this SN with --sentinel HOST:PORT" in str(error)
            assert ("which are void: move ledger.sqlite*" in str(error)) == ahead
            with pytest.raises(ConfigurationError):
                await waiting
            await old.kill()
            old.follows = 1
            if ahead:
                await old.start()
                assert "which are void: move ledger.sqlite*" in str(await old.ended())
                await old.kill()
                empty(old)
            await old.start()
            assert await submit(swarm, 0, b"as a follower=1") == 6
            await swarm.level([0, 1, 2, 3])
            assert swarm.log(0) == swarm.log(1) == swarm.log(3)
            assert b"nobody heard=1" not in swarm.log(0)
            assert old.ledger.verify() == 6

    run_virtual(work())


def test_l29_an_old_sentinel_that_never_stopped_is_refused_and_convicts_nobody(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in (1, 2, 3):
                await swarm.kill(index)
            await submit(swarm, 0, b"old=1")
            await swarm.hand_over(1, [1, 2, 3])
            await submit(swarm, 1, b"new=1")
            for index in (1, 2, 3):
                await swarm.level([1, 2, 3])
                await swarm.ledger(index).compare([address(0)])  # it has another block 5: refused, no evidence
            error = await swarm.nodes[0].ended()
            assert "which are void" in str(error)
            assert await submit(swarm, 2, b"on=1") == 6

    run_virtual(work())


def test_l29_a_follower_that_went_with_the_old_sentinel_is_told_that_its_blocks_are_void(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path, members=5, size=5) as swarm:
            for index in (1, 2, 3):
                await swarm.kill(index)
            await submit(swarm, 4, b"acknowledged by a minority=1")
            await swarm.hand_over(1, [1, 2, 3])
            error = await swarm.nodes[4].ended()
            assert isinstance(error, ConfigurationError)
            assert "which are void: move ledger.sqlite* and state.sqlite* away" in str(error)
            await swarm.kill(4)
            empty(swarm.nodes[4])
            swarm.nodes[4].follows = 1
            await swarm.start(4)
            assert await submit(swarm, 4, b"on=1") == 6

    run_virtual(work())


def test_l32_a_restored_replica_catches_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(1)
            shutil.copytree(tmp_path / "node1", tmp_path / "backup")
            await swarm.start(1)
            await submit(swarm, 1, b"later=1")
            await swarm.kill(1)
            shutil.rmtree(tmp_path / "node1")
            shutil.copytree(tmp_path / "backup", tmp_path / "node1")
            await swarm.start(1)
            await asyncio.wait_for(swarm.ledger(1).wait_height(4), LIMIT_S)
            assert swarm.log(1) == swarm.log(0)

    run_virtual(work())


class Restored(Hospitals):
    """The sentinel was restored from a copy that is two blocks old; nobody runs."""

    async def restore(self) -> None:
        assert self.directory is not None
        await self.kill(0)
        shutil.copytree(self.directory / "node0", self.directory / "backup")
        await self.start(0)
        for number in range(2):
            await submit(self, 2, b"later=%d" % number)
        await self.level(range(4))
        for index in range(4):
            await self.kill(index)
        shutil.rmtree(self.directory / "node0")
        shutil.copytree(self.directory / "backup", self.directory / "node0")


def test_l32_a_restored_sentinel_takes_what_the_replicas_hold_before_it_orders(tmp_path: Path) -> None:
    async def work() -> None:
        async with Restored(tmp_path) as swarm:
            await swarm.restore()
            for index in (1, 2, 3):
                await swarm.start(index)
            await swarm.start(0)
            assert swarm.ledger(0).height == 4
            assert await submit(swarm, 0, b"on=1") == 7
            await swarm.level(range(4))
            assert swarm.log(3) == swarm.log(0)
            assert swarm.log(0)[-3:] == [b"later=0", b"later=1", b"on=1"]

    run_virtual(work())


@pytest.mark.parametrize("way_out", ["copy", "handover"])
def test_l32_a_restored_sentinel_that_asks_nobody_does_not_fork_silently(way_out: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with Restored(tmp_path) as swarm:
            await swarm.restore()
            await swarm.start(0)
            await until(lambda: asyncio.get_running_loop().time() > 30.0, "it has asked, and nobody answered")
            await swarm.start(2)
            await until(lambda: "it has lost blocks; stop it and give it a copy" in swarm.ledger(2).problem, "told")
            for index in (0, 2):
                await swarm.kill(index)
            if way_out == "copy":
                empty(swarm.nodes[0])
                shutil.copy(tmp_path / "node2" / FILE_NAME, tmp_path / "node0" / FILE_NAME)
                for index in range(4):
                    await swarm.start(index)
                assert swarm.ledger(0).height == 6
            else:
                await swarm.hand_over(1, [1, 2, 3])
                swarm.nodes[0].follows = 1
                await swarm.start(0)
            assert await submit(swarm, 3, b"on=1") == 7
            await swarm.level(range(4))
            assert swarm.log(0) == swarm.log(1)
            assert swarm.log(0)[-3:] == [b"later=0", b"later=1", b"on=1"]

    run_virtual(work())
