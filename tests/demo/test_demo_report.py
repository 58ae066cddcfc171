import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from swarmlearning.demo.evaluate import evaluate_demo, is_one_model, load_weights, score_predictions
from swarmlearning.demo.hospital import Assignment, run_hospital
from swarmlearning.demo.recipe import RECIPES
from swarmlearning.demo.records import (
    HOSPITALS,
    DemoRun,
    LedgerFacts,
    SeedRun,
    SiteRun,
    Summary,
    contract_name,
    load_site_run,
    weights_path,
)
from swarmlearning.demo.report import finish_demo, write_report
from swarmlearning.demo.table import format_figure, render_table
from swarmlearning.errors import ConfigurationError, DecodeError

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

SEEDS = (0, 1)
SHORT = dataclasses.replace(RECIPES["heart"], epochs=2)
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """Four hospitals that trained shortly, each by itself, and then were given one hospital's model as the swarm's."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWARM_LOOPBACK", "TRUE")
        for site in range(4):
            run_hospital(
                Assignment(
                    dataset="heart", framework="pytorch", site=site, seeds=SEEDS, out=results, data="", recipe=SHORT
                )
            )
    sites = []
    agreed = load_site_run(results, HOSPITALS["heart"][0], SEEDS).seeds
    for hospital in HOSPITALS["heart"]:
        runs = []
        for run, first in zip(load_site_run(results, hospital, SEEDS).seeds, agreed, strict=True):
            runs.append(msgspec.structs.replace(run, model_sha256=DIGEST, statistics=first.statistics))
            swap_swarm_model(weights_path(results, hospital.key, run.seed), results, run.seed)
        sites.append(SiteRun(hospital=hospital, seeds=tuple(runs)))
    return DemoRun(
        dataset="heart",
        framework="pytorch",
        seeds=SEEDS,
        seconds=12.34,
        results=str(results),
        sites=tuple(sites),
        ledger=LedgerFacts(
            height=77, transactions=901, models={contract_name("heart", seed): DIGEST for seed in SEEDS}
        ),
    )


@pytest.fixture(scope="module", autouse=True)
def _short_pooled_training() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "heart", SHORT)
        yield


@pytest.fixture(scope="module")
def summary(trained: DemoRun) -> Summary:
    return evaluate_demo(trained)


def swap_swarm_model(path: Path, results: Path, seed: int) -> None:
    swarm = load_weights(weights_path(results, "cleveland", seed), "swarm")
    arrays = {f"alone/{i}": array for i, array in enumerate(load_weights(path, "alone"))}
    arrays |= {f"swarm/{i}": array for i, array in enumerate(swarm)}
    np.savez(path, allow_pickle=False, **arrays)


# --- figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "words"), [([1, 1, 1], "only sick cases"), ([0, 0], "only healthy cases"), ([], "neither class")]
)
def test_an_auc_of_one_class_is_undefined_and_says_why(labels: list[int], words: str) -> None:
    score = score_predictions(np.array(labels, dtype=np.int64), np.zeros(len(labels), dtype=np.float32), "auc")
    assert score.value is None
    assert score.reason.startswith(words)


def test_predictions_that_are_no_numbers_have_no_figure() -> None:
    score = score_predictions(np.array([0, 1]), np.array([0.5, np.nan], dtype=np.float32), "auc")
    assert score.value is None
    assert "not finite" in score.reason


def test_auc_and_balanced_accuracy_follow_their_definitions() -> None:
    labels = np.array([0, 0, 0, 1])
    logits = np.array([-3.0, -2.0, 1.0, 0.5], dtype=np.float32)
    assert score_predictions(labels, logits, "auc").value == pytest.approx(2 / 3)
    assert score_predictions(labels, logits, "balanced_accuracy").value == pytest.approx((2 / 3 + 1) / 2)


def test_figures_of_all_hospitals_are_there(summary: Summary) -> None:
    assert [site.name for site in summary.sites] == ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]
    assert len({site.auc_swarm for site in summary.sites}) == 1  # one model, one set of rows
    assert len({site.auc_alone for site in summary.sites}) == 4
    first = summary.sites[0]
    values = [seed.auc_alone for seed in first.per_seed]
    assert first.auc_alone == pytest.approx(np.mean([v for v in values if v is not None]))
    assert first.auc_alone_std == pytest.approx(np.std([v for v in values if v is not None], ddof=1))
    assert summary.auc_pooled is not None
    assert summary.auc_pooled > 0.6
    assert summary.rounds == 4


def test_few_healthy_patients_are_pointed_out(summary: Summary) -> None:
    cautions = {site.name: site.caution for site in summary.sites}
    assert cautions.pop("Switzerland") == "its own test rows hold only 2 healthy cases"
    assert set(cautions.values()) == {""}


def test_one_model_everywhere_and_on_the_ledger_is_recognised(trained: DemoRun, summary: Summary) -> None:
    assert is_one_model(trained)
    assert summary.models_equal


def test_a_hospital_that_names_another_model_is_noticed(trained: DemoRun, summary: Summary) -> None:
    odd = msgspec.structs.replace(trained.sites[1].seeds[1], model_sha256="cd" * 32)
    site = msgspec.structs.replace(trained.sites[1], seeds=(trained.sites[1].seeds[0], odd))
    run = msgspec.structs.replace(trained, sites=(trained.sites[0], site, *trained.sites[2:]))
    assert not is_one_model(run)
    assert "✗" in write_report(run, msgspec.structs.replace(summary, models_equal=False))


def test_a_ledger_that_names_another_model_is_noticed(trained: DemoRun) -> None:
    ledger = msgspec.structs.replace(trained.ledger, models={contract_name("heart", 0): DIGEST})
    assert not is_one_model(msgspec.structs.replace(trained, ledger=ledger))


def test_other_parameters_under_the_same_name_are_noticed(trained: DemoRun, tmp_path: Path) -> None:
    shutil.copytree(trained.results, tmp_path / "results")
    path = weights_path(tmp_path / "results", "hungary", 1)
    with np.load(path, allow_pickle=False) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["swarm/3"] = changed["swarm/3"] + np.float32(1e-6)
    np.savez(path, allow_pickle=False, **changed)
    assert not is_one_model(msgspec.structs.replace(trained, results=str(tmp_path / "results")))


# --- summary.json and report.html -------------------------------------------------------------------------------


def test_the_summary_has_the_documented_fields(trained: DemoRun, tmp_path: Path) -> None:
    finish_demo(tmp_path / "new" / "out", trained)
    assert (tmp_path / "new" / "out" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    summary = json.loads((tmp_path / "new" / "out" / "summary.json").read_bytes())
    top = {"dataset", "framework", "seeds", "rounds", "seconds", "sites", "auc_pooled", "ledger"}
    assert top <= set(summary)
    site = {"name", "n_train", "auc_alone", "auc_swarm", "auc_alone_own", "auc_swarm_own", "model_sha256"}
    assert all(site <= set(entry) for entry in summary["sites"])
    assert (summary["dataset"], summary["framework"], summary["seeds"]) == ("heart", "pytorch", 2)
    assert summary["seconds"] == 12.3
    assert summary["ledger"] == {"height": 77, "transactions": 901}
    assert {entry["model_sha256"] for entry in summary["sites"]} == {DIGEST}


def test_the_report_loads_nothing_from_anywhere(trained: DemoRun, summary: Summary) -> None:
    page = write_report(trained, summary)
    assert not re.search(r"<(script|link|img|iframe|object|embed|image)\b", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert all(target.startswith("#") for target in re.findall(r"(?:href|src)=[\"']([^\"']*)", page))
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert "default-src 'none'" in page


def test_the_report_tells_the_whole_story(trained: DemoRun, summary: Summary) -> None:
    page = write_report(trained, summary)
    assert not re.search(r"@[A-Z_]+@", page)
    assert page.count("<svg") == 2
    assert "#0" not in "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)).replace("url(#", "")
    for site in summary.sites:
        assert site.name in page
        assert format_figure(site.auc_swarm, site.auc_swarm_std) in page
    for words in ("height 77", "901 transactions", "CC BY 4.0", "10.24432/C52P4X", DIGEST, "only 2 healthy cases", "✓"):
        assert words in page


def test_the_report_says_how_many_hospitals_gained_and_lost_on_their_own_rows(
    trained: DemoRun, summary: Summary
) -> None:
    figures = ((0.80, 0.85), (0.90, 0.88), (0.50, 0.50), (None, None))
    sites = tuple(
        msgspec.structs.replace(site, auc_alone_own=alone, auc_swarm_own=swarm)
        for site, (alone, swarm) in zip(summary.sites, figures, strict=True)
    )
    page = write_report(trained, msgspec.structs.replace(summary, sites=sites))
    assert "better than the hospital&#x27;s own model at 1 of the 3 with a figure and worse at 1;" in page
    assert "the mean change of AUC was +0.010." in page


def test_an_undefined_figure_is_said_to_be_undefined(trained: DemoRun, summary: Summary) -> None:
    site = msgspec.structs.replace(
        summary.sites[2], auc_swarm_own=None, auc_swarm_own_std=None, undefined="only sick cases in the test rows"
    )
    summary = msgspec.structs.replace(summary, sites=(*summary.sites[:2], site, summary.sites[3]))
    assert "only sick cases in the test rows" in write_report(trained, summary)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render_table(summary))
    text = console.export_text()
    assert "undefined*" in text
    assert "only sick cases" in text


def test_the_table_fits_a_terminal_of_80_columns(summary: Summary) -> None:
    marked = tuple(msgspec.structs.replace(site, caution="few cases") for site in summary.sites)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_table(msgspec.structs.replace(summary, sites=marked)))
    lines = console.export_text().splitlines()
    for site in summary.sites:
        figures = [site.auc_alone, site.auc_swarm, site.auc_alone_own, site.auc_swarm_own]
        (line,) = [line for line in lines if line.lstrip().startswith(f"{site.name} ")]
        assert all(f"{figure:.3f} ±." in line for figure in figures)
        assert "…" not in line
        assert f" {site.n_train} " in line


def test_the_table_says_when_models_differ(summary: Summary) -> None:
    different = msgspec.structs.replace(summary, models_equal=False)
    assert "NOT the same" in str(render_table(different).caption)
    assert "NOT the same" not in str(render_table(summary).caption)


# --- the hospitals' files ---------------------------------------------------------------------------------------


def test_a_missing_result_names_the_hospital_and_the_seed(trained: DemoRun) -> None:
    with pytest.raises(ConfigurationError, match="Hungary wrote no result for seed 9"):
        load_site_run(Path(trained.results), HOSPITALS["heart"][1], (0, 9))


def test_a_damaged_report_is_refused(trained: DemoRun, tmp_path: Path) -> None:
    shutil.copytree(trained.results, tmp_path / "results")
    (tmp_path / "results" / "hungary" / "seed-0.json").write_bytes(b'{"seed": "zero"}')
    with pytest.raises(DecodeError, match=r"seed-0\.json"):
        load_site_run(tmp_path / "results", HOSPITALS["heart"][1], (0,))


def test_models_of_other_shapes_are_refused(trained: DemoRun, tmp_path: Path) -> None:
    shutil.copytree(trained.results, tmp_path / "results")
    wrong: dict[str, Any] = {"alone/0": np.zeros(3), "swarm/0": np.zeros(3)}
    np.savez(weights_path(tmp_path / "results", "hungary", 0), allow_pickle=False, **wrong)
    with pytest.raises(ConfigurationError, match="saved weights have the shapes"):
        evaluate_demo(msgspec.structs.replace(trained, results=str(tmp_path / "results")))


def test_a_file_without_the_model_is_refused(tmp_path: Path) -> None:
    only: dict[str, Any] = {"alone/0": np.zeros(3)}
    np.savez(tmp_path / "x.npz", allow_pickle=False, **only)
    with pytest.raises(ConfigurationError, match="holds no swarm model"):
        load_weights(tmp_path / "x.npz", "swarm")


def test_a_report_has_no_field_for_rows_or_parameters() -> None:
    assert set(SeedRun.__struct_fields__) == {
        *("seed", "n_train", "n_test", "rounds", "seconds", "model_sha256", "losses", "statistics"),
    }
