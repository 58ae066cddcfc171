"""How `swarm status` looks: reports in, renderables and lines out. Pure; prints nothing, and cuts nothing silently.

Cells fold where they are too narrow. A live view that is too tall leaves out rounds, then peers, and says so.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from swarmlearning.contracts.records import MICRO, PeerState, Phase
from swarmlearning.reports.status import ContractLine, ContractReport, NetworkReport, PeerReport, RoundReport
from swarmlearning.types import decimal, short_name

UNKNOWN: Final = "-"

LEGEND: Final = (
    "loss, metric: of the swarm's model of the round named, on the peer's own validation data; "
    f"{UNKNOWN}: not known, or not shown. What to show is each peer's choice."
)
ROUNDS_LEGEND: Final = (
    "loss, metric: means over the peers that showed theirs, of the model of the round before; every: batches between "
    "merges from then on; times are UTC"
)

_HASH_DIGITS: Final = 12
_WIDE: Final = 100
"""Columns from which on there is more room between cells."""

_STYLES: Final = {
    PeerState.LIVE: "green",
    PeerState.PAUSED: "yellow",
    PeerState.FINISHED: "cyan",
    PeerState.LEFT: "dim",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a contract is shown; what is left out is said."""

    peers: int
    rounds: int


# --- words ----------------------------------------------------------------------------------------------------------


def show_figure(value: float | None) -> str:
    """A loss or metric."""
    return UNKNOWN if value is None else f"{value:.4f}"


def show_count(value: int | None, total: int | None) -> str:
    """`3/10`, or what of it is known."""
    if value is None and total is None:
        return UNKNOWN
    return "/".join(UNKNOWN if part is None else str(part) for part in (value, total))


