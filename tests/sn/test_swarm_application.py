"""The contracts as a ledger application: docs/spec/transactions.md, TX-9, TX-13 to TX-16; the grammar of `boundary`."""

from pathlib import Path

import msgspec
import pytest
from chain_world import NETWORK, START_MS, Chain, genesis_of, key_of, member, registration, replay, sign_payload
from contracts_world import BIG, HOME
from contracts_world import settings as study_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.contracts import membership
from swarmlearning.contracts.messages import (
    AnyMessage,
    CheckIn,
    CreateContract,
    CreateTask,
    CreateTaskrunner,
    DeleteTask,
    Enrol,
    Finish,
    Leave,
    Payload,
    ResetContract,
    Tick,
)
from swarmlearning.contracts.records import BlockTime
from swarmlearning.contracts.task_records import ROOT_TASK, TaskType
from swarmlearning.contracts.transition import open_tx
from swarmlearning.encoding import encode
from swarmlearning.errors import Broken, Refused
from swarmlearning.ledger.boundary import Applied, Event, Header, Info
from swarmlearning.sn.application import Committed, SwarmApplication
from swarmlearning.sn.state import Overlay, StateStore
from swarmlearning.types import DEFAULT_CONTRACT, Code, ContractName, Role, RunnerName, TaskName

SLS = [member(i) for i in range(3)]
STUDY = DEFAULT_CONTRACT


def create(name: str) -> CreateContract:
    return CreateContract(contract=ContractName(name))


def enrolment(run: int = 1) -> Enrol:
    return Enrol(contract=STUDY, run=run, settings=study_settings(), manifest=BIG, min_peers=2, weight=1, endpoint=HOME)


RUNS = st.integers(1, 2)
MESSAGES: st.SearchStrategy[AnyMessage] = st.one_of(
    st.builds(create, st.sampled_from(["a", "b", "-"])),
    st.builds(enrolment, RUNS),
    st.builds(
        CheckIn, contract=st.just(STUDY), run=RUNS, round=st.just(0), attempt=st.integers(0, 1), base=st.just(b""),
        commitment=st.just(bytes(32)), weight=st.just(1), mode=st.just("active"),
    ),
    st.builds(Tick, contract=st.just(STUDY), run=RUNS, round=st.just(0), attempt=st.integers(0, 1)),
    st.builds(Finish, contract=st.just(STUDY), run=RUNS),
    st.builds(Leave, contract=st.just(STUDY), run=RUNS),
    st.builds(ResetContract, contract=st.just(STUDY), run=RUNS),
)  # fmt: skip
SAID = st.lists(st.lists(st.tuples(st.integers(0, 3), MESSAGES), max_size=5), max_size=6)
"""Blocks of (who, message); sender 3 is not registered."""


@settings(max_examples=25)
@given(SAID, st.lists(st.integers(0, 100_000), min_size=6, max_size=6))
def test_tx13_whoever_executes_the_same_blocks_gets_the_same_results_and_state(
    blocks: list[list[tuple[int, AnyMessage]]], steps: list[int]
) -> None:
    chain = Chain(3)
    chain.register(*SLS)
    for said, step in zip(blocks, steps, strict=False):
        txs = [chain.sign(member(who), message) for who, message in said]
        header = chain.header(step)
        first = chain.app.apply(header, txs)
        assert chain.app.apply(header, txs) == first  # never committed: as if it had not been
        chain.apply(*txs, step_ms=step)
        assert chain.blocks[-1][2] == first
    again = replay(chain.genesis, chain.blocks)
    assert again.info() == chain.app.info()
    assert {k: again.store.get(k) for k in again.store.keys("")} == {
        k: chain.app.store.get(k) for k in chain.app.store.keys("")
    }


@settings(max_examples=25)
@given(SAID)
def test_tx9_check_says_of_a_transaction_what_the_next_block_would(
    blocks: list[list[tuple[int, AnyMessage]]],
) -> None:
    """Where nothing else comes first and no time passes; a tick may still be too early."""
    chain = Chain(3)
    chain.register(*SLS)
    for who, message in (entry for said in blocks for entry in said):
        tx = chain.sign(member(who), message)
        judged = chain.app.check(tx)
        done = chain.apply(tx, step_ms=0)[0]
        if isinstance(message, Tick) and judged.code is Code.OK:
            assert done.code in (Code.OK, Code.TOO_EARLY)
        else:
            assert done.code is judged.code


