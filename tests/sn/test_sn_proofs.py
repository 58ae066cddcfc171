"""What an SN tells of its past, and proofs in files (docs/spec/proofs.md; docs/spec/access.md, A-10, A-11)."""

import asyncio
import json
from collections.abc import Coroutine
from functools import cache
from typing import Any

import pytest
from archive_world import HERE, SN, Registry, certificate, let_all_pass, member, registration
from chain_world import START_MS, key_of, private
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlearning.contracts.messages import CreateContract, Finish, RegisterNode, registration_bytes
from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import DecodeError, PeerError, Refused, VerificationError
from swarmlearning.ledger.boundary import StoredBlock, TxResult
from swarmlearning.ledger.embedded.proofs import EmbeddedProof
from swarmlearning.sn.api import STREAM_BLOCKS, STREAM_PROOF, BlocksRequest, ProofRequest
from swarmlearning.sn.archiving import MAX_AT_ONCE
from swarmlearning.sn.export import History, show_instant
from swarmlearning.sn.proofs import MAX_FILE_BYTES, ProofFile, verify_file
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, ContractName, NodeId, Role

A = ContractName("a")
OPERATOR = member(0, Role.OPERATOR)
SL = member(0)
MAY_READ_ALL = {Role.SN, Role.OPERATOR, Role.AUDITOR}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


async def story_of(registry: Registry) -> list[bytes]:
    """Some blocks: registrations, contracts, and messages that fail. Returns all that was ordered."""
    txs = await registry.register(SN)
    txs += await registry.register(SL, member(1))
    for number in range(4):
        more = [
            registry.sign(who, CreateContract(contract=ContractName(f"c{number}-{who.domain}")))
            for who in (SL, member(1))
        ]
        await registry.order(*more)
        txs += more
    return txs


@cache
def kept() -> tuple[Genesis, bytes, bytes, bytes]:
    """A genesis; the proofs of a transaction, of another one, and of a whole block."""
    found: list[Any] = []

    async def work() -> None:
        async with Registry.open() as registry:
            txs = await story_of(registry)
            client = registry.client(SL)
            found.append(registry.genesis)
            found.append(await client.proof(tx=sha256(txs[3])))
            found.append(await client.proof(tx=sha256(txs[6])))
            found.append(await client.proof(height=registry.ledger.height))

    run(work())
    return tuple(found)


@pytest.mark.parametrize("role", list(Role))
def test_a10_sns_operators_and_auditors_of_the_own_organisation_read_all_blocks(role: Role) -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await story_of(registry)
            blocks = registry.client(member(0, role)).blocks()
            if role in MAY_READ_ALL:
                assert [block.height async for block in blocks] == list(range(1, registry.ledger.height + 1))
            else:
                with pytest.raises(Refused, match="this needs one of: sn, operator, auditor"):
                    await anext(blocks)
            with pytest.raises(Refused, match="own organisation's SN"):
                await anext(registry.client(member(1, role)).blocks())

    run(work())


@pytest.mark.parametrize("role", list(Role))
def test_a11_every_role_of_the_own_organisation_gets_proofs(role: Role) -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            tx = (await registry.register(SL))[0]
            for data in (
                await registry.client(member(0, role)).proof(tx=sha256(tx)),
                await registry.client(member(0, role)).proof(height=1),
            ):
                assert verify_file(data, registry.genesis).txs[0].hash == sha256(tx)
            with pytest.raises(Refused, match="own organisation's SN"):
                await registry.client(member(1, role)).proof(tx=sha256(tx))

    run(work())


def test_a10_blocks_come_from_the_height_that_was_asked_for_to_the_last() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            client = registry.client(OPERATOR)
            assert [block async for block in client.blocks()] == []
            await story_of(registry)
            last = registry.ledger.height
            assert [block.height async for block in client.blocks(last)] == [last]
            assert [block async for block in client.blocks(last + 1)] == []
            with pytest.raises(Refused, match="from 1 on"):
                await anext(client.blocks(0))

    run(work())


