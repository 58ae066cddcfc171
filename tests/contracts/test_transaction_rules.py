"""What makes a transaction good before anybody looks at its message: docs/spec/transactions.md, TX-1 to TX-9, TX-21."""

import msgspec
import pytest
from chain_world import DAY_MS, NETWORK, START_MS, Chain, certificate, key_of, member, registration, sign_payload
from contracts_world import BIG, HOME, World, settings
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.messages import (
    EXPIRY_WINDOW,
    MAX_TX_BYTES,
    CheckIn,
    CreateContract,
    CreateTask,
    Enrol,
    Payload,
    Tick,
    Tx,
)
from swarmlearning.contracts.task_records import ROOT_TASK, TaskType
from swarmlearning.contracts.tasks import load_task
from swarmlearning.contracts.transition import open_tx, transition
from swarmlearning.encoding import decode, encode
from swarmlearning.identity.signing import verify_signature
from swarmlearning.sn.state import Overlay
from swarmlearning.types import DEFAULT_CONTRACT, Code, ContractName, Role, TaskName

SL = member(0)


def payload(**changes: object) -> Payload:
    base = Payload(network=NETWORK, nonce=bytes(16), expires=10, message=CreateContract(contract=ContractName("c")))
    return msgspec.structs.replace(base, **changes)


def code_of(data: bytes) -> Code:
    try:
        open_tx(data)
    except Rejected as rejected:
        return rejected.code
    return Code.OK


def signed(body: bytes) -> bytes:
    return sign_payload(key_of(SL), body)


# --- TX-1 to TX-3: form and signature -------------------------------------------------------------------------------


def test_tx1_a_sound_transaction_opens() -> None:
    assert open_tx(signed(encode(payload()))).payload == payload()


def test_tx3_the_same_bytes_are_verified_once_and_others_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[bytes] = []

    def count(key: bytes, domain: bytes, data: bytes, signature: bytes) -> None:
        verified.append(signature)
        verify_signature(key, domain, data, signature)

    monkeypatch.setattr("swarmlearning.contracts.transition.verify_signature", count)
    tx = signed(encode(payload(nonce=b"verified once...")))
    assert code_of(tx) is code_of(bytes(bytearray(tx))) is Code.OK
    assert len(verified) == 1
    spoilt = tx[:-1] + bytes([tx[-1] ^ 1])
    assert code_of(spoilt) is code_of(spoilt) is Code.SIGNATURE
    assert len(verified) == 3


def test_tx1_at_most_64_kib() -> None:
    big = payload(network="n" * MAX_TX_BYTES)
    assert code_of(signed(encode(big))) is Code.MALFORMED
    assert code_of(b"\x00" * (MAX_TX_BYTES + 1)) is Code.MALFORMED


@given(st.binary(max_size=200))
def test_tx1_rubbish_is_refused_and_raises_nothing_else(data: bytes) -> None:
    assert code_of(data) is Code.MALFORMED
    assert code_of(signed(data)) is Code.MALFORMED


@given(st.integers(0, 400), st.integers(1, 255))
def test_tx2_no_byte_can_be_changed(at: int, flip: int) -> None:
    data = bytearray(signed(encode(payload())))
    data[at % len(data)] ^= flip
    assert code_of(bytes(data)) in (Code.MALFORMED, Code.SIGNATURE)


def test_tx2_a_payload_has_one_encoding() -> None:
    plain = encode(payload())
    longer = plain.replace(b"\xa7network", b"\xd9\x07network", 1)
    assert longer != plain
    assert msgspec.msgpack.decode(longer) == msgspec.msgpack.decode(plain)
    assert code_of(signed(longer)) is Code.MALFORMED


def test_tx2_unknown_fields_messages_and_types_are_refused() -> None:
    fields = msgspec.msgpack.decode(encode(payload()))
    for change in (
        {"more": 1},
        {"message": {"type": "Expel"}},
        {"expires": 10.0},
        {"expires": True},
        {"network": b"n"},
    ):
        assert code_of(signed(msgspec.msgpack.encode(fields | change))) is Code.MALFORMED
    assert code_of(signed(msgspec.msgpack.encode(fields))) is Code.OK


def test_tx3_the_signature_covers_the_payload_under_its_domain() -> None:
    body, key = encode(payload()), key_of(SL)
    for signature in (key.sign(b"", body), key.sign(b"swarmlearning block header v1\x00", body), bytes(64)):
        assert code_of(encode(Tx(payload=body, signer=key.public, signature=signature))) is Code.SIGNATURE


@pytest.mark.parametrize("change", [{"signer": b"k" * 31}, {"signature": b"s" * 65}, {"signer": b""}])
def test_tx3_keys_and_signatures_have_their_lengths(change: dict[str, bytes]) -> None:
    tx = msgspec.msgpack.decode(signed(encode(payload())), type=Tx)
    assert code_of(encode(msgspec.structs.replace(tx, **change))) is Code.MALFORMED


