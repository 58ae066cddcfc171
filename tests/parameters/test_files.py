"""P-14, P-15: arrays in files, block by block."""

import os
import tempfile
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

from swarmlearning.encoding import sha256
from swarmlearning.errors import DecodeError, ModelMismatch, VerificationError
from swarmlearning.parameters.dtypes import STORED, Array
from swarmlearning.parameters.files import read_file, write_file
from swarmlearning.parameters.manifest import Manifest, lay_out, write_arrays

BIG = 100_003
"""Elements: more than a block has, and no multiple of one."""


@pytest.fixture
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def every_type() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        f"big {name}": (rng.normal(size=BIG) * 50).astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        for name in STORED
    }
    arrays["swapped"] = np.arange(BIG, dtype=">f4")
    arrays["strided"] = np.arange(2 * BIG, dtype=np.int16).reshape(2, BIG).T[::3]
    arrays["scalar"] = np.float64(3.5)  # type: ignore[assignment]  # numpy's scalars are accepted
    arrays["empty"] = np.empty((0, 7), np.float32)
    return arrays


def canonical(manifest: Manifest, arrays: dict[str, Array]) -> bytes:
    buffer = memoryview(bytearray(manifest.size))
    write_arrays(manifest, arrays, buffer)
    return bytes(buffer)


def test_p14_a_file_has_the_bytes_of_the_buffer_and_reads_back(descriptor: int) -> None:
    arrays = every_type()
    manifest = lay_out(arrays)
    os.ftruncate(descriptor, manifest.size)
    assert write_file(manifest, arrays, descriptor) is None
    expected = canonical(manifest, arrays)
    assert os.pread(descriptor, manifest.size + 1, 0) == expected
    read = read_file(manifest, descriptor, sha256(expected))
    assert read.keys() == arrays.keys()
    for name, array in read.items():
        assert array.dtype == np.asarray(arrays[name]).dtype.newbyteorder("="), name
        assert array.flags.writeable
        np.testing.assert_array_equal(array, arrays[name], name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_p14_writing_stops_before_the_first_block_that_is_not_finite(descriptor: int, bad: float) -> None:
    arrays = {"a": np.ones(BIG, np.float32), "b": np.ones(BIG, np.float32), "c": np.ones(3, np.float32)}
    arrays["b"][90_000] = bad
    manifest = lay_out(arrays)
    os.ftruncate(descriptor, manifest.size)
    assert write_file(manifest, arrays, descriptor) == "b"
    written = np.frombuffer(os.pread(descriptor, manifest.size, 0), np.float32)
    assert np.isfinite(written).all()
    assert not np.frombuffer(os.pread(descriptor, 12, manifest.tensors[2].offset), np.float32).any()


def test_p14_other_arrays_than_the_manifests_are_refused(descriptor: int) -> None:
    manifest = lay_out({"a": np.ones(4, np.float32)})
    with pytest.raises(ModelMismatch, match="tensor 'a' is float32"):
        write_file(manifest, {"a": np.ones(5, np.float32)}, descriptor)


def test_p15_a_file_that_is_cut_or_changed_is_refused(descriptor: int) -> None:
    arrays: dict[str, Array] = {"a": np.ones(BIG, np.float32), "b": np.ones(5, np.int8)}
    manifest = lay_out(arrays)
    os.ftruncate(descriptor, manifest.size)
    write_file(manifest, arrays, descriptor)
    good = sha256(canonical(manifest, arrays))
    # In a tensor, and in the padding behind the last one.
    for at in (70_000, manifest.size - 1):
        before = os.pread(descriptor, 1, at)
        os.pwrite(descriptor, bytes([before[0] ^ 1]), at)
        with pytest.raises(VerificationError, match="SHA-256"):
            read_file(manifest, descriptor, good)
        os.pwrite(descriptor, before, at)
    assert read_file(manifest, descriptor, None).keys() == arrays.keys()
    os.ftruncate(descriptor, manifest.size - 65)
    with pytest.raises(DecodeError, match="ends at byte"):
        read_file(manifest, descriptor, good)
