"""Room that kernels work in, kept from chunk to chunk.

Asking for it anew would cost more than the work: pages come from the system one by one, and go back at once.
"""

import threading
from typing import Any

import numpy as np

from swarmlearning.parameters.dtypes import Array


class _Kept(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, Array] = {}


_kept = _Kept()


def scratch(user: str, rows: int, length: int, kind: np.dtype[Any]) -> Array:
    """Room for `rows` x `length` elements, of any content; this thread's, until `user` asks for room again.

    Args:
        user: the kernel that asks; two that work at the same time must have two names.
        rows: how many arrays.
        length: of each.
        kind: their type.
    """
    needed = rows * length * kind.itemsize
    found = _kept.buffers.get(user)
    if found is None or found.nbytes < needed:
        found = _kept.buffers[user] = np.empty(needed, np.uint8)
    room: Array = found[:needed].view(kind).reshape(rows, length)
    return room
