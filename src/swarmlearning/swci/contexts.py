"""Contexts: the networks that one steers, by name, kept across sessions. Spec: docs/spec/swci.md, CI-8 to CI-10.

A context is an SN and as whom one speaks to it: a node's certificate names its network, so each network needs its own.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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

LOCK_S: Final = 5.0
"""How long another session may be at changing the contexts, seconds; it takes milliseconds."""


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

    def change(self, update: Callable[[Book], Book]) -> None:
        """Replace them by what `update` makes of them; nobody else changes them meanwhile.

        Raises:
            ConfigurationError: they cannot be read or written; whatever `update` raises.
        """
        ...


class MemoryContexts:
    """Contexts of one session alone."""

    def __init__(self, book: Book | None = None) -> None:
        self._book = book or Book()

    def load(self) -> Book:
        """All contexts."""
        return self._book

    def change(self, update: Callable[[Book], Book]) -> None:
        """Replace them."""
        self._book = update(self._book)


class OwnContext:
    """One context of a session's own, before those that others share; it is not kept."""

    def __init__(self, shared: Contexts, own: Context) -> None:
        self._shared = shared
        self._own: Context | None = own

    def load(self) -> Book:
        """All contexts, the own one current.

        Raises:
            ConfigurationError: the shared ones cannot be read.
        """
        return self._join(self._shared.load())

    def change(self, update: Callable[[Book], Book]) -> None:
        """Replace them; what is shared stays as it is but for what `update` does to it.

        Raises:
            ConfigurationError: the shared ones cannot be read or written; whatever `update` raises.
        """
        self._shared.change(lambda shared: self._part(shared, update(self._join(shared))))

    def _join(self, shared: Book) -> Book:
        own = self._own
        return shared if own is None else Book(contexts=_by_name([own, *_others(shared, own.name)]), current=own.name)

    def _part(self, before: Book, after: Book) -> Book:
        if self._own is None:
            return after
        name = self._own.name
        self._own = next((context for context in after.contexts if context.name == name), None)
        hidden = [context for context in before.contexts if context.name == name]
        contexts = _by_name([*_others(after, name), *hidden])
        current = before.current if after.current in ("", name) else after.current
        return Book(contexts=contexts, current=_known(current, contexts))


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

    def change(self, update: Callable[[Book], Book]) -> None:
        """Replace them; a reader sees the old ones or the new ones.

        Raises:
            ConfigurationError: the file cannot be read or written, or another session holds it for `LOCK_S` seconds;
                whatever `update` raises.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"{self.path.parent} cannot be made: {error.strerror}") from error
        with _locked(self.path.with_suffix(".lock")):
            before = self.load()
            after = update(before)
            if after != before:
                write_file(self.path, to_json(after) + b"\n", mode=SECRET_MODE, force=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes honour; it ends with the process that holds it."""
    limit = time.monotonic() + LOCK_S
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET_MODE)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > limit:
                    raise ConfigurationError(
                        f"another session has held {path} for {LOCK_S:g} s; end it, or choose another {CONFIG_VARIABLE}"
                    ) from error
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def config_directory() -> Path:
    """Where the user's configuration is kept."""
    given = os.environ.get(CONFIG_VARIABLE)
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "swarmlearning"


def contexts_file() -> Path:
    """Where the user's contexts are kept."""
    return config_directory() / "contexts.json"


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
            "no context is chosen: CREATE CONTEXT <context> WITH IP <ip>, SWITCH CONTEXT, or start with --sn "
            f"HOST:PORT; there are: {known}"
        )
    raise NotFound(f"there is no context {wanted}; there are: {known}")


def put_context(book: Book, context: Context) -> Book:
    """The book with a context, in place of the one of its name.

    Raises:
        ConfigurationError: there are `MAX_CONTEXTS` already.
    """
    others = _others(book, context.name)
    if len(others) >= MAX_CONTEXTS:
        raise ConfigurationError(
            f"there are {MAX_CONTEXTS} contexts, the most there can be; DELETE CONTEXT one of them"
        )
    return replace(book, contexts=_by_name([*others, context]))


def drop_context(book: Book, name: ContextName) -> Book:
    """The book without a context.

    Raises:
        NotFound: there is none of that name.
    """
    find_context(book, name)
    left = _by_name(_others(book, name))
    return Book(contexts=left, current=_known(book.current, left))


def _others(book: Book, name: ContextName) -> list[Context]:
    return [context for context in book.contexts if context.name != name]


def _by_name(contexts: Iterable[Context]) -> tuple[Context, ...]:
    return tuple(sorted(contexts, key=lambda context: context.name))


def _known(name: ContextName, contexts: Sequence[Context]) -> ContextName:
    return name if any(context.name == name for context in contexts) else ContextName("")


def set_variable(context: Context, name: VariableName, value: str) -> Context:
    """The context with a variable; without it if the value is empty.

    Raises:
        ConfigurationError: it has `MAX_VARIABLES` already.
    """
    if not value:
        return replace(context, variables={known: text for known, text in context.variables.items() if known != name})
    if name not in context.variables and len(context.variables) >= MAX_VARIABLES:
        raise ConfigurationError(f"context {context.name} has {MAX_VARIABLES} variables, the most there can be")
    return replace(context, variables=dict(sorted({**context.variables, name: value}.items())))
