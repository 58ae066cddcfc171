"""Nodes as people name them: by UUID, by `name@domain`, by node id."""

import difflib
import uuid
from collections.abc import Sequence
from typing import Final

from swarmlearning.errors import NotFound
from swarmlearning.reports.status import make_printable
from swarmlearning.types import NodeId, short_name

_MAX_NAMES: Final = 20


def node_uuid(node: NodeId) -> str:
    """The UUID under which a node is listed: that of its id as a URL (RFC 9562, version 5), always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, node))


def find_agent(name: str, agents: Sequence[NodeId]) -> NodeId:
    """The agent (SWOP) that a person means by its node id, `name@domain` or UUID; letter case does not matter.

    Raises:
        NotFound: none of `agents` is called so; the message says which there are.
    """
    wanted = name.strip().lower()  # names of nodes have no capitals
    for node in agents:
        if wanted in (node, short_name(node), node_uuid(node)):
            return node
    raise NotFound(explain_missing("agent (SWOP)", name.strip(), [short_name(node) for node in agents]))


def explain_missing(what: str, name: str, known: Sequence[str]) -> str:
    """That there is nothing of that name, which was probably meant, and which there are."""
    shown = make_printable(name[:200])
    nearest = difflib.get_close_matches(shown, known, n=1)
    meant = f"; did you mean {nearest[0]}? There are" if nearest else "; there are"
    more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
    return f"there is no {what} {shown}{meant}: {', '.join(known[:_MAX_NAMES]) or 'none'}{more}"
