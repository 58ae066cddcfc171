"""Reigns under attack, crashes and damage (docs/spec/ledger.md, section 6: L-26 to L-31).

Whoever signs what in whatever order, whatever dies when: of one number at most one handover has a majority.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import (
    GENESIS,
    NETWORK,
    START_MS,
    Died,
    Forger,
    KvApplication,
    address,
    caller,
    run_virtual,
    sn,
    until,
)
from test_ledger_handover import Hospitals, empty, submit

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, ConfigurationError, ForkDetected, SwarmError, VerificationError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded import Block, EmbeddedConfig, Evidence, SignedHandover
from swarmlearning.ledger.embedded.blocks import hash_header
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.crash import HandoverPoint, never_crash
from swarmlearning.ledger.embedded.handovers import Handover, approve, merge_approvals, signers_of
from swarmlearning.ledger.embedded.promise import FILE_NAME as PROMISE
from swarmlearning.ledger.embedded.promise import PromiseFile
from swarmlearning.ledger.embedded.service import LedgerService
from swarmlearning.ledger.embedded.store import FILE_NAME, BlockStore
from swarmlearning.ledger.embedded.succession import Succession
from swarmlearning.ledger.embedded.wire import HANDOVERS, BlocksReply, HandoversReply, HandoversRequest
from swarmlearning.transport.api import Call, Caller, Stream
from swarmlearning.types import NodeId

LIMIT_S = 60.0

KEYS = [SigningKey.create() for _ in range(5)]


class Story:
    """Blocks of node 0, the first of which registers five SNs; then node 1's."""

    def __init__(self, blocks: int = 3) -> None:
        self.forger = Forger(KEYS[0])
        self.forger.add([b"sn %s=%s" % (sn(i).id.encode(), key.public.hex().encode()) for i, key in enumerate(KEYS)])
        for number in range(1, blocks):
            self.forger.add([b"n=%d" % number])

    def handover(self, height: int, to: int = 1, epoch: int = 1) -> Handover:
        tip = self.forger.blocks[height - 1].signed_header
        return Handover(network=NETWORK, epoch=epoch, tip=tip, sentinel=sn(to).id, key=KEYS[to].public)

    def signed(self, height: int, signers: Sequence[int] = (1, 2, 3), to: int = 1, epoch: int = 1) -> SignedHandover:
        handover = self.handover(height, to, epoch)
        return merge_approvals(handover, [approve(handover, sn(i).id, KEYS[i]) for i in signers])

    def next_by(self, who: int, txs: Sequence[bytes], **changes: object) -> Block:
        self.forger.key = KEYS[who]
        try:
            return self.forger.block(txs, proposer=sn(who).id, **changes)
        finally:
            self.forger.key = KEYS[0]


def config(node: int) -> EmbeddedConfig:
    return EmbeddedConfig(
        network=NETWORK,
        genesis=GENESIS,
        data_dir=None,
        node=sn(node).id,
        sentinel=sn(0).id,
        sentinel_key=KEYS[0].public,
        sentinel_address=address(0),
    )


def stand(story: Story, height: int) -> Chain:
    """The open chain of node 2, which stands at `height`."""
    chain = Chain(config(2), KvApplication(), never_crash)
    chain.open()
    for block in story.forger.blocks[:height]:
        chain.adopt(block)
    return chain


# --- L-30: evidence ---------------------------------------------------------------------------------------------------


def test_l30_only_the_reigning_sentinel_is_convicted() -> None:
    story = Story()
    other = Story(2)
    other.forger.add([b"another story=1"])
    chain = stand(story, 3)
    chain.install(story.signed(3))
    two_of_the_old = Evidence(first=story.forger.blocks[2].signed_header, second=other.forger.blocks[2].signed_header)
    beyond = story.next_by(0, [b"old=1"]).signed_header
    late = Evidence(first=beyond, second=story.next_by(0, [b"old=2"]).signed_header)
    against_new = Evidence(first=story.next_by(1, [b"new=1"]).signed_header, second=beyond)
    for evidence in (two_of_the_old, late, against_new):
        with pytest.raises(VerificationError, match=r"settled what was signed up to there|signature does not hold"):
            chain.convict(evidence)
    assert chain.waiting.halted is None
    new = [story.next_by(1, [b"new=%d" % number]).signed_header for number in range(2)]
    error = chain.convict(Evidence(first=new[0], second=new[1]))
    assert f"sentinel {sn(1).id} signed block 4" in str(error)


