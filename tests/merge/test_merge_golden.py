"""The bits that every method makes, for ever and on every machine: G-2, G-30. Made by make_merge_golden.py."""

import json
from typing import Any

import pytest
from make_merge_golden import GOLDEN, vectors

from swarmlearning.merge.method import BUILT_IN
from swarmlearning.parameters.dtypes import STORED


def load() -> Any:
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("shards", [1, 3])
def test_g2_g30_every_method_makes_the_same_bits_in_any_number_of_shards(shards: int) -> None:
    assert vectors(shards) == load()


def test_g2_the_vectors_show_every_method_and_type() -> None:
    results = load()["results"]
    assert {key.split()[0] for key in results} == set(BUILT_IN)
    assert all(set(result) == {"weights", *STORED} for result in results.values())
    # And they tell the methods apart.
    floats = {result["float32"][0] for key, result in results.items() if key.endswith("unequal")}
    assert len(floats) == len(BUILT_IN)
