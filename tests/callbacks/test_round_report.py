"""What the user is told of the rounds."""

import logging
from typing import Any

import pytest
from kept_lines import Lines

from swarmlearning.callbacks.report import Reporter
from swarmlearning.callbacks.results import SyncResult
from swarmlearning.contracts.records import RECENT_ROUNDS
from swarmlearning.types import NodeId

PEERS = (NodeId("a"), NodeId("b"))
DONE = "Round 4: merge done, 2 of 2 peers contributed; next round in 8 batches"


def result(**given: Any) -> SyncResult:
    plain: dict[str, Any] = {
        "arrays": {},
        "round": 4,
        "sha256": "",
        "contributors": PEERS,
        "participants": PEERS,
        "next_interval": 8,
        "over": False,
    }
    return SyncResult(**plain | given)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(logging.getLogger("SwarmCallback"))


def test_a_round_tells_the_own_share_and_the_swarms_means(reporter: Reporter, lines: Lines) -> None:
    reporter.tell_round(result(contributed=7, recent=9, mean_loss=0.25, mean_metric=0.875))
    share = "; this peer contributed to 7 of the last 9 rounds"
    means = "; mean over the swarm, of the model before: loss 0.25, metric 0.875"
    assert lines.of(logging.INFO) == [DONE + share + means]


def test_what_is_not_given_is_not_told(reporter: Reporter, lines: Lines) -> None:
    reporter.tell_round(result())
    reporter.tell_round(result(mean_loss=0.5))
    assert lines.of(logging.INFO) == [DONE, DONE + "; mean over the swarm, of the model before: loss 0.5"]


def test_an_end_by_target_is_told_as_one(reporter: Reporter, lines: Lines) -> None:
    reporter.tell_round(result(over=True, reached=True))
    reporter.tell_round(result(over=True))
    assert [text.partition("(")[0] for text in lines.of(logging.INFO)] == [
        "The Swarm training is over: its target was reached ",
        "The Swarm training is over: all peers have finished ",
    ]


def tell(reporter: Reporter, lines: Lines, contributed: list[int], recent: int = RECENT_ROUNDS) -> list[int]:
    """At which of the rounds there was a warning."""
    warned = []
    for at, count in enumerate(contributed):
        before = len(lines.of(logging.WARNING))
        reporter.tell_round(result(contributed=count, recent=recent))
        warned += [at] * (len(lines.of(logging.WARNING)) - before)
    return warned


def test_a_peer_below_half_is_warned_once_and_reminded_every_ten_rounds(reporter: Reporter, lines: Lines) -> None:
    assert tell(reporter, lines, [4] * 25) == [0, 10, 20]
    text = lines.of(logging.WARNING)[0]
    assert text.startswith("This peer contributed to only 4 of the last 10 rounds")
    for remedy in ("graceS", "syncFrequency", "faster machine"):
        assert remedy in text


def test_a_peer_that_recovered_is_warned_anew(reporter: Reporter, lines: Lines) -> None:
    assert tell(reporter, lines, [4, 4, 5, 4, 4, 9, 4]) == [0, 3, 6]


def test_half_is_enough_and_a_window_that_is_not_full_says_nothing(reporter: Reporter, lines: Lines) -> None:
    assert tell(reporter, lines, [5] * 12) == []
    assert tell(reporter, lines, [0] * 12, recent=RECENT_ROUNDS - 1) == []


def test_a_void_round_counts_too(reporter: Reporter, lines: Lines) -> None:
    reporter.tell_round(result(arrays=None, contributed=1, recent=10))
    closed, warned = lines.of(logging.WARNING)
    assert "closed void" in closed
    assert "only 1 of the last 10" in warned