def test_a10_one_node_has_two_exports_at_a_time_and_others_are_not_kept_from_theirs() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await story_of(registry)
            caller = registry.client(OPERATOR)
            under_way = [caller.blocks() for _ in range(MAX_AT_ONCE)]
            for blocks in under_way:
                await anext(blocks)
            with pytest.raises(Refused, match="under way here already") as caught:
                await anext(caller.blocks())
            assert caught.value.code == "busy"
            assert (await anext(registry.client(member(0, Role.AUDITOR)).blocks())).height == 1
            for blocks in under_way:
                await blocks.aclose()  # type: ignore[attr-defined]  # it is a generator
            assert (await anext(caller.blocks())).height == 1

    run(work())


@pytest.mark.parametrize(
    "request_",
    [
        ProofRequest(),
        ProofRequest(tx=bytes(31)),
        ProofRequest(tx=bytes(32), height=1),
        ProofRequest(height=-1),
        ProofRequest(tx=bytes(31), height=1),
    ],
)
def test_a11_a_proof_is_of_one_transaction_or_one_block(request_: ProofRequest) -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await registry.register(SL)
            frames = registry.network.client(SL).stream(HERE, STREAM_PROOF, encode(request_), idle_s=5)
            with pytest.raises(Refused, match="by its SHA-256, or of a block"):
                await anext(frames)

    run(work())


def test_a11_what_is_not_there_is_refused_by_name() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await registry.register(SL)
            for method in (STREAM_BLOCKS, STREAM_PROOF):
                with pytest.raises(PeerError):
                    await anext(registry.network.client(SN).stream(HERE, method, b"\xc1", idle_s=5))
            with pytest.raises(Refused, match=f"transaction {bytes(32).hex()} is in no block"):
                await registry.client(SL).proof(tx=bytes(32))
            with pytest.raises(Refused, match="block 2: this SN has 1 to 1"):
                await registry.client(SL).proof(height=2)

    run(work())


def test_pf4_who_signed_is_proven_by_the_registration_of_the_key() -> None:
    genesis, data, other, block = kept()
    verified = verify_file(data, genesis)
    (tx,) = verified.txs
    assert tx.message == CreateContract(contract=ContractName(f"c0-{SL.domain}"))
    assert tx.registration is not None
    assert (tx.registration.node, tx.registration.is_certified) == (SL.id, True)
    assert tx.registration.height < verified.block.height
    # In a whole block everybody's.
    assert all(tx.registration and tx.registration.is_certified for tx in verify_file(block, genesis).txs)
    # Nobody else's registration is taken, nor one twice.
    file, stranger = decode(data, ProofFile), decode(other, ProofFile)
    for registrations in ((*file.registrations, *file.registrations), (file.proof,), (stranger.proof,)):
        with pytest.raises(VerificationError, match="registers nobody who signed"):
            verify_file(encode(replace(file, registrations=registrations)), genesis)
    # Without one the key alone is proven.
    (unknown,) = verify_file(encode(replace(file, registrations=())), genesis).txs
    assert unknown.registration is None
    assert unknown.signer == tx.signer


def test_pf4_a_registration_says_itself_whose_its_key_is() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            tx = (await registry.register(SL))[0]
            data = await registry.client(SL).proof(tx=sha256(tx))
            assert decode(data, ProofFile).registrations == ()
            (proven,) = verify_file(data, registry.genesis).txs
            assert proven.registration is not None
            assert (proven.registration.node, proven.registration.is_certified) == (SL.id, True)

    run(work())


def test_pf4_a_key_that_was_given_up_is_proven_without_its_node() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await registry.register(SL)
            tx = registry.sign(SL, CreateContract(contract=A))
            await registry.order(tx)
            await registry.order(registry.sign(SL, registration(SL, salt="new"), salt="new"))
            (proven,) = verify_file(await registry.client(SL).proof(tx=sha256(tx)), registry.genesis).txs
            assert proven.registration is None

    run(work())


