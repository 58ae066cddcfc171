"""A slice of many cases in `make test`, all of them in `make test-all`."""

from collections.abc import Sequence
from typing import Any

import pytest


def wide(values: Sequence[Any], keep: Sequence[int] = (0,)) -> list[Any]:
    """Parameters of which only those at the positions `keep` are not slow."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=() if at in keep else pytest.mark.slow)
        for at, value in enumerate(values)
    ]