def show_seconds(seconds: int | None) -> str:
    """How long something takes, to a precision that people want: `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None:
        return UNKNOWN
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 120:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24} h" if days < 365 else "over 1 y"


def show_elapsed(milliseconds: int) -> str:
    """How long something took."""
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 10_000 else show_seconds(milliseconds // 1000)


def show_time(time_ms: int, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A time by UTC, which means the same at all institutions."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return UNKNOWN


def show_age(network: NetworkReport) -> str:
    """How old the newest block is."""
    age_ms = network.asked_ms - network.last_block_ms
    if not network.last_block_ms:
        return "no block yet"
    if age_ms < -1000:
        return f"last block dated {show_seconds(-age_ms // 1000)} ahead of this machine's clock"
    return f"last block {show_seconds(max(0, age_ms) // 1000)} ago"


# --- tables ---------------------------------------------------------------------------------------------------------


def describe_network(network: NetworkReport, proposals: str = "swarm network proposals") -> Iterator[tuple[str, str]]:
    """The network in short: labels and texts; `proposals` is how one lists what members vote on."""
    if network.ledger == "embedded":
        order = f"sentinel: {'itself' if network.sentinel == network.sn else short_name(network.sentinel)}"
    else:
        order = f"{network.ledger}, {network.validators} validators"
    yield "network", f"{network.network} ({order})"
    yield "SN", f"{short_name(network.sn)} at {network.address}, version {network.version}"
    yield "height", f"{network.height}; {show_age(network)}; {network.transactions} transactions"
    if network.problem:
        yield "WARNING", f"the ledger stands still here: {network.problem}"
    elif network.away:
        yield "WARNING", _describe_absence(network)
    for offence in network.offences:
        yield "WARNING", f"{offence}: see {proposals}"
    if network.open_proposals:
        are = "proposal is" if network.open_proposals == 1 else "proposals are"
        yield "vote", f"{network.open_proposals} {are} open: see {proposals}"


def draw_network(network: NetworkReport) -> Table:
    """The network in short."""
    return _labelled(list(describe_network(network)))


def _describe_absence(network: NetworkReport) -> str:
    """Who is away, and how many more could be before no more blocks are made."""
    spare = network.validators - len(network.away) - (2 * network.validators // 3 + 1)
    left = f"{spare} more may be" if spare > 0 else "if one more is, the ledger stands still"
    return f"not connected to the validator{'s' * (len(network.away) > 1)} of {', '.join(network.away)}; {left}"


CONTRACT_COLUMNS: Final = ("contract", "run", "phase", "round", "peers", "newest model")


def contract_cells(line: ContractLine) -> tuple[str, ...]:
    """A contract in the columns `CONTRACT_COLUMNS`."""
    model = f"round {line.newest_round}: {line.newest_model[:_HASH_DIGITS]}" if line.newest_model else UNKNOWN
    round_ = UNKNOWN if line.round is None else str(line.round)
    return (line.name, str(line.run), line.phase.value, round_, str(line.peers), model)


def draw_contracts(lines: Sequence[ContractLine]) -> Table:
    """Contracts, one a line."""
    numbers = ("run", "round", "peers")
    table = _table(*((name, "right" if name in numbers else "left") for name in CONTRACT_COLUMNS))
    for line in lines:
        table.add_row(*map(Text, contract_cells(line)))
    return table


def draw_contract(report: ContractReport, wide: bool, limits: Limits | None = None) -> Group:
    """A contract in full, or as much of it as `limits` allows."""
    limits = limits or Limits(peers=len(report.peers), rounds=len(report.rounds))
    parts: list[RenderableType] = [_labelled(list(_heading(report)))]
    parts += [_warning(warning.text) for warning in report.warnings]
    if report.peers:
        parts += ["", *_draw_peers(report.peers[: limits.peers], wide)]
        if len(report.peers) > limits.peers:
            left_out = len(report.peers) - limits.peers
            parts.append(Text(f"and {left_out} more peers, for which this window is too small", style="bold"))
        parts += [*map(Text, describe_metrics(report.peers)), Text(LEGEND, style="dim")]
    if report.rounds:
        newest = report.rounds[len(report.rounds) - limits.rounds :]
        shown = f"the newest {len(newest)} of {report.finals} final rounds"
        if len(newest) < len(report.rounds):
            shown += f" (window too small for {len(report.rounds)})"
        parts += ["", Text(shown, style="bold")]
        if newest:
            parts += [_draw_rounds(newest, report.run, wide), *map(Text, describe_remarks(newest)), ROUNDS_NOTE]
    return Group(*parts)


ROUNDS_NOTE: Final = Text(ROUNDS_LEGEND, style="dim")


def _heading(report: ContractReport) -> Iterator[tuple[str, str]]:
    yield "contract", f"{report.name}, run {report.run} (created by {report.creator})"
    yield from describe_place(report)
    yield from describe_terms(report)
    yield from describe_result(report)


def describe_place(report: ContractReport) -> Iterator[tuple[str, str]]:
    """Where a contract stands and what it waits for: labels and texts."""
    attempt = f", attempt {report.attempt}" if report.attempt and report.attempt > 1 else ""
    yield "phase", report.phase.value + (f", round {report.round}{attempt}" if report.round is not None else "")
    yield ("ended" if report.phase is Phase.COMPLETED else "waiting"), report.waits_for


def describe_terms(report: ContractReport) -> Iterator[tuple[str, str]]:
    """What its peers have agreed on: labels and texts; nothing until they have."""
    if report.sync_frequency is not None:
        yield "merging", describe_merging(report)
        yield "exchange", describe_exchange(report)
        if report.method_source:
            yield "plug-in", report.method_source
    if report.target is not None:
        yield "target", _describe_target(report)


def describe_result(report: ContractReport) -> Iterator[tuple[str, str]]:
    """Its newest model: labels and texts; nothing while there is none."""
    if report.newest_model:
        voids = f"; {report.voids} rounds of this run closed without a merge" if report.voids else ""
        yield "newest", f"round {report.newest_round}{voids}"
        yield "model", report.newest_model


def describe_merging(report: ContractReport) -> str:
    """How a contract's rounds are merged: method, options, of how many, how often."""
    options = ", ".join(f"{name} {decimal(round(value * MICRO))}" for name, value in report.merge_options.items())
    method = f"{report.merge_method} ({options})" if options else report.merge_method
    text = f"{method} of at least {report.min_peers} peers, every {report.interval} batches"
    adaptive = report.adaptive
    if adaptive is None:
        return text
    return (
        f"{text} now (adaptive: {adaptive.shortest} to {adaptive.longest} batches, by {adaptive.factor_percent} %, "
        f"began with {report.sync_frequency})"
    )


