"""`swarmlearning.tf.SwarmCallback` with real models on JAX."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from fake_sl import FakeSl, failed
from kept_lines import Lines

from swarmlearning.callbacks.exchange import model_hash
from swarmlearning.callbacks.keras_model import unique_names
from swarmlearning.contracts.records import Progress, Target
from swarmlearning.errors import ConfigurationError, NonFinite, WaitExpired
from swarmlearning.sl.control import Finish, Leave, Open, Sync
from swarmlearning.tf import SwarmCallback

RNG = np.random.default_rng(7)
X = RNG.normal(size=(48, 4)).astype(np.float32)
Y = (X[:, :1] + X[:, 1:2] > 0).astype(np.float32)
# set_weights of Keras 3.15 with numpy 2.4, not of ours
KERAS_ARRAYS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BATCH = 4  # 12 batches an epoch


def make(*, dropout: bool, steps_per_execution: int) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    layers = [keras.Input((4,)), keras.layers.Dense(6, activation="relu"), keras.layers.BatchNormalization()]
    if dropout:
        layers.append(keras.layers.Dropout(0.5))
    model = keras.Sequential([*layers, keras.layers.Dense(1, activation="sigmoid")])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5 if dropout else 0.0)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], steps_per_execution=steps_per_execution)
    optimizer.build(model.trainable_variables)
    return model


MADE: dict[tuple[bool, int], tuple[Any, list[Any]]] = {}


def build(*, dropout: bool = False, steps_per_execution: int = 1) -> Any:
    """A model in its first state; one of a kind, since compiling is what takes the time."""
    key = (dropout, steps_per_execution)
    if key not in MADE:
        model = make(dropout=dropout, steps_per_execution=steps_per_execution)
        MADE[key] = model, [np.array(variable.value) for variable in state(model)]
    model, first = MADE[key]
    for variable, value in zip(state(model), first, strict=True):
        variable.assign(value)
    return model


def state(model: Any) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]


def fit(model: Any, *callbacks: Any, epochs: int = 1, x: Any = X, y: Any = Y) -> Any:
    return model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


def weights(model: Any) -> dict[str, Any]:
    return {variable.path: np.array(variable.value) for variable in model.weights}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture
def swarm(control: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeSl]:
    monkeypatch.setenv("SWARM_SL", str(control))
    return lambda **given: FakeSl(control, **given)


def halve(_: int, arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: (array * 0.5).astype(array.dtype) for name, array in arrays.items()}


def test_syncs_at_the_begin_and_every_interval_and_ends_with_the_final_model(
    swarm: Callable[..., FakeSl], lines: Lines
) -> None:
    """C-13, C-14."""
    model = build()
    start = weights(model)
    with swarm(merge=halve) as sl:
        callback = SwarmCallback(syncFrequency=5, minPeers=2, totalEpochs=2)
        fit(model, callback, epochs=2)
    assert same(sl.offered[0], start)
    assert [request.progress.batch for request in sl.of(Sync)] == [0, 5, 10, 15, 20]
    assert [request.progress.epoch for request in sl.of(Sync)] == [-1, 1, 1, 2, 2]
    assert sl.of(Sync)[-1].progress.total_epochs == 2
    assert sl.of(Sync)[-1].progress.bytes_sent == 9
    (finish,) = sl.of(Finish)
    assert finish.progress.batch == 24
    assert same(weights(model), halve(0, sl.offered[-1]))
    assert callback.final_sha256 == sl.results[-1].hex() == model_hash(weights(model))
    assert callback.session.node.endswith("/sl/sl-1")
    told = lines.of(logging.INFO)
    assert told[0] == "Starting a Swarm merging round after 0 batches"
    assert "Round 0: merge done, 2 of 2 peers contributed; next round in 5 batches" in told
    assert callback.final_sha256 in told[-1]
    assert lines.of(logging.WARNING) == []


def test_a_model_adopted_in_mid_epoch_is_what_training_goes_on_from(swarm: Callable[..., FakeSl]) -> None:
    """On JAX the trainer keeps the weights aside: an assignment that it does not see would be lost."""
    other = {name: np.full_like(array, 0.25) for name, array in weights(build()).items()}
    model = build()
    with swarm(merge=lambda number, arrays: other if number == 1 else arrays, interval=5) as sl:
        fit(model, SwarmCallback(5, 2), x=X[: 8 * BATCH], y=Y[: 8 * BATCH])
    fresh = build()
    for variable in fresh.weights:
        variable.assign(other[variable.path])
    fit(fresh, x=X[5 * BATCH : 8 * BATCH], y=Y[5 * BATCH : 8 * BATCH])
    assert not same(sl.offered[1], other)
    for name, array in weights(fresh).items():
        np.testing.assert_allclose(sl.offered[-1][name], array, rtol=1e-6, atol=1e-7)


def test_training_alone_in_a_swarm_of_one_changes_nothing(swarm: Callable[..., FakeSl]) -> None:
    """Syncs and evaluations in between leave the optimiser, the metrics and the random states where they were."""
    model = build(dropout=True)
    expected = fit(model, epochs=2).history
    alone = weights(model)
    with swarm():
        got = fit(build(dropout=True), SwarmCallback(3, 1, adsValData=(X, Y)), epochs=2).history
    assert same(alone, weights(model))
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name] == pytest.approx(values)


def test_statistics_of_batchnorm_go_and_random_states_stay(swarm: Callable[..., FakeSl]) -> None:
    with swarm() as sl:
        fit(build(dropout=True), SwarmCallback(100, 2))
    names = set(sl.offered[0])
    assert "sequential/batch_normalization/moving_variance" in names
    assert len(names) == 8
    assert not [name for name in names if "seed" in name or "iteration" in name]


def test_steps_per_execution_counts_batches_not_calls(swarm: Callable[..., FakeSl]) -> None:
    with swarm() as sl:
        fit(build(steps_per_execution=5), SwarmCallback(4, 2), epochs=2)
    # Executions end after batches 5, 10, 12 of each epoch.
    assert [request.progress.batch for request in sl.of(Sync)] == [0, 5, 10, 17, 22]


def test_a_late_peer_starts_from_the_newest_model_and_trains_first(swarm: Callable[..., FakeSl]) -> None:
    """C-13."""
    newest = {name: np.full_like(array, 0.5) for name, array in weights(build()).items()}
    model = build()
    with swarm(newest=newest, first_round=3) as sl:
        fit(model, SwarmCallback(12, 2))
    assert [request.progress.batch for request in sl.of(Sync)] == [12]
    fresh = build()
    for variable in fresh.weights:
        variable.assign(newest[variable.path])
    fit(fresh)
    assert same(weights(fresh), sl.offered[0])


def test_when_the_swarm_is_over_training_stops_with_the_final_model(swarm: Callable[..., FakeSl]) -> None:
    """C-15."""
    model = build()
    seen: list[int] = []
    counter = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, **_: seen.append(batch))
    with swarm(merge=halve, over_at=1) as sl:
        callback = SwarmCallback(5, 2)
        fit(model, counter, callback, epochs=3)
    assert seen == [0, 1, 2, 3, 4]
    assert model.stop_training
    assert callback.final_sha256 == model_hash(weights(model)) == sl.results[-1].hex()
    assert sl.of(Finish) == []


def test_over_at_once_still_ends_with_the_final_model(swarm: Callable[..., FakeSl]) -> None:
    """Keras trains one batch before it looks at `stop_training`."""
    model = build()
    with swarm(merge=halve, over_at=0) as sl:
        callback = SwarmCallback(5, 2)
        fit(model, callback)
    assert callback.final_sha256 == model_hash(weights(model)) == sl.results[-1].hex()


def test_over_by_target_is_told_and_stops_training(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    """T-35, C-15."""
    model = build()
    with swarm(merge=halve, over_at=2, reached=True) as sl:
        callback = SwarmCallback(5, 2, targetLoss=0.01, adsValData=(X, Y), patience=2)
        fit(model, callback, epochs=3)
    assert sl.of(Open)[0].settings.target == Target(loss_micro=10_000, patience=2)
    assert [request.progress.batch for request in sl.of(Sync)] == [0, 5, 10]
    assert callback.final_sha256 == model_hash(weights(model)) == sl.results[-1].hex()
    told = lines.of(logging.INFO)
    assert "The Swarm training is over: its target was reached (last round: 2); training stops here" in told
    assert told[-1].startswith("The target of the Swarm training was reached. The final Swarm model (of round 2,")


def test_an_sl_that_dies_in_the_middle_of_a_round_is_waited_for(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    """C-17."""
    expected, got = build(), None
    with swarm(merge=halve):
        fit(expected, SwarmCallback(5, 2))
    expected_weights = weights(expected)
    with swarm(merge=halve, dies={Sync: [1], Finish: [0]}) as sl:
        got = build()
        callback = SwarmCallback(5, 2)
        fit(got, callback)
    assert same(weights(got), expected_weights)
    assert [(request.run, request.adopted) for request in sl.of(Open)] == [(0, -1), (1, 0), (1, 2)]
    assert callback.final_sha256 == sl.results[-1].hex()
    assert len(lines.of(logging.WARNING)) == 2


def test_a_training_that_ends_with_an_error_leaves_its_weights(swarm: Callable[..., FakeSl], tmp_path: Path) -> None:
    model = build()
    with swarm(replies={Finish: failed("expired", "nobody else finished")}) as sl:
        with pytest.raises(WaitExpired, match=r"nobody else finished; .* are in (\S+): numpy.load"):
            fit(model, SwarmCallback(5, 2))
        assert len(sl.of(Sync)) == 3
    (path,) = (tmp_path / "swarm-saved").iterdir()
    assert path.name == "defaultbb.cqdb.sml.hpe-sl-1@cleveland.example-round3.npz"
    with np.load(path) as loaded:
        assert same(dict(loaded), weights(model))


def test_progress_says_of_which_model_the_figures_are_and_how_long_it_takes(swarm: Callable[..., FakeSl]) -> None:
    """T-35."""
    with swarm(merge=lambda n, a: None if n == 2 else a) as sl:
        fit(build(), SwarmCallback(5, 2, adsValData=(X, Y)), epochs=2)
    sent = [request.progress for request in sl.of(Sync)]
    # Round 2 was void: what was measured is still the model of round 1.
    assert [progress.figures_round for progress in sent] == [-1, 0, 1, 1, 3]
    assert [progress.loss_micro is None for progress in sent] == [True, False, False, False, False]
    assert sent[0].eta_s == -1
    assert all(progress.eta_s >= 0 for progress in sent[1:])
    assert sl.of(Finish)[0].progress.eta_s == 0


def test_what_is_not_shared_is_marked_so_from_the_opening_on(swarm: Callable[..., FakeSl]) -> None:
    """C-18."""
    with swarm() as sl:
        fit(build(), SwarmCallback(100, 2))
        fit(build(), SwarmCallback(100, 2, shareProgress=False))
    assert [request.share for request in sl.of(Open)] == [True, False]


def test_without_validation_data_no_figures_are_claimed(swarm: Callable[..., FakeSl]) -> None:
    with swarm() as sl:
        fit(build(), SwarmCallback(5, 2))
    assert {request.progress.figures_round for request in sl.of(Sync)} == {-1}


def test_a_late_peer_takes_the_interval_that_is_agreed_on_now(swarm: Callable[..., FakeSl]) -> None:
    """C-13, T-36."""
    newest = weights(build())
    with swarm(newest=newest, first_round=3, interval_now=7, interval=2) as sl:
        fit(build(), SwarmCallback(5, 2, useAdaptiveSync=True, adsValData=(X, Y)))
    assert [request.progress.batch for request in sl.of(Sync)] == [7, 9, 11]
    assert sl.of(Sync)[0].progress.figures_round == 2
    assert sl.of(Open)[0].settings.adaptive is not None


# --- going on where an earlier process was -------------------------------------------------------------------------

MIDWAY = Progress(epoch=3, total_epochs=4, batch=29)


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """The epochs that were trained."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(epoch)


