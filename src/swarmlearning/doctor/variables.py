"""The names of all `SWARM_*` variables we read, and what is wrong with an environment.

Meanings are in docs/reference/environment.md; a test compares the two. Does not look at what a variable leads to.
"""

import difflib
from collections.abc import Mapping
from typing import Final

from swarmlearning.callbacks.launch import is_true
from swarmlearning.doctor.findings import Finding, Topic, warning

KNOWN: Final = frozenset(
    {
        "SWARM_COMETBFT",
        "SWARM_CONFIG_DIR",
        "SWARM_DATA",
        "SWARM_EXCHANGE_DIR",
        "SWARM_ID_CACERT",
        "SWARM_ID_CAPATH",
        "SWARM_ID_CERT",
        "SWARM_ID_KEY",
        "SWARM_LOG_LEVEL",
        "SWARM_LOOPBACK",
        "SWARM_MAX_WAIT",
        "SWARM_MIN_PEERS",
        "SWARM_PEERS",
        "SWARM_PEER_INDEX",
        "SWARM_SAVE_DIR",
        "SWARM_SL",
        "SWARM_SL_DATA",
        "SWARM_SL_FS_PORT",
        "SWARM_SL_HOST_IP",
        "SWARM_SN",
        "SWARM_SWOP_PART",
    }
)

_IGNORED_IN_LOOPBACK: Final = ("SWARM_SL", "SWARM_SN", "SWARM_EXCHANGE_DIR")
_NO: Final = ("", "0", "false", "no")
_CLOSE: Final = 0.6
"""How alike two names must be for one to be offered for the other (`difflib`'s ratio)."""


def nearest(name: str) -> str:
    """The known variable that `name` was probably meant to be; empty if none is like it."""
    return next(iter(difflib.get_close_matches(name.upper(), sorted(KNOWN), n=1, cutoff=_CLOSE)), "")


def check_names(environ: Mapping[str, str]) -> list[Finding]:
    """Variables that look like ours and are not: nothing reads them."""
    found = []
    for name in sorted(environ):
        if name.upper().startswith("SWARM") and name not in KNOWN:
            meant = nearest(name)
            advice = (
                f"if {meant} is meant, set that" if meant else "see docs/reference/environment.md for what there is"
            )
            found.append(warning(Topic.PROGRAM, name, "there is no such variable, so nothing reads it", advice))
    return found


def check_loopback(environ: Mapping[str, str]) -> list[Finding]:
    """A program that trains alone, and looks as if it took part."""
    value = environ.get("SWARM_LOOPBACK", "").strip()
    if is_true(value):
        ignored = [name for name in _IGNORED_IN_LOOPBACK if environ.get(name)]
        told = f"; {', '.join(ignored)} {'are' if len(ignored) > 1 else 'is'} set too and ignored" if ignored else ""
        return [
            warning(
                Topic.PROGRAM,
                "SWARM_LOOPBACK",
                f"is {value}: a program started here trains alone, without a swarm{told}",
                "unset SWARM_LOOPBACK to take part in trainings",
            )
        ]
    if value.lower() not in _NO:
        return [
            warning(
                Topic.PROGRAM,
                "SWARM_LOOPBACK",
                f"is {value!r}, which counts as no: a program started here does not train alone",
                "set it to TRUE, or unset it",
            )
        ]
    return []
