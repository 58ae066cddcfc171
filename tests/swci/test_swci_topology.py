"""The picture of a network: every node once, whatever the rows say, and readable."""

import builtins
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_service import World, made_world

from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.topology import NODE_COLUMNS
from swarmlearning.swci import topology
from swarmlearning.swci.topology import (
    SL_COLOUR,
    SN_COLOUR,
    SWOP_COLOUR,
    TopologyPng,
    build_graph,
    draw_topology,
)

COLOURS = {"SN": SN_COLOUR, "SWOP": SWOP_COLOUR, "SL": SL_COLOUR}
PNG = b"\x89PNG\r\n\x1a\n"


def row(kind: str, name: str, parent: str = "", host: str = "10.0.0.1") -> dict[str, str]:
    return dict(
        zip(NODE_COLUMNS, (kind, host, "30304", name, f"uuid-{name}", parent and f"uuid-{parent}", ""), strict=True)
    )


def swarm(organisations: int, sls: int) -> list[dict[str, str]]:
    rows = []
    for number in range(organisations):
        sn, swop = f"sn-{number}@hospital-{number}.example", f"swop@hospital-{number}.example"
        rows += [row("SN" if number else "SENTINEL", sn), row("SWOP", swop, sn)]
        rows += [row("SL", f"sl-{sl}@hospital-{number}.example", swop) for sl in range(sls)]
    return rows


