"""How `swarm status` looks: nothing is cut silently, whatever the width, the height and the peers."""

import pytest
from contracts_world import node_of
from msgspec.structs import replace
from status_records import SHOWN, draw, dropped, open_round, peer, summary, training

from swarmlearning.contracts.records import Adaptive, PeerState, Phase, Progress, Settings, Target
from swarmlearning.reports.contract import describe_training
from swarmlearning.reports.status import NetworkReport, report_contract, report_line
from swarmlearning.reports.view import (
    Fitted,
    describe_changes,
    describe_final,
    draw_contract,
    draw_contracts,
    draw_network,
    is_wide,
    show_age,
    show_count,
    show_elapsed,
    show_figure,
    show_seconds,
)
from swarmlearning.types import NodeId, short_name

WIDTHS = pytest.mark.parametrize("columns", [80, 120])


def big(label: str) -> NodeId:
    return NodeId(f"spiffe://{label}.example/heart/sl/sl-{label}")


MANY = [big(f"hospital-{number:02}-" + "x" * 25) for number in range(20)]


@WIDTHS
def test_twenty_peers_are_shown_whole(columns: int) -> None:
    record = training(*(peer(node, progress=SHOWN) for node in MANY), phase=Phase.COMPLETED, round=None)
    lines = draw(draw_contract(report_contract(record, [summary(6)]), is_wide(columns)), columns)
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)
    # A name that is too long goes on in the next line, of which nothing else is filled.
    parts = "".join(line.split()[0] for line in lines if line)
    assert all(short_name(node) in parts for node in MANY)
    assert sum("3/10 12 min 0.3123 0.9123" in " ".join(line.split()) for line in lines) == 20


@WIDTHS
def test_figures_of_absurd_size_are_folded_and_not_cut(columns: int) -> None:
    huge = Progress(epoch=2**62, total_epochs=2**62, eta_s=2**62, loss_micro=-(2**62), figures_round=2**62)
    lines = draw(draw_contract(report_contract(training(peer(0, progress=huge), peer(1))), is_wide(columns)), columns)
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)
    start = next(number for number, line in enumerate(lines) if "───" in line)
    rows = " ".join(lines[start:])
    # Two names with a digit in node and organisation, four shares, `over 1 y`, and figures with all their digits.
    digits = 4 + 8 + 1 + len(f"{2**62}") * 3 + len(f"{2**62 / 1_000_000:.4f}") - 1
    assert sum(c.isdigit() for c in rows.partition("loss, metric")[0]) == digits


def test_what_is_not_shown_is_a_dash_and_the_legend_says_whose_choice_it_is() -> None:
    lines = draw(draw_contract(report_contract(training(peer(0, progress=SHOWN), peer(1))), wide=True), 120)
    rows = {line.split()[0]: line.split()[1:] for line in lines if "@org" in line and "WARNING" not in line}
    assert rows["sl1@org1.example"] == ["training", "-", "-", "-", "-", "-", "6/7", "6/7"]
    assert any("What to show is each peer's choice" in line for line in lines)
    assert "metric: auc" in lines


def test_metrics_of_different_names_are_told_apart() -> None:
    other = replace(SHOWN, metric_name="f1")
    lines = draw(draw_contract(report_contract(training(peer(0, progress=SHOWN), peer(1, progress=other))), True), 120)
    assert "metric: auc (sl0@org0.example)" in lines
    assert "metric: f1 (sl1@org1.example)" in lines


def test_what_a_person_needs_stands_above_the_peers() -> None:
    settings = Settings(
        sync_frequency=50, adaptive=Adaptive(shortest=10, longest=200), target=Target(loss_micro=300_000, patience=3)
    )
    record = training(peer(0), peer(1, state=PeerState.PAUSED), settings=settings, interval=75, streak=1, voids=2)
    lines = draw(draw_contract(report_contract(record), wide=True), 200)
    paused = "it missed the close of a round, and rounds do not wait for it until it is back"
    adaptive = "adaptive: 10 to 200 batches, by 150 %, began with 50"
    assert lines[:10] == [
        "contract   heart, run 1 (created by org0.example)",
        "phase      collecting, round 7",
        "waiting    0 of at least 2 peers have checked in; missing: sl0@org0.example, sl1@org1.example (paused)",
        f"merging    mean of at least 2 peers, every 75 batches now ({adaptive})",
        "exchange   wire float32, topology auto, no witnesses",
        "target     mean loss at most 0.3000; reached by 1 of 3 models in a row",
        "newest     round 6; 2 rounds of this run closed without a merge",
        "model      " + "ab" * 32,
        "WARNING    round 7 cannot close: 1 of at least 2 peers are there; it waits for sl1@org1.example (paused)",
        f"WARNING    sl1@org1.example is paused: {paused}",
    ]


