"""Scores the demo as an outside observer who may see everything: all test rows, all models, all training rows.

No part of the swarm could do this; that is why it runs in the demo's own process, after the fact. Adds the model that
pooling all rows would give, as the upper reference. A figure that is not defined is None, with the reason.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.cohort import Examples, images_to_examples, join_examples, rows_to_examples
from swarmlearning.demo.heart import split_hospital
from swarmlearning.demo.hospital import seed_draw
from swarmlearning.demo.learner import Learner, Weights, make_learner
from swarmlearning.demo.preparation import local_statistics
from swarmlearning.demo.recipe import RECIPES
from swarmlearning.demo.records import (
    HOSPITALS,
    DemoRun,
    SeedFigures,
    SiteFigures,
    SiteRun,
    Summary,
    SummaryLedger,
    contract_name,
    weights_path,
)
from swarmlearning.demo.rows import join_rows
from swarmlearning.demo.xray import Xrays, deal_images, find_xrays, load_xrays
from swarmlearning.errors import ConfigurationError

Measure = Literal["auc", "balanced_accuracy"]

FEW: Final = 10
"""With fewer test examples of one class a figure moves by a tenth or more with a single patient."""


@dataclass(frozen=True)
class Score:
    """A figure, or why there is none."""

    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class _Exam:
    """One seed's test examples: as each hospital's two models are to see them, and for the pooled model."""

    alone: tuple[tuple[Examples, Examples], ...]
    """For each hospital (all test rows, its own test rows), prepared as its alone model needs them."""
    swarm: tuple[tuple[Examples, Examples], ...]
    """The same, as the swarm model needs them."""
    pooled_train: Examples
    pooled_test: Examples


def score_predictions(labels: NDArray[np.int64], logits: NDArray[np.float32], measure: Measure) -> Score:
    """The AUC or the balanced accuracy (at the threshold 0) of some predictions.

    Returns:
        A `Score` without a value where the figure is not defined: one class only, or predictions that are no numbers.
    """
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    present = np.unique(labels)
    if len(present) < 2:
        kind = {(): "neither class", (0,): "only healthy cases", (1,): "only sick cases"}[tuple(present.tolist())]
        return Score(None, f"{kind} in the test rows")
    if not np.isfinite(logits).all():
        return Score(None, "the model's predictions are not finite")
    if measure == "auc":
        return Score(float(roc_auc_score(labels, logits)))
    return Score(float(balanced_accuracy_score(labels, logits > 0)))


def evaluate_demo(run: DemoRun) -> Summary:
    """All figures of the demo.

    Raises:
        ConfigurationError: models are missing or of other shapes, the X-ray file is gone, or scikit-learn or the
            framework is not installed.
    """
    _require_sklearn()
    measure: Measure = "auc" if run.dataset == "heart" else "balanced_accuracy"
    xrays = load_xrays(find_xrays(run.data)) if run.dataset == "xray" else None
    learner: Learner | None = None
    per_seed: list[list[tuple[Score, Score, Score, Score]]] = []
    pooled: list[Score] = []
    exam: _Exam | None = None
    for position, seed in enumerate(run.seeds):
        exam = _heart_exam(run, position, seed) if xrays is None else _xray_exam(xrays, seed)
        if learner is None:
            learner = make_learner(run.framework, RECIPES[run.dataset], exam.pooled_train.inputs.shape[1:])
        per_seed.append([_score_site(run, learner, exam, index, seed, measure) for index in range(len(run.sites))])
        pooled.append(_score_pooled(run, learner, exam, seed, measure))
    if exam is None:
        raise ConfigurationError("no seed was run: expected at least one")
    mean, std = _mean_and_std(pooled)
    return Summary(
        dataset=run.dataset,
        framework=run.framework,
        measure=measure,
        seeds=len(run.seeds),
        rounds=sum(min(site.seeds[i].rounds for site in run.sites) for i in range(len(run.seeds))),
        seconds=round(run.seconds, 1),
        sites=tuple(
            _site_figures(site, [scores[index] for scores in per_seed], exam.swarm[index][1].labels)
            for index, site in enumerate(run.sites)
        ),
        auc_pooled=mean,
        auc_pooled_std=std,
        models_equal=is_one_model(run),
        ledger=SummaryLedger(height=run.ledger.height, transactions=run.ledger.transactions),
    )


# --- test examples ----------------------------------------------------------------------------------------------


def _heart_exam(run: DemoRun, position: int, seed: int) -> _Exam:
    splits = [split_hospital(hospital, seed) for hospital in HOSPITALS["heart"]]
    test = join_rows([split.test for split in splits])
    train = join_rows([split.train for split in splits])
    alone, swarm = [], []
    for site, split in zip(run.sites, splits, strict=True):
        own = local_statistics(split.train)
        agreed = site.seeds[position].statistics
        if agreed is None:
            raise ConfigurationError(f"{site.hospital.title}, seed {seed}: its report lacks the agreed statistics")
        alone.append((rows_to_examples(test, own), rows_to_examples(split.test, own)))
        swarm.append((rows_to_examples(test, agreed), rows_to_examples(split.test, agreed)))
    pooled = local_statistics(train)
    return _Exam(tuple(alone), tuple(swarm), rows_to_examples(train, pooled), rows_to_examples(test, pooled))


def _xray_exam(xrays: Xrays, seed: int) -> _Exam:
    test = images_to_examples(xrays.test)
    hands = [deal_images(xrays, hospital, seed) for hospital in HOSPITALS["xray"]]
    exams = tuple((test, images_to_examples(own)) for _, own in hands)
    # As at the hospitals, each of which weighs its own two classes alike.
    return _Exam(exams, exams, join_examples([images_to_examples(train) for train, _ in hands]), test)


# --- scores -----------------------------------------------------------------------------------------------------


def _score_site(
    run: DemoRun, learner: Learner, exam: _Exam, index: int, seed: int, measure: Measure
) -> tuple[Score, Score, Score, Score]:
    """Alone on all test rows, swarm on all, alone on its own, swarm on its own."""
    path = weights_path(Path(run.results), run.sites[index].hospital.key, seed)
    scores = []
    for model, examples in (("alone", exam.alone[index]), ("swarm", exam.swarm[index])):
        learner.load(load_weights(path, model))
        scores.append([score_predictions(part.labels, learner.predict(part.inputs), measure) for part in examples])
    return scores[0][0], scores[1][0], scores[0][1], scores[1][1]


def _score_pooled(run: DemoRun, learner: Learner, exam: _Exam, seed: int, measure: Measure) -> Score:
    batches = RECIPES[run.dataset].batches * len(run.sites)
    draw = seed_draw(seed, "pooled")
    learner.reset(draw, draw)
    learner.train(exam.pooled_train, -(-len(exam.pooled_train) // batches))
    return score_predictions(exam.pooled_test.labels, learner.predict(exam.pooled_test.inputs), measure)


def load_weights(path: Path, model: str) -> Weights:
    """One of the two models in a hospital's file: "alone" or "swarm".

    Raises:
        ConfigurationError: the file is not a hospital's, or lacks the model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            count = sum(name.startswith(f"{model}/") for name in arrays.files)
            weights = tuple(arrays[f"{model}/{i}"] for i in range(count))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConfigurationError(f"{path}: {error}; expected the models that a hospital wrote") from error
    if not weights:
        raise ConfigurationError(f"{path}: holds no {model} model; expected the models that a hospital wrote")
    return weights


