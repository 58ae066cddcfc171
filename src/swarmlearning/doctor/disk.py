"""Whether a node's directories are there, its own, writable, and have room."""

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.doctor.findings import Finding, Topic, ok, problem, skipped, warning

GIB: Final = 1 << 30

WANTED_BYTES: Final = 10 * GIB
"""Less free space than this is warned of, whatever the models' sizes."""

MODELS: Final = 4
"""Free space for so many times the largest model is wanted: scratch files of contributors, and results kept."""

FULL_BYTES: Final = GIB // 4
"""Less than this, or than one model, is a problem: ledger and rounds stop at a full disk."""

FreeSpace = Callable[[Path], int]
"""Bytes that this user can still write at a path."""


def free_space(path: Path) -> int:
    """What the system says.

    Raises:
        OSError: it cannot tell.
    """
    return shutil.disk_usage(path).free


def check_disks(
    directories: Sequence[tuple[str, Path]], largest_model: int | None, free: FreeSpace = free_space
) -> list[Finding]:
    """All given directories.

    Args:
        directories: option and path of each.
        largest_model: bytes; None if the contracts are not known.
        free: tells the free space.
    """
    if not directories:
        return [
            skipped(
                Topic.DISK,
                "directories",
                "none was named",
                "give --data, --control or --exchange-dir of the nodes here",
            )
        ]
    return [finding for option, path in directories for finding in check_directory(option, path, largest_model, free)]


def check_directory(option: str, path: Path, largest_model: int | None, free: FreeSpace = free_space) -> list[Finding]:
    """One directory of a node."""
    subject = f"{option} {path}"
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return [problem(Topic.DISK, subject, "is a file, expected a directory", f"correct {option}")]
        left = free(path)
    except FileNotFoundError:
        advice = f"correct {option}; the node makes its directories when it first starts"
        return [problem(Topic.DISK, subject, "is not there", advice)]
    except OSError as error:
        advice = f"check {option} and the rights along the path"
        return [problem(Topic.DISK, subject, f"cannot be looked at ({error.strerror or error})", advice)]
    return [_judge_space(subject, left, largest_model), *_judge_rights(subject, path, status)]


def _judge_rights(subject: str, path: Path, status: os.stat_result) -> list[Finding]:
    found = []
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        advice = "run this as the user of the node; if it is, give that user the directory (chown)"
        found.append(problem(Topic.DISK, subject, f"user {os.geteuid()} cannot write there", advice))
    elif status.st_uid != os.geteuid():
        advice = "node and program run as the same user, who owns its directories"
        found.append(warning(Topic.DISK, subject, f"belongs to user {status.st_uid}, not to {os.geteuid()}", advice))
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        text = f"other users of this machine have access (mode {mode:04o}), expected 0700"
        found.append(warning(Topic.DISK, subject, text, f"run: chmod 700 {path}"))
    return found


def _judge_space(subject: str, left: int, largest_model: int | None) -> Finding:
    model = largest_model or 0
    wanted = max(WANTED_BYTES, MODELS * model)
    text = f"{show_bytes(left)} free"
    if left < max(FULL_BYTES, model):
        what = f"; the largest model has {show_bytes(model)}" if model >= FULL_BYTES else ""
        return problem(Topic.DISK, subject, f"{text}: full{what}", "free some space, or move the directory")
    if left < wanted:
        why = f"{MODELS} times the largest model" if wanted > WANTED_BYTES else "for a while of training"
        return warning(Topic.DISK, subject, f"{text}, {show_bytes(wanted)} are wanted ({why})", "free some space")
    return ok(Topic.DISK, subject, text)


def show_bytes(number: int) -> str:
    """A size for people, in binary units."""
    value, unit = float(number), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{number} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
