from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarmlearning.demo import heart
from swarmlearning.demo.heart import COLUMNS, load_hospital, split_hospital
from swarmlearning.demo.records import HOSPITALS, Hospital
from swarmlearning.demo.rows import Kind, Rows
from swarmlearning.errors import Broken

CLEVELAND, HUNGARY, SWITZERLAND, VA = HOSPITALS["heart"]


def as_lines(rows: Rows) -> list[tuple[Any, ...]]:
    """Every patient as one comparable line."""
    return [
        tuple(
            repr(rows.numbers[c.name][i]) if c.kind is Kind.NUMBER else rows.categories[c.name][i] for c in rows.columns
        )
        for i in range(len(rows))
    ]


def all_parts() -> Iterator[tuple[Hospital, Rows, Rows, Rows]]:
    for hospital in HOSPITALS["heart"]:
        split = split_hospital(hospital, seed=3)
        yield hospital, split.train, split.watch, split.test


def test_the_shipped_file_has_920_patients_of_four_hospitals() -> None:
    counts = {h.key: len(load_hospital(h)) for h in HOSPITALS["heart"]}
    assert counts == {"cleveland": 304, "hungary": 293, "switzerland": 123, "va-long-beach": 200}
    assert sum(counts.values()) == 920


def test_shares_of_sick_patients_are_those_of_the_source() -> None:
    shares = [round(100 * float(load_hospital(h).labels.mean())) for h in HOSPITALS["heart"]]
    assert shares == [46, 36, 93, 74]  # VA Long Beach: 74.5
    assert int(load_hospital(VA).labels.sum()) == 149
    assert int((load_hospital(SWITZERLAND).labels == 0).sum()) == 8


def test_a_cholesterol_of_zero_means_not_measured() -> None:
    assert np.isnan(load_hospital(SWITZERLAND).numbers["chol"]).all()
    for hospital in HOSPITALS["heart"]:
        rows = load_hospital(hospital)
        for name in ("chol", "trestbps"):
            assert not (rows.numbers[name] == 0).any()
        # A count of 0 vessels is a finding, not a gap.
    assert (load_hospital(CLEVELAND).numbers["ca"] == 0).sum() > 100


def test_every_category_is_in_its_vocabulary_and_only_columns_with_gaps_have_gaps() -> None:
    for hospital in HOSPITALS["heart"]:
        rows = load_hospital(hospital)
        for column in COLUMNS:
            if column.kind is Kind.NUMBER:
                missing = bool(np.isnan(rows.numbers[column.name]).any())
            else:
                assert set(rows.categories[column.name]) <= {*column.vocabulary, ""}
                missing = "" in rows.categories[column.name]
            assert column.gaps or not missing, column.name


def test_columns_declared_to_have_gaps_have_them_somewhere() -> None:
    for column in (c for c in COLUMNS if c.gaps):
        everyone = [load_hospital(h) for h in HOSPITALS["heart"]]
        if column.kind is Kind.NUMBER:
            assert any(np.isnan(rows.numbers[column.name]).any() for rows in everyone), column.name
        else:
            assert any("" in rows.categories[column.name] for rows in everyone), column.name


def test_no_patient_is_in_two_parts_and_none_is_lost() -> None:
    for hospital, train, watch, test in all_parts():
        together = as_lines(train) + as_lines(watch) + as_lines(test)
        assert sorted(together) == sorted(as_lines(load_hospital(hospital)))


def test_a_split_is_stratified_and_every_part_has_both_kinds_of_patients() -> None:
    for hospital, train, watch, test in all_parts():
        whole = load_hospital(hospital)
        for label in (0, 1):
            of_label = int((whole.labels == label).sum())
            assert int((test.labels == label).sum()) == round(0.25 * of_label)
            assert all((part.labels == label).any() for part in (train, watch, test))


def test_a_seed_gives_the_same_split_again_and_another_seed_another() -> None:
    first, again, other = (split_hospital(HUNGARY, seed) for seed in (1, 1, 2))
    assert as_lines(first.test) == as_lines(again.test)
    assert as_lines(first.test) != as_lines(other.test)


def test_the_split_of_seed_0_never_changes() -> None:
    # A released figure belongs to this split: ages of the first test patients of Cleveland.
    assert split_hospital(CLEVELAND, 0).test.numbers["age"][:8].tolist() == [67, 57, 63, 57, 56, 44, 52, 49]


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = Path(heart.__file__).parent / "data" / heart.FILE
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / heart.FILE).write_bytes(source.read_bytes().replace(b"145,233", b"145,234", 1))
    monkeypatch.setattr("swarmlearning.demo.heart.resources.files", lambda _: tmp_path)
    with pytest.raises(Broken, match="expected SHA-256 574f2fa2"):
        load_hospital(CLEVELAND)


def test_the_licence_and_the_source_ship_beside_the_data() -> None:
    folder = Path(heart.__file__).parent / "data"
    for name in ("LICENSE-heart-disease.txt", "README.md"):
        text = (folder / name).read_text(encoding="utf-8")
        for word in ("CC BY 4.0", "10.24432/C52P4X", "Janosi", "Steinbrunn", "Pfisterer", "Detrano"):
            assert word in text
    assert heart.SHA256 in (folder / "README.md").read_text(encoding="utf-8")
