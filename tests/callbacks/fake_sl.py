"""A stand-in for the SL: a thread with a Unix socket that speaks docs/spec/control.md, well or badly as told."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from swarmlearning.contracts.records import MICRO, Progress
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.parameters.manifest import Manifest, decode_manifest, read_arrays, write_arrays
from swarmlearning.sl.control import (
    MAX_CONTROL_BYTES,
    Failed,
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
from swarmlearning.types import NodeId

Arrays = dict[str, Any]
Merge = Callable[[int, Arrays], Arrays | None]

ME = NodeId("spiffe://cleveland.example/heart/sl/sl-1")
OTHER = NodeId("spiffe://hungary.example/heart/sl/sl-1")
__all__ = ["ME", "MICRO", "OTHER", "FakeSl", "Figures", "MeanSwarm"]


class _Died(Exception):
    """The SL ends, as told."""


@dataclass(frozen=True)
class Figures:
    """What a round's answer says of this peer and of the swarm."""

    contributed: Sequence[int] = (0,)
    """By round; the last one goes on."""
    recent: int = 0
    loss_micro: int | None = None
    metric_micro: int | None = None


class FakeSl:
    """Serves connections one after another until closed."""

    def __init__(
        self,
        directory: Path,
        *,
        merge: Merge = lambda _, arrays: arrays,
        newest: Arrays | None = None,
        first_round: int = 0,
        over_at: int | None = None,
        interval: int | None = None,
        waits: Sequence[str] = (),
        replies: Mapping[type, Reply | bytes] | None = None,
        tamper: bool = False,
        peers: tuple[NodeId, ...] = (ME, OTHER),
        dies: Mapping[type, Sequence[int]] | None = None,
        stays_dead: bool = False,
        position: Progress | None = None,
        interval_now: int = 0,
        reached: bool = False,
        run: int = 1,
        figures: Figures | None = None,
    ) -> None:
        """Listen.

        Args:
            directory: the control directory.
            merge: what a round makes of this program's arrays; None is a void round.
            newest: given to a late program.
            first_round: the first `Sync` goes to it.
            over_at: the round that is answered by `Over`.
            interval: `next_interval`; the settings' by default.
            waits: sent as `Waiting` before every answer.
            replies: by the request's type, what is answered instead; bytes are sent as they are, then it hangs up.
            tamper: change a byte of each result after hashing it.
            peers: contributors and participants of every round.
            dies: by the request's type, which of them (from 0) it does not answer but hangs up.
            stays_dead: it does not listen any more then; the socket's file stays, as after a SIGKILL.
            position: `Opened.position`.
            interval_now: `Opened.interval`.
            reached: `Over.reached`.
            run: `Opened.run`.
            figures: what `Synced` tells besides.
        """
        self.path = directory / "sl.sock"
        self.requests: list[Request] = []
        self.offered: list[Arrays] = []
        self.results: list[bytes] = []
        self._directory = directory
        self._merge, self._newest, self._first, self._over_at = merge, newest, first_round, over_at
        self._interval, self._waits, self._replies, self._tamper, self._peers = (
            interval,
            waits,
            replies or {},
            tamper,
            peers,
        )
        self._dies, self._stays_dead = dies or {}, stays_dead
        self._position, self._interval_now, self._reached, self._run_number = (
            position or Progress(),
            interval_now,
            reached,
            run,
        )
        self._figures = figures or Figures()
        self._number = first_round
        self._error: BaseException | None = None
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()
        if self._error is not None and error is None:
            raise self._error

    def of(self, kind: type) -> list[Any]:
        """The requests of one type."""
        return [request for request in self.requests if isinstance(request, kind)]

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connection = connection
            with connection:
                connection.settimeout(10)
                try:
                    self._serve(connection)
                except (ConnectionError, EOFError):
                    pass
                except _Died:
                    if self._stays_dead:
                        self._listener.close()
                        return
                except BaseException as error:  # noqa: BLE001  # shown by the test
                    self._error = error
                    return

    def _serve(self, connection: socket.socket) -> None:
        manifest: Manifest | None = None
        file = ""
        interval = 1
        while True:
            request = _receive(connection)
            self.requests.append(request)
            if isinstance(request, Open):
                manifest = decode_manifest(request.manifest)
                file, interval = request.file, self._interval or request.settings.sync_frequency
                if not request.run:
                    self._number = self._first
            if len(self.of(type(request))) - 1 in self._dies.get(type(request), ()):
                raise _Died
            number = self._number
            for text in self._waits:
                _send(connection, Waiting(text=text))
            instead = self._replies.get(type(request))
            if isinstance(instead, bytes):
                connection.sendall(instead)
                return
            if instead is not None:
                _send(connection, instead)
                continue
            match request:
                case Open():
                    newest = self._store(manifest, self._newest)[0] if self._newest and not request.run else ""
                    _send(
                        connection,
                        Opened(
                            node=ME,
                            run=self._run_number,
                            round=number,
                            peers=self._peers,
                            file=newest,
                            newest=number - 1 if newest else -1,
                            interval=self._interval_now,
                            position=self._position,
                        ),
                    )
                case Sync():
                    name, digest = self._store(manifest, self._merge(number, self._take(manifest, file)))
                    if number == self._over_at:
                        _send(connection, self._over(number, name, digest))
                        continue
                    _send(
                        connection,
                        Synced(
                            round=number,
                            file=name,
                            sha256=digest,
                            contributors=self._peers if name else (),
                            participants=self._peers,
                            next_interval=interval,
                            bytes_received=7,
                            bytes_sent=9,
                            contributed=self._figures.contributed[min(number, len(self._figures.contributed) - 1)],
                            recent=self._figures.recent,
                            mean_loss_micro=self._figures.loss_micro,
                            mean_metric_micro=self._figures.metric_micro,
                        ),
                    )
                    self._number += 1
                case Finish():
                    name, digest = self._store(manifest, self._merge(number, self._take(manifest, file)))
                    _send(connection, self._over(number, name, digest))
                case Leave():
                    _send(connection, Over(round=number, file="", sha256=b"", contributors=()))

    def _over(self, number: int, name: str, digest: bytes) -> Over:
        return Over(round=number, file=name, sha256=digest, contributors=self._peers, reached=self._reached)

    def _take(self, manifest: Manifest | None, file: str) -> Arrays:
        assert manifest is not None
        path = self._directory / file
        assert path.stat().st_mode & 0o777 == 0o600
        arrays = read_arrays(manifest, memoryview(path.read_bytes()))
        self.offered.append(arrays)
        return arrays

    def _store(self, manifest: Manifest | None, arrays: Arrays | None) -> tuple[str, bytes]:
        if arrays is None:
            return "", b""
        assert manifest is not None
        buffer = bytearray(manifest.size)
        write_arrays(manifest, arrays, memoryview(buffer))
        digest = sha256(buffer)
        self.results.append(digest)
        if self._tamper:
            buffer[0] ^= 1
        name = f"result-{len(self.results)}.params"
        (self._directory / name).write_bytes(buffer)
        return name, digest