def test_l30_a_new_sentinel_that_does_not_go_on_from_the_tip_convicts_itself() -> None:
    story = Story()
    chain = stand(story, 3)
    chain.install(story.signed(3))
    tip = story.forger.blocks[2].signed_header
    linked = story.next_by(1, [b"new=1"]).signed_header
    with pytest.raises(VerificationError, match="settled"):
        chain.convict(Evidence(first=tip, second=linked))
    astray = story.next_by(1, [b"new=1"], previous_hash=bytes(32)).signed_header
    # Told from another block of that height it proves nothing: the handover is after this one.
    elsewhere = Story(2)
    elsewhere.forger.add([b"another=1"])
    with pytest.raises(VerificationError, match="settled"):
        chain.convict(Evidence(first=elsewhere.forger.blocks[2].signed_header, second=astray))
    assert isinstance(chain.convict(Evidence(first=tip, second=astray)), ForkDetected)


def test_l29_a_handover_after_another_block_of_our_height_is_not_gone_by_and_makes_ours_void() -> None:
    story, other = Story(), Story(2)
    other.forger.add([b"another story=1"])
    chain = stand(other, 3)
    with pytest.raises(VerificationError, match=r"handover 1 is after block 3, .*; this node stands at block 3, "):
        chain.install(story.signed(3))
    assert chain.reigns.current.epoch == 0
    with pytest.raises(ConfigurationError, match="holds other blocks than those handed over, which are void"):
        chain.compare_handover(story.signed(3))


