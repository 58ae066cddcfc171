"""The manifest: which tensors a model has, where each stands in the canonical buffer, and arrays in and out of it.

Does not: hash (`parameters.chunks`), merge (`merge`), know a framework. Spec: docs/spec/parameters.md, P-1 to P-15.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import Broken, ConfigurationError, DecodeError, ModelMismatch, SwarmError
from swarmlearning.parameters.blocks import INT8X60, are_blocks_finite
from swarmlearning.parameters.dtypes import BFLOAT16, EXPONENT_BITS, STORED, Array, is_supported

ALIGNMENT: Final = 64
"""Every tensor begins at, and the buffer's size is, a multiple of this many bytes: a chunk never splits an element."""

MAX_TENSORS: Final = 100_000
"""Most tensors of a model."""

MAX_NAME_BYTES: Final = 512
"""Longest name of a tensor, bytes of UTF-8."""

MAX_RANK: Final = 32
"""Most dimensions of a tensor."""

MAX_SIZE: Final = 1 << 40
"""Largest canonical buffer, bytes."""

MAX_MANIFEST_BYTES: Final = 16 << 20
"""Largest encoded manifest, bytes."""

_BLOCK_BYTES: Final = 1 << 18
"""How much is looked at in one step, so that nothing of the model's size is allocated and a step stays in cache."""

# Control characters, line separators, marks that turn the direction of text, and surrogates: a name is printed in
# errors and tables, and must not be able to forge them. A fixed list, because Unicode's categories change.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Tensor(Record, frozen=True, kw_only=True):
    """One tensor: what it is and where its elements stand."""

    name: str
    dtype: str
    """numpy's name of the type, or `bfloat16`."""
    shape: tuple[int, ...]
    offset: int
    """Of the first byte, in the canonical buffer; a multiple of 64."""
    bytes: int
    """Length without padding."""

    @property
    def kind(self) -> str:
        """Type and shape, for people: `float32 (3, 4)`."""
        return f"{self.dtype} {self.shape}"


class Manifest(Record, frozen=True, kw_only=True):
    """A model's tensors, sorted by name, and the size of their canonical buffer."""

    tensors: tuple[Tensor, ...]
    size: int
    """Length of the canonical buffer in bytes, padding included."""

    @property
    def hash(self) -> bytes:
        """SHA-256 of the encoded manifest, 32 bytes; computed anew each time."""
        return sha256(encode(self))


def lay_out(arrays: Mapping[str, Array]) -> Manifest:
    """Place `arrays` in one canonical buffer.

    Args:
        arrays: by name; any byte order and strides.

    Raises:
        ConfigurationError: a value is not an array, its type is not supported, a name or shape is out of bounds, or
            there are too many tensors or bytes.
    """
    if len(arrays) > MAX_TENSORS:
        raise ConfigurationError(f"the model has {len(arrays)} tensors; at most {MAX_TENSORS} are supported")
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"tensor name {name!r}: expected text, got {type(name).__name__}")
        if not isinstance(array, np.ndarray | np.generic):
            raise ConfigurationError(f"tensor {_shown(name)}: expected a numpy array, got {type(array).__name__}")
        if not is_supported(array.dtype):
            known = ", ".join(STORED)
            raise ConfigurationError(f"tensor {_shown(name)} has the type {array.dtype}; supported: {known}")
    tensors: list[Tensor] = []
    cursor = 0
    for name in sorted(arrays):
        array = arrays[name]
        tensors.append(_place(name, array.dtype.name, array.shape, cursor, ConfigurationError))
        cursor = aligned(cursor + tensors[-1].bytes)
    manifest = Manifest(tensors=tuple(tensors), size=cursor)
    encoded = len(encode(manifest))
    if encoded > MAX_MANIFEST_BYTES:
        raise ConfigurationError(f"names and shapes of the model take {encoded} bytes; at most {MAX_MANIFEST_BYTES}")
    return manifest


