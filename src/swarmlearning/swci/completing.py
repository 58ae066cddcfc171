"""What may come next in a line that is being typed, and help for it; from the table. Spec: docs/spec/swci.md, CI-18.

Pure but for the names and files that are handed in; knows no terminal.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.directory import MAX_LISTED, Directory
from swarmlearning.swci.entries import Entry
from swarmlearning.swci.lexer import Word, quote_word, split_line
from swarmlearning.swci.syntax import Part
from swarmlearning.swci.values import Kind, kinds_of

_MARK: Final = "\0"
"""Stands for the cursor; no line may hold it."""

MAX_HELPED: Final = 3
"""Of how many commands help tells all; of more only how they are written."""

MAX_USAGES: Final = 8


class Typed(msgspec.Struct, frozen=True):
    """A line up to the cursor."""

    words: tuple[Word, ...]
    """Those that are complete."""
    started: str
    """The one at the cursor, as far as it is there and without quotes; empty after a blank."""
    start: int
    """Where that one begins."""
    quoted: bool = False

    @property
    def lower(self) -> bool:
        """Whether keywords are typed in lower case."""
        return (self.words[0].text if self.words else self.started).islower()


class Offer(msgspec.Struct, frozen=True):
    """Something that may stand at the cursor."""

    text: str
    """Replaces the word at the cursor."""
    about: str = ""


class Place(msgspec.Struct, frozen=True):
    """Where in a command's syntax the cursor is."""

    entry: Entry
    index: int

    @property
    def part(self) -> Part:
        """What stands there."""
        return self.entry.syntax.parts[self.index]

    @property
    def phrase(self) -> str:
        """The keywords that stand there one after another: `WITH ALL PEERS`."""
        words: list[str] = []
        for part in self.entry.syntax.parts[self.index :]:
            if not part.is_word or (part.optional and words):
                break
            words.append(part.text)
        return " ".join(words)


NamesOf = Callable[[str], Awaitable[Sequence[str]]]
"""The names of a source of `values.Kind` that there are now."""


def read_typed(text: str) -> Typed | None:
    """The words of a line that may end anywhere; None within a comment."""
    for closing in ("", '"', "'"):
        try:
            words = split_line(text + _MARK + closing)
        except ConfigurationError:
            continue
        if not words or not words[-1].text.endswith(_MARK):
            return None
        *complete, last = words
        return Typed(tuple(complete), last.text.removesuffix(_MARK), last.start, last.quoted)
    return None


def places(entries: Sequence[Entry], words: Sequence[Word]) -> list[Place]:
    """Where the cursor may be after `words`, in every command that can begin with them."""
    return [Place(entry, index) for entry in entries for index in _follow(entry, words)]


def _follow(entry: Entry, words: Sequence[Word]) -> list[int]:
    parts, kinds = entry.syntax.parts, kinds_of(entry.command)
    reached = _onward(parts, 0)
    for word in words:
        further: set[int] = set()
        for index in reached:
            if index < len(parts) and parts[index].is_rest:
                further.add(index)
            elif index < len(parts) and _may_be(parts[index], kinds, word):
                further |= _onward(parts, index + 1)
        reached = further
    return sorted(index for index in reached if index < len(parts))


def _may_be(part: Part, kinds: Mapping[str, Kind], word: Word) -> bool:
    if part.is_word:
        return not word.quoted and word.text.upper() == part.text
    choices = kinds[part.text].choices
    return not choices or word.text.upper() in choices


def _onward(parts: Sequence[Part], index: int) -> set[int]:
    """`index`, and what comes after it as far as it may be left out."""
    reached = {index}
    while index < len(parts) and parts[index].optional:
        index += 1
        reached.add(index)
    return reached


