"""What a rehearsal tries with whom, and what it lets pass."""

from typing import Any

import pytest
from msgspec.structs import replace

from swarmlearning.contracts.records import Dropped
from swarmlearning.rehearsal.script import (
    LEASE_MS,
    Kind,
    Outcome,
    Step,
    absent_nodes,
    expect,
    judge,
    kill_limit_s,
    seconds_of,
    weight_of,
    write_script,
)
from swarmlearning.sl.drills import FRAMES_A_LEASE, MAX_DRILL_S
from swarmlearning.types import NodeId

A, B, C, D = NODES = [NodeId(f"spiffe://{letter}.example/n/sl/sl") for letter in "abcd"]
NOBODY = NodeId("")
ALL = ("slow", "cut", "kill")
LIMIT_S = 5.5
GOOD = Outcome(
    round=3,
    seconds=1.0,
    bytes_moved=8_000_000,
    contributors=tuple(NODES),
    participants=tuple(NODES),
    dropped=(),
    attempts=1,
    differing=0,
    sha256="ab" * 32,
    expected_sha256="ab" * 32,
)


def seed(first: int) -> bytes:
    """A rehearsal in which the turn begins with the `first` site."""
    return first.to_bytes(8, "big") + bytes(24)


def step(kind: Kind, victim: NodeId = NOBODY, peer: NodeId = NOBODY) -> Step:
    return Step(number=1, kind=kind, victim=victim, peer=peer)


def test_all_sites_write_the_same_script_in_whichever_order_they_know_each_other() -> None:
    script = write_script(NODES, seed(2), ALL)
    assert script == write_script(NODES[::-1], seed(2), ALL[::-1])
    assert [s.kind for s in script] == ["canary", "slow", "cut", "kill", "last"]
    assert [s.number for s in script] == [0, 1, 2, 3, 4]
    assert [(s.victim, s.peer) for s in script[1:4]] == [(C, ""), (D, A), (A, "")]


@pytest.mark.parametrize("kind", ALL)
def test_over_rehearsals_everybody_is_the_victim_once(kind: str) -> None:
    victims = [next(s.victim for s in write_script(NODES, seed(i), ALL) if s.kind == kind) for i in range(4)]
    assert sorted(victims) == NODES


@pytest.mark.parametrize("first", [0, 1])
def test_with_two_sites_cut_and_kill_are_skipped_and_say_why(first: int) -> None:
    script = write_script([A, B], seed(first), ALL)
    assert [(s.kind, bool(s.skipped)) for s in script] == [
        ("canary", False),
        ("slow", False),
        ("cut", True),
        ("kill", True),
        ("last", False),
    ]
    assert "needs 3 sites, here are 2" in script[2].skipped
    assert script[3].victim == ""


def test_with_three_sites_nothing_is_skipped_and_a_link_has_two_ends() -> None:
    for first in range(3):
        script = write_script([A, B, C], seed(first), ALL)
        assert not any(s.skipped for s in script)
        assert script[2].victim != script[2].peer


def test_only_the_drills_that_were_asked_for_are_tried() -> None:
    assert [s.kind for s in write_script(NODES, seed(0), ())] == ["canary", "last"]
    assert [s.kind for s in write_script(NODES, seed(0), ("kill",))] == ["canary", "kill", "last"]


def test_weights_are_others_for_every_site() -> None:
    assert weight_of({C, A, B}) == {A: 1, B: 2, C: 3}


def test_a_drill_is_one_that_the_sl_accepts_and_the_slow_one_outlasts_a_lease() -> None:
    assert all(0 < seconds_of(kind) <= MAX_DRILL_S for kind in ALL)  # type: ignore[arg-type]  # a tuple of them
    assert seconds_of("slow") > LEASE_MS / 1000
    assert f"each {LEASE_MS / 1000 / FRAMES_A_LEASE:g} s" in step("slow", A).tried


