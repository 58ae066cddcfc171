"""The SL's local door: a Unix socket for ML programs on this host. Spec: docs/spec/control.md.

One connection carries one training. The file system's permissions and the peer's user id are the fence.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import (
    AddressInUse,
    ConfigurationError,
    DecodeError,
    Refused,
    SwarmError,
    Unreachable,
    WaitExpired,
)
from swarmlearning.sl.control import (
    CONTROL_VERSION,
    FAILURES,
    MAX_CONTROL_BYTES,
    Drill,
    Failed,
    FailureKind,
    Finish,
    Leave,
    Open,
    Opened,
    Over,
    Reply,
    Request,
    Sync,
    Synced,
    Waiting,
)
from swarmlearning.sl.desk import log
from swarmlearning.sl.drills import carry_out
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.patience import Patience
from swarmlearning.sl.program import SyncOutcome

T = TypeVar("T")

SOCKET_NAME: Final = "sl.sock"

WAITING_FIRST_S: Final = 1.0
"""After this long a request that is not answered yet is told what it waits for, seconds."""

WAITING_AGAIN_S: Final = 20.0
"""How often it is told again where nothing changed, seconds (the spec says at least every 30)."""

CLOSE_S: Final = 2.0
"""How long a program that does not read its last reply may hold up the end of this SL, seconds."""

_PEERCRED: Final = struct.Struct("3i")

Begin = Callable[[Open], Awaitable[Participation]]
"""Makes a participation of a program's request; the node keeps it running after the program is gone."""


def kind_of(error: SwarmError) -> FailureKind:
    """How `Failed` names an error."""
    if isinstance(error, DecodeError):
        return "configuration"  # the program's own bytes are wrong
    return next((kind for kind, meant in FAILURES.items() if isinstance(error, meant)), "broken")


