"""What `swarm status` tells of a contract, and what it warns of: docs/spec/training.md, T-31, T-33, T-37."""

import msgspec
import pytest
from contracts_world import World, name_of, node_of
from msgspec.structs import replace
from status_records import SHOWN, dropped, open_round, peer, summary, training

from swarmlearning.contracts import membership
from swarmlearning.contracts.proposals import DAY_MS, Offence
from swarmlearning.contracts.records import CheckedIn, PeerState, Phase, Progress, Settings, Target, Training
from swarmlearning.reports.status import find_warnings, make_printable, report_contract, report_network
from swarmlearning.sn.api import Status
from swarmlearning.types import NodeId, Role, TrustDomain


def checkin(index: int) -> CheckedIn:
    return CheckedIn(node=node_of(index), commitment=bytes(32), weight=1, mode="active", finished=False, at_ms=1)


def kinds(record: Training) -> list[str]:
    return [warning.kind for warning in find_warnings(record)]


def test_what_a_peer_does_not_show_is_null_and_nothing_takes_its_place() -> None:
    report = report_contract(training(peer(0, progress=SHOWN), peer(1), peer(2, progress=Progress(loss_micro=0))))
    shown, silent, zero = msgspec.to_builtins(report)["peers"]
    names = ("epoch", "total_epochs", "eta_s", "loss", "metric", "figures_round")
    assert [shown[name] for name in names] == [3, 10, 749, 0.312345, 0.912345, 6]
    assert [silent[name] for name in names] == [None] * 6
    assert (zero["loss"], zero["metric"]) == (0.0, None)


def test_of_which_model_figures_are_is_not_told_where_there_are_none() -> None:
    (only,) = report_contract(training(peer(0, progress=Progress(figures_round=6)))).peers
    assert only.figures_round is None


def test_t37_means_are_the_ledgers_and_are_not_worked_out_anew() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round((0, 1))
    for index, loss in enumerate((200_000, 400_001)):
        world.must(index, world.offer(index, Progress(loss_micro=loss, figures_round=0)))
    world.finalise()
    history = membership.load_history(world.state, world.training, 10)
    first, second = report_contract(world.training, history).rounds
    assert (first.mean_loss, second.mean_loss, second.mean_metric) == (None, 0.3, None)
    assert second.model == world.training.last.sha256.hex()  # type: ignore[union-attr]  # it is final


@pytest.mark.parametrize(("age_ms", "told"), [(0, True), (7 * DAY_MS - 1, True), (7 * DAY_MS, False)])
def test_m16_an_accusation_is_told_while_it_is_recent(age_ms: int, told: bool) -> None:
    offence = Offence(
        number=1, kind="duplicate_vote", domain=TrustDomain("b.example"), address=bytes(20), height=9, time_ms=1,
        recorded_height=11, recorded_ms=1_000,
    )  # fmt: skip
    sn = name_of(0, Role.SN).id
    status = Status(
        node=sn, network="heart", sentinel=sn, height=12, transactions=1, app_hash=b"", time_ms=1, clock_ms=1,
        problem="", version="1", open_proposals=3, offences=(offence,),
    )  # fmt: skip
    report = report_network(status, "sn:1", 1_000 + age_ms)
    text = "the validator of b.example signed two different votes at height 9"
    assert (report.offences, report.open_proposals) == ((text,) if told else (), 3)
    other = replace(offence, domain=TrustDomain("c.example"))
    many = replace(status, offences=(offence, replace(offence, number=2, height=10), other))
    if told:
        assert report_network(many, "sn:1", 1_000 + age_ms).offences == (
            "the validator of b.example signed two different votes at height 10, and 1 more like it",
            "the validator of c.example signed two different votes at height 9",
        )


# --- warnings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recent", "offered", "warned"),
    [(0b1111, 12, True), (0b11111, 12, False), (0b0, 9, False), (0b0, 10, True), (0b1111111111, 10, False)],
)
def test_t31_who_contributed_to_less_than_half_of_its_last_ten_rounds_is_named(
    recent: int, offered: int, warned: bool
) -> None:
    record = training(peer(0), peer(1, recent=recent, rounds_offered=offered))
    texts = [warning.text for warning in find_warnings(record) if warning.kind == "share"]
    assert [text.startswith("sl1@org1.example contributed to") for text in texts] == [True] * warned


@pytest.mark.parametrize("state", [PeerState.FINISHED, PeerState.LEFT])
def test_who_has_finished_or_left_is_not_warned_of(state: PeerState) -> None:
    assert kinds(training(peer(0), peer(1), peer(2, state=state, recent=0, rounds_offered=20))) == []


def test_a_training_as_it_should_be_has_no_warnings_nor_has_one_that_is_over() -> None:
    assert kinds(training(peer(0), peer(1))) == []
    over = training(peer(0, state=PeerState.PAUSED), distrusted=(node_of(0),), phase=Phase.COMPLETED, round=None)
    assert kinds(over) == []


