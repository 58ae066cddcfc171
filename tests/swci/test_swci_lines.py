"""Lines of the command interface: words, quotes, comments, which command is meant; and whatever bytes come."""

import asyncio
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlearning.errors import ConfigurationError, ExitCode, Refused
from swarmlearning.swci.contexts import IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.entries import Entry, Grid, Shown, parse
from swarmlearning.swci.lexer import MAX_LINE_BYTES, decode_line, quote_word, split_line
from swarmlearning.swci.reading import RawScriptLine
from swarmlearning.swci.running import ERROR, run_line, write_lines
from swarmlearning.swci.screen import Screen
from swarmlearning.swci.script import TranscriptWriter, run_script
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import Command

ROOT = Path(__file__).parent
CREATE = "CREATE CONTEXT <context>"


def words(line: str) -> list[str]:
    return [word.text for word in split_line(line)]


def meant(line: str) -> str:
    found = parse(COMMANDS, line)
    assert found is not None
    return found.entry.usage


def refusal(line: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(COMMANDS, line)
    return str(caught.value)


# --- CI-1: bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_ci1_a_line_ends_with_or_without_a_carriage_return(end: bytes) -> None:
    assert decode_line("LIST CONTEXTS è".encode() + end) == "LIST CONTEXTS è"


def test_ci1_the_longest_line_is_taken_and_one_byte_more_is_not() -> None:
    longest = b"#" + b"x" * (MAX_LINE_BYTES - 1)
    assert parse(COMMANDS, decode_line(longest)) is None
    with pytest.raises(ConfigurationError, match=f"a line of {MAX_LINE_BYTES + 1} bytes; expected at most 16384"):
        decode_line(longest + b"x")
    assert "expected at most 16384" in refusal("#" + "è" * (MAX_LINE_BYTES // 2))


@pytest.mark.parametrize("char", ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\r", "\n"])
def test_ci1_a_control_character_is_refused_and_said_where(char: str) -> None:
    assert refusal(f"LS {char}").startswith(f"character 4 is the control character U+{ord(char):04X}")


def test_ci1_what_is_no_utf8_is_said_where() -> None:
    with pytest.raises(ConfigurationError, match="byte 4 of the line is no UTF-8"):
        decode_line(b"LS \xff")


# --- CI-2, CI-3: words ----------------------------------------------------------------------------------------------


def test_ci2_quotes_hold_words_together_also_within_one() -> None:
    assert words("a\tb  c") == ["a", "b", "c"]
    assert words("""one'two three'"four #"five""") == ["onetwo threefour #five"]
    assert words(r'''"a \"b\" \\ \c" '\"' \"x"''') == ['a "b" \\ \\c', '\\"', "\\x"]
    assert words("''") == [""]


@pytest.mark.parametrize(("line", "quote", "at"), [("a 'b", "'", 3), ('"', '"', 1), ("'a' b\"c'", '"', 6)])
def test_ci2_a_quote_that_is_not_closed_is_an_error(line: str, quote: str, at: int) -> None:
    with pytest.raises(ConfigurationError, match=f"the quote {quote} at character {at} is not closed"):
        split_line(line)


def test_ci3_a_hash_at_the_beginning_of_a_word_starts_a_comment() -> None:
    assert words("a b#c # d") == ["a", "b#c"]
    assert words("# a") == []
    assert words("'#' \"#\"x") == ["#", "#x"]


def test_ci3_the_rest_of_a_line_is_taken_as_it_stands() -> None:
    line = 'APPEND x   it\'s # "no comment" '
    assert [word.text for word in split_line(line, 2)] == ["APPEND", "x", '  it\'s # "no comment" ']
    assert [word.text for word in split_line("APPEND x", 2)] == ["APPEND", "x"]


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20), max_size=6))
def test_ci2_what_is_quoted_comes_back(texts: list[str]) -> None:
    assert words(" ".join(quote_word(text) for text in texts)) == texts


# --- CI-4: commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["GET CONTEXT INFO heart", "get context info heart", "Get contexT INFO heart # which"])
def test_ci4_keywords_are_case_insensitive(line: str) -> None:
    assert meant(line) == "GET CONTEXT INFO [<context>]"


def test_ci4_arguments_are_as_they_are_written() -> None:
    found = parse(COMMANDS, "create context testContext with ip Sn1 30304")
    assert found is not None
    assert found.command.__struct_fields__ == ("context", "ip", "port")
    assert [getattr(found.command, name) for name in ("context", "ip", "port")] == ["testContext", "Sn1", 30304]


def test_ci4_what_may_be_left_out_first_is_found_by_what_follows() -> None:
    def values(line: str) -> list[Any]:
        found = parse(COMMANDS, line)
        assert found is not None
        return [getattr(found.command, name) for name in ("context", "variable", "value")]

    assert values("SET CONTEXT ENV heart WAIT 5") == ["heart", "WAIT", "5"]
    assert values("SET CONTEXT ENV WAIT 'a b'") == [None, "WAIT", "a b"]


def test_ci4_the_reading_with_more_keywords_is_meant() -> None:
    assert meant("EXIT ON FAILURE") == "EXIT ON FAILURE [<switch>]"
    assert meant("CREATE CONTEXT service WITH SERVICE service") == "CREATE CONTEXT <context> WITH SERVICE <service>"


def test_ci4_a_quoted_word_is_no_keyword() -> None:
    assert "unknown command" in refusal("'LS'")
    assert meant("CD 'LS'") == "CD <directory>"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("LIST CONTESTS", "unknown command 'LIST CONTESTS'; did you mean LIST CONTEXTS?"),
        ("swich context heart", "unknown command 'swich context heart'; did you mean SWITCH CONTEXT?"),
        (
            "get contract information heart",
            "unknown command 'get contract information heart'; did you mean GET CONTRACT INFO?",
        ),
        ("hlep", "unknown command 'hlep'; did you mean HELP?"),
        ("SWITCH", "unknown command 'SWITCH'; did you mean SWITCH CONTEXT?"),
        ("xyzzy", "unknown command 'xyzzy'; HELP lists all"),
    ],
)
def test_ci4_an_unknown_command_is_answered_with_the_nearest(line: str, said: str) -> None:
    assert refusal(line) == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SWITCH CONTEXT", "expected <context>, the line ends; usage: SWITCH CONTEXT <context>"),
        ("PWD -l", "expected nothing more, got '-l'; usage: PWD"),
        ("SLEEP long", "<seconds> 'long': expected a whole number; usage: SLEEP <seconds>"),
        ("EXIT ON FAILURE maybe", "<switch> 'maybe': expected one of ON, OFF; usage: EXIT ON FAILURE [<switch>]"),
        ("SLEEP " + "9" * 5000, "<seconds> of 5000 characters; expected at most 4096; usage: SLEEP <seconds>"),
        (
            "CREATE CONTEXT heart 10.0.0.1",
            f"expected WITH, got '10.0.0.1'; usage: {CREATE} WITH IP <ip> [<port>] | {CREATE} WITH SERVICE <service>",
        ),
    ],
)
def test_ci4_what_is_missing_or_too_much_is_answered_with_the_usage(line: str, said: str) -> None:
    assert refusal(line) == said


