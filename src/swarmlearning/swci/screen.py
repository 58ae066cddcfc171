"""How what a command says looks: indented, tables drawn on a terminal and as CSV elsewhere, errors red.

Where a terminal is too narrow for a table, columns that can be spared are left out with a word about it; where that is
not enough either it is written as a block a row, so that no cell is torn apart.
"""

import textwrap
from collections.abc import Sequence
from typing import Final, TextIO

import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swarmlearning.swci.entries import Grid
from swarmlearning.swci.running import ERROR, Done, write_csv, write_lines

INDENT: Final = "    "
"""Before every line of output, as in the product we re-create."""

_GAPS: Final = (2, 1)
"""Columns between cells, where there is room for so many."""


class Screen:
    """Writes to a terminal or a file."""

    def __init__(self, file: TextIO, *, indent: str = INDENT, width: int | None = None) -> None:
        """Write to `file`, `width` columns (default: as many as the terminal has)."""
        self._console = Console(file=file, highlight=False, markup=False, emoji=False, width=width)
        self._indent = indent

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it."""
        return self._console.is_terminal

    @property
    def console(self) -> Console | None:
        """The terminal, for what is drawn anew while one watches; None where it is none."""
        return self._console if self.is_terminal else None

    def say(self, line: str, style: str = "") -> None:
        """Write a line as it stands."""
        file = self._console.file
        if style and self.is_terminal:
            self._console.out(line, style=style, highlight=False)
        else:
            file.write(line + "\n")
        file.flush()

    def tell(self, line: str) -> None:
        """Write a sentence of what a command says."""
        for part in self._fold(line):
            self._write(part)

    def fail(self, line: str) -> None:
        """Write an error."""
        for part in self._fold(line):
            self.say(self._indent + part, style="red")

    def _fold(self, line: str) -> list[str]:
        """A sentence as lines that fit a terminal, whose words stay whole; elsewhere one line."""
        width = max(20, self._console.width - len(self._indent))
        if not self.is_terminal or cell_len(line) <= width:
            return [line]
        indent = line[: len(line) - len(line.lstrip())]
        return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

    def show(self, done: Done, *, as_json: bool = False) -> None:
        """Write what came of a line."""
        if done.failed:
            self.fail(ERROR + done.error)
            return
        if as_json or done.shown.grid is None:
            self._write_lines(write_lines(done, as_json=as_json), folds=done.shown.folds and not as_json)
            return
        self._write_lines(done.shown.lines, folds=done.shown.folds)
        self._draw(done.shown.grid)

    def _write_lines(self, lines: Sequence[str], *, folds: bool) -> None:
        for line in lines:
            (self.tell if folds else self._write)(line)

    def _write(self, line: str) -> None:
        # Not folded: what is copied from a terminal, such as a task's body, stays as it was.
        self.say(self._indent + line if line else "")

    def _draw(self, grid: Grid) -> None:
        if not self.is_terminal:
            for line in write_csv(grid):
                self._write(line)
            return
        fitted = fit_grid(grid, self._console.width - len(self._indent))
        if fitted is None:
            for line in draw_blocks(grid):
                self._write(line)
            return
        table = Table(box=box.SIMPLE_HEAD, padding=(0, fitted.gap - 1, 0, 0), show_edge=False, pad_edge=False)
        for column in fitted.grid.columns:
            table.add_column(Text(column), no_wrap=True)
        for row in fitted.grid.rows:
            table.add_row(*(Text(cell) for cell in row))
        for line in self._render(table):
            self._write(line)
        if fitted.left_out:
            self.tell(f"not shown, this terminal is too narrow: {', '.join(fitted.left_out)}")

    def _render(self, table: Table) -> list[str]:
        with self._console.capture() as captured:
            self._console.print(table)
        return [line.rstrip() for line in captured.get().splitlines()]


class Fitted(msgspec.Struct, frozen=True):
    """A table as it fits."""

    grid: Grid
    gap: int
    """Columns between cells."""
    left_out: tuple[str, ...] = ()
    """Columns of the table that are not in `grid`."""


def fit_grid(grid: Grid, room: int) -> Fitted | None:
    """A table as it fits into `room` columns: less between cells first, then without columns that can be spared.

    None if none of its forms does.
    """
    for count in range(len(grid.spare) + 1):
        left_out = grid.spare[:count]
        kept = [index for index, column in enumerate(grid.columns) if column not in left_out]
        rows = tuple(tuple(row[index] for index in kept) for row in grid.rows)
        shown = Grid(tuple(grid.columns[index] for index in kept), rows)
        for gap in _GAPS:
            if sum(column_widths(shown)) + gap * len(kept) <= room:
                return Fitted(shown, gap, left_out)
    return None


def column_widths(grid: Grid) -> list[int]:
    """How wide the widest cell of each column is, in columns of a terminal."""
    rows = [grid.columns, *grid.rows]
    return [max(cell_len(row[index]) for row in rows) for index in range(len(grid.columns))]


def draw_blocks(grid: Grid) -> list[str]:
    """A table as a block of lines for each row."""
    widest = max((cell_len(column) for column in grid.columns), default=0)
    lines: list[str] = []
    for row in grid.rows:
        lines += [""] if lines else []
        lines += [_pair(column, cell, widest) for column, cell in zip(grid.columns, row, strict=True)]
    return lines or _headers(grid.columns)


def _pair(column: str, cell: str, widest: int) -> str:
    return f"{column}{' ' * (widest - cell_len(column))}  {cell}".rstrip()


def _headers(columns: Sequence[str]) -> list[str]:
    return [", ".join(columns)]
