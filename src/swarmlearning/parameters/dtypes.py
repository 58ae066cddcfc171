"""The element types a model may have, and how they stand in the canonical buffer: little endian, C order.

Does not: say how types are merged (`merge`). Spec: docs/spec/parameters.md, P-2.
"""

from typing import Any, Final

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
"""Any array; types and shapes are checked at run time, by manifest."""

BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)
"""Brain floating point: the upper 16 bits of a float32."""

STORED: Final[dict[str, np.dtype[Any]]] = {
    "bfloat16": np.dtype("<u2"),
    "bool": np.dtype("u1"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
}
"""How each type's elements are stored; bfloat16 by its bits and bool as 0 or 1, since numpy's own cannot be trusted
with a byte order or with a byte that is neither."""

EXPONENT_BITS: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "bfloat16": (np.dtype("<u2"), 0x7F80),
    "float16": (np.dtype("<u2"), 0x7C00),
    "float32": (np.dtype("<u4"), 0x7F80_0000),
    "float64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
}
"""For each floating type an unsigned type of its width and the exponent's bits: all set means NaN or infinity."""


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of `dtype`, of any byte order, can be laid out."""
    return dtype.fields is None and dtype.subdtype is None and dtype.name in STORED
