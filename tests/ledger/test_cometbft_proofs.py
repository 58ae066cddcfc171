"""Proofs of the engine on CometBFT (docs/spec/proofs.md), against what a real network of `cometbft` processes said.

The golden file is `make_cometbft_golden.py`'s: four validators, one of them silent after a while; two leave in one
block, and one comes back.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError, PeerError, Refused, VerificationError
from swarmlearning.identity.signing import SigningKey, verify_signature
from swarmlearning.ledger.boundary import StoredBlock, TxResult
from swarmlearning.ledger.cometbft.answers import (
    BlockAnswer,
    CommitAnswer,
    ValidatorsAnswer,
    read_commit,
    read_header,
    read_members,
    read_time,
)
from swarmlearning.ledger.cometbft.archive import CometArchive
from swarmlearning.ledger.cometbft.headers import (
    CometHeader,
    Commit,
    Instant,
    Member,
    Vote,
    hash_header,
    hash_members,
    order_members,
    vote_bytes,
)
from swarmlearning.ledger.cometbft.proofs import CometProof, Link, first_members, verify_proof
from swarmlearning.ledger.proofs import Anchor, Part, prove_part
from swarmlearning.types import Code, Endpoint, NodeId, TrustDomain, Validator

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "cometbft.json").read_text())
HEIGHTS = [int(height) for height in GOLDEN["blocks"]]
WITH_TXS = [h for h in HEIGHTS if GOLDEN["blocks"][str(h)]["tx_proofs"]]
LEAVING = 4
"""Two validators are taken away by this block."""
T = TypeVar("T")


def told(height: int, method: str, kind: type[T]) -> T:
    return msgspec.convert(GOLDEN["blocks"][str(height)][method], kind, strict=True)


def header(height: int) -> CometHeader:
    return read_header(told(height, "commit", CommitAnswer).signed_header.header)


def commit(height: int) -> Commit:
    return read_commit(told(height, "commit", CommitAnswer).signed_header.commit)


def members(height: int) -> tuple[Member, ...]:
    return read_members(told(height, "validators", ValidatorsAnswer).validators)


def anchor() -> Anchor:
    validators = []
    for number, key in enumerate(GOLDEN["keys"]):
        domain = TrustDomain(f"org{number}.example")
        endpoint = Endpoint(host="127.0.0.1", port=26656)
        validators.append((domain, Validator(key=bytes.fromhex(key), peer="0" * 40, endpoint=endpoint)))
    return Anchor(
        network=GOLDEN["chain_id"],
        genesis_hash=bytes(32),
        sentinel=NodeId(""),
        sentinel_key=b"",
        validators=tuple(validators),
    )


class GoldenChild:
    """Answers as the network's first node did; keeps blocks from `lowest` on."""

    def __init__(self, lowest: int = 1) -> None:
        self.lowest = lowest
        self.asked: list[tuple[str, int]] = []
        self.page = 100

    async def __call__(self, method: str, params: dict[str, Any], kind: type[T]) -> T:
        if method == "status":
            info = {"earliest_block_height": str(self.lowest), "latest_block_height": str(HEIGHTS[-1])}
            return msgspec.convert({"sync_info": info}, kind)
        height = int(params["height"])
        self.asked.append((method, height))
        if height < self.lowest:
            raise Refused(f"height {height} is not available, lowest height is {self.lowest}", code="rpc")
        answer = GOLDEN["blocks"][str(height)][method]
        if method == "validators":
            at = (int(params["page"]) - 1) * self.page
            answer = {**answer, "validators": answer["validators"][at : at + self.page]}
        return msgspec.convert(answer, kind)


def archive(child: GoldenChild | None = None, first: tuple[Member, ...] | None = None) -> CometArchive:
    ok = TxResult(code=Code.OK)
    where = {sha256(tx): (height, ok) for height in HEIGHTS for tx in told(height, "block", BlockAnswer).txs}
    return CometArchive(
        GOLDEN["chain_id"],
        first_members(validator for _, validator in anchor().validators) if first is None else first,
        child or GoldenChild(),
        lambda: HEIGHTS[-1],
        where.get,
    )


@cache
def proof(height: int, index: int | None = 0) -> CometProof:
    async def make() -> bytes:
        if index is None:
            found = await archive().prove(height)
        else:
            found = await archive().prove_tx(sha256(told(height, "block", BlockAnswer).txs[index]))
        assert found is not None
        return found.body

    return decode(asyncio.run(make()), CometProof, limit=1 << 22)


