"""Reading and writing key and certificate files: small, owner-only where secret, whole or not at all.

Does not know what is in them. Spec: docs/spec/identity.md, section Files.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from swarmlearning.errors import IdentityError

MAX_FILE_BYTES: Final = 1 << 20
"""Largest key or certificate file read, bytes."""

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644


def read_file(path: Path, what: str) -> bytes:
    """Read a small file; `what` names it in errors.

    Raises:
        IdentityError: missing, unreadable, not a file, or larger than 1 MiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise IdentityError(
            f"{what} {path}: cannot be read ({error.strerror}); check the path and its rights"
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise IdentityError(f"{what} {path}: more than {MAX_FILE_BYTES} bytes, expected a PEM file; check the path")
    return data


def read_secret(path: Path, what: str) -> bytes:
    """Read a private key file, which others on the machine must not be able to read or write.

    Group rights are left to the operator: container platforms mount secrets owned by a group.

    Raises:
        IdentityError: as for `read_file`, or any user of the machine has access to it.
    """
    data = read_file(path, what)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        raise IdentityError(
            f"{what} {path}: every user of this machine has access (mode {mode:04o}); run: chmod 600 {path}"
        )
    return data


def write_file(path: Path, data: bytes, *, mode: int, force: bool = False) -> None:
    """Write a file so that after a crash it is there whole or not at all, durable when this returns.

    Raises:
        IdentityError: it exists and `force` is not given, or it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # The mode is set at creation: a secret is at no moment readable by others.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, fails if `path` exists, without a race
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise IdentityError(f"{path} exists; choose another place, or overwrite it with --force") from error
    except OSError as error:
        raise IdentityError(
            f"{path}: cannot be written ({error.strerror}); check the directory and its rights"
        ) from error


def make_directory(path: Path, *, mode: int = 0o755) -> None:
    """Create a directory, and those above it, unless it is there.

    Raises:
        IdentityError: it cannot be created, or is something else than a directory.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise IdentityError(f"directory {path}: cannot be created ({error.strerror})") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
