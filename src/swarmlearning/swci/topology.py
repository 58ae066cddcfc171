"""A picture of who belongs to whom in a network, from the rows of LIST NODES. Spec: docs/spec/swci-python.md, CI-68.

Every SN hangs from the line that stands for the ledger; below it, like files in a tree, what says that it belongs to
it. Needs networkx and matplotlib (extra `topology`), which are imported when a picture is drawn; works without a
display and leaves pyplot and its settings alone. Does not: ask anybody.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.topology import NODE_COLUMNS
from swarmlearning.transport.wire import one_line

if TYPE_CHECKING:
    import networkx as nx

SN_COLOUR: Final = "#56B4E9"
SWOP_COLOUR: Final = "#009E73"
SL_COLOUR: Final = "#E69F00"
"""Of Okabe and Ito's palette, which people with any colour vision tell apart; the shapes differ too."""

MAX_NODES: Final = 1000
"""Most nodes that are drawn."""

_KINDS: Final = {
    "SENTINEL": ("*", "SN", "sentinel"),
    "SN": ("s", "SN", "SN"),
    "SWOP": ("D", "SWOP", "SWOP"),
    "SL": ("o", "SL", "SL"),
    "other": ("X", "other", "other"),
}
"""Marker, whose colour, and name in the legend; in the legend's order."""

_OTHER_COLOUR: Final = "#999999"
_INK, _MUTED, _LINE = "#1a1a1a", "#595959", "#8c8c8c"

_DPI: Final = 150
_ROW: Final = 0.42
"""Height of a node with its two lines of text, inches."""
_INDENT: Final = 0.32
_GAP: Final = 0.35
"""Between blocks side by side."""
_ROW_GAP: Final = 0.1
"""Between blocks one above another."""
_MARGIN: Final = 0.3
_BUS: Final = 0.34
"""How far the ledger's line lies above the SNs."""
_LEGEND: Final = 0.5
_LEAST_WIDTH: Final = 6.3
"""So that the legend has room."""
_NAME_PT: Final = 10.0
_NOTE_PT: Final = 8.0
_TEXT: Final = 0.2
"""How far right of a node its text begins."""
_MAX_NAME: Final = 36
_MAX_NOTE: Final = 72
_MAX_DEPTH: Final = 8


class TopologyPng(bytes):
    """A PNG file's bytes; a notebook shows the picture."""

    __slots__ = ()

    def _repr_png_(self) -> bytes | None:
        """What IPython asks for; see its documentation on rich display."""
        return bytes(self) or None


class _Spot(msgspec.Struct, frozen=True):
    """Where a node is drawn, inches from the left and from the top."""

    index: int
    x: float
    y: float


class _Block(msgspec.Struct, frozen=True):
    """A node that belongs to none, and all that belong to it: index and depth of each, in the order of drawing."""

    members: tuple[tuple[int, int], ...]
    width: float

    @property
    def height(self) -> float:
        return _ROW * len(self.members)


def build_graph(rows: Sequence[Mapping[str, str]]) -> "nx.DiGraph[int]":
    """A node for each row, by its number, with the row as data; an edge from whom each says that it belongs to.

    SNs belong to nobody. A row that names no other listed one belongs to nobody either.

    Raises:
        ConfigurationError: networkx is not installed.
    """
    try:
        import networkx as nx
    except ImportError as error:
        raise _missing(error) from error
    graph: nx.DiGraph[int] = nx.DiGraph()
    numbers: dict[str, int] = {}
    for index, row in enumerate(rows):
        graph.add_node(index, **row)
        numbers.setdefault(row["UUID"], index)
    for index, row in enumerate(rows):
        parent = numbers.get(row["ParentUUID"])
        if parent is not None and parent != index and _kind(row) not in ("SENTINEL", "SN"):
            graph.add_edge(parent, index)
    return graph


