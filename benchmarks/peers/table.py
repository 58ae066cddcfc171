"""The table of the comparison, as text or as Markdown. What did not finish stands in it with its reason."""

from collections.abc import Sequence

from harness import Outcome

HEAD = ("MB", "system", "median s", "min", "max", "times ours", "sum of memory, MB", "largest, MB", "TLS", "remarks")
NUMBERS = {0, 2, 3, 4, 5, 6, 7}
NOTHING = "-"


def make_rows(outcomes: Sequence[Outcome], ours: str) -> list[tuple[str, ...]]:
    """A row for each outcome, by size and in the order of the run; ratios are to `ours` at the same size."""
    base = {o.megabytes: o.spread.median for o in outcomes if o.system == ours and o.spread}
    rows = []
    for outcome in sorted(outcomes, key=lambda outcome: outcome.megabytes):
        spread = outcome.spread
        figures = [NOTHING] * 6
        if spread:
            own = base.get(outcome.megabytes)
            figures = [f"{value:.2f}" for value in (spread.median, spread.min, spread.max)]
            figures.append(f"{spread.median / own:.1f}" if own else NOTHING)
            figures += [f"{value:,.0f}" for value in (outcome.peak.sum_mb, outcome.peak.largest_mb)]
        name = f"{outcome.system} {outcome.version}".strip()
        remarks = outcome.note if spread else outcome.reason
        rows.append((f"{outcome.megabytes:g}", name, *figures, outcome.tls or NOTHING, remarks))
    return rows


def format_text(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; numbers to the right."""
    everything = [HEAD, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(HEAD))]
    lines = []
    for row in everything:
        cells = [
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def format_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a `|` within a cell is escaped."""
    lines = [HEAD, ["--:" if column in NUMBERS else "---" for column in range(len(HEAD))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