async def find_offers(entries: Sequence[Entry], text: str, names: NamesOf, directory: Directory) -> list[Offer]:
    """CI-18: what may stand at the end of `text`; keywords in lower case where they are typed so."""
    typed = read_typed(text)
    if typed is None:
        return []
    found = places(entries, typed.words)
    offers = _keywords(found, typed)
    for place in found:
        part = place.part
        if part.is_word:
            continue
        kind = kinds_of(place.entry.command)[part.text]
        if kind.source == "files":
            offers += list_files(directory, typed.started, only_directories=part.text == "directory")
        elif kind.source == "commands":
            offers += _verbs(entries, typed, place.index)
        elif kind.choices:
            offers += [Offer(_cased(c, typed)) for c in kind.choices if c.startswith(typed.started.upper())]
        elif kind.source:
            offers += [Offer(quote_word(n)) for n in await names(kind.source) if n.startswith(typed.started)]
    return list({offer.text: offer for offer in reversed(offers)}.values())[::-1]


def _keywords(found: Sequence[Place], typed: Typed) -> list[Offer]:
    if typed.quoted:
        return []
    said: dict[str, list[str]] = {}
    for place in found:
        if place.part.is_word and place.phrase.startswith(typed.started.upper()):
            said.setdefault(place.phrase, []).append(place.entry.help)
    return [
        Offer(_cased(phrase, typed), helps[0] if len(helps) == 1 else f"{len(helps)} commands")
        for phrase, helps in said.items()
    ]


def _verbs(entries: Sequence[Entry], typed: Typed, before: int) -> Iterator[Offer]:
    given = tuple(word.text.upper() for word in typed.words[before:])
    for verb in dict.fromkeys(entry.syntax.verb for entry in entries):
        left = " ".join(verb[len(given) :])
        if verb[: len(given)] == given and left.startswith(typed.started.upper()) and left:
            yield Offer(_cased(left, typed))


def _cased(keyword: str, typed: Typed) -> str:
    return keyword.lower() if typed.lower else keyword


def list_files(directory: Directory, started: str, *, only_directories: bool) -> list[Offer]:
    """The files below a session's root whose path begins with what is typed."""
    above, slash, begun = started.rpartition("/")
    try:
        where = directory.resolve(above + slash or ".")
        found = sorted(where.iterdir())[:MAX_LISTED]
        kept = [
            (path.name, path.is_dir())
            for path in found
            # Hidden files only for who asks for them.
            if path.name.startswith(begun) and (begun.startswith(".") or not path.name.startswith("."))
        ]
    except (ConfigurationError, OSError):
        return []
    return [
        Offer(quote_word(above + slash + name + ("/" if is_directory else "")))
        for name, is_directory in kept
        if (is_directory or not only_directories) and name.isprintable()
    ]


def explain_typed(entries: Sequence[Entry], text: str) -> list[str]:
    """CI-18: help for what is being typed: usage, what it does and an example, or how all are written that begin so."""
    typed = read_typed(text)
    meant = [] if typed is None else list(dict.fromkeys(_meant(entries, typed)))
    if not text.strip() or not meant:
        return ["HELP lists all commands; Tab shows what may come next"]
    if len(meant) > MAX_HELPED:
        more = len(meant) - MAX_USAGES
        usages = [entry.usage for entry in meant[:MAX_USAGES]]
        return usages + ([f"and {more} more: HELP {text.split()[0].upper()}"] if more > 0 else [])
    lines = []
    for entry in meant:
        lines += [entry.usage, f"  {entry.help}", f"  Example: {entry.example}"]
    return lines


def _meant(entries: Sequence[Entry], typed: Typed) -> Iterator[Entry]:
    """Commands that the words may be of; also those that have all their words already."""
    for entry in entries:
        at = _follow(entry, typed.words)
        fits = [
            not (part := entry.syntax.parts[index]).is_word or part.text.startswith(typed.started.upper())
            for index in at
        ]
        whole = not typed.started and entry.syntax.match(typed.words).values is not None
        if any(fits) or whole:
            yield entry