# --- hashes and signatures, against the real thing ----------------------------------------------------------------


@pytest.mark.parametrize("height", HEIGHTS)
def test_pf11_headers_validators_and_transactions_hash_as_cometbft_hashes_them(height: int) -> None:
    found = header(height)
    block = told(height, "block", BlockAnswer)
    assert hash_header(found).hex().upper() == block.block_id.hash
    assert hash_members(members(height)) == found.validators
    assert order_members(members(height)) == members(height)
    if str(height + 1) in GOLDEN["blocks"]:
        assert header(height + 1).last_block.hash == hash_header(found)
        assert hash_members(members(height + 1)) == found.next_validators
    assert first_members(validator for _, validator in anchor().validators) == members(1)


@pytest.mark.parametrize("height", HEIGHTS)
def test_pf11_validators_sign_the_canonical_vote(height: int) -> None:
    found, of = header(height), {member.address: member.key for member in members(height)}
    votes = commit(height).votes
    assert 2 <= len(votes) <= len(of)
    for vote in votes:
        signed = vote_bytes(found, hash_header(found), commit(height), vote)
        verify_signature(of[vote.address], b"", signed, vote.signature)


def test_pf11_the_golden_network_has_votes_that_are_missing_and_validators_that_come_and_go() -> None:
    assert [len(members(height)) for height in (1, LEAVING + 1, LEAVING + 2, HEIGHTS[-1])] == [4, 4, 2, 3]
    assert len(commit(LEAVING).votes) == 3


@pytest.mark.parametrize("height", WITH_TXS)
def test_pf1_cometbft_and_we_have_the_same_way_to_the_root(height: int) -> None:
    txs = told(height, "block", BlockAnswer).txs
    for index, theirs in enumerate(GOLDEN["blocks"][str(height)]["tx_proofs"]):
        ours = prove_part(txs, index)
        assert [step.neighbour for step in ours.path] == [base64.b64decode(aunt) for aunt in theirs.get("aunts") or []]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", Instant(seconds=0, nanos=0)),
        ("2026-11-25T16:50:01.5Z", Instant(seconds=1795625401, nanos=500_000_000)),
        ("2026-11-25T16:50:01.000000001Z", Instant(seconds=1795625401, nanos=1)),
    ],
)
def test_pf11_times_are_read_to_the_nanosecond(text: str, expected: Instant) -> None:
    assert read_time(text) == expected


@pytest.mark.parametrize("text", ["", "0001-01-01T00:00:00Z", "2026-11-25T16:50:01+01:00", "2026-13-25T16:50:01Z"])
def test_pf11_what_is_no_time_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):
        read_time(text)


# --- proofs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", HEIGHTS)
def test_pf12_every_block_and_transaction_is_proven_from_the_genesis(height: int) -> None:
    txs = told(height, "block", BlockAnswer).txs
    for index in [None, *range(len(txs))]:
        proven = verify_proof(encode(proof(height, index)), anchor())
        assert (proven.height, proven.block_hash) == (height, hash_header(header(height)))
        assert proven.txs == (txs if index is None else (txs[index],))
        assert proven.is_whole == (index is None)
        assert proven.time_ms == header(height).time.milliseconds
        count = len(commit(height).votes)
        assert proven.vouchers[0].startswith(f"{count} of {len(members(height))} validators: org")
        assert proven.proposer.startswith("org")


def test_pf13_a_proof_has_as_few_links_as_it_takes() -> None:
    def heights(height: int) -> list[int]:
        return [link.header.height for link in proof(height, None).links]

    assert heights(1) == [1]
    assert heights(LEAVING + 1) == [LEAVING + 1]
    # Two of four left at once: only the block before says who votes then.
    assert heights(LEAVING + 2) == [LEAVING + 1, LEAVING + 2]
    assert [bool(link.next_members) for link in proof(LEAVING + 2, None).links] == [True, False]
    # Three of the first four vote again: no link in between.
    assert heights(HEIGHTS[-1]) == [HEIGHTS[-1]]


def test_pf13_validators_are_asked_for_page_by_page() -> None:
    child = GoldenChild()
    child.page = 3

    async def work() -> None:
        found = await archive(child).prove(2)
        assert found is not None
        assert verify_proof(found.body, anchor()).height == 2

    asyncio.run(work())
    assert child.asked.count(("validators", 2)) == 2


