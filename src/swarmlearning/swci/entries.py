"""What the table of commands is made of, and finding the one that a line means."""

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Literal, get_type_hints

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.lexer import Word, check_line, split_line
from swarmlearning.swci.syntax import Matched, Syntax
from swarmlearning.swci.values import Command, read_values

Topic = Literal["Contexts", "Contracts", "Tasks", "Taskrunners", "Nodes", "Membership", "Ledger", "Files", "Session"]
"""Under which heading help and documentation list a command."""


class Route(msgspec.Struct, frozen=True):
    """Where the REST API has a command: `Route("POST", "/taskrunners/{runner}/assignment")`, below `/v1`.

    Arguments that the path does not name come from the query (GET, DELETE) or from a JSON object (POST, PUT).
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str


class Grid(msgspec.Struct, frozen=True):
    """A table: on a terminal it is drawn, elsewhere it is written as CSV with a header."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    spare: tuple[str, ...] = ()
    """Columns that a terminal which is too narrow for all of them can do without, the first of them first."""


class Shown(msgspec.Struct, frozen=True):
    """What people see of an answer."""

    lines: tuple[str, ...] = ()
    grid: Grid | None = None
    """After the lines."""
    folds: bool = False
    """Its lines are sentences: a terminal that is too narrow for one folds it between words."""


def label_lines(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Labels and texts as lines: `PHASE : collecting, round 7`."""
    return tuple(f"{label.upper()} : {text}" for label, text in pairs)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table of commands: everything that is known about one."""

    syntax: Syntax
    command: type[Command]
    handler: Callable[[Any, Any], Awaitable[Any]]
    """`(session, command)` to the answer, a record or plain value for `--json` and REST; raises `SwarmError`."""
    show: Callable[[Any], Shown]
    """The answer for people."""
    topic: Topic
    help: str
    """One sentence."""
    example: str
    route: Route | None = None
    signs: bool = False
    """It signs a transaction: the role operator is needed."""
    waits: bool = False
    """It goes on until something happens or it is interrupted."""

    @property
    def answer(self) -> Any:  # noqa: ANN401  # a type of whatever form
        """The type of its answer."""
        return get_type_hints(self.handler)["return"]

    @property
    def usage(self) -> str:
        """Its syntax as text."""
        return self.syntax.text


def make_entry(
    syntax: str,
    command: type[Command],
    handler: Callable[[Any, Any], Awaitable[Any]],
    show: Callable[[Any], Shown],
    **others: Any,  # noqa: ANN401  # the fields of `Entry`
) -> Entry:
    """A row of the table; that syntax and record have the same arguments is tested."""
    return Entry(syntax=Syntax(syntax), command=command, handler=handler, show=show, **others)


class Meant(msgspec.Struct, frozen=True):
    """What a line asks for."""

    entry: Entry
    command: Command


_MAX_SHOWN: Final = 60

_LEAVING: Final = ("BYE", "LOGOUT", "QUIT", "Q")
"""What other shells are left with."""

_ALIKE: Final = 0.6
"""From which likeness on a verb was probably meant."""


def parse(entries: Sequence[Entry], line: str) -> Meant | None:
    """CI-4: the command that a line means, or None if it is empty or a comment.

    Raises:
        ConfigurationError: none is meant; the message has the nearest one, or the usage.
    """
    check_line(line)
    # What takes the rest of the line takes it with whatever quotes it has.
    for entry in entries:
        most = entry.syntax.whole_words
        if most is not None:
            try:
                words = split_line(line, most)
            except ConfigurationError:
                continue
            if entry.syntax.begins_with(words):
                return _mean([entry], words)
    words = split_line(line)
    if not words:
        return None
    begun = [entry for entry in entries if entry.syntax.begins_with(words)]
    if not begun:
        raise ConfigurationError(explain_unknown(entries, [word.text for word in words]))
    return _mean(begun, words)


def _mean(begun: Sequence[Entry], words: Sequence[Word]) -> Meant:
    matched = [(entry, entry.syntax.match(words)) for entry in begun]
    whole = [(entry, found.values) for entry, found in matched if found.values is not None]
    if not whole:
        raise ConfigurationError(_explain_usage(matched, words))
    # The one with more keywords says more of what was meant.
    entry, values = max(whole, key=lambda pair: sum(part.is_word for part in pair[0].syntax.parts))
    try:
        return Meant(entry, read_values(entry.command, values))
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; usage: {entry.usage}") from error


def _explain_usage(matched: Sequence[tuple[Entry, Matched]], words: Sequence[Word]) -> str:
    """What was expected where the words stop making sense, and how the command is written."""
    furthest = max(found.reached for _, found in matched)
    nearest = [(entry, found) for entry, found in matched if found.reached == furthest]
    expected = " or ".join(dict.fromkeys(found.expected for _, found in nearest))
    got = f"got {words[furthest].text[:_MAX_SHOWN]!r}" if furthest < len(words) else "the line ends"
    usages = " | ".join(entry.usage for entry, _ in nearest)
    return f"expected {expected}, {got}; usage: {usages}"


def explain_unknown(entries: Sequence[Entry], given: Sequence[str]) -> str:
    """That there is no such command, and which was probably meant."""
    verbs = list(dict.fromkeys(" ".join(entry.syntax.verb) for entry in entries))
    shown = " ".join(given)[:_MAX_SHOWN]
    # The more words of a verb are there the better; what follows a verb would only blur the comparison.
    tries = [" ".join(given[:count]).upper()[:_MAX_SHOWN] for count in range(min(len(given), 4), 0, -1)]
    scored = [
        (difflib.SequenceMatcher(None, text, verb).ratio(), verb)
        for text in tries
        for verb in verbs
        if abs(len(verb) - len(text)) <= _MAX_SHOWN // 3
    ]
    if given[0].upper() in _LEAVING:
        return f"unknown command {shown!r}; EXIT leaves"
    beginning = [verb for verb in verbs if verb.split()[0] == given[0].upper()]
    if len(given) == 1 and len(beginning) > 1:
        return f"{shown!r} is not all of a command; with {given[0].upper()} begin: {', '.join(beginning)}"
    # Who wrote GET means no RESET, however alike they are.
    score, nearest = max(scored, default=(0.0, ""), key=lambda pair: (pair[1] in beginning and pair[0] >= _ALIKE, pair))
    if score >= _ALIKE:
        return f"unknown command {shown!r}; did you mean {nearest}?"
    if beginning:
        return f"unknown command {shown!r}; with {given[0].upper()} begin: {', '.join(beginning)}"
    return f"unknown command {shown!r}; HELP lists all"
