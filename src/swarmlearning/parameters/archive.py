"""Arrays in a file that people can read: NumPy's `.npz`, the tensors' names as keys.

Does not: decide where such a file goes, or read one (`numpy.load` does).
"""

import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from swarmlearning.parameters.dtypes import BFLOAT16, Array


def write_npz(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write `arrays` for `numpy.load`.

    bfloat16, which NumPy's format does not know, is written as float32; all values are kept.

    Raises:
        OSError: the file cannot be written.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            plain = array.astype(np.float32) if array.dtype == BFLOAT16 else np.asarray(array)
            # Not numpy.savez: it cannot store a tensor that is called like one of its own arguments.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, plain, allow_pickle=False)