def test_pf13_what_cannot_be_followed_from_the_genesis_is_said_instead_of_proven() -> None:
    strangers = tuple(Member(key=SigningKey.create().public, power=10) for _ in range(4))

    async def work() -> None:
        with pytest.raises(Broken, match="block 1 cannot be proven from the genesis"):
            await archive(first=strangers).prove(5)
        with pytest.raises(Refused, match="not kept here any more"):
            await archive(GoldenChild(lowest=LEAVING + 2)).prove(LEAVING + 2)

    asyncio.run(work())


def test_pf13_a_block_that_is_not_there_or_not_any_more_is_none() -> None:
    async def work() -> None:
        kept = archive(GoldenChild(lowest=5))
        assert await kept.lowest() == 5
        for height in (0, 4, HEIGHTS[-1] + 1):
            assert await kept.stored(height) is None
            assert await kept.prove(height) is None
        assert await kept.prove_tx(bytes(32)) is None
        old = told(2, "block", BlockAnswer).txs[0]
        assert await kept.prove_tx(sha256(old)) is None

    asyncio.run(work())


@pytest.mark.parametrize("height", HEIGHTS)
def test_pf9_a_block_is_told_with_its_results(height: int) -> None:
    async def work() -> StoredBlock | None:
        return await archive().stored(height)

    block = asyncio.run(work())
    assert block is not None
    assert block.hash == hash_header(header(height))
    assert block.txs == told(height, "block", BlockAnswer).txs
    assert block.results == (TxResult(code=Code.OK),) * len(block.txs)
    assert block.proposer == header(height).proposer.hex()


def test_pf9_a_transaction_that_was_not_committed_here_is_not_exported() -> None:
    def nothing(tx_hash: bytes) -> tuple[int, TxResult] | None:
        return None

    def elsewhere(tx_hash: bytes) -> tuple[int, TxResult] | None:
        return 7, TxResult(code=Code.OK)

    for find, expected in ((nothing, "is unknown here"), (elsewhere, "is of block 7 here")):
        kept = CometArchive(GOLDEN["chain_id"], (), GoldenChild(), lambda: HEIGHTS[-1], find)
        with pytest.raises(Broken, match=expected):
            asyncio.run(kept.stored(2))


# --- what does not hold -------------------------------------------------------------------------------------------


def in_link(change: Callable[[Link], Link], which: int = -1) -> Callable[[CometProof], CometProof]:
    def changed(proof: CometProof) -> CometProof:
        links = list(proof.links)
        links[which] = change(links[which])
        return replace(proof, links=tuple(links))

    return changed


def in_header(**fields: object) -> Callable[[CometProof], CometProof]:
    return in_link(lambda link: replace(link, header=replace(link.header, **fields)))


def in_commit(**fields: object) -> Callable[[CometProof], CometProof]:
    return in_link(lambda link: replace(link, commit=replace(link.commit, **fields)))


def in_vote(**fields: object) -> Callable[[CometProof], CometProof]:
    def change(link: Link) -> Link:
        first, *others = link.commit.votes
        return replace(link, commit=replace(link.commit, votes=(replace(first, **fields), *others)))

    return in_link(change)


