"""How CometBFT's calls drive the application, call by call (docs/spec/ledger-cometbft.md, sections 2 to 4)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cometbft_swarm import VotingApplication
from ledger_support import GENESIS, NETWORK, START_MS, KvApplication, KvState, sn

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, ConfigurationError, DecodeError
from swarmlearning.ledger.boundary import Applied, Header, Misbehaviour, Snapshot, TxResult, Verdict
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.config import MAX_BLOCK_TXS, CometConfig
from swarmlearning.ledger.cometbft.crash import never_crash
from swarmlearning.ledger.cometbft.driver import OLD_S, Driver
from swarmlearning.ledger.cometbft.home import MAX_TX_BYTES, POWER
from swarmlearning.ledger.cometbft.pool import ENGINE, MAX_DOUBTFUL, ORDERED
from swarmlearning.ledger.cometbft.store import FILE_NAME, OrderedStore
from swarmlearning.ledger.waiting import Waiting
from swarmlearning.types import Code, Endpoint, Validator


def validator(index: int) -> Validator:
    return Validator(
        key=bytes([index]) * 32, peer=f"{index:040x}", endpoint=Endpoint(host=f"10.0.0.{index}", port=26656)
    )


MEMBERS = {sn(index).domain: validator(index) for index in range(4)}
PROPOSER = validator(1).address


class Child:
    """Plays CometBFT for one application."""

    def __init__(self, directory: Path, app: VotingApplication | None = None, **changes: object) -> None:
        self.app = app or VotingApplication()
        self.app.members = dict(MEMBERS)
        config = CometConfig(
            network=NETWORK,
            genesis=GENESIS,
            genesis_time_ms=START_MS,
            initial=tuple(MEMBERS.values()),
            data_dir=directory,
            node=sn(0).id,
        )
        self.waiting = Waiting()
        self.store = OrderedStore(None, GENESIS)
        if not self.app.info().initialised:
            self.app.init(GENESIS)
        self.changed = 0
        self.now_s = 0.0
        config = msgspec.structs.replace(config, **changes)
        self.driver = Driver(config, self.app, self.store, self.waiting, never_crash, self._change, lambda: self.now_s)
        self.driver._committed_s = 0.0  # as if a block had come just now

    def _change(self) -> None:
        self.changed += 1

    def ask(self, **request: Any) -> Any:
        """The answer to a request, given as its kind and message."""
        [kind] = request
        response = self.driver.answer(pb.Request(**request))
        assert response.WhichOneof("value") == kind
        return getattr(response, kind)

    def start(self, **changes: object) -> pb.ResponseInitChain:
        """Shake hands; `changes` are fields of InitChain that differ from the right ones."""
        self.ask(info=pb.RequestInfo(version="0.39.0"))
        fields: dict[str, Any] = {
            "time": pb.Timestamp(seconds=START_MS // 1000),
            "chain_id": NETWORK,
            "app_state_bytes": f'"{sha256(GENESIS).hex()}"'.encode(),
            "initial_height": 1,
        }
        answer: pb.ResponseInitChain = self.ask(init_chain=pb.RequestInitChain(**{**fields, **changes}))
        return answer

    def finalize(self, txs: Sequence[bytes] = (), **changes: Any) -> pb.ResponseFinalizeBlock:
        """Decide the next block."""
        height = self.app.info().height + 1
        fields: dict[str, Any] = {
            "txs": txs,
            "height": height,
            "hash": bytes([height]) * 32,
            "time": pb.Timestamp(seconds=START_MS // 1000 + height, nanos=1_999_999),
            "proposer_address": PROPOSER,
        }
        answer: pb.ResponseFinalizeBlock = self.ask(finalize_block=pb.RequestFinalizeBlock(**{**fields, **changes}))
        return answer

    def commit(self) -> int:
        """Commit it, and return from which height on the child is to keep blocks."""
        return int(self.ask(commit=pb.RequestCommit()).retain_height)

    def block(self, *txs: bytes) -> None:
        self.finalize(txs)
        self.commit()

    def judge(self, txs: Sequence[bytes]) -> int:
        request = pb.RequestProcessProposal(
            txs=txs, height=self.app.info().height + 1, time=pb.Timestamp(seconds=1), proposer_address=PROPOSER
        )
        return int(self.ask(process_proposal=request).status)

    def prepare(self, txs: Sequence[bytes], max_tx_bytes: int = 1 << 20) -> list[bytes]:
        height = self.app.info().height + 1
        request = pb.RequestPrepareProposal(txs=txs, max_tx_bytes=max_tx_bytes, height=height)
        return list(self.ask(prepare_proposal=request).txs)

    def check(self, tx: bytes, kind: Any = pb.NEW) -> pb.ResponseCheckTx:
        answer: pb.ResponseCheckTx = self.ask(check_tx=pb.RequestCheckTx(tx=tx, type=kind))
        return answer


@pytest.fixture
def child(tmp_path: Path) -> Child:
    child = Child(tmp_path)
    child.start()
    return child


# --- handshake -------------------------------------------------------------------------------------------------


def test_b9_the_chain_begins_with_the_genesis_state_and_its_validators(tmp_path: Path) -> None:
    child = Child(tmp_path)
    answer = child.start()
    assert answer.app_hash == child.app.info().app_hash == sha256(GENESIS)
    assert [(each.pub_key.ed25519, each.power) for each in answer.validators] == [
        (member.key, POWER) for member in sorted(MEMBERS.values(), key=lambda member: member.key)
    ]


def test_b9_an_application_that_is_initialised_is_not_so_again(tmp_path: Path) -> None:
    child = Child(tmp_path)
    child.start()
    child.driver.begin()
    child.start()
    assert child.app.calls.count("init") == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"chain_id": "other"}, "expected chain testnet, got other"),
        ({"app_state_bytes": b'"00"'}, 'expected founding file "[0-9a-f]{64}", got "00"'),
        ({"app_state_bytes": sha256(GENESIS)}, "expected founding file"),
        ({"initial_height": 5}, "begins at height 5"),
    ],
)
def test_b9_a_child_of_another_network_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Child(tmp_path).start(**changes)


def test_b9_a_genesis_without_validators_begins_no_chain(tmp_path: Path) -> None:
    child = Child(tmp_path)
    child.app.members = {}
    with pytest.raises(ConfigurationError, match="names no validators"):
        child.start()


def test_b2_a_request_of_an_unknown_kind_is_refused(child: Child) -> None:
    insert_tx = bytes.fromhex("aa0103") + b"\x0a\x01a"  # field 21, of CometBFT 0.40 for pools of applications
    with pytest.raises(DecodeError, match="unknown kind"):
        child.driver.answer(pb.Request.FromString(insert_tx))
    with pytest.raises(DecodeError, match="unknown kind"):
        child.driver.answer(pb.Request())


# --- transactions that wait --------------------------------------------------------------------------------------


def test_b12_check_gives_the_applications_code_and_reason(child: Child) -> None:
    assert child.check(b"a=1").code == 0
    refused = child.check(b"nonsense")
    assert (refused.code, refused.log, refused.codespace) == (Code.MALFORMED, "expected key=value", "")


def test_b12_what_is_too_large_or_ordered_already_is_refused(child: Child) -> None:
    assert "at most 65536" in child.check(b"a=" + bytes(MAX_TX_BYTES)).log
    assert child.check(b"a=" + bytes(MAX_TX_BYTES - 2)).code == 0
    child.block(b"a=1")
    for kind in (pb.NEW, pb.RECHECK):
        again = child.check(b"a=1", kind)
        assert (again.code, again.codespace) == (ORDERED, ENGINE)


class Chained(VotingApplication):
    """Refuses, for now, what is not the next of a chain: `n=0`, `n=1`, ..."""

    def check(self, tx: bytes) -> TxResult:
        if tx == b"n=%d" % len(self.log):
            return TxResult(code=Code.OK)
        return TxResult(code=Code.STALE if tx.startswith(b"n=") else Code.MALFORMED, log="not now")


def test_b28_what_the_next_block_may_make_good_is_kept_until_then_but_not_proposed(tmp_path: Path) -> None:
    child = Child(tmp_path, Chained())
    child.start()
    assert child.check(b"n=1").code == 0
    assert child.check(b"n=9").code == 0
    assert child.prepare([b"n=1", b"n=0", b"n=9"]) == [b"n=0"]
    child.block(b"n=0")
    assert child.check(b"n=1", pb.RECHECK).code == 0
    assert child.check(b"n=9", pb.RECHECK).code == Code.STALE
    assert child.prepare([b"n=1"]) == [b"n=1"]


def test_b28_what_no_block_makes_good_is_refused_and_what_may_be_is_kept_in_bounds(tmp_path: Path) -> None:
    child = Child(tmp_path, Chained())
    child.start()
    assert child.check(b"nonsense").code == Code.MALFORMED
    codes = [child.check(b"n=%d" % i).code for i in range(1, MAX_DOUBTFUL + 3)]
    assert codes == [0] * MAX_DOUBTFUL + [Code.STALE] * 2
    child.block(b"n=0")
    codes = [child.check(b"n=%d" % i).code for i in range(2, MAX_DOUBTFUL + 4)]
    assert codes == [0] * MAX_DOUBTFUL + [Code.STALE] * 2
    child.driver.begin()  # the pool died with the child
    assert child.check(b"n=400").code == 0


@pytest.mark.parametrize(("kind", "told"), [("RECHECK", True), ("NEW", False)])
def test_b12_whoever_waits_hears_of_a_transaction_that_is_refused_after_all(
    kind: str, told: bool, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[bytes, Any]] = []
    monkeypatch.setattr(child.waiting, "tell", lambda tx_hash, outcome: heard.append((tx_hash, outcome)))
    child.check(b"nonsense", pb.CheckTxType.Value(kind))
    expected = (sha256(b"nonsense"), (0, TxResult(code=Code.MALFORMED, log="expected key=value")))
    assert heard == ([expected] if told else [])


# --- proposing and judging ---------------------------------------------------------------------------------------


def test_b10_a_proposal_keeps_the_order_and_holds_no_transaction_twice_or_anew(child: Child) -> None:
    child.block(b"a=1")
    assert child.prepare([b"c=1", b"b=1", b"a=1", b"c=1"]) == [b"c=1", b"b=1"]


def test_b10_a_proposal_never_exceeds_what_the_child_has_room_for(child: Child) -> None:
    txs = [b"%03d=%s" % (i, bytes(96)) for i in range(100)]
    for room in (0, 99, 105, 106, 1000, 10_000):
        chosen = child.prepare(txs, room)
        assert sum(len(tx) + 2 for tx in chosen) <= room  # as a block counts them
        assert chosen == txs[: len(chosen)]
    assert child.prepare(txs, 11_000) == txs

    class Greedy(VotingApplication):
        def propose(self, txs: Sequence[bytes], max_bytes: int) -> list[bytes]:
            return list(txs)

    greedy = Child(Path(), Greedy())
    greedy.start()
    assert len(greedy.prepare(txs, 1000)) == 9


def test_b10_a_proposal_and_a_block_have_a_largest_number_of_transactions(child: Child) -> None:
    txs = [b"%d=1" % i for i in range(MAX_BLOCK_TXS + 1)]
    assert child.prepare(txs) == txs[:MAX_BLOCK_TXS]
    assert child.judge(txs[:MAX_BLOCK_TXS]) == pb.VERDICT_ACCEPT
    assert child.judge(txs) == pb.VERDICT_REJECT


def test_b11_a_block_is_refused_that_is_oversized_repeats_or_displeases_the_application(child: Child) -> None:
    child.block(b"a=1")
    assert child.judge([b"b=1", b"c=1"]) == pb.VERDICT_ACCEPT
    assert child.judge([]) == pb.VERDICT_ACCEPT
    assert child.judge([b"b=1", b"b=1"]) == pb.VERDICT_REJECT
    assert child.judge([b"b=1", b"a=1"]) == pb.VERDICT_REJECT
    assert child.judge([b"b=" + bytes(MAX_TX_BYTES)]) == pb.VERDICT_REJECT
    child.app.refuse = "no"
    assert child.judge([b"b=1"]) == pb.VERDICT_REJECT


def test_b26_after_a_pause_one_empty_block_comes_first_and_no_more_than_one(child: Child) -> None:
    child.now_s = OLD_S
    assert child.prepare([b"a=1"]) == []
    assert child.prepare([b"a=1"]) == [b"a=1"]  # in another round: it took long, and may again
    child.block()
    child.now_s += OLD_S
    assert child.prepare([b"a=1"]) == [b"a=1"]
    child.block(b"a=1")
    assert child.prepare([b"b=1"]) == [b"b=1"]
    child.now_s += OLD_S
    assert child.prepare([b"b=1"]) == []


def test_votes_are_not_extended(child: Child) -> None:
    assert child.ask(extend_vote=pb.RequestExtendVote(height=1)).vote_extension == b""
    verify = pb.RequestVerifyVoteExtension(height=1)
    assert child.ask(verify_vote_extension=verify).status == pb.VERDICT_ACCEPT
    verify = pb.RequestVerifyVoteExtension(height=1, vote_extension=b"x")
    assert child.ask(verify_vote_extension=verify).status == pb.VERDICT_REJECT


# --- executing ---------------------------------------------------------------------------------------------------


def test_b13_the_application_sees_what_was_agreed_upon(tmp_path: Path) -> None:
    seen: list[tuple[Header, tuple[Misbehaviour, ...]]] = []

    class Looking(VotingApplication):
        def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
            seen.append((header, tuple(misbehaviour)))
            return super().apply(header, txs, misbehaviour)

    child = Child(tmp_path, Looking())
    child.start()
    child.block(b"a=1")
    before = child.app.info().app_hash
    evidence = [
        pb.Misbehavior(
            type=kind,
            validator=pb.Offender(address=validator(2).address, power=10),
            height=1,
            time=pb.Timestamp(seconds=5, nanos=6_000_000),
            total_voting_power=40,
        )
        for kind in (pb.DUPLICATE_VOTE, pb.LIGHT_CLIENT_ATTACK, pb.UNKNOWN)
    ]
    child.finalize([b"b=1"], misbehavior=evidence)
    header, misbehaviour = seen[1]
    assert header == Header(
        height=2, time_ms=START_MS // 1000 * 1000 + 2001, previous_hash=before, proposer=PROPOSER.hex()
    )
    assert misbehaviour == tuple(
        Misbehaviour(kind=kind, address=validator(2).address, height=1, time_ms=5006)
        for kind in ("duplicate_vote", "light_client_attack")
    )


def test_b14_nothing_is_written_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "app.msgpack"
    child = Child(tmp_path, VotingApplication(path))
    child.start()
    before = path.read_bytes()
    child.prepare([b"a=1"])
    child.judge([b"a=1"])
    child.finalize([b"a=1", b"!b"])
    assert (path.read_bytes(), child.store.height, child.app.info().height) == (before, 0, 0)
    child.commit()
    assert (child.store.height, KvApplication(path).info()) == (1, child.app.info())
    assert child.store.find(sha256(b"!b"), upto=9) == (1, TxResult(code=Code.CONFLICT, log="fails"))


def test_b14_the_engines_file_is_written_before_the_applications(tmp_path: Path) -> None:
    class Dying(VotingApplication):
        def commit(self) -> None:
            raise OSError("disk full")

    child = Child(tmp_path, Dying())
    child.start()
    child.finalize([b"a=1"])
    with pytest.raises(OSError, match="disk full"):
        child.commit()
    assert child.store.height == 1


def test_b13_results_have_the_code_and_the_reason(child: Child) -> None:
    answer = child.finalize([b"a=1", b"!b"])
    assert [(each.code, each.log) for each in answer.tx_results] == [(0, "at 1"), (Code.CONFLICT, "fails")]
    assert len(answer.app_hash) == 32


def test_b15_only_what_changes_among_the_validators_is_told(child: Child) -> None:
    new, domain = validator(9), sn(2).domain
    assert child.finalize([b"a=1"]).validator_updates == []
    child.commit()
    assert child.changed == 0
    answer = child.finalize([f"-{domain}=".encode(), f"+{domain}={new.key.hex()} {new.peer} {new.endpoint}".encode()])
    assert {each.pub_key.ed25519: each.power for each in answer.validator_updates} == {
        MEMBERS[domain].key: 0,
        new.key: POWER,
    }
    assert child.changed == 0
    child.commit()
    assert child.changed == 1
    assert new.peer in child.driver.allowed_peers
    assert MEMBERS[domain].peer not in child.driver.allowed_peers


def test_b15_a_block_that_would_leave_no_validator_stops_the_node(child: Child) -> None:
    with pytest.raises(Broken, match="leaves no validators"):
        child.finalize([f"-{domain}=".encode() for domain in MEMBERS])


@pytest.mark.parametrize(("keep", "expected"), [(0, [0, 0, 0, 0]), (2, [0, 1, 2, 3]), (3, [0, 0, 1, 2])])
def test_b27_the_child_keeps_as_many_blocks_as_it_is_told(keep: int, expected: list[int], tmp_path: Path) -> None:
    child = Child(tmp_path, retain_blocks=keep)
    child.start()
    kept = []
    for i in range(4):
        child.finalize([b"%d=1" % i])
        kept.append(child.commit())
    assert kept == expected


def test_b8_a_transaction_in_two_blocks_keeps_its_first_height_and_result(child: Child) -> None:
    child.block(b"a=1")
    child.block(b"a=1", b"b=1")
    assert child.store.find(sha256(b"a=1"), upto=9) == (1, TxResult(code=Code.OK, log="at 1"))
    assert child.store.find(sha256(b"b=1"), upto=9) == (2, TxResult(code=Code.OK, log="at 2"))


def test_b18_what_the_application_has_yet_to_execute_again_may_be_proposed_anew(child: Child) -> None:
    """The file was fsynced, the child lost its newest block: were it refused, too few might ever accept it."""
    child.block(b"a=1")
    child.store.write(2, bytes(32), [b"b=1"], [TxResult(code=Code.OK)])
    assert child.judge([b"a=1"]) == pb.VERDICT_REJECT
    assert child.judge([b"b=1"]) == pb.VERDICT_ACCEPT
    assert child.check(b"b=1").code == 0
    assert child.prepare([b"a=1", b"b=1"]) == [b"b=1"]


def test_b6_a_damaged_state_is_not_taken_for_a_malformed_request(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> Applied:
        raise DecodeError("Training: truncated")

    monkeypatch.setattr(child.app, "apply", damaged)
    with pytest.raises(Broken, match=r"finalize_block, something that is stored here .* Training: truncated"):
        child.finalize([b"a=1"])


def test_b5_an_illegal_call_does_not_reach_the_application(child: Child) -> None:
    calls = list(child.app.calls)
    with pytest.raises(Broken, match="no such order is legal"):
        child.finalize([b"a=1"], height=2)
    with pytest.raises(Broken, match="no such order is legal"):
        child.commit()
    assert child.app.calls == calls


# --- peers and snapshots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/p2p/filter/id/{1:040x}", 0),
        (f"/p2p/filter/id/{7:040x}", 1),
        (f"/p2p/filter/id/{8:040x}", 0),  # of a join ticket
        (f"/p2p/filter/id/{1:040X}/", 1),
        ("/p2p/filter/id/", 1),
        ("/p2p/filter/addr/192.0.2.1:1234", 0),
        ("/p2p/filter/other/1", 1),
        ("/p2p/filter", 1),
        ("/node/1", 1),
        ("", 1),
    ],
)
def test_b21_only_validators_and_those_of_a_join_ticket_may_connect(path: str, code: int, tmp_path: Path) -> None:
    child = Child(tmp_path, introduced=(validator(8),), introduced_at=1)
    assert child.ask(query=pb.RequestQuery(path=path)).code == code


def test_whom_a_join_ticket_introduced_is_a_stranger_once_its_block_is_committed(tmp_path: Path) -> None:
    async def main() -> None:
        child = Child(tmp_path, introduced=(validator(8), validator(1)), introduced_at=2)
        child.start()
        assert child.driver.members == (*MEMBERS.values(), validator(8))
        child.block(b"a=1")
        assert validator(8) in child.driver.members
        child.block(b"a=2")
        assert child.driver.members == tuple(MEMBERS.values())

    asyncio.run(main())


def test_b31_without_snapshots_none_are_given_and_none_taken(tmp_path: Path) -> None:
    child = Child(tmp_path)
    assert list(child.ask(list_snapshots=pb.RequestListSnapshots()).snapshots) == []
    assert child.ask(load_snapshot_chunk=pb.RequestLoadSnapshotChunk(height=1)).chunk == b""
    assert child.ask(offer_snapshot=pb.RequestOfferSnapshot()).result == pb.OFFER_REJECT
    assert child.ask(apply_snapshot_chunk=pb.RequestApplySnapshotChunk()).result == pb.CHUNK_ABORT


def test_b32_a_snapshot_is_taken_at_the_beginning_only(child: Child, tmp_path: Path) -> None:
    with pytest.raises(Broken, match="OfferSnapshot"):
        child.ask(offer_snapshot=pb.RequestOfferSnapshot())
    with pytest.raises(Broken, match="ApplySnapshotChunk"):
        Child(tmp_path).ask(apply_snapshot_chunk=pb.RequestApplySnapshotChunk())


class OneChunk:
    """Snapshots of one chunk, whose verdicts a test chooses."""

    def __init__(self, app: VotingApplication) -> None:
        self._app = app
        self.offered = Verdict(answer="accept")
        self.applied = Verdict(answer="accept")

    def available(self) -> Sequence[Snapshot]:
        return [Snapshot(height=h, format=1, chunks=1, hash=bytes(32), metadata=b"m") for h in range(20, 0, -1)]

    def load(self, height: int, format_: int, chunk: int) -> bytes | None:
        return b"chunk" if (height, format_, chunk) == (7, 1, 0) else None

    def offer(self, snapshot: Snapshot, app_hash: bytes) -> Verdict:
        assert (snapshot.height, snapshot.metadata, app_hash) == (7, b"m", b"h" * 32)
        return self.offered

    def apply(self, chunk: int, data: bytes) -> Verdict:
        assert (chunk, data) == (0, b"chunk")
        if self.applied.answer == "accept":
            self._app.state = KvState(height=7, app_hash=b"h" * 32, log=())
        return self.applied


def restoring(directory: Path) -> tuple[Child, OneChunk]:
    child = Child(directory)
    snapshots = OneChunk(child.app)
    child.driver._snapshots._snapshots = snapshots
    return child, snapshots


OFFER = pb.RequestOfferSnapshot(
    snapshot=pb.Snapshot(height=7, format=1, chunks=1, hash=bytes(32), metadata=b"m"), app_hash=b"h" * 32
)
CHUNK = pb.RequestApplySnapshotChunk(index=0, chunk=b"chunk", sender="somebody")


def test_b31_the_newest_snapshots_are_given_chunk_by_chunk(tmp_path: Path) -> None:
    child, _ = restoring(tmp_path)
    given = child.ask(list_snapshots=pb.RequestListSnapshots()).snapshots
    assert [each.height for each in given] == list(range(20, 10, -1))
    assert child.ask(load_snapshot_chunk=pb.RequestLoadSnapshotChunk(height=7, format=1)).chunk == b"chunk"
    assert child.ask(load_snapshot_chunk=pb.RequestLoadSnapshotChunk(height=8, format=1)).chunk == b""


def test_b32_b33_after_the_last_chunk_the_next_block_is_executed(tmp_path: Path) -> None:
    child, _ = restoring(tmp_path)
    assert child.ask(offer_snapshot=OFFER).result == pb.OFFER_ACCEPT
    assert child.store.app_hash(7) == b"h" * 32
    assert child.ask(apply_snapshot_chunk=CHUNK).result == pb.CHUNK_ACCEPT
    child.block(b"a=1")
    assert (child.store.height, child.store.find(sha256(b"a=1"), upto=9)) == (
        8,
        (8, TxResult(code=Code.OK, log="at 8")),
    )
    with pytest.raises(Broken, match="OfferSnapshot"):
        child.ask(offer_snapshot=OFFER)


def test_b32_b33_what_the_application_refuses_is_told_to_the_child(tmp_path: Path) -> None:
    child, snapshots = restoring(tmp_path)
    snapshots.offered = Verdict(answer="reject_format")
    assert child.ask(offer_snapshot=OFFER).result == pb.OFFER_REJECT_FORMAT
    assert child.store.height == 0
    snapshots.offered = Verdict(answer="accept")
    assert child.ask(offer_snapshot=OFFER).result == pb.OFFER_ACCEPT
    snapshots.applied = Verdict(answer="retry")
    answer = child.ask(apply_snapshot_chunk=CHUNK)
    assert (answer.result, list(answer.refetch_chunks), list(answer.reject_senders)) == (
        pb.CHUNK_RETRY,
        [0],
        ["somebody"],
    )
    snapshots.applied = Verdict(answer="reject")
    assert child.ask(apply_snapshot_chunk=CHUNK).result == pb.CHUNK_REJECT_SNAPSHOT
    # Another one may be offered, or all blocks may come instead.
    assert child.ask(offer_snapshot=OFFER).result == pb.OFFER_ACCEPT
    child.driver.begin()
    child.start()
    child.block(b"a=1")
    assert child.app.log == [b"a=1"]


def test_b33_a_snapshot_that_is_offered_anew_leaves_the_block_at_which_the_application_stands(tmp_path: Path) -> None:
    store = OrderedStore(tmp_path, GENESIS)
    store.begin_at(7, b"h" * 32)
    store.begin_at(9, b"i" * 32, keep=7)
    # Whether the application gets the newer state or not, the file is level with it or ahead.
    assert (store.app_hash(7), store.app_hash(9), store.height) == (b"h" * 32, b"i" * 32, 9)
    store.begin_at(8, b"j" * 32)
    assert (store.app_hash(7), store.app_hash(8), store.height) == (None, b"j" * 32, 8)
    store.close()


# --- the file ----------------------------------------------------------------------------------------------------


def test_b17_the_file_is_one_processs_and_one_networks(tmp_path: Path) -> None:
    store = OrderedStore(tmp_path, GENESIS)
    with pytest.raises(ConfigurationError, match="in use by another process"):
        OrderedStore(tmp_path, GENESIS)
    store.close()
    with pytest.raises(ConfigurationError, match="give the network's own genesis"):
        OrderedStore(tmp_path, b"another genesis")


@pytest.mark.parametrize("damage", [b"not sqlite at all" * 100, b""])
def test_b17_a_damaged_or_foreign_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    store = OrderedStore(tmp_path, GENESIS)
    store.write(1, bytes(32), [b"a=1"], [TxResult(code=Code.OK)])
    store.close()
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    if damage:
        data[: len(damage)] = damage
    else:
        data[68:72] = b"xxxx"  # application_id
    path.write_bytes(data)
    with pytest.raises(Broken, match=r"remove the \*\.sqlite\* files|another program's file"):
        OrderedStore(tmp_path, GENESIS)


def test_b17_a_block_is_written_once_more_without_effect_and_never_differently(tmp_path: Path) -> None:
    store = OrderedStore(tmp_path, GENESIS)
    for _ in range(2):
        store.write(1, bytes(32), [b"a=1"], [TxResult(code=Code.OK)])
    assert (store.height, store.transactions) == (1, 1)
    with pytest.raises(Broken, match="the application is not deterministic"):
        store.write(1, bytes(31) + b"\x01", [b"a=1"], [TxResult(code=Code.OK)])
    with pytest.raises(Broken, match="expected block 2 next, got 3"):
        store.write(3, bytes(32), [], [])
    store.close()
    again = OrderedStore(tmp_path, GENESIS)
    assert again.find(sha256(b"a=1"), upto=9) == (1, TxResult(code=Code.OK))
    again.close()
