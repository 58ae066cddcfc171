"""Proofs of the embedded engine (docs/spec/proofs.md): what holds, and that nothing that was changed does."""

import asyncio
from collections.abc import Callable
from functools import cache

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_support import GENESIS, NETWORK, EmbeddedSwarm, Forger, run_virtual, sn

from swarmlearning.encoding import decode, encode, merkle_root, sha256
from swarmlearning.errors import PeerError, VerificationError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded.blocks import SignedHeader
from swarmlearning.ledger.embedded.handovers import Handover
from swarmlearning.ledger.embedded.proofs import EmbeddedProof, make_proof, verify_proof
from swarmlearning.ledger.proofs import Anchor, Part, Step, Whole, prove_part, verify_content

LIMIT_S = 60.0


def anchor(key: SigningKey, *handovers: Handover) -> Anchor:
    return Anchor(
        network=NETWORK,
        genesis_hash=sha256(GENESIS),
        sentinel=sn(0).id,
        sentinel_key=key.public,
        handovers=frozenset(handover.fingerprint for handover in handovers),
    )


class Past:
    """Three blocks of sentinel 0, a handover to 1, and two of that one's."""

    def __init__(self) -> None:
        self.keys = [SigningKey.create() for _ in range(2)]
        forger = Forger(self.keys[0])
        first = [forger.add([b"block%d=%d" % (number, tx) for tx in range(5)]) for number in range(3)]
        self.handover = Handover(
            network=NETWORK, epoch=1, tip=first[-1].signed_header, sentinel=sn(1).id, key=self.keys[1].public
        )
        forger.key = self.keys[1]
        later = [forger.add([b"later%d=%d" % (number, tx) for tx in range(3)], proposer=sn(1).id) for number in (4, 5)]
        self.blocks = first + later
        self.anchor = anchor(self.keys[0], self.handover)

    def proof(self, height: int, index: int | None) -> EmbeddedProof:
        return decode(make_proof(self.blocks[height - 1], [self.handover], index), EmbeddedProof)


@cache
def past() -> Past:
    return Past()


@given(st.integers(1, 70).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, count - 1))))
def test_pf1_each_transaction_has_a_way_to_the_root_and_no_other_has_it(case: tuple[int, int]) -> None:
    count, index = case
    txs = [b"tx %d" % number for number in range(count)]
    root = merkle_root([sha256(tx) for tx in txs])
    part = prove_part(txs, index)
    assert verify_content(part, root) == (txs[index],)
    assert verify_content(Whole(txs=tuple(txs)), root) == tuple(txs)
    for wrong in (
        msgspec.structs.replace(part, tx=b"tx %d" % count),
        msgspec.structs.replace(part, path=(*part.path, Step(left=False, neighbour=bytes(32)))),
        *(msgspec.structs.replace(part, path=part.path[:at] + part.path[at + 1 :]) for at in range(len(part.path))),
        *(_turned(part, at) for at in range(len(part.path))),
    ):
        with pytest.raises(VerificationError, match="lead to the root"):
            verify_content(wrong, root)


def _turned(part: Part, at: int) -> Part:
    """The same way, but with the neighbour on the other side."""
    step = part.path[at]
    turned = Step(left=not step.left, neighbour=step.neighbour)
    return Part(tx=part.tx, path=(*part.path[:at], turned, *part.path[at + 1 :]))


def test_pf1_an_inner_node_passes_for_no_transaction() -> None:
    txs = [b"a", b"b"]
    root = merkle_root([sha256(tx) for tx in txs])
    inner = b"".join(sha256(b"\x00", sha256(tx)) for tx in txs)
    for forged in (inner, b"\x01" + inner):
        with pytest.raises(VerificationError):
            verify_content(Part(tx=forged, path=()), root)
    with pytest.raises(VerificationError):
        verify_content(Whole(txs=(b"a",)), root)
    with pytest.raises(VerificationError):
        verify_content(Whole(txs=(b"b", b"a")), root)