def draw_topology(
    rows: Sequence[Mapping[str, str]], colours: Mapping[str, str], attrs: Sequence[str] | None = None
) -> TopologyPng:
    """The picture, PNG.

    Args:
        rows: of LIST NODES, by column.
        colours: of `SN`, `SWOP` and `SL`, as matplotlib takes them.
        attrs: columns to show beside the address; None: none.

    Raises:
        ConfigurationError: networkx or matplotlib is not installed, a colour or column does not exist, or there are
            more than `MAX_NODES` rows.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import is_color_like
        from matplotlib.figure import Figure
        from matplotlib.font_manager import FontProperties
    except ImportError as error:
        raise _missing(error) from error
    for name, colour in colours.items():
        if not is_color_like(colour):
            raise ConfigurationError(f"colour {str(colour)[:40]!r} of {name}: expected one such as #56B4E9")
    missing = [column for column in NODE_COLUMNS if rows and column not in rows[0]]
    if missing:
        raise ConfigurationError(f"LIST NODES has no column {', '.join(missing)}; is the service a newer one?")
    if len(rows) > MAX_NODES:
        raise ConfigurationError(f"{len(rows)} nodes; at most {MAX_NODES} are drawn")
    columns = _columns(attrs)
    texts = [(_name(row), _note(row, columns)) for row in rows]
    renderer = FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()

    def measure(text: str, size: float) -> float:
        width, _, _ = renderer.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
        return float(width) / _DPI

    widths = [_TEXT + max(measure(name, _NAME_PT), measure(note, _NOTE_PT)) for name, note in texts]
    spots, stubs, width, height = _place(_blocks(build_graph(rows), rows, widths), rows)

    figure = Figure(figsize=(width, height + _LEGEND), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height + _LEGEND, 0)
    _draw_lines(axes, rows, spots, stubs)
    palette = {**colours, "other": _OTHER_COLOUR}
    for spot in spots.values():
        name, note = texts[spot.index]
        _draw_node(axes, spot, _kind(rows[spot.index]), palette)
        axes.text(spot.x + _TEXT, spot.y - 0.005, name, size=_NAME_PT, color=_INK, va="bottom", parse_math=False)
        axes.text(spot.x + _TEXT, spot.y + 0.02, note, size=_NOTE_PT, color=_MUTED, va="top", parse_math=False)
    if not rows:
        axes.text(_MARGIN + 0.15, _MARGIN, "no nodes are listed", size=_NAME_PT, color=_MUTED, va="center")
    _draw_legend(axes, rows, palette, height, measure)
    file = io.BytesIO()
    canvas.print_png(file)
    return TopologyPng(file.getvalue())


# --- what is where --------------------------------------------------------------------------------------------------


def _blocks(graph: "nx.DiGraph[int]", rows: Sequence[Mapping[str, str]], widths: Sequence[float]) -> list[_Block]:
    """Every node in one block, SNs' first; of nodes that belong to each other in a circle the first one is the root."""
    first = {"SENTINEL": 0, "SN": 1}
    heads = sorted((index for index in graph if not graph.in_degree(index)), key=lambda i: first.get(_kind(rows[i]), 2))
    blocks: list[_Block] = []
    seen: set[int] = set()
    for root in [*heads, *graph]:
        if root in seen:
            continue
        members: list[tuple[int, int]] = []
        waiting = [(root, 0)]
        while waiting:
            index, depth = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            members.append((index, min(depth, _MAX_DEPTH)))
            waiting += [(child, depth + 1) for child in reversed(list(graph.successors(index)))]
        blocks.append(_Block(tuple(members), max(_INDENT * depth + widths[i] for i, depth in members)))
    return blocks


def _place(
    blocks: Sequence[_Block], rows: Sequence[Mapping[str, str]]
) -> tuple[dict[int, _Spot], list[list[_Spot]], float, float]:
    """Where every node is, the SNs of each row of blocks, and the size of it all, inches."""
    column = max((block.width for block in blocks), default=1.0) + _GAP
    across = _blocks_across(blocks, column)
    spots: dict[int, _Spot] = {}
    stubs: list[list[_Spot]] = []
    top = _MARGIN
    for begin in range(0, len(blocks), across):
        row = blocks[begin : begin + across]
        heads: list[_Spot] = []
        for place, block in enumerate(row):
            left = _MARGIN + 0.15 + place * column
            for line, (index, depth) in enumerate(block.members):
                spots[index] = _Spot(index, left + _INDENT * depth, top + _BUS + _ROW * line)
            head = block.members[0][0]
            if _kind(rows[head]) in ("SENTINEL", "SN"):
                heads.append(spots[head])
        stubs.append(heads)
        top += _BUS + max(block.height for block in row) + _ROW_GAP
    return spots, stubs, max(_MARGIN * 2 + column * across, _LEAST_WIDTH), top


