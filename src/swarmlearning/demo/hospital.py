"""One hospital's program in the demo: `python -m swarmlearning.demo.hospital --dataset heart --site 0 …`.

What a data scientist there would write, for several seeds: train alone, agree on statistics, train in the swarm, keep
both models. It reads its own hospital's rows only. It finds its SL as every program does (`SWARM_SL`, or
`SWARM_LOOPBACK=TRUE` for none), and imports the callbacks as a user's program does.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.demo.cohort import Examples, images_to_examples, rows_to_examples
from swarmlearning.demo.heart import split_hospital
from swarmlearning.demo.learner import Learner, SwarmPlan, Weights, make_learner
from swarmlearning.demo.preparation import Statistics, local_statistics
from swarmlearning.demo.recipe import RECIPES, Recipe
from swarmlearning.demo.records import (
    HOSPITALS,
    ColumnStatistics,
    Dataset,
    Framework,
    Hospital,
    SeedRun,
    contract_name,
    save_seed_run,
    weights_path,
)
from swarmlearning.demo.rows import Rows, Split
from swarmlearning.demo.xray import Xrays, deal_images, find_xrays, load_xrays
from swarmlearning.errors import ConfigurationError, ExitCode, SwarmError, exit_code

Draw = Literal["alone", "swarm", "pooled"]


@dataclass(frozen=True)
class Assignment:
    """What the launcher told this program."""

    dataset: Dataset
    framework: Framework
    site: int
    seeds: tuple[int, ...]
    out: Path
    data: str
    recipe: Recipe

    @property
    def hospital(self) -> Hospital:
        """Whose program this is."""
        return HOSPITALS[self.dataset][self.site]


@dataclass(frozen=True)
class Cohort:
    """One hospital's examples, prepared with one set of statistics."""

    train: Examples
    watch: Examples


def seed_draw(seed: int, model: Draw, site: int = 0) -> tuple[int, ...]:
    """Where the randomness of one model's start and shuffling comes from."""
    return (seed, ("alone", "swarm", "pooled").index(model), site)


def run_hospital(assignment: Assignment) -> None:
    """Train alone and in the swarm for every seed, and write both models and a report of each.

    Raises:
        ConfigurationError: the data are not there, or the framework is not installed.
        SwarmError: a swarm training failed.
        OSError: the results cannot be written.
    """
    (assignment.out / assignment.hospital.key).mkdir(parents=True, exist_ok=True)
    xrays = load_xrays(find_xrays(assignment.data)) if assignment.dataset == "xray" else None
    learner: Learner | None = None
    for seed in assignment.seeds:
        source = _Source(assignment, seed, xrays)
        if learner is None:
            shape = source.alone().train.inputs.shape[1:]
            learner = make_learner(assignment.framework, assignment.recipe, shape)
        _run_seed(assignment, seed, source, learner)


class _Source:
    """This hospital's rows for one seed, whichever dataset they are of."""

    def __init__(self, assignment: Assignment, seed: int, xrays: Xrays | None) -> None:
        self.split: Split | None = None
        if xrays is None:
            self.split = split_hospital(assignment.hospital, seed)
            self.n_test = len(self.split.test)
        else:
            train, watch = deal_images(xrays, assignment.hospital, seed)
            self._images = Cohort(images_to_examples(train), images_to_examples(watch))
            self.n_test = len(watch)

    def alone(self) -> Cohort:
        """Prepared with what this hospital knows by itself."""
        return self._images if self.split is None else prepare_split(self.split, local_statistics(self.split.train))

    def agreed(self, statistics: Statistics | None) -> Cohort:
        """Prepared with what all hospitals agreed on."""
        if self.split is None or statistics is None:
            return self._images
        return prepare_split(self.split, statistics)


def prepare_split(split: Split, statistics: Statistics) -> Cohort:
    """A hospital's training and watch rows, prepared with `statistics`."""
    return Cohort(rows_to_examples(split.train, statistics), rows_to_examples(split.watch, statistics))


