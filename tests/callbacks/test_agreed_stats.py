"""Shared statistics from sums and counts."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sl import ME, OTHER, FakeSl, MeanSwarm, environ
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.callbacks import AgreedStats, SessionConfig, SwarmSession
from swarmlearning.callbacks.stats import Columns, parse_columns
from swarmlearning.errors import ConfigurationError, ModelMismatch, Refused, Unreachable, WaitExpired
from swarmlearning.parameters.manifest import lay_out
from swarmlearning.sl.control import Failed, Finish, Open, Sync
from swarmlearning.types import ContractName

CONFIG = SessionConfig(min_peers=2, contract=ContractName("heart-0"), weight=50, connect_wait_s=0)
NAN = float("nan")
Site = tuple[Mapping[str, Sequence[float]], Mapping[str, tuple[Sequence[str | None], Sequence[str]]]]
SEXES = ("f", "m")


def agree(sites: Sequence[Site]) -> tuple[list[AgreedStats], list[FakeSl]]:
    """Run one program and one SL a site, averaging over sites as a swarm does."""
    swarm = MeanSwarm(len(sites))
    peers = (ME, OTHER, *(ME,) * len(sites))[: len(sites)]
    directories = [Path(tempfile.mkdtemp(prefix="sl-")) for _ in sites]
    nodes = [FakeSl(directory, merge=swarm.merge, peers=peers) for directory in directories]
    try:
        with ThreadPoolExecutor(len(sites)) as pool:
            for node in nodes:
                node.__enter__()
            runs = [
                pool.submit(SwarmSession(CONFIG, environ=environ(node)).agree_stats, *site)
                for node, site in zip(nodes, sites, strict=True)
            ]
            results = [run.result(20) for run in runs]
    finally:
        for node in nodes:
            node.__exit__(None, None, None)
        for directory in directories:
            shutil.rmtree(directory)
    return results, nodes


def test_all_sites_get_the_pooled_statistics_whatever_is_missing_where() -> None:
    first: Site = ({"age": [40.0, 50.0, NAN], "chol": [NAN, NAN, NAN]}, {"sex": (["m", "", None], SEXES)})
    second: Site = ({"age": [70.0], "chol": [200.0]}, {"sex": (["f"], SEXES)})
    (mine, theirs), nodes = agree([first, second])
    assert mine == theirs
    assert mine.count == {"age": 3, "chol": 1}
    assert mine.mean == pytest.approx({"age": 160 / 3, "chol": 200.0})
    assert mine.std == pytest.approx({"age": np.std([40, 50, 70]), "chol": 0.0})
    assert mine.category_counts == {"sex": {"f": 1, "m": 1}}
    assert mine.contributors == 2
    opened: Open = nodes[0].of(Open)[0]
    assert opened.contract == "heart-0/stats"
    assert (opened.weight, opened.min_peers) == (1, 2)
    assert (opened.settings.start, opened.settings.checkin_mode, opened.settings.sync_frequency) == (
        "merge",
        "inactive",
        1,
    )
    assert [len(node.of(Sync)) for node in nodes] == [2, 2]
    assert [len(node.of(Finish)) for node in nodes] == [1, 1]


def test_only_sums_and_counts_leave_the_site() -> None:
    site: Site = ({"age": [40.0, 50.0, NAN]}, {"sex": (["m", "f", "m"], SEXES)})
    _, nodes = agree([site, site])
    for number, sums in enumerate(([2.0, 90.0], [2.0, 50.0])):
        offered = nodes[0].offered[number]
        assert sorted(name.rpartition("/")[0] for name in offered) == ["category/sex", "number"]
        assert offered["number/age"].tolist() == sums
        assert all(tensor.dtype == np.float64 for tensor in offered.values())


def test_a_column_nobody_knows_has_mean_and_deviation_zero() -> None:
    (mine, _), _ = agree([({"chol": [NAN]}, {}), ({"chol": []}, {})])
    assert (mine.count, mine.mean, mine.std) == ({"chol": 0}, {"chol": 0.0}, {"chol": 0.0})


columns = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(NAN)), max_size=20)


def merge(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


@settings(max_examples=60, deadline=None)
@given(st.lists(columns, min_size=2, max_size=5))
def test_agreed_equals_pooled(sites: list[list[float]]) -> None:
    mine = [parse_columns({"x": np.array(site)}, {}) for site in sites]
    first = merge([site.first() for site in mine])
    second = merge([site.second(mine[0].means(first)) for site in mine])
    agreed = mine[0].agreed(first, second, len(sites))
    pooled = np.array([value for site in sites for value in site if not np.isnan(value)])
    assert agreed.count["x"] == len(pooled)
    if len(pooled):
        assert agreed.mean["x"] == pytest.approx(pooled.mean(), abs=1e-6)
        assert agreed.std["x"] == pytest.approx(pooled.std(), abs=1e-6)


def test_a_small_spread_on_a_large_mean_keeps_its_digits() -> None:
    sites = [parse_columns({"x": 1e9 + np.array(part)}, {}) for part in ([0.0, 1.0], [2.0, 3.0])]
    first = merge([site.first() for site in sites])
    second = merge([site.second(sites[0].means(first)) for site in sites])
    assert sites[0].agreed(first, second, 2).std["x"] == pytest.approx(np.std([0, 1, 2, 3]), rel=1e-9)


@pytest.mark.parametrize(
    ("numeric", "categories", "text"),
    [
        ({}, {"sex": (["x"], SEXES)}, "column 'sex' holds 'x', which is not in its vocabulary"),
        ({}, {"sex": (["m"], ("m", "m"))}, "vocabulary must hold each value once"),
        ({}, {"sex": ([], ())}, "vocabulary must hold"),
        ({"age": ["old"]}, {}, "column 'age' is not of numbers"),
        ({"age": [float("inf")]}, {}, "column 'age' holds infinity"),
        ({}, {}, "statistics of 0 columns"),
    ],
)
def test_unfit_columns_are_named(numeric: Any, categories: Any, text: str) -> None:
    session = SwarmSession(CONFIG, environ={"SWARM_LOOPBACK": "1"})
    with pytest.raises(ConfigurationError, match=text):
        session.agree_stats(numeric, categories)


def test_sites_with_different_vocabularies_have_different_tensors() -> None:
    here = parse_columns({}, {"sex": ([], ("f", "m"))}).first()
    there = parse_columns({}, {"sex": ([], ("m", "f"))}).first()
    assert lay_out(here).hash != lay_out(there).hash


def test_a_site_lost_between_the_rounds_is_noticed() -> None:
    mine: Columns = parse_columns({"x": np.array([1.0])}, {})
    other = parse_columns({"x": np.array([1.0, 2.0])}, {})
    first = merge([mine.first(), other.first()])
    second = mine.second(mine.means(first))
    with pytest.raises(Unreachable, match="was not in the second"):
        mine.agreed(first, second, 2)


def test_void_rounds_are_tried_again_a_few_times(control: Path) -> None:
    with FakeSl(control, merge=lambda number, arrays: arrays if number else None) as sl:
        assert SwarmSession(CONFIG, environ=environ(sl)).agree_stats({"x": [1.0]}).contributors == 2
        assert len(sl.of(Sync)) == 3


def test_rounds_that_stay_void_end_in_an_error(control: Path) -> None:
    with FakeSl(control, merge=lambda *_: None) as sl, pytest.raises(WaitExpired, match="3 rounds of heart-0/stats"):
        SwarmSession(CONFIG, environ=environ(sl)).agree_stats({"x": [1.0]})


def test_a_site_that_comes_late_cannot_mix_rounds(control: Path) -> None:
    tensors = parse_columns({"x": np.array([1.0])}, {}).first()
    with FakeSl(control, newest=tensors, first_round=1) as sl, pytest.raises(Refused, match="without this one"):
        SwarmSession(CONFIG, environ=environ(sl)).agree_stats({"x": [1.0]})
    assert sl.of(Sync) == []


def test_statistics_that_are_already_over_are_refused(control: Path) -> None:
    with FakeSl(control, over_at=0) as sl, pytest.raises(Refused, match="is over before"):
        SwarmSession(CONFIG, environ=environ(sl)).agree_stats({"x": [1.0]})


def test_a_site_with_other_columns_is_told(control: Path) -> None:
    reply = Failed(kind="model", message="tensor 'number/y' is missing here")
    with FakeSl(control, replies={Open: reply}) as sl, pytest.raises(ModelMismatch, match="number/y"):
        SwarmSession(CONFIG, environ=environ(sl)).agree_stats({"x": [1.0]})


def test_loopback_agrees_with_itself() -> None:
    agreed = SwarmSession(CONFIG, environ={"SWARM_LOOPBACK": "1"}).agree_stats(
        {"x": [1.0, 3.0, NAN]}, {"sex": (["m", "m"], SEXES)}
    )
    assert agreed == AgreedStats(
        count={"x": 2}, mean={"x": 2.0}, std={"x": 1.0}, category_counts={"sex": {"f": 0, "m": 2}}, contributors=1
    )