def test_how_a_training_merges_is_told_in_units_that_people_use() -> None:
    def told(**chosen: object) -> list[str]:
        record = training(peer(0), peer(1), settings=replace(Settings(sync_frequency=50), **chosen))
        return draw(draw_contract(report_contract(record), wide=True), 120)[3:6]

    options = (("far", 12_000_000), ("near", 1), ("shift", -1_500_000))
    assert told(merge_method="multi_krum", merge_options=options, wire="int8", topology="sharded", witnesses=2) == [
        "merging    multi_krum (far 12, near 0.000001, shift -1.5) of at least 2 peers, every 50 batches",
        "exchange   wire int8, topology sharded, 2 witnesses",
        "newest     round 6",
    ]
    assert told(merge_method="coordmedian")[1] == "exchange   wire float32, topology auto, 1 witness"
    assert told(method_source="acme 1.0 sha256:00")[2] == "plug-in    acme 1.0 sha256:00"


def test_a_contract_whose_settings_nobody_has_fixed_does_not_say_how_it_merges() -> None:
    record = training(settings=None, phase=Phase.UNINITIALIZED, round=None, last=None)
    lines = draw(draw_contract(report_contract(record), wide=True), 120)
    assert [line.split()[0] for line in lines] == ["contract", "phase", "waiting"]
    assert [line.split()[0] for line in describe_training(replace(record, manifest=None))] == [
        "contract", "creator", "may", "run", "settings", "phase", "waiting", "newest",
    ]  # fmt: skip
    assert describe_training(record)[-1] == "newest      no result yet"


def test_contract_show_says_how_it_merges_as_status_does() -> None:
    settings = Settings(sync_frequency=50, merge_method="trimmed_mean", merge_options=(("trim", 250_000),), wire="bf16")
    lines = describe_training(training(peer(0), settings=replace(settings, method_source="acme 1.0 sha256:00")))
    assert lines[3:9] == [
        "run         1",
        "settings    those of the first peer that enrolled",
        "merging     trimmed_mean (trim 0.25) of at least 2 peers, every 50 batches",
        "exchange    wire bf16, topology auto, 1 witness",
        "plug-in     acme 1.0 sha256:00",
        f"layout      1 bytes of parameters, manifest {'0' * 16}",
    ]
    assert lines[-4:-2] == ["newest      round 6", f"model       {'ab' * 32}"]
    assert "cannot close: 1 of at least 2 peers are there" in lines[-2]
    assert lines[-1] == "peer        sl0@org0.example  live  6 of 7 rounds"


@WIDTHS
def test_final_rounds_say_who_was_missing_and_the_same_of_several_in_a_row_once(columns: int) -> None:
    record = training(peer(0), peer(1), peer(2), finals=30)
    drawn = summary(0, contributors=(node_of(0),), participants=(node_of(0), node_of(1), node_of(2)))
    history = [drawn, summary(1), summary(2), summary(3, attempts=2, dropped=(dropped(2, "unreachable"),)), summary(5)]
    lines = draw(draw_contract(report_contract(record, history), is_wide(columns)), columns)
    assert "the newest 5 of 30 final rounds" in lines
    assert "round 0: all adopted the parameters of sl0@org0.example, which was drawn" in lines
    assert "rounds 1 to 2: without sl2@org2.example, which had not checked in" in lines
    assert "round 3: without sl2@org2.example: unreachable" in lines
    assert "round 3: final in attempt 2" in lines
    assert "round 5: without sl2@org2.example, which had not checked in" in lines
    rows = [line.split() for line in lines]
    (row,) = [words for words in rows if words[:2] == ["2", "11-14"]]
    assert row[3:] == ["2/3", "95", "s", "0.7", "s", "-", "-", "50", "020202020202"]


@pytest.mark.parametrize("height", [3, 12, 20, 24, 30, 52])
def test_a_window_that_is_too_small_says_what_it_leaves_out(height: int) -> None:
    record = training(*(peer(index) for index in range(20)))
    report = report_contract(record, [summary(number) for number in range(10)])
    lines = draw(Fitted(report, ["Ctrl-C ends"]), 100, height)
    assert len(lines) < height
    assert lines[-1] == "Ctrl-C ends"
    text = "\n".join(lines)
    peers, rounds = text.count("training "), text.count("11-14")
    # Rounds go first, one by one.
    assert not rounds or peers == 20
    assert height < 52 or 0 < rounds < 10
    if peers < 20:
        assert f"and {20 - peers} more peers" in text or "too small to show it" in text
    elif rounds < 10:
        assert "window too small for 10" in text


