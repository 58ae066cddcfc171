"""The demo's launcher: what it needs, what it may delete, and when models count as equal."""

from pathlib import Path

import pytest

from swarmlearning.cli.main import main
from swarmlearning.demo.records import HOSPITALS, DemoRun, LedgerFacts, SeedRun, SiteRun
from swarmlearning.demo.runner import MARKER, find_model_faults, plan_demo, prepare_out, require_packages
from swarmlearning.errors import ConfigurationError


def test_missing_packages_are_named_with_what_to_install() -> None:
    told = r'needs jax, matplotlib: pip install "swarmlearning\[demo\]" or, from a clone, "\.\[demo\]"$'
    with pytest.raises(ConfigurationError, match=told):
        require_packages("keras", lambda name: name not in {"jax", "matplotlib"})
    with pytest.raises(ConfigurationError, match=r'needs torch: pip install "swarmlearning\[demo,torch\]"'):
        require_packages("pytorch", lambda name: name != "torch")
    require_packages("pytorch", lambda name: name not in {"keras", "jax"})


def test_a_second_demo_replaces_the_first_ones_results(tmp_path: Path) -> None:
    out = tmp_path / "swarm-demo"
    prepare_out(out)
    (out / "results" / "old.json").write_text("1")
    (out / "report.html").write_text("old")
    (out / "notes.txt").write_text("the user's")
    prepare_out(out)
    assert sorted(path.name for path in out.rglob("*")) == sorted([MARKER, "logs", "notes.txt", "results"])


def test_a_directory_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.csv").write_text("years of work")
    with pytest.raises(ConfigurationError, match="not empty and not from a demo"):
        prepare_out(tmp_path)
    assert (tmp_path / "results" / "thesis.csv").read_text() == "years of work"


def test_a_link_to_elsewhere_is_removed_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("data")
    out = prepare_out(tmp_path / "out")
    (out / "results").rmdir()
    (out / "results").symlink_to(elsewhere)
    prepare_out(out)
    assert (elsewhere / "precious").read_text() == "data"
    assert not (out / "results").is_symlink()


@pytest.mark.parametrize("seeds", [0, -1, 101])
def test_the_number_of_seeds_is_bounded(seeds: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"--seeds {seeds}: expected 1-100"):
        plan_demo("heart", "keras", seeds, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_a_missing_xray_file_is_one_line_and_nothing_is_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--dataset", "xray", "--data", str(tmp_path / "no.npz"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert "no.npz" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def demo_run(hashes: dict[str, str], ledger: dict[str, str]) -> DemoRun:
    sites = tuple(
        SiteRun(
            hospital=hospital,
            seeds=(
                SeedRun(
                    seed=0, n_train=1, n_test=1, rounds=1, seconds=1.0,
                    model_sha256=hashes.get(hospital.key, "aa"), losses=(), statistics=None,
                ),
            ),
        )
        for hospital in HOSPITALS["xray"]
    )  # fmt: skip
    facts = LedgerFacts(height=1, transactions=1, models=ledger)
    return DemoRun(dataset="xray", framework="keras", seeds=(0,), seconds=1.0, results="", sites=sites, ledger=facts)


def test_models_count_as_equal_only_if_all_are_the_ledgers() -> None:
    assert find_model_faults(demo_run({}, {"xray-0": "aa"})) == []
    assert find_model_faults(demo_run({"coast": "bb"}, {"xray-0": "aa"})) == [
        "xray-0: Coast ended with bb, the ledger's model is aa"
    ]
    assert len(find_model_faults(demo_run({}, {"xray-0": "cc"}))) == 3


def test_no_model_anywhere_is_no_agreement() -> None:
    """All hospitals "agreeing" on nothing must not pass for success."""
    nothing = dict.fromkeys((hospital.key for hospital in HOSPITALS["xray"]), "")
    assert len(find_model_faults(demo_run(nothing, {"xray-0": ""}))) == 3
    assert len(find_model_faults(demo_run(nothing, {}))) == 3