def test_t33_a_round_below_min_peers_names_whom_it_waits_for() -> None:
    paused = peer(1, state=PeerState.PAUSED)
    by_kind = {warning.kind: warning.text for warning in find_warnings(training(peer(0), paused))}
    assert by_kind["quorum"] == (
        "round 7 cannot close: 1 of at least 2 peers are there; it waits for sl1@org1.example (paused)"
    )
    assert by_kind["paused"].startswith("sl1@org1.example is paused")
    alone = find_warnings(training(peer(0, min_peers=4), peer(1)))
    assert [warning.text for warning in alone] == [
        "round 7 cannot close: 2 of at least 4 peers are there; it waits for 2 more to enrol"
    ]


def test_a_paused_peer_that_has_checked_in_is_there() -> None:
    here = training(peer(0), peer(1, state=PeerState.PAUSED), round=open_round(checkins=(checkin(1),)))
    assert kinds(here) == ["paused"]


def test_setbacks_attempts_drops_and_distrust_are_warned_of() -> None:
    again = open_round(attempt=2, setback="no majority stored it", dropped=(dropped(1, "unreachable"),))
    texts = [warning.text for warning in find_warnings(training(peer(0), peer(1), round=again))]
    assert texts == [
        "round 7 collects check-ins again: no majority stored it",
        "round 7 goes on without sl1@org1.example: unreachable",
    ]
    void = open_round(setback="round 6 closed void: nobody offered parameters")
    assert find_warnings(training(peer(0), peer(1), round=void))[0].text == void.setback
    for attempt, expected in ((1, []), (2, ["attempts"])):
        merging = open_round(attempt=attempt, merging=True, participants=(node_of(0), node_of(1)))
        assert kinds(training(peer(0), peer(1), phase=Phase.MERGING, round=merging)) == expected
    assert kinds(training(peer(0), peer(1), distrusted=(node_of(1),))) == ["distrusted"]


# --- rounds ---------------------------------------------------------------------------------------------------------


def missing(record: Training, **changes: object) -> tuple[NodeId, ...]:
    return report_contract(record, [summary(5, **changes)]).rounds[0].missing


def test_who_did_not_check_in_is_missing_in_a_round() -> None:
    record = training(peer(0), peer(1), peer(2, enrolled_round=5))
    assert missing(record) == (node_of(2),)


def test_nobody_is_missing_in_a_round_before_its_enrolment_or_of_another_run_or_after_it_left() -> None:
    later = training(peer(0), peer(1), peer(2, enrolled_round=6))
    assert missing(later) == ()
    assert missing(training(peer(0), peer(1), peer(2)), run=2) == ()
    assert missing(training(peer(0), peer(1), peer(2, state=PeerState.LEFT))) == ()


def test_who_was_dropped_is_told_with_the_reason_and_not_as_missing() -> None:
    record = training(peer(0), peer(1), peer(2))
    (told,) = report_contract(record, [summary(5, dropped=(dropped(2, "unreachable"),))]).rounds
    assert told.missing == ()
    assert [(d.name, d.reason) for d in told.dropped] == [("sl2@org2.example", "unreachable")]


def test_a_target_says_how_near_it_is() -> None:
    record = training(peer(0), peer(1), streak=2)
    assert record.settings is not None
    assert report_contract(record).target is None
    aimed = replace(record, settings=replace(record.settings, target=Target(loss_micro=300_000, patience=3)))
    target = report_contract(aimed).target
    assert target is not None
    assert (target.loss, target.metric, target.streak, target.patience, target.reached) == (0.3, None, 2, 3, False)


def test_options_are_numbers_and_witnesses_as_many_as_the_method_has_where_nobody_said() -> None:
    settings = Settings(sync_frequency=50, merge_method="trimmed_mean", merge_options=(("trim", 250_000),), wire="int8")
    report = msgspec.to_builtins(report_contract(training(peer(0), settings=settings)))
    names = ("merge_method", "merge_options", "method_source", "wire", "topology", "witnesses")
    assert [report[name] for name in names] == ["trimmed_mean", {"trim": 0.25}, "", "int8", "auto", 1]
    unknown = msgspec.to_builtins(report_contract(training(settings=None)))
    assert [unknown[name] for name in names] == ["", {}, "", "", "", None]


# --- attacks --------------------------------------------------------------------------------------------------------

NASTY = "\x1b[2J\x07\r\n\x9b31m\u202egnp\u2066"


def test_text_that_steers_a_terminal_becomes_harmless() -> None:
    assert make_printable(NASTY) == "?[2J????31m?gnp?"
    assert make_printable("Genauigkeit für κ = 0,5") == "Genauigkeit für κ = 0,5"


def test_no_control_character_of_a_peers_texts_is_in_a_report() -> None:
    record = training(
        peer(0, progress=replace(SHOWN, metric_name=NASTY)),
        peer(1),
        round=open_round(attempt=1, setback=NASTY, dropped=(dropped(1, NASTY),)),
        settings=Settings(sync_frequency=50, merge_method=NASTY, merge_options=((NASTY, 1),), method_source=NASTY),
    )
    report = report_contract(record, [summary(5, dropped=(dropped(1, NASTY),))])

    def texts(value: object) -> list[str]:
        if isinstance(value, dict):
            return [text for pair in value.items() for inner in pair for text in texts(inner)]
        if isinstance(value, list | tuple):
            return [text for inner in value for text in texts(inner)]
        return [value] if isinstance(value, str) else []

    found = texts(msgspec.to_builtins(report))
    assert sum("gnp" in text for text in found) == 8
    assert all(text.isprintable() for text in found)