def test_l30_a_network_that_a_fork_stopped_goes_on_after_a_handover(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            tip = swarm.ledger(0).block(4)
            assert tip is not None
            for index in range(4):
                await swarm.kill(index)
            liar = Forger(swarm.key)
            after = hash_header(tip.header)
            lies = [
                liar.block([b"lie=%d" % number], height=5, previous_hash=after, app_hash=bytes(32)).signed_header
                for number in range(2)
            ]
            for index in (1, 2, 3):
                with closing(BlockStore(tmp_path / f"node{index}", GENESIS)) as store:
                    store.save_evidence(Evidence(first=lies[0], second=lies[1]))
                with pytest.raises(ForkDetected, match=r"agree on a new sentinel .swarm network handover."):
                    await swarm.start(index)
            await swarm.hand_over(1, [1, 2, 3])
            assert await submit(swarm, 3, b"on=1") == 5
            for index in (1, 2, 3):
                await swarm.kill(index)
                await swarm.start(index)

    run_virtual(work())


def test_l30_two_handovers_of_one_number_with_a_majority_stop_the_network_and_name_who_signed_twice(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            one = swarm.propose(1)
            for index in (2, 3):
                one = swarm.sign(index, one)
            swarm.install(1, one)
            other = msgspec.structs.replace(one.handover, sentinel=sn(2).id, key=swarm.nodes[2].key.public)
            for index in (1, 2, 3):
                with (
                    swarm.nodes[index].succession() as succession,
                    pytest.raises(ConfigurationError, match=r"no other|is past"),
                ):
                    succession.sign(swarm.nodes[index].key, SignedHandover(handover=other, approvals=()))
            # Only with the promise thrown away, and at two SNs, can there be another.
            cheats = (0, 2, 3)
            twice = merge_approvals(other, [approve(other, sn(i).id, swarm.nodes[i].key) for i in cheats])
            swarm.install(2, twice)
            for index, follows in ((1, None), (2, None)):
                swarm.nodes[index].follows = follows
                await swarm.start(index)
            with pytest.raises(ForkDetected, match=r"two handovers 1 have a majority.*signed both: .*node2.*node3"):
                await swarm.ledger(1).compare([address(2)])
            assert isinstance(await swarm.nodes[1].ended(), ForkDetected)

    run_virtual(work())


# --- L-28: lying peers ------------------------------------------------------------------------------------------------


class Liar:
    """Serves whatever handovers it is told to."""

    def __init__(self, *handovers: SignedHandover) -> None:
        self.handovers = handovers
        self.asked = 0
        self.calls: dict[str, Call] = {HANDOVERS: self._answer}
        self.streams: dict[str, Stream] = {}

    async def _answer(self, caller: Caller, body: bytes) -> bytes:
        self.asked += 1
        return encode(HandoversReply(height=9, handovers=tuple(encode(signed) for signed in self.handovers)))


@pytest.mark.parametrize("where", ["here", "beyond", "before"])
def test_l28_a_handover_without_a_majority_deposes_nobody(where: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            tip = swarm.ledger(0).block(3 if where == "before" else 4)
            assert tip is not None
            signed_header = tip.signed_header
            if where == "beyond":
                header = msgspec.structs.replace(signed_header.header, height=9)
                signed_header = msgspec.structs.replace(signed_header, header=header)
            key = swarm.nodes[1].key
            handover = Handover(network=NETWORK, epoch=1, tip=signed_header, sentinel=sn(1).id, key=key.public)
            approvals = [approve(handover, sn(i).id, swarm.nodes[i].key) for i in (1, 2)]
            approvals += [approve(handover, sn(i).id, key) for i in (0, 3, 7)]
            liar = Liar(SignedHandover(handover=handover, approvals=tuple(approvals)))
            swarm.network.serve(sn(9), address(9).endpoint, liar)
            for index in (0, 3):
                await swarm.ledger(index).compare([address(9)])
            assert liar.asked == 2
            assert await submit(swarm, 3, b"on=1") == 5
            assert swarm.ledger(3).sentinel == sn(0).id

    run_virtual(work())


def test_l28_a_source_that_lies_about_a_handover_delays_a_new_node_but_misleads_it_not(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path, size=5) as swarm:
            tip = swarm.ledger(0).block(2)
            assert tip is not None
            stranger = SigningKey.create()
            handover = Handover(network=NETWORK, epoch=1, tip=tip.signed_header, sentinel=sn(9).id, key=stranger.public)
            forged = merge_approvals(handover, [approve(handover, sn(i).id, stranger) for i in range(4)])
            lying = Liar(forged)
            honest = swarm.ledger(0).calls
            lying.calls = {**honest, HANDOVERS: lying.calls[HANDOVERS]}
            swarm.network.stop(sn(0))
            swarm.network.serve(sn(0), address(0).endpoint, lying)
            fresh = swarm.nodes[4]
            await fresh.start()
            await until(lambda: "is not registered at block 2" in fresh.ledger.problem, "it is found out at its block")
            lying.handovers = ()
            await asyncio.wait_for(fresh.ledger.wait_height(3), LIMIT_S)
            assert fresh.app.log == swarm.log(0)

    run_virtual(work())


def test_l28_handovers_are_served_by_number_to_sns_of_the_network() -> None:
    async def work() -> None:
        story = Story()
        chain = stand(story, 3)
        chain.install(story.signed(3))
        chain.install(story.signed(3, to=2, epoch=5))
        service = LedgerService(config(2), chain, None)
        for above, epochs in ((0, [1, 5]), (1, [5]), (4, [5]), (5, [])):
            raw = await service.calls[HANDOVERS](caller(1), encode(HandoversRequest(above=above)))
            reply = decode(raw, HandoversReply)
            assert reply.height == 3
            assert [decode(one, SignedHandover).handover.epoch for one in reply.handovers] == epochs

    run_virtual(work())


# --- L-31: crashes and damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [p for p in HandoverPoint if p <= HandoverPoint.AFTER_SIGNED])
def test_l26_an_sn_that_dies_while_it_signs_has_promised_before_it_signed(point: HandoverPoint, tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            one, two = swarm.propose(1), swarm.propose(3)
            node = swarm.nodes[2]
            node.crash.point = point
            with pytest.raises(Died):
                swarm.sign(2, one)
            promised = point >= HandoverPoint.AFTER_PROMISE
            assert (tmp_path / "node2" / PROMISE).exists() == promised
            if promised:
                with pytest.raises(ConfigurationError, match="signs no other one"):
                    swarm.sign(2, two)
            signed = swarm.sign(0, swarm.sign(2, one))
            swarm.install(1, signed)

    run_virtual(work())


@pytest.mark.parametrize("point", [HandoverPoint.BEFORE_INSTALLED, HandoverPoint.AFTER_INSTALLED])
@pytest.mark.parametrize("who", [1, 3])
def test_l31_a_node_that_dies_while_it_takes_a_handover_over_goes_on(
    who: int, point: HandoverPoint, tmp_path: Path
) -> None:
    """Node 1 is to order, node 3 follows."""

    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            signed = swarm.sign(2, swarm.sign(3, swarm.propose(1)))
            node = swarm.nodes[who]
            if who == 1:
                node.crash.point = point
                with pytest.raises(Died):
                    swarm.install(1, signed)
            swarm.install(1, signed)
            swarm.nodes[1].follows, swarm.nodes[2].follows, swarm.nodes[3].follows = None, 1, 1
            await swarm.start(1)
            if who == 3:
                node.crash.point = point
                await node.start()
                await until(lambda: node.crash.fired is point, "it dies")
                await node.kill()
            await swarm.start(3)
            await swarm.start(2)
            assert await submit(swarm, 3, b"on=1") == 5
            assert swarm.ledger(3).verify() == 5
            await swarm.level([1, 2, 3])
            assert swarm.log(2) == swarm.log(1)

    run_virtual(work())


def _execute(directory: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(directory / FILE_NAME)) as db, db:
        db.execute(statement, values)


def _fewer_signatures(directory: Path, signed: SignedHandover) -> None:
    fewer = SignedHandover(handover=signed.handover, approvals=signed.approvals[:2])
    _execute(directory, "UPDATE handover SET body = ?", encode(fewer))


def _elsewhere(directory: Path, signed: SignedHandover) -> None:
    header = msgspec.structs.replace(signed.handover.tip.header, app_hash=bytes(32))
    tip = msgspec.structs.replace(signed.handover.tip, header=header)
    handover = msgspec.structs.replace(signed.handover, tip=tip)
    _execute(directory, "UPDATE handover SET body = ?", encode(merge_approvals(handover, signed.approvals)))


def _garbage(directory: Path, signed: SignedHandover) -> None:
    _execute(directory, "UPDATE handover SET body = ?", b"garbage")


def _gone(directory: Path, signed: SignedHandover) -> None:
    _execute(directory, "DELETE FROM handover")


def _promise(directory: Path, signed: SignedHandover) -> None:
    (directory / PROMISE).write_bytes(b"garbage")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_fewer_signatures, "signed by 2 of the 4 SNs"),
        (_elsewhere, "handover 1 does not follow its block 4"),
        (_garbage, "a handover is damaged"),
        (_gone, "signature does not hold"),
        (_promise, "handover.promise cannot be used"),
    ],
)
def test_l31_what_is_on_disk_is_verified_anew_at_every_start(
    damage: Callable[[Path, SignedHandover], None], message: str, tmp_path: Path
) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(0)
            signed = await swarm.hand_over(1, [1, 2, 3])
            await submit(swarm, 2, b"on=1")
            await swarm.kill(2)
            await swarm.start(2)
            await swarm.kill(2)
            damage(tmp_path / "node2", signed)
            with pytest.raises(Broken, match=message) as caught:
                await swarm.start(2)
            assert "\n" not in str(caught.value)

    run_virtual(work())


def test_l31_a_rebuild_finds_out_at_first_hand_who_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(0)
            await swarm.hand_over(1, [1, 2, 3])
            await submit(swarm, 2, b"on=1")
            await swarm.kill(2)
            (tmp_path / "node2" / "app.msgpack").unlink()
            shutil.copytree(tmp_path / "node2", tmp_path / "kept")
            await swarm.start(2)
            assert swarm.log(2)[-1] == b"on=1"
            await swarm.kill(2)
            shutil.rmtree(tmp_path / "node2")
            shutil.copytree(tmp_path / "kept", tmp_path / "node2")
            with monkeypatch.context() as patch:
                patch.setattr(KvApplication, "voters", lambda _: {NodeId(sn(1).id): bytes(32)})
                with pytest.raises(Broken, match="was counted by other SNs than those that are registered at block 4"):
                    await swarm.start(2)

    run_virtual(work())


def test_l31_a_file_of_the_release_before_gets_the_table_of_handovers(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(2)
            _execute(tmp_path / "node2", "DROP TABLE handover")
            _execute(tmp_path / "node2", "PRAGMA user_version = 1")
            await swarm.start(2)
            assert await submit(swarm, 2, b"on=1") == 5
            await swarm.kill(0)
            await swarm.hand_over(1, [1, 2, 3])
            assert await submit(swarm, 2, b"on=2") == 6

    run_virtual(work())


def test_l27_the_promise_outlives_the_ledger(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in range(4):
                await swarm.kill(index)
            one, two = swarm.propose(1), swarm.propose(3)
            swarm.sign(2, one)
            empty(swarm.nodes[2])
            shutil.copy(tmp_path / "node3" / FILE_NAME, tmp_path / "node2" / FILE_NAME)
            with pytest.raises(ConfigurationError, match="signs no other one of a number up to 1"):
                swarm.sign(2, two)

    run_virtual(work())


# --- L-26: whoever signs what, in whatever order ----------------------------------------------------------------------

Act = tuple[str, int, int, int]

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("propose"), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3)),
        st.tuples(st.just("sign"), st.integers(0, 4), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.just("install"), st.integers(0, 4), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("grow"), st.integers(0, 4), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 4), st.just(0), st.just(0)),
    ),
    max_size=40,
)