def test_pf5_an_authority_that_the_genesis_does_not_name_certifies_nobody() -> None:
    genesis, data, _, _ = kept()
    names = {o.domain: o for o in genesis.organisations}
    stranger = Organisation(domain=SL.domain, issuers=names[member(1).domain].issuers)
    for organisations in ((stranger, names[member(1).domain]), (names[member(1).domain],)):
        # The sentinel's signature holds under another genesis of the same network and key: the node's name does not.
        (tx,) = verify_file(data, replace(genesis, organisations=organisations)).txs
        assert tx.registration is not None
        assert (tx.registration.node, tx.registration.is_certified) == (SL.id, False)


def false_registrations() -> dict[str, RegisterNode]:
    """Of `SL`'s signing key."""
    other = replace(SL, name="another")
    key = key_of(SL).public
    leaf = certificate(other, SL.domain)
    by_other = private(f"tls {other.id}").sign(registration_bytes(SL.network, SL.id, key))
    right = registration(SL)
    return {
        "another node's certificate": replace(right, certificate=leaf, proof=by_other),
        "another organisation's authority": replace(right, certificate=certificate(SL, member(1).domain)),
        "not yet valid": replace(right, certificate=certificate(SL, SL.domain, from_ms=START_MS + 3_600_000)),
        "another key's proof": replace(right, proof=by_other),
        "no node": replace(right, node=NodeId("nobody")),
    }


@pytest.mark.parametrize("what", false_registrations())
def test_pf5_what_certificate_and_key_do_not_prove_is_told_as_a_claim(what: str) -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await registry.register(SN)
            # Such a registration is not ordered; a dishonest sentinel might.
            let_all_pass(registry.app)
            tx = registry.sign(SL, false_registrations()[what])
            ((_, result),) = await registry.order(tx)
            assert result.code is not Code.OK
            (proven,) = verify_file(await registry.client(SL).proof(tx=sha256(tx)), registry.genesis).txs
            assert proven.registration is not None
            assert not proven.registration.is_certified

    run(work())


def test_pf4_a_registration_that_failed_is_neither_proven_nor_believed_by_an_export() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await registry.register(SN)
            let_all_pass(registry.app)
            false = registry.sign(SL, false_registrations()["another key's proof"])
            unknown = registry.sign(SL, CreateContract(contract=A))
            true = registry.sign(SL, registration(SL))
            created = registry.sign(SL, CreateContract(contract=A))
            heights = {height for height, _ in await registry.order(false, unknown, true, created)}
            assert heights == {2}, "all in one block"
            (proven,) = verify_file(await registry.client(SL).proof(tx=sha256(created)), registry.genesis).txs
            assert proven.registration is not None
            assert proven.registration.is_certified
            line = json.loads(History().line(await anext(registry.client(OPERATOR).blocks(2))))
            assert [tx["node"] for tx in line["transactions"]] == [None, None, SL.id, SL.id]

    run(work())


