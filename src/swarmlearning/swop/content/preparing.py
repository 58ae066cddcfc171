"""A task MAKE_SWARM_USER_CONTENT: its operations, one after the other, fill a directory.

Spec: docs/spec/swop-content.md, SW-67 to SW-69.
"""

import time
from pathlib import Path

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.archives import unpack
from swarmlearning.swop.content.downloading import PATIENCE, Patience, Tell, download
from swarmlearning.swop.content.names import check_path, make_parents, show_name
from swarmlearning.swop.content.unpacking import Bounds
from swarmlearning.swop.content.urls import Allow, check_url, name_of, show_url
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import MakeContent, Operation


async def prepare_content(
    body: MakeContent,
    directory: Path,
    limits: Limits,
    allow: Allow,
    tell: Tell,
    log: Path,
    patience: Patience = PATIENCE,
) -> None:
    """Fill a directory with what a task says.

    Args:
        body: of the task.
        directory: empty, and changed by nobody else.
        limits: how much may be downloaded, and how much may come out of archives.
        allow: whether something may be downloaded from a URL; asked for each redirect, too.
        tell: is given each step, and how far it is.
        log: a file; what is told is appended, with the time.
        patience: how long a download may take.

    Raises:
        TaskFailed: a step failed. What is in the directory then is of no use.
    """
    content = _Content(directory, limits, allow, tell, log, patience)
    for operation in body.operations:  # before anything is asked for
        if operation.operation == "DOWNLOAD":
            check_url(operation.target, allow)
    for number, operation in enumerate(body.operations, 1):
        where = f"step {number} of {len(body.operations)}"
        content.say(f"{where}: {operation.operation} {show_target(operation)}")
        try:
            await content.perform(operation)
        except TaskFailed as error:
            content.write(f"failed: {error}")
            raise TaskFailed(f"{where}: {error}") from error


def show_target(operation: Operation) -> str:
    """What an operation is about, for people."""
    return show_url(operation.target) if operation.operation == "DOWNLOAD" else show_name(operation.target)


class _Content:
    """A directory that is being filled."""

    def __init__(
        self, directory: Path, limits: Limits, allow: Allow, tell: Tell, log: Path, patience: Patience
    ) -> None:
        self._directory = directory
        self._limit = limits.content
        self._allow = allow
        self._tell = tell
        self._log = log
        self._patience = patience
        self._downloaded = 0
        self._unpacked = 0

    def say(self, text: str) -> None:
        self.write(text)
        self._tell(text)

    def write(self, text: str) -> None:
        """Append a line to the log alone."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC {text}\n")

    async def perform(self, operation: Operation) -> None:
        if operation.operation == "DOWNLOAD":
            await self._download(operation)
        else:
            await self._extract(operation)

    async def _download(self, operation: Operation) -> None:
        out = (operation.out or "").lstrip("/")
        if not out or out.endswith("/"):
            name = name_of(operation.target)
            if not name:
                raise TaskFailed(f"{show_url(operation.target)}: it names no file; say where it goes by the option Out")
            out += name
        parts = check_path(out, "Out")
        if not parts:
            raise TaskFailed(f"Out {show_name(out)}: expected the name of a file in the volume")
        path = make_parents(self._directory, parts[:-1], "Out") / parts[-1]
        if path.is_dir():
            raise TaskFailed(f"Out {show_name(out)}: is a directory; end it with / to download into it")
        found = await download(
            operation.target,
            path,
            most=self._limit - self._downloaded,
            allow=self._allow,
            tell=self.say,
            sha256=operation.sha256,
            patience=self._patience,
        )
        self._downloaded += found.size

    async def _extract(self, operation: Operation) -> None:
        parts = check_path(operation.target.lstrip("/"), "Target")
        archive = self._directory.joinpath(*parts)
        if not parts or archive.is_symlink() or not archive.is_file():
            raise TaskFailed(f"Target {show_name(operation.target)}: no such file in the volume; download it before")
        into = check_path((operation.out or "").lstrip("/"), "Out")
        bounds = Bounds(bytes=self._limit - self._unpacked)
        self._unpacked += await unpack(archive, self._directory, into, bounds, self.say, operation.sha256)
