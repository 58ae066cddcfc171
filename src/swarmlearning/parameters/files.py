"""Arrays to and from a file in canonical form, without holding the whole buffer: what is in hand is a block.

Does not: decide where files lie, or who may read them. Spec: docs/spec/parameters.md, P-14, P-15.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Final

import numpy as np

from swarmlearning.errors import DecodeError, ModelMismatch, VerificationError
from swarmlearning.parameters.chunks import Buffer
from swarmlearning.parameters.dtypes import STORED, Array
from swarmlearning.parameters.manifest import (
    Manifest,
    Tensor,
    as_native,
    as_stored,
    describe_difference,
    find_nonfinite,
    lay_out,
)

_BLOCK_BYTES: Final = 256 << 10
"""Looked at and written, or read and hashed, in one go: it stays in a core's caches."""


def write_file(manifest: Manifest, arrays: Mapping[str, Array], descriptor: int) -> str | None:
    """Write `arrays` in canonical form; padding is left as it is.

    Args:
        manifest: of exactly these arrays.
        arrays: by name; any byte order and strides.
        descriptor: of a file of `manifest.size` bytes whose padding is zero.

    Returns:
        The name of the first tensor that holds NaN or infinity, from which on nothing was written; None: all is well.

    Raises:
        ModelMismatch: the arrays are others than the manifest's.
        ConfigurationError: the arrays cannot be laid out at all.
        OSError: the file cannot be written.
    """
    found = lay_out(arrays)
    if found != manifest:
        raise ModelMismatch(f"the model has changed since it was announced: {describe_difference(found, manifest)}")
    for tensor in manifest.tensors:
        data = _stored_bytes(tensor, arrays[tensor.name])
        for at in range(0, len(data), _BLOCK_BYTES):
            block = data[at : at + _BLOCK_BYTES]
            bad = find_nonfinite(manifest, block, offset=tensor.offset + at)
            if bad is not None:
                return bad
            write_at(descriptor, block, tensor.offset + at)
    return None


def read_file(manifest: Manifest, descriptor: int, expected: bytes | None) -> dict[str, Array]:
    """Read a canonical file as fresh arrays, in native byte order and C order.

    Args:
        manifest: validated.
        descriptor: of a file.
        expected: SHA-256 of its bytes, 32 bytes; None: it is not checked.

    Raises:
        DecodeError: the file ends before the manifest does.
        VerificationError: its SHA-256 is another one; the message has both, shortened.
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    arrays: dict[str, Array] = {}
    end = 0
    for tensor in manifest.tensors:
        digest.update(_read(descriptor, bytearray(tensor.offset - end), end))
        end = tensor.offset + tensor.bytes
        stored = np.empty(tensor.shape, STORED[tensor.dtype])
        whole = memoryview(stored.reshape(-1).view(np.uint8).data)
        for at in range(0, tensor.bytes, _BLOCK_BYTES):
            block = whole[at : at + _BLOCK_BYTES]
            _read(descriptor, block, tensor.offset + at)
            if expected is not None:
                digest.update(block)
        arrays[tensor.name] = as_native(tensor.dtype, stored, copy=False)
    digest.update(_read(descriptor, bytearray(manifest.size - end), end))
    if expected is not None and not hmac.compare_digest(digest.digest(), expected):
        raise VerificationError(f"SHA-256 {digest.hexdigest()[:16]}…, expected {expected.hex()[:16]}…")
    return arrays


def _stored_bytes(tensor: Tensor, array: Array) -> memoryview:
    """The tensor's elements as they are stored: where they stand, if they stand so, else a copy of this tensor."""
    flat = np.ascontiguousarray(as_stored(array), STORED[tensor.dtype]).reshape(-1)
    return memoryview(flat.view(np.uint8).data)


def _read(descriptor: int, into: bytearray | memoryview, offset: int) -> bytearray | memoryview:
    got = read_at(descriptor, memoryview(into), offset)
    if got < len(into):
        raise DecodeError(f"the file ends at byte {offset + got}, within the model")
    return into


def write_at(descriptor: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at a place of a file.

    Raises:
        OSError: the disk is full or damaged.
    """
    rest = memoryview(data)
    while len(rest):
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def read_at(descriptor: int, into: memoryview, offset: int) -> int:
    """Fill `into` from a place of a file; returns how many bytes it had, fewer where the file ends.

    Raises:
        OSError: the disk is damaged.
    """
    filled = 0
    while filled < len(into):
        if hasattr(os, "preadv"):
            got = os.preadv(descriptor, [into[filled:]], offset + filled)
        else:
            data = os.pread(descriptor, len(into) - filled, offset + filled)
            got = len(data)
            into[filled : filled + got] = data
        if not got:
            break
        filled += got
    return filled