# --- whatever comes -------------------------------------------------------------------------------------------------

PIECES = sorted({part.text for entry in COMMANDS for part in entry.syntax.parts if part.is_word})
LINES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")),
    st.lists(
        st.one_of(st.sampled_from(PIECES), st.sampled_from(["'", '"', "#", "\\", "heart", "7", "\x1b[31m", "<x>"]))
    )
    .map(" ".join)
    .map(str.encode),
)


async def _do_nothing(_session: Session, _command: object) -> None:
    return None


TAME: Sequence[Entry] = [replace(entry, handler=_do_nothing, show=lambda _: Shown(("done",))) for entry in COMMANDS]
"""The table, but that nothing is done."""


@given(LINES)
def test_ci1_any_bytes_are_a_command_or_nothing_or_exactly_one_error_line(data: bytes) -> None:
    file = io.StringIO()
    screen = Screen(file)
    session = Session(
        contexts=MemoryContexts(), directory=Directory(ROOT), output=TranscriptWriter(screen), identity=IdentityPaths()
    )

    async def lines() -> Any:
        yield RawScriptLine(data[: MAX_LINE_BYTES + 1], len(data))

    asyncio.run(run_script(TAME, session, lines(), TranscriptWriter(screen)))
    said = file.getvalue().split("\n")
    assert said.pop() == ""
    if not said:
        assert not data.strip() or b"#" in data
        return
    echo, outcome = said
    assert echo.startswith("SWCI:1 > ")
    assert outcome == "    done" or outcome.startswith(f"    {ERROR}")
    assert all(char.isprintable() or char == "\t" for char in echo + outcome)


def test_ci5_an_error_is_one_line_whatever_a_name_holds() -> None:
    (line,) = refusal("LIST \u00e9" + "x" * 500).splitlines()
    assert len(line) < 200
    assert re.search(r"unknown command 'LIST éx+'", line)


def test_ci5_what_is_said_while_a_command_goes_on_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    said = Collected()
    session = Session(contexts=MemoryContexts(), directory=Directory(tmp_path), output=said, identity=IdentityPaths())
    session.tell("not yet: somebody's\x1b]0;title\x07 answer\nTASK_STATE : COMPLETE\u202e")
    assert said.lines == ["not yet: somebody's?]0;title? answer?TASK_STATE : COMPLETE?"]


def test_ci5_what_is_seen_of_an_answer_steers_no_terminal_whoever_wrote_it(tmp_path: Path) -> None:
    """An SN's own names too: it may be the one that was broken into."""
    wild = "k\x1b[2J\x9b1m\u202eb"
    shown = Shown((wild + "\nTASK_STATE : COMPLETE", "\ta line"), Grid(("name",), ((wild,),)))
    table = [replace(entry, handler=_do_nothing, show=lambda _: shown) for entry in COMMANDS if entry.usage == "PWD"]
    session = Session(
        contexts=MemoryContexts(), directory=Directory(tmp_path), output=Collected(), identity=IdentityPaths()
    )
    done = asyncio.run(run_line(table, session, "PWD"))
    assert done is not None
    assert write_lines(done) == ["k?[2J?1m?b?TASK_STATE : COMPLETE", "\ta line", "name", "k?[2J?1m?b"]


def test_ci5_what_nobody_knows_the_outcome_of_is_no_refusal() -> None:
    async def late(_session: Session, _command: Command) -> None:
        raise Refused("the transaction was not committed here within 30 s", code="WaitExpired")

    entry = replace(next(entry for entry in COMMANDS if entry.usage == "PWD"), handler=late)
    session = Session(
        contexts=MemoryContexts(), directory=Directory(Path("/")), output=Collected(), identity=IdentityPaths()
    )
    done = asyncio.run(run_line([entry], session, "PWD"))
    assert done is not None
    assert done.status is ExitCode.UNREACHABLE