def describe_exchange(report: ContractReport) -> str:
    """How parameters travel between a contract's peers, who merges them, and who checks that."""
    witnesses = "1 witness" if report.witnesses == 1 else f"{report.witnesses or 'no'} witnesses"
    return f"wire {report.wire}, topology {report.topology}, {witnesses}"


def _describe_target(report: ContractReport) -> str:
    target = report.target
    assert target is not None  # the caller looked
    wanted = []
    if target.loss is not None:
        wanted.append(f"mean loss at most {show_figure(target.loss)}")
    if target.metric is not None:
        wanted.append(f"mean metric at {'most' if target.metric_falls else 'least'} {show_figure(target.metric)}")
    text = " and ".join(wanted)
    if target.reached:
        return f"{text}: reached"
    return f"{text}; reached by {target.streak} of {target.patience} models in a row"


PEER_COLUMNS: Final = ("peer", "state", "epoch", "ETA", "loss", "metric", "of round", "merged", "last 10")


def peer_cells(peer: PeerReport) -> tuple[str, ...]:
    """A peer in the columns `PEER_COLUMNS`."""
    return (
        peer.name,
        peer.activity,
        show_count(peer.epoch, peer.total_epochs),
        show_seconds(peer.eta_s),
        show_figure(peer.loss),
        show_figure(peer.metric),
        UNKNOWN if peer.figures_round is None else str(peer.figures_round),
        f"{peer.contributed}/{peer.offered}",
        f"{peer.recent_contributed}/{peer.recent_offered}",
    )


def _draw_peers(peers: Sequence[PeerReport], wide: bool) -> Iterator[RenderableType]:
    table = _table(*((name, "left" if name in ("peer", "state") else "right") for name in PEER_COLUMNS), wide=wide)
    for peer in peers:
        name, state, *others = peer_cells(peer)
        table.add_row(Text(name), Text(state, style=_STYLES[peer.state]), *others)
    yield table


def describe_metrics(peers: Sequence[PeerReport]) -> list[str]:
    """What the metric is: a line if all peers that show one name it alike, else a line for each name."""
    names: dict[str, list[str]] = {}
    for peer in peers:
        if peer.metric_name and peer.metric is not None:
            names.setdefault(peer.metric_name, []).append(peer.name)
    alike = len(names) == 1
    return [f"metric: {name}" + ("" if alike else f" ({', '.join(who)})") for name, who in names.items()]


ROUND_COLUMNS: Final = ("round", "final at", "merged", "collect", "merge", "loss", "metric", "every", "model")


def round_cells(round_: RoundReport, wide: bool) -> tuple[str, ...]:
    """A final round in the columns `ROUND_COLUMNS`."""
    return (
        str(round_.round),
        show_time(round_.time_ms, "%m-%d %H:%M:%S" if wide else "%m-%d %H:%M"),
        show_merged(round_),
        show_elapsed(round_.collect_ms),
        show_elapsed(round_.merge_ms),
        show_figure(round_.mean_loss),
        show_figure(round_.mean_metric),
        str(round_.interval),
        round_.model[:_HASH_DIGITS],
    )


def _draw_rounds(rounds: Sequence[RoundReport], run: int, wide: bool) -> Table:
    runs = any(round_.run != run for round_ in rounds)
    columns = ("run", *ROUND_COLUMNS) if runs else ROUND_COLUMNS
    table = _table(*((name, "left" if name == "model" else "right") for name in columns), wide=wide)
    for round_ in rounds:
        table.add_row(*((str(round_.run),) if runs else ()), *round_cells(round_, wide))
    return table


def show_merged(round_: RoundReport) -> str:
    """How many of those that were there contributed."""
    if round_.drawn:
        return "drawn"
    return f"{len(round_.contributors)}/{len(round_.participants) + len(round_.missing)}"


def describe_remarks(
    rounds: Sequence[RoundReport], describe: Callable[[RoundReport], Sequence[str]] | None = None
) -> list[str]:
    """What is to be said of rounds, the same of several in a row once; by default who was absent from them."""
    spans: list[tuple[int, int, int, str]] = []
    for round_ in rounds:
        for remark in (describe or describe_absences)(round_):
            before = (round_.run, round_.round - 1, remark)
            at = next((i for i, (run, _, last, text) in enumerate(spans) if (run, last, text) == before), None)
            if at is None:
                spans.append((round_.run, round_.round, round_.round, remark))
            else:
                spans[at] = (round_.run, spans[at][1], round_.round, remark)
    return [
        f"round {first}: {text}" if first == last else f"rounds {first} to {last}: {text}"
        for _, first, last, text in spans
    ]


