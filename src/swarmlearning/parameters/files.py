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
from swarmlearning.parameters.dtypes import BFLOAT16, STORED, Array
from swarmlearning.parameters.manifest import Manifest, Tensor, describe_difference, find_nonfinite, lay_out

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
        data = _stored_bytes(tensor, np.asarray(arrays[tensor.name]))
        for at in range(0, len(data), _BLOCK_BYTES):
            block = data[at : at + _BLOCK_BYTES]
            bad = find_nonfinite(manifest, block, offset=tensor.offset + at)
            if bad is not None:
                return bad
            _write(descriptor, block, tensor.offset + at)
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
        arrays[tensor.name] = _native(tensor, stored)
    digest.update(_read(descriptor, bytearray(manifest.size - end), end))
    if expected is not None and not hmac.compare_digest(digest.digest(), expected):
        raise VerificationError(f"SHA-256 {digest.hexdigest()[:16]}…, expected {expected.hex()[:16]}…")
    return arrays


def _stored_bytes(tensor: Tensor, array: Array) -> memoryview:
    """The tensor's elements as they are stored: where they stand, if they stand so, else a copy of this tensor."""
    if array.dtype == BFLOAT16:
        array = array.view(np.uint16)
    elif array.dtype == np.bool_:
        array = array.view(np.uint8)
    flat = np.ascontiguousarray(array, STORED[tensor.dtype]).reshape(-1)
    return memoryview(flat.view(np.uint8).data)


def _native(tensor: Tensor, stored: Array) -> Array:
    match tensor.dtype:
        case "bool":
            return np.asarray(stored != 0)  # a byte other than 0 and 1 must not become a numpy bool
        case "bfloat16":
            return stored.astype(np.uint16, copy=False).view(BFLOAT16)
        case _:
            return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _read(descriptor: int, into: bytearray | memoryview, offset: int) -> bytearray | memoryview:
    rest = memoryview(into)
    while rest:
        received = os.preadv(descriptor, [rest], offset)
        if not received:
            raise DecodeError(f"the file ends at byte {offset}, within the model")
        rest, offset = rest[received:], offset + received
    return into
