"""Which merge methods there are (docs/spec/merging.md, G-1 to G-8)."""

import pytest

from swarmlearning.contracts.limits import check_settings
from swarmlearning.contracts.records import Settings
from swarmlearning.errors import ConfigurationError
from swarmlearning.merge.method import BUILT_IN, merge_method
from swarmlearning.sl.methods import complete


@pytest.mark.parametrize("name", ["mean", "MEAN", "Mean"])
def test_g3_methods_are_found_in_any_case(name: str) -> None:
    method = merge_method(name)
    assert method.name == "mean"
    assert (method.needs, method.options, method.source) == ("", (), "")


@pytest.mark.parametrize(
    ("name", "near"), [("meen", "'mean'"), ("coord_median", "'coordmedian'"), ("fed_avgm", "'fedavgm'")]
)
def test_g5_an_unknown_method_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean {near}"):
        merge_method(name)


@pytest.mark.parametrize(
    ("name", "meant"), [("median", "'coordmedian' or 'geomedian'"), ("FedAvg", "'mean'"), ("average", "'mean'")]
)
def test_g5_a_name_that_others_use_for_it_is_not_taken_for_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"did you mean {meant}\? available"):
        merge_method(name)


def test_g5_an_unknown_method_like_no_other_lists_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="'xyz' is not known; available: mean, coordmedian, geomedian"):
        merge_method("xyz")


NAMES = ["mean", "coordmedian", "geomedian", "trimmed_mean", "krum", "multi_krum", "fedavgm"]


def test_g3_g8_the_methods_of_this_release_and_what_they_need() -> None:
    needs = {name: merge_method(name).needs for name in NAMES}
    assert list(BUILT_IN) == NAMES
    assert {name for name, need in needs.items() if need == "distances"} == {"krum", "multi_krum", "geomedian"}
    assert {name for name, need in needs.items() if need == "history"} == {"fedavgm"}


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("mean", {"trim": 1}, "merge method 'mean' has no option 'trim'; it takes: none"),
        ("fedavgm", {"beta": 1}, "has no option 'beta'; it takes: momentum, rate"),
        ("trimmed_mean", {"trim": 500_000}, r"option trim is 0\.5; expected a number from 0 to 0\.499999"),
        ("trimmed_mean", {"trim": -1}, r"option trim is -0\.000001; expected"),
        ("krum", {"faulty": 1_500_000}, r"option faulty is 1\.5; expected a whole number from 0 to 1024"),
        ("krum", {"select": 1_000_000}, "has no option 'select'"),
        ("multi_krum", {"select": 0}, "option select is 0; expected a whole number from 1 to 1024"),
        ("fedavgm", {"momentum": 1_000_000}, r"option momentum is 1; expected a number from 0 to 0\.999999"),
        ("fedavgm", {"rate": 0}, r"option rate is 0; expected a number from 0\.000001 to 10"),
    ],
)
def test_g6_options_that_do_not_fit_are_refused(name: str, options: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        merge_method(name, tuple(options.items()))


def test_g6_options_are_sorted_and_none_is_given_twice() -> None:
    given = (("rate", 2_000_000), ("momentum", 0))
    assert merge_method("fedavgm", given).options == (("momentum", 0), ("rate", 2_000_000))
    with pytest.raises(ConfigurationError, match="option rate is given 2 times"):
        merge_method("fedavgm", (("rate", 1), ("rate", 2)))


def test_g7_settings_are_completed_by_what_follows_from_the_method() -> None:
    given = Settings(sync_frequency=3, merge_method="FedAvgM", merge_options=(("rate", 2), ("momentum", 1)))
    found = complete(given)
    assert (found.merge_method, found.needs, found.method_source) == ("fedavgm", "history", "")
    assert found.merge_options == (("momentum", 1), ("rate", 2))
    check_settings(found)
    assert complete(found) == found
    assert complete(Settings(sync_frequency=3)) == Settings(sync_frequency=3)
    assert complete(Settings(sync_frequency=3, merge_method="krum")).needs == "distances"
    with pytest.raises(ConfigurationError, match="did you mean 'coordmedian'"):
        complete(Settings(sync_frequency=3, merge_method="comedian"))