STORY = Story(6)


class Dying:
    """Dies at a point, once."""

    def __init__(self) -> None:
        self.point: HandoverPoint | None = None

    def __call__(self, point: object) -> None:
        if point is self.point:
            self.point = None
            raise Died


class Site:
    """One stopped SN, which stands somewhere on the common story. In memory; what a restart finds is handed on."""

    def __init__(self, node: int, height: int) -> None:
        self.node = node
        self.crash = Dying()
        self.disk = PromiseFile(None)
        self.chain = self._open()
        for _ in range(height):
            self.grow()

    def _open(self) -> Chain:
        chain = Chain(config(self.node), KvApplication(), self.crash)
        chain.reigning._promise = self.disk
        chain.open()
        return chain

    def grow(self) -> None:
        """The old sentinel's next block reaches this SN, which takes it unless it has signed it away."""
        height = self.chain.height + 1
        if height > len(STORY.forger.blocks) or self.chain.reigns.current.epoch:
            return
        try:
            self.chain.reigning.check_promise(height)
        except VerificationError:
            return
        self.chain.adopt(STORY.forger.blocks[height - 1])

    def restart(self) -> None:
        before, self.chain = self.chain, self._open()
        for block in STORY.forger.blocks[: before.height]:
            self.chain.adopt(block)
        for signed in before.reigning.handovers.values():
            self.chain.install(signed)
        before.close()

    @property
    def succession(self) -> Succession:
        return Succession(config(self.node), self.chain)