def validate_manifest(manifest: Manifest) -> None:
    """Check that a manifest from outside is exactly what `lay_out` would have made.

    Raises:
        DecodeError: names are unsorted, repeated or out of bounds, a type is unknown, or an offset, length or the
            size is another than the layout gives.
    """
    if len(manifest.tensors) > MAX_TENSORS:
        raise DecodeError(f"manifest of {len(manifest.tensors)} tensors; at most {MAX_TENSORS} are accepted")
    cursor = 0
    last: str | None = None
    for tensor in manifest.tensors:
        expected = _place(tensor.name, tensor.dtype, tensor.shape, cursor, DecodeError)
        if last is not None and tensor.name <= last:
            raise DecodeError(f"manifest: tensor {_shown(tensor.name)} after {_shown(last)}; names must rise")
        if tensor != expected:
            raise DecodeError(
                f"manifest: tensor {_shown(tensor.name)} of {tensor.bytes} bytes at {tensor.offset}; "
                f"the layout gives {expected.bytes} bytes at {expected.offset}"
            )
        last = tensor.name
        cursor = aligned(cursor + tensor.bytes)
    if manifest.size != cursor:
        raise DecodeError(f"manifest: size {manifest.size}; the layout gives {cursor}")


def decode_manifest(data: bytes | bytearray | memoryview) -> Manifest:
    """Decode and validate a manifest that came from outside.

    Raises:
        DecodeError: not an encoded manifest, too large, or not exactly what `lay_out` would have made.
    """
    manifest = decode(data, Manifest, limit=MAX_MANIFEST_BYTES)
    validate_manifest(manifest)
    return manifest


def describe_difference(mine: Manifest, theirs: Manifest) -> str:
    """Name the first tensor, by name, in which two manifests differ, with both sides; for people."""
    here = {tensor.name: tensor for tensor in mine.tensors}
    there = {tensor.name: tensor for tensor in theirs.tensors}
    for name in sorted(here.keys() | there.keys()):
        own, other = here.get(name), there.get(name)
        if own is None and other is not None:
            return f"tensor {_shown(name)} is missing here; the other side has it as {other.kind}"
        if own is not None and other is None:
            return f"tensor {_shown(name)} ({own.kind} here) is missing on the other side"
        if own is not None and other is not None and own.kind != other.kind:
            return f"tensor {_shown(name)} is {own.kind} here and {other.kind} on the other side"
    return "the tensors are the same" if mine == theirs else "the tensors are the same, but not their layout"


def tensors_between(manifest: Manifest, start: int, stop: int) -> Iterator[tuple[Tensor, int, int]]:
    """The tensors with bytes in `[start, stop)` of the buffer, each with the part of that range that is its own."""
    tensors = manifest.tensors
    position = max(bisect_right(tensors, start, key=lambda tensor: tensor.offset) - 1, 0)
    # Empty tensors share the offset of the next one, which comes after them: none with bytes is skipped.
    while position < len(tensors) and tensors[position].offset < stop:
        tensor = tensors[position]
        low, high = max(tensor.offset, start), min(tensor.offset + tensor.bytes, stop)
        if low < high:
            yield tensor, low, high
        position += 1


def write_arrays(manifest: Manifest, arrays: Mapping[str, Array], buffer: memoryview) -> None:
    """Write `arrays` into `buffer` in canonical form; padding becomes zero.

    Args:
        manifest: of exactly these arrays.
        arrays: by name; any byte order and strides.
        buffer: writable, `manifest.size` bytes.

    Raises:
        ModelMismatch: the arrays are others than the manifest's.
        ConfigurationError: the arrays cannot be laid out at all.
        Broken: the buffer has another size or is read-only.
    """
    found = lay_out(arrays)
    if found != manifest:
        raise ModelMismatch(f"the model has changed since it was announced: {describe_difference(found, manifest)}")
    target = buffer.cast("B")
    if target.nbytes != manifest.size or target.readonly:
        access = "read-only" if target.readonly else "writable"
        raise Broken(f"{access} buffer of {target.nbytes} bytes; expected a writable one of {manifest.size}")
    end = 0
    for tensor in manifest.tensors:
        target[end : tensor.offset] = bytes(tensor.offset - end)
        end = tensor.offset + tensor.bytes
        np.copyto(_view(tensor, target), as_stored(arrays[tensor.name]), casting="equiv")
    target[end:] = bytes(manifest.size - end)


def read_arrays(manifest: Manifest, buffer: memoryview) -> dict[str, Array]:
    """Copy the tensors out of a canonical buffer, in native byte order and C order.

    Args:
        manifest: validated.
        buffer: `manifest.size` bytes; may be closed or overwritten afterwards.

    Raises:
        DecodeError: the buffer has another size.
    """
    source = buffer.cast("B")
    if source.nbytes != manifest.size:
        raise DecodeError(f"buffer of {source.nbytes} bytes; the manifest says {manifest.size}")
    return {t.name: as_native(t.dtype, _view(t, source), copy=True) for t in manifest.tensors}