def test_tx14_a_crash_between_apply_and_commit_loses_the_block_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    chain = Chain(2, path)
    chain.register(SLS[0])
    tx = chain.sign(SLS[0], create("a"))
    header = chain.header()
    expected = chain.app.apply(header, [tx])
    before = chain.app.info()
    revived = SwarmApplication(StateStore(path))
    assert revived.info() == before
    assert revived.apply(header, [tx]) == expected
    revived.commit()
    assert SwarmApplication(StateStore(path)).info().app_hash == expected.app_hash
    assert SwarmApplication(StateStore(path)).info().height == header.height


def test_tx15_a_message_that_fails_leaves_nothing_but_its_nonce() -> None:
    chain = Chain(3)
    chain.register(*SLS[:2])
    before = {key: chain.app.store.get(key) for key in chain.app.store.keys("")}
    assert chain.do(SLS[0], create("-bad")).code is Code.MALFORMED
    assert chain.do(SLS[2], create("c")).code is Code.UNKNOWN_SIGNER
    after = {key: chain.app.store.get(key) for key in chain.app.store.keys("")}
    changed = {key for key in after if after[key] != before.get(key)}
    assert {key.split("/")[0] for key in changed} == {"nonce", "meta"}
    assert len([key for key in changed if key.startswith("nonce/")]) == 2


def test_tx15_later_messages_of_a_block_see_what_earlier_ones_did() -> None:
    chain = Chain(3)
    first = [chain.sign(SLS[0], registration(SLS[0])), chain.sign(SLS[0], create("a")), chain.sign(SLS[0], create("a"))]
    assert [r.code for r in chain.apply(*first)] == [Code.OK, Code.OK, Code.CONFLICT]


def test_who_follows_the_state_is_told_of_each_commit_what_it_wrote_and_who_signed() -> None:
    chain = Chain(2)
    told: list[Committed] = []
    chain.app.follow(told.append)
    txs = [chain.sign(sl, registration(sl)) for sl in SLS[:2]]
    chain.app.apply(chain.header(), txs)
    assert told == [], "nothing before it is committed"
    chain.apply(*txs)
    failed = chain.sign(SLS[1], create("-"))
    stranger = chain.sign(SLS[2], create("a"))
    chain.apply(chain.sign(SLS[0], create("a")), failed, stranger, step_ms=500)
    chain.apply()
    assert [block.height for block in told] == [1, 2, 3]
    assert {membership.node_key(sl.id) for sl in SLS[:2]} <= told[0].keys
    assert told[1].senders == {SLS[0].id, SLS[1].id}
    assert {key for key in told[1].keys if key.startswith("training/")} == {"training/a"}
    assert (told[1].time_ms, told[2].time_ms) == (START_MS + 1500, START_MS + 2500)
    assert (told[2].keys, told[2].senders) == (frozenset(), frozenset())


def test_events_say_what_a_message_was_about() -> None:
    chain = Chain(2)
    sn = member(0, Role.SN)
    chain.register(sn)
    chain.do(sn, create("a"))
    name = TaskName("t")
    task = CreateTask(task=name, kind=TaskType.PULL_IMAGE, author="", prereq=ROOT_TASK, outcome="")
    said: list[AnyMessage] = [task, DeleteTask(task=name), CreateTaskrunner(runner=RunnerName("r")), create("-")]
    for message in said:
        chain.do(sn, message)
    told = [event for _, _, applied in chain.blocks for event in applied.events]
    assert told == [
        Event(kind="membership", subject=sn.id),
        Event(kind="training", subject="a"),
        Event(kind="task", subject="t"),
        Event(kind="task", subject="t"),
        Event(kind="taskrunner", subject="r"),
    ]


def test_tx16_deadlines_count_at_most_a_minute_of_a_gap() -> None:
    chain = Chain()
    for step in (1000, 59_000, 3_600_000, 0):
        chain.do(SLS[0], registration(SLS[0]), step_ms=step)
    now = membership.load_time(Overlay(chain.app.store))
    assert now == BlockTime(time_ms=START_MS + 3_660_000, elapsed_ms=120_000, transactions=4, height=4)


def test_tx17_an_empty_block_changes_nothing_and_lets_no_time_pass() -> None:
    chain = Chain()
    chain.register(SLS[0])
    root, before = chain.app.info().app_hash, membership.load_time(Overlay(chain.app.store))
    for step in (1000, 30_000, 0):
        chain.apply(step_ms=step)
        assert chain.app.info() == Info(height=chain.height, app_hash=root, initialised=True)
        assert chain.blocks[-1][2] == Applied(results=(), app_hash=root, events=())
    assert membership.load_time(Overlay(chain.app.store)) == before
    chain.do(SLS[0], create("a"), step_ms=5_000)
    after = membership.load_time(Overlay(chain.app.store))
    assert before is not None
    assert after is not None
    assert (after.time_ms - before.time_ms, after.elapsed_ms - before.elapsed_ms) == (36_000, 36_000)
    assert replay(chain.genesis, chain.blocks).info() == chain.app.info()


