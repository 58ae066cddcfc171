"""The demo's figures as a table for the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from swarmlearning.demo.records import Summary

MEASURES = {"auc": "AUC", "balanced_accuracy": "balanced accuracy"}
"""How people call what the `auc_*` fields hold."""


def format_figure(value: float | None, spread: float | None) -> str:
    """`0.897 ± 0.017`, without the spread where there is none; `undefined` where there is no figure."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def render_table(summary: Summary) -> Table:
    """One line a hospital: alone and swarm, on everybody's test rows and on its own; the pooled model below."""
    measure = MEASURES[summary.measure]
    several = f", mean ± spread over {summary.seeds} seeds" if summary.seeds > 1 else ", one seed"
    table = Table(
        title=f"{measure}{several}",
        caption=_caption(summary),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("hospital", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for heading in ("alone", "swarm", "alone,\nown rows", "swarm,\nown rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for site in summary.sites:
        mark = "*" if site.caution or site.undefined else ""
        table.add_row(
            site.name,
            str(site.n_train),
            _format_narrow(site.auc_alone, site.auc_alone_std),
            Text(_format_narrow(site.auc_swarm, site.auc_swarm_std), style="bold"),
            _format_narrow(site.auc_alone_own, site.auc_alone_own_std) + mark,
            _format_narrow(site.auc_swarm_own, site.auc_swarm_own_std) + mark,
        )
    pooled = _format_narrow(summary.auc_pooled, summary.auc_pooled_std)
    table.add_section()
    table.add_row("all rows pooled", str(sum(site.n_train for site in summary.sites)), "", pooled, "", "")
    return table


def _format_narrow(value: float | None, spread: float | None) -> str:
    """`0.897 ±.017`: six columns of these fit a terminal of 80."""
    return format_figure(value, spread).replace("± 0.", "±.")


def _caption(summary: Summary) -> str:
    notes = [f"* {site.name}: {note}" for site in summary.sites for note in (site.undefined, site.caution) if note]
    if summary.models_equal:
        digest = summary.sites[-1].model_sha256[:16]
        notes.append(f"All hospitals ended with one model, the one on the ledger (SHA-256 {digest}…).")
    else:
        notes.append("The hospitals' final models are NOT the same, or not the one on the ledger: see the report.")
    notes.append(
        f"{summary.rounds} rounds in {summary.seconds:.0f} s; ledger: height {summary.ledger.height}, "
        f"{summary.ledger.transactions} transactions."
    )
    return "\n".join(notes)
