"""Parameters between a program and its SL: files in a directory both see, written and read block by block.

Spec: docs/spec/control.md (C-8 to C-12).
"""

import os
import secrets
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from swarmlearning.encoding import sha256
from swarmlearning.errors import Closed, ConfigurationError, DecodeError, VerificationError
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.files import read_file, write_file
from swarmlearning.parameters.manifest import Manifest, lay_out, write_arrays

Arrays = Mapping[str, Array]


class ExchangeFile:
    """The file into which this program writes its parameters; deleted by `close`."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Create it, allocated in full.

        Raises:
            ConfigurationError: the directory is not ours alone, cannot be written to, or its disk is full.
        """
        if manifest.size == 0:
            raise ConfigurationError("the model has no parameters yet, nothing can be merged: build it before training")
        check_directory(directory)
        self.name = f"ml-{os.getpid()}-{secrets.token_hex(4)}.params"
        self.manifest = manifest
        self._path = directory / self.name
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _allocate(descriptor, manifest.size)
            except BaseException:
                os.close(descriptor)
                self._path.unlink()
                raise
            self._descriptor: int | None = descriptor
            # Also where the program ends without closing us.
            self._delete = weakref.finalize(self, _unlink, self._path, descriptor, os.getpid())
        except OSError as error:
            raise ConfigurationError(
                f"cannot create a file of {manifest.size} bytes in the exchange directory {directory} "
                f"({error.strerror}): free some space or set SWARM_EXCHANGE_DIR"
            ) from error

    def write(self, arrays: Arrays) -> str | None:
        """Write `arrays` and return the name of the first tensor that holds NaN or infinity, if any.

        Raises:
            ModelMismatch: the arrays are not those of the manifest.
            Closed: used after `close`.
        """
        if self._descriptor is None:
            raise Closed("this session is closed: make a new one")
        return write_file(self.manifest, arrays, self._descriptor)

    def close(self) -> None:
        """Close and delete; again is harmless."""
        self._descriptor = None
        self._delete()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unlink(path: Path, descriptor: int, owner: int) -> None:
    os.close(descriptor)
    if os.getpid() == owner:  # not in a forked child, such as a data loader's worker
        path.unlink(missing_ok=True)


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the blocks now, so that a full disk is an error before training, and not in the middle of it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)  # macOS; best effort


def check_directory(directory: Path) -> None:
    """Check that nobody but this user and root can exchange files in `directory`.

    Raises:
        ConfigurationError: it is not there, is not a directory, or others may write to it.
    """
    try:
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(
            f"exchange directory {directory}: {error.strerror}; it is the SL's control directory unless "
            "SWARM_EXCHANGE_DIR names another one that both see"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"exchange directory {directory} is not a directory")
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022:
        raise ConfigurationError(
            f"exchange directory {directory} is open to other users (owner {status.st_uid}, mode "
            f"{stat.S_IMODE(status.st_mode):04o}): expected this user's or root's, mode 0700"
        )


def read_result(directory: Path, name: str, manifest: Manifest, expected: bytes | None) -> dict[str, Array]:
    """Read a result that the SL wrote, as fresh arrays.

    Args:
        directory: the exchange directory.
        name: the file's plain name, as the SL gave it.
        manifest: what the file holds.
        expected: SHA-256 of its bytes, 32 bytes; None if the message carried none.

    Raises:
        DecodeError: the name is not a plain one, or the file is not a regular one of this size and owner.
        VerificationError: its SHA-256 is another one.
    """
    if not name or "/" in name or "\0" in name or name in (".", "..") or len(os.fsencode(name)) > 255:
        raise DecodeError(f"the SL named the file {name[:80]!r}, expected a plain file name in {directory}")
    path = directory / name
    descriptor = None
    try:
        # Not blocking, so that a named pipe cannot hold us up before we see that it is one.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise DecodeError(f"{path}: expected a regular file of this user or root")
        if status.st_size != manifest.size:
            raise DecodeError(f"{path}: {status.st_size} bytes, expected {manifest.size} for this model")
        return read_file(manifest, descriptor, expected)
    except OSError as error:
        raise DecodeError(f"cannot read the SL's result {path}: {error.strerror}") from error
    except VerificationError as error:
        raise VerificationError(
            f"{path}: {error} as the swarm agreed: do both sides use the same exchange directory?"
        ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def model_hash(arrays: Arrays) -> str:
    """SHA-256 of the canonical buffer of `arrays`, hex: the name by which the ledger knows a model.

    Raises:
        ConfigurationError: the arrays have no canonical form.
    """
    manifest = lay_out(arrays)
    buffer = memoryview(bytearray(manifest.size))
    write_arrays(manifest, arrays, buffer)
    return sha256(buffer).hex()