class Drill:
    """Five operators, who do what hypothesis tells them."""

    def __init__(self, heights: tuple[int, ...]) -> None:
        self.sites = [Site(node, height) for node, height in enumerate(heights)]
        self.proposals: list[SignedHandover] = []
        self.held: dict[bytes, dict[NodeId, int]] = {}
        """Height at which each signer stood when it signed, by fingerprint."""

    def do(self, act: Act) -> None:
        site = self.sites[act[1]]
        try:
            self._do(site, act)
        except SwarmError:
            pass  # refused, and told why
        except Died:
            site.restart()
        site.crash.point = None

    def _do(self, site: Site, act: Act) -> None:
        what, who, which, how = act
        at = which % max(1, len(self.proposals))
        if what == "propose":
            self.proposals.append(self._note(site, site.succession.propose(KEYS[who], sn(which).id, how or None)))
        elif what == "grow":
            site.grow()
        elif what == "restart":
            site.restart()
        elif self.proposals and what == "sign":
            site.crash.point = HandoverPoint(how) if how else None
            self.proposals[at] = self._note(site, site.succession.sign(KEYS[who], self.proposals[at]))
        elif self.proposals:
            site.succession.install([self.proposals[at]])

    def _note(self, site: Site, signed: SignedHandover) -> SignedHandover:
        self.held.setdefault(signed.handover.fingerprint, {})[sn(site.node).id] = site.chain.height
        return signed

    def certified(self) -> dict[int, Handover]:
        """The handovers with a majority, by number; there must not be two of one."""
        found: dict[int, Handover] = {}
        voters = {sn(i).id: key.public for i, key in enumerate(KEYS)}
        for signed in self.proposals:
            handover = signed.handover
            parts = [a for other in self.proposals if other.handover == handover for a in other.approvals]
            signers = signers_of(merge_approvals(handover, parts), voters)
            # A signature is only ever made where the tip is the signer's last block.
            assert all(self.held[handover.fingerprint][signer] == handover.height for signer in signers)
            if len(signers) >= 3:
                assert found.setdefault(handover.epoch, handover) == handover
        return found