def _blocks_across(blocks: Sequence[_Block], column: float) -> int:
    """How many blocks stand side by side, so that the picture is about as wide as a screen."""

    def unlike(across: int) -> float:
        rows = [blocks[i : i + across] for i in range(0, len(blocks), across)]
        height = sum(_BUS + _ROW_GAP + max(block.height for block in row) for row in rows) + _LEGEND
        ratio = column * across / height
        return max(ratio / 1.6, 1.6 / ratio)

    most = min(range(1, len(blocks) + 1), key=unlike, default=1)
    return math.ceil(len(blocks) / math.ceil(len(blocks) / most)) if blocks else 1  # no row much emptier than others


# --- what it looks like ---------------------------------------------------------------------------------------------


def _draw_lines(
    axes: Any,  # noqa: ANN401  # matplotlib is not there for mypy
    rows: Sequence[Mapping[str, str]],
    spots: Mapping[int, _Spot],
    stubs: Sequence[Sequence[_Spot]],
) -> None:
    graph = build_graph(rows)
    # From a parent down, then to the right, as in a tree of files.
    for parent, child in graph.edges():
        above, below = spots[parent], spots[child]
        if below.x > above.x:
            axes.plot([above.x, above.x, below.x], [above.y, below.y, below.y], color=_LINE, lw=1.1, zorder=1)
    levels = [heads for heads in stubs if heads]
    for heads in levels:
        level = heads[0].y - _BUS
        axes.plot([_MARGIN / 2, max(head.x for head in heads)], [level, level], color=_INK, lw=1.6, zorder=1)
        for head in heads:
            axes.plot([head.x, head.x], [level, head.y], color=_INK, lw=1.6, zorder=1)
    if levels:
        ends = [levels[0][0].y - _BUS, levels[-1][0].y - _BUS]
        axes.plot([_MARGIN / 2, _MARGIN / 2], ends, color=_INK, lw=1.6, zorder=1)
        axes.text(_MARGIN / 2, ends[0] - 0.04, "ledger", size=_NOTE_PT, color=_MUTED, va="bottom", style="italic")


def _draw_node(axes: Any, spot: _Spot, kind: str, palette: Mapping[str, str]) -> None:  # noqa: ANN401
    marker, colour, _ = _KINDS[kind]
    size = 260 if marker == "*" else 95
    fill = [palette[colour]]
    axes.scatter([spot.x], [spot.y], s=size, marker=marker, c=fill, edgecolors=_INK, linewidths=0.8, zorder=3)


def _draw_legend(
    axes: Any,  # noqa: ANN401
    rows: Sequence[Mapping[str, str]],
    palette: Mapping[str, str],
    top: float,
    measure: Callable[[str, float], float],
) -> None:
    x = _MARGIN + 0.15
    kinds = [_kind(row) for row in rows]
    for kind, (_, _, label) in _KINDS.items():
        count = kinds.count(kind)
        if count or kind in ("SN", "SWOP", "SL"):
            _draw_node(axes, _Spot(-1, x, top + _LEGEND / 3), kind, palette)
            text = f"{label} ({count})"
            axes.text(x + _TEXT, top + _LEGEND / 3, text, size=_NAME_PT, color=_INK, va="center")
            x += _TEXT + measure(text, _NAME_PT) + _GAP


# --- rows -----------------------------------------------------------------------------------------------------------


def _kind(row: Mapping[str, str]) -> str:
    kind = row["NodeType"].upper()
    kind = "SN" if kind == "FULLNODE" else kind
    return kind if kind in _KINDS else "other"


def _name(row: Mapping[str, str]) -> str:
    return _shorten(row["ContainerName"] or row["UUID"] or row["HostIP"], _MAX_NAME)


def _note(row: Mapping[str, str], attrs: Sequence[str]) -> str:
    shown = [row["HostIP"], *(row[attr] for attr in attrs)]
    return _shorten(" · ".join(text for text in shown if text), _MAX_NOTE)


def _columns(attrs: Sequence[str] | None) -> list[str]:
    """Columns that a user named, in whatever case; type, address and name are shown anyway."""
    given = [attrs] if isinstance(attrs, str) else list(attrs or ())
    known = {column.lower(): column for column in NODE_COLUMNS}
    unknown = [str(attr)[:40] for attr in given if str(attr).lower() not in known]
    if unknown:
        raise ConfigurationError(f"attrs {', '.join(unknown)}: expected some of {', '.join(NODE_COLUMNS)}")
    chosen = [known[attr.lower()] for attr in given]
    return [column for column in dict.fromkeys(chosen) if column not in ("NodeType", "HostIP", "ContainerName")]


def _shorten(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _missing(error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        f"plotTopology needs {error.name or 'networkx and matplotlib'}: pip install 'swarmlearning[topology]'"
    )
