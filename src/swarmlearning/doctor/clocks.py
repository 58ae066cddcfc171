"""How far another machine's clock is from ours, and whether that matters.

Replicas hold back blocks that lie too far ahead of their clock: docs/spec/ledger.md, L-14.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlearning.doctor.findings import Finding, Topic, ok, problem, warning

WARN_MS: Final = 1_000
"""A clock further off than this is warned of, milliseconds."""

PROBLEM_MS: Final = 5_000
"""Further off than this, replicas hold back blocks, and certificates just issued are not valid yet, milliseconds."""

_SET: Final = "keep the clocks by NTP (timedatectl, chronyc tracking); if all others differ alike, it is this machine's"


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """A measured difference."""

    ahead_ms: int
    """How far the other clock is ahead of ours; negative if it is behind."""
    unsure_ms: int
    """By how much the measurement may be wrong: half of the round trip."""


def measure(asked_ms: int, round_trip_ms: int, answered_ms: int) -> Skew:
    """The difference, taking it that the other looked at its clock half a round trip after we asked.

    Args:
        asked_ms: our clock when we asked.
        round_trip_ms: time until the answer was here.
        answered_ms: the other clock, by the answer.
    """
    half = round_trip_ms // 2
    return Skew(ahead_ms=answered_ms - (asked_ms + half), unsure_ms=round_trip_ms - half)


def judge_clocks(measured: Sequence[tuple[str, Skew]]) -> list[Finding]:
    """One finding for all clocks that agree, and one for each that does not."""
    found = []
    alike: list[tuple[str, Skew]] = []
    for name, skew in measured:
        # What is sure: a slow answer must not make a clock look wrong.
        sure_ms = abs(skew.ahead_ms) - skew.unsure_ms
        way = "ahead of" if skew.ahead_ms > 0 else "behind"
        text = f"{abs(skew.ahead_ms) / 1000:.1f} s {way} this machine's clock"
        if sure_ms > PROBLEM_MS:
            held = f"{text}; replicas hold back blocks more than {PROBLEM_MS // 1000} s ahead"
            found.append(problem(Topic.CLOCKS, name, held, _SET))
        elif sure_ms > WARN_MS:
            found.append(warning(Topic.CLOCKS, name, text, _SET))
        else:
            alike.append((name, skew))
    if alike:
        most = max(abs(skew.ahead_ms) for _, skew in alike) / 1000
        found.insert(0, ok(Topic.CLOCKS, _join([name for name, _ in alike]), f"within {most:.2f} s of this machine's"))
    return found


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
