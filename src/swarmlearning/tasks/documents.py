"""One YAML document as a record, or as all that is wrong in it. Spec: docs/spec/swci-tasks.md, CI-50."""

from collections.abc import Callable
from typing import TypeVar

import yaml

from swarmlearning.tasks.faults import Fault, Faulty, Stopped
from swarmlearning.tasks.trees import compose

Read = TypeVar("Read")


def read_document(
    data: bytes,
    source: str,
    read: Callable[[yaml.Node, list[Fault]], Read | None],
    *,
    empty: str,
    path: str = "",
    repeats: bool = False,
) -> Read | Faulty:
    """What `read` makes of a document's tree, unless it or the tree has faults, to which `read` adds its own.

    Args:
        data: the document.
        source: what people call it.
        read: gives None only if it has added a fault.
        empty: the fault of a document in which there is nothing.
        path: what fields are called that are not in any other.
        repeats: whether a key may be given twice with the same value.
    """
    try:
        root, faults = compose(data, path, repeats=repeats)
        if root is None:
            return Faulty(source=source, faults=(Fault(line=1, field=path, text=empty),))
        found = read(root, faults)
    except Stopped as stop:
        return Faulty(source=source, faults=(stop.fault,))
    if found is None or faults:
        return Faulty(source=source, faults=tuple(sorted(faults, key=lambda fault: fault.line)))
    return found
