"""How long a program still needs."""

from swarmlearning.callbacks.estimate import TimeLeft


def test_nothing_is_known_before_anything_was_trained() -> None:
    left = TimeLeft()
    assert left.left(5.0, 3, 0) == -1
    left.start(10.0, 0)
    left.begin_epoch(1, 0, per_epoch=10)
    assert left.left(10.0, 3, 0) == -1


def test_time_so_far_gives_the_time_to_the_end_waits_included() -> None:
    left = TimeLeft()
    left.start(100.0, 0)
    left.begin_epoch(1, 0, per_epoch=10)
    assert left.left(110.0, 3, 5) == 50  # 2 s a batch, 25 batches
    assert left.left(115.0, 3, 5) == 75  # a merge was waited for
    left.begin_epoch(3, 20, per_epoch=10)
    assert left.left(140.0, 3, 20) == 20
    assert left.left(160.0, 3, 30) == 0


def test_without_a_number_of_epochs_nothing_is_estimated() -> None:
    left = TimeLeft()
    left.start(0.0, 0)
    left.begin_epoch(1, 0, per_epoch=10)
    assert left.left(10.0, -1, 5) == -1


def test_more_epochs_than_were_said_leave_nothing_to_say() -> None:
    left = TimeLeft()
    left.start(0.0, 0)
    left.begin_epoch(4, 30, per_epoch=10)
    assert left.left(10.0, 3, 35) == -1


def test_an_epochs_length_is_learned_from_the_one_before() -> None:
    left = TimeLeft()
    left.start(0.0, 0)
    left.begin_epoch(1, 0)
    assert left.left(8.0, 4, 8) == -1
    left.begin_epoch(2, 8)
    assert left.left(8.0, 4, 8) == 24
    left.begin_epoch(3, 20)  # a longer one
    assert left.left(20.0, 4, 20) == 24


def test_a_skipped_epoch_teaches_nothing() -> None:
    left = TimeLeft()
    left.start(0.0, 0)
    left.begin_epoch(1, 0)
    left.begin_epoch(3, 8)
    assert left.left(8.0, 4, 8) == -1


def test_what_an_earlier_process_trained_does_not_count_as_pace() -> None:
    left = TimeLeft()
    left.start(1000.0, 500)
    left.begin_epoch(6, 500, per_epoch=100)
    assert left.left(1000.0, 10, 500) == -1
    assert left.left(1010.0, 10, 505) == 2 * 495
