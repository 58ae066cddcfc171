"""Logs of programs: their hash, and last lines that may be shown to others. Spec: docs/spec/swop.md, SW-10.

What a program prints is another party's text: it is made printable, and values of the profile's variables are left out.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from swarmlearning.local.process import clean_line
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.profile import Variables

TAIL_BYTES: Final = 64 << 10
"""How much of a log's end is looked at, bytes."""

TAIL_LINES: Final = 5
"""How many last lines are shown to others."""

MAX_TAIL: Final = 300
"""How many of their characters."""

HIDDEN: Final = "***"

MIN_SECRET: Final = 4
"""A shorter value is not searched for: it would be found everywhere."""

_HARMLESS: Final = re.compile(r"(?i)true|false|yes|no|none|null|[-+]?[0-9.]+|[./~].*")
_CREDENTIALS: Final = re.compile(r"(://)[^/\s@]+@")


def hash_log(path: Path) -> bytes:
    """SHA-256 of a log, 32 bytes; empty where there is none."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return b""
    return digest.digest()


def read_end(path: Path, most: int = TAIL_BYTES) -> list[bytes]:
    """Lines at the end of a log, whole ones, unless one alone is longer; none where there is no log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            lines = file.read(most).split(b"\n")
    except OSError:
        return []
    return lines[1:] if size > most and len(lines) > 1 else lines


def secrets_of(*variables: Variables) -> frozenset[str]:
    """Values that must not leave this host: all but short ones, numbers, paths and the like."""
    values = {value for each in variables for _, value in each if value is not None}
    return frozenset(v for v in values if len(v) >= MIN_SECRET and not _HARMLESS.fullmatch(v))


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without these values, and without credentials in URLs."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _CREDENTIALS.sub(rf"\1{HIDDEN}@", text)


def last_lines(path: Path, secrets: Iterable[str] = (), *, lines: int = TAIL_LINES, most: int = MAX_TAIL) -> str:
    """The last lines of a log in one, for the ledger; empty where there are none."""
    found = [make_printable(clean_line(line)).strip() for line in read_end(path)]
    told = hide(" | ".join([line for line in found if line][-lines:]), secrets)
    return told if len(told) <= most else f"…{told[-most + 1 :]}"