def test_pf6_a_running_engine_proves_every_transaction_and_every_block() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(2) as swarm:
            txs = [b"key%d=1" % number for number in range(7)]
            await asyncio.gather(*(swarm.ledger(0).submit(tx, timeout_s=LIMIT_S) for tx in txs))
            await swarm.ledger(1).wait_height(swarm.ledger(0).height - 1)
            for ledger in (swarm.ledger(0), swarm.ledger(1)):
                for tx in txs:
                    proof = await ledger.prove_tx(sha256(tx))
                    assert proof is not None
                    proven = verify_proof(proof.body, anchor(swarm.key))
                    assert proof.txs == proven.txs == (tx,)
                    block = ledger.block(proven.height)
                    assert block is not None
                    assert (proven.time_ms, proven.proposer) == (block.header.time_ms, sn(0).id)
                    assert (proven.is_whole, tx in block.txs) == (False, True)
                whole = await ledger.prove(1)
                first = await ledger.stored(1)
                assert whole is not None
                assert first is not None
                proven = verify_proof(whole.body, anchor(swarm.key))
                assert (proven.txs, proven.block_hash, proven.is_whole) == (first.txs, first.hash, True)
                assert await ledger.prove_tx(sha256(b"never=1")) is None
                assert await ledger.prove(ledger.height + 1) is None
                assert await ledger.stored(ledger.height + 1) is None
                assert await ledger.stored(0) is None

    run_virtual(work())


def test_pf6_a_block_is_told_with_what_came_of_each_transaction() -> None:
    async def work() -> None:
        async with EmbeddedSwarm(1) as swarm:
            txs = (b"a=1", b"!b")
            results = await asyncio.gather(*(swarm.ledger(0).submit(tx, timeout_s=LIMIT_S) for tx in txs))
            told = [block for h in range(1, swarm.ledger(0).height + 1) if (block := await swarm.ledger(0).stored(h))]
            found = {tx: result for block in told for tx, result in zip(block.txs, block.results, strict=True)}
            assert found == {tx: result for tx, (_, result) in zip(txs, results, strict=True)}

    run_virtual(work())


@pytest.mark.parametrize(("height", "index", "voucher"), [(1, 2, 0), (3, 4, 0), (4, 0, 1), (5, 2, 1), (5, None, 1)])
def test_pf7_a_block_is_proven_by_the_sentinel_that_ordered_it(height: int, index: int | None, voucher: int) -> None:
    proven = verify_proof(encode(past().proof(height, index)), past().anchor)
    assert (proven.height, proven.proposer) == (height, sn(voucher).id)
    assert sn(voucher).id in proven.vouchers[0]
    assert ("handover 1, after block 3" in proven.vouchers[0]) == bool(voucher)


def test_pf7_a_handover_that_nobody_vouched_for_is_not_believed_and_the_line_says_whom_to_ask() -> None:
    data = encode(past().proof(4, 0))
    with pytest.raises(VerificationError, match=past().handover.fingerprint.hex()) as caught:
        verify_proof(data, anchor(past().keys[0]))
    assert "--handover" in str(caught.value)
    # One block further down the old sentinel ordered, and nobody needs to be asked.
    verify_proof(encode(past().proof(3, 0)), anchor(past().keys[0]))


def test_pf7_a_handover_of_another_network_is_none_here_whoever_vouches_for_it() -> None:
    foreign = msgspec.structs.replace(past().handover, network="other")
    proof = msgspec.structs.replace(past().proof(5, 0), handovers=(foreign,))
    with pytest.raises(VerificationError, match="handover 1 is of network 'other'"):
        verify_proof(encode(proof), anchor(past().keys[0], foreign))


