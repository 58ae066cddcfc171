"""What a rehearsal says on a terminal of 80 columns."""

import textwrap
from typing import Final

from swarmlearning.rehearsal.model import MEGABYTE
from swarmlearning.rehearsal.perform import Rehearsed, names_of
from swarmlearning.rehearsal.script import Finding, Outcome
from swarmlearning.types import short_name

WIDTH: Final = 80
_TITLE: Final = 8
_NAME: Final = 10


def describe_finding(finding: Finding) -> str:
    """A step: what was tried, with whom, what was expected, what happened, and the verdict."""
    step = finding.step
    if finding.outcome is None:
        return _rows(step.kind, [("skipped", step.skipped)])
    rows = [("tried", step.tried)]
    if step.victim:
        victims = [step.victim, step.peer] if step.peer else [step.victim]
        rows.append(("victim", names_of(victims)))
    rows += [("expected", finding.expected), ("happened", describe_outcome(finding.outcome, finding.fired))]
    rows.append(("verdict", "passed" if finding.passed else "failed: " + "; ".join(finding.problems)))
    return _rows(step.kind, rows)


def describe_outcome(outcome: Outcome, fired: int) -> str:
    """What happened, in one sentence."""
    moved, seconds = outcome.bytes_moved / MEGABYTE, outcome.seconds
    parts = [
        f"{names_of(outcome.contributors)} contributed, in {seconds:.1f} s",
        f"{moved:.1f} MB moved here, {moved / max(seconds, 0.001):.1f} MB/s",
    ]
    if outcome.attempts > 1:
        parts.append(f"{outcome.attempts} attempts")
    if fired:
        parts.append(f"the drill took hold {fired} times")
    parts += [f"dropped {short_name(dropped.node)}: {dropped.reason}" for dropped in outcome.dropped]
    return "; ".join(parts)


def _rows(title: str, rows: list[tuple[str, str]]) -> str:
    lines = []
    for at, (name, text) in enumerate(rows):
        lead = f"{title if at == 0 else '':{_TITLE}}{name:{_NAME}}"
        # Names and texts of other sites come along: no control characters reach the terminal.
        clean = "".join(c if c.isprintable() else " " for c in text)
        lines.append(
            textwrap.fill(
                clean,
                WIDTH,
                initial_indent=lead,
                subsequent_indent=" " * len(lead),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines)


def describe_beginning(peers: int, contract: str, megabytes: int, lease_ms: int, grace_ms: int) -> str:
    """The first line or two."""
    return (
        f"rehearsal of {peers} sites, {megabytes} MB, lease {lease_ms / 1000:g} s, grace {grace_ms / 1000:g} s; "
        f"roll call: {contract}"
    )


def describe_end(rehearsed: Rehearsed) -> str:
    """The final model, what is wrong, and the one line that counts."""
    rows = []
    if rehearsed.final:
        rows.append(("model", f"{rehearsed.final[:16]}, at every site" if rehearsed.ready else rehearsed.final[:16]))
    lines = [_rows("end", rows)] if rows else []
    if rehearsed.ready:
        skipped = [f.step.kind for f in rehearsed.findings if f.outcome is None]
        but = f" (not tried: {', '.join(skipped)})" if skipped else ""
        return "\n".join([*lines, f"verdict: ready{but}"])
    lines += [
        textwrap.fill("- " + "".join(c if c.isprintable() else " " for c in fault), WIDTH, subsequent_indent="  ")
        for fault in rehearsed.faults
    ]
    many = len(rehearsed.faults)
    what = "1 fault" if many == 1 else f"{many} faults"
    return "\n".join([*lines, f"verdict: not ready: {what}; run `swarm doctor` at the sites named above"])
