"""The made-up model: every site computes the same, on its own, and a merge that is wrong anywhere shows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.callbacks.exchange import model_hash
from swarmlearning.merge.mean import Mean
from swarmlearning.parameters.dtypes import Array
from swarmlearning.rehearsal.model import MEGABYTE, content, differing, merged
from swarmlearning.types import NodeId

REHEARSAL = bytes(range(32))
NODES = [NodeId(f"spiffe://{letter}.example/n/sl/sl") for letter in "abcd"]


def kernel_merge(nodes: list[NodeId], weights: dict[NodeId, int], step: int) -> dict[str, Array]:
    """The same by the code that SLs merge with."""
    offered = [content(REHEARSAL, node, step, 1) for node in sorted(nodes)]
    out: dict[str, Array] = {}
    for name, first in offered[0].items():
        flat = np.empty(first.size, first.dtype)
        Mean().merge_block([values[name].reshape(-1) for values in offered], [weights[n] for n in sorted(nodes)], flat)
        out[name] = flat.reshape(first.shape)
    return out


@given(st.dictionaries(st.sampled_from(NODES), st.integers(1, 50), min_size=1), st.integers(0, 4))
def test_what_a_site_computes_is_what_sls_merge_to_the_last_bit(weights: dict[NodeId, int], step: int) -> None:
    """G-10, G-13 and G-20, written twice."""
    nodes = list(weights)
    alone = merged(REHEARSAL, nodes[::-1], weights, step, 1)
    assert differing(kernel_merge(nodes, weights, step), alone) == 0


def test_a_model_is_the_same_on_every_machine_and_with_every_numpy() -> None:
    """Its hash was computed once; a site that gets another one would call every network not ready."""
    offered = content(REHEARSAL, NODES[0], 3, 1)
    assert model_hash(offered) == GOLDEN
    assert offered["kernel"].min() >= -0.5
    assert offered["kernel"].max() < 0.5
    assert abs(float(offered["kernel"].mean(dtype=np.float64))) < 0.01


GOLDEN = "47446146bac5ad64743306fb1b59ee6884dc874f90206b11169b20da8f933291"


def test_a_model_has_the_size_that_was_asked_for() -> None:
    for megabytes in (1, 3):
        offered = content(REHEARSAL, NODES[0], 0, megabytes)
        assert sum(values.nbytes for name, values in offered.items() if name != "count") == megabytes * MEGABYTE


def test_a_model_is_another_one_for_each_rehearsal_site_and_step() -> None:
    hashes = {
        model_hash(content(rehearsal, node, step, 1))
        for rehearsal in (REHEARSAL, bytes(32))
        for node in NODES
        for step in (0, 1)
    }
    assert len(hashes) == 16


WEIGHTS = {node: rank + 1 for rank, node in enumerate(NODES)}


@pytest.mark.parametrize(
    ("nodes", "weights", "step"),
    [
        (NODES[:3], WEIGHTS, 0),
        (NODES, dict.fromkeys(NODES, 1), 0),
        (NODES, dict(zip(NODES, (1, 2, 4, 3), strict=True)), 0),
        (NODES, WEIGHTS, 1),
    ],
    ids=["one forgotten", "weights forgotten", "weights exchanged", "what was offered before"],
)
def test_a_wrong_merge_differs_in_nearly_every_number(
    nodes: list[NodeId], weights: dict[NodeId, int], step: int
) -> None:
    right = merged(REHEARSAL, NODES, WEIGHTS, 0, 1)
    wrong = merged(REHEARSAL, nodes, weights, step, 1)
    assert differing(wrong, right) > 240_000


def test_a_single_wrong_bit_is_counted() -> None:
    right = merged(REHEARSAL, NODES, WEIGHTS, 0, 1)
    wrong = {name: values.copy() for name, values in right.items()}
    wrong["bias"][7] = np.nextafter(wrong["bias"][7], np.float32(1))
    wrong["kernel"][1, 1] = -0.0
    right["kernel"][1, 1] = 0.0
    assert differing(wrong, right) == 2
    wrong["count"] += 1
    assert differing(wrong, right) == 3


def test_other_tensors_are_not_compared_by_number() -> None:
    right = merged(REHEARSAL, NODES, WEIGHTS, 0, 1)
    assert differing({"bias": right["bias"]}, right) == -1
    assert differing(right | {"bias": right["bias"][:-1]}, right) == -1
