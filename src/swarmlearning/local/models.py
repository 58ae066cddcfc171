"""Writes a swarm's final model where people can read it: one `.npz` file, the program's tensor names as keys."""

from pathlib import Path

from swarmlearning.contracts.records import Training
from swarmlearning.encoding import sha256
from swarmlearning.errors import VerificationError
from swarmlearning.parameters.archive import write_npz
from swarmlearning.parameters.manifest import decode_manifest, read_arrays
from swarmlearning.sl.results import StoredResult


def export_model(control: Path, training: Training, result: StoredResult, path: Path) -> bool:
    """Write the result in an SL's control directory to `path`, for `numpy.load`; whether its manifest was there.

    bfloat16, which NumPy's format does not know, is written as float32; all values are kept.

    Raises:
        DecodeError: the manifest is not one.
        VerificationError: the file is not the model that `result` says.
        OSError: a file cannot be read or written.
    """
    if training.manifest is None:
        return False
    described = control / f"manifest-{training.manifest.hash.hex()[:24]}.bin"
    if not described.is_file():
        return False
    manifest = decode_manifest(described.read_bytes())
    buffer = (control / Path(result.file).name).read_bytes()
    if sha256(buffer) != result.sha256:
        raise VerificationError(f"{control / result.file} is not the model {result.sha256.hex()[:16]}; check the disk")
    with path.open("wb") as file:
        write_npz(file, read_arrays(manifest, memoryview(buffer)))
    return True
