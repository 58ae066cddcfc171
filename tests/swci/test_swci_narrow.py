"""Tables on terminals that are too narrow for them. Rule CI-49."""

import io
import re

import pytest
from rich.console import Console

from swarmlearning.swci.entries import Grid, Shown
from swarmlearning.swci.running import Done
from swarmlearning.swci.screen import Screen

GRID = Grid(("name", "state", "uuid"), (("heart", "running", "u" * 36), ("lung", "idle", "v" * 36)), spare=("uuid",))


class Terminal(io.StringIO):
    """A file that is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)


def draw(width: int, grid: Grid = GRID) -> list[str]:
    out = Terminal()
    Screen(out, width=width).show(Done(shown=Shown(grid=grid)))
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.getvalue().splitlines()]


def test_ci49_a_table_that_fits_is_drawn_with_all_its_columns() -> None:
    header, rule, first, second = draw(80)
    assert header == "    name   state    uuid"
    assert set(rule.strip()) == {"─"}
    assert first == f"    heart  running  {'u' * 36}"
    assert second == f"    lung   idle     {'v' * 36}"


def test_ci49_gaps_shrink_before_a_column_goes() -> None:
    # 5 + 7 + 36 columns for cells, 4 of indentation, a gap after each.
    assert draw(4 + 48 + 6)[2] == f"    heart  running  {'u' * 36}"
    assert draw(4 + 48 + 5)[2] == f"    heart running {'u' * 36}"
    assert draw(4 + 48 + 3)[2] == f"    heart running {'u' * 36}"


def test_ci49_what_can_be_spared_is_left_out_and_named() -> None:
    assert draw(4 + 48 + 2) == [
        "    name   state",
        "    ──────────────",
        "    heart  running",
        "    lung   idle",
        "    not shown, this terminal is too narrow: uuid",
    ]


def test_ci49_a_table_that_does_not_fit_even_so_is_a_block_a_row() -> None:
    assert draw(12) == [
        "    name   heart",
        "    state  running",
        f"    uuid   {'u' * 36}",
        "",
        "    name   lung",
        "    state  idle",
        f"    uuid   {'v' * 36}",
    ]


@pytest.mark.parametrize("width", range(12, 80))
def test_ci49_nothing_is_cut_at_any_width(width: int) -> None:
    lines = draw(width)
    assert not any("…" in line for line in lines)
    cells = {"heart", "running", "lung", "idle"}
    assert all(any(cell in line.split() for line in lines) for cell in cells)


def test_ci49_a_cell_is_no_markup() -> None:
    assert draw(40, Grid(("text",), (("[red]x[/red] :smile:",),)))[2] == "    [red]x[/red] :smile:"


def test_ci49_where_nobody_looks_every_column_is_written() -> None:
    out = io.StringIO()
    Screen(out, width=10).show(Done(shown=Shown(grid=GRID)))
    assert out.getvalue().splitlines()[0].strip() == "name,state,uuid"
    assert Screen(out).console is None
    assert isinstance(Screen(Terminal()).console, Console)


def test_ci49_a_sentence_folds_between_words_and_what_is_to_be_copied_does_not() -> None:
    words = "WAITING : 1 of at least 2 peers have checked in; missing: sl-1@hospital-a.example"
    digits = f"MODEL : {'ab' * 32}"

    def lines(**shown: object) -> list[str]:
        out = Terminal()
        Screen(out, width=50).show(Done(shown=Shown((words, digits), **shown)))  # type: ignore[arg-type]  # its fields
        return out.getvalue().splitlines()

    folded = [
        "    WAITING : 1 of at least 2 peers have checked",
        "    in; missing: sl-1@hospital-a.example",
        "    MODEL :",
        f"    {'ab' * 32}",
    ]
    assert lines(folds=True) == folded
    assert lines(folds=True, grid=GRID)[:4] == folded
    assert lines() == [f"    {words}", f"    {digits}"]
    out = io.StringIO()
    Screen(out, width=50).show(Done(shown=Shown((words,), folds=True)))
    assert out.getvalue() == f"    {words}\n"
