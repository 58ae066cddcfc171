"""What all methods of `Swci` share: as whom it speaks, command lines out of arguments, failures, and what it remembers.

Spec: docs/spec/swci-python.md, CI-63 to CI-65. Does not: know any command.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TextIO, TypeVar

from swarmlearning.errors import ConfigurationError, IdentityError, SwarmError
from swarmlearning.identity.source import (
    CACERT_VARIABLE,
    CAPATH_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    PemSource,
)
from swarmlearning.swci.lexer import check_line, quote_word
from swarmlearning.swci.service_calls import ERROR, Service
from swarmlearning.swci.service_tls import ServiceTls
from swarmlearning.transport.wire import one_line
from swarmlearning.types import Endpoint

T = TypeVar("T")

LOGGER_NAME: Final = "swarmlearning.swci.client"
FORMAT: Final = "%(asctime)s : %(name)s : %(levelname)s : %(message)s"

REQUEST_S: Final = 60.0
"""How long a command may take, seconds, unless it is one that waits."""

WAIT_S: Final = 7500.0
"""How long a command may take that waits, seconds: somewhat longer than the service waits by default (120 minutes)."""

_WAITING: Final = ("WAIT", "WATCH")
"""First words of commands that wait."""

_FINAL: Final = re.compile(r"\s*FINALIZED\s*:\s*final since")
"""How GET TASK INFO says that a task cannot change any more."""

_LEVELS: Final = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")


class SwciError(SwarmError, RuntimeError):
    """What a method of `Swci` raises that cannot tell of a failure by an empty answer; its cause has the kind."""


class Raw(str):
    """An argument that is the rest of a line, as it stands."""

    __slots__ = ()


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the time, as notebooks and test runners replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter(FORMAT))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the base class keeps it as an attribute
        return sys.stderr


class Commander:
    """Sends command lines to a REST service, and tells of failures the way that its user chose."""

    def __init__(
        self, service: Service, logger: logging.Logger, *, raise_errors: bool, remembers: bool, limit_s: float
    ) -> None:
        self._service = service
        self._logger = logger
        self._raise_errors = raise_errors
        self._remembers = remembers
        self._limit_s = limit_s
        self._failures = threading.local()
        """A failure belongs to the thread whose call came back empty."""
        self._lock = threading.Lock()
        self._memory: dict[str, list[str]] = {}
        self._final: set[str] = set()
        """Tasks that are known to be final: they cannot change any more."""

    # --- failures ---------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> str | None:
        """What went wrong in this thread's last call, beginning with `ERROR `; None if nothing did."""
        text: str | None = getattr(self._failures, "text", None)
        return text

    def attempt(self, action: Callable[[], T], otherwise: T) -> T:
        """CI-64: what `action` returns; where it fails, `otherwise`, or the error if the user chose so.

        Raises:
            SwarmError: it failed, and errors are to be raised.
        """
        try:
            return self._noted(action)
        except SwarmError:
            if self._raise_errors:
                raise
            self._logger.error("%s", str(self.failure).removeprefix("ERROR "))
            return otherwise

    def demand(self, action: Callable[[], T]) -> T:
        """CI-64: what `action` returns, where an empty answer would mislead.

        Raises:
            SwciError: it failed.
            SwarmError: it failed, and errors are to be raised as they are.
        """
        try:
            return self._noted(action)
        except SwarmError as error:
            if self._raise_errors:
                raise
            raise SwciError(str(error)) from error

    def _noted(self, action: Callable[[], T]) -> T:
        self._failures.text = None
        try:
            return action()
        except SwarmError as error:
            self._failures.text = ERROR + one_line(str(error))
            raise

    # --- commands ---------------------------------------------------------------------------------------------------

    def ask(self, template: str, *arguments: object, limit_s: float | None = None, verbatim: bool = False) -> list[str]:
        """The lines of a command; each `{}` of `template` becomes an argument, one word whatever it holds (CI-63).

        Raises:
            ConfigurationError: an argument cannot be one.
            SwarmError: see `Service.exec`.
        """
        line = write_line(template, *arguments)
        self._logger.debug("%s: %s", self._service.endpoint, line)
        return self._service.exec(line, self._limit_s if limit_s is None else limit_s, verbatim=verbatim)

    def do(self, template: str, *arguments: object, limit_s: float | None = None) -> list[str]:
        """As `ask`, and empty where it fails; see `attempt`.

        Raises:
            SwarmError: it failed, and errors are to be raised.
        """
        return self.attempt(lambda: self.ask(template, *arguments, limit_s=limit_s), [])

    def run_line(self, line: str, limit_s: float | None) -> list[str]:
        """The lines of a command that the user wrote.

        Raises:
            SwarmError: it failed, and errors are to be raised.
        """
        first = (line.split(maxsplit=1) or [""])[0].upper() if isinstance(line, str) else ""
        waits_s = WAIT_S if first in _WAITING else None
        self.forget()  # whatever it does

        def run() -> list[str]:
            return self.ask(
                "{}",
                Raw(line),
                limit_s=waits_s if limit_s is None else check_seconds("timeoutInSec", limit_s, least=0.001),
            )

        return self.attempt(run, [])

    # --- memory -----------------------------------------------------------------------------------------------------

    def look(self, template: str, task: object) -> list[str]:
        """CI-65: as `do`, about a task that may be said to be final.

        Raises:
            SwarmError: it failed, and errors are to be raised.
        """
        lines = self.do(template, task)
        if any(_FINAL.match(said) for said in lines):
            self.note_final(task)
        return lines

    def recall(self, template: str, task: object) -> list[str]:
        """CI-65: as `do`, for what never changes of a task that is final: remembered if it is known to be; verbatim.

        Raises:
            SwarmError: it failed, and errors are to be raised.
        """
        return self.attempt(lambda: self._recall(template, task), [])

    def _recall(self, template: str, task: object) -> list[str]:
        line = write_line(template, task)
        with self._lock:
            known = self._memory.get(line)
        if known is not None:
            return list(known)
        lines = self.ask(template, task, verbatim=True)
        with self._lock:
            if self._remembers and str(task) in self._final:
                self._memory[line] = list(lines)
        return lines

    def note_final(self, task: object) -> None:
        """Remember that a task cannot change any more."""
        with self._lock:
            self._final.add(str(task))

    def forget(self) -> None:
        """Forget everything: another network is meant now, or the user wants it."""
        with self._lock:
            self._memory.clear()
            self._final.clear()


