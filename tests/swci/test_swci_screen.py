"""How answers look: on a terminal, narrow and wide, and elsewhere."""

import io
import re

import pytest
from rich.cells import cell_len

from swarmlearning.errors import ExitCode
from swarmlearning.swci.entries import Grid, Shown
from swarmlearning.swci.running import Done, write_lines
from swarmlearning.swci.screen import Screen, draw_blocks

GRID = Grid(
    ("Peer", "State", "Why, of it"),
    (("sl-0@a.example", "ENROLLED", 'says "no, thanks"'), ("心臓@b.example", "RUNNING", "")),
)


class Terminal(io.StringIO):
    """What a terminal of our own would get."""

    def isatty(self) -> bool:
        return True


def drawn(done: Done, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    Screen(file, width=columns).show(done)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


def test_ci6_elsewhere_a_table_is_csv_with_a_header_after_the_lines() -> None:
    file = io.StringIO()
    Screen(file).show(Done(shown=Shown(("two peers",), GRID)))
    assert file.getvalue().splitlines() == [
        "    two peers",
        '    Peer,State,"Why, of it"',
        '    sl-0@a.example,ENROLLED,"says ""no, thanks"""',
        "    心臓@b.example,RUNNING,",
    ]


def test_ci6_on_a_terminal_a_table_is_drawn_with_its_columns_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    header, line, first, second = drawn(Done(shown=Shown((), GRID)), 80, monkeypatch)
    assert set(line.strip()) == {"─"}
    at = header.index("State")
    assert first[at:].startswith("ENROLLED")
    # Wide characters take two columns.
    assert cell_len(second.partition("RUNNING")[0]) == at
    assert max(cell_len(text) for text in (header, line, first, second)) <= 80


def test_ci6_a_table_that_does_not_fit_is_a_block_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(Done(shown=Shown((), GRID)), 44, monkeypatch) == [
        "    Peer        sl-0@a.example",
        "    State       ENROLLED",
        '    Why, of it  says "no, thanks"',
        "",
        "    Peer        心臓@b.example",
        "    State       RUNNING",
        "    Why, of it",
    ]


def test_ci6_a_table_without_rows_still_shows_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw_blocks(Grid(("A", "B"), ())) == ["A, B"]
    assert drawn(Done(shown=Shown((), Grid(("A", "B"), ()))), 80, monkeypatch)[0] == "    A  B"


def test_ci6_nothing_that_others_wrote_is_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(("[red]A",), (("[bold]x[/bold] :smile:",),))
    assert drawn(Done(shown=Shown(("[blink]y",), grid)), 80, monkeypatch)[0] == "    [blink]y"
    assert drawn(Done(shown=Shown((), grid)), 80, monkeypatch)[-1] == "    [bold]x[/bold] :smile:"


def test_ci6_a_line_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "\tif x:  # " + "long " * 40
    assert drawn(Done(shown=Shown((body, ""))), 40, monkeypatch) == [f"    {body}", ""]
    file = io.StringIO()
    Screen(file).show(Done(shown=Shown((body, ""), folds=True)))
    assert file.getvalue() == f"    {body}\n\n"


def test_ci6_a_sentence_is_broken_between_words_and_stays_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    hash_ = "ab" * 32
    lines = ("  a sentence that is longer than that", f"MODEL : {hash_}", "  short   as it is", "")
    assert drawn(Done(shown=Shown(lines, folds=True)), 34, monkeypatch) == [
        "      a sentence that is longer",
        "      than that",
        "    MODEL :",
        f"    {hash_}",
        "      short   as it is",
        "",
    ]


def test_ci5_an_error_is_red_on_a_terminal_and_folds_between_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    hash_ = "ab" * 32
    failed = Done(error=f"block {hash_} is not there; {'word ' * 20}", status=ExitCode.PEER)
    lines = drawn(failed, 60, monkeypatch)
    assert lines[0] == "    ERROR block"
    assert lines[1] == f"    {hash_}"
    assert all(len(line) <= 60 for line in lines[2:])
    monkeypatch.delenv("NO_COLOR")
    file = Terminal()
    Screen(file, width=60).show(failed)
    assert "\x1b[31m" in file.getvalue()
    elsewhere = io.StringIO()
    Screen(elsewhere).show(failed)
    assert elsewhere.getvalue().count("\n") == 1


def test_ci7_a_text_in_json_stays_in_one_line() -> None:
    assert write_lines(Done(answer=["a\u2028b"]), as_json=True) == ["[", '  "a\u2028b"', "]"]


def test_ci7_for_programs_an_answer_is_the_json_of_its_record() -> None:
    answer = {"hash": "ab", "rows": [1, None]}
    shown = Shown(("for people",), GRID)
    assert write_lines(Done(answer=answer, shown=shown), as_json=True) == [
        "{",
        '  "hash": "ab",',
        '  "rows": [',
        "    1,",
        "    null",
        "  ]",
        "}",
    ]
    assert write_lines(Done(error="broken", status=ExitCode.PEER), as_json=True) == ["ERROR broken"]