def test_a_network_and_contracts_in_short() -> None:
    sn = NodeId("spiffe://org0.example/heart/sn/sn0")
    network = NetworkReport(
        sn=sn, address="10.0.0.1:30304", network="heart", version="0.1.0", height=12, transactions=13,
        ledger="embedded", sentinel=sn, validators=0, last_block_ms=1_000_000, asked_ms=1_012_000, problem="",
    )  # fmt: skip
    assert draw(draw_network(network), 80) == [
        "network    heart (sentinel: itself)",
        "SN         sn0@org0.example at 10.0.0.1:30304, version 0.1.0",
        "height     12; last block 12 s ago; 13 transactions",
    ]
    voted = replace(network, ledger="cometbft", sentinel=NodeId(""), validators=4)
    assert draw(draw_network(voted), 80)[0] == "network    heart (cometbft, 4 validators)"
    away = replace(voted, away=("d.example",))
    warned = "WARNING    not connected to the validator of d.example; if one more is, the ledger stands still"
    assert draw(draw_network(away), 200)[3:] == [warned]
    two = replace(voted, validators=10, away=("c.example", "d.example"))
    assert draw(draw_network(two), 200)[3].endswith("the validators of c.example, d.example; 1 more may be")
    # Where no blocks are made at all the reason says who is missing.
    assert len(draw(draw_network(replace(away, problem="2 of 4 are connected")), 200)) == 4
    stuck = draw(draw_network(replace(network, problem="the sentinel does not answer")), 80)
    assert stuck[3:] == ["WARNING    the ledger stands still here: the sentinel does not answer"]
    accused = replace(network, offences=("the validator of b.example signed two different votes at height 9",))
    lines = draw(draw_network(replace(accused, open_proposals=2)), 120)
    assert lines[3:] == [
        "WARNING    the validator of b.example signed two different votes at height 9: see swarm network proposals",
        "vote       2 proposals are open: see swarm network proposals",
    ]
    assert "1 proposal is open" in draw(draw_network(replace(network, open_proposals=1)), 100)[3]
    assert show_age(replace(network, asked_ms=900_000)) == "last block dated 100 s ahead of this machine's clock"
    assert show_age(replace(network, last_block_ms=0)) == "no block yet"
    lines = draw(draw_contracts([report_line(training(peer(0))), report_line(training(last=None, round=None))]), 80)
    assert [line.split() for line in lines[2:]] == [
        ["heart", "1", "collecting", "7", "1", "round", "6:", "ab" * 6],
        ["heart", "1", "collecting", "-", "0", "-"],
    ]


def test_numbers_for_people() -> None:
    spans = {0: "0 s", 119: "119 s", 120: "2 min", 749: "12 min", 3_599: "59 min", 11_100: "3 h 05 min"}
    spans |= {187_200: "2 d 4 h", 2**62: "over 1 y"}
    assert {seconds: show_seconds(seconds) for seconds in spans} == spans
    assert (show_seconds(None), show_elapsed(649), show_elapsed(64_900)) == ("-", "0.6 s", "64 s")
    assert (show_count(3, None), show_count(None, 3), show_count(None, None)) == ("3/-", "-/3", "-")
    assert (show_figure(None), show_figure(0.0)) == ("-", "0.0000")


# --- a line a change ------------------------------------------------------------------------------------------------


def test_every_final_round_and_every_warning_is_told_once() -> None:
    first = report_contract(training(peer(0), peer(1)), [summary(5)])
    lines = describe_changes(None, first)
    assert lines[0].startswith("round 5 final at 22:13:20: 2 of 2 contributed; model 050505050505")
    assert lines[1:] == [f"heart, run 1: collecting, round 7: {first.waits_for}"]
    assert describe_changes(first, first) == []
    away = training(peer(0), peer(1), peer(2, state=PeerState.PAUSED), round=open_round(number=9))
    later = report_contract(away, [summary(number) for number in (5, 6, 7, 8)])
    told = describe_changes(first, later)
    assert [line.split(" final")[0] for line in told[:3]] == ["round 6", "round 7", "round 8"]
    assert [line.startswith("WARNING sl2@org2.example is paused") for line in told[3:]] == [True, False]
    assert describe_changes(later, later) == []


def test_rounds_of_a_new_run_are_new_though_their_numbers_are_lower() -> None:
    before = report_contract(training(peer(0), peer(1)), [summary(5)])
    after = report_contract(training(peer(0), peer(1), run=2), [summary(5), summary(0, run=2)])
    assert describe_changes(before, after)[0].startswith("round 0 final")


def test_a_round_in_a_line_has_the_means_of_the_model_before() -> None:
    record = training(peer(0), peer(1))
    (told,) = report_contract(record, [summary(5, mean_loss_micro=312_345, mean_metric_micro=900_000)]).rounds
    assert describe_final(told) == (
        "round 5 final at 22:13:20: 2 of 2 contributed; mean loss of the model before 0.3123; "
        "mean metric of the model before 0.9000; model 050505050505"
    )