def write_line(template: str, *arguments: object) -> str:
    """CI-63: a command line; an argument is one word of it, whatever it holds.

    Raises:
        ConfigurationError: an argument cannot be one: of another type, with a line break or another control character,
            or too long.
    """
    line = template.format(*(_write_word(argument) for argument in arguments))
    check_line(line)
    return line


def _write_word(argument: object) -> str:
    if isinstance(argument, Raw):
        return str(argument)
    if isinstance(argument, float) and argument.is_integer():
        argument = int(argument)
    if isinstance(argument, bool) or not isinstance(argument, str | int | float | os.PathLike):
        raise ConfigurationError(f"argument {str(argument)[:80]!r}: expected text or a number")
    text = os.fspath(argument) if isinstance(argument, os.PathLike) else str(argument)
    if not isinstance(text, str):
        raise ConfigurationError(f"path {text!r}: expected text, got bytes")
    # In quotes it is no keyword.
    return f'"{text}"' if text.isalpha() else quote_word(text)


def open_service(host: str, port: int, source: PemSource) -> Service:
    """The service at an address; nothing is sent yet.

    Raises:
        ConfigurationError: the address is malformed.
        IdentityError: the identity is missing, expired or does not match.
    """
    if isinstance(port, bool) or not isinstance(port, int):
        raise ConfigurationError(f"port {str(port)[:80]!r}: expected a whole number")
    return Service(Endpoint.parse(str(host), port), ServiceTls(source))


def find_identity(
    cert: str | Path | None, key: str | Path | None, bundle: str | Path | None, environ: Mapping[str, str]
) -> PemSource:
    """As whom a program speaks: what it gives, or what the environment (`SWARM_ID_*`) does; nothing is read yet.

    A certificate that is given without a key has its key in the same file. `bundle` is a file, or a directory.

    Raises:
        IdentityError: certificate, key or CA certificates are not given.
    """
    if cert is None:
        chosen, chosen_key = environ.get(CERT_VARIABLE), str(key) if key else environ.get(KEY_VARIABLE)
    else:
        chosen, chosen_key = str(cert), str(key or cert)
    cacert, capath = environ.get(CACERT_VARIABLE), environ.get(CAPATH_VARIABLE)
    if bundle is not None:
        cacert, capath = (None, str(bundle)) if Path(bundle).is_dir() else (str(bundle), None)
    missing = [
        name
        for name, given in (
            (f"clientCert ({CERT_VARIABLE})", chosen),
            (f"clientPKey ({KEY_VARIABLE})", chosen_key),
            (f"clientCABundle ({CACERT_VARIABLE}, {CAPATH_VARIABLE})", cacert or capath),
        )
        if not given
    ]
    if missing:
        raise IdentityError(
            f"Swci: {', '.join(missing)} not given; name the PEM files of an operator of your organisation "
            "(make them with `swarm cert issue --role operator`)"
        )
    return PemSource.from_paths(chosen, chosen_key, cacert, capath)


def choose_logger(logger: object, level: int | str) -> logging.Logger:
    """The user's logger, as it is, or our own, which shows on standard error what is from `level` on.

    Raises:
        ConfigurationError: there is no such level.
    """
    if isinstance(logger, logging.Logger):
        return logger
    own = logging.getLogger(LOGGER_NAME)
    if not own.hasHandlers():
        own.addHandler(_StderrHandler())
    own.setLevel(read_level(level))
    return own


def read_level(level: int | str) -> int:
    """A level of `logging`, given as its number or name.

    Raises:
        ConfigurationError: there is none.
    """
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    name = str(level).upper()
    if name.isdigit():
        return int(name)
    if name not in _LEVELS:
        raise ConfigurationError(f"log level {str(level)[:40]!r}: expected one of {', '.join(_LEVELS)}")
    return int(getattr(logging, name))


def check_seconds(name: str, value: object, *, least: float = 0.0) -> float:
    """A number of seconds that a program gave.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
        raise ConfigurationError(f"{name} {str(value)[:40]!r}: expected a number of seconds, at least {least:g}")
    return float(value)
