import dataclasses
from pathlib import Path

import numpy as np
import pytest

from swarmlearning.demo.evaluate import load_weights
from swarmlearning.demo.heart import split_hospital
from swarmlearning.demo.hospital import Assignment, main, parse_assignment, run_hospital
from swarmlearning.demo.preparation import local_statistics
from swarmlearning.demo.recipe import RECIPES, Recipe
from swarmlearning.demo.records import HOSPITALS, Framework, load_site_run, weights_path
from swarmlearning.demo.xray import COUNTS, WATCH_SHARE
from swarmlearning.errors import ConfigurationError

SHORT = dataclasses.replace(RECIPES["heart"], epochs=2)
SWITZERLAND = HOSPITALS["heart"][2]


@pytest.mark.parametrize("framework", ["keras", "pytorch"])
def test_a_hospital_trains_both_models_and_reports(
    framework: Framework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"keras": "jax", "pytorch": "torch"}[framework])
    monkeypatch.setenv("SWARM_LOOPBACK", "TRUE")
    run_hospital(
        Assignment(dataset="heart", framework=framework, site=2, seeds=(4,), out=tmp_path, data="", recipe=SHORT)
    )
    (run,) = load_site_run(tmp_path, SWITZERLAND, (4,)).seeds
    split = split_hospital(SWITZERLAND, 4)
    assert (run.n_train, run.n_test) == (len(split.train), len(split.test))
    assert [point.round for point in run.losses] == [1, 2]
    assert run.losses[1].loss < run.losses[0].loss
    assert run.model_sha256 == ""  # in loopback there is no swarm to name it
    # In loopback the agreed statistics are its own: those of its training rows and of no others.
    assert run.statistics is not None
    own = local_statistics(split.train)
    assert run.statistics.category_counts == own.category_counts
    assert all(np.isclose(run.statistics.mean[name], own.mean[name]) for name in own.mean)
    assert all(np.isclose(run.statistics.std[name], own.std[name]) for name in own.std)
    path = weights_path(tmp_path, SWITZERLAND.key, 4)
    alone, swarm = load_weights(path, "alone"), load_weights(path, "swarm")
    assert [array.shape for array in alone] == [array.shape for array in swarm]
    assert len(alone) == 4
    assert not any(np.array_equal(a, b) for a, b in zip(alone, swarm, strict=True))


@pytest.mark.parametrize("dataset", ["heart", "xray"])
def test_every_hospital_has_the_same_number_of_batches_an_epoch(dataset: str) -> None:
    if dataset == "heart":
        sizes = [len(split_hospital(hospital, 0).train) for hospital in HOSPITALS["heart"]]
        recipe: Recipe = RECIPES["heart"]
    else:
        sizes = [sum(n - round(WATCH_SHARE * n) for n in counts) for counts in COUNTS.values()]
        recipe = RECIPES["xray"]
    assert {-(-size // recipe.batch_size(size)) for size in sizes} == {recipe.batches}


def test_rows_that_cannot_be_cut_into_so_many_batches_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="9 rows cannot be cut into 8 batches"):
        RECIPES["heart"].batch_size(9)


def test_rounds_end_with_the_last_batch() -> None:
    # Otherwise the last batches of a training would never be merged but at the very end.
    for recipe in RECIPES.values():
        assert recipe.epochs * recipe.batches % recipe.sync_frequency == 0
        assert 20 <= recipe.rounds <= 40


def test_the_command_line_is_read() -> None:
    given = parse_assignment(
        ["--dataset", "xray", "--framework", "pytorch", "--site", "2", "--seeds", "0,7", "--out", "o"]
    )
    assert given.hospital.key == "valley"
    assert given.seeds == (0, 7)
    assert given.recipe is RECIPES["xray"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--site", "4"], "has the sites 0-3"), (["--site", "0", "--seeds", "1,x"], "expected whole numbers")],
)
def test_a_wrong_command_line_ends_with_one_line_and_status_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