def changes() -> dict[str, Callable[[EmbeddedProof], EmbeddedProof]]:
    """What a forger may do to the proof of transaction 1 of block 5, by name."""
    other = past().proof(4, 1)

    def header(**fields: object) -> Callable[[EmbeddedProof], EmbeddedProof]:
        def change(proof: EmbeddedProof) -> EmbeddedProof:
            changed = msgspec.structs.replace(proof.header.header, **fields)
            return msgspec.structs.replace(proof, header=SignedHeader(header=changed, signature=proof.header.signature))

        return change

    def handover(**fields: object) -> Callable[[EmbeddedProof], EmbeddedProof]:
        def change(proof: EmbeddedProof) -> EmbeddedProof:
            return msgspec.structs.replace(proof, handovers=(msgspec.structs.replace(proof.handovers[0], **fields),))

        return change

    def put(**fields: object) -> Callable[[EmbeddedProof], EmbeddedProof]:
        return lambda proof: msgspec.structs.replace(proof, **fields)

    def resigned(proof: EmbeddedProof) -> EmbeddedProof:
        signed = SignedHeader(header=proof.header.header, signature=other.header.signature)
        return msgspec.structs.replace(proof, header=signed)

    return {
        "network": header(network="other"),
        "height": header(height=6),
        "time": header(time_ms=1),
        "previous": header(previous_hash=bytes(32)),
        "root": header(txs_root=sha256(b"")),
        "state": header(app_hash=bytes(32)),
        "proposer": header(proposer=sn(0).id),
        "signature of another block": resigned,
        "another block's header": put(header=other.header),
        "another block's transaction": put(content=other.content),
        "no handover": put(handovers=()),
        "handover twice": put(handovers=(past().handover, past().handover)),
        "handover's number": handover(epoch=2),
        "handover's network": handover(network="other"),
        "handover's tip": handover(tip=past().blocks[1].signed_header),
        "handover's sentinel": handover(sentinel=sn(2).id),
        "handover's key": handover(key=SigningKey.create().public),
    }


@pytest.mark.parametrize("what", changes())
def test_pf2_a_changed_field_proves_nothing(what: str) -> None:
    proof = past().proof(5, 1)
    verify_proof(encode(proof), past().anchor)
    changed = changes()[what](proof)
    assert changed != proof
    with pytest.raises(VerificationError):
        verify_proof(encode(changed), past().anchor)


@given(st.sampled_from([(1, 0), (2, None), (5, 1), (5, None)]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_pf2_a_changed_byte_proves_nothing(case: tuple[int, int | None], where: float, change: int) -> None:
    data = bytearray(encode(past().proof(*case)))
    data[int(where * len(data))] ^= change
    with pytest.raises(PeerError):
        verify_proof(bytes(data), past().anchor)


@given(st.floats(0, 1, exclude_max=True))
def test_pf2_half_a_proof_proves_nothing(where: float) -> None:
    data = encode(past().proof(5, 1))
    with pytest.raises(PeerError):
        verify_proof(data[: int(where * len(data))], past().anchor)
    with pytest.raises(PeerError):
        verify_proof(data + data[:1], past().anchor)


def test_pf6_the_wrong_genesis_proves_nothing() -> None:
    data = encode(past().proof(1, 0))
    right = past().anchor
    for wrong, reason in (
        (msgspec.structs.replace(right, network="other"), "is of network"),
        (msgspec.structs.replace(right, sentinel_key=SigningKey.create().public), "signature does not hold"),
        (msgspec.structs.replace(right, sentinel=sn(1).id), "was made by"),
        (msgspec.structs.replace(right, genesis_hash=sha256(b"another")), "follows the genesis"),
    ):
        with pytest.raises(VerificationError, match=reason):
            verify_proof(data, wrong)


def test_pf6_the_first_block_of_a_new_sentinel_follows_the_handovers_tip() -> None:
    forger = Forger(past().keys[1])
    forger.blocks = past().blocks[:3]
    astray = forger.block(proposer=sn(1).id, previous_hash=sha256(b"elsewhere"))
    with pytest.raises(VerificationError, match="handover 1 was after"):
        verify_proof(make_proof(astray, [past().handover], 0), past().anchor)


def test_pf8_a_former_sentinel_is_not_believed_above_a_handover_that_comes_with_the_proof() -> None:
    forger = Forger(past().keys[0])
    forger.blocks = past().blocks[:4]
    void = forger.block()
    with pytest.raises(VerificationError, match="signature does not hold"):
        verify_proof(make_proof(void, [past().handover], 0), past().anchor)
    # It cannot be found out where the prover conceals the handover: this is what the page says.
    assert verify_proof(make_proof(void, [], 0), past().anchor).height == 5