def test_tx18_propose_leaves_out_what_accept_would_refuse() -> None:
    chain = Chain()
    chain.register(SLS[0])
    good = [chain.sign(SLS[0], create(name)) for name in "abc"]
    unsigned = bytearray(good[0])
    unsigned[-1] ^= 1
    offered = [good[0], b"rubbish", good[1], bytes(unsigned), good[0], good[2]]
    chosen = chain.app.propose(offered, 1 << 20)
    assert chosen == good
    assert chain.app.accept(chain.header(), chosen) == ""
    assert chain.app.propose(good, len(good[0]) + len(good[1])) == good[:2]
    assert chain.app.propose(good, 0) == []
    assert "twice" in chain.app.accept(chain.header(), [good[0], good[0]])
    assert "transaction 1" in chain.app.accept(chain.header(), [good[0], b"rubbish"])


def test_a_block_carries_on_though_one_transaction_was_made_for_another_network() -> None:
    """Should a dishonest majority have agreed on it."""
    chain = Chain()
    txs = [chain.sign(SLS[0], create("a"), network="other"), chain.sign(SLS[0], registration(SLS[0]))]
    assert chain.app.accept(chain.header(), txs) != ""
    assert [r.code for r in chain.apply(*txs)] == [Code.NETWORK, Code.OK]


def test_events_tell_what_changed_once_it_is_committed() -> None:
    told: list[Event] = []
    app = SwarmApplication(StateStore(None), told.extend)
    chain = Chain(2)
    chain.app = app
    app.init(chain.genesis)
    chain.apply(chain.sign(SLS[0], registration(SLS[0])), chain.sign(SLS[0], enrolment()))
    assert [(e.kind, e.subject) for e in told] == [("membership", SLS[0].id), ("collecting", STUDY)]
    app.apply(chain.header(), [chain.sign(SLS[0], create("a"))])
    assert len(told) == 2


def test_transactions_are_counted_when_they_are_carried_out() -> None:
    chain = Chain()
    chain.register(SLS[0])
    chain.apply(chain.sign(SLS[0], create("a")), chain.sign(SLS[0], create("a")))
    now = membership.load_time(Overlay(chain.app.store))
    assert now is not None
    assert now.transactions == 2


def test_calls_out_of_order_are_bugs_and_say_so() -> None:
    app = SwarmApplication(StateStore(None))
    header = Header(height=1, time_ms=START_MS, previous_hash=bytes(32), proposer="p")
    assert not app.info().initialised
    for call in (lambda: app.genesis, lambda: app.check(b""), lambda: app.apply(header, []), app.commit):
        with pytest.raises(Broken):
            call()
    app.init(encode(genesis_of(2)))
    with pytest.raises(Broken, match="second genesis"):
        app.init(encode(genesis_of(2)))
    with pytest.raises(Broken, match="does not follow"):
        app.apply(msgspec.structs.replace(header, height=2), [])


def test_queries_give_records_and_nothing_else() -> None:
    chain = Chain()
    chain.register(SLS[0])
    assert chain.app.query("org", SLS[0].domain.encode())
    assert chain.app.query("node", SLS[0].id.encode())
    assert chain.app.query("training", STUDY.encode())
    assert chain.app.query("training", b"\xff\xfe") == b""
    for path in ("nonce", "key", "", "../org"):
        with pytest.raises(Refused):
            chain.app.query(path, b"")


def test_the_default_contract_is_there_from_the_start_and_belongs_to_the_sentinels_organisation() -> None:
    chain = Chain()
    training = membership.load_training(Overlay(chain.app.store), STUDY)
    assert training is not None
    assert training.creator == member(0).domain
    assert chain.genesis == chain.app.store.get(membership.GENESIS_KEY)


def test_a_payload_may_be_signed_again_by_its_owner_and_is_still_replayed() -> None:
    chain = Chain()
    chain.register(SLS[0])
    body = encode(Payload(network=NETWORK, nonce=bytes(16), expires=50, message=create("a")))
    tx = sign_payload(key_of(SLS[0]), body)
    assert open_tx(tx).signer == key_of(SLS[0]).public
    assert chain.apply(tx)[0].code is Code.OK
    other = sign_payload(key_of(member(0, Role.SN)), body)
    chain.register(member(0, Role.SN))
    assert chain.apply(other)[0].code is Code.CONFLICT, "another signer's nonce is its own"
