"""Nodes for people and programs: the UUID by which the product we re-create names them."""

import uuid

from swarmlearning.types import NodeId


def node_uuid(node: NodeId) -> str:
    """The UUID of a node: version 5 of its id, so that everybody shows the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, node))
