"""What a check found: a verdict, one line on what it is, one on what to do."""

import enum
from collections.abc import Iterable

from swarmlearning.encoding import Record


class Verdict(enum.StrEnum):
    """What a finding means for whoever wants to train."""

    OK = "ok"  # as it should be
    WARNING = "warning"  # works now; look at it
    PROBLEM = "problem"  # does not work, or will not
    SKIPPED = "skipped"  # could not be looked at; the advice says how it can be


class Topic(enum.StrEnum):
    """Headings, in the order in which they are shown."""

    IDENTITY = "Identity"
    SN = "Own SN"
    MEMBERS = "Members"
    CLOCKS = "Clocks"
    VERSIONS = "Versions"
    TRAININGS = "Trainings"
    PORTS = "Ports of this machine"
    DISK = "Disk"
    PROGRAM = "Program's environment"


class Finding(Record, frozen=True, kw_only=True):
    """One line of the report."""

    topic: Topic
    verdict: Verdict
    subject: str
    """What was looked at, such as a file, a node or a variable."""
    text: str
    advice: str = ""
    """What to do; empty only where all is well."""


class Report(Record, frozen=True, kw_only=True):
    """Everything that was found; what `--json` shows."""

    verdict: Verdict
    """The gravest one; `skipped` counts as `ok`."""
    version: str
    at_ms: int
    findings: tuple[Finding, ...]


def ok(topic: Topic, subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(topic=topic, verdict=Verdict.OK, subject=subject, text=text)


def warning(topic: Topic, subject: str, text: str, advice: str) -> Finding:
    """It works now, but somebody should look at it."""
    return Finding(topic=topic, verdict=Verdict.WARNING, subject=subject, text=text, advice=advice)


def problem(topic: Topic, subject: str, text: str, advice: str) -> Finding:
    """It does not work, or will not."""
    return Finding(topic=topic, verdict=Verdict.PROBLEM, subject=subject, text=text, advice=advice)


def skipped(topic: Topic, subject: str, reason: str, advice: str) -> Finding:
    """It could not be looked at; `advice` says how to have it looked at."""
    return Finding(topic=topic, verdict=Verdict.SKIPPED, subject=subject, text=reason, advice=advice)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The gravest verdict among `findings`; what was skipped says nothing."""
    found = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.PROBLEM, Verdict.WARNING) if verdict in found), Verdict.OK)