def test_tx3_a_nonce_has_16_bytes() -> None:
    assert code_of(signed(encode(payload(nonce=b"n" * 15)))) is Code.MALFORMED


# --- TX-4 to TX-8: network, expiry, replay --------------------------------------------------------------------------


def test_tx4_another_networks_transaction_is_refused() -> None:
    chain = Chain()
    tx = chain.sign(SL, registration(SL), network="other")
    assert chain.app.check(tx).code is Code.NETWORK
    assert chain.apply(tx)[0].code is Code.NETWORK


@pytest.mark.parametrize(
    ("expires", "code"),
    [(0, Code.EXPIRED), (1, Code.OK), (1 + EXPIRY_WINDOW, Code.OK), (2 + EXPIRY_WINDOW, Code.EXPIRED),
     (-1, Code.EXPIRED), ((1 << 64) - 1, Code.EXPIRED)],
)  # fmt: skip
def test_tx5_a_transaction_expires_within_the_window(expires: int, code: Code) -> None:
    chain = Chain()
    tx = chain.sign(SL, registration(SL), expires=expires)
    assert chain.app.check(tx).code is code
    assert chain.apply(tx)[0].code is code


def test_tx6_a_nonce_counts_once_for_its_signer_also_after_a_failure_and_within_a_block() -> None:
    chain = Chain()
    chain.register(SL)
    key = key_of(SL)
    messages = [CreateContract(contract=ContractName(name)) for name in ("-bad", "good", "good2")]
    bad, good, late = (sign_payload(key, encode(payload(expires=50, message=m))) for m in messages)
    assert [r.code for r in chain.apply(bad, good)] == [Code.MALFORMED, Code.REPLAYED]
    assert chain.app.check(late).code is Code.REPLAYED
    assert chain.apply(late)[0].code is Code.REPLAYED


def test_tx6_the_nonce_of_a_stranger_counts_too() -> None:
    """A transaction that failed must never be carried out later, such as once its key has been registered."""
    chain = Chain()
    early = chain.sign(SL, CreateContract(contract=ContractName("c")))
    assert chain.apply(early)[0].code is Code.UNKNOWN_SIGNER
    chain.register(SL)
    assert chain.apply(early)[0].code is Code.REPLAYED


def test_tx7_the_sender_is_whose_key_signed_not_who_it_says() -> None:
    chain = Chain()
    chain.register(SL)
    forged = registration(member(1))
    body = encode(payload(message=forged))
    assert chain.apply(sign_payload(key_of(SL), body))[0].code is Code.NOT_ALLOWED


def test_tx8_marks_of_expired_transactions_are_forgotten_and_no_others() -> None:
    chain = Chain()
    chain.register(SL)
    short = chain.sign(SL, CreateContract(contract=ContractName("a")), expires=chain.height + 1)
    long = chain.sign(SL, CreateContract(contract=ContractName("b")), expires=chain.height + 5)
    chain.apply(short, long)
    for number in range(3):
        chain.do(SL, CreateContract(contract=ContractName(f"n{number}")))
        marks = {int(key.split("/")[1]) for key in chain.app.store.keys("nonce/")}
        assert min(marks) >= chain.height
    assert chain.apply(long)[0].code is Code.REPLAYED
    assert chain.apply(short)[0].code is Code.EXPIRED


@pytest.mark.parametrize("empty", [0, 1, 5, EXPIRY_WINDOW, 3 * EXPIRY_WINDOW])
def test_tx8_marks_that_expired_during_empty_blocks_are_forgotten_with_the_next_that_is_not(empty: int) -> None:
    chain = Chain()
    chain.register(SL)
    for ahead in (1, 3, EXPIRY_WINDOW):
        tx = chain.sign(SL, CreateContract(contract=ContractName(f"a{ahead}")), expires=chain.height + ahead)
        assert chain.apply(tx)[0].code is Code.OK
    for _ in range(empty):
        chain.apply()
    chain.do(SL, CreateContract(contract=ContractName("b")))
    marks = {int(key.split("/")[1]) for key in chain.app.store.keys("nonce/")}
    assert min(marks) >= chain.height
    assert (3 + EXPIRY_WINDOW in marks) == (chain.height <= 3 + EXPIRY_WINDOW)


# --- TX-9: judged before it is ordered ------------------------------------------------------------------------------


def test_tx9_what_fails_now_is_not_ordered() -> None:
    chain = Chain()
    chain.register(SL)
    assert chain.app.check(chain.sign(SL, CreateContract(contract=DEFAULT_CONTRACT))).code is Code.CONFLICT
    assert chain.app.check(chain.sign(SL, CreateContract(contract=ContractName("c")))).code is Code.OK


