"""What validation figures decide, and what stays of a round: docs/spec/training.md, T-31 and T-35 to T-38."""

from contracts_world import CONTRACT, World, node_of
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.contracts import membership
from swarmlearning.contracts.figures import adapt_interval, mean_of, recent_share
from swarmlearning.contracts.limits import check_settings
from swarmlearning.contracts.records import MAX_HISTORY, Adaptive, Phase, Progress, Target
from swarmlearning.types import Code

ADAPTIVE = Adaptive(shortest=4, longest=64)


def show(world: World, *figures: tuple[int | None, int | None], of: int | None = None) -> None:
    """A round to which peer i checks in with the i-th (loss, metric) of the newest model."""
    newest = world.training.last.round if world.training.last else -1
    for peer, (loss, metric) in enumerate(figures):
        progress = Progress(loss_micro=loss, metric_micro=metric, figures_round=newest if of is None else of)
        world.must(peer, world.offer(peer, progress))
    if world.is_at(Phase.MERGING):
        world.finalise()


def started(n: int = 3, **changes: object) -> World:
    """A world whose first round is final."""
    world = World(**changes)
    world.enrol(*range(n))
    world.play_round(range(n))
    return world


# --- T-35 -----------------------------------------------------------------------------------------------------------


def test_t35_the_training_is_complete_with_the_model_that_reached_the_target() -> None:
    world = started(target=Target(loss_micro=500_000))
    show(world, (600_000, None), (600_000, None), (400_000, None))  # the mean counts, not the best
    assert world.is_at(Phase.COLLECTING)
    reached = world.training.last
    assert reached is not None
    show(world, (600_000, None), (500_000, None), (400_000, None))
    assert world.is_at(Phase.COMPLETED)
    assert world.training.reached
    assert world.training.last == reached


def test_t35_so_many_models_in_a_row_must_reach_it() -> None:
    world = started(target=Target(metric_micro=900_000, patience=2))
    good, bad = [(None, 950_000)] * 3, [(None, 850_000)] * 3
    for figures in (good, bad, good):
        show(world, *figures)
        assert world.is_at(Phase.COLLECTING)
    show(world, *good)
    assert world.is_at(Phase.COMPLETED)


def test_t35_an_error_is_good_when_it_is_small() -> None:
    world = started(target=Target(metric_micro=100_000, metric_falls=True))
    show(world, *[(None, 200_000)] * 3)
    assert world.is_at(Phase.COLLECTING)
    show(world, *[(None, 90_000)] * 3)
    assert world.is_at(Phase.COMPLETED)


def test_t35_loss_and_metric_must_both_be_reached() -> None:
    world = started(target=Target(loss_micro=500_000, metric_micro=900_000))
    show(world, *[(400_000, 800_000)] * 3)
    show(world, *[(600_000, 950_000)] * 3)
    show(world, *[(400_000, None)] * 3)
    assert world.is_at(Phase.COLLECTING)
    show(world, *[(400_000, 950_000)] * 3)
    assert world.is_at(Phase.COMPLETED)


def test_t35_figures_of_another_model_and_of_those_who_did_not_come_decide_nothing() -> None:
    world = started(target=Target(loss_micro=500_000))
    show(world, *[(400_000, None)] * 3, of=0 if world.training.last is None else world.training.last.round - 1)
    assert world.is_at(Phase.COLLECTING)
    world = started(target=Target(loss_micro=500_000))
    show(world, (400_000, None), (None, None), (None, None))  # one showed its figures, and that is the mean
    assert world.is_at(Phase.COMPLETED)


def test_t38_a_round_that_closes_twice_counts_its_figures_once() -> None:
    world = started(target=Target(loss_micro=500_000, patience=2), adaptive=ADAPTIVE)
    for peer in range(3):
        world.must(peer, world.offer(peer, Progress(loss_micro=400_000, figures_round=0)))
    assert world.training.streak == 1
    world.now_ms += 1_000_000
    world.must(0, world.ticking())  # the attempt took too long: it collects again
    assert world.is_at(Phase.COLLECTING)
    for peer in range(3):
        world.must(peer, world.offer(peer, Progress(loss_micro=400_000, figures_round=0)))
    assert world.is_at(Phase.MERGING)
    assert world.training.streak == 1
    assert world.training.losses == (400_000,)


# --- T-36 -----------------------------------------------------------------------------------------------------------


