"""When a local training counts as a success: every program ended well, with the one model on the ledger."""

from pathlib import Path

import pytest

from swarmlearning.contracts.records import Peer, PeerState, Phase, Result, Training
from swarmlearning.encoding import encode
from swarmlearning.errors import DecodeError
from swarmlearning.local.check import NEVER_USED, Ending, find_faults, newest_result
from swarmlearning.sl.results import StoredResult
from swarmlearning.types import ContractName, Endpoint, NodeId

CONTRACT = ContractName("c")
NODES = [NodeId(f"spiffe://local.example/local/sl/sl-{i}") for i in range(3)]
MODEL, OTHER = b"\x01" * 32, b"\x02" * 32


def peer(node: NodeId, state: PeerState = PeerState.FINISHED) -> Peer:
    endpoint = Endpoint(host="127.0.0.1", port=1)
    return Peer(node=node, endpoint=endpoint, state=state, min_peers=2, weight=1, restored=False, enrolled_round=0)


def last(round_: int = 4) -> Result:
    nodes = tuple(NODES)
    return Result(
        round=round_, roots=(MODEL,), result_root=MODEL, sha256=MODEL, holders=nodes, participants=nodes,
        contributors=nodes, dropped=(), attempts=1, height=9, time_ms=1,
    )  # fmt: skip


def training(**changes: object) -> Training:
    fields: dict[str, object] = {"peers": tuple(map(peer, NODES)), "phase": Phase.COMPLETED, "last": last(), **changes}
    return Training(name=CONTRACT, creator="local.example", created_height=1, **fields)  # type: ignore[arg-type]  # keywords


def stored(round_: int = 4, sha256: bytes = MODEL, run: int = 1, contract: ContractName = CONTRACT) -> StoredResult:
    return StoredResult(
        contract=contract, run=run, round=round_, roots=(MODEL,), sha256=sha256, size=1, file=f"result-{round_}.bin"
    )


def ending(index: int, status: int = 0, result: StoredResult | None = None) -> Ending:
    return Ending(name=f"peer {index}", node=NODES[index], status=status, result=result or stored())


GOOD = [ending(0), ending(1), ending(2)]


def test_all_finished_with_the_ledgers_model() -> None:
    assert find_faults(training(), GOOD) == []


def test_one_failed_program_fails_the_run_even_if_the_others_completed() -> None:
    states = (peer(NODES[0]), peer(NODES[1]), peer(NODES[2], PeerState.PAUSED))
    assert find_faults(training(peers=states), [*GOOD[:2], ending(2, status=3)]) == [
        "peer 2: the program ended with status 3"
    ]


def test_programs_that_never_used_the_swarm_are_told_how() -> None:
    assert find_faults(None, GOOD) == [NEVER_USED]
    assert find_faults(training(peers=(), phase=Phase.UNINITIALIZED, last=None), GOOD) == [NEVER_USED]


@pytest.mark.parametrize("record", [None, training(peers=(), phase=Phase.UNINITIALIZED, last=None)])
def test_failures_before_the_swarm_was_used_are_the_message(record: Training | None) -> None:
    assert find_faults(record, [ending(0), ending(1, status=1), ending(2)]) == [
        "peer 1: the program ended with status 1"
    ]


@pytest.mark.parametrize("stopped", [143, -15])
def test_causes_come_before_what_was_ended_because_of_them(stopped: int) -> None:
    endings = [ending(0, status=stopped), ending(1, status=3), ending(2, status=-9)]
    assert find_faults(training(), endings) == [
        "peer 1: the program ended with status 3",
        "peer 2: the program ended with status -9",
        f"peer 0: the program ended with status {stopped}",
    ]


def test_a_program_that_did_not_join_is_named() -> None:
    assert find_faults(training(peers=tuple(map(peer, NODES[:2]))), GOOD) == [
        "peer 2: its program never joined the training"
    ]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (PeerState.LEFT, "peer 0: left the training before its end"),
        (PeerState.LIVE, "peer 0: its program ended without finishing the training"),
        (PeerState.PAUSED, "peer 0: its program ended without finishing the training"),
    ],
)
def test_exit_status_0_is_not_enough(state: PeerState, said: str) -> None:
    peers = (peer(NODES[0], state), peer(NODES[1]), peer(NODES[2]))
    assert said in find_faults(training(peers=peers, phase=Phase.COLLECTING), GOOD)


@pytest.mark.parametrize("state", [PeerState.LIVE, PeerState.PAUSED])
def test_a_training_that_a_target_or_the_others_ended_is_judged_by_its_model(state: PeerState) -> None:
    peers = (peer(NODES[0], state), peer(NODES[1]), peer(NODES[2]))
    assert find_faults(training(peers=peers, reached=True), GOOD) == []
    other = [ending(0, result=stored(sha256=OTHER)), *GOOD[1:]]
    assert len(find_faults(training(peers=peers, reached=True), other)) == 1


def test_an_unfinished_training_is_no_success() -> None:
    assert find_faults(training(phase=Phase.COLLECTING), GOOD) == [
        "the training c is not complete: it stands at collecting"
    ]
    assert find_faults(training(last=None), GOOD) == ["the training c ended without a merged model"]


def test_a_peer_with_another_model_is_found() -> None:
    faults = find_faults(training(), [*GOOD[:2], ending(2, result=stored(sha256=OTHER))])
    assert faults == [
        f"peer 2: ended with the model {OTHER.hex()[:16]}, but the one on the ledger is {MODEL.hex()[:16]}"
    ]


def test_a_peer_that_missed_the_last_round_is_found() -> None:
    assert find_faults(training(), [ending(0, result=stored(3)), *GOOD[1:]]) == [
        "peer 0: has no result of round 4, the training's last"
    ]


def test_newest_result_is_of_this_contract_and_run_only(tmp_path: Path) -> None:
    results = [stored(2), stored(3), stored(9, run=7), stored(8, contract=ContractName("other"))]
    for number, result in enumerate(results):
        (tmp_path / f"result-{number}.meta").write_bytes(encode(result))
    assert newest_result(tmp_path, training()) == stored(3)
    assert newest_result(tmp_path, training(run=2)) is None
    assert newest_result(tmp_path, None) is None
    (tmp_path / "result-9.meta").write_bytes(b"junk")
    with pytest.raises(DecodeError):
        newest_result(tmp_path, training())
