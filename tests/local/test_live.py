"""What the user reads while a training runs: who is where, and who is waited for."""

import io

import msgspec
from rich.console import Console

from swarmlearning.contracts.records import (
    CheckedIn,
    Dropped,
    Peer,
    PeerState,
    Phase,
    Progress,
    Result,
    Round,
    Training,
)
from swarmlearning.local.live import (
    View,
    build_rows,
    describe_round,
    describe_state,
    metric_heading,
    show_bytes,
    show_micro,
)
from swarmlearning.types import ContractName, Endpoint, NodeId, TrustDomain

NODES = [NodeId(f"spiffe://{domain}.example/local/sl/sl-0") for domain in ("hungary", "cleveland")]
NAMES = {NODES[1]: "Cleveland", NODES[0]: "Hungary"}
HASH = b"\xab" * 32


def peer(index: int, state: PeerState = PeerState.LIVE, progress: Progress = Progress()) -> Peer:  # noqa: B008  # frozen
    return Peer(
        node=NODES[index], endpoint=Endpoint(host="127.0.0.1", port=1), state=state, min_peers=2, weight=1,
        restored=False, enrolled_round=0, rounds_offered=5, rounds_contributed=4, progress=progress,
    )  # fmt: skip


def checkin(index: int) -> CheckedIn:
    return CheckedIn(node=NODES[index], commitment=HASH, weight=1, mode="active", finished=False, at_ms=1)


def training(
    *,
    phase: Phase = Phase.COLLECTING,
    peers: tuple[Peer, ...] = (peer(0), peer(1)),
    open_round: Round | None = None,
    last: Result | None = None,
) -> Training:
    return Training(
        name=ContractName("c"), creator=TrustDomain("hungary.example"), created_height=1, phase=phase, peers=peers,
        round=open_round, last=last,
    )  # fmt: skip


def round_(*checkins: CheckedIn, attempt: int = 0) -> Round:
    nodes = tuple(c.node for c in checkins)
    return Round(
        number=3,
        attempt=attempt,
        opened_ms=1,
        quorum_ms=None,
        checkins=checkins,
        participants=nodes,
        contributors=nodes,
    )


def result(round_number: int, *dropped: Dropped) -> Result:
    nodes = tuple(NODES)
    return Result(
        round=round_number, roots=(), result_root=HASH, sha256=HASH, holders=nodes, participants=nodes,
        contributors=nodes[: 2 - len(dropped)], dropped=dropped, attempts=1, height=9, time_ms=1,
    )  # fmt: skip


def states(record: Training | None) -> dict[str, str]:
    return {row.name: row.state for row in build_rows(record, NAMES)}


def test_rows_stand_in_the_given_order_and_say_where_each_peer_is() -> None:
    assert states(None) == {"Cleveland": "starting", "Hungary": "starting"}
    assert list(states(None)) == ["Cleveland", "Hungary"]
    assert states(training(open_round=round_(checkin(0)))) == {"Cleveland": "training", "Hungary": "waiting"}
    merging = training(phase=Phase.MERGING, open_round=round_(checkin(0)))
    assert states(merging) == {"Cleveland": "training", "Hungary": "merging"}
    paused = (peer(0, PeerState.PAUSED), peer(1, PeerState.FINISHED))
    assert states(training(peers=paused, open_round=round_())) == {"Cleveland": "finished", "Hungary": "paused"}


def test_a_row_shows_what_a_peer_chose_to_show() -> None:
    progress = Progress(
        epoch=2, total_epochs=20, loss_micro=693_147, metric_micro=912_345, metric_name="auc", bytes_received=1_234_567,
        bytes_sent=999,
    )  # fmt: skip
    row = build_rows(training(peers=(peer(0, progress=progress), peer(1)), open_round=round_()), NAMES)[1]
    assert (row.epoch, row.round, row.loss, row.metric) == ("2/20", "3", "0.6931", "0.9123")
    assert (row.contributed, row.received, row.sent) == ("4/5", "1.2 MB", "999 B")
    silent = build_rows(training(open_round=round_()), NAMES)[0]
    assert (silent.epoch, silent.loss, silent.metric) == ("", "", "")


def test_an_enrolled_stranger_gets_a_row_too() -> None:
    rows = build_rows(training(open_round=round_()), {NODES[1]: "Cleveland"})
    assert [row.name for row in rows] == ["Cleveland", NODES[0]]


def test_it_says_who_is_waited_for() -> None:
    assert describe_state(None, NAMES) == "waiting for the programs to enrol"
    alone = training(peers=(peer(0),), open_round=round_(checkin(0)))
    assert describe_state(alone, NAMES) == "round 3: 1 enrolled, 2 needed; waiting for Cleveland"
    half = training(open_round=round_(checkin(0)))
    assert describe_state(half, NAMES) == "round 3: 1 of 2 checked in; waiting for Cleveland"
    assert describe_state(training(open_round=round_()), NAMES) == "round 3: training"