def test_resume_goes_on_with_the_epoch_that_was_interrupted(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    """C-18."""
    newest = {name: np.full_like(array, 0.5) for name, array in weights(build()).items()}
    model, epochs = build(), Epochs()
    with swarm(newest=newest, first_round=6, position=MIDWAY) as sl:
        fit(model, epochs, SwarmCallback(5, 2, resume=True), epochs=4)
        fit(model, epochs, SwarmCallback(5, 2), epochs=1)
    assert epochs.seen == [2, 3, 0]
    first = sl.of(Sync)[:4]
    assert [(r.progress.epoch, r.progress.batch) for r in first] == [(3, 34), (3, 39), (4, 44), (4, 49)]
    told = (
        "Resuming after 29 batches: epoch 3 was interrupted and is trained anew from its start, with the newest swarm"
    )
    assert any(text.startswith(told) for text in lines.of(logging.INFO))


def test_without_resume_all_epochs_are_trained_and_the_user_is_told_of_it(
    swarm: Callable[..., FakeSl], lines: Lines
) -> None:
    epochs = Epochs()
    with swarm(newest=weights(build()), position=MIDWAY) as sl:
        fit(build(), epochs, SwarmCallback(5, 2), epochs=3)
    assert epochs.seen == [0, 1, 2]
    assert sl.of(Sync)[0].progress.batch == 5
    assert any("had come to epoch 3 before" in text and "resume=True" in text for text in lines.of(logging.INFO))


@pytest.mark.parametrize("position", [Progress(), Progress(epoch=-1, batch=0), Progress(epoch=1, batch=0)])
def test_resume_in_a_new_run_just_starts(swarm: Callable[..., FakeSl], position: Progress, lines: Lines) -> None:
    epochs = Epochs()
    with swarm(position=position) as sl:
        fit(build(), epochs, SwarmCallback(5, 2, resume=True), epochs=2)
    assert epochs.seen == [0, 1]
    assert sl.of(Sync)[0].progress.batch == 0
    assert not any(text.startswith("Resuming") for text in lines.of(logging.INFO))


def test_a_training_that_failed_does_not_lend_its_first_epoch_to_the_next(swarm: Callable[..., FakeSl]) -> None:
    model, epochs = build(), Epochs()
    failing = {"newest": weights(model), "position": MIDWAY, "replies": {Sync: failed("expired")}}
    with swarm(**failing), pytest.raises(WaitExpired):
        fit(model, epochs, SwarmCallback(5, 2, resume=True), epochs=4)
    fit(model, epochs, epochs=1)
    assert epochs.seen == [2, 0]


@KERAS_ARRAYS
def test_keras_own_backup_gives_epoch_and_optimiser_and_the_swarm_the_weights(
    swarm: Callable[..., FakeSl], tmp_path: Path
) -> None:
    class Power(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise RuntimeError("power cut")

    backup = tmp_path / "backup"
    model = build(dropout=True)  # with momentum
    dying = SwarmCallback(5, 2)
    with swarm(), pytest.raises(RuntimeError, match="power cut"):
        fit(model, keras.callbacks.BackupAndRestore(backup), Power(), dying, epochs=4)
    dying.session.close()  # as the end of its process does
    momentum = [np.array(variable.value) for variable in model.optimizer.variables]
    newest = {name: np.full_like(array, 0.5) for name, array in weights(model).items()}
    again, epochs = build(dropout=True), Epochs()
    seen: list[tuple[dict[str, Any], list[Any]]] = []

    class Look(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append((weights(self.model), [np.array(v.value) for v in self.model.optimizer.variables]))

    position = Progress(epoch=2, batch=20)
    try:
        with swarm(newest=newest, position=position):
            callbacks = [keras.callbacks.BackupAndRestore(backup), epochs, Look(), SwarmCallback(100, 2, resume=True)]
            fit(again, *callbacks, epochs=4)
    finally:
        again._initial_epoch = None  # Keras leaves it behind, and the model is used again here
    assert epochs.seen == [2, 3]
    assert same(seen[0][0], newest)
    assert all(np.array_equal(a, b) for a, b in zip(seen[0][1], momentum, strict=True))
    assert any(np.any(value) for value in momentum)


# --- leaving ------------------------------------------------------------------------------------------------------


def test_who_leaves_trains_on_alone(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    model = build()
    with swarm(merge=halve) as sl:
        callback = SwarmCallback(5, 2)
        leave = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, **_: callback.leave("my data is bad") if batch == 6 else None
        )
        fit(model, callback, leave)
    assert [request.reason for request in sl.of(Leave)] == ["my data is bad"]
    assert [request.progress.batch for request in sl.of(Sync)] == [0, 5]
    assert sl.of(Finish) == []
    assert callback.final_sha256 == ""
    assert not same(weights(model), halve(0, sl.offered[-1]))
    assert "Left the Swarm training (my data is bad); this program goes on alone" in lines.of(logging.INFO)


def test_leaving_without_an_sl_or_a_training_is_told(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    callback = SwarmCallback(5, 2)
    with pytest.raises(ConfigurationError, match="on_train_begin"):
        callback.leave("early")
    leave = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: callback.leave("late"))
    with swarm(dies={Leave: [0]}):
        fit(build(), callback, leave)
    assert any(text.startswith("Left without a word to the others") for text in lines.of(logging.WARNING))


def test_a_void_round_keeps_the_local_model(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    model = build()
    fit(model)
    alone = weights(model)
    with swarm(merge=lambda *_: None) as sl:
        callback = SwarmCallback(5, 2)
        fit(build(), callback)
    assert same(sl.offered[-1], alone)
    assert same(weights(model), alone)
    assert callback.final_sha256 == ""
    assert "closed void" in lines.of(logging.WARNING)[0]
    assert "there is no Swarm model" in lines.of(logging.ERROR)[0]


class PyData(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X[index * 16 : index * 16 + 16], Y[index * 16 : index * 16 + 16]


@pytest.mark.parametrize("data", [(X, Y), [X, Y], PyData(), (X, Y, np.ones(len(X), np.float32))])
def test_validation_scores_of_the_merged_model_are_reported(data: Any, swarm: Callable[..., FakeSl]) -> None:
    model = build()
    with swarm() as sl:
        fit(model, SwarmCallback(12, 2, adsValData=data, adsValBatchSize=8))
    # What the finish reports was measured on the model of the sync before it.
    check = build()
    for variable in check.weights:
        variable.assign(sl.offered[1][variable.path])
    expected = check.evaluate(X, Y, verbose=0, return_dict=True)
    progress = sl.of(Finish)[0].progress
    assert progress.loss_micro == pytest.approx(expected["loss"] * 1e6, abs=2)
    assert progress.metric_micro == pytest.approx(expected["accuracy"] * 1e6, abs=2)
    assert progress.metric_name == "accuracy"
    assert sl.of(Sync)[0].progress.loss_micro is None


def test_validation_data_that_does_not_fit_is_named(swarm: Callable[..., FakeSl]) -> None:
    with swarm(), pytest.raises(ConfigurationError, match="adsValData: the model cannot be evaluated"):
        fit(build(), SwarmCallback(5, 2, adsValData=(X[:, :2], Y)))


def test_a_plain_generator_is_refused_at_once(swarm: Callable[..., FakeSl]) -> None:
    with pytest.raises(ConfigurationError, match="plain generator"):
        SwarmCallback(5, 2, adsValData=(batch for batch in [(X, Y)]))


def test_diverged_training_names_the_tensor(swarm: Callable[..., FakeSl]) -> None:
    """C-11."""
    with swarm(), pytest.raises(NonFinite, match=r"tensor 'sequential/.*' holds NaN or infinity before round 1"):
        fit(build(), SwarmCallback(3, 2), x=X * np.float32(np.nan))


@KERAS_ARRAYS
def test_a_model_overwritten_after_us_is_noticed(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    best = keras.callbacks.EarlyStopping(monitor="loss", restore_best_weights=True)
    with swarm(merge=halve):
        fit(build(), SwarmCallback(5, 2), best)
    (warning,) = lines.of(logging.WARNING)
    assert "EarlyStopping(restore_best_weights=True)" in warning
    assert "put SwarmCallback last" in warning


@KERAS_ARRAYS
def test_the_recommended_order_gives_no_warning(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    best = keras.callbacks.EarlyStopping(monitor="loss", restore_best_weights=True)
    model = build()
    with swarm(merge=halve):
        callback = SwarmCallback(5, 2)
        fit(model, best, callback)
    assert lines.of(logging.WARNING) == []
    assert callback.final_sha256 == model_hash(weights(model))


def test_fit_may_be_called_again(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    with swarm() as sl:
        callback = SwarmCallback(100, 2)
        fit(model, callback)
        fit(model, callback)
    assert len(sl.of(Open)) == len(sl.of(Finish)) == 2


def test_a_sync_frequency_that_is_never_reached_is_pointed_out(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    with swarm():
        fit(build(), SwarmCallback(1000, 2))
    assert "after 12 batches without a merge: syncFrequency is 1000" in lines.of(logging.WARNING)[0]


def test_loopback_checks_arguments_and_leaves_training_alone(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    monkeypatch.setenv("SWARM_LOOPBACK", "TRUE")
    with pytest.raises(ConfigurationError, match="minPeers"):
        SwarmCallback(5, 0)
    model = build()
    fit(model)
    alone = weights(model)
    callback = SwarmCallback(5, 2, adsValData=(X, Y))
    fit(build(), callback)
    assert same(weights(model), alone)
    assert callback.final_sha256 == ""
    assert "trains alone" in lines.of(logging.INFO)[0]
    assert lines.of(logging.WARNING) == []


def test_without_a_swarm_the_constructor_says_how_to_get_one() -> None:
    with pytest.raises(ConfigurationError, match=r"SWARM_SL .*SWARM_SN"):
        SwarmCallback(5, 2)


def test_bfloat16_weights_keep_their_type(swarm: Callable[..., FakeSl]) -> None:
    keras.utils.clear_session()
    layers = [keras.Input((4,), dtype="bfloat16"), keras.layers.Dense(1, dtype="bfloat16")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with swarm(merge=halve) as sl:
        fit(model, SwarmCallback(5, 2), x=X.astype("bfloat16"))
    assert {str(array.dtype) for array in sl.offered[-1].values()} == {"bfloat16"}
    assert str(model.weights[0].dtype) == "bfloat16"
    assert same(weights(model), halve(0, sl.offered[-1]))


def test_paths_that_occur_twice_are_told_apart_the_same_way_everywhere() -> None:
    assert unique_names(["a", "b", "a", "a#2", "a"]) == ["a", "b", "a#3", "a#2", "a#4"]
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d"), keras.layers.Dense(2, name="e")])
    names = unique_names(["m/d/kernel" for _ in model.weights])
    assert len(set(names)) == len(names) == 4


def test_a_model_whose_paths_collide_keeps_all_its_weights(swarm: Callable[..., FakeSl]) -> None:
    keras.utils.clear_session()
    inner = [keras.Sequential([keras.layers.Dense(3, name="d")], name="block") for _ in range(2)]

    class Twins(keras.Model):  # type: ignore[misc]  # Keras ships no types
        def __init__(self) -> None:
            super().__init__(name="twins")
            self.parts = inner

        def call(self, x: Any) -> Any:
            for part in self.parts:
                x = part(x)
            return keras.ops.sigmoid(keras.ops.mean(x, axis=-1, keepdims=True))

    model = Twins()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with swarm() as sl:
        fit(model, SwarmCallback(5, 2))
    assert len({variable.path for variable in model.weights}) == 2
    assert len(sl.offered[0]) == 4