class MeanSwarm:
    """Averages what `peers` fake SLs bring to a round, plainly."""

    def __init__(self, peers: int) -> None:
        self._peers = peers
        self._changed = threading.Condition()
        self._brought: dict[int, list[Arrays]] = {}

    def merge(self, number: int, arrays: Arrays) -> Arrays:
        """Wait until all have brought theirs to round `number`."""
        with self._changed:
            self._brought.setdefault(number, []).append(arrays)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: len(self._brought[number]) == self._peers, timeout=10)
            return {name: np.mean([a[name] for a in self._brought[number]], axis=0) for name in arrays}


def _send(connection: socket.socket, reply: Reply) -> None:
    body = encode(reply)
    connection.sendall(struct.pack(">I", len(body)) + body)


def _receive(connection: socket.socket) -> Request:
    (length,) = struct.unpack(">I", _exactly(connection, 4))
    assert 0 < length <= MAX_CONTROL_BYTES
    request: Request = decode(_exactly(connection, length), Request, limit=MAX_CONTROL_BYTES)  # type: ignore[arg-type]  # a union
    return request


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def failed(kind: Any, message: str = "as the test says") -> Failed:
    """A `Failed` of one kind."""
    return Failed(kind=kind, message=message)


def environ(sl: FakeSl) -> dict[str, str]:
    """The environment of a program beside `sl`."""
    return {"SWARM_SL": os.fspath(sl.path.parent)}