def test_t36_the_interval_grows_while_the_mean_loss_falls_and_shrinks_otherwise() -> None:
    world = started(adaptive=ADAPTIVE)
    intervals = []
    for loss in (900_000, 800_000, 700_000, 750_000, 900_000, 900_000, 900_000):
        show(world, *[(loss, None)] * 3)
        intervals.append(world.training.interval)
    assert intervals == [16, 24, 36, 54, 36, 24, 16]  # 750,000 is below the mean of 900, 800 and 700 thousand
    show(world, *[(None, None)] * 3)
    assert world.training.interval == 16


def test_t36_without_the_setting_the_interval_stays() -> None:
    world = started()
    for loss in (900_000, 800_000, 700_000):
        show(world, *[(loss, None)] * 3)
    assert world.training.interval == 16


@given(
    interval=st.integers(1, 10_000),
    factor=st.integers(101, 1_000),
    losses=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=10),
    newest=st.integers(-(10**12), 10**12),
)
def test_t36_the_interval_always_moves_and_stays_within_its_bounds(
    interval: int, factor: int, losses: list[int], newest: int
) -> None:
    adaptive = Adaptive(shortest=max(1, interval // 3), longest=interval * 3, factor_percent=factor)
    after = adapt_interval(adaptive, interval, tuple(losses), newest)
    assert adaptive.shortest <= after <= adaptive.longest
    if newest < sum(losses) / len(losses):
        assert after > interval
    else:
        assert after < interval or after == adaptive.shortest


def test_t2_adaptive_bounds_and_targets_have_limits() -> None:
    refused = [
        {"adaptive": Adaptive(shortest=17, longest=64)},
        {"adaptive": Adaptive(shortest=1, longest=15)},
        {"adaptive": Adaptive(shortest=0, longest=64)},
        {"adaptive": Adaptive(shortest=1, longest=64, factor_percent=100)},
        {"adaptive": Adaptive(shortest=1, longest=64, window=0)},
        {"target": Target()},
        {"target": Target(loss_micro=1, patience=0)},
        {"target": Target(metric_micro=1 << 63)},
    ]
    for changes in refused:
        world = World()
        world.settings = type(world.settings)(sync_frequency=16, **changes)  # type: ignore[arg-type]  # by name
        assert world.say(0, world.enrolment()) is Code.MALFORMED, changes
    check_settings(type(world.settings)(sync_frequency=16, adaptive=ADAPTIVE, target=Target(loss_micro=0)))


# --- T-31, T-37 -----------------------------------------------------------------------------------------------------


def test_t31_a_peers_recent_share_is_counted_over_ten_rounds() -> None:
    world = World()
    world.enrol(0, 1, 2)
    for number in range(15):
        for peer in (0, 1, 2) if number < 5 else (0, 1):
            world.must(peer, world.offer(peer))
        if world.is_at(Phase.COLLECTING):
            world.now_ms += 10_000
            world.must(0, world.ticking())
        world.finalise()
    assert [recent_share(peer) for peer in world.training.peers] == [(10, 10), (10, 10), (0, 10)]
    assert [(p.rounds_contributed, p.rounds_offered) for p in world.training.peers] == [(15, 15), (15, 15), (5, 15)]
    world.must(2, world.here())
    world.check_in(0, 1, 2)
    world.finalise()
    assert recent_share(world.training.peers[2]) == (1, 10)


def test_t37_final_rounds_stay_as_summaries_through_resets() -> None:
    world = started()
    show(world, (300_000, 800_000), (500_001, 900_000), (None, None))
    history = membership.load_history(world.state, world.training)
    assert [(s.run, s.round) for s in history] == [(1, 0), (1, 1)]
    newest = history[-1]
    assert (newest.mean_loss_micro, newest.mean_metric_micro) == (400_000, 850_000)
    assert [f.node for f in newest.figures] == [node_of(0), node_of(1), node_of(2)]
    assert newest.figures[1].progress.loss_micro == 500_001
    assert newest.sha256 == world.training.last.sha256 if world.training.last else b""
    world.complete(range(3))
    world.must(0, world.resetting())
    world.enrol(0, 1)
    world.play_round((0, 1))
    assert [(s.run, s.round) for s in membership.load_history(world.state, world.training)] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
    ]
    assert len(membership.load_history(world.state, world.training, 2)) == 2


def test_t37_only_the_newest_thousand_are_kept() -> None:
    keys = {membership.history_key(CONTRACT, number) for number in range(3 * MAX_HISTORY)}
    assert len(keys) == MAX_HISTORY


def test_a_mean_is_over_those_that_are_given() -> None:
    assert mean_of([None, None]) is None
    assert mean_of([1, None, 2]) == 1
    assert mean_of([-1, -2]) == -2