@given(st.integers(1, 3), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_pf2_a_changed_byte_of_a_file_proves_nothing(which: int, where: float, change: int) -> None:
    genesis, *files = kept()
    data = bytearray(files[which - 1])
    data[int(where * len(data))] ^= change
    with pytest.raises(PeerError):
        verify_file(bytes(data), genesis)


def test_pf2_parts_of_two_proofs_make_no_third_and_a_large_file_is_not_read() -> None:
    genesis, data, other, _ = kept()
    file, second = decode(data, ProofFile), decode(other, ProofFile)
    ours, theirs = decode(file.proof, EmbeddedProof), decode(second.proof, EmbeddedProof)
    mixed = replace(ours, content=theirs.content)
    with pytest.raises(VerificationError, match="lead to the root"):
        verify_file(encode(replace(file, proof=encode(mixed))), genesis)
    with pytest.raises(VerificationError, match="is of the ledger 'cometbft', the genesis names 'embedded'"):
        verify_file(encode(replace(file, ledger="cometbft")), genesis)
    with pytest.raises(DecodeError, match="at most"):
        verify_file(bytes(MAX_FILE_BYTES + 1), genesis)


def test_pf9_an_export_has_every_transaction_once_decoded_with_what_came_of_it() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            ordered = await story_of(registry)
            failing = registry.sign(SL, Finish(contract=A, run=1))
            let_all_pass(registry.app)
            await registry.order(failing)
            history = History()
            lines = [json.loads(history.line(block)) async for block in registry.client(OPERATOR).blocks()]
            assert [line["height"] for line in lines] == list(range(1, registry.ledger.height + 1))
            told = [tx for line in lines for tx in line["transactions"]]
            assert sorted(tx["hash"] for tx in told) == sorted(sha256(tx).hex() for tx in [*ordered, failing])
            assert len(told) == registry.ledger.transactions
            assert told[-1]["message"].items() >= {"type": "Finish", "contract": "a", "run": 1}.items()
            assert (told[-1]["code"], told[-1]["log"]) == ("NOT_FOUND", "there is no contract a")
            assert [tx["node"] for tx in told if tx["message"]["type"] == "CreateContract"].count(SL.id) == 4
            assert {tx["code"] for tx in told[:-1]} == {"OK"}
            block = registry.ledger.block(1)
            first = await registry.ledger.stored(1)
            assert block is not None
            assert first is not None
            assert lines[0]["hash"] == first.hash.hex()
            assert lines[0]["time_ms"] == block.header.time_ms
            assert lines[0]["proposer"] == SN.id

    run(work())


def test_pf9_a_signer_whose_registration_is_not_exported_is_named_by_the_directory() -> None:
    async def work() -> None:
        async with Registry.open() as registry:
            await registry.register(SL)
            await registry.order(registry.sign(SL, CreateContract(contract=A)))
            block = await anext(registry.client(OPERATOR).blocks(2))
            assert json.loads(History().line(block))["transactions"][0]["node"] is None
            directory = await registry.client(OPERATOR).directory()
            assert json.loads(History(directory.nodes).line(block))["transactions"][0]["node"] == SL.id

    run(work())


def test_pf9_what_is_no_transaction_is_exported_as_it_is() -> None:
    result = TxResult(code=Code.MALFORMED, log="no")
    block = StoredBlock(height=1, time_ms=1_234, hash=bytes(32), proposer="p", txs=(b"\xc1x",), results=(result,))
    assert json.loads(History().line(block))["transactions"] == [
        {"hash": sha256(b"\xc1x").hex(), "raw": "c178", "code": "MALFORMED", "log": "no"}
    ]
    assert json.loads(History().line(block))["time"] == show_instant(1_234) == "1970-01-01T00:00:01.234Z"
    assert show_instant(2**62) == f"{2**62} ms"


class Liar:
    """An SN that sends the blocks that it is told to."""

    def __init__(self, blocks: list[StoredBlock]) -> None:
        self.calls: dict[str, Any] = {}
        self.streams = {STREAM_BLOCKS: self._blocks}
        self._told = blocks

    async def _blocks(self, caller: Any, body: bytes) -> Any:
        assert decode(body, BlocksRequest).first == 1
        for block in self._told:
            yield encode(block)


@pytest.mark.parametrize(("heights", "results"), [([2], 0), ([1, 3], 0), ([1, 1], 0), ([1], 1)])
def test_pf9_an_export_with_a_gap_is_none(heights: list[int], results: int) -> None:
    async def work() -> None:
        network = MemoryNetwork()
        came = tuple(TxResult(code=Code.OK) for _ in range(results))
        blocks = [StoredBlock(height=h, time_ms=0, hash=b"", proposer="", txs=(), results=came) for h in heights]
        network.serve(SN, HERE.endpoint, Liar(blocks))
        from swarmlearning.sn.client import SnClient

        with pytest.raises(DecodeError, match="expected block"):
            async for _ in SnClient(network.client(OPERATOR), HERE).blocks():
                pass

    run(work())
