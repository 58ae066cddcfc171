"""What one peer has trained, carried over to a newer model: newest + (own - base), element by element.

For a peer that missed rounds: it trained from `base`, the swarm is at `newest` meanwhile, and `own - base` has not been
merged yet. The same rules as for merging: + and - only, in the written order, in float64, rounded once.

Does not: fetch, verify or commit (`sl`). Spec: docs/spec/merging.md, G-40 to G-46.
"""

from typing import Final

import numpy as np

from swarmlearning.errors import Broken
from swarmlearning.parameters.dtypes import STORED, Array
from swarmlearning.parameters.manifest import Manifest, Tensor
from swarmlearning.parameters.rounding import narrow, widen

_STEP: Final = 16384
"""Elements at a time: nothing of the model's size is held in float64."""


def rebase_model(
    manifest: Manifest, newest: memoryview, own: memoryview, base: memoryview, into: memoryview
) -> memoryview:
    """Write newest + (own - base) in canonical form; returns `into`.

    Args:
        manifest: validated, of all four buffers.
        newest: the newest merged model.
        own: what was trained from `base`.
        base: the merged model that the training of `own` started from.
        into: writable; none of the others.

    Raises:
        Broken: a buffer has another size than the manifest says, or `into` is read-only.
    """
    buffers = [buffer.cast("B") for buffer in (newest, own, base, into)]
    sizes = {buffer.nbytes for buffer in buffers}
    if sizes != {manifest.size} or buffers[3].readonly:
        raise Broken(f"buffers of {sorted(sizes)} bytes; expected {manifest.size} each, and the last one writable")
    target = buffers[3]
    end = 0
    for tensor in manifest.tensors:
        target[end : tensor.offset] = bytes(tensor.offset - end)
        end = tensor.offset + tensor.bytes
        _rebase_tensor(tensor, buffers)
    target[end:] = bytes(manifest.size - end)
    return into


def _rebase_tensor(tensor: Tensor, buffers: list[memoryview]) -> None:
    stored = STORED[tensor.dtype]
    count = tensor.bytes // stored.itemsize
    for at in range(0, count, _STEP):
        length = min(_STEP, count - at)
        offset = tensor.offset + at * stored.itemsize
        newest, own, base, into = (np.frombuffer(buffer, stored, length, offset) for buffer in buffers)
        if tensor.dtype == "bool":
            np.not_equal(newest, 0, out=into, casting="unsafe")
        elif stored.kind != "f" and tensor.dtype != "bfloat16":
            into[...] = newest
        else:
            into[...] = _rebase_floats(tensor.dtype, newest, own, base)


def _rebase_floats(dtype: str, newest: Array, own: Array, base: Array) -> Array:
    """The elements as they are stored."""
    with np.errstate(all="ignore"):  # what overflows is put right below
        moved = narrow(dtype, widen(dtype, newest) + (widen(dtype, own) - widen(dtype, base)))
    finite = np.isfinite(widen(dtype, moved))
    # Exactly, where nothing has moved: newest + (own - newest) need not be own. By bits, since zero has two signs.
    bits = np.dtype(f"<u{newest.dtype.itemsize}")
    still = newest.view(bits) == base.view(bits)
    untrained = own.view(bits) == base.view(bits)
    result: Array = np.where(still, own, np.where(untrained | ~finite, newest, moved))
    return result