@given(acts=ACTS, heights=st.tuples(*[st.integers(1, 3)] * 5))
@settings(max_examples=100, deadline=None)
def test_l26_of_one_number_at_most_one_handover_has_a_majority_and_no_signer_loses_a_block(
    acts: list[Act], heights: tuple[int, ...]
) -> None:
    drill = Drill(heights)
    for act in acts:
        drill.do(act)
    certified = drill.certified()
    for site in drill.sites:
        for epoch, kept in site.chain.reigning.handovers.items():
            assert certified[epoch] == kept.handover
        # Who signed has nothing of the old sentinel's beyond what was handed over.
        promised = site.chain.reigning.promised
        if promised is not None:
            assert site.chain.height <= max(promised.height, site.chain.reigns.current.after)
        site.chain.close()


def test_l26_the_test_above_does_reach_majorities() -> None:
    sites = [Site(node, 2) for node in range(5)]
    signed = sites[1].succession.propose(KEYS[1], None, None)
    for who in (2, 3):
        signed = sites[who].succession.sign(KEYS[who], signed)
    sites[4].succession.install([signed])
    assert sites[4].chain.reigns.current.sentinel == sn(1).id
    for site in sites:
        site.chain.close()


def test_l29_a_block_of_the_old_sentinel_beyond_the_handover_is_refused_by_its_signature(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            await swarm.kill(0)
            await swarm.hand_over(1, [1, 2, 3])
            tip = swarm.ledger(3).block(4)
            assert tip is not None
            await until(lambda: swarm.ledger(3).sentinel == sn(1).id, "it knows of the handover")
            late = Forger(swarm.key).block([b"late=1"], height=5, previous_hash=hash_header(tip.header))
            served = Liar()
            served.calls = dict(swarm.ledger(1).calls)
            await swarm.kill(1)

            async def blocks(caller: Caller, body: bytes) -> bytes:
                return encode(BlocksReply(height=5, blocks=(encode(late),)))

            served.calls = {HANDOVERS: Liar().calls[HANDOVERS], "ledger/blocks": blocks}
            swarm.network.serve(sn(1), address(1).endpoint, served)
            await until(lambda: "block 5: the sentinel's signature does not hold" in swarm.ledger(3).problem, "refused")
            assert swarm.ledger(3).height == 4
            assert asyncio.get_running_loop().time() < 120

    run_virtual(work())


def test_l27_a_block_that_waits_for_the_clock_is_not_taken_after_a_handover_came_in_between(tmp_path: Path) -> None:
    async def work() -> None:
        async with Hospitals(tmp_path) as swarm:
            for index in (1, 2):
                await swarm.kill(index)
            tip = swarm.ledger(3).block(4)
            assert tip is not None
            ahead = Forger(swarm.key).block(
                [b"ahead=1"], height=5, previous_hash=hash_header(tip.header), time_ms=START_MS + 600_000
            )
            story = Liar()

            async def blocks(caller: Caller, body: bytes) -> bytes:
                return encode(BlocksReply(height=5, blocks=(encode(ahead),)))

            story.calls = {HANDOVERS: story.calls[HANDOVERS], "ledger/blocks": blocks}
            await swarm.kill(0)
            swarm.network.serve(sn(0), address(0).endpoint, story)
            await until(lambda: "ahead of this node's clock" in swarm.ledger(3).problem, "the block waits")
            swarm.install(1, swarm.sign(0, swarm.sign(2, swarm.propose(1))))
            swarm.nodes[1].follows = None
            await swarm.start(1)
            await until(lambda: swarm.ledger(3).sentinel == sn(1).id, "it learns of the handover by comparing")
            assert await submit(swarm, 1, b"on=1") == 5
            swarm.network.stop(sn(0))
            await asyncio.sleep(650)  # virtual time: the clocks agree by now
            assert swarm.log(3) == swarm.log(1)

    run_virtual(work())