class Door:
    """Listens for ML programs."""

    def __init__(self, directory: Path, begin: Begin, *, wait_max_s: float) -> None:
        """Prepare to listen in `directory`.

        Args:
            directory: the control directory; made with mode 0700.
            begin: makes a participation.
            wait_max_s: after this long without progress in the training a wait ends with an error, seconds.
        """
        self._directory = directory
        self._begin = begin
        self._wait_max_s = wait_max_s
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def programs(self) -> int:
        """Programs connected now."""
        return len(self._visits)

    @property
    def path(self) -> Path:
        """Of the socket."""
        return self._directory / SOCKET_NAME

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressInUse: another SL listens there.
            ConfigurationError: the directory cannot be used, or its path is too long for a socket.
        """
        path = self.path
        if len(os.fsencode(path)) > 100:
            raise ConfigurationError(
                f"control socket {path}: a socket's path may have at most 100 bytes; choose another"
            )
        try:
            listener = _listen(path)
        except OSError as error:
            raise ConfigurationError(f"control socket {path}: {error.strerror or error}") from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """Stop listening, and close all connections: nobody leaves, for programs wait for the next process (C-17)."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        visits = list(self._visits)
        for visit in visits:
            visit.cancel()
        if visits:
            await asyncio.wait(visits, timeout=CLOSE_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One program, from connection to end. A task's boundary."""
        task = asyncio.current_task()
        if task is None or self._stopping:
            writer.close()
            return
        self._visits.add(task)
        try:
            check_user(writer)
            await _Visit(reader, writer, self._wait_max_s).run(self._begin)
        except SwarmError as error:
            log.warning("a program's connection ended: %s", error)
        except asyncio.CancelledError:
            if not self._stopping:  # ours ends here: asyncio's streams would log it as a fault (Python 3.11)
                raise
        finally:
            self._visits.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _listen(path: Path) -> socket.socket:
    """A socket at `path` that only our user may connect to; one that a dead SL left there is replaced."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(f"{path} exists and is not a socket; choose another --control directory")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(os.fspath(path)) == 0:
                raise AddressInUse(f"another SL already listens at {path}; choose another --control directory")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def check_user(writer: asyncio.StreamWriter) -> None:
    """C-2: the program runs as our user, or root.

    Raises:
        Refused: it does not.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return  # not Linux: the directory's mode is the fence
    connection = writer.get_extra_info("socket")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    _, user, _ = _PEERCRED.unpack(data)
    if user not in (0, os.getuid()):
        raise Refused(f"a program of user {user} knocked at the control socket; expected user {os.getuid()}")


class _Visit:
    """One connection of one program."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait_max_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._wait_max_s = wait_max_s
        self._next: asyncio.Task[Request | None] | None = None

    async def _read(self) -> Request | None:
        """The next request; None if the program is gone, however it went.

        Raises:
            DecodeError: C-1: something else than a request came.
        """
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if not 0 < length <= MAX_CONTROL_BYTES:
                raise DecodeError(f"control frame of {length} bytes; expected 1 to {MAX_CONTROL_BYTES}")
            frame = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        request: Request = decode(frame, Request, limit=MAX_CONTROL_BYTES)  # type: ignore[arg-type]  # a union
        return request

    async def _send(self, reply: Reply) -> None:
        """Send a reply; that the program is gone shows at the next read."""
        data = encode(reply)
        with contextlib.suppress(ConnectionError):
            self._writer.write(len(data).to_bytes(4, "big") + data)
            await self._writer.drain()

    async def run(self, begin: Begin) -> None:
        """Answer requests until the program closes or the training is over for it."""
        first = await self._read()
        if first is None:
            return
        try:
            participation = await self._open(first, begin)
        except SwarmError as error:
            await self._send(Failed(kind=kind_of(error), message=str(error)))
            return
        finished = participation is None
        try:
            while participation is not None and not finished:
                request = await (self._next or asyncio.ensure_future(self._read()))
                self._next = None
                if request is None:
                    break
                finished = await self._answer(participation, request)
        except asyncio.CancelledError:
            finished = True  # this SL stops: its program waits for the next process
            raise
        finally:
            if self._next is not None:
                self._next.cancel()
            if participation is not None and not finished and not participation.ended.is_set():
                # C-6: the program died or gave up. What it offered stands until the round is over.
                await self._part(participation)

    async def _part(self, participation: Participation) -> None:
        try:
            await participation.part("the program ended without finishing")
        except SwarmError as error:
            log.warning("cannot leave %s: %s", participation.desk.contract, error)

    async def _leave(self, participation: Participation, reason: str) -> None:
        try:
            await participation.leave(reason)
        except SwarmError as error:
            log.warning("cannot leave %s: %s", participation.desk.contract, error)

    async def _open(self, request: Request, begin: Begin) -> Participation | None:
        """Begin a participation; None if the program went while it was enrolled."""
        if not isinstance(request, Open):
            raise ConfigurationError(f"expected Open as the first request, got {type(request).__name__}")
        if request.version != CONTROL_VERSION:
            raise ConfigurationError(
                f"this program speaks control version {request.version}, the SL {CONTROL_VERSION}: "
                "install the same release of swarmlearning on both sides"
            )
        participation = await begin(request)
        try:
            opened = await self._await(participation, participation.open(), keep=False)
        except Unreachable:
            participation.abandon()
            raise
        except SwarmError as error:
            await self._leave(participation, f"could not begin: {error}")
            raise
        if opened is None:
            await self._part(participation)
            return None
        number, result = opened
        desk = participation.desk
        await self._send(
            Opened(
                node=desk.node,
                run=desk.run,
                round=number,
                peers=tuple(peer.node for peer in desk.record.peers),
                file=result.record.file if result else "",
                newest=result.record.round if result else -1,
                interval=desk.record.interval,
                position=participation.position,
            )
        )
        return participation

    async def _answer(self, participation: Participation, request: Request) -> bool:
        """Answer one request; whether the training is over for this program."""
        try:
            match request:
                case Sync():
                    outcome = await self._await(participation, participation.sync(request.progress), keep=False)
                case Finish():
                    # A finished program may go; its SL stays until all have finished.
                    outcome = await self._await(participation, participation.finish(request.progress), keep=True)
                case Leave():
                    await participation.leave(request.reason)
                    await self._send(Over(round=-1, file="", sha256=b"", contributors=()))
                    return True
                case Drill():
                    await self._send(await carry_out(participation.desk, request))
                    return False
                case Open():
                    raise ConfigurationError("Open came twice; one connection carries one training")
        except SwarmError as error:
            await self._send(Failed(kind=kind_of(error), message=str(error)))
            if not participation.ended.is_set():
                await self._leave(participation, str(error))
            return True
        if outcome is None:
            # The program is gone; a finished one's SL goes on without it.
            participation.attended = participation.attended and not isinstance(request, Finish)
            return isinstance(request, Finish)
        await self._tell(participation, outcome)
        return outcome.kind == "over"

    async def _await(self, participation: Participation, work: Coroutine[Any, Any, T], *, keep: bool) -> T | None:
        """Wait for an outcome, saying what is waited for; None if the program closed meanwhile.

        Args:
            participation: whose.
            work: what to wait for.
            keep: whether the work goes on without the program.

        Raises:
            WaitExpired: R-22: the training did not advance for `wait_max_s`.
            DecodeError: the program sent a request out of turn.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)
        self._next = asyncio.ensure_future(self._read())
        told, told_at = "", 0.0
        patience = Patience(self._wait_max_s, loop.time())
        gone = False
        try:
            while True:
                await asyncio.wait({task, self._next}, timeout=WAITING_FIRST_S, return_when="FIRST_COMPLETED")
                if task.done():
                    return task.result()
                if self._next.done():
                    if self._next.result() is None:
                        gone = True
                        return None
                    raise DecodeError("the program sent a request before its last one was answered")
                desk = participation.desk
                patience.look(desk.training, desk.bytes_received + desk.bytes_sent, loop.time())
                text = participation.explain()
                if text != told or loop.time() - told_at >= WAITING_AGAIN_S:
                    await self._send(Waiting(text=text))
                    told, told_at = text, loop.time()
                if patience.is_over(loop.time()):
                    raise WaitExpired(
                        f"waited {self._wait_max_s:.0f} s and no round ended (the limit is SWARM_MAX_WAIT): {text}"
                    )
        finally:
            if not task.done() and not (keep and gone):
                task.cancel()
            task.add_done_callback(_swallow)

    async def _tell(self, participation: Participation, outcome: SyncOutcome) -> None:
        desk, result, stored = participation.desk, outcome.result, outcome.stored
        file = stored.record.file if stored else ""
        digest = result.sha256 if result else b""
        contributors = result.contributors if result else ()
        if outcome.kind == "over":
            over = Over(
                round=outcome.round, file=file, sha256=digest, contributors=contributors, reached=outcome.reached
            )
            await self._send(over)
            return
        await self._send(
            Synced(
                round=outcome.round,
                file=file,
                sha256=digest,
                contributors=contributors,
                participants=result.participants if result else (),
                next_interval=outcome.next_interval,
                bytes_received=desk.bytes_received,
                bytes_sent=desk.bytes_sent,
                contributed=outcome.contributed,
                recent=outcome.recent,
                mean_loss_micro=outcome.mean_loss_micro,
                mean_metric_micro=outcome.mean_metric_micro,
                timings_us=outcome.timings_us,
            )
        )


def _swallow(task: "asyncio.Task[Any]") -> None:
    """Retrieve the outcome that nobody waits for any more."""
    if not task.cancelled() and task.exception() is not None:
        log.debug("nobody waits any more for: %s", task.exception())