OTHER = bytes(range(32))
CHANGES: dict[str, Callable[[CometProof], CometProof]] = {
    **{
        f"header's {name}": in_header(**{name: OTHER})
        for name in (
            "last_commit", "data", "validators", "next_validators", "consensus", "app", "last_results", "evidence",
        )
    },
    "header's proposer": in_header(proposer=OTHER[:20]),
    "header's versions": in_header(block_version=10),
    "header's application's version": in_header(app_version=2),
    "header's network": in_header(chain_id="other"),
    "header's height": in_header(height=LEAVING + 3),
    "header's time": in_header(time=Instant(seconds=1, nanos=2)),
    "header's block before": in_link(
        lambda link: replace(link, header=replace(link.header, last_block=replace(link.header.last_block, hash=OTHER)))
    ),
    "commit's round": in_commit(round=1),
    "commit's parts": in_link(
        lambda link: replace(link, commit=replace(link.commit, parts=replace(link.commit.parts, total=2)))
    ),
    "no votes": in_commit(votes=()),
    "vote's time": in_vote(time=Instant(seconds=1, nanos=2)),
    "vote's signature": in_vote(signature=bytes(64)),
    "vote's validator": in_vote(address=OTHER[:20]),
    "votes in another order": in_link(
        lambda link: replace(link, commit=replace(link.commit, votes=link.commit.votes[::-1]))
    ),
    "a vote twice": in_link(
        lambda link: replace(link, commit=replace(link.commit, votes=(link.commit.votes[0], *link.commit.votes)))
    ),
    "a validator less": in_link(lambda link: replace(link, members=link.members[1:])),
    "a validator's power": in_link(
        lambda link: replace(link, members=(replace(link.members[0], power=11), *link.members[1:]))
    ),
    "next validators": in_link(lambda link: replace(link, next_members=link.members), which=0),
    "next validators of the block itself": in_link(lambda link: replace(link, next_members=link.members)),
    "no link before": lambda proof: replace(proof, links=proof.links[-1:]),
    "a link twice": lambda proof: replace(proof, links=(proof.links[0], *proof.links)),
    "links in another order": lambda proof: replace(proof, links=proof.links[::-1]),
    "another transaction": lambda proof: replace(proof, content=Part(tx=b"x=1", path=())),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_pf2_a_changed_field_proves_nothing(what: str) -> None:
    right = proof(LEAVING + 2)
    verify_proof(encode(right), anchor())
    changed = CHANGES[what](right)
    assert changed != right
    with pytest.raises(VerificationError):
        verify_proof(encode(changed), anchor())


@given(st.sampled_from(WITH_TXS), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_pf2_a_changed_byte_proves_nothing(height: int, where: float, change: int) -> None:
    data = bytearray(encode(proof(height)))
    data[int(where * len(data))] ^= change
    with pytest.raises(PeerError):
        verify_proof(bytes(data), anchor())


@pytest.mark.parametrize(("votes", "holds"), [(4, True), (3, True), (2, False), (0, False)])
def test_pf12_more_than_two_thirds_must_have_signed(votes: int, holds: bool) -> None:
    right = proof(2)
    fewer = in_commit(votes=right.links[0].commit.votes[:votes])(right)
    assert len(right.links[0].commit.votes) == 4
    if holds:
        verify_proof(encode(fewer), anchor())
    else:
        with pytest.raises(VerificationError, match=f"signed by {10 * votes} of the voting power 40 of its own"):
            verify_proof(encode(fewer), anchor())


class Forgery:
    """A chain of a few who vote with themselves, and make of the rest of the genesis's validators what they like."""

    def __init__(self, count: int) -> None:
        self.keys = [SigningKey.create() for _ in range(count)]
        self.members = order_members([Member(key=key.public, power=10) for key in self.keys])

    def link(self, height: int, members: tuple[Member, ...], then: tuple[Member, ...], told: bool = False) -> Link:
        forged = replace(header(2), height=height, validators=hash_members(members), next_validators=hash_members(then))
        empty = Commit(round=0, parts=commit(2).parts, votes=())
        votes = []
        for key in self.keys:
            vote = Vote(address=sha256(key.public)[:20], time=Instant(seconds=1, nanos=1), signature=bytes(64))
            if any(member.key == key.public for member in members):
                signature = key.sign(b"", vote_bytes(forged, hash_header(forged), empty, vote))
                votes.append(replace(vote, signature=signature))
        votes.sort(key=lambda vote: vote.address)
        told_next = then if told else ()
        return Link(header=forged, commit=replace(empty, votes=tuple(votes)), members=members, next_members=told_next)

    def trusting(self, count: int) -> Anchor:
        """A genesis in which the first `count` of four are these."""
        keys = [key.public for key in self.keys[:count]] + [SigningKey.create().public for _ in range(4 - count)]
        endpoint = Endpoint(host="h", port=1)
        named = [
            (TrustDomain(f"d{k}"), Validator(key=key, peer="0" * 40, endpoint=endpoint)) for k, key in enumerate(keys)
        ]
        return replace(anchor(), validators=tuple(named))


def test_pf13_validators_that_the_known_ones_did_not_choose_prove_nothing() -> None:
    forgery = Forgery(4)
    content = proof(2).content
    link = forgery.link(9, forgery.members, forgery.members)
    for known, holds in ((4, True), (3, True), (2, False), (0, False)):
        data = encode(CometProof(links=(link,), content=content))
        if holds:
            assert verify_proof(data, forgery.trusting(known)).height == 9
        else:
            with pytest.raises(VerificationError, match=f"{10 * known} of the voting power 40 of the validators known"):
                verify_proof(data, forgery.trusting(known))


def test_pf13_two_thirds_of_the_known_are_not_enough_where_they_are_a_minority_of_the_new() -> None:
    forgery = Forgery(4)
    crowd = order_members([*forgery.members, *(Member(key=SigningKey.create().public, power=10) for _ in range(2))])
    data = encode(CometProof(links=(forgery.link(9, crowd, crowd),), content=proof(2).content))
    with pytest.raises(VerificationError, match="40 of the voting power 60 of its own validators"):
        verify_proof(data, forgery.trusting(4))


def test_pf13_who_vote_next_are_believed_as_the_signed_header_has_them() -> None:
    old, new = Forgery(4), Forgery(3)
    content = proof(2).content
    handed = old.link(5, old.members, new.members, told=True)
    after = new.link(6, new.members, new.members)
    assert verify_proof(encode(CometProof(links=(handed, after), content=content)), old.trusting(4)).height == 6
    without = replace(handed, next_members=())
    with pytest.raises(VerificationError, match="0 of the voting power 40 of the validators known before"):
        verify_proof(encode(CometProof(links=(without, after), content=content)), old.trusting(4))
    back = new.link(5, new.members, new.members)
    with pytest.raises(VerificationError, match="block 5 comes after block 5"):
        verify_proof(encode(CometProof(links=(handed, back), content=content)), old.trusting(4))


def test_pf13_who_vote_next_is_not_for_the_prover_to_say() -> None:
    old, evil = Forgery(4), Forgery(3)
    honest = old.link(5, old.members, old.members)
    links = (replace(honest, next_members=evil.members), evil.link(6, evil.members, evil.members))
    with pytest.raises(VerificationError, match="the next validators told of are not those of its header"):
        verify_proof(encode(CometProof(links=links, content=proof(2).content)), old.trusting(4))


def test_pf12_the_proof_of_another_network_proves_nothing() -> None:
    with pytest.raises(VerificationError, match="block 2 is of network 'golden'; expected 'other'"):
        verify_proof(encode(proof(2)), replace(anchor(), network="other"))


def test_pf11_validators_are_in_order_of_power_then_address() -> None:
    weak = [Member(key=SigningKey.create().public, power=5) for _ in range(20)]
    strong = Member(key=SigningKey.create().public, power=10)
    assert order_members([*weak, strong])[0] == strong
    equal = [Member(key=SigningKey.create().public, power=10) for _ in range(9)]
    assert [member.address for member in order_members(equal)] == sorted(member.address for member in equal)


def test_pf14_who_left_is_believed_where_two_thirds_of_them_lie_and_not_where_fewer_do() -> None:
    old, new = Forgery(4), Forgery(3)
    content = proof(2).content
    handed = old.link(5, old.members, new.members, told=True)
    # They handed over, and sign another block later on. This the page admits; a verifier cannot know.
    late = old.link(9, old.members, old.members)
    assert verify_proof(encode(CometProof(links=(late,), content=content)), old.trusting(4)).height == 9
    fewer = replace(late, commit=replace(late.commit, votes=late.commit.votes[:2]))
    with pytest.raises(VerificationError, match="signed by 20 of the voting power 40"):
        verify_proof(encode(CometProof(links=(fewer,), content=content)), old.trusting(4))
    # Nor does it help them where the proof tells of the handing over.
    with pytest.raises(VerificationError, match="0 of the voting power 30 of the validators known before"):
        verify_proof(encode(CometProof(links=(handed, late), content=content)), old.trusting(4))


def test_pf12_where_a_sentinel_orders_no_votes_count() -> None:
    with pytest.raises(VerificationError, match="0 of the voting power 0"):
        verify_proof(encode(proof(2)), replace(anchor(), validators=()))


def test_pf11_a_key_of_another_kind_is_named() -> None:
    changed = json.loads(json.dumps(GOLDEN["blocks"]["1"]["validators"]))
    changed["validators"][0]["pub_key"]["type"] = "tendermint/PubKeySecp256k1"
    with pytest.raises(DecodeError, match="PubKeySecp256k1"):
        read_members(msgspec.convert(changed, ValidatorsAnswer).validators)
