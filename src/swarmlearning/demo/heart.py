"""The UCI heart-disease collection: 920 patients of four real hospitals, one row each.

Reads the shipped file (its SHA-256 is checked), gives every hospital its own rows, and splits them. Does not scale or
impute: `demo.preparation` does, from statistics. A hospital's program asks for its own hospital only; nothing in one
hospital's split depends on another's rows.
"""

import csv
import io
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.records import Hospital
from swarmlearning.demo.rows import Column, Kind, Rows, Split
from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken

FILE: Final = "heart_disease_uci.csv"

SHA256: Final = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
"""Of the shipped file, so that figures in the documentation belong to these bytes."""

TEST_SHARE: Final = 0.25
"""Share of each hospital's healthy and of its sick patients that no training sees: the figures come from these."""

WATCH_SHARE: Final = 0.1
"""Share that a hospital holds out of its training to watch its loss by; nothing is chosen with it."""

NAME_IN_FILE: Final = {
    "cleveland": "Cleveland",
    "hungary": "Hungary",
    "switzerland": "Switzerland",
    "va-long-beach": "VA Long Beach",
}
"""The column `dataset` for each hospital."""

COLUMNS: Final = (
    Column("age", Kind.NUMBER),
    Column("sex", Kind.CATEGORY, vocabulary=("Female", "Male")),
    Column("cp", Kind.CATEGORY, vocabulary=("asymptomatic", "atypical angina", "non-anginal", "typical angina")),
    Column("trestbps", Kind.NUMBER, gaps=True),
    Column("chol", Kind.NUMBER, gaps=True),
    Column("fbs", Kind.CATEGORY, vocabulary=("FALSE", "TRUE"), gaps=True),
    Column("restecg", Kind.CATEGORY, vocabulary=("lv hypertrophy", "normal", "st-t abnormality"), gaps=True),
    Column("thalch", Kind.NUMBER, gaps=True),
    Column("exang", Kind.CATEGORY, vocabulary=("FALSE", "TRUE"), gaps=True),
    Column("oldpeak", Kind.NUMBER, gaps=True),
    Column("slope", Kind.CATEGORY, vocabulary=("downsloping", "flat", "upsloping"), gaps=True),
    Column("ca", Kind.NUMBER, gaps=True),
    Column("thal", Kind.CATEGORY, vocabulary=("fixed defect", "normal", "reversable defect"), gaps=True),
)
"""The 13 features. `gaps` marks columns in which some hospital really lacks values."""

ZERO_IS_MISSING: Final = frozenset({"chol", "trestbps"})
"""Nobody alive has a serum cholesterol or a resting blood pressure of 0: the file means "not measured"."""


def load_hospital(hospital: Hospital) -> Rows:
    """All rows of one hospital, in the file's order.

    Raises:
        Broken: the shipped file is not the one this release was built with.
    """
    wanted = NAME_IN_FILE[hospital.key]
    rows = [row for row in csv.DictReader(io.StringIO(_read_file())) if row["dataset"] == wanted]
    numbers: dict[str, NDArray[np.float64]] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for column in COLUMNS:
        texts = [row[column.name] for row in rows]
        if column.kind is Kind.NUMBER:
            numbers[column.name] = np.array([_parse_number(column.name, text) for text in texts])
        else:
            categories[column.name] = tuple(texts)
    sick = np.array([int(row["num"]) > 0 for row in rows], dtype=np.int64)
    return Rows(columns=COLUMNS, numbers=numbers, categories=categories, labels=sick)


def split_hospital(hospital: Hospital, seed: int) -> Split:
    """One hospital's training, watch and test rows for `seed`, stratified by diagnosis; the same on every machine.

    Raises:
        Broken: the shipped file is not the one this release was built with.
    """
    rows = load_hospital(hospital)
    # The hospital's own stream: no hospital's split depends on another hospital's rows.
    random = np.random.Generator(np.random.PCG64([seed, *hospital.key.encode()]))
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in (0, 1):
        members = random.permutation(np.flatnonzero(rows.labels == label)).tolist()
        n_test = round(TEST_SHARE * len(members))
        n_watch = max(1, round(WATCH_SHARE * len(members)))
        parts[0].extend(members[n_test + n_watch :])
        parts[1].extend(members[n_test : n_test + n_watch])
        parts[2].extend(members[:n_test])
    train, watch, test = (rows.take(sorted(part)) for part in parts)
    return Split(train=train, watch=watch, test=test)


def _read_file() -> str:
    data = resources.files("swarmlearning.demo").joinpath("data", FILE).read_bytes()
    found = sha256(data).hex()
    if found != SHA256:
        raise Broken(f"{FILE}: expected SHA-256 {SHA256}, got {found}; reinstall swarmlearning")
    return data.decode("ascii")


def _parse_number(column: str, text: str) -> float:
    if not text:
        return float("nan")
    value = float(text)
    return float("nan") if value == 0 and column in ZERO_IS_MISSING else value
