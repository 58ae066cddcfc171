"""How what a command says looks: indented, tables drawn on a terminal and as CSV elsewhere, errors red.

A table that a terminal is too narrow for is written as a block a row, so that no cell is torn apart.
"""

from collections.abc import Sequence
from typing import Final, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swarmlearning.swci.entries import Grid
from swarmlearning.swci.running import ERROR, Done, write_csv, write_lines

INDENT: Final = "    "
"""Before every line of output, as in the product we re-create."""

_BETWEEN: Final = 2
"""Columns between cells."""


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

    def say(self, line: str, style: str = "") -> None:
        """Write a line as it stands."""
        # `out` neither wraps nor cuts: a hash that is copied from a terminal stays one.
        self._console.out(line, style=style or None, highlight=False)
        self._console.file.flush()

    def tell(self, line: str) -> None:
        """Write a line of output."""
        self.say(self._indent + line)

    def fail(self, line: str) -> None:
        """Write an error."""
        self.say(self._indent + line, style="red")

    def show(self, done: Done, *, as_json: bool = False) -> None:
        """Write what came of a line."""
        if done.failed:
            self.fail(ERROR + done.error)
            return
        if as_json or done.shown.grid is None:
            for line in write_lines(done, as_json=as_json):
                self.tell(line)
            return
        for line in done.shown.lines:
            self.tell(line)
        self._draw(done.shown.grid)

    def _draw(self, grid: Grid) -> None:
        if not self.is_terminal:
            for line in write_csv(grid):
                self.tell(line)
        elif self._fits(grid):
            table = Table(box=box.SIMPLE_HEAD, padding=(0, _BETWEEN, 0, 0), show_edge=False, pad_edge=False)
            for column in grid.columns:
                table.add_column(Text(column), no_wrap=True)
            for row in grid.rows:
                table.add_row(*(Text(cell) for cell in row))
            for line in self._render(table):
                self.tell(line)
        else:
            for line in draw_blocks(grid):
                self.tell(line)

    def _fits(self, grid: Grid) -> bool:
        return sum(column_widths(grid)) + _BETWEEN * len(grid.columns) <= self._console.width - len(self._indent)

    def _render(self, table: Table) -> list[str]:
        with self._console.capture() as captured:
            self._console.print(table)
        return captured.get().splitlines()


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
