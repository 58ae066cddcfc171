"""Contexts: the networks that one steers, by name, kept across sessions. Spec: docs/spec/swci.md, CI-8 to CI-10.

A context is an SN and as whom one speaks to it: a node's certificate names its network, so each network needs its own.
"""

import os
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from swarmlearning.encoding import from_json, to_json
from swarmlearning.errors import ConfigurationError, DecodeError, NotFound
from swarmlearning.identity.files import SECRET_MODE, write_file
from swarmlearning.identity.source import PemSource
from swarmlearning.swci.values import ContextName, VariableName
from swarmlearning.types import Endpoint

CONFIG_VARIABLE: Final = "SWARM_CONFIG_DIR"
"""Where contexts are kept; default: `swarmlearning` below `XDG_CONFIG_HOME` or `~/.config`."""

MAX_CONTEXTS: Final = 100
MAX_VARIABLES: Final = 100
MAX_BOOK_BYTES: Final = 4 << 20


class IdentityPaths(msgspec.Struct, frozen=True, kw_only=True):
    """As whom one speaks: files, or empty for what the session was started with."""

    cert: str = ""
    key: str = ""
    cacert: str = ""
    capath: str = ""
    sign_key: str = ""

    def source(self) -> PemSource:
        """The identity; nothing is read yet."""
        return PemSource.from_paths(self.cert or None, self.key or None, self.cacert or None, self.capath or None)


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A network, and as whom one speaks to it."""

    name: ContextName
    sn: Endpoint
    identity: IdentityPaths = IdentityPaths()
    variables: dict[str, str] = {}
    """Before those of the environment."""


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """All contexts, and which one commands are about."""

    contexts: tuple[Context, ...] = ()
    """By name."""
    current: ContextName = ContextName("")


class Contexts(Protocol):
    """Where a session's contexts are."""

    def load(self) -> Book:
        """All contexts.

        Raises:
            ConfigurationError: they cannot be read.
        """
        ...

    def save(self, book: Book) -> None:
        """Replace them.

        Raises:
            ConfigurationError: they cannot be written.
        """
        ...


class MemoryContexts:
    """Contexts of one session alone."""

    def __init__(self, book: Book | None = None) -> None:
        self._book = book or Book()

    def load(self) -> Book:
        """All contexts."""
        return self._book

    def save(self, book: Book) -> None:
        """Replace them."""
        self._book = book


class FileContexts:
    """Contexts in a file of the user's, which sessions that run at the same time share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Book:
        """All contexts; none if there is no file yet.

        Raises:
            ConfigurationError: the file cannot be read, or is none of ours.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BOOK_BYTES + 1)
            return from_json(data, Book, str(self.path))
        except FileNotFoundError:
            return Book()
        except OSError as error:
            raise ConfigurationError(f"contexts {self.path} cannot be read: {error.strerror}") from error
        except DecodeError as error:
            raise ConfigurationError(f"contexts {error}; mend the file, or remove it to begin anew") from error

    def save(self, book: Book) -> None:
        """Replace them; a reader sees the old ones or the new ones.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"{self.path.parent} cannot be made: {error.strerror}") from error
        write_file(self.path, to_json(book) + b"\n", mode=SECRET_MODE, force=True)


def config_directory() -> Path:
    """Where the user's configuration is kept."""
    given = os.environ.get(CONFIG_VARIABLE)
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "swarmlearning"


def find_context(book: Book, name: ContextName | None) -> Context:
    """The context of a name, or the current one.

    Raises:
        ConfigurationError: no name was given, and none is chosen.
        NotFound: there is none of that name.
    """
    wanted = name or book.current
    for context in book.contexts:
        if context.name == wanted:
            return context
    known = ", ".join(context.name for context in book.contexts) or "none"
    if not wanted:
        raise ConfigurationError(
            f"no context is chosen: CREATE CONTEXT <context> WITH IP <ip>, or SWITCH; there are: {known}"
        )
    raise NotFound(f"there is no context {wanted}; there are: {known}")


def put_context(book: Book, context: Context) -> Book:
    """The book with a context, in place of the one of its name.

    Raises:
        ConfigurationError: there are `MAX_CONTEXTS` already.
    """
    others = [known for known in book.contexts if known.name != context.name]
    if len(others) >= MAX_CONTEXTS:
        raise ConfigurationError(
            f"there are {MAX_CONTEXTS} contexts, the most there can be; DELETE CONTEXT one of them"
        )
    return replace(book, contexts=tuple(sorted((*others, context), key=lambda known: known.name)))


def drop_context(book: Book, name: ContextName) -> Book:
    """The book without a context.

    Raises:
        NotFound: there is none of that name.
    """
    find_context(book, name)
    left = tuple(known for known in book.contexts if known.name != name)
    return replace(book, contexts=left, current=ContextName("") if book.current == name else book.current)


def set_variable(context: Context, name: VariableName, value: str) -> Context:
    """The context with a variable.

    Raises:
        ConfigurationError: it has `MAX_VARIABLES` already.
    """
    if name not in context.variables and len(context.variables) >= MAX_VARIABLES:
        raise ConfigurationError(f"context {context.name} has {MAX_VARIABLES} variables, the most there can be")
    return replace(context, variables=dict(sorted({**context.variables, name: value}.items())))
