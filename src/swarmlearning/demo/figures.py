"""The report's two plots as inline SVG. Colours are CSS variables, so that one drawing suits light and dark pages.

Fonts are the page's; nothing is loaded from anywhere. Needs matplotlib (extra `demo`).
"""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swarmlearning.demo.records import DemoRun, SiteFigures, Summary

# Matplotlib wants colours, the page wants variables: these stand-ins are replaced in the finished drawing.
_VARIABLES: Final = {
    "#010101": "var(--ink)",
    "#020202": "var(--grid)",
    "#030303": "var(--muted)",
    "#040404": "var(--alone)",
    "#050505": "var(--swarm)",
    "#060606": "var(--pooled)",
    "#080801": "var(--on-alone)",
    "#080802": "var(--on-swarm)",
    "#070701": "var(--site-1)",
    "#070702": "var(--site-2)",
    "#070703": "var(--site-3)",
    "#070704": "var(--site-4)",
}
_COLOURS: Final = {variable.removeprefix("var(--").removesuffix(")"): stand for stand, variable in _VARIABLES.items()}

_STYLE: Final = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 12.0,
    "text.color": _COLOURS["ink"],
    "axes.edgecolor": _COLOURS["muted"],
    "axes.labelcolor": _COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _COLOURS["ink"],
    "ytick.color": _COLOURS["ink"],
    "grid.color": _COLOURS["grid"],
    "legend.frameon": False,
}

_DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
"""A line style a hospital, for those who do not tell the colours apart."""

_MARKERS: Final = ("o", "s", "^", "D")


def draw_scores(summary: Summary, measure: str) -> str:
    """Alone against swarm for every hospital, on all test rows, with the pooled model as a line; SVG."""
    with rc_context({**_STYLE, "svg.hashsalt": "scores"}):
        figure = Figure(figsize=(8.6, 4.4), layout="constrained")
        axes: Axes = figure.subplots()
        lows: list[float] = []
        for offset, model in ((-0.19, "alone"), (0.19, "swarm")):
            lows += _draw_bars(axes, summary.sites, model, offset)
        if summary.auc_pooled is not None:
            axes.axhline(summary.auc_pooled, color=_COLOURS["pooled"], linewidth=2, linestyle=(0, (6, 3)))
            # Right of the bars, where nothing else stands.
            axes.text(
                len(summary.sites) - 0.5,
                summary.auc_pooled + 0.008,
                f"all rows\npooled\n{summary.auc_pooled:.3f}",
                color=_COLOURS["pooled"],
                fontweight="bold",
            )
            lows.append(summary.auc_pooled)
        # Bars stand on 0.5, which is guessing, unless a model does worse than that.
        axes.set_ylim(min(0.5, np.floor(min(lows, default=0.5) * 10) / 10), 1.0)
        axes.set_xlim(-0.55, len(summary.sites) - 0.5 + 0.14 * len(summary.sites))
        axes.set_xticks(range(len(summary.sites)), [f"{s.name}\n{s.n_train} to train on" for s in summary.sites])
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel(f"{measure} (0.5 is guessing)")
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=2)
        return _to_svg(figure, f"{measure} by hospital: the model it trains alone, and the swarm model")


def draw_losses(run: DemoRun) -> str:
    """Loss by round, one line a hospital and their mean, averaged over the seeds; SVG."""
    with rc_context({**_STYLE, "svg.hashsalt": "losses"}):
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        axes: Axes = figure.subplots()
        curves = [_mean_losses(run, index) for index in range(len(run.sites))]
        length = min((len(curve) for curve in curves), default=0)
        rounds = np.arange(1, length + 1)
        for index, (site, curve) in enumerate(zip(run.sites, curves, strict=True)):
            axes.plot(
                rounds,
                curve[:length],
                color=_COLOURS[f"site-{index % 4 + 1}"],
                linestyle=_DASHES[index % 4],
                marker=_MARKERS[index % 4],
                markevery=(index, max(4, length // 6)),
                markersize=6,
                linewidth=1.8,
                label=site.hospital.title,
            )
        if length:
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            axes.plot(rounds, mean, color=_COLOURS["ink"], linewidth=3, label="mean")
            axes.set_xlim(0.5, length + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("merge round")
        axes.set_ylabel("loss on held-out rows")
        axes.grid(axis="y", linewidth=0.8)
        figure.legend(loc="outside upper left", ncols=5, columnspacing=1.2, handlelength=2.4)
        return _to_svg(figure, "Loss by merge round, one line a hospital and their mean")


def _draw_bars(axes: Axes, sites: Sequence[SiteFigures], model: str, offset: float) -> list[float]:
    """One bar a hospital, with its spread; returns the lowest points drawn."""
    lows: list[float] = []
    for position, site in enumerate(sites):
        value = site.auc_alone if model == "alone" else site.auc_swarm
        spread = (site.auc_alone_std if model == "alone" else site.auc_swarm_std) or 0.0
        where = position + offset
        if value is None:
            axes.text(where, 0.5, "undefined", rotation=90, ha="center", transform=axes.get_xaxis_transform())
            continue
        label = {"alone": "trained alone", "swarm": "trained in the swarm"}[model] if not lows else None
        axes.bar(where, value, width=0.34, color=_COLOURS[model], label=label)
        if spread:
            axes.errorbar(where, value, yerr=spread, color=_COLOURS["ink"], capsize=4, linewidth=1.4)
        # Inside the bar's foot, where neither the spread nor the pooled line crosses it.
        place = axes.get_xaxis_transform()
        axes.text(where, 0.03, f"{value:.3f}", ha="center", transform=place, color=_COLOURS[f"on-{model}"])
        lows.append(value - spread)
    return lows


def _mean_losses(run: DemoRun, index: int) -> list[float]:
    """One hospital's losses, averaged over the seeds as far as all of them go."""
    series = [[point.loss for point in seed.losses] for seed in run.sites[index].seeds]
    return [float(np.mean(column)) for column in zip(*series, strict=False)]


def _to_svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The page sets the width; the drawing keeps its proportions.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    for stand, variable in _VARIABLES.items():
        text = text.replace(stand, variable)
    return re.sub(r"font: ([0-9.]+px)? ?'[^;\"]*", lambda m: f"font: {m.group(1)} var(--font)", text)
