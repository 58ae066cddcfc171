"""How a slow peer is paced. Spec: docs/spec/round.md, R-20."""

import logging

import pytest
from msgspec.structs import replace
from sl_world import SETTINGS, checked_in, node, peer, training

from swarmlearning.contracts.records import PeerState, Phase, Round, Training
from swarmlearning.sl.pacing import Pacer

AGREED = 10
PEERS = (peer(0), peer(1), peer(2))


def record(number: int, came: tuple[int, ...] = (), *, phase: Phase = Phase.COLLECTING, attempt: int = 0) -> Training:
    """A record in which some have checked in to round `number`; two are enough."""
    round_ = Round(
        number=number,
        attempt=attempt,
        opened_ms=0,
        quorum_ms=None,
        checkins=tuple(checked_in(index) for index in came),
    )
    return training(peers=PEERS, round_=round_, phase=phase, interval=AGREED)


class Watch:
    """Peer 2's pacer, and the time."""

    def __init__(self) -> None:
        self.pacer = Pacer(node(2))
        self.now_s = 100.0
        self.pacer.follow(record(0), self.now_s)

    def round(self, number: int, *, others_s: float, batch_s: float, batches: int = AGREED) -> None:
        """A round in which the others are ready `others_s` after it opened; ours takes `batch_s` a batch."""
        self.pacer.follow(record(number), self.now_s)
        self.pacer.handed(self.now_s, batches)
        self.pacer.follow(record(number, (0,)), self.now_s + others_s / 2)
        self.pacer.follow(record(number, (0, 1)), self.now_s + others_s)
        self.now_s += batch_s * batches
        self.pacer.asked(self.now_s)
        self.pacer.checked_in(self.now_s)

    def interval(self, number: int, **changes: object) -> int:
        """What it is told as round `number` opens."""
        opened = replace(record(number), **changes)
        self.pacer.follow(opened, self.now_s)
        return self.pacer.interval(opened, self.now_s)


def test_a_slow_peer_trains_as_much_as_fits_before_the_others_go_on() -> None:
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    assert SETTINGS.grace_ms == 5_000
    assert watch.interval(2) == 5  # 5 s, and half of the grace period, at 1.5 s each


def test_it_goes_back_when_it_would_be_in_time() -> None:
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    assert watch.interval(2) < AGREED
    for number in range(2, 6):
        watch.round(number, others_s=5.0, batch_s=0.5)
    assert watch.interval(6) == AGREED


def test_it_goes_back_when_the_others_take_longer() -> None:
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    for number in range(2, 6):
        watch.round(number, others_s=14.0, batch_s=1.5)
    assert watch.interval(6) == AGREED


def test_never_less_than_one_batch_and_never_more_than_agreed() -> None:
    watch = Watch()
    watch.round(1, others_s=1.0, batch_s=60.0)
    assert watch.interval(2) == 1
    fast = Watch()
    fast.round(1, others_s=50.0, batch_s=0.1)
    assert fast.interval(2) == AGREED
    assert fast.interval(2, interval=70) == 70  # the ledger's interval, not the settings'


def test_a_peer_of_the_others_speed_is_left_alone() -> None:
    """Else peers of one speed would shorten their intervals one after another."""
    watch = Watch()
    settings = replace(SETTINGS, grace_ms=0)
    watch.round(1, others_s=9.0, batch_s=1.0)
    assert watch.interval(2, settings=settings) == AGREED


def test_nothing_is_shortened_before_something_was_measured() -> None:
    watch = Watch()
    assert watch.interval(1) == AGREED
    watch.pacer.handed(0.0, AGREED)
    watch.pacer.asked(1000.0)
    assert watch.interval(2) == AGREED


def test_a_longer_interval_takes_the_others_longer_too() -> None:
    """Once a peer of the others' speed trained less than agreed after each growth of an adaptive interval."""
    watch = Watch()
    for number in range(1, 6):
        watch.round(number, others_s=10.0, batch_s=1.0)
    assert watch.interval(6, interval=4 * AGREED) == 4 * AGREED


def test_a_stop_of_the_ledger_is_everybodys() -> None:
    """Once all peers merged after a single batch when the sentinel was back."""
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    opened = record(2)
    watch.pacer.follow(opened, watch.now_s)
    watch.now_s += 600.0
    assert watch.pacer.interval(opened, watch.now_s) == 5


@pytest.mark.parametrize("state", [PeerState.LEFT, PeerState.LIVE])
def test_a_peer_that_the_round_cannot_close_without_is_waited_for(state: PeerState) -> None:
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    peers = (replace(peer(0), state=state), peer(1), peer(2))
    assert (watch.interval(2, peers=peers) == AGREED) is (state is PeerState.LEFT)


def test_our_own_check_in_does_not_make_the_others_ready() -> None:
    watch = Watch()
    watch.pacer.follow(record(1), 100.0)
    watch.pacer.follow(record(1, (0, 2)), 101.0)  # quorum, but with us
    watch.pacer.follow(record(1, (0, 1, 2)), 109.0)
    watch.pacer.handed(100.0, AGREED)
    watch.pacer.asked(130.0)  # three seconds a batch
    watch.now_s = 130.0
    assert watch.interval(2) == 3  # 9 s and not 1 s, and half of the grace period, at 3 s each


def test_rounds_that_it_missed_are_measured_too() -> None:
    watch = Watch()
    watch.pacer.handed(100.0, AGREED)
    for number in range(1, 4):
        at = 100.0 + 6 * number
        watch.pacer.follow(record(number), at)
        watch.pacer.follow(record(number, (0, 1), phase=Phase.MERGING), at + 5)
    watch.now_s = 120.0
    watch.pacer.asked(watch.now_s)
    assert watch.interval(4) == 3  # 7.5 s at 2 s each


def test_a_round_that_collects_again_is_no_measure_of_how_long_others_train() -> None:
    watch = Watch()
    watch.pacer.follow(record(1), 100.0)
    watch.pacer.follow(record(1, attempt=3), 101.0)
    watch.pacer.follow(record(1, (0, 1), attempt=3), 101.1)
    watch.pacer.handed(100.0, AGREED)
    watch.pacer.asked(130.0)
    watch.now_s = 130.0
    assert watch.interval(2) == AGREED


def test_what_fetching_and_checking_in_take_counts() -> None:
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    watch.pacer.asked(watch.now_s)
    watch.pacer.checked_in(watch.now_s + 1.6)
    watch.pacer.follow(record(2), watch.now_s)
    late_s = watch.now_s + 1.6  # it is handed the result so long after the round opened
    assert watch.pacer.interval(record(2), late_s) == 2


def test_the_operator_is_told_when_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swarmlearning.sl")
    watch = Watch()
    watch.round(1, others_s=5.0, batch_s=1.5)
    watch.interval(2)
    watch.interval(2)
    for number in range(2, 6):
        watch.round(number, others_s=5.0, batch_s=0.5)
    watch.interval(6)
    watch.interval(6)
    assert [r.getMessage() for r in caplog.records] == [
        (
            "heart: training 5 instead of 10 batches until the next merge, to be in time: a batch takes 1.5 s here, "
            "and the others are ready 5 s after a round opens"
        ),
        "heart: training all 10 batches between merges again",
    ]
