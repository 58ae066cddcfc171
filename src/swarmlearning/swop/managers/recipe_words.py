"""Lines of a Dockerfile as instructions, and what stands in them as words, without any shell.

Does not know instructions; `recipes` does. Spec: docs/spec/swop-content.md, SW-60.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.status import make_printable

MAX_SHOWN: Final = 120
"""Most characters of a step that an error shows."""

CAN: Final = (
    "PROCESS carries out COPY, ENV, ARG, WORKDIR and RUN with pip install, mkdir -p and rm -rf; DOCKER and PODMAN "
    "carry out everything"
)

_CONTINUED: Final = re.compile(r"\\[ \t]*\Z")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_META: Final = ";|&<>()`\n"
"""What a shell would act upon."""


class StepFault(Exception):  # it never leaves this room
    """What is wrong with a step."""


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction of a Dockerfile, its continuation lines joined."""

    number: int
    """From 1."""
    name: str
    """In capital letters."""
    rest: str

    @property
    def text(self) -> str:
        """The whole of it, for people."""
        return shorten(f"{self.name} {self.rest}")


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One word of an instruction, its quotes taken off."""

    text: str
    pattern: bool = False
    """Whether `*` or `?` stands in it outside quotes."""
    operator: bool = False
    """Whether it is `&&` and not a word."""


def shorten(text: str) -> str:
    """A line of a recipe for people: printable, blanks joined, not too long."""
    line = make_printable(" ".join(text.split()))
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 1] + "…"


def refuse(number: int, text: str, reason: str) -> ConfigurationError:
    """The error that a step cannot be carried out."""
    return ConfigurationError(f"step {number} ({shorten(text)}): {make_printable(reason)}; {CAN}")


def split_instructions(lines: Iterable[str]) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile; comments and blank lines are left out.

    Raises:
        ConfigurationError: a line has a control character.
    """
    found: list[Instruction] = []
    parts: list[str] = []
    for line in [line for entry in lines for line in entry.split("\n")]:
        # So does Docker: comments may stand between continuation lines, and blank ones do not end an instruction.
        if line.lstrip().startswith("#") or not line.strip():
            continue
        continued = _CONTINUED.search(line)
        parts.append(line[: continued.start()] if continued else line)
        if not continued:
            found.append(_make(len(found) + 1, "".join(parts)))
            parts = []
    if "".join(parts).strip():
        found.append(_make(len(found) + 1, "".join(parts)))
    return tuple(found)


def _make(number: int, text: str) -> Instruction:
    if not text.replace("\t", " ").isprintable():
        raise refuse(number, text, "expected printable characters alone")
    name, _, rest = text.strip().replace("\t", " ").partition(" ")
    return Instruction(number=number, name=name.upper(), rest=rest.strip())


def split_words(text: str, variables: Mapping[str, str], *, command: bool) -> list[Word]:
    """What stands in an instruction, variables replaced.

    Args:
        text: without the instruction's name.
        variables: by name, from ENV and ARG.
        command: whether a shell would read it: `&&` separates commands, other things that it acts upon are faults,
            and a variable's value outside quotes may be several words.

    Raises:
        StepFault: it needs a shell, a variable is not known, or a quote is not closed.
    """
    return _Splitter(text, variables, command).run()


class _Splitter:
    """Goes through a text once."""

    def __init__(self, text: str, variables: Mapping[str, str], command: bool) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._command = command
        self._words: list[Word] = []
        self._current: str | None = None
        self._pattern = False

    def run(self) -> list[Word]:
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char.isspace():
                self._end()
            elif char == "'":
                self._add(self._until_quote())
            elif char == '"':
                self._double()
            elif char == "\\":
                self._add(self._next())
            elif char == "$":
                self._expand()
            elif self._command and char in _META:
                self._operator(char)
            elif self._command and char in "#~" and self._current is None:
                raise StepFault(f"{char} at the beginning of a word needs a shell; quote it if it is meant as it is")
            else:
                self._pattern = self._pattern or char in "*?"
                self._add(char)
        self._end()
        return self._words

    def _add(self, text: str) -> None:
        self._current = (self._current or "") + text

    def _end(self) -> None:
        if self._current is not None:
            self._words.append(Word(text=self._current, pattern=self._pattern))
        self._current, self._pattern = None, False

    def _next(self) -> str:
        if self._at == len(self._text):
            raise StepFault("nothing follows the last backslash")
        self._at += 1
        return self._text[self._at - 1]

    def _until_quote(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise StepFault("a quote ' is not closed")
        inside, self._at = self._text[self._at : end], end + 1
        return inside

    def _double(self) -> None:
        self._add("")
        while True:
            if self._at == len(self._text):
                raise StepFault('a quote " is not closed')
            char = self._next()
            if char == '"':
                return
            if char == "\\" and self._text[self._at : self._at + 1] in ('"', "\\", "$", "`"):
                self._add(self._next())
            elif char == "$":
                self._add(self._value())
            elif char == "`" and self._command:
                raise StepFault("` needs a shell")
            else:
                self._add(char)

    def _operator(self, char: str) -> None:
        if char == "&" and self._text[self._at : self._at + 1] == "&":
            self._at += 1
            self._end()
            self._words.append(Word(text="&&", operator=True))
            return
        hint = "; write a requirement in quotes, such as 'keras>=3'" if char in "<>" else ""
        raise StepFault(f"{char} needs a shell, and none is started{hint}")

    def _expand(self) -> None:
        """A variable outside quotes."""
        value = self._value()
        if not self._command:
            self._add(value)
            return
        for part in re.split(r"(\s+)", value):
            if part.isspace():
                self._end()
            elif part:
                self._pattern = self._pattern or "*" in part or "?" in part
                self._add(part)

    def _value(self) -> str:
        """The value of the variable whose name begins here, behind its `$`."""
        braces = self._text.startswith("{", self._at)
        match = _NAME.match(self._text, self._at + braces)
        if match is None:
            raise StepFault("expected the name of a variable after $")
        self._at = match.end()
        if braces:
            if not self._text.startswith("}", self._at):
                raise StepFault(f"expected }} after ${{{match.group()}; a variable's value is all that is read of it")
            self._at += 1
        if match.group() not in self._variables:
            raise StepFault(f"no ENV or ARG before it gives the variable {match.group()} a value")
        return self._variables[match.group()]