def test_tx9_a_certificate_younger_than_the_last_block_can_be_registered() -> None:
    """Once a network that had stood still for days refused every new node: no block came, so its time stood still."""
    chain = Chain()
    young = certificate(SL, SL.domain, from_ms=START_MS + 3 * DAY_MS)
    tx = chain.sign(SL, registration(SL, young))
    assert chain.app.check(tx).code is Code.OK
    assert chain.apply(tx, step_ms=3 * DAY_MS)[0].code is Code.OK


def test_tx9_an_expired_certificate_is_refused_at_once() -> None:
    chain = Chain()
    chain.apply(chain.sign(SL, registration(SL)), step_ms=5 * DAY_MS)
    old = certificate(SL, SL.domain, days=1)
    assert chain.app.check(chain.sign(SL, registration(SL, old))).code is Code.NOT_ALLOWED


def test_tx9_a_tick_is_ordered_though_block_time_may_say_no_but_not_if_it_never_could_say_yes() -> None:
    chain = Chain(3)
    sls = [member(i) for i in range(3)]
    chain.register(*sls)
    enrol = Enrol(contract=DEFAULT_CONTRACT, run=1, settings=settings(), manifest=BIG, min_peers=2, weight=1,
                  endpoint=HOME)  # fmt: skip
    for sl in sls:
        chain.do(sl, enrol)
    tick = Tick(contract=DEFAULT_CONTRACT, run=1, round=0, attempt=0)
    assert chain.app.check(chain.sign(SL, tick)).code is Code.TOO_EARLY
    offer = CheckIn(contract=DEFAULT_CONTRACT, run=1, round=0, attempt=0, base=b"", commitment=bytes(32), weight=1,
                    mode="active")  # fmt: skip
    for sl in sls[:2]:
        assert chain.do(sl, offer).code is Code.OK
    assert chain.app.check(chain.sign(SL, tick)).code is Code.OK
    assert chain.do(SL, tick).code is Code.TOO_EARLY
    assert chain.app.check(chain.sign(SL, msgspec.structs.replace(tick, attempt=1))).code is Code.STALE
    assert chain.do(SL, tick, step_ms=60_000).code is Code.OK


def test_tx9_an_unknown_version_of_the_rules_carries_nothing_out() -> None:
    world = World()
    with pytest.raises(Rejected, match="version 2"):
        transition(2, world.state, None, None, NETWORK)  # type: ignore[arg-type]  # it looks at nothing else


# --- TX-21: on whose behalf -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "code"),
    [
        ("", Code.OK),
        (member(0, Role.OPERATOR).id, Code.OK),
        (f"spiffe://{SL.domain}/{NETWORK}/operator/somebody.else", Code.OK),
        (member(1, Role.OPERATOR).id, Code.NOT_ALLOWED),
        (f"spiffe://{SL.domain}/lungs/operator/operator0", Code.NOT_ALLOWED),
        (member(0, Role.SN).id, Code.NOT_ALLOWED),
        (SL.id, Code.NOT_ALLOWED),
        ("Anna", Code.MALFORMED),
        (f"spiffe://{SL.domain}/{NETWORK}/king/anna", Code.MALFORMED),
        ("spiffe://" + "x" * 5_000, Code.MALFORMED),
    ],
)
def test_tx21_a_node_speaks_for_operators_of_its_own_organisation_in_its_network(caller: str, code: Code) -> None:
    chain = Chain(2)
    chain.register(SL)
    message = CreateContract(contract=ContractName("a"))
    tx = chain.sign(SL, message, caller=caller)
    assert chain.app.check(tx).code is code
    # What nobody may say stands in no block (TX-18), and if it does it fails.
    assert chain.app.propose([tx], 1 << 20) == ([tx] if code is Code.OK else [])
    assert (chain.app.accept(chain.header(), [tx]) == "") == (code is Code.OK)
    assert chain.do(SL, message, caller=caller).code is code


def test_tx21_the_caller_is_kept_with_what_was_said_and_gives_no_rights() -> None:
    chain = Chain(2)
    sn, operator = member(0, Role.SN), member(0, Role.OPERATOR)
    chain.register(sn, SL)
    message = CreateTask(task=TaskName("t"), kind=TaskType.PULL_IMAGE, author="", prereq=ROOT_TASK, outcome="")
    # An SL does not become an operator by saying that one asked for it.
    assert chain.do(SL, message, caller=operator.id).code is Code.NOT_ALLOWED
    assert chain.do(sn, message, caller=operator.id).code is Code.OK
    task = load_task(Overlay(chain.app.store), message.task)
    assert task is not None
    assert (task.creator, task.caller) == (sn.id, operator.id)


def test_tx21_the_signature_covers_the_caller() -> None:
    operator = member(0, Role.OPERATOR).id
    tx = decode(signed(encode(payload(caller=operator))), Tx)
    assert code_of(encode(tx)) is Code.OK
    other = encode(payload(caller=""))
    assert code_of(encode(msgspec.structs.replace(tx, payload=other))) is Code.SIGNATURE
