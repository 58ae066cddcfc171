"""Copies what a container prints to a file, while it runs, and goes on where it was after the agent was restarted.

A thread per container: an engine hands its log out by a connection that blocks. Where it stands is a note beside the
pair; what the file holds beyond the note is written once more, so that nothing is there twice and nothing is left out.
Spec: docs/spec/swop-containers.md, SW-77.
"""

import collections
import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import docker.errors
import msgspec
from docker.types import CancellableStream
from msgspec.structs import replace

from swarmlearning.swop.managers.docker_engine import FAULTS, Engine, explain

_LOG: Final = logging.getLogger(__name__)

NOTE_S: Final = 0.5
"""How old the note gets while the container prints, seconds."""

RETRY_S: Final = 2.0
"""Between attempts while the engine does not answer, and between looks at a container whose log is full, seconds."""

TAIL_SHARE: Final = 8
"""The last so-many-th part of a log that may not grow is kept for its end."""

MAX_TAIL: Final = 64 << 10
"""Bytes of the end, at most."""

_TAIL_LINES: Final = 400
_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Where a copy stands."""

    container: str
    since: int = 0
    """Seconds since the Unix epoch: the engine is asked for what was printed from then on."""
    seen: int = 0
    """So many of those pieces are in the file."""
    size: int = 0
    """The file's, bytes."""
    full: bool = False
    """Nothing is added but the end."""
    done: bool = False


class Copier:
    """Copies one container's log."""

    def __init__(self, engine: Engine, container: str, log: Path, note: Path, limit: int) -> None:
        """Prepare.

        Args:
            engine: where it runs.
            container: its id.
            log: the file; appended to.
            note: where the copy's state is kept.
            limit: most bytes of the file.
        """
        self._engine = engine
        self._container = container
        self._log = log
        self._note_file = note
        self._limit = limit
        self._tail = min(MAX_TAIL, limit // TAIL_SHARE)
        self._note = self._load()
        self._closing = threading.Event()
        self.done = threading.Event()
        """It has ended: the container has, and all is in the file; or it was closed."""
        self._stream: CancellableStream[bytes] | None = None
        self._noted_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"log {log.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End it; what is not copied yet is copied by the next one. Does not wait."""
        self._closing.set()
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(*FAULTS):
                stream.close()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._closing.is_set() or self._note.done):
                try:
                    self._go_on()
                except docker.errors.NotFound:
                    self._remember(done=True)  # removed: there is nothing to copy any more
                except FAULTS as error:
                    _LOG.debug("cannot copy the log of %s: %s", self._container[:12], explain(error))
                    self._closing.wait(RETRY_S)
        finally:
            self.done.set()

    def _go_on(self) -> None:
        """Copy until the engine says that there is no more, and see whether that is the end."""
        ended = not self._runs()
        if self._note.full:
            if ended:
                self._add_end()
            else:
                self._closing.wait(RETRY_S)
            return
        self._copy(follow=not ended)
        if self._closing.is_set():
            return
        self._remember()
        if ended and not self._note.full:  # it had ended before this copy began: it is all of it
            self._remember(done=True)

    def _runs(self) -> bool:
        state = self._engine.api.inspect_container(self._container)["State"]
        return bool(state["Running"] or state.get("Paused"))

    def _copy(self, *, follow: bool) -> None:
        """Copy what was printed since the note; with `follow` until the container ends."""
        note = self._note
        stream = self._engine.api.logs(
            self._container, stream=True, follow=follow, timestamps=True, since=note.since or None
        )
        self._stream = stream
        seconds: collections.Counter[int] = collections.Counter()
        second = note.since
        try:
            with _open(self._log) as file:
                if os.fstat(file).st_size > note.size:  # written after the last note, and about to come once more
                    os.ftruncate(file, note.size)
                if self._closing.is_set():  # before there was a stream that could be closed
                    return
                for piece in stream:
                    stamp = _STAMP.match(piece)
                    if stamp is not None:
                        second = int(datetime.fromisoformat((stamp[1] + stamp[2]).decode()).timestamp())
                    seconds[second] += 1
                    if seconds.total() <= note.seen:
                        continue
                    if not self._add(file, piece[stamp.end() :] if stamp else piece) or self._closing.is_set():
                        return
                    if time.monotonic() - self._noted_at > NOTE_S:
                        self._advance(seconds, second)
        finally:
            self._stream = None
            if seconds.total() > note.seen:
                self._advance(seconds, second)
            with contextlib.suppress(*FAULTS):
                stream.close()

    def _add(self, file: int, text: bytes) -> bool:
        """Append; whether more may follow."""
        note = self._note
        notice = f"\n(more than {self._limit} bytes: what follows is left out, but for the end)\n".encode()
        room = max(self._limit - self._tail - len(notice) - note.size, 0)
        if len(text) <= room:
            self._note = replace(note, size=note.size + _write(file, text))
            return True
        written = _write(file, text[:room] + notice)
        self._note = replace(note, size=note.size + written, full=True)
        return False

    def _add_end(self) -> None:
        """The last lines of a log that was cut."""
        end = self._engine.api.logs(self._container, stream=False, follow=False, tail=_TAIL_LINES)
        with _open(self._log) as file:
            if os.fstat(file).st_size > self._note.size:
                os.ftruncate(file, self._note.size)
            written = _write(file, end[-self._tail :] if self._tail else b"")
        self._remember(size=self._note.size + written, done=True)

    # --- the note -----------------------------------------------------------------------------------------------

    def _advance(self, seconds: collections.Counter[int], second: int) -> None:
        """Note where the copy stands: by the pieces of the last seconds, as their stamps need not be in order."""
        since = max(self._note.since, second - 2)
        self._remember(since=since, seen=sum(pieces for known, pieces in seconds.items() if known >= since))

    def _remember(self, **changes: bool | int) -> None:
        self._note = replace(self._note, **changes)
        self._noted_at = time.monotonic()
        partial = self._note_file.with_name(self._note_file.name + ".part")
        try:
            partial.write_bytes(msgspec.json.encode(self._note))
            partial.replace(self._note_file)
        except OSError as error:
            # The pair was removed meanwhile, or the disk is full: the copy is right, its continuation may not be.
            _LOG.debug("cannot note where the log of %s stands: %s", self._container[:12], error)

    def _load(self) -> Note:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            note = msgspec.json.decode(self._note_file.read_bytes(), type=Note)
            if note.container == self._container:
                return note
        size = self._log.stat().st_size if self._log.exists() else 0
        return Note(container=self._container, size=size)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _write(file: int, text: bytes) -> int:
    """Append all of `text`; how much of it is there."""
    done = 0
    while done < len(text):
        done += os.write(file, text[done:])
    return done