def _site_figures(
    site: SiteRun, scores: Sequence[tuple[Score, Score, Score, Score]], own_labels: NDArray[np.int64]
) -> SiteFigures:
    (alone, alone_std), (swarm, swarm_std), (alone_own, alone_own_std), (swarm_own, swarm_own_std) = (
        _mean_and_std(column) for column in zip(*scores, strict=True)
    )
    reasons = sorted({score.reason for row in scores for score in row if score.reason})
    healthy, sick = (int(np.sum(own_labels == label)) for label in (0, 1))
    count, kind = min((healthy, "healthy"), (sick, "sick"))
    return SiteFigures(
        name=site.hospital.title,
        n_train=site.seeds[-1].n_train,
        n_test=site.seeds[-1].n_test,
        auc_alone=alone,
        auc_swarm=swarm,
        auc_alone_own=alone_own,
        auc_swarm_own=swarm_own,
        auc_alone_std=alone_std,
        auc_swarm_std=swarm_std,
        auc_alone_own_std=alone_own_std,
        auc_swarm_own_std=swarm_own_std,
        undefined="; ".join(reasons),
        caution=f"its own test rows hold only {count} {kind} {'case' if count == 1 else 'cases'}"
        if 0 < count < FEW
        else "",
        model_sha256=site.seeds[-1].model_sha256,
        per_seed=tuple(
            SeedFigures(
                seed=run.seed,
                auc_alone=row[0].value,
                auc_swarm=row[1].value,
                auc_alone_own=row[2].value,
                auc_swarm_own=row[3].value,
                model_sha256=run.model_sha256,
            )
            for run, row in zip(site.seeds, scores, strict=True)
        ),
    )


def _mean_and_std(scores: Sequence[Score]) -> tuple[float | None, float | None]:
    """Mean and spread (over n - 1) of the figures that are defined; no spread of a single one."""
    values = [score.value for score in scores if score.value is not None]
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def is_one_model(run: DemoRun) -> bool:
    """Whether for every seed all hospitals name one hash, the ledger's, and hold bit for bit the same parameters."""
    for position, seed in enumerate(run.seeds):
        hashes = {site.seeds[position].model_sha256 for site in run.sites}
        if hashes != {run.ledger.models.get(contract_name(run.dataset, seed), "not on the ledger")}:
            return False
        first, *others = (
            load_weights(weights_path(Path(run.results), site.hospital.key, seed), "swarm") for site in run.sites
        )
        for other in others:
            if len(first) != len(other) or not all(map(np.array_equal, first, other)):
                return False
    return True


def _require_sklearn() -> None:
    try:
        import sklearn.metrics  # noqa: F401  # asked for before any work is done
    except ModuleNotFoundError as error:
        raise ConfigurationError("the demo's figures need scikit-learn: pip install 'swarmlearning[demo]'") from error
