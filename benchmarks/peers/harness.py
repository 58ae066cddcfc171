"""Runs one driver under a time limit, watches its memory, reads its line, and leaves no process behind."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from family import VARIABLE, Family, Peak, Watch

LAST_WORDS = 300
"""How many characters of what a failed driver said last are kept as its reason."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Seconds of a round: median, least and most, and each round's where the driver tells."""

    median: float
    min: float
    max: float
    each: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One system at one size. `reason` is empty and `spread` is there if it finished; else `reason` says why not."""

    system: str
    megabytes: float
    version: str = ""
    tls: str = ""
    spread: Spread | None = None
    note: str = ""
    reason: str = ""
    peak: Peak = field(default_factory=Peak)
    took_s: float = 0.0

    def to_json(self) -> dict[str, object]:
        """What `--json` writes for it."""
        return {
            "system": self.system,
            "version": self.version,
            "megabytes": self.megabytes,
            "tls": self.tls,
            "round_seconds": asdict(self.spread) if self.spread else None,
            "peak_mb": {
                "sum_pss": round(self.peak.sum_mb, 1),
                "largest_rss": round(self.peak.largest_mb, 1),
                "largest": self.peak.largest_name,
                "processes": self.peak.processes,
            },
            "took_seconds": round(self.took_s, 1),
            "note": self.note,
            "reason": self.reason,
        }


def read_line(output: str) -> dict[str, Any]:
    """The driver's record: the last line of its output that is a JSON object with `round_seconds`.

    Raises:
        ValueError: there is none.
    """
    for line in reversed(output.splitlines()):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "round_seconds" in record:
            return record
    raise ValueError("it printed no line of JSON with round_seconds")


def read_spread(seconds: Any) -> Spread:  # noqa: ANN401  # whatever JSON held
    """What a driver gave as `round_seconds`: a list of rounds, or an object with median, min and max.

    Raises:
        ValueError: it is neither, or the list is empty.
    """
    try:
        if isinstance(seconds, dict):
            return Spread(**{name: float(seconds[name]) for name in ("median", "min", "max")})
        each = tuple(float(value) for value in seconds)
    except (TypeError, KeyError) as error:
        raise ValueError(f"round_seconds: expected a list, or median, min and max; got {seconds!r}") from error
    if not each:
        raise ValueError("it measured no round")
    return Spread(median=median(each), min=min(each), max=max(each), each=each)


def last_words(text: str) -> str:
    """The end of what a program said, on one line."""
    words = " ".join(text.split())
    return words if len(words) <= LAST_WORDS else "… " + words[-LAST_WORDS:]


def run_driver(
    system: str,
    command: Sequence[str],
    *,
    megabytes: float,
    limit_s: float,
    log: Path,
    path: str = "",
    ignored: tuple[str, ...] = (),
    grace_s: float = 5.0,
) -> Outcome:
    """Run one driver to its end or the limit; all its descendants are ended before this returns.

    Never raises for what a driver does.

    Args:
        system: its title.
        command: its program and arguments.
        megabytes: size of the payload.
        limit_s: seconds that it may take.
        log: what it writes to standard error goes there, and what it prints beside it, into `.out`.
        path: its PYTHONPATH.
        ignored: memory of processes with one of these texts in their command line is not counted.
        grace_s: seconds between asking its processes to end and ending them.

    Raises:
        RuntimeError: one of its processes could not be ended.
    """
    token = secrets.token_hex(8)
    environment = {**os.environ, VARIABLE: token, "PYTHONPATH": path}
    family = Family(token)
    said = log.with_suffix(".out")
    begun = time.monotonic()
    reason = ""
    with Watch(family, ignored) as watch, log.open("wb") as errors, said.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(system=system, megabytes=megabytes, reason=f"could not start it: {error}")
        try:
            if process.wait(limit_s):
                reason = f"failed ({process.returncode}): {last_words(_read_text(log) or _read_text(said))}"
        except subprocess.TimeoutExpired:
            reason = f"did not finish within {limit_s:.0f} s"
        finally:
            family.end(grace_s)
            process.wait()
    return _make_outcome(system, megabytes, _read_text(said), reason, watch.peak, time.monotonic() - begun)


def _read_text(path: Path) -> str:
    """A program's output; what is no UTF-8 in it does no harm."""
    return path.read_text(encoding="utf-8", errors="replace")


def _make_outcome(system: str, megabytes: float, output: str, reason: str, peak: Peak, took_s: float) -> Outcome:
    """Put together what a driver said and what was seen of it."""
    record: dict[str, Any] = {}
    spread = None
    if not reason:
        try:
            record = read_line(output)
            spread = read_spread(record["round_seconds"])
        except ValueError as error:
            reason = "; ".join(filter(None, (str(error), str(record.get("note", "")))))
    return Outcome(
        system=system,
        megabytes=megabytes,
        version=str(record.get("version", "")),
        tls=str(record.get("tls", "")),
        spread=spread,
        note=str(record.get("note", "")),
        reason=reason,
        peak=peak,
        took_s=took_s,
    )