def _run_seed(assignment: Assignment, seed: int, source: _Source, learner: Learner) -> None:
    cohort = source.alone()
    batch_size = assignment.recipe.batch_size(len(cohort.train))
    draw = seed_draw(seed, "alone", assignment.site)
    learner.reset(draw, draw)
    learner.train(cohort.train, batch_size)
    alone = learner.weights()

    begun = time.monotonic()
    plan = SwarmPlan(contract=contract_name(assignment.dataset, seed), peers=len(HOSPITALS[assignment.dataset]))
    statistics = None if source.split is None else _agree_statistics(source.split.train, plan)
    cohort = source.agreed(statistics)
    # All start from the same parameters: whose it is that the swarm draws (T-21) then makes no difference, and a seed
    # always ends with the same model.
    learner.reset(seed_draw(seed, "swarm"), seed_draw(seed, "swarm", assignment.site))
    swarmed = learner.train_swarm(cohort.train, cohort.watch, batch_size, plan)
    seconds = time.monotonic() - begun

    key = assignment.hospital.key
    _save_weights(weights_path(assignment.out, key, seed), alone, learner.weights())
    run = SeedRun(
        seed=seed,
        n_train=len(cohort.train),
        n_test=source.n_test,
        rounds=len(swarmed.losses),
        seconds=round(seconds, 3),
        model_sha256=swarmed.sha256,
        losses=swarmed.losses,
        statistics=statistics,
    )
    # Last: whoever finds this report finds the models beside it.
    save_seed_run(assignment.out, key, run)


def _agree_statistics(rows: Rows, plan: SwarmPlan) -> ColumnStatistics:
    session = SwarmSession(SessionConfig(min_peers=plan.peers, contract=plan.contract))
    vocabularies = {column.name: column.vocabulary for column in rows.columns}
    agreed = session.agree_stats(
        numeric=rows.numbers,
        categories={name: (values, vocabularies[name]) for name, values in rows.categories.items()},
    )
    return ColumnStatistics(
        mean=dict(agreed.mean),
        std=dict(agreed.std),
        category_counts={name: dict(counts) for name, counts in agreed.category_counts.items()},
        contributors=agreed.contributors,
    )


def _save_weights(path: Path, alone: Weights, swarm: Weights) -> None:
    arrays = {f"{model}/{i}": value for model, ws in (("alone", alone), ("swarm", swarm)) for i, value in enumerate(ws)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


# --- the command line -------------------------------------------------------------------------------------------


def parse_assignment(arguments: Sequence[str]) -> Assignment:
    """Read the command line; ends the program with its own message where it is not one.

    Raises:
        ConfigurationError: there is no such site, or a seed is not a whole number from 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m swarmlearning.demo.hospital", description="One hospital of the demo."
    )
    parser.add_argument("--dataset", choices=tuple(HOSPITALS), default="heart")
    parser.add_argument("--framework", choices=("keras", "pytorch"), default="keras")
    parser.add_argument("--site", type=int, required=True, help="number of the hospital, from 0")
    parser.add_argument("--seeds", default="0", help="comma-separated, such as 0,1,2")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results of all hospitals")
    parser.add_argument("--data", default="", help="the X-ray file")
    given = parser.parse_args(arguments)
    count = len(HOSPITALS[given.dataset])
    if not 0 <= given.site < count:
        raise ConfigurationError(f"--site {given.site}: the dataset {given.dataset} has the sites 0-{count - 1}")
    texts = given.seeds.split(",")
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        raise ConfigurationError(f"--seeds {given.seeds!r}: expected whole numbers such as 0,1,2")
    return Assignment(
        dataset=given.dataset,
        framework=given.framework,
        site=given.site,
        seeds=tuple(int(text) for text in texts),
        out=given.out,
        data=given.data,
        recipe=RECIPES[given.dataset],
    )


def main(arguments: Sequence[str]) -> int:
    """Run one hospital; errors are one line on the error output.

    Returns:
        The exit status.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        run_hospital(parse_assignment(arguments))
    except SwarmError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(exit_code(error))
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
