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
_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*\"|`[^`]*`""")
_NUMBER: Final = re.compile(r"\d[\d.,:/_-]{2,}")
_FRAME: Final = re.compile(r'File "[^"]*", line \d+')
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


def mask_crash(lines: list[str]) -> list[str]:
    """What may be told of the end of a program that could read private data: where it failed, and with which words.

    Errors quote what they fail at, which may be a patient's row. So of a traceback (Python) its files and line numbers
    are kept and its last line, of anything else the last line alone; what stands in quotes, and long numbers, are left
    out.
    """
    begins = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    frames = [found[0] for line in lines[begins[-1] :] if (found := _FRAME.match(line))] if begins else []
    told = [_NUMBER.sub(HIDDEN, _QUOTED.sub(f"'{HIDDEN}'", line)) for line in lines[-1:]]
    return [*frames, *told]


def last_lines(
    path: Path,
    secrets: Iterable[str] = (),
    *,
    masked: bool = False,
    lines: int = TAIL_LINES,
    most: int = MAX_TAIL,
) -> str:
    """The last lines of a log in one, for the ledger, or what `mask_crash` leaves; empty where there are none."""
    found = [line for line in (make_printable(clean_line(line)).strip() for line in read_end(path)) if line]
    told = hide(" | ".join((mask_crash(found) if masked else found)[-lines:]), secrets)
    return told if len(told) <= most else f"…{told[-most + 1 :]}"
