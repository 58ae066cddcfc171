"""Values that policies have: sizes, durations, hours, lists of texts."""

import re
from collections.abc import Callable
from typing import Final

import yaml

from swarmlearning.swop.policy import Hours
from swarmlearning.swop.values import ValueFields
from swarmlearning.tasks.faults import NULL, show_text
from swarmlearning.tasks.fields import read_text, tell

MAX_TEXTS: Final = 1000
"""Most entries of a list."""

MAX_TEXT: Final = 4096
"""Longest entry of a list, characters."""

_SIZE: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))? ?(B|[kKMGT]i?B)?")
_DURATION: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,3}))? ?(s|m|h|d)")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_SIZE: Final = 1 << 60
_MAX_SECONDS: Final = 10 * 366 * 86_400

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIMES: Final = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_WHOLE_DAY: Final = 24 * 60


class PolicyFields(ValueFields):
    """Fields of a policy."""

    def refuse_nothing(self, key: str) -> None:
        """Tell of a field that is `~`: in a rule that would read as if it asked for nothing, which is not meant."""
        node = self._nodes.get(key)
        if isinstance(node, yaml.ScalarNode) and node.tag == NULL:
            self._tell(node, key, "expected at least one entry, got nothing (~); leave it out where it does not matter")

    def texts(self, key: str, explain: Callable[[str], str] | None = None) -> tuple[str, ...]:
        """A list of texts, or one; `explain` says what is wrong with one, empty if nothing."""
        node = self.find(key)
        if node is None:
            return ()
        items = [(self.path(key), node)] if isinstance(node, yaml.ScalarNode) else self.items(key)
        if len(items) > MAX_TEXTS:
            self._tell(node, key, f"{len(items)} entries; expected at most {MAX_TEXTS}")
        found = []
        for path, item in items[:MAX_TEXTS]:
            text = read_text(self._faults, item, path, most=MAX_TEXT)
            problem = explain(text) if text and explain is not None else ""
            if problem:
                tell(self._faults, item, path, problem)
            found.append(text)
        return tuple(found)

    def size(self, key: str, least: int, default: int | None = None) -> int | None:
        """Bytes, such as `8GiB`."""
        node, text = self._text(key)
        if node is None:
            return default
        match = _SIZE.fullmatch(text)
        size = -1 if match is None else _to_bytes(match[1], match[2], match[3] or "B")
        if not least <= size <= _MAX_SIZE:
            expected = f"expected a size such as 8GiB or 500MB, at least {least} bytes"
            self._tell(node, key, f"{expected}, got {show_text(text)}")
            return default
        return size

    def duration(self, key: str) -> float | None:
        """Seconds, of a time such as `12h`."""
        node, text = self._text(key)
        if node is None:
            return None
        match = _DURATION.fullmatch(text)
        seconds = 0.0 if match is None else float(f"{match[1]}.{match[2] or 0}") * _SECONDS[match[3]]
        if not 0 < seconds <= _MAX_SECONDS:
            self._tell(node, key, f"expected a time such as 90s, 30m, 12h or 7d, at most 3660d, got {show_text(text)}")
            return None
        return seconds

    def decimal(self, key: str, least: float, most: float) -> float | None:
        """A number that may have a fraction."""
        node, text = self._text(key)
        if node is None:
            return None
        if not (_DECIMAL.fullmatch(text) and least <= float(text) <= most):
            self._tell(node, key, f"expected a number from {least} to {most:g}, got {show_text(text)}")
            return None
        return float(text)


def read_hours(fields: PolicyFields, key: str) -> tuple[Hours, ...]:
    """Times such as `Mon-Fri 18:00-06:00`, a list or one."""
    texts = fields.texts(key, lambda text: "" if parse_hours(text) else _explain_hours(text))
    return tuple(hours for hours in map(parse_hours, texts) if hours is not None)


def parse_hours(text: str) -> Hours | None:
    """Days, times, or both; None if it is neither."""
    days: tuple[int, ...] | None = tuple(range(7))
    begin, end = 0, _WHOLE_DAY
    parts = text.split()
    if parts and _TIMES.fullmatch(parts[-1]):
        found = _parse_times(parts.pop())
        if found is None:
            return None
        begin, end = found
        if not parts:
            return Hours(days=tuple(range(7)), begin=begin, end=end)
    days = _parse_days(parts[0]) if len(parts) == 1 else None
    return None if days is None else Hours(days=days, begin=begin, end=end)


def _parse_times(text: str) -> tuple[int, int] | None:
    match = _TIMES.fullmatch(text)
    if match is None:
        return None
    first, first_minute, last, last_minute = map(int, match.groups())
    begin, end = first * 60 + first_minute, last * 60 + last_minute
    whole = end == _WHOLE_DAY
    fits = first < 24 and first_minute < 60 and last_minute < 60 and (last < 24 or whole) and begin != end
    return (begin, end) if fits else None


def _parse_days(text: str) -> tuple[int, ...] | None:
    """`Mon-Fri`, `Sat,Sun`, `Fri-Mon`."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS or part.endswith("-"):
            return None
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return tuple(sorted(days))


def _explain_hours(text: str) -> str:
    return f"expected days and times such as Mon-Fri 18:00-06:00, Sat,Sun or 20:00-24:00, got {show_text(text)}"


def _to_bytes(whole: str, fraction: str | None, unit: str) -> int:
    factor = 1
    for _ in range("bkmgt".index(unit[0].lower())):
        factor *= 1024 if "i" in unit else 1000
    parts = int((fraction or "").ljust(3, "0")[:3])
    return int(whole) * factor + parts * factor // 1000
