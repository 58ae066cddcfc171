"""R-22: what counts as an advance, and what does not."""

from msgspec.structs import replace
from sl_world import checked_in, merging, node, peer, training

from swarmlearning.contracts.records import PeerState, Phase, Round, Training
from swarmlearning.sl.patience import Patience

LIMIT = 100.0


def collecting(attempt: int, *came: int) -> Training:
    checkins = tuple(checked_in(index) for index in came)
    return training(round_=Round(number=3, attempt=attempt, opened_ms=0, quorum_ms=None, checkins=checkins))


def waited(*seen: tuple[float, Training, int]) -> bool:
    """Whether a wait from 0 s on is over at 101 s, when this was seen meanwhile: time, record, bytes."""
    patience = Patience(LIMIT, 0.0)
    for now, record, travelled in seen:
        patience.look(record, travelled, now)
    return patience.is_over(LIMIT + 1)


def test_a_record_that_stands_still_is_no_advance() -> None:
    assert waited((0.0, collecting(0, 1), 0), (50.0, collecting(0, 1), 0))


def test_one_more_check_in_is_an_advance() -> None:
    assert not waited((0.0, collecting(0, 1), 0), (50.0, collecting(0, 1, 2), 0))


def test_a_round_that_ends_is_an_advance_also_a_void_one() -> None:
    assert not waited((0.0, collecting(0, 1), 0), (50.0, replace(collecting(0), finals=1), 0))
    assert not waited((0.0, collecting(0, 1), 0), (50.0, replace(collecting(0), voids=1), 0))


def test_a_peer_that_comes_and_goes_is_none() -> None:
    here = collecting(0, 1, 2)
    gone = replace(collecting(0, 1), peers=(peer(0), peer(1), peer(2, PeerState.LEFT)))
    assert waited((0.0, here, 0), (40.0, gone, 0), (60.0, here, 0))


def test_a_round_that_starts_over_and_over_is_none() -> None:
    """Once any change of the record was, so that hours could go by without one good merge."""
    merge = training(phase=Phase.MERGING, round_=merging(number=3, attempt=7))
    assert waited((0.0, collecting(0, 0, 1, 2), 0), (50.0, merge, 9_000), (60.0, collecting(8, 0), 9_000))


def test_bytes_that_travel_while_it_merges_are_an_advance() -> None:
    merge = training(phase=Phase.MERGING, round_=merging(number=3))
    assert not waited((0.0, merge, 0), (50.0, merge, 1_000))
    assert waited((0.0, merge, 0), (50.0, merge, 0))


def test_no_record_at_all_is_a_wait_too() -> None:
    patience = Patience(LIMIT, 0.0)
    patience.look(None, 0, 50.0)
    assert patience.is_over(LIMIT + 1)
    assert not patience.is_over(LIMIT)
    assert node(0)
