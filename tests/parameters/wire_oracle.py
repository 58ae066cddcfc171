"""What encoding a difference means, in Python's own numbers (docs/spec/parameters.md, P-43 to P-49)."""

import math
import struct
from collections.abc import Callable

import numpy as np

from swarmlearning.parameters.dtypes import BFLOAT16, Array
from swarmlearning.parameters.manifest import Manifest, Tensor
from swarmlearning.parameters.wire import apply_difference, encode_difference, reader

F32_MOST = struct.unpack("<f", bytes.fromhex("ffff7f7f"))[0]
MOST = {"bfloat16": 2.0**127 * (2 - 2.0**-7), "float16": 65504.0, "int8x60": 127 * 2.0**120}


def to_float32(value: float) -> float:
    """Rounded once; what is beyond becomes infinite."""
    try:
        found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return found


def to_float16(value: float) -> float:
    try:
        found: float = struct.unpack("<e", struct.pack("<e", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return found


def to_bfloat16(value: float) -> float:
    """By exact arithmetic: the nearest multiple of the last place, ties to even."""
    if value == 0 or math.isinf(value):
        return value
    exponent = max(math.frexp(value)[1] - 8, -133)
    place = math.ldexp(1.0, exponent)
    rounded = round(value / place) * place  # a power of two: exact; Python rounds ties to even
    return rounded if abs(rounded) <= MOST["bfloat16"] else math.copysign(math.inf, value)


ROUND: dict[str, Callable[[float], float]] = {
    "bfloat16": to_bfloat16,
    "float16": to_float16,
    "float32": to_float32,
    "float64": float,
}


def encode_block(values: list[float]) -> tuple[float, list[int]]:
    """P-46: scale and elements of up to 60 values."""
    cut = [to_float32(min(max(to_float32(value), -MOST["int8x60"]), MOST["int8x60"])) for value in values]
    scale = to_float32(max(abs(value) for value in cut) / 127)
    if scale < 2.0**-126:
        return 0.0, [0] * len(values)
    return scale, [round(to_float32(value / scale)) for value in cut]


def sent_and_decoded(kind: str, values: list[float]) -> tuple[bytes, list[float]]:
    """The bytes of a tensor on the wire, without padding, and what they decode to."""
    if kind == "int8x60":
        data, decoded = b"", []
        for at in range(0, len(values), 60):
            scale, elements = encode_block(values[at : at + 60])
            data += struct.pack("<f60b", scale, *elements, *[0] * (60 - len(elements)))
            decoded += [to_float32(element * scale) for element in elements]
        return data, decoded
    rounded = [ROUND[kind](min(max(value, -MOST[kind]), MOST[kind])) for value in values]
    if kind == "float16":
        return b"".join(struct.pack("<e", value) for value in rounded), rounded
    return b"".join(struct.pack("<f", value)[2:] for value in rounded), rounded


def encode_tensor(kind: str, own: list[float], base: list[float], left: list[float]) -> tuple[bytes, list[float]]:
    """P-43, P-44: what travels, and the residual."""
    moved = [(o - b) + r for o, b, r in zip(own, base, left, strict=True)]
    data, decoded = sent_and_decoded(kind, moved)
    return data, [to_float32(min(max(m - d, -F32_MOST), F32_MOST)) for m, d in zip(moved, decoded, strict=True)]


def add(dtype: str, base: float, difference: float) -> float:
    """P-49."""
    moved = ROUND[dtype](base + difference)
    return base if difference == 0 or math.isinf(moved) else moved


def floats_of(array: Array) -> list[float]:
    """All elements, as Python has them."""
    return [float(value) for value in array.reshape(-1)]


def stored(dtype: str, array: Array) -> Array:
    """A flat array of one of the floating types, nearest to `array`."""
    with np.errstate(over="ignore"):
        return array.reshape(-1).astype(BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))


def part(tensor: Tensor, buffer: bytes) -> bytes:
    """The tensor's own bytes in a buffer."""
    return buffer[tensor.offset : tensor.offset + tensor.bytes]


def encode(manifest: Manifest, travels: Manifest, own: bytes, base: bytes, left: bytes | None) -> tuple[bytes, bytes]:
    """All of an encoded difference, and all of the residual."""
    residual = None if left is None else reader(left)
    steps = [
        (bytes(data), bytes(rest))
        for data, rest in encode_difference(manifest, travels, reader(own), reader(base), residual)
    ]
    return b"".join(data for data, _ in steps), b"".join(rest for _, rest in steps)


def apply(manifest: Manifest, travels: Manifest, base: bytes, merged: bytes) -> bytes:
    """All of the model that a difference gives."""
    return b"".join(bytes(step) for step in apply_difference(manifest, travels, reader(base), reader(merged)))
