"""What the commands that run a process until they are told to stop share: log, ready file, signals."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import click

from swarmlearning.encoding import to_json
from swarmlearning.errors import ConfigurationError

PORT: Final = click.IntRange(0, 65535)
"""0: one that is free."""

LOG_FORMAT: Final = "%(asctime)s : %(name)s : %(levelname)s : %(message)s"


def set_up_logging() -> None:
    """Log to stderr, as much as the environment asks for.

    Raises:
        ConfigurationError: it asks for a level that there is not.
    """
    level = os.environ.get("SWARM_LOG_LEVEL", os.environ.get("SL_LOG_LEVEL", "INFO")).upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigurationError(f"SWARM_LOG_LEVEL={level}: expected DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr)


def write_ready(path: str | None, ports: dict[str, int]) -> None:
    """Tell whoever started us that we are ready, and where."""
    if path is not None:
        partial = Path(path + ".part")
        partial.write_bytes(to_json({"pid": os.getpid(), "ports": ports}))
        partial.replace(path)


async def until_signalled(work: Coroutine[Any, Any, None], stop: Callable[[], Awaitable[None]]) -> None:
    """Run `work` until it ends or SIGTERM or SIGINT comes, then stop cleanly."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        await stop()


def say(text: str) -> None:
    """Write a line to the log."""
    logging.getLogger("swarmlearning").info(text)


def run_process(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a node; of the errors that ended it together, the first is the one to tell."""
    try:
        asyncio.run(main())
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