def test_a_peer_that_is_not_expected_is_not_waited_for() -> None:
    peers = (peer(0), peer(1, PeerState.PAUSED))
    assert describe_state(training(peers=peers, open_round=round_(checkin(0))), NAMES) == "round 3: training"


def test_it_says_that_it_merges_and_that_it_is_over() -> None:
    merging = training(phase=Phase.MERGING, open_round=round_(checkin(0), checkin(1), attempt=1))
    assert describe_state(merging, NAMES) == "round 3: merging 2 contributions"
    again = training(phase=Phase.MERGING, open_round=round_(checkin(0), checkin(1), attempt=2))
    assert describe_state(again, NAMES) == "round 3: merging 2 contributions, attempt 2"
    over = training(phase=Phase.COMPLETED, last=result(7))
    assert describe_state(over, NAMES) == f"complete after round 7: model {HASH.hex()[:16]}"
    assert describe_state(training(phase=Phase.COMPLETED), NAMES) == "complete, without a merged model"


def test_a_round_that_went_on_without_a_peer_says_so() -> None:
    record = training(open_round=round_(), last=result(2, Dropped(node=NODES[1], reason="nonfinite: dense/kernel")))
    assert describe_round(record, NAMES) == "round 2: 1 of 2 contributed; without Cleveland: nonfinite: dense/kernel"


def test_a_peer_that_did_not_contribute_is_not_shown_with_an_old_loss() -> None:
    progress = Progress(loss_micro=500_000)
    peers = (peer(0, progress=progress), peer(1, progress=progress))
    record = training(peers=peers, open_round=round_(), last=result(2, Dropped(node=NODES[1], reason="late")))
    assert describe_round(record, NAMES) == (
        "round 2: 1 of 2 contributed; loss Hungary 0.5000; without Cleveland: late"
    )


def test_the_metric_heads_its_column_where_all_measure_the_same() -> None:
    same, other = Progress(metric_name="balanced_accuracy"), Progress(metric_name="auc")
    assert metric_heading(training(peers=(peer(0, progress=same), peer(1)))) == "balanced\naccuracy"
    mixed = training(peers=(peer(0, progress=same), peer(1, progress=other)))
    assert [metric_heading(record) for record in (mixed, training(), None)] == ["metric"] * 3


def test_no_cell_is_cut_at_100_columns() -> None:
    progress = Progress(
        epoch=100, total_epochs=100, loss_micro=12_693_147, metric_micro=912_345, metric_name="balanced_accuracy",
        bytes_received=123_400_000, bytes_sent=567_800_000,
    )  # fmt: skip
    full = msgspec.structs.replace(peer(0, progress=progress), rounds_offered=100, rounds_contributed=100)
    out = io.StringIO()
    with View(
        Console(file=out, force_terminal=True, width=100), {NODES[0]: "A hospital with a name"}, title="t"
    ) as view:
        view.update(training(peers=(full,), open_round=round_()))
    shown = out.getvalue()
    for text in (
        "A hospital with a name",
        "training",
        "100/100",
        "12.6931",
        "0.9123",
        "123.4 MB",
        "567.8 MB",
        "merged",
    ):
        assert text in shown
    assert "…" not in shown


def test_the_first_round_says_whose_parameters_were_drawn() -> None:
    drawn = result(0, Dropped(node=NODES[1], reason="-"))
    assert describe_round(training(open_round=round_(), last=drawn), NAMES) == (
        "round 0: all start from the parameters of Hungary, which was drawn"
    )


def test_without_a_terminal_there_is_one_line_a_round_and_no_wrapping() -> None:
    out = io.StringIO()
    progress = Progress(loss_micro=500_000)
    with View(Console(file=out, width=20), NAMES, title="heart-0") as view:
        for number in (1, 1, 2):
            view.update(training(peers=(peer(0, progress=progress), peer(1)), open_round=round_(), last=result(number)))
        view.line("Cleveland", "a line that is much longer than the terminal is wide [not markup]")
    assert out.getvalue().splitlines() == [
        "heart-0: round 1: 2 of 2 contributed; loss Hungary 0.5000",
        "heart-0: round 2: 2 of 2 contributed; loss Hungary 0.5000",
        "Cleveland | a line that is much longer than the terminal is wide [not markup]",
    ]


def test_on_a_terminal_the_table_names_every_peer() -> None:
    out = io.StringIO()
    with View(Console(file=out, force_terminal=True, width=120), NAMES, title="heart-0") as view:
        view.update(training(open_round=round_(checkin(0))))
    shown = out.getvalue()
    assert "Cleveland" in shown
    assert "waiting for Cleveland" in shown


def test_figures_for_people() -> None:
    assert [show_bytes(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2000.0 TB",
    ]
    assert (show_micro(None), show_micro(-1_500_000)) == ("", "-1.5000")
