"""How a callback talks to the user: the logger `SwarmCallback`, waits that are not repeated too often, plain errors."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TextIO

from swarmlearning.errors import SwarmError, exit_code

LOGGER_NAME: Final = "SwarmCallback"
FORMAT: Final = "%(asctime)s : %(name)s : %(levelname)s : %(message)s"

REPEAT_S: Final = 10.0
"""The same `Waiting` text is shown at most this often, seconds."""


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stdout` is at the time, as notebooks and test runners replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter(FORMAT))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the base class keeps it as an attribute
        return sys.stdout


def default_logger() -> logging.Logger:
    """The logger `SwarmCallback`; on first use it is set up to write to standard output from INFO on."""
    logger = logging.getLogger(LOGGER_NAME)
    if not logger.handlers:
        logger.addHandler(_StdoutHandler())
        logger.propagate = False  # the line is out already; a root handler would print it twice
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    return logger


class WaitLog:
    """Shows what is waited for, a repeated text not more often than every `REPEAT_S`."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._text = ""
        self._shown = 0.0

    def show(self, text: str) -> None:
        """Log `text`, unless it was logged a moment ago."""
        now = self._clock()
        if text == self._text and now - self._shown < REPEAT_S:
            return
        self._text, self._shown = text, now
        # What an SL says goes to a terminal: control characters do not belong there.
        self._logger.info("Waiting: %s", "".join(c if c.isprintable() else " " for c in text[:1000]))


def show_errors_plainly() -> None:
    """Let an uncaught `SwarmError` end the program with its one line and its exit code, without a stack trace.

    The user's own `sys.excepthook`, if there is one, is left in place.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, SwarmError):
        sys.__excepthook__(kind, error, trace)
        return
    logger = logging.getLogger(LOGGER_NAME)
    logger.debug("where it happened", exc_info=(kind, error, trace))
    sys.stdout.flush()
    sys.stderr.write(f"{LOGGER_NAME}: {kind.__name__}: {error}\n")
    raise SystemExit(int(exit_code(error)))