class Drawing:
    """Axes that note what is drawn on them: marker to places, and texts with theirs, inches."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float, str, str]] = []
        self.texts: list[tuple[float, float, str, float, dict[str, Any]]] = []
        self.lines: list[tuple[list[float], list[float]]] = []
        self.width = self.height = 0.0

    def set_axis_off(self) -> None: ...

    def set_xlim(self, left: float, right: float) -> None:
        self.width = right - left

    def set_ylim(self, bottom: float, top: float) -> None:
        self.height = bottom - top

    def scatter(self, x: list[float], y: list[float], *, marker: str, c: list[str], **_: Any) -> None:
        self.points.append((x[0], y[0], marker, c[0]))

    def plot(self, x: list[float], y: list[float], **_: Any) -> None:
        self.lines.append((x, y))

    def text(self, x: float, y: float, text: str, *, size: float, **others: Any) -> None:
        self.texts.append((x, y, text, size, others))


def drawn(rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Drawing:
    from matplotlib.figure import Figure

    drawing = Drawing()
    with monkeypatch.context() as patched:
        patched.setattr(Figure, "add_axes", lambda _self, _place: drawing)
        draw_topology(rows, options.pop("colours", COLOURS), **options)
    return drawing


def test_a_picture_is_a_png_and_shows_itself_in_a_notebook() -> None:
    png = draw_topology(swarm(3, 1), COLOURS)
    assert isinstance(png, bytes)
    assert png.startswith(PNG)
    assert png.endswith(b"IEND\xaeB`\x82")
    assert png._repr_png_() == bytes(png)
    assert type(png._repr_png_()) is bytes
    assert TopologyPng()._repr_png_() is None
    assert not TopologyPng()


def test_the_same_network_gives_the_same_picture() -> None:
    assert draw_topology(swarm(4, 2), COLOURS) == draw_topology(swarm(4, 2), COLOURS)


def test_ci68_each_node_is_drawn_once_its_kind_by_shape_and_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*swarm(4, 1), row("FULLNODE", "full"), row("WHAT", "what")]
    drawing = drawn(rows, monkeypatch)
    marks = [(marker, colour) for _, _, marker, colour in drawing.points[: len(rows)]]
    assert sorted(marks) == sorted(
        [
            ("*", SN_COLOUR),
            *[("s", SN_COLOUR)] * 4,
            *[("D", SWOP_COLOUR)] * 4,
            *[("o", SL_COLOUR)] * 4,
            ("X", "#999999"),
        ]
    )
    texts = [text for _, _, text, _, _ in drawing.texts]
    assert all(texts.count(one["ContainerName"]) == 1 for one in rows)
    legend = texts[-5:]
    assert legend == ["sentinel (1)", "SN (4)", "SWOP (4)", "SL (4)", "other (1)"]
    assert drawing.points[len(rows)][2] == "*"


WIDE = [row("SN", f"{number}{letter * 35}") for number, letter in enumerate("W@MW%i" * 2)]


@pytest.mark.parametrize(
    "rows", [swarm(1, 0), swarm(4, 1), swarm(4, 8), swarm(10, 2), swarm(40, 0), swarm(1, 39), WIDE], ids=len
)
def test_ci68_no_text_lies_on_another_or_outside(rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured by the outlines of the letters, not by what the layout believes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    drawing = drawn(rows, monkeypatch, attrs=["Port", "UUID"])
    boxes = []
    for x, y, text, size, others in drawing.texts:
        extent = TextPath((0, 0), text, size=size, prop=FontProperties(), usetex=False).get_extents()
        height = size / 72
        top = {"bottom": y - height, "top": y, "center": y - height / 2}[others["va"]]
        boxes.append((x, top, x + extent.width / 72, top + height, text))
    for left, top, right, bottom, text in boxes:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= drawing.width, text
        assert bottom <= drawing.height, text
    boxes.sort()
    for index, (left, top, right, bottom, text) in enumerate(boxes):
        for other_left, other_top, _, other_bottom, other in boxes[index + 1 :]:
            if other_left >= right:
                break
            assert other_top >= bottom - 0.001 or other_bottom <= top + 0.001, (text, other)
        assert left < right


def test_the_picture_is_about_as_wide_as_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for organisations in (4, 9, 20, 60):
        drawing = drawn(swarm(organisations, 2), monkeypatch)
        assert 0.8 < drawing.width / drawing.height < 3.2, organisations


def test_ci68_parents_are_joined_to_what_names_them_and_sns_to_the_ledger() -> None:
    graph = build_graph(swarm(2, 2))
    assert set(graph.edges()) == {(0, 1), (1, 2), (1, 3), (4, 5), (5, 6), (5, 7)}
    assert graph.nodes[2]["ContainerName"] == "sl-0@hospital-0.example"


def test_ci68_what_belongs_to_nobody_listed_stands_alone_and_circles_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row("SL", "lost", "gone"),
        row("SL", "self", "self"),
        row("SWOP", "ring-1", "ring-3"),
        row("SWOP", "ring-2", "ring-1"),
        row("SWOP", "ring-3", "ring-2"),
        row("SN", "sn-1", "sn-2"),
        row("SN", "sn-2", "sn-1"),
        row("SL", "twin"),
        row("SL", "twin"),
    ]
    assert set(build_graph(rows).edges()) == {(4, 2), (2, 3), (3, 4)}  # neither to itself nor between SNs
    drawing = drawn(rows, monkeypatch)
    texts = [text for _, _, text, _, _ in drawing.texts]
    assert [texts.count(one["ContainerName"]) for one in rows] == [1] * 7 + [2] * 2
    places = {(x, y) for x, y, _, _ in drawing.points[: len(rows)]}
    assert len(places) == len(rows)


def test_a_long_chain_is_drawn_without_a_staircase(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("SN", "n0"), *(row("SL", f"n{index}", f"n{index - 1}") for index in range(1, 900))]
    assert drawn(rows, monkeypatch).width < 12


@pytest.mark.slow
def test_ci68_the_largest_network_is_drawn() -> None:
    png = draw_topology(swarm(250, 2), COLOURS)
    assert len(png) < 20_000_000
    assert png.startswith(PNG)


def test_ci68_a_larger_network_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1001 nodes; at most 1000 are drawn"):
        draw_topology([row("SL", str(index)) for index in range(1001)], COLOURS)


def test_names_from_elsewhere_are_text_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dollars would be formulas, control characters and directions would mislead, and long ones cover others."""
    names = [r"$\frac{1}{0}$", "a\x1b[2J\nb", "x\u202ey", "n" * 500, "", "<b>"]
    rows = [{**row("SL", "z"), "ContainerName": name, "HostIP": name, "UUID": f"u{i}"} for i, name in enumerate(names)]
    assert draw_topology(rows, COLOURS).startswith(PNG)
    drawing = drawn(rows, monkeypatch)
    shown = [text for _, _, text, size, _ in drawing.texts if size == 10.0]
    assert shown[0] == r"$\frac{1}{0}$"
    assert all(text.isprintable() and len(text) <= 36 for text in shown)
    assert all(others.get("parse_math") is False for _, _, text, _, others in drawing.texts if "$" in text)
    assert "u4" in shown  # what has no name is shown by its UUID


