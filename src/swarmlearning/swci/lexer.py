"""A line of the command interface as words: quotes, comments, limits. Spec: docs/spec/swci.md, CI-1 to CI-3.

Does not: know any command.
"""

from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError

MAX_LINE_BYTES: Final = 16 << 10
"""Longest line, bytes of UTF-8."""

_QUOTES: Final = ("'", '"')
_BLANK: Final = (" ", "\t")


class Word(msgspec.Struct, frozen=True):
    """A word of a line."""

    text: str
    """Without its quotes."""
    start: int
    """Index of its first character in the line."""
    quoted: bool = False
    """Part of it stood in quotes: it is no keyword then."""


def too_long(size: int) -> ConfigurationError:
    """CI-1: the error for a line of `size` bytes."""
    return ConfigurationError(f"a line of {size} bytes; expected at most {MAX_LINE_BYTES}")


def decode_line(data: bytes) -> str:
    """CI-1: a line that came from outside as text, without its end of line.

    Raises:
        ConfigurationError: it is too long, or no UTF-8.
    """
    if len(data) > MAX_LINE_BYTES:
        raise too_long(len(data))
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"byte {error.start + 1} of the line is no UTF-8; expected text in UTF-8") from error


def check_line(line: str) -> None:
    """CI-1: refuse what is too long, and control characters.

    Raises:
        ConfigurationError: one line that says what was expected and where it is not so.
    """
    size = len(line.encode(errors="surrogatepass"))
    if size > MAX_LINE_BYTES:
        raise too_long(size)
    for index, char in enumerate(line):
        if not char.isprintable() and char != "\t":
            raise ConfigurationError(f"character {index + 1} is the control character U+{ord(char):04X}; expected text")


def split_line(line: str, most: int | None = None) -> list[Word]:
    """CI-2, CI-3: the words of a line; `#` at the beginning of a word starts a comment.

    Single and double quotes hold blanks and `#` together; inside double quotes a backslash takes the next quote or
    backslash as it is. After `most` words the rest of the line, from the second character after them on, is one more
    word, as it stands: indentation matters in a task's body.

    Raises:
        ConfigurationError: a quote is not closed.
    """
    words: list[Word] = []
    at = 0
    while at < len(line):
        if len(words) == most:
            words.append(Word(line[at + 1 :], at + 1, quoted=True))
            break
        if line[at] in _BLANK:
            at += 1
        elif line[at] == "#":
            break
        else:
            word, at = _read_word(line, at)
            words.append(word)
    return words


def _read_word(line: str, start: int) -> tuple[Word, int]:
    text: list[str] = []
    quoted = False
    at = start
    while at < len(line) and line[at] not in _BLANK:
        char = line[at]
        if char not in _QUOTES:
            text.append(char)
            at += 1
            continue
        quoted, opened = True, at
        at += 1
        while at < len(line) and line[at] != char:
            if char == '"' and line[at] == "\\" and line[at + 1 : at + 2] in ('"', "\\"):
                at += 1
            text.append(line[at])
            at += 1
        if at == len(line):
            raise ConfigurationError(
                f"the quote {char} at character {opened + 1} is not closed; close it or leave it out"
            )
        at += 1
    return Word("".join(text), start, quoted), at


def quote_word(text: str) -> str:
    """`text` as one word of a line."""
    plain = text and text[0] != "#" and not any(char in _BLANK or char in _QUOTES for char in text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
