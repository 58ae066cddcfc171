"""What an agent's containers and volumes are called, and the labels by which it finds its own and no others.

Spec: docs/spec/swop-containers.md, SW-71.
"""

import re
from collections.abc import Mapping
from typing import Final

from swarmlearning.encoding import sha256
from swarmlearning.swop.managers.boundary import Pair, Part
from swarmlearning.types import NodeId

PREFIX: Final = "swarmlearning."
"""Labels of ours begin so; a profile cannot set such ones."""

AGENT: Final = PREFIX + "agent"
PAIR: Final = PREFIX + "pair"
PART: Final = PREFIX + "part"
RUNNER: Final = PREFIX + "runner"
TASK: Final = PREFIX + "task"
GROUP: Final = PREFIX + "group"
VOLUME: Final = PREFIX + "volume"
"""Of a volume: what it is for, one of `CHANNEL`, `SL_DATA`, `CONTENT`."""
CONTENT_NAME: Final = PREFIX + "content"
"""Of a volume with content: the name by which tasks know it."""
IDENTITY: Final = PREFIX + "identity"
"""Of a volume with an SL's data: whose."""

CHANNEL: Final = "channel"
SL_DATA: Final = "sl-data"
CONTENT: Final = "content"

_LETTERS: Final = {Part.SL: "s", Part.ML: "u"}  # `u` for user, as the product has it


def container_name(agent: NodeId, pair: Pair, part: Part) -> str:
    """`<group>-<task>-s-<idx>-<hex>` of an SL, `-u-` of a program; always the same for a pair."""
    task = pair.label.split(" ")[-1]
    stem = _clean(f"{pair.group}-{task}")[:80]
    return f"{stem}-{_LETTERS[part]}-{pair.node.idx}-{_digest(agent, pair.id)[:8]}"


def channel_name(agent: NodeId, pair_id: str) -> str:
    """The volume through which a pair's halves meet."""
    return f"swop-{_digest(agent, pair_id)[:16]}-channel"


def data_name(agent: NodeId, uid: NodeId) -> str:
    """The volume with what an SL keeps from training to training, its signing key among it."""
    return f"swop-{_digest(agent, uid)[:16]}-sl"


def content_name(agent: NodeId, name: str) -> str:
    """The volume that this agent filled as `name`; another agent on this host has its own."""
    return f"swop-{_digest(agent, name)[:16]}-{_clean(name)[:80]}"


def pair_labels(agent: NodeId, pair: Pair, part: Part) -> dict[str, str]:
    """All labels of a container: the profile's, and ours, which count before them."""
    given = pair.node.sl_labels if part is Part.SL else pair.node.program_labels
    words = pair.label.split(" ")
    ours = {
        AGENT: agent,
        PAIR: pair.id,
        PART: part.value,
        RUNNER: words[0],
        TASK: words[-1],
        GROUP: pair.group,
    }
    return {name: value for name, value in given if not name.startswith(PREFIX)} | ours


def filters(labels: Mapping[str, str]) -> dict[str, list[str]]:
    """How an engine is asked for what has all these labels; what it answers is checked by `has_labels`."""
    return {"label": [f"{name}={value}" for name, value in labels.items()]}


def has_labels(item: Mapping[str, object], labels: Mapping[str, str]) -> bool:
    """Whether what an engine listed has these labels: Podman lists volumes that have any of them."""
    found = item.get("Labels")
    return isinstance(found, Mapping) and all(found.get(name) == value for name, value in labels.items())


def _clean(text: str) -> str:
    """`text` as it may stand in a name: engines take letters, digits, `_`, `.` and `-`, and no other ones first."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip("_.-") or "swop"


def _digest(agent: NodeId, what: str) -> str:
    return sha256(f"{agent}\n{what}".encode()).hex()
