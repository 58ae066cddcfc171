"""How people name nodes: UUID, `name@domain`, node id."""

import uuid

import pytest

from swarmlearning.errors import NotFound
from swarmlearning.reports.nodes import find_agent, node_uuid
from swarmlearning.types import NodeId

FIRST = NodeId("spiffe://a.example/heart/swop/swop1")
SECOND = NodeId("spiffe://b.example/heart/swop/swop1")


def test_a_uuid_is_the_version_5_of_the_node_id_as_a_url() -> None:
    assert node_uuid(FIRST) == "e8c5b808-544e-5eb1-864b-31763d3e4cf1"
    assert node_uuid(FIRST) == str(uuid.uuid5(uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8"), FIRST))
    assert node_uuid(FIRST) != node_uuid(SECOND)


@pytest.mark.parametrize("name", [SECOND, "swop1@b.example", node_uuid(SECOND), node_uuid(SECOND).upper()])
def test_an_agent_is_found_by_each_of_its_names(name: str) -> None:
    assert find_agent(name, [FIRST, SECOND]) == SECOND


def test_an_agent_that_is_not_there_is_told_with_the_nearest_and_all() -> None:
    with pytest.raises(NotFound, match=r"did you mean swop1@b\.example\? There are: swop1@a\.example, swop1"):
        find_agent("swop@b.example", [FIRST, SECOND])
    with pytest.raises(NotFound, match="there are: none"):
        find_agent("x", [])


def test_a_name_steers_no_terminal() -> None:
    with pytest.raises(NotFound) as raised:
        find_agent("\x1b[2J", [FIRST])
    assert "\x1b" not in str(raised.value)