def describe_absences(round_: RoundReport) -> list[str]:
    """Who did not contribute to a round, why, and whose parameters all adopted where one was drawn."""
    remarks = []
    if round_.drawn:
        remarks.append(f"all adopted the parameters of {short_name(round_.contributors[0])}, which was drawn")
    if round_.missing:
        remarks.append(f"without {', '.join(map(short_name, round_.missing))}, which had not checked in")
    remarks += [f"without {dropped.name}: {dropped.reason}" for dropped in round_.dropped]
    if round_.attempts > 1:
        remarks.append(f"final in attempt {round_.attempts}")
    return remarks


def _table(*columns: tuple[str, str], wide: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1 if wide else 0), collapse_padding=True)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def _labelled(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(f"{label:<9}", style="dim"), Text(text))
    return table


def _warning(text: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(f"{'WARNING':<9}", style="bold yellow"), Text(text))
    return table


# --- a window, and lines ----------------------------------------------------------------------------------------------


class Fitted:
    """A contract as it fits into a window: fewer rounds first, then fewer peers, never without a word about it."""

    def __init__(self, report: ContractReport, notes: Sequence[str] = ()) -> None:
        """Show `report`, and below it `notes`."""
        self._report = report
        self._notes = tuple(notes)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The fullest form that fits; the smallest where none does."""
        height = options.max_height or console.height
        yield next((form for form in self._forms(options) if _lines(console, options, form) < height), self._smallest)

    def _forms(self, options: ConsoleOptions) -> Iterator[Group]:
        peers, rounds = len(self._report.peers), len(self._report.rounds)
        for count in range(rounds, -1, -1):
            yield self._form(options, peers, count)
        for count in range(peers - 1, -1, -1):
            yield self._form(options, count, 0)

    def _form(self, options: ConsoleOptions, peers: int, rounds: int) -> Group:
        drawn = draw_contract(self._report, is_wide(options.max_width), Limits(peers=peers, rounds=rounds))
        return Group(drawn, *(Text(note, style="bold") for note in self._notes))

    @property
    def _smallest(self) -> Group:
        title = f"{self._report.name}: {self._report.phase.value}; this window is too small to show it"
        return Group(Text(title), *map(Text, self._notes))


def is_wide(columns: int) -> bool:
    """Whether there is room for wider gaps and times to the second."""
    return columns >= _WIDE


def _lines(console: Console, options: ConsoleOptions, form: RenderableType) -> int:
    return len(console.render_lines(form, options.update(height=None), pad=False))


def describe_changes(before: ContractReport | None, after: ContractReport) -> list[str]:
    """What is new since an earlier report of the contract, a line each: final rounds, warnings, what it waits for."""
    last = (before.rounds[-1].run, before.rounds[-1].round) if before and before.rounds else (-1, -1)
    lines = [describe_final(round_) for round_ in after.rounds if (round_.run, round_.round) > last]
    known = {warning.text for warning in before.warnings} if before else set()
    lines += [f"WARNING {warning.text}" for warning in after.warnings if warning.text not in known]
    now = _describe_now(after)
    return lines if before is not None and _describe_now(before) == now else [*lines, now]


def describe_final(round_: RoundReport) -> str:
    """A final round in a line."""
    merged = "" if round_.drawn else f": {show_merged(round_).replace('/', ' of ')} contributed"
    figures = [
        f"{name} of the model before {show_figure(value)}"
        for name, value in (("mean loss", round_.mean_loss), ("mean metric", round_.mean_metric))
        if value is not None
    ]
    parts = [
        f"round {round_.round} final at {show_time(round_.time_ms, '%H:%M:%S')}{merged}",
        *describe_absences(round_),
        *figures,
    ]
    return "; ".join([*parts, f"model {round_.model[:_HASH_DIGITS]}"])


def _describe_now(report: ContractReport) -> str:
    where = f", round {report.round}" if report.round is not None else ""
    return f"{report.name}, run {report.run}: {report.phase.value}{where}: {report.waits_for}"