@pytest.mark.parametrize("kind", ["canary", "slow", "last"])
def test_a_round_with_everybody_in_it_passes(kind: Kind) -> None:
    assert judge(step(kind, B), NODES, A, GOOD, LIMIT_S) == ()
    assert expect(step(kind, B), LIMIT_S)


@pytest.mark.parametrize("kind", ["canary", "slow", "cut", "kill", "last"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"differing": 12}, "in 12 places the merged model is not the weighted mean"),
        ({"differing": -1}, "other tensors"),
        ({"expected_sha256": "cd" * 32}, "the ledger's hash is abababababababab, that of the right merge is cdcd"),
        ({"sha256": ""}, "void"),
        ({"contributors": (A, B, C)}, "sl@d.example did not contribute"),
    ],
)
def test_a_wrong_merge_a_wrong_hash_or_a_missing_site_fails_in_every_round(
    kind: Kind, changes: dict[str, Any], says: str
) -> None:
    outcome = replace(GOOD if kind != "kill" else replace(GOOD, contributors=(A, C, D)), **changes)
    if kind == "kill" and "contributors" in changes:
        outcome = replace(outcome, contributors=(A, C))
    problems = judge(step(kind, B, C), NODES, A, outcome, LIMIT_S)
    assert len(problems) == 1
    assert says in problems[0]


def test_a_victim_that_is_dropped_for_being_slow_fails_with_the_reason() -> None:
    outcome = replace(GOOD, contributors=(A, C, D), dropped=(Dropped(node=B, reason="unreachable: 1.5 s"),))
    assert judge(step("slow", B), NODES, A, outcome, LIMIT_S) == (
        "sl@b.example did not contribute: unreachable: 1.5 s",
    )


def test_a_cut_link_may_cost_its_two_ends_and_nobody_else() -> None:
    for contributors in ((A, B, C, D), (A, B, D), (A, D)):
        assert judge(step("cut", B, C), NODES, A, replace(GOOD, contributors=contributors), LIMIT_S) == ()
    assert judge(step("cut", B, C), NODES, A, replace(GOOD, contributors=(A, B, C)), LIMIT_S)


def test_a_killed_site_is_left_out_and_the_others_are_quick() -> None:
    kill = step("kill", B)
    outcome = replace(GOOD, contributors=(A, C, D), seconds=LIMIT_S)
    assert judge(kill, NODES, A, outcome, LIMIT_S) == ()
    (slow,) = judge(kill, NODES, A, replace(outcome, seconds=LIMIT_S + 0.2), LIMIT_S)
    assert slow.startswith("the round took 5.7 s, expected at most 5.5 s")
    (deaf,) = judge(kill, NODES, A, replace(outcome, contributors=tuple(NODES)), LIMIT_S)
    assert deaf == "sl@b.example contributed although it was silent"


def test_the_victim_itself_may_learn_of_the_round_later() -> None:
    outcome = replace(GOOD, contributors=(A, C, D), seconds=50.0)
    assert judge(step("kill", B), NODES, B, outcome, LIMIT_S) == ()


def test_a_round_without_the_dead_one_ends_within_lease_and_two_seconds_and_what_a_round_takes() -> None:
    assert kill_limit_s(0.5) == pytest.approx(3 + 2 + 0.5)


def test_who_is_not_there_against_the_script_ends_the_rehearsal() -> None:
    gone = replace(GOOD, participants=(A, B, C), contributors=(A, B, C))
    assert absent_nodes(step("slow", B), NODES, gone) == [D]
    assert absent_nodes(step("kill", D), NODES, gone) == []
    assert absent_nodes(step("kill", A), NODES, gone) == [D]
    assert absent_nodes(step("cut", A, D), NODES, gone) == [D]
    dropped = replace(gone, dropped=(Dropped(node=D, reason="unreachable"),))
    assert absent_nodes(step("slow", B), NODES, dropped) == []