def test_no_nodes_is_a_picture_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw_topology([], COLOURS).startswith(PNG)
    assert "no nodes are listed" in [text for _, _, text, _, _ in drawn([], monkeypatch).texts]


def test_more_columns_are_shown_in_the_order_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = drawn(
        [row("SL", "a", "b")], monkeypatch, attrs=["parentUUID", "Port", "ContainerName", "Port", "nodetype"]
    )
    assert "10.0.0.1 · uuid-b · 30304" in [text for _, _, text, _, _ in drawing.texts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attrs": ["Colour"]}, "attrs Colour: expected some of NodeType, HostIP"),
        ({"attrs": "Colour"}, "attrs Colour"),
        ({"colours": {**COLOURS, "SL": "pinkish"}}, "colour 'pinkish' of SL: expected one such as #56B4E9"),
        ({"colours": {**COLOURS, "SN": None}}, "colour 'None' of SN"),
    ],
)
def test_a_wrong_argument_is_told(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        draw_topology([row("SL", "a")], options.get("colours", COLOURS), options.get("attrs"))


def test_rows_of_another_table_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no column HostIP, Port"):
        draw_topology([{"NodeType": "SL"}], COLOURS)


def test_ci68_pyplot_and_its_settings_are_left_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    sys.modules.pop("matplotlib.pyplot", None)
    draw_topology(swarm(2, 1), COLOURS)
    assert "matplotlib.pyplot" not in sys.modules
    assert dict(mpl.rcParams) == before


def test_pictures_may_be_drawn_in_several_threads_at_once() -> None:
    alone = zlib.crc32(draw_topology(swarm(4, 2), COLOURS))
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(zlib.crc32(draw_topology(swarm(4, 2), COLOURS)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [alone] * 4


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


def lines_of(rows: list[dict[str, str]]) -> list[str]:
    return [",".join(NODE_COLUMNS), *(",".join(one.values()) for one in rows)]


def test_ci68_the_class_draws_what_list_nodes_answers(world: World) -> None:
    rows = swarm(2, 1)
    swci = world.swci(world.service(lambda _: lines_of(rows)))
    assert swci.plotTopology() == draw_topology(rows, COLOURS)
    mine = swci.plotTopology("#ADD8E6", SWOPColor="#33FF33", SLColor="#FFCCCB", attrs=["ContainerName"])
    assert mine == draw_topology(rows, {"SN": "#ADD8E6", "SWOP": "#33FF33", "SL": "#FFCCCB"})
    assert mine != swci.plotTopology()


def test_a_picture_that_cannot_be_drawn_is_no_bytes(world: World) -> None:
    swci = world.swci(world.service(lambda _: ["ERROR no context is chosen"]))
    assert swci.plotTopology() == b""
    assert swci.getErrors() == "ERROR no context is chosen"


@pytest.mark.parametrize("package", ["networkx", "matplotlib"])
def test_without_the_extra_one_line_says_how_to_install_it(
    world: World, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = builtins.__import__

    def missing(name: str, *others: Any) -> ModuleType:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *others)

    swci = world.swci(world.service(lambda _: lines_of(swarm(1, 1))))
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", missing)
        assert swci.plotTopology() == b""
    assert (swci.getErrors() or "").startswith(f"ERROR plotTopology needs {package}")
    assert (swci.getErrors() or "").endswith("pip install 'swarmlearning[topology]'")


def test_default_colours_differ_for_every_kind_of_colour_vision() -> None:
    """In brightness too (ITU-R BT.709), which all see."""

    def brightness(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    assert {SN_COLOUR, SWOP_COLOUR, SL_COLOUR} <= {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00"}
    markers = [marker for marker, _, _ in topology._KINDS.values()]
    assert len(set(markers)) == len(markers)
    assert abs(brightness(SWOP_COLOUR) - brightness(SN_COLOUR)) > 0.1
