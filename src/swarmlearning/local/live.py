"""Shows a training while it runs: a live table on a terminal, otherwise one plain line a round.

Fed with `Training` records as an SN streams them; pure functions make the rows and sentences. Starts nothing.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import msgspec
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from swarmlearning.contracts.records import MICRO, Peer, PeerState, Phase, Training
from swarmlearning.reports.status import describe_activity
from swarmlearning.types import NodeId

COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")

# So that nothing else is cut at 100 columns.
_NAME_WIDTH: Final = 24
_HEADING_WIDTH: Final = 10


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's line in the table, as text."""

    name: str
    state: str
    epoch: str = ""
    round: str = ""
    loss: str = ""
    metric: str = ""
    contributed: str = ""
    received: str = ""
    sent: str = ""


def build_rows(training: Training | None, names: Mapping[NodeId, str]) -> list[Row]:
    """One row for each node of `names`, and for enrolled peers that are not in it."""
    peers = {peer.node: peer for peer in training.peers} if training is not None else {}
    rows = []
    for node in [*names, *(node for node in peers if node not in names)]:
        name, peer = names.get(node, node), peers.get(node)
        if peer is None or training is None:
            rows.append(Row(name=name, state="starting"))
        else:
            rows.append(_row(name, peer, training))
    return rows


def _row(name: str, peer: Peer, training: Training) -> Row:
    progress = peer.progress
    epoch = f"{progress.epoch}" if progress.epoch >= 0 else ""
    if epoch and progress.total_epochs >= 0:
        epoch += f"/{progress.total_epochs}"
    return Row(
        name=name,
        state=describe_activity(peer, training),
        epoch=epoch,
        round=str(training.round.number if training.round else training.last.round if training.last else ""),
        loss=show_micro(progress.loss_micro),
        metric=show_micro(progress.metric_micro),
        contributed=f"{peer.rounds_contributed}/{peer.rounds_offered}",
        received=show_bytes(progress.bytes_received),
        sent=show_bytes(progress.bytes_sent),
    )


def metric_heading(training: Training | None) -> str:
    """What the peers measure, on narrow lines; `metric` if they name nothing or different things."""
    names = {p.progress.metric_name for p in training.peers if p.progress.metric_name} if training else set()
    if len(names) != 1:
        return "metric"
    return "\n".join(part[:_HEADING_WIDTH] for part in names.pop().split("_"))


def describe_state(training: Training | None, names: Mapping[NodeId, str]) -> str:
    """One sentence: what is happening, and who is waited for."""
    if training is None or training.phase is Phase.UNINITIALIZED:
        return "waiting for the programs to enrol"
    if training.phase is Phase.COMPLETED:
        if training.last is None:
            return "complete, without a merged model"
        return f"complete after round {training.last.round}: model {training.last.sha256.hex()[:16]}"
    assert training.round is not None  # COLLECTING and MERGING have an open round
    number = training.round.number
    if training.phase is Phase.MERGING:
        # The first merge of a round is attempt 1; more say that a leader or contributor was replaced.
        again = f", attempt {training.round.attempt}" if training.round.attempt > 1 else ""
        return f"round {number}: merging {len(training.round.contributors)} contributions{again}"
    needed = max((peer.min_peers for peer in training.peers), default=0)
    if len(training.peers) < needed:
        missing = [name for node, name in names.items() if all(peer.node != node for peer in training.peers)]
        return f"round {number}: {len(training.peers)} enrolled, {needed} needed; waiting for {_join(missing)}"
    arrived = {c.node for c in training.round.checkins}
    late = [names.get(p.node, p.node) for p in training.peers if p.state is PeerState.LIVE and p.node not in arrived]
    if arrived and late:
        return f"round {number}: {len(arrived)} of {len(training.peers)} checked in; waiting for {_join(late)}"
    return f"round {number}: training"


def describe_round(training: Training, names: Mapping[NodeId, str]) -> str:
    """One line about the newest final round, with the losses that its contributors showed when they checked in."""
    last = training.last
    assert last is not None
    if last.round == 0 and len(last.contributors) == 1:
        drawn = last.contributors[0]
        return f"round 0: all start from the parameters of {names.get(drawn, drawn)}, which was drawn"
    parts = [f"round {last.round}: {len(last.contributors)} of {len(training.peers)} contributed"]
    losses = [
        f"{names.get(peer.node, peer.node)} {show_micro(peer.progress.loss_micro)}"
        for peer in training.peers
        if peer.progress.loss_micro is not None and peer.node in last.contributors
    ]
    if losses:
        parts.append("loss " + ", ".join(losses))
    parts += [f"without {names.get(dropped.node, dropped.node)}: {dropped.reason}" for dropped in last.dropped]
    return "; ".join(parts)


def show_micro(value: int | None) -> str:
    """A figure in millionths, for people."""
    return "" if value is None else f"{value / MICRO:.4f}"


def show_bytes(count: int) -> str:
    """A number of bytes, for people."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "more peers"


class View:
    """What the user sees of a training. A context manager; on a terminal the table stays at the bottom."""

    def __init__(self, console: Console, names: Mapping[NodeId, str], *, title: str) -> None:
        """Show peers under their `names`, in that order."""
        self._console = console
        self._names = dict(names)
        self._colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(self._names.values())}
        self._width = max(map(len, self._colours), default=0)
        self._title = title
        self._training: Training | None = None
        self._shown: tuple[str, int, int] | None = None
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, training: Training) -> None:
        """Show a newer state of the training (or of the next one)."""
        self._training = training
        if self._live is None and training.last is not None:
            final = (training.name, training.run, training.last.round)
            if final != self._shown:
                self._shown = final
                self.say(f"{self._title}: {describe_round(training, self._names)}")

    def retitle(self, title: str) -> None:
        """Show another training from here on."""
        self._training, self._title = None, title

    def line(self, name: str, text: str) -> None:
        """Print one line of a peer's program, prefixed and in the peer's colour."""
        prefix = Text(f"{name:<{self._width}} | ", style=self._colours.get(name, ""))
        self._console.print(prefix + Text(text), soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """Print a line of our own."""
        self._console.print(Text(text), soft_wrap=True, highlight=False)

    def _render(self) -> Table:
        # Called from the live display's thread: works on one frozen record, fetched once.
        training = self._training
        table = Table(
            title=self._title,
            caption=describe_state(training, self._names),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("", no_wrap=True, max_width=_NAME_WIDTH)
        table.add_column("state", no_wrap=True)
        for column in ("epoch", "round", "loss", metric_heading(training), "merged", "in", "out"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in build_rows(training, self._names):
            name = Text(row.name, style=self._colours.get(row.name, ""))
            table.add_row(name, *(getattr(row, field) for field in Row.__struct_fields__[1:]))
        return table
