"""Whether everybody runs the same release."""

import re
import sys
from collections.abc import Sequence
from typing import Final

from swarmlearning import __version__
from swarmlearning.doctor.findings import Finding, Topic, ok, warning

TRIED: Final = ((3, 11), (3, 13))
"""First and last Python release that we are tested with."""

_NUMBER: Final = re.compile(r"(\d+)\.(\d+)")


def minor(version: str) -> tuple[int, int] | None:
    """Major and minor number, None if it is no version."""
    match = _NUMBER.match(version)
    return (int(match[1]), int(match[2])) if match else None


def check_here(python: tuple[int, int, int] = sys.version_info[:3]) -> list[Finding]:
    """What runs here: Python and ourselves."""
    text = ".".join(map(str, python))
    found = ok(Topic.VERSIONS, "Python", f"{text} here")
    if not TRIED[0] <= python[:2] <= TRIED[1]:
        first, last = (".".join(map(str, release)) for release in TRIED)
        found = warning(Topic.VERSIONS, "Python", f"{text} here; tested with {first} to {last}", f"use Python {last}")
    return [found, ok(Topic.VERSIONS, "swarmlearning", f"{__version__} here")]


def judge_versions(others: Sequence[tuple[str, str]], here: str = __version__) -> list[Finding]:
    """Releases of other nodes, by name, against ours: another minor number is warned of."""
    other = [(name, version) for name, version in others if minor(version) != minor(here)]
    found = [
        warning(
            Topic.VERSIONS,
            name,
            f"runs swarmlearning {version}, this machine {here}",
            "install the same release everywhere: nodes of different ones may refuse each other's messages",
        )
        for name, version in other
    ]
    same = len(others) - len(other)
    if same:
        found.insert(0, ok(Topic.VERSIONS, "other nodes", f"{same} of {len(others)} asked run the same minor release"))
    return found
