"""The grammar of a command: its keywords and arguments, written as people read them.

`ASSIGN TASK <task> TO <runner> WITH <peers> PEERS`: keywords in capitals, arguments in angle brackets, what may be left
out in square ones; `<line...>` takes the rest of the line as it stands.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlearning.swci.lexer import Word

_PART: Final = re.compile(r"(?P<open>\[)?(?:<(?P<name>[a-z_]+)(?P<rest>\.\.\.)?>|(?P<word>[A-Z]+))(?P<close>\])?")


class Part(msgspec.Struct, frozen=True):
    """A keyword, or an argument."""

    text: str
    """Of a keyword in capitals; of an argument its name."""
    is_word: bool = False
    optional: bool = False
    is_rest: bool = False
    """It takes the rest of the line, unread."""

    def __str__(self) -> str:
        shown = self.text if self.is_word else f"<{self.text}{'...' if self.is_rest else ''}>"
        return f"[{shown}]" if self.optional else shown


class Matched(msgspec.Struct, frozen=True):
    """How far words follow a syntax."""

    values: dict[str, str] | None
    """Of the arguments that were given, once all words are taken; else None."""
    reached: int
    """How many words were taken at best."""
    expected: str = ""
    """What had to come there, for people."""


class Syntax:
    """How a command is written."""

    def __init__(self, text: str) -> None:
        """Read a syntax.

        Raises:
            ValueError: it is none: a fault of ours.
        """
        self.text = text
        self.parts = tuple(_read_part(piece) for piece in text.split())
        keywords = []
        for part in self.parts:
            if not part.is_word or part.optional:
                break
            keywords.append(part.text)
        self.verb = tuple(keywords)
        """The keywords that it begins with."""
        self.arguments = tuple(part for part in self.parts if not part.is_word)

    @property
    def whole_words(self) -> int | None:
        """How many words there are before the argument that takes the rest of the line; None if none does."""
        return len(self.parts) - 1 if self.parts[-1].is_rest else None

    def match(self, words: Sequence[Word]) -> Matched:
        """The arguments that words give, or how far they follow."""
        return _match(self.parts, words, 0)

    def begins_with(self, words: Sequence[Word]) -> bool:
        """Whether the verb is written out at the beginning of `words`."""
        given = tuple(_keyword(word) for word in words[: len(self.verb)])
        return given == self.verb


def _read_part(piece: str) -> Part:
    found = _PART.fullmatch(piece)
    if found is None or bool(found["open"]) != bool(found["close"]):
        raise ValueError(f"syntax {piece!r}")
    return Part(found["name"] or found["word"], bool(found["word"]), bool(found["open"]), bool(found["rest"]))


def _keyword(word: Word) -> str:
    return "" if word.quoted else word.text.upper()


def _match(parts: Sequence[Part], words: Sequence[Word], taken: int) -> Matched:
    if not parts:
        return Matched({} if not words else None, taken, "" if not words else "nothing more")
    part, rest = parts[0], parts[1:]
    tried = [Matched(None, taken, str(part).strip("[]"))]
    if words and (not part.is_word or _keyword(words[0]) == part.text):
        further = _match(rest, words[1:], taken + 1)
        if further.values is not None:
            own = {} if part.is_word else {part.text: words[0].text}
            return Matched(own | further.values, further.reached)
        tried.append(further)
    if part.optional:
        without = _match(rest, words, taken)
        if without.values is not None:
            return without
        tried.append(without)
    return max(tried, key=lambda matched: matched.reached)