def as_stored(array: Array) -> Array:
    """The same elements under a type that numpy stores them by, not copied: bfloat16 by its bits, bool as a byte."""
    given = np.asarray(array)
    if given.dtype == BFLOAT16:
        return given.view(np.uint16)
    return given.view(np.uint8) if given.dtype == np.bool_ else given


def as_native(dtype: str, stored: Array, *, copy: bool) -> Array:
    """Elements as numpy wants them, in native byte order and C order.

    Args:
        dtype: of the tensor.
        stored: its elements as they stand in the canonical buffer.
        copy: whether the result may not share memory with `stored`.
    """
    match dtype:
        case "bool":
            return np.asarray(stored != 0)  # a byte other than 0 and 1 must not become a numpy bool
        case "bfloat16":
            return stored.astype(np.uint16, order="C", copy=copy).view(BFLOAT16)
        case _:
            return stored.astype(stored.dtype.newbyteorder("="), order="C", copy=copy)


def find_nonfinite(manifest: Manifest, buffer: memoryview, *, offset: int = 0) -> str | None:
    """Name the first tensor that holds NaN or infinity, or None; of encoded blocks, a scale that is none (P-47).

    Args:
        manifest: validated, or a wire manifest.
        buffer: the canonical buffer, or a part of it that begins at a multiple of 64 bytes, such as a chunk.
        offset: where in the canonical buffer `buffer` begins, bytes.
    """
    view = buffer.cast("B")
    for tensor, low, high in tensors_between(manifest, offset, offset + view.nbytes):
        if tensor.dtype == INT8X60 and not are_blocks_finite(view[low - offset : high - offset]):
            return tensor.name
        exponent = EXPONENT_BITS.get(tensor.dtype)
        if exponent is None:
            continue
        unsigned, mask = exponent
        for at in range(low - offset, high - offset, _BLOCK_BYTES):
            count = min(_BLOCK_BYTES, high - offset - at) // unsigned.itemsize
            bits = np.frombuffer(view, unsigned, count, at)
            if bool(np.any(np.equal(np.bitwise_and(bits, unsigned.type(mask)), unsigned.type(mask)))):
                return tensor.name
    return None


def _place(name: str, dtype: str, shape: tuple[int, ...], offset: int, error: type[SwarmError]) -> Tensor:
    """The tensor at `offset`; `error` says whose fault it is that there can be none."""
    if _FORBIDDEN.search(name):
        raise error(f"tensor name {_shown(name)}: control characters are not allowed")
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise error(f"tensor name {_shown(name)}: expected 1-{MAX_NAME_BYTES} bytes, got {len(name.encode())}")
    if dtype not in STORED:
        raise error(f"tensor {_shown(name)} has the type {dtype[:40]!r}; supported: {', '.join(STORED)}")
    if len(shape) > MAX_RANK:
        raise error(f"tensor {_shown(name)} has {len(shape)} dimensions; at most {MAX_RANK} are supported")
    # An empty tensor's other dimensions count too: numpy refuses shapes whose product overflows, zero or not.
    if any(n < 0 for n in shape) or math.prod(max(n, 1) for n in shape) * STORED[dtype].itemsize > MAX_SIZE - offset:
        raise error(f"tensor {_shown(name)} with shape {shape} does not fit in a model of {MAX_SIZE} bytes")
    length = math.prod(shape) * STORED[dtype].itemsize
    return Tensor(name=name, dtype=dtype, shape=tuple(shape), offset=offset, bytes=length)


def aligned(offset: int) -> int:
    """The next multiple of 64 from `offset` on."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _shown(name: str) -> str:
    """A name for people: escaped, and cut if it is long."""
    return ascii(name if len(name) <= 120 else name[:117] + "...") if _FORBIDDEN.search(name) else repr(name[:120])


def _view(tensor: Tensor, buffer: memoryview) -> Array:
    """The tensor's elements where they stand."""
    stored = STORED[tensor.dtype]
    if not tensor.bytes:
        return np.empty(tensor.shape, stored)  # a view of no bytes cannot be had of an empty buffer
    return np.frombuffer(buffer, stored, tensor.bytes // stored.itemsize, tensor.offset).reshape(tensor.shape)
