"""The floor: the bytes of a round moved between as many processes over plain mutual TLS sockets, and one memory pass.

No ledger, no commitments, no disk: what the machine needs for the traffic alone. Each process serves its part to the
others and fetches theirs, over connections that are opened before the clock runs, and goes once over the arrays.

Does not: know rounds, contracts or our transport. Blocking sockets and threads on purpose: the fastest plain way.
"""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np

from swarmlearning.errors import Broken
from swarmlearning.parameters.dtypes import Array

PIECE_BYTES: Final = 256 << 10
"""Sent at a time: it stays in a core's caches on its way to the socket."""

WAIT_S: Final = 60.0
"""Longest wait for another process, seconds."""

_PROGRAM: Final = "import sys; from swarmlearning.bench.floor import work; work(sys.argv[1])"
_FETCH, _SERVE = b"f", b"r"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the processes is told."""

    index: int
    processes: int
    size: int
    """Of the model, bytes."""
    leaders: int
    """How many of the processes merge: each a part of the model."""
    certificate: str
    key: str
    authorities: str


class Floor:
    """As many processes as peers; a context manager."""

    def __init__(self, size: int, leaders: int, identities: Sequence[tuple[Path, Path]], authorities: Path) -> None:
        """Plan the processes.

        Args:
            size: of the model, bytes.
            leaders: how many of them merge a part each: all of them, or 1.
            identities: certificate and key of each.
            authorities: the certificates that issued all of them, PEM.
        """
        self._parts = [
            Part(
                index=index,
                processes=len(identities),
                size=size,
                leaders=leaders,
                certificate=str(certificate),
                key=str(key),
                authorities=str(authorities),
            )
            for index, (certificate, key) in enumerate(identities)
        ]
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """Start the processes and connect them with each other.

        Raises:
            Broken: one of them failed.
        """
        try:
            for part in self._parts:
                argv = [sys.executable, "-P", "-c", _PROGRAM, msgspec.json.encode(part).decode()]
                self._processes.append(
                    subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
                )
            ports = " ".join(self._hear(process) for process in self._processes)
            self._tell(ports)
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def measure(self) -> float:
        """Move a round's bytes; returns the seconds from the first beginning to the last end.

        Raises:
            Broken: a process failed.
        """
        begun = time.perf_counter()
        self._tell("go")
        self._wait()
        return time.perf_counter() - begun

    def _tell(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def _hear(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise Broken("a process of the floor failed; what it printed stands above")
        return line

    def _wait(self) -> None:
        for process in self._processes:
            self._hear(process)


def work(told: str) -> None:
    """One of the processes: reads the others' ports and then `go` a round from stdin, answers each with a line."""
    part = msgspec.json.decode(told, type=Part)
    me = _Member(part)
    print(me.listen(), flush=True)
    me.connect([int(port) for port in sys.stdin.readline().split()])
    print("connected", flush=True)
    for _ in sys.stdin:
        me.round()
        print("done", flush=True)
    os._exit(0)  # threads wait in sockets


class _Member:
    """One process's part: it leads `[low, high)` of the model if it is one of the leaders."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._model = np.ones(part.size // 4, np.float32)
        self._merged = np.zeros_like(self._model)
        self._inputs = {other: np.zeros(self._range(part.index)[1], np.float32) for other in self._others}
        self._rounds = 0
        """How many rounds we have merged."""
        self._merging = threading.Condition()
        self._server = _context(part, ssl.PROTOCOL_TLS_SERVER)
        self._client = _context(part, ssl.PROTOCOL_TLS_CLIENT)
        self._connections: dict[int, ssl.SSLSocket] = {}

    @property
    def _others(self) -> list[int]:
        return [other for other in range(self._part.processes) if other != self._part.index]

    def _range(self, index: int) -> tuple[int, int]:
        """First element and number of elements that a process leads."""
        if index >= self._part.leaders:
            return 0, 0
        bounds = np.linspace(0, len(self._model), self._part.leaders + 1).astype(int)
        return int(bounds[index]), int(bounds[index + 1] - bounds[index])

    def _bytes(self, array: Array, index: int) -> memoryview:
        start, count = self._range(index)
        return _view(array[start : start + count])

    def listen(self) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            accepted, _ = listener.accept()
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with self._server.wrap_socket(accepted, server_side=True) as connection:
            other = connection.recv(1)[0]
            asked = 0
            while kind := connection.recv(1):
                if kind == _FETCH:
                    _send(connection, self._bytes(self._model, other))
                else:
                    asked += 1
                    self._wait_merged(asked)
                    _send(connection, self._bytes(self._merged, self._part.index))

    def _wait_merged(self, rounds: int) -> None:
        with self._merging:
            self._merging.wait_for(lambda: self._rounds >= rounds, WAIT_S)

    def connect(self, ports: Sequence[int]) -> None:
        for other in self._others:
            plain = socket.create_connection(("127.0.0.1", ports[other]), WAIT_S)
            self._connections[other] = self._client.wrap_socket(plain)
            self._connections[other].sendall(bytes([self._part.index]))

    def round(self) -> None:
        """Fetch the others' parts of what we lead, merge, and fetch what they have merged."""
        start, count = self._range(self._part.index)
        if count:
            self._each(self._others, lambda other: (_FETCH, _view(self._inputs[other])))
            mine = self._merged[start : start + count]
            step = PIECE_BYTES // 4
            for at in range(0, count, step):
                piece = mine[at : at + step]
                piece[...] = self._model[start + at : start + at + len(piece)]
                for other in self._others:
                    piece += self._inputs[other][at : at + step]
                piece /= self._part.processes
        with self._merging:
            self._rounds += 1
            self._merging.notify_all()
        leaders = [other for other in self._others if self._range(other)[1]]
        self._each(leaders, lambda other: (_SERVE, self._bytes(self._merged, other)))

    def _each(self, others: Sequence[int], what: Callable[[int], tuple[bytes, memoryview]]) -> None:
        threads = [threading.Thread(target=_fetch, args=(self._connections[o], *what(o))) for o in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _view(array: Array) -> memoryview:
    return memoryview(array.view(np.uint8).data)


def _send(connection: ssl.SSLSocket, data: memoryview) -> None:
    for at in range(0, len(data), PIECE_BYTES):
        connection.sendall(data[at : at + PIECE_BYTES])


def _fetch(connection: ssl.SSLSocket, kind: bytes, into: memoryview) -> None:
    connection.sendall(kind)
    filled = 0
    while filled < len(into):
        received = connection.recv_into(into[filled:])
        if not received:
            os._exit(1)  # the other has failed and said why
        filled += received


def _context(part: Part, kind: int) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # loopback; who may talk is checked by the authorities below
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(part.authorities)
    context.load_cert_chain(part.certificate, part.key)
    return context
