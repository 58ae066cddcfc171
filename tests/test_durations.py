"""Durations as people write them."""

import pytest

from swarmlearning.clock import parse_duration
from swarmlearning.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "seconds"), [("7200", 7200), ("120s", 120), ("90m", 5400), ("2h", 7200), ("0.5h", 1800)]
)
def test_a_duration_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2d", "-1", "0", "inf", "nan", "two hours"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected seconds, or a number with s, m or h such as 2h"):
        parse_duration(text)
