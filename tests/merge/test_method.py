"""Which merge methods there are (docs/spec/merging.md, G-1 to G-5)."""

import pytest

from swarmlearning.errors import ConfigurationError
from swarmlearning.merge.method import merge_method


@pytest.mark.parametrize("name", ["mean", "MEAN", "Mean"])
def test_g3_methods_are_found_in_any_case(name: str) -> None:
    method = merge_method(name)
    assert method.name == "mean"
    assert (method.needs, method.options, method.source) == ("", (), "")


@pytest.mark.parametrize(("name", "near"), [("meen", "'mean'"), ("coord_median", "'coordmedian'")])
def test_g5_an_unknown_method_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean {near}"):
        merge_method(name)


def test_g5_an_unknown_method_like_no_other_lists_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="'xyz' is not known; available: mean, coordmedian, geomedian"):
        merge_method("xyz")
